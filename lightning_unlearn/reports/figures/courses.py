"""Figures of what was measured while models were trained: scores of a backdoor, and whatever was logged."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import base
from lightning_unlearn.reports.glossary import describe, ordered_models, wrap_name
from lightning_unlearn.reports.schema import Report, Value, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_Course = Mapping[int, float]
"""Step or epoch to what was measured then."""

# ---------------------------------------------------------------------------------------------- the backdoor

_SCORES = ("clean_accuracy", "success_rate_forget", "success_rate_test", "recovered_accuracy", "combined")
_BANDS_INK = 0.5
"""Opacity that all bands of a panel share: many that lie over each other would hide the lines."""
_FAINTEST, _DARKEST = 0.05, 0.15


@base.declare(
    "backdoor_curve.png",
    "Backdoor over the epochs",
    "Accuracy and success rates of the backdoor after each epoch of unlearning, a line a method: the mean over "
    "the seeds with its 95% interval as a band; dashed lines mark the retrained model.",
)
def backdoor_curve(report: Report, details: Details) -> Figure | None:
    """Draw the backdoor's scores over the epochs, a panel a score."""
    curves: dict[str, dict[str, dict[int, Value]]] = {score: {} for score in _SCORES}
    for name, runs in base.noted(report, details, "backdoor", "curve").items():
        for score in _SCORES:
            courses = [
                dict(zip(run["curve"]["epoch"], run["curve"][score], strict=True))
                for run in runs
                if score in run["curve"]
            ]
            # elsewhere the mean would jump with who takes part
            if shared := _shared(courses):
                curves[score][name] = {epoch: summarise([run[epoch] for run in courses]) for epoch in shared}
    drawn = {f"backdoor/{score}": by_model for score, by_model in curves.items() if by_model}
    if not drawn:
        return None
    models = [name for name in ordered_models(report) if any(name in each for each in drawn.values())]
    figure, panels = base.panel_grid(
        list(drawn), _COLUMNS, panel=(3.5, 2.9), around=(3.0, 0.8), least_height=1.4 + 0.30 * len(models)
    )
    styles = base.line_styles(models)
    opacity = np.clip(_BANDS_INK / len(models), _FAINTEST, _DARKEST)
    handles: dict[str, Any] = {}
    for axes, metric, lowest in panels:
        about = describe(metric, report)
        for name, curve in drawn[metric].items():
            means = [value["mean"] * about.scale for value in curve.values()]
            # A marker shows where it was measured, and a curve of one point at all.
            (handles[base.model_label(name)],) = axes.plot(list(curve), means, markersize=4, **styles[name])
            if all(value["ci95"] is not None for value in curve.values()):
                ends = np.array([value["ci95"] for value in curve.values()], dtype=np.float64)
                low, high = about.scale * ends.clip(0.0, 1.0).T
                tint = styles[name]["color"]
                axes.fill_between(list(curve), low, high, color=tint, alpha=opacity, linewidth=0)
        axes.set_ylim(-0.03 * about.scale, 1.03 * about.scale)
        base.reference_line(axes, report, metric, along="y")
        axes.locator_params(axis="x", integer=True)
        axes.set_title(base.typeset(about.label, 36), fontsize=10.5)
        axes.set_ylabel(base.typeset(about.short_heading))
        axes.grid(**base.GRID)
        if lowest:
            axes.set_xlabel("Epochs of unlearning")
    base.legend(figure, {**handles, **base.control_handles(report, list(drawn))})
    return figure


def _shared(courses: Sequence[_Course]) -> list[int]:
    """Return where every run measured, ascending."""
    return sorted(set.intersection(*map(set, courses))) if courses else []


# ---------------------------------------------------------------------------------------------- what was logged

_SETS = {"forget": (base.VERMILION, "o"), "retain": (base.BLUE, "s"), "test": (base.GREEN, "^")}
"""Colour and marker of the sets whose accuracies share a panel, since they are read against each other."""
_ACCURACY = re.compile(r"(train/)?accuracy[/_](forget|retain|test)")
_OWN_FIGURE = "backdoor/"
"""What has a figure of its own is not repeated."""
_UNITS = {"gradient_norm": "Euclidean norm", "similarity": "1 - JS"}
"""What a quantity that is no term of the loss is measured in."""
_FEW = 15
"""Up to so many points each is marked, or a reader would take a line between two for many."""
_TITLE_WIDTH = 30


@base.declare(
    "training_*.png",
    "Training curves of *",
    "What was logged over the optimiser steps in which * was trained: thin lines for the seeds, a thick line for "
    "their mean, and a panel each for the loss, its terms and whatever else was logged; the accuracies on the sets "
    "share a panel, with dashed lines for the retrained model, and so do those on the batches.",
    of_model=True,
)
def training(report: Report, details: Details) -> Mapping[str, Figure]:
    """Draw what was logged, a figure a model."""
    figures: dict[str, Figure] = {}
    for name in ordered_models(report):
        courses: dict[str, list[_Course]] = {}
        for run in details.get(name, {}).values():
            for quantity, curve in run.get("training_curves", {}).items():
                if not quantity.startswith(_OWN_FIGURE):
                    course = dict(zip(curve["step"], curve["value"], strict=True))
                    courses.setdefault(quantity, []).append(course)
        if courses:
            figures[name] = _training_of_one(report, courses)
    return figures


def _training_of_one(report: Report, courses: Mapping[str, Sequence[_Course]]) -> Figure:
    figure, panels = base.panel_grid(_grouped(courses), _COLUMNS, panel=(3.4, 2.3), around=(0.6, 0.9))
    for place, (axes, quantities, lowest) in enumerate(panels):
        if _ACCURACY.fullmatch(quantities[0]):
            _accuracy_panel(axes, report, {quantity: courses[quantity] for quantity in quantities})
        else:
            (quantity,) = quantities
            name, about = quantity.removeprefix("train/"), describe(quantity, report)
            _lines(axes, courses[quantity], about.scale, "o", color=base.PURPLE if place else base.BLUE)
            axes.set_title(wrap_name(quantity.replace("$", r"\$"), _TITLE_WIDTH, 2), fontsize=10.5)
            axes.set_ylabel(_UNITS.get(name, "loss" if name != quantity else about.unit))
            axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 4))
        axes.grid(**base.GRID)
        axes.locator_params(axis="x", integer=True, nbins=5)
        if lowest:
            axes.set_xlabel("Optimiser steps")
    return figure


def _grouped(quantities: Collection[str]) -> list[list[str]]:
    """Return what stands in each panel: the loss, its terms, the accuracies together, and then the rest."""
    groups: dict[tuple[int, str], list[str]] = {}
    for quantity in sorted(quantities):
        name = quantity.removeprefix("train/")
        if found := _ACCURACY.fullmatch(quantity):
            place = 2, found[1] or ""
        elif name == quantity or name in _UNITS:
            place = 3, quantity
        else:
            place = int(name != "loss"), quantity
        groups.setdefault(place, []).append(quantity)
    return [groups[place] for place in sorted(groups)]


def _accuracy_panel(axes: Axes, report: Report, courses: Mapping[str, Sequence[_Course]]) -> None:
    on_batches = next(iter(courses)).startswith("train/")
    for quantity, of_seeds in courses.items():
        name = quantity[len("train/accuracy_") if on_batches else len("accuracy/") :]
        tint, marker = _SETS[name]
        _lines(axes, of_seeds, 100.0, marker, color=tint, label=f"{name} set")
        target = report["models"].get("retrain", {}).get(f"accuracy/{name}")
        if target is not None and not on_batches:
            dash = base.CONTROL_LOOKS["retrain"]["linestyle"]
            axes.axhline(100.0 * target["mean"], color=tint, linestyle=dash, linewidth=1.1)
    axes.set_title("Accuracy on the batches" if on_batches else "Accuracy (dashed: retrained)", fontsize=10.5)
    # the legend stands above 100, where no curve can run into it
    axes.set(ylabel="accuracy [%]", ylim=(-3, 122), yticks=range(0, 101, 20))
    axes.legend(
        fontsize=8,
        frameon=False,
        loc="upper center",
        ncols=3,
        handlelength=1.4,
        columnspacing=0.9,
        borderpad=0.1,
    )


def _lines(
    axes: Axes,
    of_seeds: Sequence[_Course],
    scale: float,
    marker: str,
    *,
    color: str,
    label: str | None = None,
) -> None:
    """Draw a thin line a seed and the mean where all seeds were measured."""
    shared = _shared(of_seeds)
    if len(of_seeds) > 1 or not shared:
        for course in of_seeds:
            values = [value * scale for value in course.values()]
            axes.plot(list(course), values, linewidth=0.8, alpha=0.4, color=color)
    if shared:
        means = [sum(course[step] for course in of_seeds) / len(of_seeds) * scale for step in shared]
        look: dict[str, Any] = {
            "linewidth": 1.9,
            "marker": marker if len(shared) <= _FEW else "",
            "markersize": 4.5,
        }
        axes.plot(shared, means, label=label, color=color, **look)
