"""A comparison by the plain launcher against Ray with two workers, one thread each; start-up apart.

``OMP_NUM_THREADS=1 python tests/benchmarks/launcher.py [--epochs 60]`` prints both times, their ratio, and whether the
numbers are the same. The source is trained before anything can run beside it, so two workers cannot reach two.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import ray

from lightning_unlearn import (
    Classifier,
    FineTune,
    MethodRun,
    NegGradPlus,
    SourceRun,
    UnlearningDataModule,
    compare,
)
from lightning_unlearn.comparison.api import Comparison
from lightning_unlearn.data import Digits
from lightning_unlearn.methods import L1Sparse, ShrinkPerturb
from lightning_unlearn.models import ResNet8


def source() -> L.LightningModule:
    return Classifier(ResNet8(10, 1, 8))


def data() -> UnlearningDataModule:
    return UnlearningDataModule(Digits(), 0.1, batch_size=64)


def measured(folder: Path, epochs: int, launcher: Any) -> tuple[Comparison, float]:
    run = partial(MethodRun, trainer={"max_epochs": epochs})
    start = time.perf_counter()
    found = compare(
        SourceRun(source, {"max_epochs": epochs}),
        data,
        [run(method) for method in (FineTune, NegGradPlus, L1Sparse, ShrinkPerturb)],
        seeds=2,
        trainer={"accelerator": "cpu", "logger": False},
        threads=1,
        launcher=launcher,
        output_dir=folder,
        quiet=True,
        page=False,
    )
    return found, time.perf_counter() - start


def numbers(found: Comparison) -> dict[str, Any]:
    apart = ("time/", "memory/", "acceleration")
    return {
        name: {key: value["values"] for key, value in metrics.items() if not key.startswith(apart)}
        for name, metrics in found.report["models"].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        measured(Path(folder) / "warm", 1, "ray")  # the workers import what they need
        plain, alone = measured(Path(folder) / "plain", epochs, "plain")
        launched, beside = measured(Path(folder) / "ray", epochs, "ray")
    same = numbers(plain) == numbers(launched) and not launched.failed
    print(
        f"plain {alone:.1f} s, two workers {beside:.1f} s: {alone / beside:.2f} times; numbers equal: {same}"
    )


if __name__ == "__main__":
    main()
