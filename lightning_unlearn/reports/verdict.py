"""Judge each method against the retrained model, and say it in plain sentences.

The verdict is an equivalence test on differences paired by seed (:mod:`lightning_unlearn.functional.equivalence`).
A method is *close* where every deciding metric shows it within a margin of the retrained model, two one-sided tests at
5%; *not close* where one shows it outside, Holm over all metrics and methods; otherwise *undecided*. A forgetting
metric in which source and retrained model do not differ is *blind*: it is shown, and decides nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_unlearn.functional.equivalence import (
    Difference,
    Noise,
    holm,
    paired_difference,
    pooled_noise,
    room_to_halfway,
    seeds_to_decide,
    share_of_gap,
)
from lightning_unlearn.methods.base.trial import COLLAPSED
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.glossary import (
    CONTROLS,
    LEAST_SEEDS,
    clean,
    decimals,
    describe,
    forgot_nothing,
    format_number,
    is_control,
    measured_metrics,
    method_names,
    samples_of,
    with_unit,
    worse_side,
)
from lightning_unlearn.reports.schema import Report

_ALPHA = 0.05
_GOALS = {"retrain": "the retrained model", "retrain_2": "the model retrained once more"}

Status = Literal["close", "not close", "undecided", "cannot tell", "illustration", "nothing to compare"]
"""The answer for one metric, or for a method as a whole; "cannot tell" of a metric is that it is blind."""

VERDICTS: dict[Status, str] = {
    "close": "close to the retrained model",
    "not close": "not close to the retrained model",
    "undecided": "undecided",
    "cannot tell": "cannot tell, no forgetting metric separates the controls",
    "illustration": f"an illustration: fewer than {LEAST_SEEDS} seeds",
    "nothing to compare": "no verdict, nothing to compare with",
}
"""How each answer is worded for a whole method."""


@dataclass(frozen=True)
class Finding:
    """The answer for one metric.

    Attributes:
        metric: The metric's name in the report.
        status: The answer.
        sentence: It in words, with the numbers it rests on.
        share: Share of the gap between source and retrained model that the method closed; ``None`` for utility and
            where there is no gap.
        share_ci95: Its 95% interval; ``None`` where the gap may be nothing.
        seeds_needed: About how many seeds would tell, where it is undecided and any number would.
    """

    metric: str
    status: Status
    sentence: str
    share: float | None = None
    share_ci95: tuple[float, float] | None = None
    seeds_needed: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer for one method.

    Attributes:
        model: The method's name in the report.
        status: "close" when it is close in every metric that sees, for forgetting and for utility; "not close" when
            it is not in one.
        findings: The answers metric by metric.
    """

    model: str
    status: Status
    findings: tuple[Finding, ...]

    @property
    def by_metric(self) -> dict[str, Finding]:
        """Each metric's answer under its name."""
        return {finding.metric: finding for finding in self.findings}

    @property
    def headline(self) -> str:
        """The answer in a few words."""
        needed = [finding.seeds_needed for finding in self.findings if finding.status == "undecided"]
        if self.status == "undecided" and any(one.status == "illustration" for one in self.findings):
            return f"undecided, what would tell is measured in fewer than {LEAST_SEEDS} seeds"
        if self.status != "undecided" or not needed:
            return VERDICTS[self.status]
        if None in needed:
            return "undecided, more likely not close"
        return f"undecided, about {max(number for number in needed if number)} seeds would tell"


def judge(report: Report, model: str, margins: Mapping[str, float] | None = None) -> Verdict:
    """Compare a method with the retrained model, metric by metric.

    Args:
        report: The report.
        model: A model of the report.
        margins: See :func:`judge_all`.

    Returns:
        The verdict; "nothing to compare" where the report holds no retrained model or no common metric.

    Raises:
        KeyError: The report has no such model.
    """
    if model not in report["models"]:
        raise KeyError(f"model={model!r} is not in the report; it holds {sorted(report['models'])}")
    return judge_all(report, margins, (model,))[model]


def judge_all(
    report: Report, margins: Mapping[str, float] | None = None, models: tuple[str, ...] = ()
) -> dict[str, Verdict]:
    """Judge every method, with the errors of "not close" held together at 5%.

    Args:
        report: The report.
        margins: Differences that do not matter, by metric, in the metric's own unit (an accuracy as a share). Left out,
            the declared margin (of test accuracy one point), or half the gap between source and retrained model.
        models: Models to judge beside the methods of the report.

    Raises:
        ValueError: A margin is not above 0.
    """
    for name, margin in (margins or {}).items():
        if not margin > 0:
            raise ValueError(f"margins[{name!r}] must be greater than 0, got {margin}")
    tests = {
        model: [
            test
            for name in measured_metrics(report)
            if describe(name, report).decides is not None
            and (test := _test(report, model, name, margins or {}))
        ]
        for model in dict.fromkeys((*method_names(report), *models))
    }
    judged = [test for each in tests.values() for test in each if test.judged]
    for test, adjusted in zip(judged, holm([test.p_outside for test in judged]), strict=True):
        test.outside = adjusted <= _ALPHA
    verdicts = {}
    for model, each in tests.items():
        findings = tuple(_finding(report, test) for test in each) + _lost(report, model, each)
        verdicts[model] = Verdict(model, _overall(report, findings), findings)
    return verdicts


@dataclass
class _Test:
    """One metric of one method against the retrained model."""

    model: str
    metric: str
    utility: bool
    worse: int
    """Where only being worse matters, -1 if that is a lower value and 1 if a higher one; 0 where both sides do."""
    margin: float = math.nan
    difference: Difference | None = None
    rooms: tuple[Difference, ...] = ()
    """Where the margin is half the gap, how far the method is from it, on each side that matters."""
    noise: Noise | None = None
    models: int = 0
    seeds: int = 0
    gap: Difference | None = None
    share: float | None = None
    share_ci95: tuple[float, float] | None = None
    p_outside: float = 1.0
    close: bool = False
    outside: bool = False

    @property
    def sees(self) -> bool:
        """Whether source and retrained model differ."""
        return self.gap is not None and self.gap.p_outside(0.0) <= _ALPHA

    @property
    def judged(self) -> bool:
        return self.difference is not None and (self.utility or self.sees)


def _test(report: Report, model: str, name: str, margins: Mapping[str, float]) -> _Test | None:
    """Prepare the test of one metric; ``None`` where the method or the model that is the goal has none of it."""
    metric = describe(name, report)
    goal, utility = metric.goal, metric.decides == "utility"
    if not {name} <= report["models"][model].keys() & report["models"].get(goal, {}).keys():
        return None
    if metric.null and forgot_nothing(report, name) is None:  # any two models lie apart: it would say nothing
        return None
    table, rows = scores_of(report, name, (model, goal))
    test = _Test(model, name, utility, worse := worse_side(metric))
    if table.shape[1] < LEAST_SEEDS or model == goal:
        return test
    floor = _floor(report, name)
    noise = pooled_noise(table, floor=floor)
    test.noise, test.models, test.seeds = noise, sum(not apart for apart in noise.apart), table.shape[1]
    test.difference = paired_difference(table, rows[model], rows[goal], noise, floor=floor)
    if "source" in rows:
        test.gap = paired_difference(table, rows["source"], rows[goal], noise, floor=floor)
        if not utility and test.gap.mean:
            test.share, test.share_ci95 = share_of_gap(
                table, rows["source"], rows[goal], rows[model], noise, floor=floor
            )
    given = margins.get(name, metric.margin)
    if given is None and test.gap is not None:
        test.margin = abs(test.gap.mean) / 2
        nearer, farther = room_to_halfway(table, rows["source"], rows[goal], rows[model], noise, floor=floor)
        lower, upper = (nearer, farther) if test.gap.mean < 0 else (farther, nearer)
        test.rooms = {-1: (lower,), 0: (lower, upper), 1: (upper,)}[worse]
        test.p_outside = min(1.0, len(test.rooms) * min(room.p_below() for room in test.rooms))
        test.close = max(room.p_above() for room in test.rooms) <= _ALPHA
        return test
    test.margin = math.nan if given is None else given
    gain = test.difference._replace(mean=-worse * test.difference.mean) if worse else test.difference
    test.p_outside = gain.p_outside(test.margin, below_only=bool(worse))
    test.close = gain.p_inside(test.margin, below_only=bool(worse)) <= _ALPHA
    return test


def scores_of(
    report: Report, name: str, needed: tuple[str, ...], *, short: bool = False
) -> tuple["np.ndarray[tuple[int, int], np.dtype[np.float64]]", dict[str, int]]:
    """Return a metric's scores, models × seeds, and each model's row, of the seeds that the needed models have.

    The row of the source holds what a model that forgot nothing has.

    Args:
        report: The report.
        name: The metric.
        needed: Models without which a seed is left out.
        short: Whether the short retrainings take part, whose noise is another.
    """
    found = {model: scores.get(name) for model, scores in report["models"].items()}
    found["source"] = forgot_nothing(report, name)
    values = {
        model: np.array(scores["values"], dtype=float)  # None becomes NaN
        for model, scores in found.items()
        if scores is not None and (short or model in CONTROLS or not is_control(model))
    }
    if not set(needed) <= values.keys():
        return np.empty((0, 0)), {}
    kept = np.isfinite([values[model] for model in needed]).all(0)
    complete = {model: row[kept] for model, row in values.items() if np.isfinite(row[kept]).all()}
    table = np.array(list(complete.values())).reshape(len(complete), int(kept.sum()))
    return table, {model: row for row, model in enumerate(complete)}


def _floor(report: Report, name: str) -> float:
    """Return the least variance of an accuracy over n samples, which moves in steps of 1/n (Sheppard)."""
    samples = samples_of(report, name)
    return 1 / (12 * samples**2) if samples else 0.0


def _finding(report: Report, test: _Test) -> Finding:
    """Word the answer for one metric."""
    metric = describe(test.metric, report)
    value, target = (report["models"][model][test.metric] for model in (test.model, metric.goal))
    points = " points" if metric.unit == "%" else f" {metric.unit}".rstrip()

    def number(amount: float) -> str:
        return format_number(metric, amount, decimals(metric, value))

    shown = f"{metric.label}: {with_unit(metric, value)}, {_GOALS[metric.goal]} {with_unit(metric, target)}"
    if test.difference is None:
        why = f"fewer than {LEAST_SEEDS} seeds have both, so it is an illustration."
        return Finding(test.metric, "illustration", f"{shown}; {why}")
    if not test.judged:
        why = "which forgot nothing, does not differ from the retrained one, so this metric is blind here."
        return Finding(test.metric, "cannot tell", f"{shown}; {_nothing(metric)}, {why}")
    low, high = test.difference.interval(1 - 2 * _ALPHA)
    mean = f"{number(test.difference.mean)}{points}"
    status: Status = "not close" if test.outside else "close" if test.close else "undecided"
    verb = {"not close": "beyond", "close": "within", "undecided": "not all within"}[status]
    bound = {-1: "a loss of ", 0: "the margin of ±", 1: "a rise of "}[test.worse]
    allowed = f"{bound}{number(test.margin)}{points}{', half the gap' if test.rooms else ''}"
    interval = f"90% interval [{number(low)}, {number(high)}]"
    sentence = f"{shown}; their difference is {mean}, {interval}, {verb} {allowed}"
    needed = _seeds_needed(test) if status == "undecided" else None
    if test.share is not None:
        nothing = "null control" if metric.null else "source"
        sentence += f"; {test.share:.0%} of the gap between {nothing} and retrained model is closed"
        ends = test.share_ci95
        sentence += (
            f", 95% interval [{ends[0]:.0%}, {ends[1]:.0%}]" if ends else ", too small a gap for an interval"
        )
        sentence += ", an overshoot" if status == "not close" and test.share > 1 else ""
    return Finding(test.metric, status, f"{sentence}.", test.share, test.share_ci95, needed)


def _lost(report: Report, model: str, tests: list[_Test]) -> tuple[Finding, ...]:
    """Name what tells the source from the retrained model and was not measured of a method, as where it failed."""
    if model not in method_names(report):
        return ()
    measured, found = {test.metric for test in tests}, []
    for name in measured_metrics(report):
        metric = describe(name, report)
        if name not in measured and metric.decides and not metric.absent and separates(report, name):
            why = "not measured, though it tells the source model from the retrained one."
            found.append(Finding(name, "illustration", f"{metric.label}: {why}"))
    return tuple(found)


def _nothing(metric: DeclaredMetric) -> str:
    return "the null control" if metric.null else "the source model"


def _seeds_needed(test: _Test) -> int | None:
    assert test.difference is not None
    assert test.noise is not None
    if test.rooms:
        least = min(test.rooms, key=lambda each: each.mean)
        noise = test.noise._replace(variance=least.se**2 * test.seeds / 2)
        return seeds_to_decide(least.mean, noise, 2 if least.df != test.noise.df else test.models)
    mean = test.difference.mean
    room = test.margin - (max(test.worse * mean, 0.0) if test.worse else abs(mean))
    if test.difference.df != test.noise.df:  # judged by the pair's own noise
        own = test.difference.se**2 * test.seeds / 2
        return seeds_to_decide(room, test.noise._replace(variance=own), 2)
    return seeds_to_decide(room, test.noise, test.models)


def _overall(report: Report, findings: tuple[Finding, ...]) -> Status:
    """Combine the metrics: one that is not close decides; all that see must be close, one of forgetting among them."""
    statuses = {finding.status for finding in findings}
    if not findings:
        return "nothing to compare"
    if "not close" in statuses:
        return "not close"
    seeing = [
        finding
        for finding in findings
        if finding.status in ("close", "undecided")
        and describe(finding.metric, report).decides == "forgetting"
    ]
    if not seeing:
        return "illustration" if "illustration" in statuses else "cannot tell"
    lost = any(one.status == "illustration" and separates(report, one.metric) for one in findings)
    return "undecided" if lost or "undecided" in statuses else "close"


def margins_in_words(report: Report) -> str:
    """Say which differences do not matter: half the gap, and what is declared otherwise.

    Example:
        >>> from lightning_unlearn.reports.schema import build_report
        >>> margins_in_words(build_report({"source": {0: {"accuracy/test": 0.9}}}, seeds=[0], config={}, data={}))
        'half that gap (test accuracy: a loss of 1.00 points)'
    """
    declared = []
    for name in measured_metrics(report):
        metric = describe(name, report)
        if metric.decides is not None and metric.margin is not None:
            number = f"{format_number(metric, metric.margin)}{' points' if metric.unit == '%' else ''}"
            declared.append(
                f"{metric.short}: {f'a loss of {number}' if metric.decides == 'utility' else f'±{number}'}"
            )
    return "half that gap" + (f" ({'; '.join(declared)})" if declared else "")


def separates(report: Report, name: str) -> bool | None:
    """Say whether a metric tells the source model from the retrained one.

    Args:
        report: The report.
        name: A metric.

    Returns:
        Whether their mean difference over seeds differs from 0 at 5%; None where one of them lacks the metric or there
        are fewer than three seeds.
    """
    goal = describe(name, report).goal
    if forgot_nothing(report, name) is None or name not in report["models"].get(goal, {}):
        return None
    test = _test(report, "source", name, {})
    return None if test is None or test.difference is None else test.sees


def difference(report: Report, model: str, name: str) -> Difference | None:
    """Return how far a model is from the one that is the metric's goal, over the seeds that both have.

    Args:
        report: The report.
        model: A model of the report; the source stands for a model that forgot nothing.
        name: A metric.

    Returns:
        The difference, with 0 degrees of freedom where fewer than three seeds leave no interval; None where one of
        the two lacks the metric.
    """
    goal = describe(name, report).goal
    table, rows = scores_of(report, name, (model, goal))
    if not table.size:
        return None
    if table.shape[1] < LEAST_SEEDS:
        return Difference(float((table[rows[model]] - table[rows[goal]]).mean()), math.nan, 0)
    floor = _floor(report, name)
    return paired_difference(table, rows[model], rows[goal], pooled_noise(table, floor=floor), floor=floor)


_TOLD_APART = {
    None: f"fewer than {LEAST_SEEDS} seeds cannot show whether they differ",
    False: "they do not differ by more than chance, so on this data the metric is blind: it does not separate a model "
    "that forgot from one that did not",
    True: "the metric separates them",
}


def control_findings(report: Report) -> list[str]:
    """Say for each forgetting metric whether it tells the source model from the retrained one.

    Returns:
        One sentence a metric that both controls have; empty without both controls.
    """
    sentences = []
    for name in measured_metrics(report):
        metric = describe(name, report)
        least, most = forgot_nothing(report, name), report["models"].get(metric.goal, {}).get(name)
        if metric.decides != "forgetting" or least is None or most is None:
            continue
        floor, ceiling = (with_unit(metric, value) for value in (least, most))
        numbers = f"{metric.label}: {_nothing(metric)} {floor}, {_GOALS[metric.goal]} {ceiling}"
        sentences.append(f"{numbers}; {_TOLD_APART[separates(report, name)]}.")
    return sentences


def collapses(report: Report) -> list[str]:
    """Name the methods that destroyed their model: of the source's accuracy on the retain set not half is left."""
    name, sentences = "accuracy/retain", []
    source = report["models"].get("source", {}).get(name)
    for model in method_names(report) if source else []:
        own = report["models"][model].get(name)
        if source is None or own is None:
            continue
        both = [(o, s) for o, s in zip(own["values"], source["values"], strict=True) if None not in (o, s)]
        fallen = sum(o < COLLAPSED * s for o, s in both)  # type: ignore[operator]
        if fallen:
            left, before = (with_unit(describe(name, report), value) for value in (own, source))
            sentences.append(
                f"{clean(model)} collapsed in {fallen} of {_count(len(both), 'seed', 'seeds')}: its accuracy on the "
                f"retain set is {left}, and the source's {before}."
            )
    return sentences


def summary_sentences(report: Report) -> list[str]:
    """Say in plain sentences what was forgotten, by how many methods and seeds, and what failed."""
    data, seeds = report["data"], report["seeds"]
    n_forget, n_retain = data.get("n_forget"), data.get("n_retain")
    methods = method_names(report)
    sentences = []
    if isinstance(n_forget, int) and isinstance(n_retain, int) and n_forget + n_retain > 0:
        total = n_forget + n_retain
        of_data = f" of {clean(str(data['name']))}" if "name" in data else ""
        most = data.get("n_forget_most", n_forget)
        numbers = f"{n_forget:,}" if most == n_forget else f"{n_forget:,} to {most:,}"
        shares = " to ".join(f"{100 * number / total:.3g}" for number in dict.fromkeys((n_forget, most)))
        sentences.append(
            f"{numbers} of the {total:,} training samples{of_data} ({shares} %) were to be forgotten."
        )
    sentences.append(
        f"{_count(len(methods), 'unlearning method was', 'unlearning methods were')} run over "
        f"{_count(len(seeds), 'seed', 'seeds')}, each seed a full repetition."
    )
    if data.get("merged_from"):
        sentences.append(
            f"The report merges the comparisons {', '.join(clean(str(name)) for name in data['merged_from'])}, "
            "which share their controls; times were taken in separate runs, and each acceleration refers to the "
            "retrained model of its own run."
        )
    if "retrain" in report["models"]:
        sentences.append(
            "Each is judged against the retrained model, which was trained without the forget set."
        )
    else:
        sentences.append("The report holds no retrained model, so no method can be judged.")
    by_status: dict[Status, list[str]] = {}
    for model, verdict in judge_all(report).items():
        by_status.setdefault(verdict.status, []).append(clean(model))
    if "retrain" in report["models"]:
        for status, wording in VERDICTS.items():
            if status in by_status and status != "illustration":
                sentences.append(f"{wording.capitalize()}: {', '.join(by_status[status])}.")
    sentences += collapses(report)
    if report["failures"]:
        sentences.append(
            f"{_count(len(report['failures']), 'run or score', 'runs or scores')} failed, listed below."
        )
    return sentences


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
