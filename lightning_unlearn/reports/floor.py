"""Compares each method with retraining at the same cost: the floor under every speed."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_unlearn.functional.equivalence import Difference, contrast, holm, pooled_noise
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.glossary import (
    LEAST_SEEDS,
    describe,
    format_number,
    measured_metrics,
    method_names,
    short_retrainings,
    with_unit,
)
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.verdict import scores_of, separates

_ALPHA = 0.05
_COST = "time/total_s"

Place = Literal["above", "on", "below", "illustration"]
"""Where a method lies beside retraining at the same cost; "illustration" with fewer than three seeds."""


@dataclass(frozen=True)
class Floor:
    """A method beside retraining at the same cost.

    Attributes:
        model: The method's name in the report.
        cost: Its time as a share of the retrained model's, mean over seeds.
        place: "above" where it is better in one metric at least and worse in none, "below" where it is worse in one at
            least and better in none, "on" otherwise.
        sentence: It in words, with the numbers it rests on.
    """

    model: str
    cost: float
    place: Place
    sentence: str


def costs(report: Report) -> dict[str, float]:
    """Return each model's time as a share of the retrained model's, mean over the seeds that have both."""
    times = {name: values[_COST]["values"] for name, values in report["models"].items() if _COST in values}
    shares = {
        name: [own / whole for own, whole in zip(each, times["retrain"], strict=True) if own and whole]
        for name, each in times.items()
        if "retrain" in times
    }
    return {name: float(np.mean(each)) for name, each in shares.items() if each}


def needed_in_words(report: Report) -> str | None:
    """Say after how many of its epochs the retraining was as good as it got; None where that is not known."""
    retrain = report["models"].get("retrain", {})
    if not {"epochs/needed", "epochs/trained"} <= retrain.keys():
        return None
    needed, trained = (retrain[f"epochs/{name}"]["mean"] for name in ("needed", "trained"))
    return (
        f"retraining was as good as it got, within a standard error of its test accuracy, after {needed:.3g} of "
        f"{trained:.3g} epochs"
    )


def same_cost(report: Report) -> dict[str, Floor]:
    """Place every method above, on or below the line of short retrainings at its own cost.

    The line runs through the short retrainings and the retrained model, straight over the logarithm of the cost; a
    method that costs less than all of them is compared with the cheapest. Compared are test accuracy and, for each
    forgetting metric that sees, the distance to the retrained model: differences over seeds at 5%, Holm over metrics
    and methods.

    Returns:
        Method name to its place; empty without short retrainings.
    """
    cost = costs(report)
    line = [name for name in (*short_retrainings(report), "retrain") if name in cost]
    methods = [name for name in method_names(report) if name in cost]
    if len(line) < 2 or not methods:
        return {}
    compared = [
        name
        for name in measured_metrics(report)
        if (decides := describe(name, report).decides) == "utility"
        or (decides == "forgetting" and separates(report, name))
    ]
    tests = {
        (model, name): test
        for model in methods
        for name in compared
        if (test := _gain(report, model, name, _weights(cost, line, cost[model]))) is not None
    }
    adjusted = dict(zip(tests, holm([test.p_outside(0.0) for test in tests.values()]), strict=True))
    floors = {}
    for model in methods:
        own = {name: tests[model, name] for name in compared if (model, name) in tests}
        told = {name: test.mean > 0 for name, test in own.items() if adjusted[model, name] <= _ALPHA}
        place: Place = "on"
        if len(report["seeds"]) < LEAST_SEEDS or not own:
            place = "illustration"
        elif told and len(set(told.values())) == 1:
            place = "above" if all(told.values()) else "below"
        floors[model] = Floor(model, cost[model], place, _sentence(report, model, cost[model], own, place))
    return floors


def _weights(cost: dict[str, float], line: list[str], at: float) -> dict[str, float]:
    """Return the weights of the models between which a cost lies, straight over its logarithm."""
    ordered = sorted(line, key=cost.__getitem__)
    places = np.log([cost[name] for name in ordered])
    weights = {
        name: float(np.interp(math.log(at), places, np.eye(len(ordered))[row]))
        for row, name in enumerate(ordered)
    }
    return {name: weight for name, weight in weights.items() if weight}


def _gain(report: Report, model: str, name: str, weights: dict[str, float]) -> Difference | None:
    """Return by how much a method is nearer to what is good than the line is; None where a score is missing."""
    metric = describe(name, report)
    weights = {metric.goal if short == "retrain" else short: weight for short, weight in weights.items()}
    table, rows = scores_of(report, name, (model, *weights, metric.goal), short=True)
    if table.shape[1] < LEAST_SEEDS:
        return None
    of_method, of_line, of_goal = np.zeros(len(table)), np.zeros(len(table)), np.zeros(len(table))
    of_method[rows[model]] = of_goal[rows[metric.goal]] = 1.0
    for short, weight in weights.items():
        of_line[rows[short]] = weight
    if metric.direction in ("higher", "lower"):
        gain = (of_method - of_line) * (1 if metric.direction == "higher" else -1)
    else:  # the distance to the goal: which side it lies on is taken as known
        sides = [np.sign((part - of_goal) @ table.mean(1)) for part in (of_line, of_method)]
        gain = sides[0] * (of_line - of_goal) - sides[1] * (of_method - of_goal)
    return contrast(table, gain, pooled_noise(table))


def _sentence(report: Report, model: str, cost: float, tests: dict[str, Difference], place: Place) -> str:
    """Word where a method lies."""

    def told(name: str, test: Difference) -> str:
        metric: DeclaredMetric = describe(name, report)
        unit = " points" if metric.unit == "%" else ""
        better = "better" if test.mean >= 0 else "worse"
        value = with_unit(metric, report["models"][model][name])
        return f"{metric.label} {value}, {format_number(metric, abs(test.mean))}{unit} {better}"

    parts = "; ".join(told(name, test) for name, test in tests.items())
    start = f"It costs {cost:.1%} of retraining. Beside a retraining for as long: {parts or 'nothing to compare'}."
    if place == "illustration":
        return f"{start} Fewer than {LEAST_SEEDS} seeds cannot say more."
    return f"{start} It lies {place} retraining at the same cost."
