"""Figures of what was measured step by step: a backdoor's scores, training curves, the loss while relearning."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    Line,
    Panel,
    Panels,
    Series,
    declare,
    goal_line,
    noted,
    scaled,
)
from lightning_unlearn.reports.glossary import describe, ordered_models
from lightning_unlearn.reports.schema import Report, summarise

_SCORES = ("clean_accuracy", "success_rate_forget", "success_rate_test", "recovered_accuracy", "combined")
_SHARE = {"y": (0.0, 100.0)}
_ACCURACY = re.compile(r"(train/)?accuracy[/_](forget|retain|test)")
_OWN_FIGURE = "backdoor/"
"""What has a figure of its own is not repeated."""
_UNITS = {"gradient_norm": "Euclidean norm", "similarity": "1 - JS"}
"""What a quantity that is no term of the loss is measured in."""
_LEAST_LOSS = 1e-6
"""What is below is drawn at the lower end of the logarithmic axis, on which a loss of 0 has no place."""

_Course = Mapping[int, float]
"""Step or epoch to what was measured then."""


def _shared(courses: Sequence[_Course]) -> list[int]:
    """Return where every run measured, ascending: elsewhere a mean would jump with who takes part."""
    return sorted(set.intersection(*map(set, courses))) if courses else []


def _mean(name: str, courses: Sequence[_Course], scale: float) -> Series:
    """Return the mean over the runs, with its interval."""
    values = {at: summarise([run[at] for run in courses]) for at in _shared(courses)}
    ends = [scaled(value, scale) for value in values.values()]
    return Series(name, list(values), [value["mean"] * scale for value in values.values()], ends)


@declare(
    "backdoor_curve.png",
    "Backdoor over the epochs",
    "Accuracy and success rates of the backdoor after each epoch of unlearning, a line a method: the mean over "
    "the seeds; dashed lines mark the retrained model.",
)
def backdoor_curve(report: Report, details: Details) -> Panels:
    """Draw the backdoor's scores over the epochs, a panel a score."""
    runs, panels = noted(report, details, "backdoor", "curve"), []
    for score in _SCORES:
        metric, series = f"backdoor/{score}", []
        for name, each in runs.items():
            curves = [run["curve"] for run in each if score in run["curve"]]
            courses = [dict(zip(curve["epoch"], curve[score], strict=True)) for curve in curves]
            if _shared(courses):
                series.append(_mean(name, courses, 100.0))
        about = describe(metric, report)
        if series:
            lines = goal_line(report, metric)
            panels.append(
                Panel(
                    "Epochs of unlearning",
                    about.short_heading,
                    series,
                    about.label,
                    metric,
                    lines,
                    within=_SHARE,
                )
            )
    return panels


@declare(
    "training_*.png",
    "Training curves of *",
    "What was logged over the optimiser steps in which * was trained: thin lines for the seeds, a thick line for "
    "their mean, and a panel each for the loss, its terms and whatever else was logged; the accuracies on the sets "
    "share a panel, with dashed lines for the retrained model, and so do those on the batches.",
    of_model=True,
)
def training(report: Report, details: Details) -> Mapping[str, Panels]:
    """Draw what was logged, a figure a model."""
    figures: dict[str, Panels] = {}
    for name in ordered_models(report):
        courses: dict[str, list[_Course]] = {}
        for run in details.get(name, {}).values():
            for quantity, curve in run.get("training_curves", {}).items():
                if not quantity.startswith(_OWN_FIGURE):
                    course = dict(zip(curve["step"], curve["value"], strict=True))
                    courses.setdefault(quantity, []).append(course)
        figures[name] = [_logged(report, name, courses, quantities) for quantities in _grouped(courses)]
    return figures


def _grouped(quantities: Collection[str]) -> list[list[str]]:
    """Return what each panel shows: the loss, its terms, the accuracies together, and then the rest."""
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


def _logged(
    report: Report, model: str, courses: Mapping[str, Sequence[_Course]], quantities: Sequence[str]
) -> Panel:
    """Return the panel of one quantity, or of the accuracies on several sets: a thin line a seed, and the mean."""
    first = quantities[0]
    accuracy, lines, series = _ACCURACY.fullmatch(first), list[Line](), list[Series]()
    for quantity in quantities:
        scale = 100.0 if accuracy else describe(quantity, report).scale
        name = f"{_ACCURACY.fullmatch(quantity)[2]} set" if accuracy else model  # type: ignore[index]  # they match
        each = courses[quantity]
        if len(each) > 1 or not _shared(each):
            series += [Series(name, list(run), [v * scale for v in run.values()], faint=True) for run in each]
        if _shared(each):
            mean = _mean(name, each, scale)
            series.append(Series(name, mean.x, mean.y))
        if accuracy and not accuracy[1]:
            lines += [line._replace(ends=None) for line in goal_line(report, quantity)]
    if accuracy:
        title = "Accuracy on the batches" if accuracy[1] else "Accuracy (dashed: retrained)"
        return Panel("Optimiser steps", "accuracy [%]", series, title, lines=lines, within=_SHARE)
    name = first.removeprefix("train/")
    return Panel(
        "Optimiser steps", _UNITS.get(name, "loss" if name != first else describe(first).unit), series, first
    )


@declare(
    "relearn_time.png",
    "Loss while relearning",
    "The loss on the forget set while each model is trained on it alone, averaged over the seeds, beside an untrained "
    "model's; the line is the loss that counts as learned again, the source model's own.",
)
def relearn_time(report: Report, details: Details) -> Panels:
    """Draw the loss on the way to knowing the forget set again."""
    runs = noted(report, details, "relearn_time", "losses")
    every = [run for each in runs.values() for run in each]
    series = [_relearned(name, [run["losses"] for run in each]) for name, each in runs.items()]
    if untrained := [run["losses_fresh"] for run in every if run.get("losses_fresh")]:
        series.append(_relearned("untrained model", untrained))
    targets = [run["target"] for run in every if "target" in run]
    lines = [Line("counts as learned", "y", max(sum(targets) / len(targets), _LEAST_LOSS))] if targets else []
    if not series:
        return []
    return [Panel("training steps on D_f alone", "cross-entropy [nats]", series, lines=lines, log="y")]


def _relearned(name: str, losses: Sequence[Sequence[Any]]) -> Series:
    means = [max(sum(each) / len(each), _LEAST_LOSS) for each in zip(*losses, strict=False)]
    return Series(name, range(len(means)), means)
