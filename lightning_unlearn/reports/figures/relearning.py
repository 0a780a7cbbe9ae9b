"""The figure of how fast models learn the forget set again; trains none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    GRID,
    GUESS_DASH,
    SOURCE_COLOUR,
    VERMILION,
    FigureSpec,
    line_styles,
    metric_title,
    model_colour,
    model_label,
    models_with,
    new_figure,
    reference_line,
    register,
    rows_height,
    short_heading,
    whisker,
)
from lightning_unlearn.reports.glossary import describe, format_value, half_width
from lightning_unlearn.reports.schema import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES"]

FIGURES: list[FigureSpec] = []
"""The relearn time."""

_STEPS, _FRESH = "relearn_time/steps", "relearn_time/fresh"
_EVALUATOR = "relearn_time"
_LEAST_LOSS = 1e-6
"""What is below stands at the lower end of the logarithmic axis, on which a loss of 0 has no place."""


@register(
    FIGURES,
    "relearn_time.png",
    "Relearn time",
    "For each model the training steps on the forget set alone until its loss there is the source model's again, "
    "with 95% intervals, a dashed line for the retrained model and a dotted one for an untrained model; beside it, "
    "as far as it was kept, the course of that loss, averaged over the seeds.",
)
def _relearn_time(report: Report, details: Details) -> Figure | None:
    models = models_with(report, (_STEPS,))
    if not models:
        return None
    courses = {
        name: course for name in models if (course := _course(details.get(name, {}), "losses")) is not None
    }
    figure = new_figure(7.2 + 4.6 * bool(courses), max(1.7 + rows_height(models), 3.6))
    panels = figure.subplots(1, 1 + bool(courses), squeeze=False)[0]
    _bars(panels[0], report, models)
    if courses:
        every = [run for name in models for run in details.get(name, {}).values()]
        _losses(panels[1], courses, _course(dict(enumerate(every)), "losses_fresh"), _targets(every))
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", frameon=False, handlelength=3.0
    )
    return figure


def _bars(axes: Axes, report: Report, models: Sequence[str]) -> None:
    about = describe(_STEPS, report)
    for row, name in enumerate(models):
        value = report["models"][name][_STEPS]
        axes.barh(row, value["mean"], height=0.66, color=model_colour(name), zorder=2)
        if (half := half_width(value)) is not None:
            whisker(axes, value["mean"], row, half)
        axes.text(
            1.03,
            row,
            format_value(about, value),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
        )
    reference_line(axes, report, _STEPS)
    untrained = [
        report["models"][name][_FRESH]["mean"] for name in models if _FRESH in report["models"][name]
    ]
    if untrained:
        axes.axvline(
            sum(untrained) / len(untrained),
            color=VERMILION,
            linestyle=GUESS_DASH,
            label="untrained model",
            zorder=1.6,
        )
    axes.set_xlim(left=0)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_yticks(range(len(models)), [model_label(name) for name in models])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", **GRID)
    axes.set_title(metric_title(about))
    axes.set_xlabel(f"{short_heading(about)} [training steps]")


def _losses(
    axes: Axes,
    courses: Mapping[str, npt.NDArray[np.float64]],
    untrained: npt.NDArray[np.float64] | None,
    targets: Sequence[float],
) -> None:
    styles = line_styles(list(courses))
    for name, course in courses.items():
        look = {key: styles[name][key] for key in ("color", "linestyle", "marker")}
        axes.plot(course, label=model_label(name), markersize=4, markevery=[len(course) - 1], **look)
    if untrained is not None:
        axes.plot(untrained, color=VERMILION, linestyle=GUESS_DASH, label="untrained model")
    if targets:
        learned = max(float(np.mean(targets)), _LEAST_LOSS)
        axes.axhline(learned, color=SOURCE_COLOUR, linewidth=1.0, label="counts as learned")
    axes.set_yscale("log")
    axes.grid(**GRID)
    axes.set_title("Loss on $D_f$ while relearning")
    axes.set_xlabel("training steps on $D_f$ alone")
    axes.set_ylabel("cross-entropy [nats]")


def _course(runs: Mapping[int, Any], key: str) -> npt.NDArray[np.float64] | None:
    """Average a loss over the runs, up to where the first of them ends; None where no run kept it."""
    kept = [run[_EVALUATOR][key] for run in runs.values() if run.get(_EVALUATOR, {}).get(key)]
    if not kept:
        return None
    shortest = min(map(len, kept))
    means: npt.NDArray[np.float64] = np.array([losses[:shortest] for losses in kept], dtype=np.float64).mean(
        axis=0
    )
    return np.maximum(means, _LEAST_LOSS)


def _targets(runs: Sequence[Any]) -> list[float]:
    return [run[_EVALUATOR]["target"] for run in runs if "target" in run.get(_EVALUATOR, {})]
