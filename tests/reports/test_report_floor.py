"""Retraining at the same cost: where a method lies beside it, on numbers whose answer is known."""

import numpy as np
import pytest
from scipy import stats

from lightning_unlearn.functional.equivalence import contrast, paired_difference, pooled_noise
from lightning_unlearn.functional.statistics import epochs_needed
from lightning_unlearn.reports import build_report, judge
from lightning_unlearn.reports.figures.base import FLOOR
from lightning_unlearn.reports.figures.cost import cost_quality
from lightning_unlearn.reports.floor import costs, same_cost
from lightning_unlearn.reports.glossary import all_models, is_control, method_names
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.table import render_text

LINE = {
    "retrain_5pct": (5.0, 0.80, 0.40),
    "retrain_20pct": (20.0, 0.90, 0.50),
    "retrain": (100.0, 0.95, 0.55),
}
"""Time, test accuracy and forget accuracy; the source has forget accuracy 0.95."""


def report_of(seeds: int = 5, noise: float = 0.004, **methods: tuple[float, float, float]) -> Report:
    models = {"source": (100.0, 0.95, 0.95), "retrain_2": (100.0, 0.95, 0.55), **LINE, **methods}
    random = np.random.default_rng(0)
    runs = {
        name: {
            seed: {
                "time/total_s": time,
                "accuracy/test": test + noise * random.standard_normal(),
                "accuracy/forget": forget + noise * random.standard_normal(),
            }
            for seed in range(seeds)
        }
        for name, (time, test, forget) in models.items()
    }
    return build_report(runs, seeds=list(range(seeds)), config={}, data={}, environment={})


@pytest.mark.parametrize(
    ("method", "place"),
    [
        ((10.0, 0.94, 0.56), "above"),  # better in both than what lies between 5% and 20%
        ((10.0, 0.85, 0.45), "on"),  # the middle of the line, over the logarithm of the cost
        ((10.0, 0.80, 0.80), "below"),
        ((10.0, 0.94, 0.90), "on"),  # better in one, worse in the other
        ((2.0, 0.94, 0.56), "above"),  # cheaper than all of them: compared with the cheapest
        ((300.0, 0.80, 0.80), "below"),  # dearer than retraining
    ],
)
def test_a_method_lies_where_it_was_put(method: tuple[float, float, float], place: str) -> None:
    floor = same_cost(report_of(m=method))["m"]
    assert floor.place == place
    assert floor.cost == pytest.approx(method[0] / 100)


def test_chance_alone_is_seldom_above_or_below() -> None:
    # the middle of the line, 200 times: Holm over two metrics holds all errors at 5%
    wrong = 0
    random = np.random.default_rng(1)
    for _ in range(200):
        table = 0.85 + 0.01 * random.standard_normal((8, 3))
        noise = pooled_noise(table)
        weights = np.array([1, -0.5, -0.5, 0, 0, 0, 0, 0])
        wrong += contrast(table, weights, noise).p_outside(0.0) <= 0.05
    assert wrong <= stats.binom.ppf(0.9999, 200, 0.05)


def test_a_contrast_of_two_models_is_their_paired_difference() -> None:
    table = np.random.default_rng(2).standard_normal((4, 6))
    noise = pooled_noise(table)
    weights = np.array([0.0, 1.0, 0.0, -1.0])
    assert contrast(table, weights, noise) == paired_difference(table, 1, 3, noise)
    # by hand: variance of a weighted sum of independent scores
    half = contrast(table, np.array([1.0, -0.5, -0.5, 0.0]), noise)
    assert half.se == pytest.approx(np.sqrt(1.5 * noise.variance / 6))


def test_fewer_than_three_seeds_are_an_illustration() -> None:
    for seeds in (1, 2):
        assert same_cost(report_of(seeds, m=(10.0, 0.94, 0.56)))["m"].place == "illustration"


def test_without_short_retrainings_there_is_no_floor() -> None:
    report = report_of(m=(10.0, 0.94, 0.56))
    for name in ("retrain_5pct", "retrain_20pct"):
        del report["models"][name]
    assert same_cost(report) == {}
    assert all([s.name for s in panel.series] == ["m"] for panel in cost_quality.draw(report, {}))
    assert "same cost" not in render_text(report)


def test_the_controls_are_no_methods_and_come_first() -> None:
    report = report_of(m=(10.0, 0.94, 0.56))
    assert method_names(report) == ["m"]
    assert list(all_models(report)) == [
        "source", "retrain", "retrain_2", "retrain_5pct", "retrain_20pct", "m"
    ]  # fmt: skip
    assert costs(report)["retrain_20pct"] == pytest.approx(0.2)
    assert is_control("retrain_2.5pct")
    assert not is_control("retrain_twice")
    text = render_text(report)
    assert "above" in text.split("same", 1)[1]
    assert all([s.name for s in panel.series] == [FLOOR, "m"] for panel in cost_quality.draw(report, {}))


def test_a_distance_to_the_retrained_model_is_judged_by_a_second_one() -> None:
    def report(similarity: float) -> Report:
        random = np.random.default_rng(3)
        levels = {"source": 0.80, "retrain_2": 0.90, "m": similarity, "other": 0.85}
        runs = {
            name: {seed: {"similarity": level + 0.002 * random.standard_normal()} for seed in range(5)}
            for name, level in levels.items()
        }
        return build_report(runs, seeds=list(range(5)), config={}, data={}, environment={})

    assert judge(report(0.895), "m").status == "close"
    assert judge(report(0.81), "m").status == "not close"
    assert judge(report(0.97), "m").status == "close", "nearer than another retrained model is no fault"
    lower = report(0.97)
    declared = {"label": "Distance", "direction": "lower", "decides": "forgetting", "goal": "retrain_2"}
    lower["metrics"] = {"similarity": declared}
    assert judge(lower, "m").status == "not close", "where less is better, more is not taken for good"
    share = judge(report(0.85), "m").findings[0].share
    assert share == pytest.approx(0.5, abs=0.05)


def test_seeds_needed_by_an_unstable_method_are_counted_from_its_own_noise() -> None:
    random = np.random.default_rng(5)
    levels = {"source": 1.0, "retrain": 0.8, **{f"m{n}": 0.8 for n in range(6)}}
    runs = {
        name: {seed: {"accuracy/forget": level + 0.003 * random.standard_normal()} for seed in range(3)}
        for name, level in levels.items()
    }
    runs["m0"] = {0: {"accuracy/forget": 0.75}, 1: {"accuracy/forget": 0.89}, 2: {"accuracy/forget": 0.77}}
    finding = judge(build_report(runs, seeds=[0, 1, 2], config={}, data={}, environment={}), "m0").findings[0]
    assert finding.status == "undecided"
    assert finding.seeds_needed is not None
    assert finding.seeds_needed > 3


def test_epochs_needed_by_hand() -> None:
    # the best is 0.9 over 100 samples: its standard error is 0.03
    assert epochs_needed([0.1, 0.86, 0.88, 0.9, 0.89], 100) == 2
    assert epochs_needed([0.5], 10) == 0
    with pytest.raises(ValueError, match="must not be empty"):
        epochs_needed([], 10)
