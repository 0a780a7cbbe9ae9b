"""Figures of what was logged while a model was trained, one figure a model; smooths nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    BLUE,
    GREEN,
    GRID,
    PURPLE,
    RETRAIN_DASH,
    VERMILION,
    FigureSpec,
    new_figure,
    register,
)
from lightning_unlearn.reports.glossary import clean, describe, ordered_models, wrap_name
from lightning_unlearn.reports.schema import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES"]

FIGURES: list[FigureSpec] = []
"""The training curves."""

_COLUMNS = 3
_SETS = {"forget": (VERMILION, "o"), "retain": (BLUE, "s"), "test": (GREEN, "^")}
"""Colour and marker of the sets whose accuracies share a panel, since they are read against each other."""
_ACCURACY = re.compile(r"(train/)?accuracy[/_](forget|retain|test)")
_OWN_FIGURE = ("backdoor/",)
"""What has a figure of its own is not repeated."""
_UNITS = {"gradient_norm": "Euclidean norm", "similarity": "1 - JS"}
"""What a quantity that is no term of the loss is measured in."""
_FEW = 15
"""Up to so many points each is marked, or a reader would take a line between two for many."""
_TITLE_WIDTH = 30

_Course = Mapping[int, float]


@register(
    FIGURES,
    "training_*.png",
    "Training curves of *",
    "What was logged over the optimiser steps in which * was trained: thin lines for the seeds, a thick line for "
    "their mean, and a panel each for the loss, its terms and whatever else was logged; the accuracies on the sets "
    "share a panel, with dashed lines for the retrained model, and so do those on the batches.",
    of_model=True,
)
def _training(report: Report, details: Details) -> Mapping[str, Figure]:
    figures: dict[str, Figure] = {}
    for name in ordered_models(report):
        runs = [run.get("training_curves", {}) for run in details.get(name, {}).values()]
        courses: dict[str, list[_Course]] = {}
        for curves in runs:
            for quantity, curve in curves.items():
                if not quantity.startswith(_OWN_FIGURE):
                    courses.setdefault(quantity, []).append(_checked(name, quantity, curve))
        if courses:
            figures[name] = _figure(report, courses)
    return figures


def _figure(report: Report, courses: Mapping[str, Sequence[_Course]]) -> Figure:
    panels = _panels(courses)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(0.6 + 3.4 * columns, 0.9 + 2.3 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(panels):
            axes.set_axis_off()
            continue
        if _ACCURACY.fullmatch(panels[index][0]):
            _accuracy_panel(axes, report, {quantity: courses[quantity] for quantity in panels[index]})
        else:
            (quantity,) = panels[index]
            name = quantity.removeprefix("train/")
            about = describe(quantity, report)
            _lines(axes, courses[quantity], about.scale, color=PURPLE if index else BLUE, marker="o")
            axes.set_title(wrap_name(quantity.replace("$", r"\$"), _TITLE_WIDTH, 2), fontsize=10.5)
            axes.set_ylabel(_UNITS.get(name, "loss" if name != quantity else about.unit))
            axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 4))
        axes.grid(**GRID)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
        if index + columns >= len(panels):
            axes.set_xlabel("Optimiser steps")
    return figure


def _panels(quantities: Collection[str]) -> list[list[str]]:
    """Return what stands in each panel: the loss, its terms, the accuracies together, and then the rest."""

    def rank(quantity: str) -> tuple[int, str]:
        name = quantity.removeprefix("train/")
        if name == quantity or name in _UNITS:
            return 3, quantity
        return 0 if name == "loss" else 1, quantity

    alone = sorted((name for name in quantities if not _ACCURACY.fullmatch(name)), key=rank)
    together: dict[str, list[str]] = {}
    for quantity in sorted(quantities):
        if found := _ACCURACY.fullmatch(quantity):
            together.setdefault(found[1] or "", []).append(quantity)
    first = sum(rank(quantity)[0] < 3 for quantity in alone)
    return [
        *([quantity] for quantity in alone[:first]),
        *together.values(),
        *([quantity] for quantity in alone[first:]),
    ]


def _accuracy_panel(axes: Axes, report: Report, courses: Mapping[str, Sequence[_Course]]) -> None:
    on_batches = next(iter(courses)).startswith("train/")
    for quantity, of_seeds in courses.items():
        found = _ACCURACY.fullmatch(quantity)
        name = found[2] if found else quantity
        tint, marker = _SETS[name]
        _lines(axes, of_seeds, 100.0, color=tint, marker=marker, label=f"{name} set")
        target = report["models"].get("retrain", {}).get(f"accuracy/{name}")
        if target is not None and not on_batches:
            axes.axhline(100.0 * target["mean"], color=tint, linestyle=RETRAIN_DASH, linewidth=1.1)
    axes.set_title("Accuracy on the batches" if on_batches else "Accuracy (dashed: retrained)", fontsize=10.5)
    axes.set_ylabel("accuracy [%]")
    axes.set_ylim(-3, 122)  # the legend stands above 100, where no curve can run into it
    axes.set_yticks(range(0, 101, 20))
    axes.legend(
        fontsize=8,
        frameon=False,
        loc="upper center",
        ncols=3,
        handlelength=1.4,
        columnspacing=0.9,
        borderpad=0.1,
    )


def _lines(axes: Axes, of_seeds: Sequence[_Course], scale: float, *, label: str = "", **look: Any) -> None:
    """Draw a thin line a seed and the mean where all seeds were measured."""
    shared = sorted(set.intersection(*(set(course) for course in of_seeds)))
    marker = look.pop("marker")
    if len(of_seeds) > 1 or not shared:
        for course in of_seeds:
            steps = list(course)
            axes.plot(steps, [course[step] * scale for step in steps], linewidth=0.8, alpha=0.4, **look)
    if shared:
        means = [sum(course[step] for course in of_seeds) / len(of_seeds) * scale for step in shared]
        axes.plot(
            shared,
            means,
            linewidth=1.9,
            marker=marker if len(shared) <= _FEW else "",
            markersize=4.5,
            label=label or None,
            **look,
        )


def _checked(model: str, quantity: str, curve: Mapping[str, Any]) -> _Course:
    steps, values = list(curve["step"]), list(curve["value"])
    if len(steps) != len(values) or any(after <= before for before, after in pairwise(steps)):
        raise ValueError(
            f"details[{model!r}]: the training curve {clean(quantity)} needs ascending steps and a value for each, "
            f"got {len(steps)} steps and {len(values)} values"
        )
    return dict(zip(map(int, steps), map(float, values), strict=True))
