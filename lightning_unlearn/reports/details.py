"""What the folders of a comparison's runs hold beside the scores: read as it stands, judged and drawn elsewhere."""

import csv
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lightning_unlearn.core.files import file_hash
from lightning_unlearn.reports.figures import Curve, Details, RunDetails, RunFile
from lightning_unlearn.reports.schema import Report

__all__ = ["read_details"]

_CHECKPOINT = "model.ckpt"
_LOG = Path("log") / "metrics.csv"
_AXES = ("step", "epoch")
"""Columns of the log that say when, not what."""
"""Bytes that are hashed at a time."""


def read_details(folder: str | os.PathLike[str], report: Report, *, prefix: str = "") -> Details:
    """Read what the runs of a comparison left beyond their scores, for figures and page.

    Args:
        folder: The comparison's output folder, with ``<model>/seed_<seed>/`` for each run. A run without a folder
            leaves nothing, and one without a file leaves nothing of what would stand there.
        report: The comparison's report, for the models and the seeds.
        prefix: What the names of the files begin with, such as the folder's name where several stand on one page.

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
    found: dict[str, Any] = {}
    audit = run / "metrics.json"
    if audit.is_file():
        evaluators = _parts(audit, "details")
        posteriors = _guarded(audit, lambda: evaluators.get("forgetting", {}).get("posteriors", {}))
        found = {**evaluators, "posteriors": posteriors}
    parts: dict[str, Any] = {
        "config": _config(run),
        "training_curves": read_curves(run / _LOG),
        "files": _files(run, root, prefix),
        "pictures": [str(path) for path in sorted((run / "evaluation").glob("*.png"))],
    }
    return cast(RunDetails, {**found, **{key: part for key, part in parts.items() if part}})


def _config(run: Path) -> dict[str, Any]:
    """Return how a run was set up and, where it was noted, what class with what arguments came of it."""
    config, training = run / "config.json", run / "training.json"
    built = _parts(training).get("method") if training.is_file() else None
    return {**(_parts(config) if config.is_file() else {}), **({"built": built} if built else {})}


def _parts(file: Path, key: str | None = None) -> dict[str, Any]:
    """Read a JSON object, or what it holds under a key."""

    def read() -> dict[str, Any]:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content if key is None else content[key])

    return cast(dict[str, Any], _guarded(file, read))


def _guarded(file: Path, read: Any) -> Any:
    try:
        return read()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} does not hold what a run leaves ({type(error).__name__}: {error}); delete the file and "
            "run the comparison again, which measures this model anew"
        ) from error


def read_curves(log: Path) -> Mapping[str, Curve]:
    """Read what was logged more than once while a model was trained.

    Args:
        log: The ``metrics.csv`` of Lightning's CSVLogger; it need not exist.

    Returns:
        Column to its steps, ascending, and values. What is no finite number is left out, and so is a column
        with fewer than two.
    """
    if not log.is_file():
        return {}
    points: dict[str, dict[int, float]] = {}
    with log.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            step = _number(row.get("step"))
            for name, text in row.items():
                number = _number(text)
                # A line that was cut off has None for a name or for a value.
                if name and name not in _AXES and step is not None and number is not None:
                    points.setdefault(name, {})[int(step)] = number
    return {
        name: Curve(step=sorted(values), value=[values[step] for step in sorted(values)])
        for name, values in points.items()
        if len(values) > 1
    }


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


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
