"""Several comparisons under one folder: what is over all of them says what each says."""

import copy
import csv
import io
import json
from pathlib import Path

import pytest

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
