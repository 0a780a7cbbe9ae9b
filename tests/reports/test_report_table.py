"""The terminal's table: its width, its plainness, its numbers."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_unlearn.reports import judge, render_text
from lightning_unlearn.reports.glossary import method_names
from lightning_unlearn.reports.page import write_page
from lightning_unlearn.reports.schema import Report, summarise


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("fixture", ["small_report", "large_report", "one_seed_report", "attacked_report"])
def test_text_fits_and_is_plain(request: pytest.FixtureRequest, fixture: str, width: int) -> None:
    report = request.getfixturevalue(fixture)
    # Restored within the test, since the shared fixture checks the environment before monkeypatch undoes it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", "1")
        patch.setenv("COLUMNS", "300")
        lines = render_text(report, width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(character.isprintable() for line in lines for character in line)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "cp1252"])
@pytest.mark.parametrize("fixture", ["large_report", "one_seed_report", "attacked_report"])
def test_text_can_be_said_in_any_encoding(
    request: pytest.FixtureRequest, fixture: str, encoding: str
) -> None:
    report = request.getfixturevalue(fixture)
    report["models"]["méthode_⊕"] = report["models"][method_names(report)[0]]
    text = render_text(report, 100, encoding=encoding)
    text.encode(encoding)
    assert max(map(len, text.splitlines())) <= 100
    assert ("±" in text) == (encoding != "ascii" and len(report["seeds"]) > 1)
    assert ("méthode" in text) == (encoding != "ascii")
    numbers = set(re.findall(r"\d+\.\d+", text))
    assert numbers == set(re.findall(r"\d+\.\d+", render_text(report, 100))), "a number is lost or changed"


def test_two_seeds_have_no_interval(large_report: Report, made_report: Callable[..., Report]) -> None:
    assert "±" in render_text(large_report)
    text = render_text(made_report(tuple(large_report["models"]), (0, 1)))
    assert "±" not in text
    assert "no interval: two seeds" in text


def test_verdicts_keep_their_meaning_in_ascii(attacked_report: Report) -> None:
    plain, signs = render_text(attacked_report, 100, encoding="ascii"), render_text(attacked_report, 100)
    assert "Y within half that gap" in plain
    assert "N beyond" in plain

    def rows(text: str) -> list[list[str]]:
        lines = text[text.index("verdict") :].split("Is the method close")[0].splitlines()
        marked = (line.replace("|", " ").split() for line in lines)
        return [row for row in marked if row and row[0] in attacked_report["models"]]

    swapped = [[{"Y": "✓", "N": "✗"}.get(word, word) for word in row] for row in rows(plain)]
    assert swapped == rows(signs)


def test_every_headline_number_is_there(large_report: Report) -> None:
    text = render_text(large_report)
    for model, metrics in large_report["models"].items():
        if model == "wgan":  # only two of its seeds are there
            assert f"{100 * metrics['accuracy/test']['mean']:.2f} †" in text
            continue
        for name in ("accuracy/test", "accuracy/retain", "accuracy/forget", "membership_inference/hit_rate"):
            low, high = metrics[name]["ci95"] or [0.0, 0.0]
            assert f"{100 * metrics[name]['mean']:.2f} ± {50 * (high - low):.2f}" in text
        low, high = metrics["membership_inference/auc"]["ci95"] or [0.0, 0.0]
        assert f"{metrics['membership_inference/auc']['mean']:.3f} ± {(high - low) / 2:.3f}" in text


def test_nothing_is_cut_off(large_report: Report) -> None:
    assert "…" not in render_text(large_report)
    assert "…" not in render_text(large_report, 60)


def test_absent_metric_is_no_zero(small_report: Report) -> None:
    row = next(line for line in render_text(small_report).splitlines() if line.strip().startswith("source"))
    assert re.search(r"\s-(\s|$)", row)
    assert not re.search(r"\s0(\.0+)?\s", row)


def test_best_partial_and_failed_are_marked(large_report: Report) -> None:
    text = render_text(large_report)
    row = next(line for line in text.splitlines() if line.strip().startswith("reference_kl "))
    assert "*" in row
    assert "†" in next(line for line in text.splitlines() if line.strip().startswith("wgan "))
    assert "failed: wgan, seed 1: ValueError: the loss is NaN at step 12" in text
    assert "see the log" not in text


def verdict_rows(text: str) -> dict[str, list[str]]:
    """Read the table of the verdicts: each method's signs in the order of the columns."""
    table = text[text.index("verdict") :].split("Is the method close")[0]
    rows = [re.sub(r" -?\d+%", "", line).split() for line in table.splitlines() if re.search(r"[✓✗?]", line)]
    return {row[0]: row[1:] for row in rows}


def test_each_method_has_its_verdict_in_one_row(attacked_report: Report) -> None:
    models = attacked_report["models"]
    models["top_k"]["accuracy/test"] = models["retrain"]["accuracy/test"]
    models["top_k"]["accuracy/forget"] = models["source"]["accuracy/forget"]
    rows = verdict_rows(render_text(attacked_report))
    methods = [name for name in models if name not in ("source", "retrain")]
    assert list(rows) == methods
    for method, signs in rows.items():
        verdict = judge(attacked_report, method)
        expected = [verdict.status, *(finding.status for finding in verdict.findings)]
        assert signs == [
            {"close": "✓", "not close": "✗", "cannot tell": "-"}.get(status, "?") for status in expected
        ]
    assert rows["top_k"][:2] == ["✗", "✓"]


def test_verdict_that_cannot_be_told_has_a_question_mark(small_report: Report) -> None:
    for metrics in small_report["models"].values():
        metrics["accuracy/forget"] = small_report["models"]["retrain"]["accuracy/forget"]
        metrics["membership_inference/hit_rate"] = metrics["accuracy/forget"]
        del metrics["membership_inference/auc"]
    del small_report["models"]["reference_kl"]["membership_inference/hit_rate"]
    small_report["models"]["reference_kl"]["accuracy/test"] = small_report["models"]["retrain"][
        "accuracy/test"
    ]
    assert verdict_rows(render_text(small_report)) == {"reference_kl": ["?", "✓", "-"]}


def test_no_retrained_model_no_verdicts(small_report: Report) -> None:
    del small_report["models"]["retrain"]
    text = render_text(small_report)
    assert "no verdict on any method (no verdict, nothing to compare with)" in text
    assert "✗" not in text


def test_a_number_left_out_is_told_from_one_never_measured(attacked_report: Report, tmp_path: Path) -> None:
    models = attacked_report["models"]
    for name in ("top_k", "retrain"):
        del models[name]["relearn_time/steps"], models[name]["relearn_time/fresh"]
        if name == "top_k":
            models[name]["relearn_time/reached"] = summarise([0.0, 0.0, 0.0])
    models["source"]["relearn_time/reached"] = summarise([1.0, 0.0, 1.0])
    models["source"]["relearn_time/steps"] = summarise([2.0, None, 4.0])
    rows = render_text(attacked_report, metrics=["relearn_time/steps"]).splitlines()
    told = {row.split()[0]: row.split()[1:] for row in reversed(rows) if row.strip()}  # the first table's
    assert told["top_k"] == ["never"]
    assert told["retrain"] == ["-"]
    page = write_page(attacked_report, tmp_path / "report.html").read_text()
    seeds = page[page.index('data-seeds-of="source"') :]
    row = seeds[seeds.index('data-metric="relearn_time/steps"') :].split("</tr>")[0]
    assert row.count('data-value="">never<') == 1


def test_decimal_point_breaks_no_name(attacked_report: Report) -> None:
    assert re.search(r"^ reference_kl_lambda_0\.001 ", render_text(attacked_report), re.MULTILINE)


def test_one_seed_says_so(one_seed_report: Report) -> None:
    text = render_text(one_seed_report)
    assert "no interval: one seed" in text
    assert "±" not in text


def test_names_are_no_markup_and_no_control_characters(small_report: Report) -> None:
    name = "[bold]m\x1b[31m[/bold]"
    small_report["models"][name] = small_report["models"].pop("reference_kl")
    text = render_text(small_report)
    assert "\x1b" not in text
    assert "[bold]m\N{REPLACEMENT CHARACTER}" in text


def test_chosen_metrics(small_report: Report) -> None:
    text = render_text(small_report, metrics=["membership_inference/fpr"])
    assert "MIA FPR" in text
    assert "acceleration" not in text
    with pytest.raises(ValueError, match="no model of the report has"):
        render_text(small_report, metrics=["accuracy/unknown"])


def test_too_narrow_is_refused(small_report: Report) -> None:
    with pytest.raises(ValueError, match="width must be at least 50"):
        render_text(small_report, 40)


def test_report_in_which_all_failed(large_report: Report) -> None:
    large_report["models"] = {}
    assert "failed: wgan" in render_text(large_report)
