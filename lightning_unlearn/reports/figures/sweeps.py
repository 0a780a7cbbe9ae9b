"""Figures of one parameter varied over several methods: finds the sweeps in a report and draws them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    BLUE,
    GRID,
    FigureSpec,
    control_handles,
    measured,
    metric_title,
    model_label,
    new_figure,
    reference_line,
    register,
    short_heading,
)
from lightning_unlearn.reports.glossary import describe, half_width, method_names
from lightning_unlearn.reports.schema import Report, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "find_sweeps"]

FIGURES: list[FigureSpec] = []
"""The sweeps."""

_NAME = re.compile(r"(.*?)[_\-=: ]([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
"""A method's name that ends in a number: what stands before, a separator, and the number."""
_FEWEST = 3
"""Fewer points make no course."""
_LINEAR_RATIO = 20.0
"""Above this ratio of the largest to the smallest value, most points would crowd at one end: a log axis."""
_PANELS = (
    "accuracy/test",
    "accuracy/forget",
    "backdoor/success_rate_forget",
    "backdoor/recovered_accuracy",
    "membership_inference/fnr",
    "membership_inference/auc",
    "unlearning_degree/calibrated",
    "forgetting_quality/epsilon_mean",
)
"""What may be drawn against the parameter: utility first, then forgetting."""
_COLUMNS = 3


def find_sweeps(report: Report) -> dict[str, list[tuple[float, str]]]:
    """Find the methods that differ in one number at the end of their names.

    Args:
        report: The report.

    Returns:
        Stem of the names to pairs of number and name, ascending; only stems with three different numbers or
        more.

    Example:
        >>> from lightning_unlearn.reports.schema import build_report
        >>> names = ["source", "top_k", "wgan_alpha_1.0", "wgan_alpha_0.2", "wgan_alpha_0.6"]
        >>> report = build_report({name: {0: {"accuracy/test": 0.9}} for name in names},
        ...                       seeds=[0], config={}, data={}, environment={})
        >>> find_sweeps(report)
        {'wgan_alpha': [(0.2, 'wgan_alpha_0.2'), (0.6, 'wgan_alpha_0.6'), (1.0, 'wgan_alpha_1.0')]}
    """
    sweeps: dict[str, list[tuple[float, str]]] = {}
    for name in method_names(report):
        found = _NAME.fullmatch(name)
        if found is not None and found[1]:
            sweeps.setdefault(found[1], []).append((float(found[2]), name))
    return {
        stem: sorted(members)
        for stem, members in sweeps.items()
        if len({value for value, _ in members}) >= _FEWEST
    }


@register(
    FIGURES,
    "sweep_*.png",
    "Sweep: *",
    "Test accuracy and each forgetting metric against the number that ends the names of the methods *, with 95% "
    "intervals; horizontal lines mark the source model and the retrained model.",
)
def _sweeps(report: Report, details: Details) -> Mapping[str, Figure]:
    drawn = {stem: _sweep(report, stem, members) for stem, members in find_sweeps(report).items()}
    return {stem: figure for stem, figure in drawn.items() if figure is not None}


def _sweep(report: Report, stem: str, members: Sequence[tuple[float, str]]) -> Figure | None:
    """Draw one sweep, a panel a metric; None where fewer than two of its methods share a metric."""
    from matplotlib.lines import Line2D

    series: dict[str, list[tuple[float, Value]]] = {}
    for metric in measured(report, _PANELS):
        points = [
            (value, report["models"][name][metric])
            for value, name in members
            if metric in report["models"][name]
        ]
        if len(points) > 1:
            series[metric] = points
    if not series:
        return None
    columns = min(_COLUMNS, len(series))
    rows = -(-len(series) // columns)
    figure = new_figure(0.6 + 3.7 * columns, 0.9 + 2.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(series):
            axes.set_axis_off()
            continue
        metric, points = list(series.items())[index]
        about = describe(metric, report)
        axes.errorbar(
            [value for value, _ in points],
            [value["mean"] * about.scale for _, value in points],
            yerr=[(half_width(value) or 0.0) * about.scale for _, value in points],
            color=BLUE,
            marker="o",
            markersize=6,
            linewidth=1.6,
            elinewidth=1.2,
            capsize=3,
            zorder=3,
        )
        controls = {name: report["models"].get(name, {}).get(metric) for name in ("source", "retrain")}
        _value_limits(axes, about, [*(value for _, value in points), *filter(None, controls.values())])
        for control in controls:
            reference_line(axes, report, metric, along="y", control=control)
        _parameter_axis(axes, sorted({value for value, _ in members}))
        axes.set_title(metric_title(about, 36), fontsize=10.5)
        axes.set_ylabel(short_heading(about))
        axes.grid(**GRID)
        if index + columns >= len(series):
            axes.set_xlabel(model_label(stem))
        axes.ticklabel_format(axis="y", useOffset=False)
    text = (
        f"mean and 95% interval over {len(report['seeds'])} seeds" if len(report["seeds"]) > 1 else "one seed"
    )
    handles = [Line2D([], [], color=BLUE, marker="o", label=text)]
    handles += control_handles(report, list(series), ("source", "retrain"))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(len(handles), columns), frameon=False
    )
    return figure


def _value_limits(axes: Axes, about: DeclaredMetric, values: Sequence[Value]) -> None:
    """Hold all means and, within what the metric can be, their intervals; a line needs a range around it."""
    ends = [end for value in values for end in (value["ci95"] or [value["mean"]])]
    means = [value["mean"] for value in values]
    low, high = min(ends), max(ends)
    if about.unit == "%":
        low, high = max(low, min(0.0, *means)), min(high, max(1.0, *means))
    margin = max(0.07 * (high - low), 0.01)
    axes.set_ylim((low - margin) * about.scale, (high + margin) * about.scale)


def _parameter_axis(axes: Axes, values: Sequence[float]) -> None:
    """Scale the axis to the values, and put ticks at as many of them as leave room for the labels."""
    from matplotlib.ticker import NullLocator

    positive = [value for value in values if value > 0]
    if values[0] >= 0 and len(positive) > 1 and positive[-1] / positive[0] > _LINEAR_RATIO:
        if values[0] == 0:
            axes.set_xscale("symlog", linthresh=positive[0])
        else:
            axes.set_xscale("log")
    axes.set_xlim(*_padded(axes, values))
    labels = {value: f"{value:g}" for value in values}
    # In units of the axis' width; a letter of the labels takes about this share of a panel.
    letter, right, shown = 0.027, -1.0, []
    to_axes = axes.transScale.transform
    ends = [to_axes((end, 1.0))[0] for end in axes.get_xlim()]
    for value in values:
        centre = (to_axes((value, 1.0))[0] - ends[0]) / (ends[1] - ends[0])
        half = letter * (len(labels[value]) + 1) / 2
        if centre - half >= right:
            shown.append(value)
            right = centre + half
    axes.set_xticks(shown, [labels[value] for value in shown])
    axes.xaxis.set_minor_locator(NullLocator())


def _padded(axes: Axes, values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the values and 5 % more at both ends, as seen on the axis."""
    scale = axes.transScale
    low, high = (scale.transform((end, 1.0))[0] for end in (values[0], values[-1]))
    margin = 0.05 * (high - low)
    back = scale.inverted().transform
    return back((low - margin, 1.0))[0], back((high + margin, 1.0))[0]
