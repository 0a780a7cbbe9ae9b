"""Figures of the membership inference attack beyond its scores: confusion matrices and ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    GRID,
    GUESS_DASH,
    VERMILION,
    FigureSpec,
    line_styles,
    model_label,
    new_figure,
    register,
)
from lightning_unlearn.reports.glossary import ordered_models
from lightning_unlearn.reports.schema import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES"]

FIGURES: list[FigureSpec] = []
"""Confusion matrices and ROC curves."""

_DARK = 0.72
"""Share above which a field's blue is so dark that white letters stand out better than black ones."""


@register(
    FIGURES,
    "membership_confusion.png",
    "Membership inference: confusion matrices",
    "For each model, how many forget-set samples and samples never trained on the attack took for members, "
    "summed over the seeds, with the share of each row.",
)
def _confusion(report: Report, details: Details) -> Figure | None:
    matrices: dict[str, npt.NDArray[np.float64]] = {}
    for name in ordered_models(report):
        counts = [
            run["membership_inference"]["confusion"]
            for run in details.get(name, {}).values()
            if "confusion" in run.get("membership_inference", {})
        ]
        if counts:
            matrices[name] = np.sum([_confusion_matrix(name, count) for count in counts], axis=0)
    if not matrices:
        return None
    columns = min(4, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = new_figure(1.4 + 2.4 * columns, 0.5 + 2.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(matrices):
            axes.set_axis_off()
            continue
        name, matrix = list(matrices.items())[index]
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for row in range(2):
            for column in range(2):
                colour = "white" if shares[row, column] > _DARK else "black"
                text = f"{100 * shares[row, column]:.1f} %\n({matrix[row, column]:,.0f})"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9.5)
        axes.set_title(model_label(name))
        last_of_column = index + columns >= len(matrices)
        axes.set_xticks([0, 1], ["member", "never\ntrained on"] if last_of_column else ["", ""])
        axes.set_yticks([0, 1], ["$D_f$", "never\ntrained on"] if index % columns == 0 else ["", ""])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.supxlabel("The attack says", fontsize=10)
    figure.supylabel("The truth", fontsize=10)
    return figure


def _confusion_matrix(model: str, counts: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    matrix = np.asarray(counts, dtype=np.float64)
    if matrix.shape != (2, 2) or (matrix < 0).any():
        raise ValueError(f"details[{model!r}]: confusion must be 2 rows of 2 counts >= 0, got {counts!r}")
    return matrix


@register(
    FIGURES,
    "membership_roc.png",
    "Membership inference: ROC curves",
    "The attack's true positive rate against its false positive rate for each model, averaged over the "
    "seeds, on linear axes and on logarithmic axes; the diagonal is guessing.",
)
def _roc(report: Report, details: Details) -> Figure | None:
    # Dense near 0, where the logarithmic panel looks.
    grid = np.union1d(np.linspace(0.0, 1.0, 201), np.geomspace(1e-3, 1.0, 121))
    curves: dict[str, npt.NDArray[np.float64]] = {}
    for name in ordered_models(report):
        runs = [
            run["membership_inference"]
            for run in details.get(name, {}).values()
            if {"fpr", "tpr"} <= run.get("membership_inference", {}).keys()
        ]
        if runs:
            curves[name] = np.mean([_roc_on(grid, name, run["fpr"], run["tpr"]) for run in runs], axis=0)
    if not curves:
        return None
    figure = new_figure(11.0, max(4.6, 1.2 + 0.30 * len(curves)))
    linear, logarithmic = figure.subplots(1, 2)
    styles = line_styles(list(curves))
    for axes in (linear, logarithmic):
        axes.plot(
            grid, grid, color=VERMILION, linestyle=GUESS_DASH, linewidth=1.6, label="guessing", zorder=1
        )
        for name, curve in curves.items():
            style = styles[name]
            axes.plot(
                grid,
                curve,
                color=style["color"],
                linestyle=style["linestyle"],
                linewidth=1.9,
                label=model_label(name),
            )
        axes.set_xlabel("False positive rate")
        axes.set_ylabel("True positive rate on $D_f$")
        axes.grid(**GRID)
    linear.set(xlim=(0, 1), ylim=(0, 1.01), title="Linear axes")
    logarithmic.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1.05), title="Logarithmic axes")
    handles, labels = linear.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, handlelength=3.2)
    return figure


def _roc_on(
    grid: npt.NDArray[np.float64], model: str, fpr: Sequence[float], tpr: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Read one ROC curve at the false positive rates of ``grid``, so that several seeds can be averaged."""
    x, y = np.asarray(fpr, dtype=np.float64), np.asarray(tpr, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or x.size < 2 or (np.diff(x) < 0).any():
        raise ValueError(
            f"details[{model!r}]: fpr must ascend and be as long as tpr, at least 2, got the shapes "
            f"{x.shape} and {y.shape}"
        )
    return np.interp(grid, x, y)
