"""The trade-off figure: what a method forgot against what it kept."""

from dataclasses import dataclass
from typing import Literal

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    Panel,
    Panels,
    Series,
    declare,
    goal_line,
    measured,
    scaled,
    within,
)
from lightning_unlearn.reports.glossary import (
    LEAST_SEEDS,
    describe,
    measured_metrics,
    ordered_models,
    utility_of,
)
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.verdict import separates

_SHARES = (
    "backdoor/success_rate_forget",
    "accuracy/forget",
    "membership_inference/auc",
    "membership_inference/hit_rate",
)
"""What is drawn against accuracy, the most telling first: shares, and less of each means less of D_f. The hit rate,
which decides nothing, since it moves with a model's confidence alone, stands in where nothing decides."""
_FALLBACK = (
    "membership_inference/auc",
    "accuracy/forget",
    "backdoor/success_rate_forget",
    "membership_inference/hit_rate",
)
"""The same where the controls give no reason to choose: the first that the report holds."""

_REASONS = {
    "separates": "Forgetting is read from a metric that tells the source model from the retrained one.",
    "widest gap": f"Fewer than {LEAST_SEEDS} seeds: forgetting is read from the metric in which source and retrained "
    "model lie furthest apart.",
    "no separation": "Take care: no forgetting metric here tells the source model from the retrained one.",
    "no controls": "Source or retrained model is missing, so nothing shows that the metric tells them apart.",
}


@dataclass(frozen=True)
class ForgettingAxis:
    """The metric that stands for forgetting in a figure.

    Attributes:
        metric: Its name in the report.
        reason: Why it was chosen: it "separates" the controls; with too few seeds, it has the "widest gap"
            between them; or it is only the first at hand, since there is "no separation" or there are "no controls".
    """

    metric: str
    reason: Literal["separates", "widest gap", "no separation", "no controls"]


def forgetting_axis(report: Report) -> ForgettingAxis | None:
    """Choose the metric that shows forgetting best: the first that tells the controls apart.

    A metric in which the source model, which forgot nothing, lies inside the retrained model's 95% interval
    would show every method near its goal. Asked are the shares that this package measures and then whatever else
    is declared to decide on forgetting; where nothing decides, any share. Too few seeds separate nothing; of the
    shares, the one with the widest gap between the controls in points is taken.

    Returns:
        The choice, None where the report holds no such metric.
    """
    shares = measured(report, _SHARES)
    deciding = [name for name in measured_metrics(report) if describe(name, report).decides == "forgetting"]
    shares = [name for name in shares if name in deciding or not deciding]
    candidates = list(dict.fromkeys([*shares, *deciding]))
    if not candidates:
        return None
    source, retrain = (report["models"].get(name, {}) for name in ("source", "retrain"))
    comparable = [name for name in candidates if name in source and name in retrain]
    separating = [name for name in comparable if separates(report, name)]
    if separating:
        return ForgettingAxis(separating[0], "separates")
    gaps = {
        name: abs(source[name]["mean"] - retrain[name]["mean"])
        for name in comparable
        if name in (shares or comparable)
    }
    if gaps and all(separates(report, name) is None for name in comparable) and max(gaps.values()) > 0:
        return ForgettingAxis(max(gaps, key=gaps.__getitem__), "widest gap")
    at_hand = comparable or candidates
    first = next((name for name in _FALLBACK if name in at_hand), at_hand[0])
    return ForgettingAxis(first, "no separation" if comparable else "no controls")


@declare(
    "trade_off.png",
    "Forgetting against accuracy",
    "Scatter plot: each model's test accuracy against how much of the forget set it still gives away; "
    "dashed lines mark the retrained model, which a method should be near.",
)
def trade_off(report: Report, details: Details) -> Panels:
    """Draw what was forgotten against what was kept."""
    choice = forgetting_axis(report)
    if choice is None:
        return []
    utility = utility_of(report)
    x, y = describe(utility, report), describe(choice.metric, report)
    models = {name: report["models"][name] for name in ordered_models(report)}
    series = [
        Series(
            name,
            [values[utility]["mean"] * x.scale],
            [values[choice.metric]["mean"] * y.scale],
            [scaled(values[choice.metric], y.scale)],
            kind="points",
        )
        for name, values in models.items()
        if {utility, choice.metric} <= values.keys()
    ]
    lines = [*goal_line(report, utility, "x"), *goal_line(report, choice.metric)]
    limits = {"x": within(utility, report), "y": within(choice.metric, report)}
    panel = Panel(x.heading, y.heading, series, _REASONS[choice.reason], choice.metric, lines, within=limits)
    return [panel] if series else []
