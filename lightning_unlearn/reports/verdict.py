"""What may be said of each method against the retrained model, in plain sentences.

The rule asks one question of each deciding metric: does the method's mean over the seeds lie inside the 95%
interval of the retrained model's mean? For a forgetting metric, the source model is asked as well. Where it
lies inside too, being inside shows nothing, and such a metric does not count; being outside always counts.
"""

from dataclasses import dataclass
from typing import Literal

from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.glossary import (
    clean,
    decimals,
    describe,
    format_interval,
    format_number,
    format_value,
    measured_metrics,
    method_names,
)
from lightning_unlearn.reports.schema import Report, Value

Status = Literal["close", "not close", "cannot tell", "no interval", "nothing to compare"]
"""The answer for one metric, or for a method as a whole."""

VERDICTS: dict[Status, str] = {
    "close": "close to the retrained model",
    "not close": "not close to the retrained model",
    "cannot tell": "cannot tell, no forgetting metric separates the controls",
    "no interval": "no interval: one seed",
    "nothing to compare": "no verdict, nothing to compare with",
}
"""How each answer is worded for a whole method."""


BETTER: dict[str, str] = {"higher": "above", "lower": "below"}
"""On which side of the retrained model's interval a value loses nothing, by what is declared good."""


@dataclass(frozen=True)
class Finding:
    """The answer for one metric.

    Attributes:
        metric: The metric's name in the report.
        status: The answer.
        sentence: It in words, with the numbers it rests on.
    """

    metric: str
    status: Status
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The answer for one method.

    Attributes:
        model: The method's name in the report.
        status: "close" when every deciding metric that can tell is close, for forgetting and for utility;
            "not close" when one is not.
        findings: The answers metric by metric.
    """

    model: str
    status: Status
    findings: tuple[Finding, ...]

    @property
    def statuses(self) -> dict[str, Status]:
        """Each metric's answer under its name."""
        return {finding.metric: finding.status for finding in self.findings}

    @property
    def headline(self) -> str:
        """The answer in a few words."""
        return VERDICTS[self.status]


def judge(report: Report, model: str) -> Verdict:
    """Compare a method with the retrained model, metric by metric.

    Args:
        report: The report.
        model: A model of the report.

    Returns:
        The verdict; "nothing to compare" where the report holds no retrained model or no common metric.

    Raises:
        KeyError: The report has no such model.
    """
    if model not in report["models"]:
        raise KeyError(f"model={model!r} is not in the report; it holds {sorted(report['models'])}")
    both = report["models"][model].keys() & report["models"].get("retrain", {}).keys()
    names = [
        name
        for name in measured_metrics(report)
        if name in both and describe(name, report).decides is not None
    ]
    findings = tuple(_compare(report, model, name) for name in names)
    return Verdict(model, _overall(report, findings), findings)


def _overall(report: Report, findings: tuple[Finding, ...]) -> Status:
    """Combine the metrics: one that is not close decides, one that is close must stand on both sides."""
    if not findings:
        return "nothing to compare"
    statuses = {finding.status for finding in findings}
    if "not close" in statuses:
        return "not close"
    if "no interval" in statuses:
        return "no interval"
    close = {describe(finding.metric, report).decides for finding in findings if finding.status == "close"}
    return "close" if "forgetting" in close else "cannot tell"


def _compare(report: Report, model: str, name: str) -> Finding:
    """Answer for one metric that both the method and the retrained model have."""
    metric = describe(name, report)
    points = " points" if metric.unit == "%" else f" {metric.unit}".rstrip()
    value, target = report["models"][model][name], report["models"]["retrain"][name]
    mean, interval = value["mean"], target["ci95"]
    shown = f"{metric.label}: {_with_unit(metric, value)}"
    if interval is None:
        distance = format_number(metric, abs(mean - target["mean"]), decimals(metric, value))
        return Finding(
            name,
            "no interval",
            f"{shown}, the retrained model {_with_unit(metric, target)}: {distance}{points} apart, "
            "and no interval to judge it by.",
        )
    low, high = interval
    held = f"the retrained model's 95% interval {format_interval(metric, target)} {metric.unit}".rstrip()
    if low <= mean <= high:
        floor = report["models"].get("source", {}).get(name)
        if metric.decides == "forgetting" and floor is not None and not separates(report, name):
            return Finding(
                name,
                "cannot tell",
                f"{shown}, inside {held}; so is the source model ({_with_unit(metric, floor)}), "
                "which forgot nothing, so this metric cannot tell.",
            )
        return Finding(name, "close", f"{shown}, inside {held}.")
    side = "below" if mean < low else "above"
    if metric.direction is not None and BETTER.get(metric.direction) == side:
        return Finding(name, "close", f"{shown}, {side} {held} and so no loss.")
    beyond = format_number(metric, low - mean if mean < low else mean - high, decimals(metric, value))
    # A distance that rounds to nothing is none to be printed as a number.
    away = f"{beyond}{points}" if float(beyond) else "just"
    return Finding(name, "not close", f"{shown}, {away} {side} {held}.")


def _with_unit(metric: DeclaredMetric, value: Value) -> str:
    return f"{format_value(metric, value)} {metric.unit}".rstrip()


def separates(report: Report, name: str) -> bool | None:
    """Say whether a metric tells the source model from the retrained one.

    Args:
        report: The report.
        name: A metric.

    Returns:
        Whether the source model's mean lies outside the 95% interval of the retrained model's mean; None where
        one of them lacks the metric or there is no interval.
    """
    source, retrain = (report["models"].get(control, {}).get(name) for control in ("source", "retrain"))
    if source is None or retrain is None or retrain["ci95"] is None:
        return None
    low, high = retrain["ci95"]
    return not low <= source["mean"] <= high


def control_findings(report: Report) -> list[str]:
    """Say for each forgetting metric whether it tells the source model from the retrained one.

    Returns:
        One sentence a metric that both controls have; empty without both controls.
    """
    source, retrain = (report["models"].get(name, {}) for name in ("source", "retrain"))
    sentences = []
    for name in measured_metrics(report):
        metric = describe(name, report)
        if metric.decides != "forgetting" or name not in source or name not in retrain:
            continue
        numbers = (
            f"{metric.label}: source model {_with_unit(metric, source[name])}, "
            f"retrained model {_with_unit(metric, retrain[name])}"
        )
        told_apart = separates(report, name)
        if told_apart is None:
            sentences.append(f"{numbers}; with one seed there is no interval to say whether they differ.")
        elif not told_apart:
            sentences.append(
                f"{numbers}; the source model lies inside the retrained model's 95% interval, so on this "
                "data the metric does not separate a model that forgot from one that did not."
            )
        else:
            sentences.append(f"{numbers}; the metric separates them.")
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
        sentences.append(
            f"{n_forget:,} of the {total:,} training samples{of_data} ({100 * n_forget / total:.3g} %) were "
            "to be forgotten."
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
    for model in methods:
        by_status.setdefault(judge(report, model).status, []).append(clean(model))
    if "retrain" in report["models"]:
        for status, wording in VERDICTS.items():
            if status in by_status and status != "no interval":
                sentences.append(f"{wording.capitalize()}: {', '.join(by_status[status])}.")
    if len(seeds) == 1:
        sentences.append("No interval: one seed. A difference between two models may be chance.")
    if report["failures"]:
        sentences.append(
            f"{_count(len(report['failures']), 'run or score', 'runs or scores')} failed, listed below."
        )
    return sentences


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
