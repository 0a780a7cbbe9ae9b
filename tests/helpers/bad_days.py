"""A comparison that is killed, or whose disk fills up, again and again: run as a program by ``test_bad_days``.

The process imports everything once and trains nothing itself, so that every comparison can run in a fork of it, which
starts in milliseconds and can be killed.
"""

import errno
import itertools
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lightning_unlearn.core.files
import lightning_unlearn.reports.writer
from helpers.toys import Net, toy_data
from lightning_unlearn import MethodRun, ReferenceKL, SourceRun, compare
from lightning_unlearn.core.ledger import verify
from lightning_unlearn.models import Classifier

EVERY = 1 if os.environ.get("EXHAUSTIVE") else 2
KILLS = 16 // EVERY
SIZES = (
    0,
    1000,
    8000,
    20000,
)  # bytes after which a file is full: too few for any file, the split, and twice the page
WRITES = (0, 2, 5, 9, 14, 20)  # after how many whole files the disk is full


def reference_kl(source: nn.Module) -> ReferenceKL:
    return ReferenceKL(source, reference_epochs=1)


def run(folder: Path) -> bool:
    """Run a small comparison, ledger included, and tell whether nothing failed."""
    return not compare(
        SourceRun(lambda: Classifier(Net()), {"max_epochs": 2}),
        lambda: toy_data(nonmember=10),
        [MethodRun(reference_kl, "reference_kl", {"max_epochs": 2})],
        seeds=1,
        retrain_2=False,
        short_retrainings=[],
        trainer={"accelerator": "cpu"},
        output_dir=folder / "out",
        ledger=folder / "ledger.jsonl",
        quiet=True,
    ).failed


def forked(work: Callable[[], bool]) -> int:
    """Start some work in a child, whose exit status is 0 if it gave True, 1 if False and 3 after an error."""
    child = os.fork()
    if child:
        return child
    status = 3
    try:
        status = 0 if work() else 1
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """Wait for a child; its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def result(folder: Path) -> dict[str, Any]:
    """What a comparison ends in, without its times."""
    report = json.loads((folder / "out" / "report.json").read_text())
    scores = {
        model: {
            name: value["values"]
            for name, value in metrics.items()
            if not name.startswith(("time/", "acceleration"))
        }
        for model, metrics in report["models"].items()
    }
    weights = {
        path.parts[-3]: [value.double().sum().item() for value in torch.load(path, weights_only=True)["state_dict"].values()]
        for path in sorted((folder / "out").rglob("model.ckpt"))
    }  # fmt: skip
    lines, mismatches = verify(folder / "ledger.jsonl")
    ledger = [[line["method"]["name"], line["model"]["after"]] for line in lines]
    return {"scores": scores, "weights": weights, "ledger": ledger, "mismatches": list(map(str, mismatches))}


def require_whole_files(folder: Path) -> None:
    """Raise if a file that does not look unfinished is."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.name == "model.ckpt":
            torch.load(path, weights_only=True)
        elif path.name == "ledger.jsonl":
            assert verify(path)[1] == [], path


def full_after(size: int, folder: Path) -> bool:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return run(folder)


def full_from(write: int, folder: Path) -> bool:
    counter = itertools.count()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if next(counter) >= write:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    lightning_unlearn.core.files.os.fsync = fsync  # type: ignore[attr-defined]
    return run(folder)


def main(root: Path) -> None:
    """Print one line of JSON: the undisturbed result, and what came of every disturbed one."""
    torch.set_num_threads(1)  # threads that were started would be missing in a fork
    lightning_unlearn.reports.writer.draw_figures = lambda *_: []  # type: ignore[assignment]  # the slowest part by far
    start = time.monotonic()
    assert ended(forked(lambda: run(root / "whole"))) == 0
    seconds = time.monotonic() - start
    outcome: dict[str, Any] = {"whole": result(root / "whole"), "killed": [], "full": [], "kills": 0}
    draw = random.Random(0)
    attempts = 0
    while (
        outcome["kills"] < KILLS and attempts < 2 * KILLS
    ):  # one that ends before it is killed does not count
        folder = root / f"killed_{attempts}"
        child = forked(lambda folder=folder: run(folder))
        time.sleep(seconds * (attempts % KILLS + draw.random()) / KILLS)
        attempts += 1
        os.kill(child, signal.SIGKILL)
        outcome["kills"] += ended(child) == -signal.SIGKILL
        require_whole_files(folder)
        status = ended(forked(lambda folder=folder: run(folder)))
        outcome["killed"].append(result(folder) if status == 0 else status)
    disks = [(full_after, size) for size in SIZES] + [(full_from, write) for write in WRITES]
    disks = disks[::EVERY]
    for kind, amount in disks:
        folder = root / f"{kind.__name__}_{amount}"
        status = ended(forked(lambda folder=folder, kind=kind, amount=amount: kind(amount, folder)))
        require_whole_files(folder)
        left = [path.name for path in folder.rglob("*") if ".tmp" in path.name]
        again = ended(forked(lambda folder=folder: run(folder)))
        outcome["full"].append([status, left, result(folder) if again == 0 else again])
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
