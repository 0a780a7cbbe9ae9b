"""Several comparisons under one folder: what is over all of them says what each says."""

import copy
import csv
import io
import json
from pathlib import Path

import pytest

from lightning_unlearn.cli.main import main
from lightning_unlearn.reports import judge, write_json
from lightning_unlearn.reports.paper import paper_table, paper_tables
from lightning_unlearn.reports.scenarios import overview, read_scenarios, require_scenarios, write_scenarios
from lightning_unlearn.reports.schema import Report


@pytest.fixture
def two(small_report: Report) -> dict[str, Report]:
    other = copy.deepcopy(small_report)
    other["models"]["top_k"] = other["models"].pop("reference_kl")
    return {"forget_05": small_report, "forget_10": other}


def test_the_overview_has_a_row_a_method_and_a_column_a_scenario(two: dict[str, Report]) -> None:
    head, *rows = overview(two)
    assert head == ["method", "forget_05", "forget_10"]
    assert [row[0] for row in rows] == ["reference_kl", "top_k"]
    assert rows[0][1].startswith(judge(two["forget_05"], "reference_kl").headline)
    assert rows[0][2] == rows[1][1] == "-"


def test_one_table_holds_the_numbers_of_each(two: dict[str, Report]) -> None:
    rows = list(csv.DictReader(io.StringIO(paper_tables(two, "csv"))))
    alone = list(csv.DictReader(io.StringIO(paper_table(two["forget_10"], "csv"))))
    assert [{key: row[key] for key in alone[0]} for row in rows if row["scenario"] == "forget_10"] == alone
    latex = paper_tables(two, "latex")
    assert latex.count(r"\begin{tabular}") == 1
    assert (
        latex.index(r"\textit{forget\_05}")
        < latex.index(r"reference\_kl")
        < latex.index(r"\textit{forget\_10}")
    )


def test_a_folder_is_written_read_and_refused_where_others_files_lie(
    two: dict[str, Report], tmp_path: Path
) -> None:
    for name, report in two.items():
        (tmp_path / name).mkdir()
        write_json(report, tmp_path / name / "report.json")
        (tmp_path / name / "comparison.json").write_text("{}")
    page, *_ = write_scenarios(tmp_path, list(two), {"location": "no <file>"})
    text = page.read_text()
    assert 'href="forget_10/report.html"' in text
    assert "Not run: location. no &lt;file&gt;" in text
    assert 'data-chart="scenarios.png"' in text
    assert (tmp_path / "scenarios.png").is_file()
    assert "://" not in text.replace("http://www.w3.org", "")
    reports, skipped = read_scenarios(tmp_path)
    assert list(reports) == list(two)
    assert skipped == {"location": "no <file>"}
    require_scenarios(tmp_path)
    (tmp_path / "scenarios.json").write_text(json.dumps({"scenarios": ["forget_05"]}))
    with pytest.raises(ValueError, match="damaged"):
        read_scenarios(tmp_path)
    for name in (".deletions.jsonl.lock", "deletions.jsonl", "mine.txt"):
        (tmp_path / name).touch()
    require_scenarios(tmp_path, {str(tmp_path / "deletions.jsonl"), str(tmp_path / "mine.txt")})
    (tmp_path / "deletions.jsonl").unlink()
    with pytest.raises(ValueError, match=r"holds mine\.txt"):
        require_scenarios(tmp_path)


def test_the_report_of_folders_prints_their_table_and_takes_scenarios_alone(
    two: dict[str, Report],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b", "all/forget_05", "all/forget_10"):
        Path(folder).mkdir(parents=True)
        write_json(two.get(Path(folder).name, two["forget_05"]), Path(folder, "report.json"))
    page, *_ = write_scenarios("all", list(two), {})
    assert main(["report", "a", "b", "--table", "latex"]) == 0
    printed = capsys.readouterr()
    assert printed.out == paper_tables({"a": two["forget_05"], "b": two["forget_05"]}, "latex") + "\n"
    assert printed.err == "Report: side_by_side.html\n"
    before = page.stat().st_mtime_ns
    for given, message in (
        (
            ["all", "a"],
            "folders: all holds several comparisons; give it alone, or of these: all/forget_05, all/",
        ),
        (["all", "a", "--output=new"], "folders: all holds several comparisons"),
        (
            ["all", "--output=new"],
            "output: the page over the scenarios of all lies in there; leave out --output new",
        ),
    ):
        assert main(["report", *given]) == 2
        assert message in capsys.readouterr().err
    assert page.stat().st_mtime_ns == before
    assert main(["report", "a", "--output", "all"]) == 2
    assert "output: all holds several comparisons" in capsys.readouterr().err
    assert main(["report", "a", "--output", "new"]) == 0
    assert Path("new/report.html").is_file()
    assert page.stat().st_mtime_ns == before
    assert main(["report", "all", "--output", "all"]) == 0
    assert page.stat().st_mtime_ns > before
