"""Several comparisons side by side, one a scenario: one page, one figure and one table over all of them."""

import base64
import html
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from lightning_unlearn.core.files import atomic_path, write_json_atomic, write_text_atomic
from lightning_unlearn.reports.floor import same_cost
from lightning_unlearn.reports.glossary import describe, headline_metrics, method_names
from lightning_unlearn.reports.paper import PaperFormat, paper_tables
from lightning_unlearn.reports.schema import Report, read_json
from lightning_unlearn.reports.table import render_text
from lightning_unlearn.reports.verdict import judge_all

__all__ = ["SCENARIOS", "overview", "read_scenarios", "require_scenarios", "write_scenarios"]

SCENARIOS = "scenarios.json"
"""Names the scenarios of a folder, in their order, and those that were not run, each with the reason."""
_PAGE, _FIGURE = "report.html", "scenarios.png"
_TABLES: Mapping[PaperFormat, str] = {"latex": "table.tex", "markdown": "table.md", "csv": "table.csv"}
_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;"
    "padding:0 1rem}pre,table{overflow-x:auto;font-size:.85rem}td,th{padding:.3rem .8rem;text-align:left}"
    "img{max-width:100%}"
)


def require_scenarios(folder: Path) -> None:
    """Refuse a folder that holds anything but comparisons, in subfolders, and what is written over them.

    Raises:
        ValueError: Naming what lies there.
    """
    ours = {SCENARIOS, *_TABLES.values(), _PAGE, _FIGURE}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in ours and not (path / "comparison.json").is_file():
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
    figure = _figure(reports, root / _FIGURE)
    picture = "" if figure is None else base64.b64encode(figure.read_bytes()).decode("ascii")
    head, *rows = overview(reports)
    parts = [
        "<!DOCTYPE html><html lang=en><meta charset=utf-8><title>Unlearning over scenarios</title>",
        f"<style>{_STYLE}</style><h1>Unlearning over scenarios</h1><table><thead><tr>",
        *(f"<th scope=col>{html.escape(cell)}</th>" for cell in head),
        "</tr></thead><tbody>",
        *(
            f"<tr><th scope=row>{html.escape(row[0])}</th>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in rows
        ),
        "</tbody></table>",
        *(f"<p>Not run: {html.escape(name)}. {html.escape(why)}</p>" for name, why in skipped.items()),
        f'<img alt="Each headline metric of every model over the scenarios" src="data:image/png;base64,{picture}">'
        if picture
        else "",
        *(
            f'<h2><a href="{html.escape(name)}/report.html">{html.escape(name)}</a></h2>'
            f"<pre>{html.escape(render_text(report, 140))}</pre>"
            for name, report in reports.items()
        ),
        f"<h2>LaTeX</h2><pre>{html.escape(tables[0].read_text(encoding='utf-8'))}</pre></html>",
    ]
    page = write_text_atomic(root / _PAGE, "\n".join(parts))
    return [page, *([] if figure is None else [figure]), *tables]


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
            told += [f"{floors[method].place} the line of short retrainings"] if method in floors else []
            cells.setdefault(method, {})[scenario] = "; ".join(told)
    rows = [[method, *(row.get(scenario, "-") for scenario in reports)] for method, row in cells.items()]
    return [["method", *reports], *rows]


def _figure(reports: Mapping[str, Report], file: Path) -> Path | None:
    """Draw each headline metric over the scenarios, a line a model; nothing for a single scenario."""
    from matplotlib import style
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for report in reports.values() for name in headline_metrics(report)))
    shared = [name for name in names if all(name in headline_metrics(report) for report in reports.values())]
    if len(reports) < 2 or not shared:
        return None
    models = list(dict.fromkeys(model for report in reports.values() for model in report["models"]))
    places = range(len(reports))
    with style.context("default"):
        figure = Figure(figsize=(9, 2.6 * len(shared)), layout="constrained")
        panels = figure.subplots(len(shared), 1, squeeze=False)[:, 0]
        for axes, name in zip(panels, shared, strict=True):
            metric = describe(name, next(iter(reports.values())))
            for model in models:
                values = [report["models"].get(model, {}).get(name) for report in reports.values()]
                means = [metric.scale * value["mean"] if value else float("nan") for value in values]
                ends = [
                    value["ci95"] or [value["mean"]] * 2 if value else [float("nan")] * 2 for value in values
                ]
                errors = [
                    [abs(mean - metric.scale * pair[side]) for mean, pair in zip(means, ends, strict=True)]
                    for side in (0, 1)
                ]
                axes.errorbar(places, means, errors, marker="o", capsize=3, label=model)
            axes.set_xticks(places, list(reports))
            axes.set_ylabel(f"{metric.short} [{metric.unit}]" if metric.unit else metric.short)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        with atomic_path(file) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    return file
