"""The trade-off figure: what a method forgot against what it kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import base
from lightning_unlearn.reports.glossary import (
    CONTROLS,
    describe,
    half_width,
    measured_metrics,
    ordered_models,
)
from lightning_unlearn.reports.schema import Report, Value
from lightning_unlearn.reports.verdict import separates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UTILITY = "accuracy/test"
_SHARES = (
    "backdoor/success_rate_forget",
    "membership_inference/hit_rate",
    "accuracy/forget",
    "membership_inference/auc",
)
"""What is drawn against accuracy, the most telling first: shares, and less of each means less of D_f."""
_FALLBACK = (
    "membership_inference/hit_rate",
    "membership_inference/auc",
    "accuracy/forget",
    "backdoor/success_rate_forget",
)
"""The same where the controls give no reason to choose: the first that the report holds."""

_REASONS = {
    "separates": "Forgetting is read from a metric that tells the source model from the retrained one.",
    "widest gap": "One seed, no interval: forgetting is read from the metric in which source and retrained "
    "model lie furthest apart.",
    "no separation": "Take care: no forgetting metric here tells the source model from the retrained one.",
    "no controls": "Source or retrained model is missing, so nothing shows that the metric tells them apart.",
}


@dataclass(frozen=True)
class ForgettingAxis:
    """The metric that stands for forgetting in a figure.

    Attributes:
        metric: Its name in the report.
        reason: Why it was chosen: it "separates" the controls; with one seed, it has the "widest gap" between
            them; or it is only the first at hand, since there is "no separation" or there are "no controls".
    """

    metric: str
    reason: Literal["separates", "widest gap", "no separation", "no controls"]


def forgetting_axis(report: Report) -> ForgettingAxis | None:
    """Choose the metric that shows forgetting best: the first that tells the controls apart.

    A metric in which the source model, which forgot nothing, lies inside the retrained model's 95% interval
    would show every method near its goal. Asked are the shares that this package measures and then whatever else
    is declared to decide on forgetting. With one seed there are no intervals; of the shares, the one with the widest
    gap between the controls in points is taken.

    Returns:
        The choice, None where the report holds no such metric.
    """
    shares = base.measured(report, _SHARES)
    others = [name for name in measured_metrics(report) if describe(name, report).decides == "forgetting"]
    candidates = list(dict.fromkeys([*shares, *others]))
    if not candidates:
        return None
    source, retrain = (report["models"].get(name, {}) for name in ("source", "retrain"))
    comparable = [name for name in candidates if name in source and name in retrain]
    separating = [name for name in comparable if separates(report, name)]
    if separating:
        return ForgettingAxis(separating[0], "separates")
    gaps = {name: abs(source[name]["mean"] - retrain[name]["mean"]) for name in comparable if name in shares}
    if gaps and all(separates(report, name) is None for name in comparable) and max(gaps.values()) > 0:
        return ForgettingAxis(max(gaps, key=gaps.__getitem__), "widest gap")
    at_hand = comparable or candidates
    first = next((name for name in _FALLBACK if name in at_hand), at_hand[0])
    return ForgettingAxis(first, "no separation" if comparable else "no controls")


@base.declare(
    "trade_off.png",
    "Forgetting against accuracy",
    "Scatter plot: each model's test accuracy against how much of the forget set it still gives away, with "
    "95% intervals; dashed lines and grey bands mark the retrained model, which a method should be near.",
)
def trade_off(report: Report, details: Details) -> Figure | None:
    """Draw what was forgotten against what was kept."""
    choice = forgetting_axis(report)
    if choice is None:
        return None
    needed = {_UTILITY, choice.metric}
    models = {name: report["models"][name] for name in ordered_models(report)}
    models = {name: values for name, values in models.items() if needed <= values.keys()}
    if not models:
        return None
    about_x, about_y = describe(_UTILITY, report), describe(choice.metric, report)
    figure = base.new_figure(7.8, max(4.6, 1.6 + 0.30 * len(models)))
    axes = figure.subplots()
    handles = {}
    for name, look in base.line_styles(list(models)).items():
        if name not in models:
            continue
        x, y = models[name][_UTILITY], models[name][choice.metric]
        drawn = axes.errorbar(
            x["mean"] * about_x.scale,
            y["mean"] * about_y.scale,
            xerr=(half_width(x) or 0.0) * about_x.scale,
            yerr=(half_width(y) or 0.0) * about_y.scale,
            color=look["color"],
            marker=look["marker"],
            markersize=12 if name in CONTROLS else 8,
            markeredgecolor="white",
            markeredgewidth=0.8,
            linestyle="none",
            elinewidth=1.2,
            capsize=2.5,
            zorder=4 if name in CONTROLS else 3,
            label=base.model_label(name),
        )
        # The marker alone: a legend's entry made of a whole error bar is a blot.
        handles[base.model_label(name)] = drawn.lines[0]
    # Limits before the band, which would otherwise widen them; no mean is cut off, a long whisker may be.
    _limit(axes, "x", about_x, (values[_UTILITY] for values in models.values()), share=True, ticks=6)
    share = choice.metric in _SHARES or about_y.unit == "%"
    _limit(axes, "y", about_y, (values[choice.metric] for values in models.values()), share=share, ticks=7)
    base.reference_line(axes, report, _UTILITY, along="x")
    base.reference_line(axes, report, choice.metric, along="y")
    axes.set(xlabel=base.typeset(about_x.heading), ylabel=base.typeset(about_y.heading, 46))
    axes.set_title(base.typeset(_REASONS[choice.reason], 62), loc="left", fontsize=10)
    axes.grid(**base.GRID)
    axes.ticklabel_format(useOffset=False)
    several = len(report["seeds"]) > 1
    title = "dashed and grey: the retrained\nmodel and its 95% interval" if several else None
    base.legend(figure, handles, title=title or "dashed: the retrained model")
    return figure


def _limit(
    axes: Axes, along: str, about: DeclaredMetric, values: Iterable[Value], *, share: bool, ticks: int
) -> None:
    """Hold all intervals, of shares as far as they lie within [0, 1], and a margin so that no marker is cut."""
    from matplotlib.ticker import MaxNLocator

    ends = [end for value in values for end in base.interval(value)]
    low, high = min(ends), max(ends)
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    margin = max(0.06 * (high - low), 0.004)
    limits = (low - margin) * about.scale, (high + margin) * about.scale
    axes.set(**{f"{along}lim": limits})
    places = MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(*limits)
    if share:
        limits = max(limits[0], 0.0), min(limits[1], about.scale)
    ticked = axes.xaxis if along == "x" else axes.yaxis
    ticked.set_ticks([place for place in places if limits[0] <= place <= limits[1]])
