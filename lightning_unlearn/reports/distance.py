"""How far a model lies from what it should be, as one number for a search to minimise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_unlearn.reports.glossary import describe, forgot_nothing, measured_metrics, worse_side
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.verdict import separates

_FORGET, _TEST = "accuracy/forget", "accuracy/test"


@dataclass(frozen=True)
class Aim:
    """What one metric should be.

    Attributes:
        values: For each seed.
        margin: The difference that does not matter.
        worse: -1 where only a lower value counts, 1 where only a higher one does, 0 where both do.
    """

    values: Sequence[float]
    margin: float
    worse: int


def aims(report: Report, *, oracle: bool = True) -> dict[str, Aim]:
    """Return what every deciding metric that sees should be.

    Args:
        report: The controls' report.
        oracle: Whether the retrained model says it. Otherwise an attack should find nothing and utility should be the
            source's; that the forget set is answered as samples never trained on are, :func:`distance` adds.

    Raises:
        ValueError: If nothing measured sees what is to be forgotten, or there is no accuracy and no oracle.
    """
    found: dict[str, Aim] = {}
    for name in measured_metrics(report):
        metric = describe(name, report)
        before = forgot_nothing(report, name) if metric.null else report["models"]["source"].get(name)
        goal = report["models"].get(metric.goal if oracle else "source", {}).get(name)
        if (
            metric.decides is None
            or before is None
            or goal is None
            or None in (*goal["values"], *before["values"])
        ):
            continue
        utility = metric.decides == "utility"
        values = [float(value or 0.0) for value in goal["values"]]
        if not oracle and not utility:
            if metric.ideal is None:
                continue
            values = [metric.ideal] * len(values)
        gap = abs(before["mean"] - sum(values) / len(values))
        if utility or (gap > 0 and (not oracle or separates(report, name))):
            found[name] = Aim(values, metric.margin or gap / 2, worse_side(metric))
    if not oracle:
        source = report["models"]["source"]
        if not {_FORGET, _TEST} <= source.keys():
            raise ValueError(
                "oracle: none compares the accuracy on forget and test set, and this task has none; give "
                "--oracle retrain"
            )
        beyond = source[_FORGET]["mean"] - source[_TEST]["mean"]
        if beyond > 0:
            found[_FORGET] = Aim([], beyond / 2, 0)
    if all(describe(name, report).decides == "utility" for name in found):
        raise ValueError(
            "nothing that was measured tells the source from what it should become, so there is nothing to tune for; "
            "add an evaluator that sees the trace, such as MembershipInference or Backdoor, or more tuning_seeds"
        )
    return found


def distance(wanted: Mapping[str, Aim], report: Report, model: str) -> float:
    """Return the root mean square over the metrics of the mean difference from the aim, in margins; 1 is just close.

    Args:
        wanted: From :func:`aims`, over all seeds.
        report: The report, over the first of these seeds or all of them.
        model: The model; infinity if it lacks a metric.
    """
    parts = []
    for name, aim in wanted.items():
        own = report["models"].get(model, {}).get(name, {"values": [None]})["values"]
        goal = aim.values or report["models"].get(model, {}).get(_TEST, {"values": [None]})["values"]
        pairs = list(zip(own, goal, strict=False))
        if any(value is None or to is None for value, to in pairs):
            return math.inf
        mean = sum(float(value or 0.0) - float(to or 0.0) for value, to in pairs) / len(pairs)
        parts.append((max(aim.worse * mean, 0.0) if aim.worse else mean) / aim.margin)
    return math.sqrt(sum(part**2 for part in parts) / len(parts))
