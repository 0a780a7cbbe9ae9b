"""Gives a report's means intervals whose noise is taken from all models together."""

from collections.abc import Mapping

from lightning_unlearn.functional.intervals import pooled_intervals
from lightning_unlearn.reports.glossary import describe, measured_metrics
from lightning_unlearn.reports.schema import Report

__all__ = ["set_intervals"]


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
        of = report["data"].get(f"n_{name.removeprefix('accuracy/')}", report["data"].get("n_forget"))
        samples = of if is_share and isinstance(of, int) and of > 0 else None
        for model, ends in pooled_intervals(values, samples=samples).items():
            report["models"][model][name]["ci95"] = list((given or {}).get((model, name), ends))
