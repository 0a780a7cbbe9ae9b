"""The trade-off figure: what a method forgot against what it kept; measures neither."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    GRID,
    FigureSpec,
    line_styles,
    measured,
    model_label,
    new_figure,
    reference_line,
    register,
    typeset,
)
from lightning_unlearn.reports.glossary import CONTROLS, describe, half_width, ordered_models
from lightning_unlearn.reports.schema import Report, Value
from lightning_unlearn.reports.verdict import separates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "ForgettingAxis", "forgetting_axis"]

FIGURES: list[FigureSpec] = []
"""The trade-off."""

_UTILITY = "accuracy/test"
_PREFERRED = (
    "backdoor/success_rate_forget",
    "membership_inference/accuracy",
    "accuracy/forget",
    "membership_inference/auc",
)
"""What may be drawn against accuracy, the most telling first: shares, and less of each means less of D_f."""
_FALLBACK = (
    "membership_inference/accuracy",
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
    would show every method near its goal. With one seed there are no intervals; all candidates are shares, so
    the widest gap between the controls in points is taken.

    Returns:
        The choice, None where the report holds no such metric.
    """
    candidates = measured(report, _PREFERRED)
    if not candidates:
        return None
    source, retrain = (report["models"].get(name, {}) for name in ("source", "retrain"))
    comparable = [name for name in candidates if name in source and name in retrain]
    separating = [name for name in comparable if separates(report, name)]
    if separating:
        return ForgettingAxis(separating[0], "separates")
    gaps = {name: abs(source[name]["mean"] - retrain[name]["mean"]) for name in comparable}
    if gaps and all(separates(report, name) is None for name in comparable) and max(gaps.values()) > 0:
        return ForgettingAxis(max(comparable, key=gaps.__getitem__), "widest gap")
    first = next(name for name in _FALLBACK if name in (comparable or candidates))
    return ForgettingAxis(first, "no separation" if comparable else "no controls")


@register(
    FIGURES,
    "trade_off.png",
    "Forgetting against accuracy",
    "Scatter plot: each model's test accuracy against how much of the forget set it still gives away, with "
    "95% intervals; dashed lines and grey bands mark the retrained model, which a method should be near.",
)
def _trade_off(report: Report, details: Details) -> Figure | None:
    from matplotlib.ticker import MaxNLocator

    choice = forgetting_axis(report)
    if choice is None:
        return None
    forgetting = choice.metric
    models = [
        name for name in ordered_models(report) if {_UTILITY, forgetting} <= report["models"][name].keys()
    ]
    if not models:
        return None
    figure = new_figure(7.8, max(4.6, 1.6 + 0.30 * len(models)))
    axes = figure.subplots()
    styles = line_styles(models)
    about_x, about_y = describe(_UTILITY, report), describe(forgetting, report)
    handles: list[Any] = []
    for name in models:
        x, y = report["models"][name][_UTILITY], report["models"][name][forgetting]
        drawn = axes.errorbar(
            x["mean"] * about_x.scale,
            y["mean"] * about_y.scale,
            xerr=(half_width(x) or 0.0) * about_x.scale,
            yerr=(half_width(y) or 0.0) * about_y.scale,
            color=styles[name]["color"],
            marker=styles[name]["marker"],
            markersize=12 if name in CONTROLS else 8,
            markeredgecolor="white",
            markeredgewidth=0.8,
            linestyle="none",
            elinewidth=1.2,
            capsize=2.5,
            zorder=4 if name in CONTROLS else 3,
            label=model_label(name),
        )
        # The marker alone: a legend's entry made of a whole error bar is a blot.
        handles.append(drawn.lines[0])
    # Limits before the band, which would otherwise widen them; no mean is cut off, a long whisker may be.
    for axis, metric in (("x", _UTILITY), ("y", forgetting)):
        low, high = _limits(
            [report["models"][name][metric] for name in models], describe(metric, report).scale
        )
        axes.set(**{f"{axis}lim": (low, high)})
        reference_line(axes, report, metric, along=axis)
    axes.set_xlabel(typeset(about_x.heading))
    axes.set_ylabel(typeset("\n".join(textwrap.wrap(about_y.heading, 46))))
    axes.set_title("\n".join(textwrap.wrap(_REASONS[choice.reason], 62)), loc="left", fontsize=10)
    axes.grid(**GRID)
    for ticked, limits, count, scale in (
        (axes.xaxis, axes.get_xlim(), 6, about_x.scale),
        (axes.yaxis, axes.get_ylim(), 7, about_y.scale),
    ):
        ticks = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(*limits)
        ticked.set_ticks([tick for tick in ticks if max(limits[0], 0.0) <= tick <= min(limits[1], scale)])
    axes.ticklabel_format(useOffset=False)
    title = "dashed: the retrained model"
    if len(report["seeds"]) > 1:
        title = "dashed and grey: the retrained\nmodel and its 95% interval"
    figure.legend(
        handles,
        [model_label(name) for name in models],
        loc="outside right upper",
        frameon=False,
        title=title,
    )
    return figure


def _limits(values: Sequence[Value], scale: float) -> tuple[float, float]:
    """Return an axis range that holds all intervals within [0, 1], plus a margin so that no marker is cut.

    Both axes of the trade-off hold shares, so an interval that reaches beyond 0 or 1 is shown up to there.
    """
    ends = [end for value in values for end in (value["ci95"] or [value["mean"]])]
    low, high = max(min(ends), 0.0), min(max(ends), 1.0)
    margin = max(0.06 * (high - low), 0.004)
    return (low - margin) * scale, (high + margin) * scale
