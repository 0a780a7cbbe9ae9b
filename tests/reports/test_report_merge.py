"""Merging and rebuilding: what belongs together becomes one report, what does not is refused by name."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_unlearn.reports import (
    FIGURES,
    Details,
    draw_figures,
    judge,
    merge,
    read_details,
    read_json,
    rebuild,
    write_all,
    write_json,
)
from lightning_unlearn.reports.paper import paper_columns
from lightning_unlearn.reports.schema import Report, summarise, validate
from lightning_unlearn.reports.verdict import summary_sentences

MakeDetails = Callable[[Report], Details]


@pytest.fixture
def pair(small_report: Report) -> tuple[Report, Report]:
    """Two comparisons with the same controls: reference_kl, and top_k with a metric that the first lacks."""
    first, second = copy.deepcopy(small_report), copy.deepcopy(small_report)
    first["data"]["seconds"], second["data"]["seconds"] = 10.0, 5.0
    second["models"]["top_k"] = second["models"].pop("reference_kl")
    for metrics in second["models"].values():
        metrics["backdoor/success_rate_forget"] = summarise([0.1, 0.2, 0.3])
        metrics["time/total_s"] = summarise([1.0, 2.0, 3.0])
    second["config"]["evaluators"] = ["Backdoor"]
    second["versions"] = {**second["versions"], "torch": "2.15.0"}
    second["failures"] = [{"model": "top_k", "seed": 1, "error": "it broke"}]
    return first, second


def test_one_report_stays_as_it_is(small_report: Report) -> None:
    merged = merge([small_report], ["a"])
    assert merged == small_report
    merged["models"].clear()
    assert small_report["models"]


def test_two_reports_become_one(pair: tuple[Report, Report]) -> None:
    first, second = copy.deepcopy(pair)
    merged = merge(pair, ["a", "b"])
    assert pair == (first, second)
    validate(merged)
    assert list(merged["models"]) == ["source", "retrain", "reference_kl", "top_k"]
    assert merged["models"]["reference_kl"] == first["models"]["reference_kl"]
    assert merged["models"]["top_k"] == second["models"]["top_k"]
    for control in ("source", "retrain"):
        # What only the second measured is added, and times are those of the first.
        assert merged["models"][control] == {
            **first["models"][control],
            "backdoor/success_rate_forget": summarise([0.1, 0.2, 0.3]),
        }
    assert merged["config"] == {"comparisons": {"a": first["config"], "b": second["config"]}}
    assert merged["data"] == {**first["data"], "seconds": 15.0, "merged_from": ["a", "b"]}
    assert merged["versions"]["torch"] == "2.11.0 (a); 2.15.0 (b)"
    assert merged["versions"]["python"] == "3.10.12"
    assert merged["versions"]["gpu"] == []
    assert merged["failures"] == second["failures"]
    assert judge(merged, "top_k").status != "nothing to compare"
    assert "merges the comparisons a, b" in " ".join(summary_sentences(merged))


def test_ledgers_follow_each_other(pair: tuple[Report, Report]) -> None:
    assert "ledger" not in merge(pair, ["a", "b"])
    shared = {"request": "of both"}
    pair[0]["ledger"], pair[1]["ledger"] = [shared, {"request": "a"}], [shared, {"request": "b"}]
    assert [line["request"] for line in merge(pair, ["a", "b"])["ledger"]] == ["of both", "a", "b"]


def test_failure_of_both_is_told_once(pair: tuple[Report, Report]) -> None:
    for report in pair:
        report["failures"] = [{"model": "retrain", "seed": 2, "error": "out of memory"}]
    assert len(merge(pair, ["a", "b"])["failures"]) == 1


def change(path: tuple[Any, ...], value: Any) -> Callable[[Any], None]:
    def apply(report: Any) -> None:
        for key in path[:-1]:
            report = report[key]
        report[path[-1]] = value

    return apply


def drop_controls(report: Any) -> None:
    report["models"] = {"top_k": report["models"]["top_k"]}


def other_seeds(report: Any) -> None:
    report["seeds"] = [0, 1, 3]


def other_control(report: Any) -> None:
    report["models"]["retrain"]["accuracy/test"] = summarise([0.9, 0.91, 0.92])


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (change(("data", "forget_hmac"), "0" * 64), r"b with a: data\.forget_hmac differs"),
        (change(("data", "n_forget"), 7), r"data\.n_forget differs"),
        (change(("data", "n_test"), 361), r"data\.n_test differs \(361, 360\)"),
        (other_seeds, r"seeds differ \(\[0, 1, 3\], \[0, 1, 2\]\)"),
        (other_control, r"control 'retrain' is not the same model, accuracy/test of seed 0 is 0\.9 and"),
        (change(("models", "reference_kl"), {}), "both hold a method called 'reference_kl'"),
        (drop_controls, "no metric of a control was measured in both"),
        (change(("seeds",), []), "^b: not a valid report: seeds"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    pair: tuple[Report, Report], alter: Callable[[Any], None], message: str
) -> None:
    alter(pair[1])
    with pytest.raises(ValueError, match=message):
        merge(pair, ["a", "b"])


def test_without_a_hash_in_both_counts_are_compared_and_that_is_said(pair: tuple[Report, Report]) -> None:
    del pair[1]["data"]["forget_hmac"]
    with pytest.warns(UserWarning, match="b with a: .*only its size was compared"):
        data = merge(pair, ["a", "b"])["data"]
    assert data["forget_compared_by"] == "counts only"


def test_reports_of_version_1_are_read_and_their_hash_is_not_passed_on(pair: tuple[Report, Report]) -> None:
    for report in pair:
        report["schema_version"] = 1
        report["data"]["forget_sha256"] = report["data"].pop("forget_hmac")
    merged = merge(pair, ["a", "b"])
    assert merged["schema_version"] == 2
    assert "forget_sha256" not in merged["data"]
    pair[1]["data"]["forget_sha256"] = "0" * 64
    with pytest.raises(ValueError, match="forget_sha256 differs"):
        merge(pair, ["a", "b"])


def test_third_report_is_held_against_both(pair: tuple[Report, Report]) -> None:
    third = copy.deepcopy(pair[1])
    third["models"]["random_k"] = third["models"].pop("top_k")
    assert "random_k" in merge([*pair, third], ["a", "b", "c"])["models"]
    third["models"]["source"]["backdoor/success_rate_forget"] = summarise([0.9, 0.9, 0.9])
    with pytest.raises(ValueError, match="cannot merge c with a, b: the control 'source'"):
        merge([*pair, third], ["a", "b", "c"])


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_names_must_fit(pair: tuple[Report, Report], names: list[str]) -> None:
    with pytest.raises(ValueError, match="names must hold a different name for each of 2 reports"):
        merge(pair, names)


def test_nothing_to_merge() -> None:
    with pytest.raises(ValueError, match="at least one report"):
        merge([], [])
    with pytest.raises(ValueError, match="at least one output folder"):
        rebuild([], "anywhere")


def comparison(folder: Path, report: Report, details: Details) -> Path:
    """Write a folder as a comparison leaves it."""
    write_json(report, folder / "report.json")
    (folder / "comparison.json").write_text("{}")
    for model, by_seed in details.items():
        for seed, run in by_seed.items():
            run_folder = folder / model / f"seed_{seed}"
            run_folder.mkdir(parents=True)
            found: dict[str, Any] = dict(run)
            (run_folder / "config.json").write_text(json.dumps(found.pop("config")))
            if curves := found.pop("training_curves", None):
                (run_folder / "log").mkdir()
                steps = next(iter(curves.values()))["step"]
                rows = [
                    [str(step), *(repr(curve["value"][place]) for curve in curves.values())]
                    for place, step in enumerate(steps)
                ]
                lines = [",".join(row) for row in (["step", *curves], *rows)]
                (run_folder / "log" / "metrics.csv").write_text("\n".join(lines) + "\n")
            found["forgetting"] = {"posteriors": found.pop("posteriors")}
            (run_folder / "metrics.json").write_text(json.dumps({"metrics": {}, "details": found}))
    return folder


@pytest.mark.slow
def test_page_is_rebuilt_in_its_own_folder(
    tmp_path: Path, small_report: Report, make_details: MakeDetails
) -> None:
    folder = comparison(tmp_path / "run", small_report, make_details(small_report))
    write_all(small_report, folder, read_details(folder, small_report))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    stamp = (folder / "report.json").stat().st_mtime_ns
    (folder / "report.html").unlink()
    for path in (folder / "figures").iterdir():
        path.unlink()
    written = rebuild([folder], folder)
    assert written[-1] == folder / "report.html"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert (folder / "report.json").stat().st_mtime_ns == stamp
    assert (folder / "figures" / "differences.png") in written
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "class_path: OwnMethod" in page
    assert 'data-file="reference_kl/seed_2/config.json"' in page
    assert "Training curves of reference_kl." in page


def test_details_are_read_as_they_were(
    tmp_path: Path, small_report: Report, make_details: MakeDetails
) -> None:
    details = make_details(small_report)
    folder = comparison(tmp_path / "run", small_report, details)
    read = read_details(folder, small_report)
    assert {model: set(by_seed) for model, by_seed in read.items()} == {
        model: {0, 1, 2} for model in small_report["models"]
    }
    for model, by_seed in details.items():
        for seed, run in by_seed.items():
            assert {key: read[model][seed][key] for key in run} == run  # type: ignore[literal-required]
    shutil.rmtree(folder / "source" / "seed_1")
    assert set(read_details(folder, small_report)["source"]) == {0, 2}
    small_report["models"]["../run/source"] = small_report["models"]["source"]
    assert "../run/source" not in read_details(folder, small_report)
    (folder / "source" / "seed_0" / "metrics.json").write_text('{"metrics": {}}')
    with pytest.raises(ValueError, match=r"metrics\.json does not hold what a run leaves"):
        read_details(folder, small_report)


@pytest.mark.slow
def test_two_comparisons_make_one_page(
    tmp_path: Path, pair: tuple[Report, Report], make_details: MakeDetails
) -> None:
    first, second = pair
    folders = [comparison(tmp_path / "a", first, make_details(first))]
    folders.append(comparison(tmp_path / "b", second, make_details(second)))
    written = rebuild(folders, tmp_path / "both")
    merged = merge(pair, ["a", "b"])
    assert read_json(written[-1]) == {**merged, "paper": paper_columns(merged)}
    page = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    assert 'data-model="top_k"' in page
    assert "lightning-unlearn report FOLDER" in page
    assert 'data-file="a/retrain/seed_0/config.json"' in page, "a file is found again in its own folder"
    assert 'data-file="b/top_k/seed_0/config.json"' in page
    # The figures show the methods of both: as many as drawn from both details.
    drawn = draw_figures(
        merge(pair, ["a", "b"]), tmp_path / "expected", {**make_details(second), **make_details(first)}
    )
    names = {path.name for path in drawn}
    assert {path.name for path in (tmp_path / "both" / "figures").iterdir()} == names
    assert "differences.png" in names
    for path in drawn:
        assert path.read_bytes() == (tmp_path / "both" / "figures" / path.name).read_bytes()


def test_report_of_a_comparison_is_not_replaced(
    tmp_path: Path, pair: tuple[Report, Report], make_details: MakeDetails
) -> None:
    folders = [comparison(tmp_path / name, report, {}) for name, report in zip(("a", "b"), pair, strict=True)]
    before = (folders[0] / "report.json").read_bytes()
    for given, output in ((folders, folders[0]), (folders[1:], folders[0])):
        with pytest.raises(ValueError, match="whose report would be replaced"):
            rebuild(given, output)
    with pytest.raises(ValueError, match="folders must differ"):
        rebuild([folders[0], folders[0] / ".." / "a"], tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="no report at"):
        rebuild([tmp_path / "none"], tmp_path / "c")
    assert (folders[0] / "report.json").read_bytes() == before
    assert not (tmp_path / "c").exists()


def test_folders_of_one_name_are_told_apart(tmp_path: Path, pair: tuple[Report, Report]) -> None:
    folders = [
        comparison(tmp_path / name / "run", report, {}) for name, report in zip(("a", "b"), pair, strict=True)
    ]
    report = read_json(rebuild(folders, tmp_path / "both")[-1])
    assert report["data"]["merged_from"] == [str(folder) for folder in folders]


def test_every_kind_of_figure_has_words_of_its_own() -> None:
    assert len({spec.title for spec in FIGURES}) == len({spec.alt for spec in FIGURES}) == len(FIGURES)
    assert all(("*" in spec.filename) == ("*" in spec.title) == ("*" in spec.alt) for spec in FIGURES)
