"""Figures of horizontal bars: shares that each model reaches, a panel a metric; draws nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    GUESS_DASH,
    VERMILION,
    WHISKER,
    FigureSpec,
    control_handles,
    measured,
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
"""Accuracy, and what attacks still find of the forget set."""


def _bars(
    axes: Axes, report: Report, metric: str, models: Sequence[str], *, guess: float | None = None
) -> None:
    """Draw one metric as horizontal bars with intervals, and print the numbers in a column at the right."""
    about = describe(metric, report)
    positions = range(len(models))
    axes.set_ylim(len(models) - 0.4, -0.6)
    for position, name in zip(positions, models, strict=True):
        value = report["models"][name].get(metric)
        text = "not measured"
        if value is not None:
            half = half_width(value)
            axes.barh(position, value["mean"] * about.scale, height=0.66, color=model_colour(name), zorder=2)
            if half is not None:
                whisker(axes, value["mean"] * about.scale, position, half * about.scale)
            text = format_value(about, value)
        axes.text(
            1.04, position, text, transform=axes.get_yaxis_transform(), va="center", ha="left", fontsize=9
        )
    reference_line(axes, report, metric)
    axes.set_xlim(0, about.scale)
    if guess is not None:
        axes.axvline(guess * about.scale, color=VERMILION, linestyle=GUESS_DASH, linewidth=1.6, zorder=1.6)
    axes.set_yticks(list(positions), [model_label(name) for name in models])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_title(metric_title(about))
    axes.set_xlabel(short_heading(about))


def _bar_panels(
    report: Report, metrics: Sequence[str], models: Sequence[str], *, guess: Mapping[str, float] | None = None
) -> Figure:
    """Draw several metrics of the same models beside each other, with one legend for the lines."""
    from matplotlib.lines import Line2D

    guess = guess or {}
    figure = new_figure(2.6 + 2.9 * len(metrics), 1.5 + rows_height(models))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        _bars(axes, report, metric, models, guess=guess.get(metric))
    handles = control_handles(report, metrics)
    if any(metric in guess for metric in metrics):
        handles.append(Line2D([], [], color=VERMILION, linestyle=GUESS_DASH, linewidth=1.6, label="one half"))
    if len(report["seeds"]) > 1:
        label = f"95% interval over {len(report['seeds'])} seeds"
        handles.append(Line2D([], [], color=WHISKER, linewidth=1.4, marker="|", markersize=7, label=label))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


@register(
    FIGURES,
    "accuracy.png",
    "Accuracy",
    "Horizontal bars: each model's accuracy on the forget set, the retain set and the test set with 95% "
    "intervals; a dashed line marks the retrained model.",
)
def _accuracy(report: Report, details: Details) -> Figure | None:
    metrics = measured(report, ("accuracy/forget", "accuracy/retain", "accuracy/test"))
    return _bar_panels(report, metrics, models_with(report, metrics)) if metrics else None


@register(
    FIGURES,
    "membership_inference.png",
    "Membership inference",
    "Horizontal bars: the membership inference attack's accuracy on the forget set and its area under the "
    "ROC curve for each model with 95% intervals; lines mark the retrained model and one half.",
)
def _membership_inference(report: Report, details: Details) -> Figure | None:
    metrics = measured(report, ("membership_inference/accuracy", "membership_inference/auc"))
    if not metrics:
        return None
    return _bar_panels(report, metrics, models_with(report, metrics), guess=dict.fromkeys(metrics, 0.5))


@register(
    FIGURES,
    "backdoor.png",
    "Backdoor",
    "Horizontal bars: the share of triggered forget samples and of triggered test samples that get the label "
    "of the trigger, and the share of the forget samples that get their true label again, for each model with "
    "95% intervals; a dashed line marks the retrained model.",
)
def _backdoor(report: Report, details: Details) -> Figure | None:
    names = ("success_rate_forget", "success_rate_test", "recovered_accuracy")
    metrics = measured(report, [f"backdoor/{name}" for name in names])
    return _bar_panels(report, metrics, models_with(report, metrics)) if metrics else None
