"""An evaluator's details as W&B tables, charts and histograms; sends nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_unlearn.reports.tidy import TIDY_COLUMNS, Rows, intervals_of, run_rows

__all__ = ["media_of", "rows_table"]

_BINS = 25  # as in the report's histograms
_SAID = ["member", "never trained on"]


def rows_table(rows: Rows) -> Any:
    """Return rows under :data:`~lightning_unlearn.reports.tidy.TIDY_COLUMNS` as a ``wandb.Table``."""
    import wandb

    return wandb.Table(columns=list(TIDY_COLUMNS), data=rows)


def media_of(
    name: str,
    metrics: Mapping[str, float],
    details: Mapping[str, Any],
    *,
    model: str,
    seed: int,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return what W&B can show of one evaluator's results beyond scalars, ready for ``run.log``.

    Args:
        name: The evaluator's name, first part of every key.
        metrics: Its metrics.
        details: What it noted; of these are shown ``ci95`` (rate to interval, in the tidy table), ``samples``
            (column name to one value a sample, or the name of a ``.npz`` file of scores), ``confusion`` (counts,
            truth by what the attack said), ``fpr`` and ``tpr`` (the ROC curve), and ``posteriors`` (name of a set to
            posteriors of the true class).
        model: Name of the model.
        seed: Its seed.
        folder: Where files are that the details name; without it they are not shown.

    Returns:
        ``<name>/scores``, and ``<name>/samples``, ``<name>/confusion``, ``<name>/roc`` and
        ``<name>/posteriors/<set>`` as far as the details hold them.

    Raises:
        ValueError: If the columns of ``samples`` differ in length.
    """
    media: dict[str, Any] = {}
    if metrics:
        media[f"{name}/scores"] = rows_table(run_rows(model, seed, metrics, intervals_of(name, details)))
    samples = details.get("samples")
    if isinstance(samples, Mapping):
        media[f"{name}/samples"] = _samples(name, samples)
    elif isinstance(samples, str) and folder is not None and (folder / samples).is_file():
        media[f"{name}/samples"] = _sample_file(folder / samples)
    if confusion := details.get("confusion"):
        media[f"{name}/confusion"] = _confusion(model, confusion)
    if "fpr" in details and "tpr" in details:
        media[f"{name}/roc"] = _roc(model, details["fpr"], details["tpr"])
    for set_name, values in details.get("posteriors", {}).items():
        media[f"{name}/posteriors/{set_name.replace(' ', '_')}"] = _histogram(values)
    return media


def _samples(name: str, columns: Mapping[str, Sequence[Any]]) -> Any:
    import wandb

    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"details['samples'] of {name!r}: every column needs one value a sample, got {lengths}"
        )
    return wandb.Table(columns=list(columns), data=[list(row) for row in zip(*columns.values(), strict=True)])


def _sample_file(path: Path) -> Any:
    """Return what stands in a file of arrays, one value a row with its place, since their shapes may differ."""
    import wandb

    with np.load(path) as arrays:
        rows = [
            [name, " ".join(map(str, place)), value]
            for name in arrays.files
            for place, value in zip(
                np.ndindex(arrays[name].shape), arrays[name].ravel().tolist(), strict=True
            )
        ]
    return wandb.Table(columns=["score", "place", "value"], data=rows)


def _confusion(model: str, counts: Sequence[Sequence[int]]) -> Any:
    """Chart the counts as they are: ``wandb.plot.confusion_matrix`` would need every single prediction."""
    import wandb

    cells = [
        [truth, said, int(counts[row][column])]
        for row, truth in enumerate(_SAID)
        for column, said in enumerate(_SAID)
    ]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=cells),
        {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
        {"title": f"Membership inference on {model}: truth and what the attack says"},
    )


def _roc(model: str, fpr: Sequence[float], tpr: Sequence[float]) -> Any:
    import wandb

    table = wandb.Table(
        columns=["false positive rate", "true positive rate"],
        data=[list(point) for point in zip(fpr, tpr, strict=True)],
    )
    return wandb.plot.line(
        table, "false positive rate", "true positive rate", title=f"Membership inference on {model}: ROC"
    )


def _histogram(values: Sequence[float]) -> Any:
    import wandb

    return wandb.Histogram(np_histogram=np.histogram(np.asarray(values), bins=_BINS, range=(0.0, 1.0)))
