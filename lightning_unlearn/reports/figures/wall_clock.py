"""The figure of the time that each model took; compares no time across machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    BLUE,
    ORANGE,
    WHISKER,
    FigureSpec,
    measured,
    model_label,
    models_with,
    new_figure,
    register,
    rows_height,
)
from lightning_unlearn.reports.glossary import describe, format_value, half_width
from lightning_unlearn.reports.schema import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES"]

FIGURES: list[FigureSpec] = []
"""The time."""

_LINEAR_TIME_RATIO = 30.0
"""Above this ratio of the longest to the shortest time, the shortest bar would be a hairline: a log axis."""

_LONGEST_WHISKER = 1.5
"""An interval is shown up to this multiple of the longest mean; beyond, it would press the bars together."""


@register(
    FIGURES,
    "time.png",
    "Time",
    "Each model's wall-clock time, split into preparing and unlearning, with the total and the acceleration "
    "over retraining in numbers.",
)
def _time(report: Report, details: Details) -> Figure | None:
    models = models_with(report, ("time/total_s",))
    if not models:
        return None
    means = {
        name: {metric: value["mean"] for metric, value in report["models"][name].items()} for name in models
    }
    prepare = [means[name].get("time/prepare_s", 0.0) for name in models]
    totals = [means[name]["time/total_s"] for name in models]
    rest = [max(total - before, 0.0) for total, before in zip(totals, prepare, strict=True)]
    halves = [half_width(report["models"][name]["time/total_s"]) for name in models]
    positions = np.arange(len(models))
    figure = new_figure(8.6, 1.5 + rows_height(models))
    axes = figure.subplots()
    axes.set_ylim(len(models) - 0.4, -0.6)
    positive = [total for total in totals if total > 0]
    if positive and max(positive) / min(positive) > _LINEAR_TIME_RATIO:
        # On a log axis the length of a bar, and all the more of a stacked one, means nothing: points instead.
        axes.set_xscale("log")
        left = min([before for before in prepare if before > 0] + positive) / 1.8
        axes.set_xlim(left, max(totals) * 1.8)
        axes.hlines(positions, left, totals, color="#CCCCCC", linewidth=1, zorder=1)
        shown = [position for position, before in zip(positions, prepare, strict=True) if before > 0]
        axes.plot(
            [prepare[position] for position in shown],
            shown,
            "s",
            color=ORANGE,
            markersize=7,
            zorder=3,
            label="of it to prepare",
        )
        axes.plot(totals, positions, "o", color=BLUE, markersize=8, zorder=4, label="total (mean)")
        _plain_log_ticks(axes)
    else:
        axes.barh(positions, prepare, height=0.66, color=ORANGE, zorder=2, label="prepare")
        axes.barh(positions, rest, left=prepare, height=0.66, color=BLUE, zorder=2, label="train or unlearn")
        ends = [total + (half or 0.0) for total, half in zip(totals, halves, strict=True)]
        axes.set_xlim(0, min(max(ends), _LONGEST_WHISKER * max(totals)) * 1.05 or 1.0)
    if any(half is not None for half in halves):
        axes.errorbar(
            totals,
            positions,
            xerr=[half or 0.0 for half in halves],
            fmt="none",
            ecolor=WHISKER,
            elinewidth=1.4,
            capsize=3,
            zorder=5,
            label="95% interval of the total",
        )
    for column, metric in enumerate(measured(report, ("time/total_s", "acceleration"))):
        about = describe(metric, report)
        texts = [report["models"][name].get(metric) for name in models]
        rows = [(-0.85, f"{about.short} [{about.unit}]")]
        rows += [
            (position, format_value(about, value))
            for position, value in enumerate(texts)
            if value is not None
        ]
        for height, text in rows:
            axes.annotate(
                text,
                (1.0, height),
                xycoords=axes.get_yaxis_transform(),
                xytext=(10 + 105 * column, 0),
                textcoords="offset points",
                va="center",
                ha="left",
                fontsize=9,
                annotation_clip=False,
            )
    axes.set_yticks(list(positions), [model_label(name) for name in models])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_xlabel("Wall-clock time [s]")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _plain_log_ticks(axes: Axes) -> None:
    """Print the ticks of a log axis as plain numbers, few enough not to touch each other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    within_two_decades = high / low < 100
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if within_two_decades else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
