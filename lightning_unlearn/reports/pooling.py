"""Gives a report's means intervals whose noise is taken from all models together."""

from collections.abc import Mapping

from lightning_unlearn.functional.intervals import pooled_intervals
from lightning_unlearn.reports.glossary import (
    CONTROLS,
    describe,
    is_control,
    measured_metrics,
    samples_of,
)
from lightning_unlearn.reports.schema import Report


def set_intervals(report: Report, given: Mapping[tuple[str, str], tuple[float, float]] | None = None) -> None:
    """Replace each score's interval over the seeds by one that the noise of all models makes; times keep their own.

    Args:
        report: The report, which is changed.
        given: Intervals that are known better, by model and metric.
    """
    for name in measured_metrics(report):
        metric = describe(name, report)
        values = {
            model: [value for value in scores[name]["values"] if value is not None]
            for model, scores in report["models"].items()
            if name in scores
        }
        values = {model: row for model, row in values.items() if len(row) > 1}
        if metric.unit not in ("", "%"):
            continue
        is_share = metric.unit == "%" and all(0 <= value <= 1 for row in values.values() for value in row)
        samples = samples_of(report, name) if is_share else None
        short = {model: row for model, row in values.items() if is_control(model) and model not in CONTROLS}
        for pool in (short, {model: row for model, row in values.items() if model not in short}):
            for model, ends in pooled_intervals(pool, samples=samples).items():
                value = report["models"][model][name]
                low, high = (given or {}).get((model, name), ends)
                if is_share:
                    low, high = max(low, 0.0), min(high, 1.0)
                value["ci95"] = [min(low, value["mean"]), max(high, value["mean"])]
