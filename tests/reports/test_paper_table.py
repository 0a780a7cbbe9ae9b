"""The columns that papers print, computed by hand, in three forms that other programs read."""

import csv
import io

import numpy as np
import pytest

from lightning_unlearn.reports import build_report
from lightning_unlearn.reports.paper import PAPER_COLUMNS, paper_table
from lightning_unlearn.reports.schema import Report

RETRAIN = {"accuracy/forget": 0.90, "accuracy/retain": 1.0, "accuracy/test": 0.92, "membership_inference/fnr": 0.6, "time/total_s": 40.0}  # fmt: skip
METHOD = {"accuracy/forget": 0.95, "accuracy/retain": 0.98, "accuracy/test": 0.90, "membership_inference/fnr": 0.5, "time/total_s": 4.0}  # fmt: skip


def report_of(seeds: int = 2, **left_out: tuple[str, ...]) -> Report:
    def values(model: str, metrics: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in metrics.items() if name not in left_out.get(model, ())}

    runs = {
        "retrain": {seed: values("retrain", RETRAIN) for seed in range(seeds)},
        "my_method": {
            seed: {
                k: v + (0.01 if seed and k == "accuracy/forget" else 0)
                for k, v in values("my_method", METHOD).items()
            }
            for seed in range(seeds)
        },
    }
    return build_report(runs, seeds=list(range(seeds)), config={}, data={}, environment={})


def rows(report: Report) -> dict[str, dict[str, str]]:
    return {row["method"]: row for row in csv.DictReader(io.StringIO(paper_table(report, "csv")))}


def test_the_columns_are_those_of_the_papers() -> None:
    row = rows(report_of())["my_method"]
    # forget accuracy .95 and .96: UA 5 and 4, gaps 5 and 6 to Retrain's 10
    expected = {
        "UA": 4.5, "RA": 98.0, "TA": 90.0, "MIA": 50.0, "RTE": 4.0,
        "Avg. gap": np.mean([(5 + 2 + 2 + 10) / 4, (6 + 2 + 2 + 10) / 4]),
        "ToW": np.mean([0.95 * 0.98 * 0.98, 0.94 * 0.98 * 0.98]),
    }  # fmt: skip
    assert set(expected) == set(PAPER_COLUMNS)
    for name, value in expected.items():
        assert float(row[name]) == pytest.approx(value, rel=1e-4)
    assert float(row["UA std"]) == pytest.approx(np.std([5, 4], ddof=1), rel=1e-4)
    assert row["seeds"] == "2"


def test_retrain_has_no_gap_to_itself() -> None:
    row = rows(report_of())["retrain"]
    assert float(row["Avg. gap"]) == 0
    assert float(row["ToW"]) == 1


def test_the_gap_is_over_what_was_measured_and_absent_without_the_accuracies() -> None:
    without_attack = report_of(my_method=("membership_inference/fnr",), retrain=("membership_inference/fnr",))
    assert float(rows(without_attack)["my_method"]["Avg. gap"]) == pytest.approx((5.5 + 2 + 2) / 3, rel=1e-4)
    assert "MIA" not in paper_table(without_attack, "markdown")
    row = rows(report_of(my_method=("accuracy/test",)))["my_method"]
    assert row["Avg. gap"] == row["ToW"] == row["TA"] == ""


def test_latex_and_markdown_have_the_same_numbers() -> None:
    latex, markdown = (paper_table(report_of(seeds=3), form) for form in ("latex", "markdown"))
    assert r"my\_method & $4.33_{\pm 0.58}$ & $98.00_{\pm 0.00}$" in latex
    assert latex.count(r"\\") == 3
    assert latex.count("&") == 3 * len(PAPER_COLUMNS)
    assert "| my_method | 4.33 ± 0.58 | 98.00 ± 0.00 |" in markdown
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1
    assert latex.startswith("% mean and standard deviation over 3 seeds\n")
    assert markdown.endswith("Mean ± standard deviation over 3 seeds.\n")


@pytest.mark.parametrize(("seeds", "told"), [(1, "one seed"), (2, "two seeds")])
def test_fewer_than_three_seeds_have_a_mean_alone(seeds: int, told: str) -> None:
    latex, markdown = (paper_table(report_of(seeds=seeds), form) for form in ("latex", "markdown"))
    assert latex.startswith(f"% mean, no interval: {told}\n")
    assert markdown.endswith(f"Mean, no interval: {told}.\n")
    assert "pm" not in latex
    assert "±" not in markdown


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form must be one of"):
        paper_table(report_of(), "word")  # type: ignore[arg-type]
