"""Say in a few words which method did best, whether it forgot, what it cost and how sure that is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lightning_unlearn.functional.answer import Outcome
from lightning_unlearn.reports.figures.trade_off import forgetting_axis
from lightning_unlearn.reports.floor import costs, same_cost
from lightning_unlearn.reports.glossary import (
    LEAST_SEEDS,
    describe,
    forgot_nothing,
    measured_metrics,
    utility_of,
    with_unit,
    worse_side,
)
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.verdict import Status, Verdict, judge_all, separates

_ORDER: dict[Status, int] = {"close": 0, "undecided": 1, "illustration": 1, "cannot tell": 1, "not close": 2}
_OUTCOMES: dict[Status, Outcome] = {"close": "shown", "not close": "not shown"}
_FORGOTTEN: dict[Status, str] = {
    "close": "Shown: it is close to the retrained model in every metric that can tell.",
    "cannot tell": "Cannot tell: the test was blind. Source and retrained model do not differ in any metric of "
    "forgetting, so no method can be shown to have forgotten, and none has failed.",
}


@dataclass(frozen=True)
class Answer:
    """What a reader wants to know first.

    Attributes:
        method: The best method: of the best verdict, and of these the one whose worst metric is nearest to its goal;
            without verdicts the one that is far from the goal in the fewest metrics of forgetting, and of these the
            nearest over all that decide.
        status: Its verdict.
        forgotten: Whether it forgot, in a sentence.
        evidence: The numbers that this rests on.
        cost: What it cost, in time and accuracy.
        sure: How sure that is.
    """

    method: str
    status: Status
    forgotten: str
    evidence: str
    cost: str
    sure: str

    @property
    def outcome(self) -> Outcome:
        """Whether it was forgotten, in the words that a single request is answered in."""
        return outcome(self.status)


def outcome(status: Status) -> Outcome:
    """Return a verdict in the words that a single request is answered in."""
    return _OUTCOMES.get(status, "cannot tell")


def answer_of(report: Report, verdicts: Mapping[str, Verdict] | None = None) -> Answer | None:
    """Return the answer; None without a method and a retrained model that can be compared.

    Args:
        report: The report.
        verdicts: The verdicts on its methods, if they are known already.
    """
    judged = judge_all(report) if verdicts is None else verdicts
    misses = {model: _misses(report, model) for model in judged}
    candidates = [model for model, each in misses.items() if each and judged[model].status in _ORDER]
    if not candidates:
        return None
    best = min(candidates, key=lambda model: _rank(report, judged[model].status, misses[model]))
    verdict = judged[best]
    seeds = max(sum(each is not None for each in one["values"]) for one in report["models"][best].values())
    sure = (
        f"{seeds} seeds, each a full repetition; tests at 5% that hold for all metrics and methods together."
        if verdict.status != "illustration"
        else f"{'One seed' if seeds == 1 else f'{seeds} seeds'}: an illustration, since differences may be chance. At "
        f"least {LEAST_SEEDS} seeds give intervals and a verdict; 5 are better."
    )
    decided_by = list(_of_forgetting(report, misses[best]))
    if verdict.status != "illustration":
        choice = forgetting_axis(report)
        decided_by = [choice.metric] if choice else []
    evidence = " ".join(filter(None, (_evidence(report, best, name) for name in decided_by)))
    forgotten = _FORGOTTEN.get(verdict.status) or _looks(report, misses[best])
    if verdict.status == "undecided":
        forgotten = f"Cannot tell yet: {verdict.headline}."
    if verdict.status == "not close":
        far_in = [describe(one.metric, report).short for one in verdict.findings if one.status == "not close"]
        forgotten = (
            f"Not shown: it differs from the retrained model in {', '.join(far_in)}; so does every method."
        )
    return Answer(best, verdict.status, forgotten, evidence, _cost(report, best), sure)


def _of_forgetting(report: Report, misses: Mapping[str, float]) -> dict[str, float]:
    return {name: miss for name, miss in misses.items() if describe(name, report).decides == "forgetting"}


def _rank(report: Report, status: Status, misses: Mapping[str, float]) -> tuple[float, ...]:
    """Return what sorts methods, the best first."""
    if status != "illustration":
        return _ORDER[status], 0, max(misses.values())
    forgetting = _of_forgetting(report, misses)
    # a metric that is blind by chance has a gap next to none, in which nobody is near: two margins are the source's
    capped = [min(miss, 2.0) if name in forgetting else miss for name, miss in misses.items()]
    return _ORDER[status], sum(miss > 1 for miss in forgetting.values()), sum(capped) / len(capped)


def _looks(report: Report, misses: Mapping[str, float]) -> str:
    """Say whether it was forgotten by numbers that no test was made on."""
    forgetting = _of_forgetting(report, misses)
    near, far = (
        ", ".join(describe(name, report).short for name, miss in forgetting.items() if (miss > 1) == is_far)
        for is_far in (False, True)
    )
    if not forgetting:
        return "Cannot tell: no metric of forgetting tells source and retrained model apart."
    if not far:
        return "By its numbers it looks forgotten."
    if not near:
        return f"By its numbers it does not look forgotten: far from the retrained model in {far}."
    return f"By its numbers that is open: near the retrained model in {near}, far from it in {far}."


def gap_closed(report: Report, model: str, name: str | None = None) -> float | None:
    """Return the share of the gap between source and retrained model that a model closed.

    Args:
        report: The report.
        model: A model of it.
        name: The metric; None takes the one that the figures show.

    Returns:
        0 at the source, 1 at the retrained model; None where the metric or the gap is missing.
    """
    if name is None:
        choice = forgetting_axis(report)
        name = "" if choice is None else choice.metric
    least, most = (
        forgot_nothing(report, name),
        report["models"].get(describe(name, report).goal, {}).get(name),
    )
    own = report["models"][model].get(name)
    if least is None or most is None or own is None or most["mean"] == least["mean"]:
        return None
    return (own["mean"] - least["mean"]) / (most["mean"] - least["mean"])


def _misses(report: Report, model: str) -> dict[str, float]:
    """Return by how many margins a method misses its goal in each deciding metric that can tell.

    A metric of forgetting that too few seeds have to be tested can tell by any gap, whose half is then the most that
    its margin may be.
    """
    misses = {}
    for name in measured_metrics(report):
        metric = describe(name, report)
        own, goal = report["models"][model].get(name), report["models"].get(metric.goal, {}).get(name)
        if metric.decides is None or own is None or goal is None:
            continue
        margin = metric.margin or math.inf
        if metric.decides == "forgetting":
            least, sees = forgot_nothing(report, name), separates(report, name)
            half = abs(least["mean"] - goal["mean"]) / 2 if least else 0.0
            if not half or sees is False:
                continue
            margin = min(margin, half) if sees is None else metric.margin or half
        worse, beyond = worse_side(metric), own["mean"] - goal["mean"]
        misses[name] = (max(worse * beyond, 0.0) if worse else abs(beyond)) / margin
    return misses


def _told(report: Report, name: str, model: str) -> str:
    """Say a metric before, after, and as it should be."""
    goal = describe(name, report).goal
    models = {"source": "source", model: model, goal: "retrained" if goal == "retrain" else goal}
    found = {told: report["models"].get(key, {}).get(name) for key, told in models.items()}
    metric = describe(name, report)
    told = [f"{key} {with_unit(metric, value)}" for key, value in found.items() if value is not None]
    return f"{metric.label}: {', '.join(told)}" if told else ""


def _evidence(report: Report, model: str, name: str) -> str:
    """Say a metric before, after, and as it should be, and how much of the way that is."""
    told, share = _told(report, name, model), gap_closed(report, model, name)
    return told and f"{told}{'' if share is None else f'; {share:.0%} of the gap is closed'}."


def _cost(report: Report, model: str) -> str:
    values, share = report["models"][model], costs(report).get(model)
    parts = []
    if "time/total_s" in values:
        parts.append(with_unit(describe("time/total_s"), values["time/total_s"]))
    if share:
        parts.append(
            f"{share:.2g} of retraining's time" if share > 1 else f"{share:.1%} of retraining's time"
        )
    floor = same_cost(report).get(model)
    if floor and floor.place != "illustration":
        parts.append(f"{floor.place} the line of short retrainings")
    return f"{', '.join(parts)}. {_told(report, utility_of(report), model)}.".lstrip(". ")
