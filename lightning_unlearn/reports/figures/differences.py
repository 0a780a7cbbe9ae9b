"""The figures of differences: how far each model is from the retrained one, metric by metric."""

from lightning_unlearn.metrics.declared import COST
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import Line, Panel, Panels, Series, declare
from lightning_unlearn.reports.glossary import describe, headline_metrics, ordered_models
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.verdict import difference, separates

_GOALS = {
    "retrain": "minus the retrained model's",
    "retrain_2": "minus that of the model retrained once more",
}


@declare(
    "differences.png",
    "Differences from the retrained model",
    "A panel a metric and a row a model: how far the model is from the retrained one, in differences paired by "
    "seed. The dashed line is the retrained model, the grey band the difference that does not "
    "matter.",
)
def differences(report: Report, details: Details) -> Panels:
    """Draw the metrics that see, and those that decide nothing."""
    return [
        panel
        for name in headline_metrics(report)
        if name not in COST and not is_blind(report, name)
        for panel in _panel(report, name)
    ]


@declare(
    "blind.png",
    "Metrics that are blind here",
    "As the differences from the retrained model, of the forgetting metrics in which the source model, which forgot "
    "nothing, does not differ from the retrained one: whatever a method shows here, it tells nothing.",
)
def blind(report: Report, details: Details) -> Panels:
    """Draw the metrics that cannot tell."""
    return [
        panel for name in headline_metrics(report) if is_blind(report, name) for panel in _panel(report, name)
    ]


def is_blind(report: Report, name: str) -> bool:
    """Return whether a metric of forgetting does not tell the source model from the retrained one."""
    return describe(name, report).decides == "forgetting" and separates(report, name) is False


def _panel(report: Report, name: str) -> list[Panel]:
    about = describe(name, report)
    found = {
        model: each
        for model in ordered_models(report)
        if model != about.goal and (each := difference(report, model, name)) is not None
    }
    if not found:
        return []
    series = []
    for row, (model, each) in enumerate(found.items()):
        ends = each.interval(0.95) if each.df else None
        shown = (ends[0] * about.scale, ends[1] * about.scale) if ends else None
        series.append(Series(model, [each.mean * about.scale], [row], [shown], kind="points"))
    band = None if about.margin is None else (-about.margin * about.scale, about.margin * about.scale)
    unit = "points" if about.unit == "%" else about.unit
    axis = f"{about.short} {_GOALS[about.goal]}{f' [{unit}]' if unit else ''}"
    return [Panel(axis, "", series, about.label, name, [Line("retrain", "x", 0.0, band)], rows=list(found))]
