"""What a search minimises: the distance from the retrained model in margins, by hand."""

import math
from typing import Any

import pytest

from lightning_unlearn.reports import build_report
from lightning_unlearn.reports.distance import aims, distance
from lightning_unlearn.reports.schema import Report

SEEDS = [0, 1, 2]


def report_of(**models: tuple[float, float, float]) -> Report:
    """Models by their accuracy on forget and test set and the attack's AUC, each a little apart from seed to seed."""

    def scores(model: str, seed: int) -> dict[str, float]:
        forget, test, auc = models[model]
        return {
            "accuracy/forget": forget + 0.01 * (seed - 1),
            "accuracy/test": test,
            "membership_inference/auc": auc + 0.01 * (seed - 1),
        }

    runs = {model: {seed: scores(model, seed) for seed in SEEDS} for model in models}
    return build_report(runs, seeds=SEEDS, config={}, data={}, environment={})


CONTROLS: dict[str, tuple[float, float, float]] = {
    "source": (0.95, 0.80, 0.70),
    "retrain": (0.75, 0.80, 0.50),
}


@pytest.mark.parametrize(
    ("model", "far"),
    [
        ((0.75, 0.80, 0.50), 0.0),
        ((0.85, 0.80, 0.50), math.sqrt(1 / 3)),  # half the gap is one margin, of three metrics
        ((0.65, 0.80, 0.50), math.sqrt(1 / 3)),  # as far on the other side
        ((0.75, 0.78, 0.50), math.sqrt(4 / 3)),  # two points of test accuracy are two margins
        ((0.75, 0.99, 0.50), 0.0),  # a gain is no distance
        ((0.95, 0.80, 0.70), math.sqrt(8 / 3)),
    ],
)
def test_with_the_retrained_model(model: tuple[float, float, float], far: float) -> None:
    wanted = aims(report_of(**CONTROLS))
    assert distance(wanted, report_of(**CONTROLS, m=model), "m") == pytest.approx(far, abs=1e-9)


def test_without_it_an_attack_should_guess_and_the_forget_set_be_answered_as_the_test_set() -> None:
    wanted = aims(report_of(source=CONTROLS["source"], retrain=(0.0, 0.0, 0.0)), oracle=False)
    assert distance(wanted, report_of(m=(0.80, 0.80, 0.50)), "m") == pytest.approx(0)
    assert distance(wanted, report_of(m=(0.80, 0.80, 0.60)), "m") == pytest.approx(math.sqrt(1 / 3))
    assert distance(wanted, report_of(m=(0.725, 0.80, 0.50)), "m") == pytest.approx(math.sqrt(1 / 3))


def test_what_does_not_see_is_left_out_and_nothing_that_sees_is_refused() -> None:
    blind = report_of(source=(0.95, 0.80, 0.50), retrain=(0.75, 0.80, 0.50))
    assert set(aims(blind)) == {"accuracy/forget", "accuracy/test"}
    with pytest.raises(ValueError, match="nothing that was measured tells"):
        aims(report_of(source=(0.75, 0.80, 0.50), retrain=(0.75, 0.80, 0.50)))


def test_without_it_a_task_without_accuracy_is_refused() -> None:
    losses = {"source": {0: {"loss/forget": 0.1, "loss/test": 0.5}}}
    report = build_report(
        {**losses, "retrain": losses["source"]}, seeds=[0], config={}, data={}, environment={}
    )
    with pytest.raises(ValueError, match="oracle: none compares the accuracy"):
        aims(report, oracle=False)


def test_of_one_seed_it_is_that_seeds_and_a_missing_score_is_infinitely_far() -> None:
    wanted, whole = aims(report_of(**CONTROLS)), report_of(**CONTROLS, m=(0.85, 0.80, 0.50))
    first: dict[str, Any] = {
        name: {0: {metric: value["values"][0] for metric, value in scores.items()}}
        for name, scores in whole["models"].items()
    }
    one = build_report(first, seeds=[0], config={}, data={}, environment={})
    assert distance(wanted, one, "m") == pytest.approx(math.sqrt(1 / 3))
    del one["models"]["m"]["accuracy/forget"]
    assert distance(wanted, one, "m") == math.inf
    assert distance(wanted, one, "nobody") == math.inf
