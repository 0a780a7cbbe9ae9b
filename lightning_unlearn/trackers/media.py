"""An evaluator's results as W&B tables, charts and histograms, ready for ``run.log``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_unlearn.engine.telling import Results
from lightning_unlearn.reports.tidy import TIDY_COLUMNS, Rows

_BINS = 25  # as in the report's histograms
_SAID = ["member", "never trained on"]


def rows_table(rows: Rows, columns: Sequence[str] = TIDY_COLUMNS) -> Any:
    """Return rows as a ``wandb.Table``."""
    import wandb

    return wandb.Table(columns=list(columns), data=rows)


def media_of(results: Results, images: Sequence[Any] | None = None) -> dict[str, Any]:
    """Return what W&B can show of one evaluator's details.

    Shown are ``samples`` (column name to one value a sample, or the name of a ``.npz`` file of scores in the results'
    folder), ``confusion`` (counts, truth by what the attack said), ``fpr`` and ``tpr`` (the ROC curve), and
    ``posteriors`` (name of a set to posteriors of the true class), and ``answers``: label and answers before, after and
    of the retrained model, sample by sample of the forget set, by their place in the request.

    Args:
        results: What one evaluator found.
        images: Pictures of the first samples, to go beside the answers; more than there are samples do no harm.
            ``None`` leaves out the answers, which are of who was forgotten, one by one.

    Returns:
        ``<name>/samples``, ``<name>/answers``, ``<name>/confusion``, ``<name>/roc`` and
        ``<name>/posteriors/<set>`` as far as the details hold them.

    Raises:
        ValueError: If the columns of ``samples`` differ in length.
    """
    import wandb

    name, details = results.name, results.details
    media: dict[str, Any] = {}
    samples = details.get("samples")
    if isinstance(samples, Mapping):
        media[f"{name}/samples"] = _samples(name, samples)
    elif isinstance(samples, str) and results.folder and (results.folder / samples).is_file():
        media[f"{name}/samples"] = _sample_file(results.folder / samples)
    if images is not None and (answers := details.get("answers")):
        columns = {"sample": range(1, len(answers["label"]) + 1), **answers}
        if images:
            columns = {"image": [wandb.Image(one) for one in images], **columns}
        rows = [list(row) for row in zip(*columns.values(), strict=False)]
        media[f"{name}/answers"] = rows_table(rows, list(columns))
    if confusion := details.get("confusion"):
        media[f"{name}/confusion"] = _confusion(results.model, confusion)
    if "fpr" in details and "tpr" in details:
        axes = ("false positive rate", "true positive rate")
        points = rows_table([list(point) for point in zip(details["fpr"], details["tpr"], strict=True)], axes)
        media[f"{name}/roc"] = wandb.plot.line(
            points, *axes, title=f"Membership inference on {results.model}: ROC"
        )
    for set_name, values in details.get("posteriors", {}).items():
        counts = np.histogram(np.asarray(values), bins=_BINS, range=(0.0, 1.0))
        media[f"{name}/posteriors/{set_name.replace(' ', '_')}"] = wandb.Histogram(np_histogram=counts)
    return media


def _samples(name: str, columns: Mapping[str, Sequence[Any]]) -> Any:
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"details['samples'] of {name!r}: every column needs one value a sample, got {lengths}"
        )
    return rows_table([list(row) for row in zip(*columns.values(), strict=True)], list(columns))


def _sample_file(path: Path) -> Any:
    """Return what a file of arrays holds, one value a row with its place, since their shapes may differ."""
    with np.load(path) as arrays:
        rows = [
            [name, " ".join(map(str, place)), value.item()]
            for name in arrays.files
            for place, value in np.ndenumerate(arrays[name])
        ]
    return rows_table(rows, ["score", "place", "value"])


def _confusion(model: str, counts: Sequence[Sequence[int]]) -> Any:
    """Chart the counts as they are: ``wandb.plot.confusion_matrix`` would need every single prediction."""
    import wandb

    columns = ["Actual", "Predicted", "nPredictions"]
    cells = [
        [truth, said, int(counts[row][column])]
        for row, truth in enumerate(_SAID)
        for column, said in enumerate(_SAID)
    ]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        rows_table(cells, columns),
        {column: column for column in columns},
        {"title": f"Membership inference on {model}: truth and what the attack says"},
    )
