"""Several comparisons side by side, one a scenario: one page, one figure and one table over all of them."""

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import get_args

from lightning_unlearn.core.files import write_json_atomic, write_text_atomic
from lightning_unlearn.reports.figures import save_chart
from lightning_unlearn.reports.figures.base import Chart, Panel, Series, scaled, with_intervals
from lightning_unlearn.reports.floor import same_cost
from lightning_unlearn.reports.glossary import describe, headline_metrics, method_names
from lightning_unlearn.reports.page import Across, write_side_by_side
from lightning_unlearn.reports.paper import PaperFormat, paper_tables
from lightning_unlearn.reports.schema import Report, read_json
from lightning_unlearn.reports.verdict import judge_all

SCENARIOS = "scenarios.json"
"""Names the scenarios of a folder, in their order, and those that were not run, each with the reason."""
_PAGE, _FIGURE = "report.html", "scenarios.png"
_TABLES: Mapping[PaperFormat, str] = {"latex": "table.tex", "markdown": "table.md", "csv": "table.csv"}


def require_scenarios(folder: Path, inputs: Collection[str] = ()) -> None:
    """Refuse a folder that holds anything but comparisons, in subfolders, and what is written over them.

    Args:
        folder: The folder.
        inputs: Absolute paths that may lie there too, such as the ledger's; hidden files, such as its lock, always may.

    Raises:
        ValueError: Naming what lies there.
    """
    ours = {SCENARIOS, *_TABLES.values(), _PAGE, _FIGURE}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        known = path.name in ours or path.name.startswith(".") or os.path.abspath(path) in inputs
        if not known and not (path / "comparison.json").is_file():
            raise ValueError(
                f"output_dir: {folder} holds {path.name}, which is no comparison's folder; give a new folder, of which "
                "each scenario becomes a subfolder"
            )


def read_scenarios(folder: str | os.PathLike[str]) -> tuple[dict[str, Report], dict[str, str]]:
    """Return the reports of a folder of scenarios by name, and why others were not run.

    Raises:
        ValueError: The folder's list of scenarios is damaged.
        FileNotFoundError: A scenario has no report.
    """
    try:
        content = json.loads((Path(folder) / SCENARIOS).read_text(encoding="utf-8"))
        names, skipped = list(content["scenarios"]), dict(content["not_run"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{Path(folder) / SCENARIOS} is damaged; run the comparison again") from error
    return {name: read_json(Path(folder) / name / "report.json") for name in names}, skipped


def write_scenarios(
    folder: str | os.PathLike[str], names: list[str] | None = None, not_run: Mapping[str, str] | None = None
) -> list[Path]:
    """Write page, figure and tables over the scenarios of a folder.

    Args:
        folder: The folder, with a comparison's folder a scenario.
        names: The scenarios, in order; ``None`` for those that the folder lists.
        not_run: Why others were not run, by name; goes with ``names``.

    Returns:
        The files, the page first.
    """
    root = Path(folder)
    if names is not None:
        write_json_atomic(root / SCENARIOS, {"scenarios": names, "not_run": dict(not_run or {})})
    reports, skipped = read_scenarios(root)
    tables = [
        write_text_atomic(root / _TABLES[form], paper_tables(reports, form)) for form in get_args(PaperFormat)
    ]
    chart = _chart(reports)
    figures = [] if chart is None else [save_chart(chart, next(iter(reports.values())), root)]
    across = Across(overview(reports), skipped, chart, tables[0].read_text(encoding="utf-8"))
    return [write_side_by_side(reports, root / _PAGE, across), *figures, *tables]


def overview(reports: Mapping[str, Report]) -> list[list[str]]:
    """Return a table of strings: a row a method, a column a scenario; the verdict, the speed and the floor.

    Args:
        reports: The reports by scenario.

    Returns:
        The heading and the rows; a method that a scenario lacks has "-" there.
    """
    cells: dict[str, dict[str, str]] = {}
    for scenario, report in reports.items():
        verdicts, floors = judge_all(report), same_cost(report)
        for method in method_names(report):
            speed = report["models"][method].get("acceleration")
            told = [verdicts[method].headline]
            told += [f"{speed['mean']:.3g} times faster"] if speed else []
            place = floors[method].place if method in floors else "illustration"
            told += [] if place == "illustration" else [f"{place} the line of short retrainings"]
            cells.setdefault(method, {})[scenario] = "; ".join(told)
    rows = [[method, *(row.get(scenario, "-") for scenario in reports)] for method, row in cells.items()]
    return [["method", *reports], *rows]


def _chart(reports: Mapping[str, Report]) -> Chart | None:
    """Show each headline metric that most scenarios have, a row a scenario; nothing for a single one."""
    found = Counter(name for report in reports.values() for name in headline_metrics(report))
    panels = [_panel(reports, name) for name, number in found.items() if 2 * number > len(reports)]
    if len(reports) == 1 or not panels:
        return None
    alt = with_intervals("A panel a metric and a row a scenario, with a point a model.", panels)
    return Chart(_FIGURE, "Every headline metric over the scenarios", alt, panels)


def _panel(reports: Mapping[str, Report], name: str) -> Panel:
    about = describe(name, next(report for report in reports.values() if name in headline_metrics(report)))
    series = []
    for model in dict.fromkeys(model for report in reports.values() for model in report["models"]):
        found = [report["models"].get(model, {}).get(name) for report in reports.values()]
        if not any(found):
            continue
        values = {row: value for row, value in enumerate(found) if value is not None}
        means = [value["mean"] * about.scale for value in values.values()]
        ends = [scaled(value, about.scale) for value in values.values()]
        series.append(Series(model, means, list(values), ends, kind="points"))
    return Panel(about.short_heading, "", series, about.label, name, rows=list(reports))
