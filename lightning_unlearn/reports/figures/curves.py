"""Figures of scores over the epochs of unlearning; draws what was measured on the way and smooths nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    GRID,
    FigureSpec,
    control_handles,
    line_styles,
    metric_title,
    model_label,
    new_figure,
    reference_line,
    register,
    short_heading,
)
from lightning_unlearn.reports.glossary import describe, ordered_models
from lightning_unlearn.reports.schema import Report, Value, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES"]

FIGURES: list[FigureSpec] = []
"""The backdoor's course."""

_SCORES = ("clean_accuracy", "success_rate_forget", "success_rate_test", "recovered_accuracy", "combined")
_COLUMNS = 3
_BANDS_INK = 0.5
"""Opacity that all bands of a panel share: many that lie over each other would hide the lines."""
_FAINTEST, _DARKEST = 0.05, 0.15


@register(
    FIGURES,
    "backdoor_curve.png",
    "Backdoor over the epochs",
    "Accuracy and success rates of the backdoor after each epoch of unlearning, a line a method: the mean over "
    "the seeds with its 95% interval as a band; dashed lines mark the retrained model.",
)
def _backdoor_curve(report: Report, details: Details) -> Figure | None:
    curves: dict[str, dict[str, dict[int, Value]]] = {score: {} for score in _SCORES}
    for name in ordered_models(report):
        runs = [
            _checked(name, run["backdoor"]["curve"])
            for run in details.get(name, {}).values()
            if run.get("backdoor", {}).get("curve")
        ]
        for score in _SCORES:
            curve = _mean_curve([run[score] for run in runs if score in run])
            if curve:
                curves[score][name] = curve
    curves = {score: by_model for score, by_model in curves.items() if by_model}
    if not curves:
        return None
    models = [name for name in ordered_models(report) if any(name in each for each in curves.values())]
    columns = min(_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure = new_figure(3.0 + 3.5 * columns, max(0.8 + 2.9 * rows, 1.4 + 0.30 * len(models)))
    grid = figure.subplots(rows, columns, squeeze=False)
    styles = line_styles(models)
    band: dict[str, Any] = {"alpha": np.clip(_BANDS_INK / len(models), _FAINTEST, _DARKEST), "linewidth": 0}
    lines = {}
    for index, axes in enumerate(grid.flat):
        if index >= len(curves):
            axes.set_axis_off()
            continue
        score, by_model = list(curves.items())[index]
        metric = f"backdoor/{score}"
        about = describe(metric, report)
        for name, curve in by_model.items():
            look = {key: styles[name][key] for key in ("color", "linestyle")}
            epochs, values = list(curve), list(curve.values())
            means = [value["mean"] * about.scale for value in values]
            # A marker shows where it was measured, and a curve of one point at all.
            (lines[name],) = axes.plot(epochs, means, marker=styles[name]["marker"], markersize=4, **look)
            if all(value["ci95"] is not None for value in values):
                low, high = np.clip(
                    np.array([value["ci95"] for value in values], dtype=np.float64).T, 0.0, 1.0
                )
                axes.fill_between(epochs, low * about.scale, high * about.scale, color=look["color"], **band)
        axes.set_ylim(-0.03 * about.scale, 1.03 * about.scale)
        reference_line(axes, report, metric, along="y")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(metric_title(about, 36), fontsize=10.5)
        axes.set_ylabel(short_heading(about))
        axes.grid(**GRID)
        if index + columns >= len(curves):
            axes.set_xlabel("Epochs of unlearning")
    handles = control_handles(report, [f"backdoor/{score}" for score in curves])
    figure.legend(
        [*lines.values(), *handles],
        [*(model_label(name) for name in lines), *(handle.get_label() for handle in handles)],
        loc="outside right upper",
        frameon=False,
    )
    return figure


def _checked(model: str, curve: Mapping[str, Sequence[float]]) -> dict[str, dict[int, float]]:
    """Return score to epoch to value."""
    epochs = list(curve.get("epoch", ()))
    if any(after <= before for before, after in pairwise(epochs)) or any(
        len(values) != len(epochs) for values in curve.values()
    ):
        raise ValueError(
            f"details[{model!r}]: the backdoor's curve needs an ascending 'epoch' and scores of its length, got "
            f"the lengths { {key: len(values) for key, values in curve.items()} }"
        )
    return {
        score: dict(zip(map(int, epochs), values, strict=True))
        for score, values in curve.items()
        if score != "epoch"
    }


def _mean_curve(runs: Sequence[Mapping[int, float]]) -> dict[int, Value]:
    """Summarise the epochs that every run measured; elsewhere the mean would jump with who takes part."""
    if not runs:
        return {}
    return {
        epoch: summarise([run[epoch] for run in runs])
        for epoch in runs[0]
        if all(epoch in run for run in runs)
    }
