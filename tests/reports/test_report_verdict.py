"""The verdict against the retrained model, on numbers small enough to decide by hand."""

import pytest

from lightning_unlearn.reports import build_report, judge
from lightning_unlearn.reports.glossary import METRICS, best_and_worst, describe, format_value, wrap_name
from lightning_unlearn.reports.schema import Report, summarise
from lightning_unlearn.reports.verdict import control_findings, separates, summary_sentences

AUC, TEST = "membership_inference/auc", "accuracy/test"

# Three seeds 0.48, 0.50, 0.52 have the mean 0.50, the standard deviation 0.02 and the half-width
# 4.3027 * 0.02 / sqrt(3) = 0.0497, so the interval is [0.450, 0.550].
RETRAIN_AUC = (0.48, 0.50, 0.52)


def report_of(**models: dict[str, tuple[float, ...]]) -> Report:
    seeds = range(len(next(iter(next(iter(models.values())).values()))))
    runs = {
        model: {seed: {name: values[seed] for name, values in metrics.items()} for seed in seeds}
        for model, metrics in models.items()
    }
    return build_report(runs, seeds=list(seeds), config={}, data={}, environment={})


@pytest.mark.parametrize(
    ("method", "source", "expected"),
    [
        (0.54, 0.90, "close"),
        (0.56, 0.90, "not close"),
        (0.44, 0.90, "not close"),
        (0.54, 0.53, "cannot tell"),
    ],
)
def test_forgetting_metric(method: float, source: float, expected: str) -> None:
    report = report_of(source={AUC: (source,) * 3}, retrain={AUC: RETRAIN_AUC}, m={AUC: (method,) * 3})
    verdict = judge(report, "m")
    assert verdict.status == expected
    assert [finding.status for finding in verdict.findings] == [expected]
    assert "[0.450, 0.550]" in verdict.findings[0].sentence


def test_distance_in_the_sentence() -> None:
    report = report_of(source={AUC: (0.9,) * 3}, retrain={AUC: RETRAIN_AUC}, m={AUC: (0.60,) * 3})
    assert (
        "0.600 ± 0.000, 0.050 above the retrained model's 95% interval"
        in judge(report, "m").findings[0].sentence
    )


def test_distance_that_rounds_to_nothing_is_said_in_words() -> None:
    edge = summarise(RETRAIN_AUC)["ci95"]
    assert edge is not None
    report = report_of(source={AUC: (0.9,) * 3}, retrain={AUC: RETRAIN_AUC}, m={AUC: (edge[1] + 1e-5,) * 3})
    finding = judge(report, "m").findings[0]
    assert finding.status == "not close"
    assert "just above" in finding.sentence


def test_better_test_accuracy_is_no_fault_but_worse_is() -> None:
    common = {AUC: RETRAIN_AUC}
    source = {AUC: (0.9,) * 3, TEST: (0.9,) * 3}
    retrain = {**common, TEST: (0.89, 0.90, 0.91)}
    better = report_of(source=source, retrain=retrain, m={**common, TEST: (0.99,) * 3})
    worse = report_of(source=source, retrain=retrain, m={**common, TEST: (0.80,) * 3})
    assert judge(better, "m").status == "close"
    assert "above" in judge(better, "m").findings[0].sentence
    assert judge(worse, "m").status == "not close"


def test_source_inside_the_interval_does_not_spoil_test_accuracy() -> None:
    report = report_of(source={TEST: (0.9,) * 3}, retrain={TEST: (0.89, 0.90, 0.91)}, m={TEST: (0.9,) * 3})
    assert [finding.status for finding in judge(report, "m").findings] == ["close"]
    # Kept accuracy alone is no evidence of forgetting.
    assert judge(report, "m").status == "cannot tell"


def test_one_seed_has_no_verdict() -> None:
    report = report_of(source={AUC: (0.9,)}, retrain={AUC: (0.5,)}, m={AUC: (0.5,)})
    assert judge(report, "m").headline == "no interval: one seed"
    assert "no interval" in judge(report, "m").findings[0].sentence
    assert any("No interval: one seed." in sentence for sentence in summary_sentences(report))
    assert "one seed" in control_findings(report)[0]


def test_without_retrained_model_nothing_is_judged() -> None:
    report = report_of(source={AUC: (0.9,) * 3}, m={AUC: (0.5,) * 3})
    assert judge(report, "m").status == "nothing to compare"
    assert "no method can be judged" in " ".join(summary_sentences(report))


def test_unknown_model_is_named() -> None:
    with pytest.raises(KeyError, match="nobody"):
        judge(report_of(source={AUC: (0.9,) * 3}), "nobody")


def test_controls_that_a_metric_does_not_separate_are_called_out() -> None:
    blind = report_of(source={AUC: (0.51,) * 3}, retrain={AUC: RETRAIN_AUC})
    sharp = report_of(source={AUC: (0.9,) * 3}, retrain={AUC: RETRAIN_AUC})
    assert "does not separate" in control_findings(blind)[0]
    assert control_findings(sharp)[0].endswith("the metric separates them.")


@pytest.mark.parametrize(("source", "expected"), [(0.54, False), (0.56, True), (0.44, True)])
def test_metric_separates_the_controls_or_not(source: float, expected: bool) -> None:
    report = report_of(source={AUC: (source,) * 3}, retrain={AUC: RETRAIN_AUC})
    assert separates(report, AUC) is expected
    assert separates(report, TEST) is None
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
          for part in ("accuracy", "auc", "fnr", "fpr", "balanced_accuracy", "tpr_at_1pct_fpr")),
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
        ("accuracy/test", [0.5, 0.5], "50.00 ± 0.00"),
        ("time/total_s", [1234.5], "1234"),
        ("time/total_s", [0.01234], "0.0123"),
        # 12.706 (t, one degree of freedom) * 0.0141 / sqrt(2) = 0.127, which one decimal shows.
        ("time/total_s", [14.01, 14.03], "14.0 ± 0.1"),
        ("time/total_s", [14.018, 14.022], "14.02 ± 0.03"),
        ("my/own", [0.0], "0.00"),
        ("my/own", [-1e-9], "0.0000"),
        ("time/total_s", [0.7, 0.7 + 1e-16], "0.700 ± 0.000"),
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
