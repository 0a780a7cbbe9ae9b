"""Everything that only a GPU can show, in one command of less than ten minutes.

``python tests/benchmarks/gpu.py --data cifar10-jpeg.npz --out DIR`` tries the library on the GPU, trains ResNet-18 on
CIFAR-10 (data on the device, bf16, channels_last, compiled, a one-cycle schedule), retrains it, unlearns it with every
method, times steps against bare loops and many models at once against one after another. ``results.json`` and
``results.md`` are written after each part; what fails is noted there with its traceback, and the others go on.
``--quick`` does the same with few images and narrow networks, on the CPU too: that shows that it runs, nothing else.
"""

import argparse
import copy
import io
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # where pytest finds the benchmarks' own modules

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.bare import METHODS, beside
from benchmarks.material import mnist_like
from benchmarks.measuring import AlternatingEpochs
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from PIL import Image
from torch import Tensor, nn

from lightning_unlearn import Classifier, MethodRun, SourceRun, UnlearningDataModule, callbacks, compare
from lightning_unlearn import methods as unlearn
from lightning_unlearn.comparison.fast import faster, why
from lightning_unlearn.comparison.pipeline import FinishedModel
from lightning_unlearn.comparison.trainers import DEFAULTS, built, keeper
from lightning_unlearn.core.peak_memory import peak_memory, reset_peak_memory
from lightning_unlearn.data import Adapter, PatchTrigger, Poison, TensorData
from lightning_unlearn.data.datamodule import batches_of
from lightning_unlearn.data.transforms import Normalize, RandomCropFlip
from lightning_unlearn.ensembles import Member, Recipe, Runtime, predict, train_ensemble
from lightning_unlearn.functional.membership import auc
from lightning_unlearn.methods.base.export import write_export
from lightning_unlearn.methods.base.statistics import _WHOLE, normalised_alike
from lightning_unlearn.models import LeNet5, ResNet18
from lightning_unlearn.models.statistics import running_layers

# On a CPU oneDNN writes beyond its memory where a narrow network is laid out so (uxlfoundation/oneDNN#6035).
LAYOUT = torch.channels_last if torch.cuda.is_available() else torch.contiguous_format


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    train: int
    test: int
    width: int
    source_batch: int
    batch: int  # of the methods
    forget_batch: int
    epochs: tuple[int, int]  # of the source, at least and at most
    seconds: float  # that the source may take
    fast: float  # that a fast method may take
    step_forgotten: int
    models: int
    model_samples: int
    checked: int  # images of the checks
    checked_width: int


FULL = Scale(50_000, 10_000, 64, 1_000, 500, 125, (8, 60), 50, 1.8, 2_500, 64, 5_000, 4_000, 16)
QUICK = Scale(200, 100, 4, 50, 50, 20, (2, 2), 5, 0.3, 60, 3, 128, 200, 4)


@dataclass(frozen=True)
class ChannelsLast:
    """Lay images out as convolutions in half precision are fastest; in the data, since vmap cannot do it in a model."""

    transform: Callable[[Tensor], Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.transform(inputs).contiguous(memory_format=LAYOUT)


@dataclass(frozen=True)
class CropFlipCutout:
    """Shift and mirror images, and blacken a square of each."""

    side: int = 8

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        inputs = RandomCropFlip(padding=4, flip=True)(inputs, generator)
        count, _, height, width = inputs.shape
        corners = torch.randint(1 - self.side, height, (2, count, 1), generator=generator).to(inputs.device)
        from_corner = [
            torch.arange(n, device=inputs.device) - at for n, at in zip((height, width), corners, strict=True)
        ]
        rows, columns = ((places >= 0) & (places < self.side) for places in from_corner)
        return inputs.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


class OneCycle(Classifier):
    """A classifier in channels_last, trained by SGD under a one-cycle schedule that is stepped every batch."""

    def __init__(self, width: int = 64, steps: int = 1000, fused: bool = False) -> None:
        super().__init__(ResNet18(width=width).to(memory_format=LAYOUT), label_smoothing=0.1)
        self.save_hyperparameters()
        self.steps = steps
        self.fused = fused

    def configure_optimizers(self) -> Any:
        optimizer = sgd(self.fused)(self.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.6, total_steps=self.steps + 1, pct_start=0.25, anneal_strategy="linear"
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def sgd(fused: bool, lr: float = 0.1) -> Any:
    return partial(torch.optim.SGD, lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=fused)


def images(file: Path, scale: Scale) -> tuple[TensorData, TensorData]:
    """Decode the training and the test images on all cores, as uint8 in memory."""
    archive = np.load(file)

    def part(split: str, count: int) -> TensorData:
        blob, ends = archive[f"{split}_jpeg"].tobytes(), archive[f"{split}_end"][:count]
        parts = [blob[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        with ThreadPoolExecutor() as pool:
            decoded = list(
                pool.map(lambda one: np.asarray(Image.open(io.BytesIO(one)).convert("RGB")), parts)
            )
        return TensorData(
            torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(archive[f"{split}_label"][:count].astype(np.int64)),
            num_classes=10,
            transform=ChannelsLast(Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
            augment=CropFlipCutout(),
        )

    return part("train", scale.train), part("test", scale.test)


@dataclass
class Bench:
    """What the parts share, and what they found."""

    scale: Scale
    folder: Path
    work: Path
    budget: float
    quick: bool
    train: TensorData
    test: TensorData
    start: float = field(default_factory=time.perf_counter)
    results: dict[str, Any] = field(default_factory=lambda: {"parts": {}})
    source: OneCycle | None = None  # not compiled
    retrain_s: float = 0.0
    step_s: float = 0.1  # of a training step in batches of the methods' size
    source_step_s: float = 1.0
    compiling: bool = False
    only: str = ""

    def __post_init__(self) -> None:
        self.accelerator = "cpu" if self.quick and not torch.cuda.is_available() else "cuda"
        self.device = torch.device(self.accelerator)
        self.cuda = self.accelerator == "cuda"
        self.precision = "bf16-mixed" if self.cuda else "32-true"
        self.data = UnlearningDataModule(self.train, 0.1, test_dataset=self.test, batch_size=self.scale.batch)
        self.data.setup("fit")

    def clock(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def trainer(self, **own: Any) -> L.Trainer:
        chosen = {"accelerator": self.accelerator, "devices": 1, "precision": self.precision, "logger": False}
        return L.Trainer(**{**DEFAULTS, **chosen, "default_root_dir": self.work, **own})

    def run(self, parts: Sequence[tuple[str, float, Callable[["Bench", list[Any]], None]]]) -> None:
        """Run the parts in order, those left out that the budget has no time for."""
        for name, seconds, function in parts:
            begin = time.perf_counter()
            noted = self.results["parts"][name] = {"rows": [], "errors": {}, "seconds": 0.0}
            if begin - self.start + seconds * (not self.quick) > self.budget:
                noted["errors"]["skipped"] = f"no time: {seconds:.0f} s needed"
            else:
                try:
                    function(self, noted["rows"])
                except Exception as error:
                    self.failed(name, error)
            noted["seconds"] = time.perf_counter() - begin
            self.save()
            wrong = "".join(f"\n  {what}: {text.splitlines()[-1]}" for what, text in noted["errors"].items())
            print(f"{name}: {noted['seconds']:.1f} s{wrong}", flush=True)

    def failed(self, what: str, error: BaseException) -> None:
        trace = "".join(traceback.format_exception(error))
        list(self.results["parts"].values())[-1]["errors"][what] = trace

    def guarded(self, what: str, function: Callable[[], Any], rows: list[Any], unit: str = "") -> None:
        """Add what a function returns, a value or a value and its detail, or its traceback."""
        if self.only.lower() not in what.lower() and what != "source":  # from which others start
            return
        begin = self.clock()
        try:
            found = function()
        except Exception as error:
            self.failed(what, error)
            found = None, f"{type(error).__name__}: {error}"[:200]
        value, detail = found if isinstance(found, tuple) else (found, "")
        row = {"what": what, "value": value, "unit": unit, "detail": detail, "seconds": self.clock() - begin}
        rows.append(row)
        print("  " + json.dumps(row), flush=True)
        self.save()

    def save(self) -> None:
        self.results["total_seconds"] = time.perf_counter() - self.start
        (self.folder / "results.json").write_text(json.dumps(self.results, indent=1))
        (self.folder / "results.md").write_text("\n".join(markdown(self.results)) + "\n")


def markdown(results: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables, one a part."""
    for name, part in results["parts"].items():
        yield f"\n## {name}, {part['seconds']:.1f} s\n"
        columns = list(dict.fromkeys(key for row in part["rows"] for key in row))
        if columns:
            yield "| " + " | ".join(columns) + " |"
            yield "|" + " --- |" * len(columns)
        for row in part["rows"]:
            cells = [row.get(column, "") for column in columns]
            yield (
                "| "
                + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells)
                + " |"
            )
        for what, trace in part["errors"].items():
            yield f"\n{what} failed:\n\n```\n{trace}\n```"


# ---------------------------------------------------------------------- does the library work on a GPU


def facts(bench: Bench, rows: list[Any]) -> None:
    """Note what is measured on."""
    card = torch.cuda.get_device_name() if bench.cuda else "CPU"
    rows.append({"what": "device", "value": card, "detail": f"{torch.cuda.device_count()} of them"})
    rows += [
        {"what": name, "value": sys.modules[name].__version__} for name in ("torch", "lightning", "numpy")
    ]
    rows.append({"what": "threads", "value": torch.get_num_threads()})


def fast(bench: Bench, rows: list[Any]) -> None:
    """Train in what the switch ``fast`` chooses here and in what there is without it, in turns; compare with it."""
    scale = bench.scale
    train = bench.train.subset(np.arange(min(20 * scale.batch, len(bench.train))))
    train.transform = train.transform.transform  # type: ignore[union-attr]  # not channels_last by itself
    own = {"accelerator": bench.accelerator, "devices": 1, "max_epochs": 2}
    ways = {"plain": own, "fast": faster(own)}

    def split() -> UnlearningDataModule:
        return UnlearningDataModule(train, 0.1, test_dataset=bench.test, batch_size=scale.batch)

    def ratio() -> tuple[float, str]:
        seconds, right, data = {name: [] for name in ways}, {}, split()
        for _ in range(2 if bench.quick else 4):
            for name, arguments in ways.items():
                L.seed_everything(4, verbose=False)
                model = Classifier(ResNet18(width=scale.width))
                trainer = L.Trainer(
                    **{**DEFAULTS, "logger": False, "default_root_dir": bench.work, **built(arguments)}
                )
                begin = bench.clock()
                trainer.fit(model, data)
                seconds[name].append(bench.clock() - begin)
                told = predict(model.to(bench.device), data.loader("test", indexed=True), Runtime(trainer))
                right[name] = f"{100 * told.accuracy:.1f}%"
        times = {name: statistics.median(each[1:]) for name, each in seconds.items()}
        chosen = ways["fast"].get("precision", "32-true")
        return times["plain"] / times["fast"], f"{chosen}; seconds {times}; right on test {right}; {why(own)}"

    def compared() -> tuple[bool, str]:
        found = compare(
            SourceRun(lambda: Classifier(ResNet18(width=scale.checked_width)), {"max_epochs": 1}),
            split,
            [MethodRun(unlearn.FineTune, None, {"max_epochs": 1})],
            seeds=1,
            retrain_2=False,
            short_retrainings=[],
            trainer={"accelerator": bench.accelerator, "devices": 1},
            output_dir=bench.work / "fast",
            quiet=True,
            fast=True,
            page=False,
        )
        return not found.failed, str(found.report["failures"])

    bench.guarded("two epochs of ResNet-18 without and with fast", ratio, rows, "x")
    bench.guarded("compare with fast", compared, rows)


def checks(bench: Bench, rows: list[Any]) -> None:
    """Fit, measure, export, stack, compile and compare on the device, each by itself."""
    scale = bench.scale
    train, test = (
        bench.train.subset(np.arange(scale.checked)),
        bench.test.subset(np.arange(scale.checked // 2)),
    )
    build = partial(OneCycle, scale.checked_width, 2 * -(-scale.checked // 100), bench.cuda)

    def split(**own: Any) -> UnlearningDataModule:
        data = UnlearningDataModule(train, 0.1, test_dataset=test, batch_size=100, **own)
        data.setup("fit")
        return data

    def source(**own: Any) -> OneCycle:
        L.seed_everything(1, verbose=False)
        model = build()
        bench.trainer(max_epochs=2, precision="32-true", **own).fit(model, split())
        return model

    def exported(method: unlearn.UnlearningModule) -> float:
        """Return the largest difference of posteriors between the device and the export loaded on the CPU."""
        file = method.export(bench.work / "checked.ckpt")
        loaded = OneCycle.load_from_checkpoint(file, map_location="cpu").eval()
        inputs = test.batch(torch.arange(64))[0]
        method.model.eval().to(bench.device)
        with torch.no_grad():
            ours, theirs = method.model(inputs.to(bench.device)).cpu(), loaded(inputs)
        return float((ours.softmax(-1) - theirs.softmax(-1)).abs().max())

    def fit(precision: str, **own: Any) -> tuple[bool, str]:
        method = unlearn.NegGradPlus(known)
        trainer = bench.trainer(max_epochs=1, precision=precision, **own)
        trainer.fit(method, split())
        off = exported(method)
        device = next(known.parameters()).device.type
        return off < 2e-3 and device == "cpu", f"export on the CPU differs by {off:.1e}; source on {device}"

    def validated() -> tuple[bool, str]:
        trainer = bench.trainer(max_epochs=1, limit_val_batches=1.0)
        trainer.fit(unlearn.FineTune(known), split())
        curves = [key for key in trainer.callback_metrics if "accuracy" in key]
        return bool(curves), ", ".join(sorted(curves))

    def evaluators() -> tuple[bool, str]:
        looking = [
            callbacks.MembershipInference(),
            callbacks.ForgettingMetrics(),
            callbacks.Backdoor(),
            callbacks.UnlearningDegree(epochs=1, least_steps=0),
            callbacks.LinearProbe(),
            callbacks.RelearnTime(),
            callbacks.PopulationAttack(),
        ]
        for each in looking:
            each.dirpath = bench.work / "evaluation"
        trainer = bench.trainer(max_epochs=1, callbacks=looking)
        trainer.fit(unlearn.FineTune(known), split(backdoor=Poison(PatchTrigger())))
        errors = [
            f"{file.stem}: {error}"
            for file in sorted((bench.work / "evaluation").glob("*.json"))
            if (error := json.loads(file.read_text()).get("error"))
        ]
        scores = {key: float(value) for key, value in trainer.callback_metrics.items() if "/" in key}
        return not errors, f"{len(scores)} scores; {errors}"

    def restored() -> tuple[bool, str]:
        """An audit leaves the random state, the mode and the place of the model as they were."""
        model = copy.deepcopy(known).train()
        states = torch.get_rng_state(), torch.cuda.get_rng_state() if bench.cuda else None
        finished = FinishedModel(model)
        bench.trainer(callbacks=[callbacks.MembershipInference()], limit_test_batches=1).test(
            finished, split(), verbose=False
        )
        same = torch.equal(states[0], torch.get_rng_state())
        same_there = states[1] is None or torch.equal(states[1], torch.cuda.get_rng_state())
        return (
            same and same_there and model.training,
            f"CPU {same}, GPU {same_there}, training {model.training}",
        )

    def resumed() -> tuple[bool, str]:
        def fitted(**fit: Any) -> dict[str, nn.Parameter]:
            L.seed_everything(3, verbose=False)
            method = unlearn.NegGradPlus(known)
            own = {"precision": "32-true", "deterministic": "warn", "enable_checkpointing": True}
            keeping = ModelCheckpoint(bench.work / "stopped", "{epoch}", save_top_k=-1)
            bench.trainer(max_epochs=2, callbacks=[keeping], **own).fit(method, split(), **fit)
            return dict(method.model.named_parameters())

        whole = fitted()
        again = fitted(ckpt_path=bench.work / "stopped" / "epoch=0.ckpt")
        off = max(float((a.cpu() - again[name].cpu()).abs().max()) for name, a in whole.items())
        return off < 1e-3, f"weights differ by {off:.1e}"

    def compiled() -> tuple[bool, str]:
        model = copy.deepcopy(known)
        model.net.compile(dynamic=False)
        method = unlearn.FineTune(model)
        bench.trainer(max_epochs=1).fit(method, split())
        other = unlearn.FineTune(known)
        other.model.net.compile(dynamic=False)
        bench.trainer(max_epochs=1).fit(other, split())
        off = exported(method), exported(other)
        return max(off) < 2e-3, f"source compiled: {off[0]:.1e}; method's copy compiled: {off[1]:.1e}"

    def compared() -> tuple[bool, str]:
        found = compare(
            SourceRun(build, {"max_epochs": 2}, keep_every=1),
            split,
            [
                MethodRun(unlearn.Rewind, None, {"max_epochs": 1}),
                MethodRun(unlearn.SSD, None, {"max_epochs": 0}),
            ],
            [callbacks.MembershipInference],
            seeds=1,
            trainer={"accelerator": bench.accelerator, "devices": 1, "precision": bench.precision},
            output_dir=bench.work / "compare",
            quiet=True,
        )
        return not found.failed, str(found.report["failures"])

    def one_epoch(method: str) -> Callable[[], tuple[bool, str]]:
        def run() -> tuple[bool, str]:
            built = getattr(unlearn, method)(known)
            bench.trainer(max_epochs=0 if built.one_shot else 1, precision="16-mixed").fit(built, split())
            off = exported(built)
            return off < 2e-3, f"export on the CPU differs by {off:.1e}"

        return run

    known = source()
    bench.guarded("source on the device, deterministic", lambda: bool(source(deterministic="warn")), rows)
    for precision in ("32-true", "bf16-mixed", "16-mixed") if bench.cuda else ("32-true", "bf16-mixed"):
        bench.guarded(f"fit and export, {precision}", partial(fit, precision), rows)
    bench.guarded(
        "fit with torch.set_float32_matmul_precision('high')", lambda: _tf32(partial(fit, "32-true")), rows
    )
    bench.guarded("validation every epoch", validated, rows)
    bench.guarded("evaluators", evaluators, rows)
    bench.guarded("audit leaves random state and mode", restored, rows)
    bench.guarded("resume", resumed, rows)
    bench.guarded("two sets in one pass, against the CPU", partial(_one_pass, bench), rows)
    bench.guarded("ensembles, stacked against sequential", partial(_ensembles_equal, bench), rows)
    bench.guarded("compare", compared, rows)
    if bench.cuda:
        for name in ("Influence", "SSD", "TaskNegation", "WGAN", "TopK", "MSG", "SCRUB", "BoundaryShrink"):
            bench.guarded(f"{name}, 16-mixed", one_epoch(name), rows)
        bench.guarded("torch.compile", compiled, rows)


def _one_pass(bench: Bench) -> tuple[bool, str]:
    """Compare two sets in one pass through batch normalisation with the same on the CPU, in float64."""
    told, right = [], True
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(5)
        nets = [ResNet18(width=8).double().to(memory_format=layout).train() for _ in range(2)]
        nets[1].load_state_dict(nets[0].state_dict())
        batches = [s * torch.randn(n, 3, 32, 32).double() + s for s, n in ((2, 10), (1, 24))]
        found = []
        for net, device in zip(nets, (bench.device, torch.device("cpu")), strict=True):
            net.to(device)
            layers = list(running_layers(net).values())
            inputs = [batch.to(device, memory_format=layout) for batch in batches]
            logits = torch.cat(normalised_alike(net, Adapter(), inputs, layers, single=False))
            logits.sin().sum().backward()
            right &= _WHOLE[net]  # or there were two passes
            moved = (buffer for layer in layers for buffer in (layer.running_mean, layer.running_var))
            found.append([logits, *(p.grad for p in net.parameters()), *moved])
        off = max(float((a.detach().cpu() - b.detach()).abs().max()) for a, b in zip(*found, strict=True))
        right &= off < 1e-8
        told.append(f"{layout}: {off:.1e}")
    return right, "; ".join(told)


def _tf32(fit: Callable[[], tuple[bool, str]]) -> tuple[bool, str]:
    torch.set_float32_matmul_precision("high")
    try:
        return fit()
    finally:
        torch.set_float32_matmul_precision("highest")


def _ensembles_equal(bench: Bench) -> tuple[bool, str]:
    """Few steps in float64, which leaves nothing but an error."""
    data = mnist_like(64)
    recipe = Recipe(
        lambda: LeNet5().double(), epochs=2, batch_size=32, optimizer=partial(torch.optim.SGD, lr=0.01)
    )
    data.transform = Doubled(data.transform)
    members = [Member(torch.arange(64), seed) for seed in range(3)]
    runtime = Runtime(bench.trainer(precision="32-true"))
    stacked, plain = (
        train_ensemble(recipe, data, members, runtime=runtime, way=way) for way in ("stacked", "sequential")
    )
    off = max(float((value - plain.states[name]).abs().max()) for name, value in stacked.states.items())
    return off < 1e-8 and stacked.way == "stacked", f"{stacked.way}: float64 weights differ by {off:.1e}"


@dataclass(frozen=True)
class Doubled:
    transform: Callable[[Tensor], Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.transform(inputs).double()


# ---------------------------------------------------------------------- source, retrained model, methods


def audit(bench: Bench, file: Path) -> dict[str, float]:
    """Ask an exported model, loaded into its own class, about whom it forgot and whom not."""
    model = OneCycle.load_from_checkpoint(file, map_location=bench.device)
    bench.data.trainer = trainer = bench.trainer(precision="32-true")
    found, losses = {}, {}
    some = {"retain": bench.data.split.retain[:: max(1, len(bench.data.split.retain) // 5_000)]}
    for stream in ("forget", "retain", "test", "nonmember"):
        loader = bench.data.loader(stream, indexed=True, positions=some.get(stream), batch_size=1_000)
        told = predict(model, loader, Runtime(trainer))
        found[stream] = 100 * told.accuracy
        losses[stream] = F.cross_entropy(told.logits, told.targets, reduction="none")
    bench.data.trainer = None
    return {**found, "auc": auc(-losses["forget"], -losses["nonmember"])}


def probe(bench: Bench, rows: list[Any]) -> None:
    """Time a training step of the source, as it is and compiled, and the compilation."""
    ways = [(bench.scale.batch, False), (bench.scale.source_batch, False)]
    for batch, compiled in [*ways, (bench.scale.source_batch, True)] if bench.compiling else ways:

        def steps(batch: int = batch, compiled: bool = compiled) -> tuple[float, str]:
            model = OneCycle(bench.scale.width, 10_000, bench.cuda)
            if compiled:
                model.net.compile(dynamic=False)
            timed = AlternatingEpochs({}, clock=bench.clock)
            begin = bench.clock()
            trainer = bench.trainer(max_epochs=6, limit_train_batches=20, callbacks=[timed])
            with batches_of(bench.data, batch):
                trainer.fit(model, bench.data)
            step = statistics.median(timed.turns.seconds["fit"]) / min(20, trainer.num_training_batches)
            if batch == bench.scale.source_batch:
                bench.results["compiled"] = compiled and step < bench.source_step_s
                bench.source_step_s = min(step, bench.source_step_s)
            else:
                bench.step_s = step
            first = bench.clock() - begin - 6 * 20 * step
            return 1e3 * step, f"{batch / step:,.0f} images a second; {first:.1f} s before that"

        bench.guarded(f"step of {batch}, {'compiled' if compiled else 'eager'}", steps, rows, "ms")


def source(bench: Bench, rows: list[Any]) -> None:
    """Train the source, for as many epochs as its seconds allow, and keep each epoch's weights."""
    a_pass = len(bench.train) // bench.scale.source_batch
    epochs = int(np.clip(bench.scale.seconds / (a_pass * bench.source_step_s + 0.15), *bench.scale.epochs))
    bench.results["epochs"] = epochs

    def train() -> tuple[float, str]:
        L.seed_everything(0, verbose=False)
        model = OneCycle(bench.scale.width, epochs * a_pass, bench.cuda)
        if bench.results.get("compiled"):
            model.net.compile(dynamic=False)
        trainer = bench.trainer(
            max_epochs=epochs,
            enable_checkpointing=True,
            callbacks=[keeper(bench.work / "earlier", max(1, epochs // 12))],
        )
        reset_peak_memory(bench.device)
        begin = bench.clock()
        with batches_of(bench.data, bench.scale.source_batch):
            trainer.fit(model, bench.data)
        seconds = bench.clock() - begin
        write_export(model, bench.work / "source.ckpt")
        return seconds, f"{epochs} epochs, {peak_memory(bench.device)}"

    bench.guarded("source", train, rows, "s")
    bench.source = OneCycle.load_from_checkpoint(bench.work / "source.ckpt", map_location="cpu")
    rows[-1] |= audit(bench, bench.work / "source.ckpt")
    print("  ", rows[-1], flush=True)


def retrained(
    bench: Bench, epochs: int = 0, steps: int = -1
) -> tuple[unlearn.UnlearningModule, dict[str, Any]]:
    """Return a retraining, for as many epochs as the source or fewer steps, and its Trainer's arguments."""
    a_pass = -(-len(bench.data.split.retain) // bench.scale.source_batch)
    fresh = partial(OneCycle, bench.scale.width, steps if steps > 0 else epochs * a_pass, bench.cuda)
    method = unlearn.Retrain(bench.source, fresh=fresh, step="source")
    if bench.results.get("compiled") and epochs:
        method.model.net.compile(dynamic=False)
    return method, {"max_epochs": epochs or -1, "max_steps": steps}


def retrain(bench: Bench, rows: list[Any]) -> None:
    """Retrain without the forgotten."""
    make = partial(retrained, bench, bench.results["epochs"])
    unlearned(bench, rows, "retrain", make, 1, bench.scale.source_batch)
    bench.retrain_s = rows[-1]["total_s"]


def unlearned(
    bench: Bench, rows: list[Any], name: str, make: Callable[[], Any], fits: int, batch: int = 0
) -> None:
    """Fit a method, export it and audit the export; of several fits the last is timed, the first has warmed up."""

    def run() -> dict[str, Any]:
        for _ in range(fits):
            L.seed_everything(2, verbose=False)
            method, own = make()
            trainer = bench.trainer(**own)
            reset_peak_memory(bench.device)
            with batches_of(bench.data, batch or bench.scale.batch):
                trainer.fit(method, bench.data)
        file = method.export(bench.work / f"{name}.ckpt")
        times = {key.removeprefix("time/"): seconds for key, seconds in method.times.items()}
        faster = bench.retrain_s / times["total_s"] if bench.retrain_s else 1.0
        memory = sum(peak_memory(bench.device).values())
        found = audit(bench, file)
        file.unlink()
        return {**times, "steps": trainer.global_step, "acceleration": faster, "MiB": memory, **found}

    try:
        row: dict[str, Any] = run()
    except Exception as error:
        bench.failed(name, error)
        row = {"error": f"{type(error).__name__}: {error}"[:200]}
    rows.append({"method": name, **row})
    print(
        "  " + json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in rows[-1].items()}),
        flush=True,
    )
    bench.save()


def fast_methods(bench: Bench, rows: list[Any]) -> None:
    """As many steps as fit into two seconds, beside a retraining of as many."""
    steps = max(4, int(bench.scale.fast / bench.step_s))
    own = {"max_epochs": -1, "max_steps": steps}
    recipe = {"optimizer": sgd(bench.cuda, 0.05), "step": "source"}
    earlier = partial(unlearn.Rewind, checkpoint=bench.work / "earlier", **recipe)
    for name, make in {
        "fine_tune": lambda: (unlearn.FineTune(bench.source, **recipe), own),
        "rewind": lambda: (earlier(bench.source, ascent=0.0), own),
        "rewind with ascent": lambda: (earlier(bench.source), {**own, "max_steps": steps * 2 // 3}),
        "neg_grad_plus": lambda: (
            unlearn.NegGradPlus(bench.source, **recipe),
            {**own, "max_steps": steps * 2 // 3},
        ),
        "short retraining": lambda: retrained(bench, 0, steps),
    }.items():
        unlearned(bench, rows, name, make, 2 if name == "fine_tune" else 1)


def all_methods(bench: Bench, rows: list[Any]) -> None:
    """Every method for random samples: on the retain set by the source's own recipe, on the forget set by its own."""
    known, fused = bench.source, bench.cuda
    recipe = {"optimizer": sgd(fused, 0.05), "step": "source"}
    high = {
        "optimizer": sgd(fused, 0.12),
        "step": "source",
        "ascent": 0.0,
    }  # the source's own, late in its training
    slow = {"optimizer": sgd(fused, 0.002)}
    gentle = {"optimizer": partial(torch.optim.Adam, lr=1e-4, fused=fused)}
    once, twice, none = {"max_epochs": 1}, {"max_epochs": 2}, {"max_epochs": 0}
    four, small = {"max_epochs": 4}, bench.scale.forget_batch
    reference = {
        "reference_fraction": 0.2,
        "reference_optimizer": partial(torch.optim.Adam, lr=3e-3, fused=fused),
    }
    rewound = partial(unlearn.Rewind, checkpoint=bench.work / "earlier")
    plans: list[tuple[str, Any, dict[str, Any], dict[str, Any], int]] = [
        ("neg_grad_plus", unlearn.NegGradPlus, recipe, twice, 0),
        ("ssd", unlearn.SSD, {}, none, 0),
        ("task_negation", unlearn.TaskNegation, {}, none, 0),
        ("top_k", unlearn.TopK, gentle, once, small),
        ("random_k", unlearn.RandomK, gentle, once, small),
        ("random_top_k", unlearn.RandomTopK, gentle, once, small),
        ("eu_k", unlearn.EUk, recipe, once, 0),
        ("cf_k", unlearn.CFk, recipe, once, 0),
        ("wgan", unlearn.WGAN, gentle, once, small),
        ("certified_head", unlearn.CertifiedHead, {}, none, 0),
        ("influence", unlearn.Influence, {"iterations": 10}, none, 0),
        ("fine_tune", unlearn.FineTune, recipe, twice, 0),
        ("shrink_perturb", unlearn.ShrinkPerturb, recipe, twice, 0),
        ("msg", unlearn.MSG, recipe, twice, 0),
        ("sal_un", unlearn.SalUn, recipe, once, 0),
        ("random_label", unlearn.RandomLabel, recipe, once, 0),
        ("npo", unlearn.NPO, {"optimizer": partial(torch.optim.Adam, lr=1e-5, fused=fused)}, once, small),
        ("bad_teacher", unlearn.BadTeacher, {"optimizer": sgd(fused, 0.03)}, once, 0),
        ("l1_sparse", unlearn.L1Sparse, {"gamma": 2e-5, **recipe}, twice, 0),
        ("rewind", rewound, recipe, twice, 0),
        ("rewind, five passes", rewound, high, {"max_epochs": 5}, 0),
        ("reference_kl", unlearn.ReferenceKL, {"lambda_": 0.1, **reference, **gentle}, twice, small),
        ("scrub", unlearn.SCRUB, {**slow, "step": "source", "msteps": 1}, {"max_epochs": 3}, 0),
        ("shrink_perturb, four passes", unlearn.ShrinkPerturb, recipe, four, 0),
        ("ct", unlearn.CT, recipe, four, 0),
    ]
    for name, method, settings, own, batch in plans:
        if bench.only.lower() not in name:
            continue
        if not bench.quick and bench.budget - (time.perf_counter() - bench.start) < 10:
            bench.failed(name, TimeoutError("no time left"))
            continue
        unlearned(bench, rows, name, lambda m=method, s=settings, o=own: (m(known, **s), o), 1, batch)


# ---------------------------------------------------------------------- steps and ensembles


def step_overhead(bench: Bench, rows: list[Any]) -> None:
    """Epochs through Trainer.fit against bare loops of the same work, in turns."""
    scale, device = bench.scale, bench.device
    share = scale.step_forgotten / (2 * scale.step_forgotten)
    some = bench.train.subset(np.arange(2 * scale.step_forgotten))
    some.augment = None
    data = UnlearningDataModule(some, share, test_dataset=bench.test, batch_size=128)
    data.setup("fit")
    where: dict[str, Any] = {"device": device, "dtype": torch.bfloat16 if bench.cuda else None}
    adam = partial(torch.optim.Adam, lr=1e-3, fused=bench.cuda)

    def timed(name: str, build: Callable[[], nn.Module]) -> tuple[float, str]:
        epochs = 4 if bench.quick else 8
        method, bare = beside(name, build(), data, 128, epochs, optimizer=adam, **where)
        alternating = AlternatingEpochs({"bare": bare}, clock=bench.clock, warmup=2)
        bench.trainer(max_epochs=epochs, callbacks=[alternating]).fit(method, data)
        turns = alternating.turns
        steps = -(-scale.step_forgotten // 128)
        each = [1e3 * turns.median(arm) / steps for arm in ("fit", "bare")]
        return turns.ratio(
            "fit", "bare"
        ), f"{each[0]:.3g} / {each[1]:.3g} ms a step; {turns.spread('fit', 'bare')}"

    def resnet() -> nn.Module:
        return ResNet18(width=scale.width).to(memory_format=LAYOUT)

    for name in METHODS:
        bench.guarded(f"{name} on ResNet-18, Trainer.fit ÷ bare loop", partial(timed, name, resnet), rows)


def ensembles(bench: Bench, rows: list[Any]) -> None:
    """K models at once against one after another, and whether they are the same."""
    runtime = Runtime(bench.trainer(precision="32-true"))
    data = mnist_like(bench.scale.model_samples)
    recipe = Recipe(
        LeNet5, epochs=2, batch_size=128, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    )
    members = [Member(torch.arange(len(data)), seed) for seed in range(bench.scale.models)]

    def train(way: str) -> Any:
        begin = bench.clock()
        made = train_ensemble(recipe, data, members, runtime=runtime, way=way)  # type: ignore[arg-type]
        return made, bench.clock() - begin

    def both() -> tuple[float, str]:
        train_ensemble(recipe, data, members[:2], runtime=runtime, way="sequential")
        train("stacked")
        stacked = [train("stacked") for _ in range(3)]
        plain, seconds = train("sequential")
        together = statistics.median(took for _, took in stacked)
        ends = [f"{made.losses[:, -1].mean():.4f}" for made in (stacked[0][0], plain)]
        return seconds / together, (
            f"{seconds:.3g} s one after another, {together:.3g} s stacked; mean loss of the last epoch "
            f"{ends[1]} and {ends[0]}"
        )

    def exact() -> tuple[float, str]:
        """Rounding grows from step to step; in float64 it stays small, or something else is wrong."""
        some = mnist_like(bench.scale.model_samples // 2)
        some.transform = Doubled(some.transform)
        precise = replace(recipe, build=lambda: LeNet5().double())
        few = [Member(torch.arange(len(some)), seed) for seed in range(4)]
        stacked, plain = (
            train_ensemble(precise, some, few, runtime=runtime, way=way) for way in ("stacked", "sequential")
        )
        return float((stacked.losses - plain.losses).abs().max()), f"{stacked.way}; losses of two epochs"

    bench.guarded("stacked against one after another in float64", exact, rows)
    bench.guarded(f"{bench.scale.models} LeNets, one after another ÷ stacked", both, rows, "x")


def nccl(bench: Bench, rows: list[Any]) -> None:
    """A process group of NCCL, in a program of its own; of two processes where there are two GPUs."""
    count = min(2, torch.cuda.device_count())
    told = "2 processes" if count == 2 else "1 process; 2 not measured: one GPU"

    def run() -> tuple[bool, str]:
        command = [
            sys.executable,
            __file__,
            "--child",
            str(bench.work),
            "--quick",
            "--out",
            str(bench.folder),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(done.stdout[-1000:] + done.stderr[-3000:])
        return True, f"{told}: {done.stdout.splitlines()[-1]}"

    if bench.cuda:
        bench.guarded("NCCL", run, rows)
    else:
        rows.append({"what": "NCCL", "value": None, "detail": "not measured: no GPU"})


def child(work: Path) -> None:
    """Unlearn under DDP and FSDP on each GPU there is."""
    data = UnlearningDataModule(mnist_like(512), 0.1, test_dataset=mnist_like(256), batch_size=64)
    devices, told = min(2, torch.cuda.device_count()), []
    for strategy in ("ddp", ModelParallelStrategy(data_parallel_size=devices, tensor_parallel_size=1)):
        method = unlearn.NegGradPlus(Classifier(LeNet5()), optimizer=partial(torch.optim.SGD, lr=0.01))
        trainer = L.Trainer(
            **{**DEFAULTS, "accelerator": "cuda", "devices": devices, "strategy": strategy, "max_epochs": 1},
            logger=False,
            callbacks=[callbacks.ForgettingMetrics()],
            default_root_dir=work,
        )
        trainer.fit(method, data)
        method.export(work / "parallel.ckpt")
        told.append(
            f"{type(trainer.strategy).__name__} of {trainer.world_size}: {torch.distributed.get_backend()}"
        )
    print(", ".join(told))


# seconds are what a part needs at least; the last goes on as long as there is time
PARTS: list[tuple[str, float, Callable[[Bench, list[Any]], None]]] = [
    ("facts", 1, facts),
    ("fast", 30, fast),
    ("probe", 60, probe),
    ("source", 70, source),
    ("retrain", 70, retrain),
    ("fast_methods", 25, fast_methods),
    ("checks", 60, checks),
    ("step_overhead", 25, step_overhead),
    ("ensembles", 30, ensembles),
    ("nccl", 30, nccl),
    ("all_methods", 30, all_methods),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and print their tables; the status is 1 if something failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="cifar10-jpeg.npz; left out with --quick: noise")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.json and results.md")
    parser.add_argument("--quick", action="store_true", help="few images and narrow networks, on the CPU too")
    parser.add_argument(
        "--part",
        action="append",
        choices=[name for name, *_ in PARTS],
        help="run this part alone; may be given several times",
    )
    parser.add_argument(
        "--budget", type=float, default=540, help="seconds; parts that do not fit are left out"
    )
    parser.add_argument("--only", default="", help="of the parts' rows, those whose name holds this")
    parser.add_argument("--compile", action="store_true", help="try the source's training compiled as well")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child is not None:
        child(chosen.child)
        return 0
    if chosen.data is None and not chosen.quick:
        parser.error("--data is needed: cifar10-jpeg.npz; or --quick for a trial without")
    if not torch.cuda.is_available() and not chosen.quick:
        parser.error("there is no GPU here; --quick runs the same on the CPU")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scale = QUICK if chosen.quick else FULL
    chosen.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    train, test = noise(scale) if chosen.data is None else images(chosen.data, scale)
    print(f"data: {time.perf_counter() - start:.1f} s", flush=True)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(scale, chosen.out, Path(work), chosen.budget, chosen.quick, train, test)
        bench.only, bench.compiling = chosen.only, chosen.compile and bench.cuda
        asked = set(chosen.part or [name for name, *_ in PARTS])
        if asked & {"retrain", "fast_methods", "all_methods"}:
            asked.add("source")  # which they start from
        bench.run([part for part in PARTS if part[0] in asked])
    return int(any(part["errors"] for part in bench.results["parts"].values()))


def noise(scale: Scale) -> tuple[TensorData, TensorData]:
    """Return noise in the shape of CIFAR-10."""
    from benchmarks.material import cifar_like

    parts = cifar_like(scale.train), cifar_like(scale.test)
    for part in parts:
        part.transform = ChannelsLast(part.transform)  # type: ignore[arg-type]
    return parts


if __name__ == "__main__":
    sys.exit(main())
