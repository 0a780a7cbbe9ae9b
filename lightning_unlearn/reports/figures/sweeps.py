"""Figures of one parameter varied over several methods, which are found by the methods' names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    Panel,
    Panels,
    Series,
    declare,
    goal_line,
    measured,
    scaled,
    within,
)
from lightning_unlearn.reports.glossary import describe, measured_metrics, method_names
from lightning_unlearn.reports.schema import Report, summarise

_NAME = re.compile(r"(.*?)[_\-=: ]([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
"""A method's name that ends in a number: what comes before, a separator, and the number."""
_FEWEST = 3
"""Fewer points make no course."""
_LINEAR_RATIO = 20.0
"""Above this ratio of the largest to the smallest value, most points would crowd at one end: a log axis."""
_APART = "accuracy/retain_minus_forget"
_PANELS = (
    "accuracy/test",
    "accuracy/forget",
    _APART,
    "backdoor/success_rate_forget",
    "backdoor/recovered_accuracy",
    "membership_inference/fnr",
    "membership_inference/auc",
    "unlearning_degree/degree",
    "forgetting_quality/matched",
)
"""What is drawn against the parameter: utility first, then forgetting; after these, what else decides on it."""
_NOT_DRAWN = ("membership_inference/hit_rate",)
"""What decides and is in another of these already."""


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


@declare(
    "sweep_*.png",
    "Sweep: *",
    "Test accuracy, each forgetting metric, and the retain accuracy minus the forget accuracy, seed by seed, against "
    "the number that ends the names of the methods *; horizontal lines mark the source model and "
    "the retrained model.",
)
def sweeps(report: Report, details: Details) -> Mapping[str, Panels]:
    """Draw each sweep that the methods' names tell of."""
    report = _with_difference(report)
    return {stem: _sweep(report, stem, members) for stem, members in find_sweeps(report).items()}


def _with_difference(report: Report) -> Report:
    """Add how far the accuracies on D_r and D_f are apart; Zuo et al., figure 5, choose K where that is largest."""
    models = {}
    for name, metrics in report["models"].items():
        pairs = [
            metrics[each]["values"] for each in ("accuracy/retain", "accuracy/forget") if each in metrics
        ]
        apart = (
            [None if None in (r, f) else r - f for r, f in zip(*pairs, strict=True)]
            if len(pairs) == 2
            else []
        )
        known = any(each is not None for each in apart)
        models[name] = {**metrics, **({_APART: summarise(apart)} if known else {})}
    declared = asdict(
        DeclaredMetric("retain minus forget accuracy", explanation="Their difference.", unit="%")
    )
    return {**report, "models": models, "metrics": {**report.get("metrics", {}), _APART: declared}}


def _sweep(report: Report, stem: str, members: Sequence[tuple[float, str]]) -> list[Panel]:
    """Draw one sweep, a panel a metric that two of its methods have."""
    deciding = [name for name in measured_metrics(report) if describe(name, report).decides == "forgetting"]
    panels = []
    for metric in dict.fromkeys([*measured(report, _PANELS), *deciding]):
        if metric in _NOT_DRAWN:
            continue
        about = describe(metric, report)
        points = [
            (at, report["models"][name][metric]) for at, name in members if metric in report["models"][name]
        ]
        if len(points) < 2:
            continue
        at = [value for value, _ in points]
        means = [value["mean"] * about.scale for _, value in points]
        series = Series(stem, at, means, [scaled(value, about.scale) for _, value in points])
        lines = [line for model in ("source", "retrain") for line in goal_line(report, metric, model=model)]
        most = f": largest at {at[means.index(max(means))]:g}" if metric == _APART else ""
        log = "x" if min(at) > 0 and max(at) / min(at) > _LINEAR_RATIO else ""
        limits = {"y": within(metric, report)}
        panels.append(
            Panel(stem, about.short_heading, [series], about.label + most, metric, lines, log, within=limits)
        )
    return panels
