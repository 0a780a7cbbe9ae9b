"""The report as one self-contained HTML file; lays out what the report holds and decides nothing itself."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn.io import write_text_atomic
from lightning_unlearn.reports.figures import DPI, FIGURES
from lightning_unlearn.reports.glossary import (
    CONTROLS,
    Metric,
    best_and_worst,
    clean,
    decimals,
    describe,
    format_interval,
    format_number,
    format_value,
    headline_metrics,
    measured_metrics,
    method_names,
    ordered_models,
)
from lightning_unlearn.reports.schema import Report, validate
from lightning_unlearn.reports.verdict import control_findings, judge, summary_sentences

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["write_page"]

_CSS_DPI = 96
"""Pixels of a style sheet in an inch."""
_DATA_LABELS = {
    "name": "Data set",
    "n_forget": "Forget set D_f, samples",
    "n_retain": "Retain set D_r, samples",
    "n_test": "Test set, samples",
    "n_nonmember": "Never trained on, samples",
    "n_shadow": "Shadow sets, samples",
    "forget_sha256": "SHA-256 of the forget set's ids",
    "seconds": "Time of the whole comparison [s]",
    "merged_from": "Merged from the reports",
}


@dataclass(frozen=True)
class _Cell:
    """One number of a table: as the report holds it, as printed, and what is said of it."""

    number: float | None
    text: str
    interval: str
    mark: str
    partial: bool


@dataclass(frozen=True)
class _Row:
    model: str
    control: str
    cells: list[_Cell]


@dataclass(frozen=True)
class _Table:
    """One table of the page: a caption, a metric a column, a model a row."""

    identifier: str
    caption: str
    metrics: list[tuple[str, Metric]]
    rows: list[_Row]


@dataclass(frozen=True)
class _SeedTable:
    """One model's numbers seed by seed."""

    model: str
    rows: list[tuple[str, Metric, list[_Cell]]]


@dataclass(frozen=True)
class _Picture:
    title: str
    alt: str
    data: str
    width: int


def write_page(
    report: Report, path: str | os.PathLike[str], figures: Sequence[str | os.PathLike[str]] = ()
) -> Path:
    """Write the report as one HTML file that loads nothing from anywhere.

    Args:
        report: The report.
        path: The file, by convention ``report.html``; it is written whole or not at all.
        figures: PNG files to embed, in order; those of :func:`~lightning_unlearn.reports.draw_figures` carry
            their title and their description for screen readers, others their file name.

    Returns:
        The path.

    Raises:
        ValueError: The report breaks its contract, or a figure is no PNG file.
        FileNotFoundError: A figure does not exist.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    validate(report)
    environment = Environment(
        loader=PackageLoader("lightning_unlearn.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    page = environment.get_template("report.html.j2").render(
        report=report,
        title=f"Unlearning report: {clean(str(report['data'].get('name', 'unnamed data')))}",
        summary=summary_sentences(report),
        controls=control_findings(report),
        verdicts=[judge(report, model) for model in method_names(report)],
        tables=_tables(report),
        seed_tables=[_seed_table(report, model) for model in ordered_models(report)],
        pictures=[_picture(Path(figure)) for figure in figures],
        data=[(_DATA_LABELS.get(key, key), _text(value)) for key, value in report["data"].items()],
        versions=[(key, _text(value)) for key, value in report["versions"].items()],
        config=_yaml(report["config"]),
        glossary=[(name, describe(name)) for name in measured_metrics(report)],
        clean=clean,
    )
    return write_text_atomic(path, page)


def _tables(report: Report) -> list[_Table]:
    """Return the headline table, then one a family of metrics (the part of the name before the slash)."""
    tables = [_table(report, "comparison", "The comparison", headline_metrics(report))]
    families: dict[str, list[str]] = {}
    for name in measured_metrics(report):
        families.setdefault(_family(name), []).append(name)
    for index, (family, names) in enumerate(families.items()):
        tables.append(_table(report, f"family-{index}", family, names))
    return [table for table in tables if table.metrics]


_FAMILIES = {
    "accuracy": "Accuracy and similarity",
    "forgetting_rate": "Accuracy and similarity",
    "memory_retention_rate": "Accuracy and similarity",
    "similarity": "Accuracy and similarity",
    "membership_inference": "Membership inference",
    "backdoor": "Backdoor",
    "unlearning_degree": "Unlearning degree",
    "forgetting_quality": "Forgetting quality",
    "time": "Time",
    "acceleration": "Time",
}


def _family(name: str) -> str:
    first = name.partition("/")[0]
    return _FAMILIES.get(first, clean(first).replace("_", " "))


def _table(report: Report, identifier: str, caption: str, names: Sequence[str]) -> _Table:
    marks: dict[str, dict[str, str]] = {}
    for name in names:
        best, worst = best_and_worst(report, name)
        marks[name] = {**dict.fromkeys(worst, "worst"), **dict.fromkeys(best, "best")}
    rows = [
        _Row(
            model,
            CONTROLS.get(model, ""),
            [_cell(report, model, name, marks[name].get(model, "")) for name in names],
        )
        for model in ordered_models(report)
    ]
    return _Table(identifier, caption, [(name, describe(name)) for name in names], rows)


def _cell(report: Report, model: str, name: str, mark: str) -> _Cell:
    metric, value = describe(name), report["models"][model].get(name)
    if value is None:
        return _Cell(None, "not measured", "", "", False)
    interval = "" if value["ci95"] is None else format_interval(metric, value)
    return _Cell(value["mean"], format_value(metric, value), interval, mark, None in value["values"])


def _seed_table(report: Report, model: str) -> _SeedTable:
    rows = []
    for name in measured_metrics(report):
        value = report["models"][model].get(name)
        if value is None:
            continue
        metric = describe(name)
        digits = decimals(metric, value)
        cells = [
            _Cell(None, "not measured", "", "", False)
            if number is None
            else _Cell(number, format_number(metric, number, digits), "", "", False)
            for number in value["values"]
        ]
        rows.append((name, metric, cells))
    return _SeedTable(model, rows)


def _picture(path: Path) -> _Picture:
    """Read one figure for embedding, with its heading and its description."""
    if not path.is_file():
        raise FileNotFoundError(f"figures holds {path}, which does not exist; draw it first")
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"figures holds {path}, which is no PNG file; save the figure as PNG")
    title, alt = path.stem, f"The figure {path.stem}"
    for spec in FIGURES:
        key = spec.key(path.name)
        if key is not None:
            title, alt = spec.title.replace("*", key), spec.alt.replace("*", key)
            break
    # A PNG holds its width in pixels at byte 16. At the size it was drawn for, figures share a letter size.
    width = round(int.from_bytes(content[16:20], "big") * _CSS_DPI / DPI)
    return _Picture(title, alt, base64.b64encode(content).decode("ascii"), width)


def _breakable(name: str) -> Markup:
    """Escape a model's name, and let a line end after an underscore, a dot or a slash."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([_./])", r"\1<wbr>", str(escape(clean(name)))))


def _text(value: Any) -> str:
    """Print a fact: counts with separators, lists in a line, anything nested as YAML."""
    if value is None or value == []:
        return "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return _yaml(value) if isinstance(value, (dict, list)) else str(value)


def _yaml(value: Any) -> str:
    import yaml  # type: ignore[import-untyped]

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)).rstrip()
