"""Point 8: what peers do, by their own loops: accuracy and AUC by one evaluator, and the ratio of CPU time.

Taken is what is installed, and the rest is skipped by name: torchunlearn's repository (PyPI's 0.1.0 has no method), and
``pip install --no-deps supreme-unlearning``, which asks for torch 2.1. Each is called as its documentation says, at the
learning rate that fine-tuning has here, for as many passes over the retain set.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from benchmarks.material import mnist_like, seeded_lenet
from benchmarks.measuring import Table, Turns
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.functional.membership import auc
from lightning_unlearn.methods import SCRUB, FineTune, Retrain, UnlearningModule

TRAIN, FORGOTTEN, BATCH, PASSES, SOURCE_EPOCHS = 1_200, 120, 64, 5, 15
REPOSITORY = "https://github.com/Harry24k/machine-unlearning-pytorch"

sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=5e-4)

Loaders = Mapping[str, DataLoader[Any]]
Peer = Callable[[nn.Module, Loaders], Callable[[], nn.Module]]
"""Given a source and its loaders, what unlearns a copy of it."""


class PILDigits(Dataset[Any]):
    """Digits as torchvision's MNIST serves them; with their places in between, as supreme-unlearning has them."""

    def __init__(self, data: TensorData, positions: Any, *, places: bool) -> None:
        chosen = torch.as_tensor(positions)
        self.images = data.inputs[chosen, 0].numpy()
        self.targets = data.targets[chosen].tolist()
        self.places = places
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image, target = self.transform(Image.fromarray(self.images[index])), self.targets[index]
        return (image, index, target) if self.places else (image, target)


def bare_fine_tune(source: nn.Module, loaders: Loaders) -> Callable[[], nn.Module]:
    def run() -> nn.Module:
        model = copy.deepcopy(source).train()
        optimizer = sgd(model.parameters())
        for _ in range(PASSES):
            for inputs, targets in loaders["Retain"]:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
        return model

    return run


def torchunlearn(method: str, streams: tuple[str, ...]) -> Peer:
    def peer(source: nn.Module, loaders: Loaders) -> Callable[[], nn.Module]:
        library = pytest.importorskip("torchunlearn", exc_type=ImportError)
        if not hasattr(
            library, method
        ):  # PyPI's release lacks the methods, and the repository is no package to depend on
            pytest.skip(f"the installed torchunlearn has no {method}; {REPOSITORY} has")
        from torchunlearn.utils.data import MergedLoaders

        def run() -> nn.Module:
            model = copy.deepcopy(source)
            trainer = getattr(library, method)(library.RobModel(model, n_classes=10))
            trainer.setup(optimizer="SGD(lr=0.02, momentum=0.9, weight_decay=5e-4)", n_epochs=PASSES)
            trainer.fit(MergedLoaders({name: loaders[name] for name in streams}), n_epochs=PASSES)
            return model

        return run

    return peer


def supreme(method: str, **settings: Any) -> Peer:
    def peer(source: nn.Module, loaders: Loaders) -> Callable[[], nn.Module]:
        name = f"supreme.methods.unlearning_methods.{method}"
        module = pytest.importorskip(name, exc_type=ImportError)
        fabric = L.Fabric(accelerator="cpu", devices=1)

        def run() -> nn.Module:
            return getattr(module, method)(  # type: ignore[no-any-return]
                fabric=fabric,
                num_gpus=0,
                wandb_logging_flag=False,
                model=copy.deepcopy(source),
                retain_train_dataloader=loaders["Retain"],
                retain_test_dataloader=loaders[
                    "Few"
                ],  # it validates after each pass: here as little as can be
                forget_train_dataloader=loaders["Forget"],
                **settings,
            )

        return run

    return peer


PEERS: dict[str, tuple[str, Peer, bool]] = {
    "FineTune, a bare loop": ("FineTune", bare_fine_tune, False),
    "FineTune, torchunlearn": ("FineTune", torchunlearn("Finetune", ("Retain",)), False),
    "FineTune, supreme-unlearning": ("FineTune", supreme("finetune"), True),
    # its ascent has no bound, and ends at chance or in NaN
    "SCRUB, torchunlearn": ("SCRUB", torchunlearn("SCRUB", ("Retain", "Forget")), False),
    "SCRUB, supreme-unlearning": ("SCRUB", supreme("scrub", sgda_epochs=PASSES), True),
}


def ours(method: Callable[[], UnlearningModule], data: UnlearningDataModule, epochs: int) -> nn.Module:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    made = method()
    L.Trainer(accelerator="cpu", max_epochs=epochs, limit_val_batches=0, **dict.fromkeys(off, False)).fit(
        made, data
    )
    return made.model


@torch.no_grad()
def judged(model: nn.Module, data: UnlearningDataModule, test: TensorData) -> str:
    """Return the accuracies on D_f, D_r and the test set, and how well the loss tells D_f from the test set."""
    train, model = data.inner, model.eval()
    assert isinstance(train, TensorData)
    sets = [train.batch(torch.as_tensor(places)) for places in (data.split.forget, data.split.retain)]
    sets.append(test.batch(torch.arange(len(test))))
    answers: list[Tensor] = [model(inputs) for inputs, _ in sets]
    if not all(bool(logits.isfinite().all()) for logits in answers):
        return "not finite"
    right = [
        float((logits.argmax(1) == targets).float().mean())
        for logits, (_, targets) in zip(answers, sets, strict=True)
    ]
    losses = [
        F.cross_entropy(logits, targets, reduction="none")
        for logits, (_, targets) in zip(answers, sets, strict=True)
    ]
    return " ".join(f"{100 * value:.1f}" for value in right) + f" {auc(-losses[0], -losses[2]):.3f}"


@pytest.mark.parametrize("name", PEERS)
def test_the_same_job(name: str, interleave: Callable[..., Turns], table: Table) -> None:
    method, peer, places = PEERS[name]
    digits = mnist_like(1_797)
    train, test = digits.subset(torch.arange(TRAIN)), digits.subset(torch.arange(TRAIN, 1_797))
    data = UnlearningDataModule(train, list(range(FORGOTTEN)), batch_size=BATCH)
    data.setup("fit")
    none = UnlearningDataModule(train, [TRAIN - 1], batch_size=BATCH)
    L.seed_everything(0, verbose=False)
    source = ours(lambda: Retrain(seeded_lenet(), optimizer=sgd), none, SOURCE_EPOCHS)
    retrained = ours(lambda: Retrain(source, optimizer=sgd), data, SOURCE_EPOCHS)
    sets = {"Retain": data.split.retain, "Forget": data.split.forget, "Few": data.split.forget[:BATCH]}
    loaders = {
        key: DataLoader(PILDigits(train, positions, places=places), BATCH, shuffle=True)
        for key, positions in sets.items()
    }
    models: dict[str, nn.Module] = {}
    run = peer(source, loaders)
    made, epochs = (
        (partial(FineTune, source, optimizer=sgd), PASSES)
        if method == "FineTune"
        else (partial(SCRUB, source), PASSES + 2)
    )  # two of them over D_f
    turns = interleave(
        {
            "theirs": lambda: models.update(theirs=run()),
            "ours": lambda: models.update(ours=ours(made, data, epochs)),
        }
    )
    models |= {"source": source, "retrained": retrained}
    found = "; ".join(f"{each} {judged(model, data, test)}" for each, model in sorted(models.items()))
    assert table.at_least(
        8,
        f"{name} over PIL images ÷ ours, CPU time",
        turns.ratio("theirs", "ours"),
        1,
        f"{turns.median('theirs'):.3g} / {turns.median('ours'):.3g} s; {turns.spread('theirs', 'ours')}; accuracy on "
        f"D_f, D_r, test, and AUC: {found}",
    )
