"""The report as one self-contained HTML file; lays out what the report holds and decides nothing itself."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightning_unlearn.core.files import write_text_atomic
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.details import Details, RunFile
from lightning_unlearn.reports.figures import DPI, MODEL_KEYWORD
from lightning_unlearn.reports.glossary import (
    CONTROLS,
    best_and_worst,
    clean,
    decimals,
    describe,
    format_interval,
    format_number,
    format_value,
    headline_metrics,
    measured_metrics,
    ordered_models,
)
from lightning_unlearn.reports.paper import PAPER_COLUMNS, PaperFormat, paper_table
from lightning_unlearn.reports.schema import Report, validate
from lightning_unlearn.reports.verdict import Verdict, control_findings, judge_all, summary_sentences

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
    "forget_hmac": "Keyed hash of the forget set's ids",
    "forget_compared_by": "Forget sets compared by",
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
    metrics: list[tuple[str, DeclaredMetric]]
    rows: list[_Row]


@dataclass(frozen=True)
class _Picture:
    """One figure: what its file says of itself, its content in base64 and its width in CSS pixels."""

    title: str
    alt: str
    model: str
    data: str
    width: int


@dataclass(frozen=True)
class _Section:
    """All that the page says of one model: its verdict, its numbers seed by seed, and what its runs left."""

    identifier: str
    model: str
    control: str
    verdict: Verdict | None
    rows: list[tuple[str, DeclaredMetric, list[_Cell]]]
    pictures: list[_Picture]
    config: str
    files: list[RunFile]


def write_page(
    report: Report,
    path: str | os.PathLike[str],
    figures: Sequence[str | os.PathLike[str]] = (),
    details: Details | None = None,
) -> Path:
    """Write the report as one HTML file that loads nothing from anywhere.

    Args:
        report: The report.
        path: The file, by convention ``report.html``; it is written whole or not at all.
        figures: PNG files to embed, in order. What a file says of itself under the keywords "Title" and
            "Description" of the PNG standard stands beside it; one that names a model of the report under
            "Model" stands with that model.
        details: What the runs left beyond their scores: configurations, files and pictures for the sections of
            the models.

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
    pictures = [_picture(Path(figure)) for figure in figures]
    judged = judge_all(report)
    verdicts = list(judged.values())
    sections = _sections(report, pictures, details or {}, judged)
    deciding = {finding.metric for verdict in verdicts for finding in verdict.findings}
    page = environment.get_template("report.html.j2").render(
        report=report,
        title=f"Unlearning report: {clean(str(report['data'].get('name', 'unnamed data')))}",
        summary=summary_sentences(report),
        controls=control_findings(report),
        verdicts=verdicts,
        deciding=[(name, describe(name, report)) for name in measured_metrics(report) if name in deciding],
        tables=_tables(report),
        paper=[(form, paper_table(report, form)) for form in get_args(PaperFormat)],
        paper_columns=PAPER_COLUMNS,
        sections=sections,
        identifiers={section.model: section.identifier for section in sections},
        pictures=[picture for picture in pictures if picture.model not in report["models"]],
        ledger=[_entry(entry, place) for place, entry in enumerate(report.get("ledger", []), start=1)],
        data=[(_DATA_LABELS.get(key, key), _text(value)) for key, value in report["data"].items()],
        versions=[(key, _text(value)) for key, value in report["versions"].items()],
        config=_yaml(report["config"]),
        glossary=[(name, describe(name, report)) for name in measured_metrics(report)],
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
    "population_attack": "Population attack",
    "backdoor": "Backdoor",
    "unlearning_degree": "Unlearning degree",
    "forgetting_quality": "Forgetting quality",
    "u_lira": "U-LiRA",
    "lira": "LiRA",
    "rmia": "RMIA",
    "klom": "KLOM",
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
    return _Table(identifier, caption, [(name, describe(name, report)) for name in names], rows)


def _cell(report: Report, model: str, name: str, mark: str) -> _Cell:
    metric, value = describe(name, report), report["models"][model].get(name)
    if value is None:
        return _Cell(None, "not measured", "", "", False)
    interval = "" if value["ci95"] is None else format_interval(metric, value)
    return _Cell(value["mean"], format_value(metric, value), interval, mark, None in value["values"])


def _sections(
    report: Report, pictures: Sequence[_Picture], details: Details, judged: Mapping[str, Verdict]
) -> list[_Section]:
    """Return a section a model, in the order of presentation."""
    sections = []
    for place, model in enumerate(ordered_models(report)):
        runs = details.get(model, {})
        # The picture of one seed shows what an evaluator saw; the others would show much the same.
        seed = next((seed for seed, run in runs.items() if run.get("pictures")), None)
        left = [] if seed is None else [_picture(Path(file), seed) for file in runs[seed]["pictures"]]
        configured = next((run["config"] for run in runs.values() if run.get("config")), {})
        sections.append(
            _Section(
                identifier=f"model-{place}",
                model=model,
                control=CONTROLS.get(model, ""),
                verdict=judged.get(model),
                rows=_seed_rows(report, model),
                pictures=[picture for picture in pictures if picture.model == model] + left,
                config=_yaml(_own_config(configured, model)) if configured else "",
                files=[file for run in runs.values() for file in run.get("files", [])],
            )
        )
    return sections


_ELSEWHERE = ("model", "seed", "seeds", "data")
"""What a run's configuration repeats, what differs from seed to seed, and what may name samples."""


def _own_config(config: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the part of a run's configuration that is the model's own.

    Where no configuration was recorded, as by a program that passes objects, what was built stands for it.
    """
    chosen = "source" if model == "source" else "method"
    elsewhere = {*_ELSEWHERE, *({"source", "method"} - {chosen}), *({"built"} if config.get(chosen) else ())}
    return {key: value for key, value in config.items() if value is not None and key not in elsewhere}


def _entry(entry: Mapping[str, Any], place: int) -> tuple[str, list[tuple[str, str]]]:
    """Return a heading for one line of a ledger, and its content: single facts first, what is nested deep last."""
    facts: list[tuple[str, str]] = []
    deep: list[tuple[str, str]] = []
    for key, value in entry.items():
        if not isinstance(value, (Mapping, list)):
            facts.append((key, _text(value)))
        elif isinstance(value, list) or any(isinstance(item, (dict, list)) for item in value.values()):
            deep.append((key, _text(value)))
        else:
            facts += [(f"{key}: {inner}", _text(item)) for inner, item in value.items()]
    facts += deep
    method = entry.get("method")
    named = [
        entry.get("request"),
        method.get("name") if isinstance(method, Mapping) else method,
        entry.get("time"),
    ]
    heading = ", ".join(clean(str(name)) for name in named if name)
    return heading or f"Line {place}", facts


def _seed_rows(report: Report, model: str) -> list[tuple[str, DeclaredMetric, list[_Cell]]]:
    rows = []
    for name in measured_metrics(report):
        value = report["models"][model].get(name)
        if value is None:
            continue
        metric = describe(name, report)
        digits = decimals(metric, value)
        cells = [
            _Cell(None, "not measured", "", "", False)
            if number is None
            else _Cell(number, format_number(metric, number, digits), "", "", False)
            for number in value["values"]
        ]
        rows.append((name, metric, cells))
    return rows


def _picture(path: Path, seed: int | None = None) -> _Picture:
    """Read one figure for embedding, with what it says of itself; ``seed`` is named where it shows only one."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(f"figures holds {path}, which does not exist; draw it first")
    content = path.read_bytes()
    try:
        with Image.open(path, formats=("PNG",)) as image:
            words, pixels = dict(image.info), image.width
    except UnidentifiedImageError as error:
        raise ValueError(f"figures holds {path}, which is no PNG file; save the figure as PNG") from error
    title = str(words.get("Title", path.stem))
    alt = str(words.get("Description", f"The figure {path.stem}."))
    return _Picture(
        title=clean(title),
        alt=clean(alt if seed is None else f"{alt} Seed {seed}."),
        model=str(words.get(MODEL_KEYWORD, "")),
        data=base64.b64encode(content).decode("ascii"),
        # At the size it was drawn for, figures share a letter size.
        width=round(pixels * _CSS_DPI / words.get("dpi", (DPI, DPI))[0]),
    )


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
