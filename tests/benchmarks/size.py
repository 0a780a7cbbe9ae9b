"""Size: what a sample costs among ten million, data larger than a bound of memory, and copies of a large model.

``OMP_NUM_THREADS=1 python tests/benchmarks/size.py samples mapped pictures weights population`` prints a table for each part.
``samples`` is in CPU time, against what NumPy alone would do; ``mapped`` and ``pictures`` take turns with the project's
own loader, in CPU time of its processes too, and count the memory that cannot be given back; ``weights`` says how many
times the model's own bytes a method takes beside the source, with ``--processes 2`` in each of two.
"""

import argparse
import ctypes
import gc
import hashlib
import hmac
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

# where pytest finds the benchmarks' own modules
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lightning as L
import numpy as np
import torch
from benchmarks.measuring import take_turns
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.io import encode_jpeg
from torchvision.transforms import ToTensor

from lightning_unlearn import methods as unlearn
from lightning_unlearn.core.files import model_hash
from lightning_unlearn.core.ledger import Ledger, append, entry
from lightning_unlearn.core.peak_memory import peak_memory, reset_peak_memory
from lightning_unlearn.core.surroundings import quiet_lightning
from lightning_unlearn.data import Digits, TensorData, UnlearningDataModule
from lightning_unlearn.data.fingerprint import training_fingerprint
from lightning_unlearn.data.selection import Classes, Ids, RandomFraction, SelectionData
from lightning_unlearn.data.splits import Split, make_split
from lightning_unlearn.ensembles import Member, Recipe, train_ensemble
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.models import MLP

CPU, KEY = torch.device("cpu"), b"a secret of sixteen bytes"
MIB = 2**20


def status(process: str, field: str) -> float:
    """Return a line of /proc/PID/status in MiB, or of smaps_rollup, where a page counts for its share of processes."""
    file = "smaps_rollup" if field.startswith("Pss") else "status"
    lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measured(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return CPU seconds, MiB at the peak beyond what was in use, and the result."""
    gc.collect()
    before = status("self", "VmRSS")
    reset_peak_memory(CPU)
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    return seconds, max(0.0, peak_memory(CPU)["memory/process_peak_mib"] - before), result


# ---------------------------------------------------------------------- samples


def pieces(size: int, folder: Path) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """Yield what is done with as many samples: its name, how we do it, and how NumPy alone would."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 10, size)
    half = rng.permutation(size)[: size // 100]

    def plain_split(forget: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        taken = np.zeros(size, dtype=np.bool_)
        taken[forget] = True
        return [np.flatnonzero(taken), np.flatnonzero(~taken)]

    def ours(rule: Any, **known: Any) -> Callable[[], Split]:
        return lambda: make_split(size, 0, rule, SelectionData(size, **known), seed=0)

    yield (
        "1% at random, split",
        ours(RandomFraction(0.01)),
        lambda: plain_split(np.random.default_rng(0).choice(size, size // 100, replace=False, shuffle=False)),
    )
    yield (
        "a class, split",
        ours(Classes(3), targets=targets),
        lambda: plain_split(np.flatnonzero(targets == 3)),
    )
    yield "positions, split", ours(Ids(half)), lambda: plain_split(half)
    names, asked = np.arange(size).astype("U8"), half.astype("U8")
    yield (
        "1% by name, split",
        ours(Ids(asked, column="user"), attributes={"user": names}),
        lambda: plain_split(np.flatnonzero(np.isin(names, asked))),
    )
    inputs = torch.zeros(size, 8, dtype=torch.uint8)
    data = TensorData(inputs, torch.from_numpy(targets), num_classes=10)
    yield (
        "hash of the data",
        lambda: training_fingerprint(data, targets),
        lambda: hashlib.sha256(targets.tobytes() + targets.tobytes() + inputs.numpy().tobytes()).hexdigest(),
    )
    split = ours(RandomFraction(0.5))()
    file = folder / "split.npz"
    yield (
        "writing a split of halves and reading it",
        lambda: (split.save(file), Split.load(file)),
        lambda: (
            np.savez_compressed(folder / "plain.npz", split.forget, split.retain),
            [np.load(folder / "plain.npz")[name] for name in ("arr_0", "arr_1")],
        ),
    )
    ledger = Ledger(folder / f"{size}.jsonl")
    (folder / f"{size}.jsonl.key").write_bytes(KEY)

    def line() -> None:
        none: dict[str, Any] = {key: {} for key in ("method", "config", "metrics", "controls")}
        facts = entry(
            ledger, forget=split.forget, earlier=split.previous, before="", after="", file=None, **none
        )
        append(ledger, facts)

    yield (
        "half in a ledger's line",
        line,
        lambda: [hmac.new(KEY, np.sort(split.forget).tobytes(), "sha256").digest() for _ in range(2)],
    )


def samples(sizes: tuple[int, int]) -> None:
    found: dict[str, list[tuple[float, ...]]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for name, ours, plain in pieces(size, Path(folder)):
                times, mib, _ = measured(ours)
                found.setdefault(name, []).append((times, mib, *measured(plain)[:2]))
    small, large = sizes
    print(f"| {large:,} samples | s | ns a sample, ÷ at {small:,} | MiB | bytes a sample | ÷ NumPy: s, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, ((few_s, *_), (s, mib, plain_s, plain_mib)) in found.items():
        each, growth = s / large * 1e9, s / large / (few_s / small)
        against = f"{s / plain_s:.1f}, {mib / max(plain_mib, 1):.1f}"
        print(
            f"| {name} | {s:.2f} | {each:.0f}, {growth:.2f} | {mib:.0f} | {mib * MIB / large:.0f} | {against} |"
        )


# ---------------------------------------------------------------------- a data set on disk


class Mapped(Dataset[Any]):
    """Images in a file, of which each process maps what it reads."""

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        self.images = np.memmap(file, np.uint8, "r", shape=shape)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.images[index].astype(np.float32) / 255), index % 10


@contextmanager
def anonymous_peak() -> Iterator[list[float]]:
    """Give the most memory, in MiB, that this process and its children held and could not give back."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            children = Path("/proc/self/task").glob("*/children")
            processes = ["self", *(pid for file in children for pid in file.read_text().split())]
            try:
                held = [status(pid, "Pss_Anon") + status(pid, "Pss_Shmem") for pid in processes]
                peak[0] = max(peak[0], sum(held))
            except (OSError, StopIteration):  # one has ended meanwhile
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def mapped(gib: float, batches: int) -> None:
    side = 128
    size = int(gib * 2**30) // (3 * side * side)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        file, block = Path(folder) / "images.u8", np.random.default_rng(0).integers(0, 256, 2**26, np.uint8)
        with file.open("wb") as target:
            for start in range(0, size * 3 * side * side, len(block)):
                block[:8] = np.frombuffer(start.to_bytes(8, "little"), np.uint8)
                target.write(block.tobytes()[: size * 3 * side * side - start])
        through_workers(f"a mapped file of {gib:g} GiB", Mapped(file, (size, 3, side, side)), batches)


def pictures(count: int, batches: int, side: int = 64) -> None:
    """Read a folder of JPEGs, ten classes, of which a thousand are different."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (1000, side // 8, side // 8, 3), np.uint8)
    encoded = [encode_jpeg(torch.from_numpy(x.repeat(8, 0).repeat(8, 1)).permute(2, 0, 1)) for x in drawn]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            file = Path(folder) / str(number % 10) / f"{number}.jpg"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(encoded[number % len(encoded)].numpy().tobytes())
        through_workers("a folder of JPEGs", ImageFolder(folder, ToTensor()), batches)


def through_workers(
    name: str, dataset: Dataset[Any], batches: int, batch: int = 64, workers: int = 2
) -> None:
    """Print what an epoch of the retain set holds, and its speed against the project's own loader, in turns."""
    loader = DataLoader(dataset, batch, shuffle=True, num_workers=workers)
    project = L.LightningDataModule()
    project.train_dataloader = lambda: loader  # type: ignore[method-assign]
    data = UnlearningDataModule(project, 0.01, nonmember_from="train")
    with anonymous_peak() as before:
        time.sleep(0.1)
    with anonymous_peak() as most:
        data.setup("fit")
        start = time.perf_counter()
        for _ in data.loader("retain", train=True):
            pass
        seconds = time.perf_counter() - start
    print(
        f"{name}, {len(dataset):,} images, {workers} workers: an epoch in {seconds:.1f} s, "  # type: ignore[arg-type]
        f"{most[0]:.0f} MiB held at most, of which {before[0]:.0f} before any data"
    )

    def some(served: Any) -> Callable[[], None]:
        def run() -> None:
            for number, _ in enumerate(served):
                if number == batches:
                    break

        return run

    arms = {"own": some(loader), "ours": some(data.loader("retain", train=True))}
    # of the loader's processes too, which have ended by then
    turns = take_turns(arms, rounds=5, clock=lambda: sum(os.times()[:4]))
    ratio, spread = turns.ratio("own", "ours"), turns.spread("own", "ours")
    print(f"images a CPU second, ours ÷ the project's own loader: {ratio:.2f}; {spread}")


# ---------------------------------------------------------------------- a large model


def network(width: int, front: nn.Module | None = None) -> nn.Module:
    sizes = (64, width, width, width)
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(front or nn.Flatten(), *layers, nn.Linear(width, 10))


def small(samples: int) -> UnlearningDataModule:
    inputs = torch.rand(samples, 64, generator=torch.Generator().manual_seed(0))
    own = TensorData(inputs, torch.arange(samples) % 10, num_classes=10)
    data = UnlearningDataModule(
        own, Classes(0), nonmember=samples // 10, nonmember_from="train", batch_size=32
    )
    data.setup("fit")
    return data


def methods(folder: Path, source: nn.Module) -> dict[str, Callable[[nn.Module], UnlearningModule]]:
    """Return what makes each method that is exported; those that train models of their own do so with plain SGD."""
    sgd = partial(torch.optim.SGD, lr=1e-3)
    given: dict[str, dict[str, Any]] = {
        "Fisher": {"samples": 32},
        "Influence": {"iterations": 3, "samples": 32},
        "Rewind": {"checkpoint": str(folder / "earlier.ckpt")},
        "RUM": {"methods": [partial(unlearn.FineTune, optimizer=sgd)], "epochs": 1},
        "ReferenceKL": {"reference_fraction": 0.2, "reference_epochs": 1, "reference_optimizer": sgd},
        "SISA": {"epochs": 1, "optimizer": sgd},
        "TaskNegation": {"optimizer": sgd},
    }
    state = {name: 0.9 * value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 1}, folder / "earlier.ckpt")
    kinds = {name: getattr(unlearn, name) for name in sorted(unlearn.__all__)}
    return {
        name: partial(kind, **({} if kind.one_shot else {"optimizer": sgd}), **given.get(name, {}))
        for name, kind in kinds.items()
        if issubclass(kind, UnlearningModule) and kind not in (UnlearningModule, unlearn.Perturbation)
    }


def peak() -> float:
    """Return the MiB that this process had at the most since this was last asked."""
    most = peak_memory(CPU)["memory/process_peak_mib"]
    gc.collect()
    reset_peak_memory(CPU)
    return most


def stages(make: Callable[[], UnlearningModule], samples: int, **trainer_arguments: Any) -> list[float]:
    """Return the MiB at the most while a method is made, prepared, trained (where it is), and exported."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    peak()
    method = make()
    found = [peak()]
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=0 if method.one_shot else 3,
        limit_val_batches=0,
        callbacks=[LambdaCallback(on_train_start=lambda *_: found.append(peak()))],
        **dict.fromkeys(off, False),
        **trainer_arguments,
    )
    trainer.fit(method, small(samples))
    found.append(peak())
    with tempfile.TemporaryDirectory() as folder:
        method.export(Path(folder) / "model.ckpt")
    return [*found, peak()] if len(found) == 3 else [*found, math.nan, peak()]


def spread(processes: int) -> dict[str, Any]:
    """Return arguments of a Trainer that spreads a model over processes, FSDP2 on the CPU; none for one process."""
    sizes = {"data_parallel_size": processes, "tensor_parallel_size": 1}
    strategy = ModelParallelStrategy(**sizes, process_group_backend="gloo")
    return {} if processes == 1 else {"devices": processes, "strategy": strategy}


def weights(width: int, samples: int, only: list[str], processes: int) -> None:
    # memory that is freed goes back at once, or the peak of one would be hidden under that of the one before
    ctypes.CDLL(None).mallopt(-3, MIB // 4)
    torch.manual_seed(0)
    source = network(width)
    # CT transposes kernels, and others draw only these anew where there are any
    kernel = network(
        width, nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 1, 3, padding=1), nn.Flatten())
    )
    size = sum(parameter.nbytes for parameter in source.parameters()) / MIB
    print(f"{size / 4 * MIB / 1e6:.1f} million weights, {size:.0f} MiB; SGD without momentum")
    print(
        "| beside the source, times its size | made | prepared | trained | exported | s |\n"
        + "| --- " * 6
        + "|"
    )
    print(
        f"| hash of the weights | | | | {measured(lambda: model_hash(source.state_dict()))[1] / size:.1f} | |"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, make in methods(Path(folder), source).items():
            if not only or name in only:
                gc.collect()
                base, start = status("self", "VmRSS"), time.process_time()
                peaks = stages(
                    partial(make, kernel if name == "CT" else source), samples, **spread(processes)
                )
                multiples = " | ".join(f"{(most - base) / size:.1f}" for most in peaks).replace("nan", "")
                rank = f", process {os.environ.get('LOCAL_RANK', 0)}" if processes > 1 else ""
                print(f"| {name}{rank} | {multiples} | {time.process_time() - start:.0f} |", flush=True)


# ---------------------------------------------------------------------- many small models


def population(models: int, epochs: int = 20) -> None:
    """Train as many MLPs on the digits, of which 10% are forgotten, and say what each costs."""
    data = UnlearningDataModule(Digits(), 0.1, batch_size=64)
    data.setup("fit")
    recipe = Recipe(partial(MLP, 64, [128], 10), epochs, 64, partial(torch.optim.Adam, lr=1e-3))
    rows, dataset = torch.from_numpy(data.split.retain), data.loader("retain").dataset
    members = [Member(rows, seed) for seed in range(models)]
    train_ensemble(recipe, dataset, members[:2], way="stacked")
    seconds, _, found = measured(lambda: train_ensemble(recipe, dataset, members, way="stacked"))
    print(
        f"{models} MLPs of 64-128-10, {epochs} epochs of {len(rows):,} digits in batches of 64: {seconds:.1f} s of CPU, "
        f"{seconds / models * 1e3:.0f} ms each; last loss {found.losses[:, -1].mean():.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="+", choices=("samples", "mapped", "pictures", "weights", "population")
    )
    parser.add_argument("--sizes", type=int, nargs=2, default=(1_000_000, 10_000_000))
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--batches", type=int, default=150, help="of a turn with the project's loader")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=2300)
    parser.add_argument("--samples", type=int, default=160, help="that the large model is trained on")
    parser.add_argument("--models", type=int, default=512)
    parser.add_argument("--processes", type=int, default=1, help="over which a model is spread, by FSDP2")
    parser.add_argument("--only", nargs="+", default=[], help="methods")
    given = parser.parse_args()
    if "samples" in given.parts:
        samples(tuple(given.sizes))
    if "mapped" in given.parts:
        mapped(given.gib, given.batches)
    if "pictures" in given.parts:
        pictures(given.images, given.batches)
    if "population" in given.parts:
        population(given.models)
    if "weights" in given.parts:
        with quiet_lightning():
            # what is imported late is imported, and processes are there
            stages(partial(unlearn.FineTune, network(10)), given.samples, **spread(given.processes))
            weights(given.width, given.samples, given.only, given.processes)


if __name__ == "__main__":
    main()
