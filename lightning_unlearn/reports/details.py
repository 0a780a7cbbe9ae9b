"""What the folders of a comparison's runs hold beside the scores, for figures and page."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

from lightning_unlearn.core.files import file_hash
from lightning_unlearn.reports.schema import Report

T = TypeVar("T")

_CHECKPOINT = "model.ckpt"
_LOG = Path("log") / "metrics.csv"
_AXES = ("step", "epoch")
"""Columns of the log that say when, not what."""


class Curve(TypedDict):
    """What was logged of one quantity while a model was trained.

    Attributes:
        step: Optimiser steps done, ascending.
        value: The quantity then; as long as ``step``, finite.
    """

    step: Sequence[int]
    value: Sequence[float]


class RunFile(TypedDict):
    """One file of a run.

    Attributes:
        name: Its path in the comparison's folder.
        bytes: Its size.
        sha256: The hash of its content in hexadecimal; None where it was not computed.
    """

    name: str
    bytes: int
    sha256: str | None


class RunDetails(TypedDict, total=False):
    """What one run left for figures and page; every part may be absent, and any evaluator's details may be there.

    Attributes:
        config: How the run was set up.
        training_curves: Name of a logged quantity, such as "train/loss", to its course.
        files: The run's files.
        pictures: Paths of the PNG files that its evaluators left.
        membership_inference: Of the attack, ``confusion`` (counts, truth by what it said) and ``fpr`` and ``tpr`` (its
            ROC curve, ascending).
        backdoor: ``curve``: "epoch" (epochs done, ascending) and scores at them, all of one length.
        relearn_time: ``losses`` on the forget set before the first step and after each, ``losses_fresh`` of an
            untrained model, and ``target``, the loss that counts as learned again.
        posteriors: Name of a set (such as "forget set") to each sample's posterior of its label, all in
            [0, 1]; the label of a poisoned sample is the one it was trained with.
        weights: Quantiles of the model's weights, equally far apart, ascending, the least and the greatest among them.
    """

    config: Mapping[str, Any]
    training_curves: Mapping[str, Curve]
    files: Sequence[RunFile]
    pictures: Sequence[str]
    membership_inference: Mapping[str, Any]
    backdoor: Mapping[str, Any]
    relearn_time: Mapping[str, Any]
    posteriors: Mapping[str, Sequence[float]]
    weights: Sequence[float]


Details = Mapping[str, Mapping[int, RunDetails]]
"""Model name to seed to :class:`RunDetails`."""


def read_details(folder: str | os.PathLike[str], report: Report, *, prefix: str = "") -> Details:
    """Read what the runs of a comparison left beyond their scores, for figures and page.

    Args:
        folder: The comparison's output folder, with ``<model>/seed_<seed>/`` for each run. A run without a folder
            leaves nothing, and one without a file leaves nothing of what it would hold.
        report: The comparison's report, for the models and the seeds.
        prefix: What the names of the files begin with, such as the folder's name where several are on one page.

    Returns:
        The details; empty where only the report was kept.

    Raises:
        ValueError: A file is no JSON or holds something else; the message names the file.
    """
    root = Path(folder)
    details: dict[str, dict[int, RunDetails]] = {}
    for model in report["models"]:
        for seed in report["seeds"]:
            run = root / model / f"seed_{seed}"
            # A name from the file is no way out of the folder.
            if Path(model).name == model and (found := _read_run(run, root, prefix)):
                details.setdefault(model, {})[seed] = found
    return details


def _read_run(run: Path, root: Path, prefix: str) -> RunDetails:
    def evaluators(audit: dict[str, Any]) -> dict[str, Any]:
        details = audit["details"]
        own = details.get("forgetting", {})
        return {**details, **{name: own.get(name) for name in ("posteriors", "weights")}}

    built = _read(run / "training.json", lambda training: training.get("method"))
    parts: dict[str, Any] = {
        **(_read(run / "metrics.json", evaluators) or {}),
        "config": {**(_read(run / "config.json", dict) or {}), **({"built": built} if built else {})},
        "training_curves": read_curves(run / _LOG),
        "files": _files(run, root, prefix),
        "pictures": [str(path) for path in sorted((run / "evaluation").glob("*.png"))],
    }
    return cast(RunDetails, {key: part for key, part in parts.items() if part})


def _read(file: Path, read: Callable[[dict[str, Any]], T]) -> T | None:
    """Read something out of a JSON object, None without the file."""
    if not file.is_file():
        return None
    try:
        return read(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} does not hold what a run leaves ({type(error).__name__}: {error}); delete the file and "
            "run the comparison again, which measures this model anew"
        ) from error


def read_log(log: Path) -> Iterator[dict[str, float]]:
    """Yield what was logged while a model was trained, one row after another; what is no number is left out.

    Args:
        log: The ``metrics.csv`` of Lightning's CSVLogger; it need not exist.
    """
    if log.is_file():
        with log.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                # A line that was cut off has None for a name or for a value.
                found = {name: _number(text) for name, text in row.items() if name}
                yield {name: number for name, number in found.items() if number is not None}


def read_curves(log: Path) -> Mapping[str, Curve]:
    """Read what was logged more than once while a model was trained.

    Args:
        log: As for :func:`read_log`.

    Returns:
        Column to its steps, ascending, and values. What is no finite number is left out, and so is a column
        with fewer than two.
    """
    points: dict[str, dict[int, float]] = {}
    for row in read_log(log):
        if math.isfinite(step := row.get("step", math.nan)):
            for name, number in row.items():
                if name not in _AXES and math.isfinite(number):
                    points.setdefault(name, {})[int(step)] = number
    return {
        name: Curve(step=sorted(values), value=[values[step] for step in sorted(values)])
        for name, values in points.items()
        if len(values) > 1
    }


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _files(run: Path, root: Path, prefix: str) -> list[RunFile]:
    """List a run's files; the exported model with its hash, by which it is known again wherever it goes."""
    return [
        RunFile(
            name=prefix + path.relative_to(root).as_posix(),
            bytes=path.stat().st_size,
            sha256=file_hash(path) if path == run / _CHECKPOINT else None,
        )
        for path in sorted(run.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]
