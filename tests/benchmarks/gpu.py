"""Point 9: everything that only a GPU can show, in one command and under ten minutes.

``python tests/benchmarks/gpu.py --root DATA`` trains ResNet-18 on CIFAR-10 (data on the device, bf16, channels_last,
the long trainings compiled, a one-cycle schedule), retrains it, unlearns it with every method, audits all of them,
times a step against a bare loop and ensembles against one model after another, and prints the tables. ``--small``
does the same with a few noise images and narrow networks, on the CPU too: that shows that it runs, and nothing else.
"""

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # where pytest finds the benchmarks' own modules

import lightning as L
import numpy as np
import torch
from benchmarks.bare import reference_kl_epoch
from benchmarks.material import cifar_like, mnist_like
from benchmarks.measuring import AlternatingEpochs, Table, take_turns
from torch import Tensor, nn

from lightning_unlearn import (
    WGAN,
    Backdoor,
    CFk,
    Classifier,
    EUk,
    MembershipInference,
    MethodRun,
    RandomK,
    RandomTopK,
    ReferenceKL,
    SourceRun,
    TopK,
    UnlearningDataModule,
    UnlearningDegree,
    compare,
)
from lightning_unlearn.core.peak_memory import peak_memory
from lightning_unlearn.data import CIFAR10, PatchTrigger, Poison, TensorData
from lightning_unlearn.ensembles import Member, Recipe, Runtime, train_ensemble
from lightning_unlearn.models import LeNet5, ResNet8, ResNet18
from lightning_unlearn.reports import render_text

POINT = 9


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    width: int
    epochs: int
    batch_size: int
    forgotten: int
    method_epochs: int
    reference_epochs: int
    generator_epochs: int
    step_samples: int
    step_epochs: int
    models: int
    model_samples: int
    rounds: int


FULL = Scale(64, 18, 512, 500, 5, 20, 20, 6_400, 7, 32, 5_000, 5)
SMALL = Scale(4, 1, 64, 40, 1, 1, 1, 128, 3, 2, 64, 1)


@dataclass(frozen=True)
class ChannelsLast:
    """Lay images out as convolutions in half precision are fastest; in the data, since vmap cannot do it in a model."""

    transform: Callable[[Tensor], Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.transform(inputs).contiguous(memory_format=torch.channels_last)


class OneCycle(Classifier):
    """A classifier in channels_last, trained by SGD under a one-cycle schedule that is stepped every batch.

    Args:
        net: The network.
        steps: Length of the schedule.
        compiled: Whether to compile the network. A method's copy of it is not: its few steps would not pay for that.
    """

    def __init__(self, net: nn.Module, steps: int, *, compiled: bool = False) -> None:
        super().__init__(net.to(memory_format=torch.channels_last), label_smoothing=0.1)  # type: ignore[call-overload]
        self.steps = steps
        if compiled:
            self.net.compile()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.4, total_steps=self.steps, pct_start=0.3
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def images(root: Path | None, small: bool) -> tuple[TensorData, TensorData]:
    """Return the training and the test set: CIFAR-10 from a folder or an .npz of arrays, or noise."""
    if small:
        return cifar_like(400), cifar_like(160)
    assert root is not None
    template = cifar_like(1)
    if root.suffix == ".npz":
        arrays = np.load(root)
        return tuple(  # type: ignore[return-value]
            TensorData(
                torch.from_numpy(arrays[f"x_{part}"]).permute(0, 3, 1, 2).contiguous(),
                torch.from_numpy(arrays[f"y_{part}"]).long(),
                num_classes=10,
                transform=template.transform,
                augment=template.augment,
            )
            for part in ("train", "test")
        )
    data = CIFAR10(root)
    data.setup("fit")
    return data.train_data, data.test_data  # type: ignore[return-value]


def methods(scale: Scale) -> list[MethodRun]:
    """Return every method over the forget set where it offers that; recipes are the papers', not tuned here."""
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    slow = partial(torch.optim.Adam, lr=1e-4, fused=True)
    epochs = {"max_epochs": scale.method_epochs}
    builders: list[Callable[[nn.Module], Any]] = [
        partial(ReferenceKL, reference_fraction=0.1, reference_epochs=scale.reference_epochs, optimizer=adam),
        partial(TopK, k=45, epoch="forget", optimizer=adam),
        partial(RandomK, epoch="forget", optimizer=adam),
        partial(RandomTopK, epoch="forget", optimizer=adam),
        partial(EUk, k=5, optimizer=adam),
        partial(CFk, k=5, optimizer=slow),
        partial(WGAN, optimizer=slow),
    ]
    names = ("reference_kl", "top_k", "random_k", "random_top_k", "eu_k", "cf_k", "wgan")
    return [MethodRun(build, name, epochs) for build, name in zip(builders, names, strict=True)]


def compare_methods(
    scale: Scale,
    train: TensorData,
    test: TensorData,
    table: Table,
    *,
    accelerator: str,
    compiled: bool,
    small: bool,
) -> tuple[str, bool]:
    """Run the comparison, add its figures to the table, and return its own and whether a part failed."""
    steps = scale.epochs * -(-len(train) // scale.batch_size)
    precision = "bf16-mixed" if accelerator == "cuda" else "32-true"

    def source() -> L.LightningModule:
        return OneCycle(ResNet18(width=scale.width), steps, compiled=compiled)

    def data() -> UnlearningDataModule:
        return UnlearningDataModule(
            train,
            scale.forgotten / len(train),
            test_dataset=test,
            backdoor=Poison(PatchTrigger()),
            batch_size=scale.batch_size,
        )

    with tempfile.TemporaryDirectory() as folder:
        comparison = compare(
            SourceRun(source, {"max_epochs": scale.epochs}),
            data,
            methods(scale),
            [
                MembershipInference,
                Backdoor,
                partial(UnlearningDegree, epochs=scale.generator_epochs, least_steps=0),
            ],
            seeds=1,
            trainer={"accelerator": accelerator, "devices": 1, "precision": precision},
            output_dir=folder,
            quiet=small,
        )
    models: Any = comparison.report["models"]
    accuracy = 100 * models["retrain"]["accuracy/test"]["mean"]
    seconds = f"{models['retrain']['time/total_s']['mean']:.3g} s"
    if small:
        table.note(POINT, "Retrain's test accuracy", accuracy, seconds, " %")
    else:
        table.at_least(POINT, "Retrain's test accuracy", accuracy, 93, seconds, " %")
    for name in (run.label for run in methods(scale)):
        if "acceleration" not in models.get(name, {}):
            continue
        value, total, fnr = (
            models[name][metric]["mean"]
            for metric in ("acceleration", "time/total_s", "membership_inference/fnr")
        )
        what = f"{name} against retraining, all preparation counted"
        detail = f"{total:.3g} s; false negatives of membership inference {fnr:.0%}"
        if name in ("reference_kl", "top_k", "wgan") and not small:
            table.at_least(POINT, what, value, 15, detail, " x")
        else:
            table.note(POINT, what, value, detail, " x")
    return render_text(comparison.report), comparison.failed


def time_steps(
    scale: Scale, train: TensorData, table: Table, *, device: torch.device, clock: Callable[[], float]
) -> None:
    """Add ReferenceKL's epoch through Trainer.fit against a bare loop over tensors on the device."""
    plain = TensorData(train.inputs, train.targets, num_classes=10, transform=train.transform)
    data = UnlearningDataModule(plain, scale.step_samples / len(plain), batch_size=128)
    data.setup("fit")
    net = ResNet18(width=scale.width)
    dtype = torch.bfloat16 if device.type == "cuda" else None
    bare = reference_kl_epoch(
        copy.deepcopy(net), copy.deepcopy(net), data, 0.01, 128, device=device, dtype=dtype
    )
    alternating = AlternatingEpochs({"bare": bare}, clock=clock)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator=device.type,
            devices=1,
            precision="32-true" if dtype is None else "bf16-mixed",
            max_epochs=scale.step_epochs,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[alternating],
        )
        trainer.fit(ReferenceKL(net, 0.01, copy.deepcopy(net)), data)
    turns = alternating.turns
    table.note(
        POINT,
        "ReferenceKL's epoch on ResNet-18, Trainer.fit ÷ bare loop",
        turns.ratio("fit", "bare"),
        turns.spread("fit", "bare"),
    )


def time_ensembles(scale: Scale, table: Table, *, accelerator: str, clock: Callable[[], float]) -> None:
    """Add K models trained at once against the same one after another."""
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    runtime = Runtime(trainer)
    for build, data in (
        (LeNet5, mnist_like(scale.model_samples)),
        (ResNet8, cifar_like(scale.model_samples)),
    ):
        recipe = Recipe(
            build, epochs=2, batch_size=128, optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9)
        )
        members = [Member(torch.arange(len(data)), seed) for seed in range(scale.models)]
        arms = {
            way: partial(train_ensemble, recipe, data, members, runtime=runtime, way=way)
            for way in ("auto", "sequential")
        }
        turns = take_turns(arms, rounds=scale.rounds, clock=clock)
        how = train_ensemble(recipe, data, members, runtime=runtime).way
        table.note(
            POINT,
            f"{scale.models} models of {build.__name__}, one after another ÷ at once",
            turns.ratio("sequential", "auto"),
            f"{how}; {turns.spread('sequential', 'auto')}",
            " x",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all of it and print the tables; the status is 1 if a method failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, help="folder with cifar-10-batches-py, or an .npz of x_train, y_train, ..."
    )
    parser.add_argument(
        "--small", action="store_true", help="a few noise images and narrow networks, on the CPU too"
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="do not compile the source's and Retrain's network"
    )
    chosen = parser.parse_args(arguments)
    if chosen.root is None and not chosen.small:
        parser.error("--root is needed: the folder of CIFAR-10; or --small for a trial without data")
    if not torch.cuda.is_available() and not chosen.small:
        parser.error("there is no GPU here; --small runs the same on the CPU")
    device = torch.device("cpu" if chosen.small else "cuda")
    compiled = device.type == "cuda" and not chosen.no_compile

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start, table = time.perf_counter(), Table()
    scale = SMALL if chosen.small else FULL
    L.seed_everything(0, verbose=False)
    train, test = images(chosen.root, chosen.small)
    for part in (train, test):
        assert part.transform is not None
        part.transform = ChannelsLast(part.transform)
    text, failed = compare_methods(
        scale, train, test, table, accelerator=device.type, compiled=compiled, small=chosen.small
    )
    for name, mib in peak_memory(device).items():
        table.note(
            POINT, f"peak memory of the comparison, {name.split('/')[1].split('_')[0]}", mib, unit=" MiB"
        )
    time_steps(scale, train, table, device=device, clock=clock)
    time_ensembles(scale, table, accelerator=device.type, clock=clock)
    minutes = (time.perf_counter() - start) / 60
    if chosen.small:
        table.note(
            POINT, "the whole command", minutes, "a trial: none of these figures means anything", " min"
        )
    else:
        table.at_most(POINT, "the whole command", minutes, 10, torch.cuda.get_device_name(), " min")
    print(text, *table.lines(), sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
