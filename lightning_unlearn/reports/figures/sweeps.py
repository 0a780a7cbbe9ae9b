"""Figures of one parameter varied over several methods, which are found by the methods' names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import base
from lightning_unlearn.reports.glossary import describe, half_width, measured_metrics, method_names
from lightning_unlearn.reports.schema import Report, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    "unlearning_degree/degree",
    "forgetting_quality/matched",
)
"""What is drawn against the parameter: utility first, then forgetting; after these, what else decides on it."""
_NOT_DRAWN = ("membership_inference/hit_rate",)
"""What decides and stands in another of these already."""
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


@base.declare(
    "sweep_*.png",
    "Sweep: *",
    "Test accuracy and each forgetting metric against the number that ends the names of the methods *, with 95% "
    "intervals; horizontal lines mark the source model and the retrained model.",
)
def sweeps(report: Report, details: Details) -> Mapping[str, Figure]:
    """Draw each sweep that the methods' names tell of."""
    drawn = {stem: _sweep(report, stem, members) for stem, members in find_sweeps(report).items()}
    return {stem: figure for stem, figure in drawn.items() if figure is not None}


def _sweep(report: Report, stem: str, members: Sequence[tuple[float, str]]) -> Figure | None:
    """Draw one sweep, a panel a metric; None where fewer than two of its methods share a metric."""
    models = report["models"]
    deciding = [name for name in measured_metrics(report) if describe(name, report).decides == "forgetting"]
    metrics = [
        *base.measured(report, _PANELS),
        *(name for name in deciding if name not in {*_PANELS, *_NOT_DRAWN}),
    ]
    series = {
        metric: [(value, models[name][metric]) for value, name in members if metric in models[name]]
        for metric in metrics
    }
    shown = [metric for metric, points in series.items() if len(points) > 1]
    if not shown:
        return None
    figure, panels = base.panel_grid(shown, _COLUMNS, panel=(3.7, 2.9), around=(0.6, 0.9))
    for axes, metric, lowest in panels:
        about, points = describe(metric, report), series[metric]
        axes.errorbar(
            [value for value, _ in points],
            [value["mean"] * about.scale for _, value in points],
            yerr=[(half_width(value) or 0.0) * about.scale for _, value in points],
            color=base.BLUE,
            marker="o",
            markersize=6,
            linewidth=1.6,
            elinewidth=1.2,
            capsize=3,
            zorder=3,
        )
        controls = [name for name in ("source", "retrain") if metric in models.get(name, {})]
        shown_values = [*(value for _, value in points), *(models[name][metric] for name in controls)]
        _value_limits(axes, about, shown_values)
        for control in controls:
            base.reference_line(axes, report, metric, along="y", control=control)
        _parameter_axis(axes, sorted({value for value, _ in members}))
        axes.set_title(base.typeset(about.label, 36), fontsize=10.5)
        axes.set_ylabel(base.typeset(about.short_heading))
        axes.grid(**base.GRID)
        if lowest:
            axes.set_xlabel(base.model_label(stem))
        axes.ticklabel_format(axis="y", useOffset=False)
    seeds = len(report["seeds"])
    text = f"mean and 95% interval over {seeds} seeds" if seeds > 1 else "one seed"
    handles = {text: base.line_handle(text, color=base.BLUE, marker="o")}
    handles |= base.control_handles(report, shown, ("source", "retrain"))
    base.legend(figure, handles, "upper center", ncols=min(len(handles), len(shown), _COLUMNS))
    return figure


def _value_limits(axes: Axes, about: DeclaredMetric, values: Sequence[Value]) -> None:
    """Hold all means and, within what the metric can be, their intervals; a line needs a range around it."""
    ends = [end for value in values for end in base.interval(value)]
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
        scale = {"value": "log"} if values[0] > 0 else {"value": "symlog", "linthresh": positive[0]}
        axes.set_xscale(**scale)
    # where the values stand on the scaled axis, and 5 % more at both ends
    scaled = [axes.transScale.transform((value, 1.0))[0] for value in values]
    low, high = 1.05 * scaled[0] - 0.05 * scaled[-1], 1.05 * scaled[-1] - 0.05 * scaled[0]
    back = axes.transScale.inverted().transform
    axes.set_xlim(back((low, 1.0))[0], back((high, 1.0))[0])
    # In units of the axis' width; a letter of the labels takes about this share of a panel.
    letter, right, shown = 0.027, -1.0, {}
    for value, place in zip(values, scaled, strict=True):
        label = f"{value:g}"
        centre, half = (place - low) / (high - low), letter * (len(label) + 1) / 2
        if centre - half >= right:
            shown[value] = label
            right = centre + half
    axes.set_xticks(list(shown), list(shown.values()))
    axes.xaxis.set_minor_locator(NullLocator())
