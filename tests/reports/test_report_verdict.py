"""The verdict against the retrained model, on numbers small enough to decide by hand."""

from dataclasses import asdict

import numpy as np
import pytest

from lightning_unlearn.reports import build_report, judge, judge_all, render_text
from lightning_unlearn.reports.answer import answer_of, gap_closed
from lightning_unlearn.reports.distance import aims, distance
from lightning_unlearn.reports.glossary import METRICS, best_and_worst, describe, format_value, wrap_name
from lightning_unlearn.reports.schema import Report, summarise
from lightning_unlearn.reports.verdict import (
    Verdict,
    collapses,
    control_findings,
    separates,
    summary_sentences,
)

AUC, HIT_RATE = "membership_inference/auc", "membership_inference/hit_rate"
FORGET, TEST = "accuracy/forget", "accuracy/test"

# Differences from seed to seed; each model's scores are its level plus these, in an order of its own.
NOISE = (-0.02, 0.0, 0.02)
RETRAIN_AUC = (0.48, 0.50, 0.52)


def around(level: float, shift: int = 0) -> tuple[float, ...]:
    return tuple(level + NOISE[(place + shift) % 3] for place in range(3))


def report_of(**models: dict[str, tuple[float, ...]]) -> Report:
    seeds = range(len(next(iter(next(iter(models.values())).values()))))
    runs = {
        model: {seed: {name: values[seed] for name, values in metrics.items()} for seed in seeds}
        for model, metrics in models.items()
    }
    return build_report(runs, seeds=list(seeds), config={}, data={}, environment={})


def verdict_of(
    method: tuple[float, ...], source: tuple[float, ...], **more: dict[str, tuple[float, ...]]
) -> Verdict:
    report = report_of(source={AUC: source}, retrain={AUC: RETRAIN_AUC}, m={AUC: method}, **more)
    return judge(report, "m")


@pytest.mark.parametrize(
    ("method", "source", "expected"),
    [
        (0.51, 0.90, "close"),
        (0.90, 0.91, "not close"),
        (0.10, 0.90, "not close"),
        (0.70, 0.90, "undecided"),
        (0.51, 0.505, "cannot tell"),
    ],
)
def test_forgetting_metric(method: float, source: float, expected: str) -> None:
    verdict = verdict_of(around(method, 1), around(source, 2))
    assert verdict.status == expected
    assert [finding.status for finding in verdict.findings] == [expected]


def test_the_sentence_has_difference_margin_and_share() -> None:
    finding = verdict_of(around(0.60, 1), around(0.90, 2)).findings[0]
    # margin (0.9 - 0.5) / 2, share (0.9 - 0.6) / (0.9 - 0.5)
    for words in ("difference is 0.100", "the margin of ±0.200", "75% of the gap"):
        assert words in finding.sentence
    assert finding.share == pytest.approx(0.75)
    assert finding.share_ci95 is not None
    assert finding.share_ci95[0] < 0.75 < finding.share_ci95[1]


def test_too_much_is_an_overshoot_and_no_success() -> None:
    verdict = verdict_of(around(0.02, 1), around(0.90, 2))
    assert verdict.status == "not close"
    assert "an overshoot" in verdict.findings[0].sentence


def test_undecided_says_how_many_seeds_would_tell() -> None:
    verdict = verdict_of((0.61, 0.50, 0.57), around(0.72, 2))
    assert verdict.status == "undecided"
    assert verdict.findings[0].seeds_needed is not None
    assert f"about {verdict.findings[0].seeds_needed} seeds would tell" in verdict.headline


def test_an_unstable_method_is_judged_by_its_own_noise() -> None:
    others = {f"stable_{k}": {AUC: around(0.5, k)} for k in range(5)}
    verdict = verdict_of((0.1, 0.9, 0.5), around(0.90, 2), **others)
    assert verdict.status == "undecided"
    report = report_of(
        source={AUC: around(0.9, 2)}, retrain={AUC: RETRAIN_AUC}, m={AUC: (0.1, 0.9, 0.5)}, **others
    )
    assert {each.status for name, each in judge_all(report).items() if name != "m"} == {"close"}


DEGREE, NULL = "unlearning_degree/degree", "unlearning_degree/null"


def degrees(retrain: float, method: float, **null: tuple[float, ...]) -> Report:
    """Degrees above a null that moves much from seed to seed; the source's own is 0 by definition."""
    moves = (0.2, 0.6, 0.4)

    def scores(above: float, shift: int) -> dict[str, tuple[float, ...]]:
        own = tuple(move + above + noise for move, noise in zip(moves, around(0.0, shift), strict=True))
        return {DEGREE: own, **null}

    source = {DEGREE: (0.0, 0.0, 0.0), **null}
    return report_of(source=source, retrain=scores(retrain, 0), m=scores(method, 1))


def test_the_unlearning_degree_is_paired_and_its_null_stands_for_the_source() -> None:
    null = {NULL: tuple(move + noise for move, noise in zip((0.2, 0.6, 0.4), around(0.0, 2), strict=True))}
    found = judge(degrees(0.3, 0.27, **null), "m").by_metric[DEGREE]
    assert found.status == "close", "the null's moves are in both and cancel"
    assert found.share == pytest.approx(0.9), "counted from the null, not from the source's 0"
    assert "gap between null control and retrained model" in found.sentence
    assert judge(degrees(0.3, 0.0, **null), "m").status == "not close", "a model that forgot nothing"
    # the source's 0 lies far from the retrained model's degree, and that says nothing
    blind = degrees(0.0, 0.0, **null)
    assert separates(blind, DEGREE) is False
    assert judge(blind, "m").status == "cannot tell"
    assert "null control 0.400 ± " in control_findings(blind)[0]
    assert judge(degrees(0.3, 0.27), "m").status == "nothing to compare", "without a null it decides nothing"


def test_a_margin_of_ones_own() -> None:
    report = report_of(source={AUC: around(0.9, 2)}, retrain={AUC: RETRAIN_AUC}, m={AUC: around(0.60, 1)})
    assert judge(report, "m").status == "close"
    assert judge(report, "m", {AUC: 0.01}).status != "close"
    with pytest.raises(ValueError, match=r"margins\['membership_inference/auc'\] must be greater than 0"):
        judge(report, "m", {AUC: 0.0})


def test_better_test_accuracy_is_no_fault_but_worse_is() -> None:
    common = {AUC: RETRAIN_AUC}
    fine = tuple(0.9 + 0.05 * noise for noise in NOISE)
    source = {AUC: around(0.9), TEST: fine}
    retrain = {**common, TEST: fine}
    better = report_of(source=source, retrain=retrain, m={**common, TEST: (0.99, 0.991, 0.989)})
    worse = report_of(source=source, retrain=retrain, m={**common, TEST: (0.80, 0.801, 0.799)})
    assert judge(better, "m").status == "close"
    assert judge(worse, "m").status == "not close"
    assert "a loss of 1.00 points" in judge(worse, "m").by_metric[TEST].sentence


def test_kept_accuracy_alone_is_no_evidence_of_forgetting() -> None:
    level = {TEST: (0.9, 0.901, 0.899)}
    report = report_of(source=level, retrain=level, m=level)
    assert [finding.status for finding in judge(report, "m").findings] == ["close"]
    assert judge(report, "m").status == "cannot tell"


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_an_illustration(seeds: int) -> None:
    report = report_of(
        source={AUC: (0.9, 0.91)[:seeds]}, retrain={AUC: (0.5, 0.51)[:seeds]}, m={AUC: (0.5, 0.51)[:seeds]}
    )
    assert judge(report, "m").headline == "an illustration: fewer than 3 seeds"
    assert "illustration" in judge(report, "m").findings[0].sentence
    answer = answer_of(report)
    assert answer is not None
    assert (answer.outcome, answer.status) == ("cannot tell", "illustration")
    assert "an illustration" in answer.sure
    assert answer.forgotten == "By its numbers it looks forgotten."
    assert "fewer than 3 seeds" in control_findings(report)[0]


FEW = {
    "source": {FORGET: 1.0, AUC: 0.745, HIT_RATE: 0.94, TEST: 0.97},
    "retrain": {FORGET: 0.63, AUC: 0.476, HIT_RATE: 0.43, TEST: 0.96},
    "fine_tune": {FORGET: 0.99, AUC: 0.707, HIT_RATE: 0.87, TEST: 0.97},
    "reference_kl": {FORGET: 0.69, AUC: 0.406, HIT_RATE: 0.40, TEST: 0.955},
}


def few(seeds: int = 1, **models: dict[str, float]) -> Report:
    """The controls and the given models, the same in each of one or two seeds."""
    every = {name: FEW[name] for name in ("source", "retrain")} | models
    return report_of(**{m: {name: (v,) * seeds for name, v in each.items()} for m, each in every.items()})


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_few_seeds_the_answer_rests_on_what_decides(seeds: int) -> None:
    answer = answer_of(few(seeds, fine_tune=FEW["fine_tune"], reference_kl=FEW["reference_kl"]))
    assert answer is not None
    assert (answer.method, answer.forgotten) == ("reference_kl", "By its numbers it looks forgotten.")
    assert "forget set D_f: source 100.00 %, reference_kl 69.00 %, retrained 63.00 %" in answer.evidence
    assert "84% of the gap is closed" in answer.evidence
    assert "ROC curve: source 0.745, reference_kl 0.406, retrained 0.476" in answer.evidence
    assert "hit rate" not in answer.evidence, "it moves with a model's confidence alone, and decides nothing"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            FEW["fine_tune"],
            "it does not look forgotten: far from the retrained model in forget accuracy, MIA AUC",
        ),
        ({FORGET: 0.99}, "that is open: near the retrained model in MIA AUC, far from it in forget accuracy"),
        ({FORGET: 0.10}, "that is open: near the retrained model in MIA AUC, far from it in forget accuracy"),
        ({TEST: 0.80}, "it looks forgotten."),
    ],
)
def test_with_few_seeds_no_half_of_a_gap_is_called_forgotten(change: dict[str, float], expected: str) -> None:
    answer = answer_of(few(m=FEW["retrain"] | change))
    assert answer is not None
    assert expected in answer.forgotten


def test_with_few_seeds_nothing_is_forgotten_where_nothing_could_tell() -> None:
    for source in ({TEST: 0.97}, {TEST: 0.97, FORGET: 0.63}):
        answer = answer_of(few(source=source, m={TEST: 0.97, FORGET: 0.63}))
        assert answer is not None
        assert answer.forgotten.startswith("Cannot tell: ")
        assert answer.evidence == ""


def test_with_few_seeds_a_margin_of_more_than_half_the_gap_is_not_enough() -> None:
    report = few(m={**FEW["retrain"], FORGET: 0.90})
    report["metrics"] = {FORGET: {**asdict(METRICS[FORGET]), "margin": 0.5}}
    answer = answer_of(report)
    assert answer is not None
    assert "far from it in forget accuracy" in answer.forgotten


def test_with_few_seeds_keeping_accuracy_makes_no_best_method_of_one_that_forgot_nothing() -> None:
    answer = answer_of(few(fine_tune=FEW["fine_tune"], dear={**FEW["retrain"], TEST: 0.93}))
    assert answer is not None
    assert answer.method == "dear", "three margins of accuracy against two of forgetting"


def test_nearer_than_a_model_retrained_once_more_is_no_miss() -> None:
    near, far = {"similarity": 0.999, TEST: 0.96}, {"similarity": 0.97, TEST: 0.96}
    report = few(
        source={"similarity": 0.90, TEST: 0.96},
        retrain_2={"similarity": 0.95, TEST: 0.96},
        far=far,
        near=near,
    )
    answer = answer_of(report)
    assert answer is not None
    assert answer.forgotten == "By its numbers it looks forgotten."


def test_errors_of_many_methods_are_held_together() -> None:
    draw = np.random.default_rng(0)
    wrong = 0
    for _ in range(60):
        models = {f"m{k}": {AUC: tuple(0.5 + draw.normal(0, 0.01, 3))} for k in range(8)}
        report = report_of(
            source={AUC: tuple(0.51 + draw.normal(0, 0.01, 3))},
            retrain={AUC: tuple(0.5 + draw.normal(0, 0.01, 3))},
            **models,
        )
        wrong += any(verdict.status == "not close" for verdict in judge_all(report).values())
    assert wrong <= 60 * (0.05 + 3 * 0.028)


def test_a_seed_that_one_model_lacks_is_left_out_for_it_alone() -> None:
    report = report_of(
        source={AUC: (0.9, 0.91, 0.92, 0.9)},
        retrain={AUC: (0.5, 0.52, 0.49, 0.51)},
        m={AUC: (0.5, 0.51, 0.5, 0.5)},
        n={AUC: (0.51, 0.5, 0.5, 0.5)},
    )
    report["models"]["m"][AUC]["values"][1] = None
    assert judge(report, "m").status == "close"
    report["models"]["m"][AUC]["values"][2] = None
    assert judge(report, "m").status == "illustration"
    assert judge(report, "n").status == "close"


def test_without_retrained_model_nothing_is_judged() -> None:
    report = report_of(source={AUC: (0.9,) * 3}, m={AUC: (0.5,) * 3})
    assert judge(report, "m").status == "nothing to compare"
    assert "no method can be judged" in " ".join(summary_sentences(report))


def test_a_method_that_destroyed_its_model_is_named() -> None:
    key = "accuracy/retain"
    report = report_of(
        source={key: (0.9, 1.0, 1.0)},
        destroyed={key: (0.1, 0.49, 0.51)},
        low={key: (0.46, 0.51, 0.51)},
        blind={TEST: (0.1,) * 3},
    )
    assert collapses(report) == [
        "destroyed collapsed in 2 of 3 seeds: its accuracy on the retain set is 36.67 ± 57.42 %, and the source's "
        "96.67 ± 14.34 %."
    ]
    assert collapses(report)[0] in summary_sentences(report)
    assert "destroyed collapsed in 2 of 3 seeds" in " ".join(render_text(report).split())
    report["models"]["destroyed"][key]["values"][:2] = [None, 0.51]
    assert not collapses(report)
    del report["models"]["source"]
    assert not collapses(report)


def test_unknown_model_is_named() -> None:
    with pytest.raises(KeyError, match="nobody"):
        judge(report_of(source={AUC: (0.9,) * 3}), "nobody")


def test_controls_that_a_metric_does_not_separate_are_called_out() -> None:
    blind = report_of(source={AUC: around(0.51, 1)}, retrain={AUC: RETRAIN_AUC})
    sharp = report_of(source={AUC: around(0.9, 1)}, retrain={AUC: RETRAIN_AUC})
    assert "is blind" in control_findings(blind)[0]
    assert control_findings(sharp)[0].endswith("the metric separates them.")
    assert separates(blind, AUC) is False
    assert separates(sharp, AUC) is True
    assert separates(sharp, TEST) is None
    assert separates(report_of(source={AUC: (0.9,)}, retrain={AUC: (0.5,)}), AUC) is None


def test_best_is_nearest_highest_or_lowest_by_direction() -> None:
    report = report_of(
        source={AUC: (0.99,) * 3},
        retrain={AUC: RETRAIN_AUC, TEST: (0.9,) * 3},
        below={AUC: (0.41,) * 3, TEST: (0.8,) * 3, "time/total_s": (3.0,) * 3, "own": (1.0,) * 3},
        near={AUC: (0.52,) * 3, TEST: (0.7,) * 3, "time/total_s": (5.0,) * 3, "own": (2.0,) * 3},
    )
    assert best_and_worst(report, AUC) == ({"near"}, {"below"})
    assert best_and_worst(report, TEST) == ({"below"}, {"near"})
    assert best_and_worst(report, "time/total_s") == ({"below"}, {"near"})
    assert best_and_worst(report, "own") == (set(), set())
    del report["models"]["retrain"]
    assert best_and_worst(report, AUC) == (set(), set())


def test_glossary_covers_the_contract() -> None:
    contract = {
        "accuracy/forget", "accuracy/retain", "accuracy/test", "forgetting_rate", "memory_retention_rate",
        "similarity",
        "time/unlearn_s", "time/prepare_s", "time/total_s", "acceleration",
        *(f"membership_inference/{part}"
          for part in ("hit_rate", "auc", "fnr", "fpr", "balanced_accuracy", "tpr_at_1pct_fpr")),
        *(f"backdoor/{part}" for part in ("success_rate_forget", "success_rate_test", "recovered_accuracy", "clean_accuracy", "combined")),
        *(f"unlearning_degree/{part}" for part in ("degree", "null", "calibrated")),
        *(f"forgetting_quality/{part}" for part in ("epsilon_mean", "score", "final")),
    }  # fmt: skip
    assert contract <= set(METRICS)
    assert all(
        metric.label and metric.short and metric.explanation.endswith(".") for metric in METRICS.values()
    )


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("accuracy/test", [0.98765], "98.77"),
        ("accuracy/test", [0.5, 0.5, 0.5], "50.00 ± 0.00"),
        ("time/total_s", [1234.5], "1234"),
        ("time/total_s", [0.01234], "0.0123"),
        # 4.303 (t, two degrees of freedom) * 0.04 / sqrt(3) = 0.099, which one decimal shows.
        ("time/total_s", [13.98, 14.02, 14.06], "14.0 ± 0.1"),
        ("time/total_s", [14.008, 14.02, 14.032], "14.02 ± 0.03"),
        ("time/total_s", [14.01, 14.03], "14.0"),
        ("my/own", [0.0], "0.00"),
        ("my/own", [-1e-9], "0.0000"),
        ("time/total_s", [0.7, 0.7, 0.7 + 1e-16], "0.700 ± 0.000"),
    ],
)
def test_printed_numbers(name: str, values: list[float], expected: str) -> None:
    assert format_value(describe(name), summarise(values)) == expected


@pytest.mark.parametrize("name", ["a" * 70, "my_company.privacy.Own", "x", "two words of it"])
def test_wrapped_name_keeps_every_letter_and_the_width(name: str) -> None:
    lines = wrap_name(name, 12).split("\n")
    assert max(map(len, lines)) <= 12
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    short = wrap_name(name, 12, max_lines=2).split("\n")
    assert len(short) <= 2
    assert (short[-1][-1] == "…") == (len(lines) > 2)


def test_the_best_method_has_the_best_verdict_and_the_smallest_miss() -> None:
    """Of three methods in their numbers' plain arithmetic: margins are half the gap of .4, and a point of accuracy."""
    test = "accuracy/test"
    report = report_of(
        source={AUC: (0.9, 0.91, 0.89), test: (0.9, 0.9, 0.9)},
        retrain={AUC: (0.5, 0.51, 0.49), test: (0.9, 0.9, 0.9)},
        far={AUC: (0.88, 0.89, 0.87), test: (0.9, 0.9, 0.9)},
        near={AUC: (0.56, 0.57, 0.55), test: (0.9, 0.9, 0.9)},
        dear={AUC: (0.5, 0.51, 0.49), test: (0.85, 0.85, 0.85)},
    )
    answer = answer_of(report)
    assert answer is not None
    assert (answer.method, answer.status, answer.outcome) == ("near", "close", "shown")
    assert gap_closed(report, "near") == pytest.approx((0.56 - 0.9) / (0.5 - 0.9))
    assert "85% of the gap is closed" in answer.evidence
    del report["models"]["near"]
    worst = answer_of(report)
    assert worst is not None
    assert (worst.method, worst.outcome) == ("far", "not shown"), "1.9 margins of .2 against five points"
    assert "MIA AUC" in worst.forgotten
    del report["models"]["retrain"]
    assert answer_of(report) is None


def test_a_regression_is_judged_by_losses_and_by_what_it_explains() -> None:
    def model(explained: float, loss: float, distance: float | None) -> dict[str, tuple[float, ...]]:
        found = {"explained/test": around(explained), "loss/forget": around(loss, 1)}
        return found if distance is None else found | {"distance": around(distance, 2)}

    report = report_of(
        source=model(0.90, 0.1, 4.0),
        retrain=model(0.90, 4.1, None),
        retrain_2=model(0.90, 4.1, 0.1),
        forgot=model(0.95, 4.2, 0.05),
        forgot_not=model(0.95, 0.2, 3.9),
        spoilt=model(0.50, 4.1, 0.05),
    )
    verdicts = judge_all(report)
    assert {name: verdict.status for name, verdict in verdicts.items()} == {
        "forgot": "close",
        "forgot_not": "not close",
        "spoilt": "not close",
    }
    far = verdicts["forgot_not"].by_metric
    assert far["explained/test"].status == "close", "explaining more is no fault"
    assert far["loss/forget"].status == far["distance"].status == "not close"
    assert "beyond a rise of" in far["distance"].sentence
    assert verdicts["forgot"].by_metric["distance"].status == "close", (
        "nearer than retrained models are is no fault"
    )
    assert "beyond a loss of 1.00 points" in verdicts["spoilt"].by_metric["explained/test"].sentence
    answer = answer_of(report)
    assert answer is not None
    assert answer.method == "forgot"
    assert "Loss on the forget set D_f: source 0.1" in answer.evidence
    assert "Share of the test targets that is explained: source 90" in answer.cost
    aim = aims(report)["distance"]
    assert aim.worse == 1
    assert (
        distance({"distance": aim}, report, "forgot") == 0 < distance({"distance": aim}, report, "forgot_not")
    )


@pytest.mark.parametrize("seeds_left", [2, 0])
def test_what_can_tell_and_was_lost_is_not_passed_over(seeds_left: int) -> None:
    rng = np.random.default_rng(0)

    def scores(forget: float, auc: float | None) -> dict[str, float]:
        found = {
            "accuracy/forget": forget + rng.normal(0, 0.004),
            "accuracy/test": 0.95 + rng.normal(0, 0.001),
        }
        return found if auc is None else {**found, "membership_inference/auc": auc + rng.normal(0, 0.004)}

    runs = {
        "source": {seed: scores(0.99, 0.9) for seed in range(5)},
        "retrain": {seed: scores(0.6, 0.5) for seed in range(5)},
        "method": {seed: scores(0.6, 0.9 if seed < seeds_left else None) for seed in range(5)},
        "whole": {seed: scores(0.6, 0.5) for seed in range(5)},
    }
    report = build_report(runs, seeds=list(range(5)), config={}, data={"name": "x"}, environment={})
    verdicts = judge_all(report)
    assert verdicts["whole"].status == "close"
    assert verdicts["method"].status == "undecided"
    assert "what would tell is measured in fewer than 3 seeds" in verdicts["method"].headline
    assert verdicts["method"].by_metric["membership_inference/auc"].status == "illustration"
    del report["models"]["whole"]
    answer = answer_of(report)
    assert answer is not None
    assert "Cannot tell yet" in answer.forgotten


def test_an_illustration_counts_the_seeds_of_its_method() -> None:
    row = {"accuracy/forget": 0.6, "accuracy/test": 0.9}
    runs = {
        "source": {seed: {"accuracy/forget": 0.99, "accuracy/test": 0.9} for seed in range(5)},
        "retrain": dict.fromkeys(range(5), row),
        "method": dict.fromkeys(range(2), row),
    }
    answer = answer_of(
        build_report(runs, seeds=list(range(5)), config={}, data={"name": "x"}, environment={})
    )
    assert answer is not None
    assert answer.sure.startswith("2 seeds: an illustration")
