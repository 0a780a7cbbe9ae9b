"""Scores as a tidy table, one number a row, for W&B and any data frame."""

from collections.abc import Mapping
from typing import Any

from lightning_unlearn.reports.glossary import CONTROLS, interval_of
from lightning_unlearn.reports.schema import Report

TIDY_COLUMNS = ["method", "metric", "seed", "value", "ci95_low", "ci95_high"]
"""Columns of the tidy table. The interval of a single run is the evaluator's own (over samples), that of a
comparison the one over seeds; None where there is none."""

Rows = list[list[Any]]


def by_model(model: str, metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Sort one evaluator's flat metrics by the model that they belong to.

    Args:
        model: Name of the model that was evaluated.
        metrics: Its metrics, and those of the controls under ``source/...`` and ``retrain/...``.

    Returns:
        Model name to metric name to number; the evaluated model comes first.

    Example:
        >>> by_model("wgan", {"source/accuracy/test": 0.9, "accuracy/test": 0.8})
        {'wgan': {'accuracy/test': 0.8}, 'source': {'accuracy/test': 0.9}}
    """
    sorted_out: dict[str, dict[str, float]] = {model: {}}
    for name, value in metrics.items():
        prefix, _, rest = name.partition("/")
        owner, metric = (prefix, rest) if prefix in CONTROLS else (model, name)
        sorted_out.setdefault(owner, {})[metric] = value
    return sorted_out


def run_rows(
    model: str, seed: int, metrics: Mapping[str, float], details: Mapping[str, Mapping[str, Any]]
) -> Rows:
    """Return the rows of one run.

    Args:
        model: Name of the model.
        seed: Its seed.
        metrics: Its metrics; those of controls count as the controls'.
        details: Name of an evaluator to what it noted, in which ``ci95`` maps a metric, the evaluator's name left
            out, to the ends of the model's own interval.

    Returns:
        Rows under :data:`TIDY_COLUMNS`.

    Example:
        >>> run_rows("wgan", 0, {"my/auc": 0.5, "my/fpr": 0.1}, {"my": {"ci95": {"auc": [0.4, 0.6]}}})
        [['wgan', 'my/auc', 0, 0.5, 0.4, 0.6], ['wgan', 'my/fpr', 0, 0.1, None, None]]
    """
    known = {
        (model, f"{name}/{rate}"): ends
        for name, noted in details.items()
        for rate, ends in noted.get("ci95", {}).items()
    }
    return [
        [owner, metric, seed, value, *known.get((owner, metric), (None, None))]
        for owner, values in by_model(model, metrics).items()
        for metric, value in values.items()
    ]


def report_rows(report: Report) -> Rows:
    """Return the rows of a comparison; a seed that did not measure a metric has none for it.

    Args:
        report: The content of report.json.

    Returns:
        Rows under :data:`TIDY_COLUMNS`; every seed's row holds the interval over all seeds.
    """
    return [
        [model, metric, seed, number, *(interval_of(value) or (None, None))]
        for model, metrics in report["models"].items()
        for metric, value in metrics.items()
        for seed, number in zip(report["seeds"], value["values"], strict=True)
        if number is not None
    ]
