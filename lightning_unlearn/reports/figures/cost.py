"""The cost-quality figure: what each method reaches for its time, beside retraining for as long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import base
from lightning_unlearn.reports.figures.trade_off import forgetting_axis
from lightning_unlearn.reports.floor import costs
from lightning_unlearn.reports.glossary import (
    describe,
    forgot_nothing,
    half_width,
    method_names,
    short_retrainings,
)
from lightning_unlearn.reports.schema import Report, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UTILITY = "accuracy/test"
_LINE: dict[str, Any] = {"color": "#000000", "linewidth": 1.4, "marker": "o", "markersize": 5, "zorder": 2}
_Point = tuple[float, float, float]
"""Where a model lies: its cost, what it reaches, and half the width of the interval."""


@base.declare(
    "cost_quality.png",
    "Cost against quality",
    "Two panels over the share of retraining's time that a model took, on a logarithmic axis: test accuracy, and the "
    "share of the gap between source and retrained model that was closed, with 95% intervals. The black line joins "
    "the retrainings that were stopped short; a method above it is worth its time.",
)
def cost_quality(report: Report, details: Details) -> Figure | None:
    """Draw what methods and short retrainings reach for their cost."""
    cost, short, choice = costs(report), short_retrainings(report), forgetting_axis(report)
    line = [name for name in (*short, "retrain") if name in cost]
    models = [name for name in method_names(report) if name in cost]
    if len(line) < 2 or not models:
        return None
    panels: list[tuple[str, dict[str, _Point]]] = []
    about = describe(_UTILITY, report)
    panels.append((about.heading, _points(report, cost, _UTILITY, 0.0, about.scale)))
    nothing = None if choice is None else forgot_nothing(report, choice.metric)
    if choice is not None and nothing and "retrain" in (known := _having(report, choice.metric)):
        source, retrained = nothing["mean"], known["retrain"]["mean"]
        if source != retrained:
            label = f"Share of the gap closed [%], {describe(choice.metric, report).short}"
            panels.append((label, _points(report, cost, choice.metric, source, 100 / (retrained - source))))
    figure = base.new_figure(4.4 * len(panels) + 2.4, max(4.2, 1.6 + 0.30 * len(models)))
    handles: dict[str, Any] = {}
    for axes, (label, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        handles |= _panel(axes, points, line, models)
        axes.set_ylabel(base.typeset(label, 46))
        axes.set_xlabel("Time, as a share of retraining's")
        axes.axhline(points["retrain"][1], linewidth=1.0, zorder=1, **base.CONTROL_LOOKS["retrain"])
    base.legend(figure, handles)
    return figure


def _having(report: Report, metric: str) -> Mapping[str, Value]:
    return {name: values[metric] for name, values in report["models"].items() if metric in values}


def _points(
    report: Report, cost: Mapping[str, float], metric: str, zero: float, scale: float
) -> dict[str, _Point]:
    """Return where each model lies that has the metric, counted from ``zero`` in units of ``1 / scale``."""
    return {
        name: (cost[name], (value["mean"] - zero) * scale, abs((half_width(value) or 0.0) * scale))
        for name, value in _having(report, metric).items()
        if name in cost
    }


def _panel(axes: Axes, points: Mapping[str, _Point], line: list[str], models: list[str]) -> dict[str, Any]:
    """Draw one panel; return the legend's entries."""
    from matplotlib.ticker import PercentFormatter

    xs, ys, _ = zip(*(points[name] for name in line if name in points), strict=True)
    (floor,) = axes.plot(xs, ys, **_LINE)
    handles: dict[str, Any] = {"retraining, stopped short": floor}
    for name, look in base.line_styles(models).items():
        if name in points and name in models:
            x, y, half = points[name]
            drawn = axes.errorbar(
                x,
                y,
                yerr=half,
                color=look["color"],
                marker=look["marker"],
                markersize=8,
                markeredgecolor="white",
                linestyle="none",
                elinewidth=1.2,
                capsize=2.5,
                zorder=3,
            )
            handles[base.model_label(name)] = drawn.lines[0]
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.grid(**base.GRID)
    # a long whisker may be cut off, no mean
    means = [points[name][1] for name in (*line, *models) if name in points]
    room = 0.12 * (max(means) - min(means)) or 1.0
    axes.set_ylim(min(means) - room, max(means) + room)
    return handles
