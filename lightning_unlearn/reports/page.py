"""The report as one self-contained HTML file: what the report and the runs' folders hold, laid out."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightning_unlearn.core.files import write_text_atomic
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import DPI, MODEL_KEYWORD
from lightning_unlearn.reports.floor import needed_in_words, same_cost
from lightning_unlearn.reports.glossary import (
    absent,
    all_models,
    best_and_worst,
    clean,
    decimals,
    declared_in,
    format_interval,
    format_number,
    format_value,
    what_varies,
)
from lightning_unlearn.reports.paper import PAPER_COLUMNS, PaperFormat, paper_table
from lightning_unlearn.reports.schema import Report, validate
from lightning_unlearn.reports.verdict import control_findings, judge_all, margins_in_words, summary_sentences

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["write_page"]

_CSS_DPI = 96
"""Pixels of a style sheet in an inch."""
_DATA_LABELS = {
    "name": "Data set",
    "split": "What differs between the seeds' splits",
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
_ACCURACY = "Accuracy and similarity"
_CAPTIONS = {
    "accuracy": _ACCURACY,
    "forgetting_rate": _ACCURACY,
    "memory_retention_rate": _ACCURACY,
    "similarity": _ACCURACY,
    "time": "Time",
    "acceleration": "Time",
}
"""Captions of the tables by what their metrics' names begin with, where no label gives one by its colon."""
_Cell = dict[str, Any]
"""One number of a table: ``number`` as the report holds it, None without one, and what is printed of it."""


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
    metrics = declared_in(report)
    pictures = [_picture(Path(figure)) for figure in figures]
    verdicts = judge_all(report)
    page = environment.get_template("report.html.j2").render(
        report=report,
        title=f"Unlearning report: {clean(str(report['data'].get('name', 'unnamed data')))}",
        summary=summary_sentences(report),
        controls=control_findings(report),
        control={name: meaning for name, meaning in all_models(report).items() if meaning},
        models=list(all_models(report)),
        metrics=metrics,
        verdicts=verdicts,
        floors=same_cost(report),
        needed=needed_in_words(report),
        deciding={name for verdict in verdicts.values() for name in verdict.by_metric},
        tables=_tables(metrics),
        cells={name: _cells(report, name, metric) for name, metric in metrics.items()},
        paper=[(form, paper_table(report, form)) for form in get_args(PaperFormat)],
        paper_columns=PAPER_COLUMNS,
        sections=[_section(report, model, metrics, pictures, details or {}) for model in all_models(report)],
        pictures=[picture for picture in pictures if picture["model"] not in report["models"]],
        ledger=[_entry(entry, place) for place, entry in enumerate(report.get("ledger", []), start=1)],
        data=[(_DATA_LABELS.get(key, key), _text(value)) for key, value in report["data"].items()],
        versions=[(key, _text(value)) for key, value in report["versions"].items()],
        config=_yaml(report["config"]),
        clean=clean,
        margins=margins_in_words(report),
        varied=what_varies(report),
        printed=format_number,
    )
    return write_text_atomic(path, page)


def _tables(metrics: Mapping[str, DeclaredMetric]) -> list[tuple[str, list[str]]]:
    """Return captions with metrics: the headline, then a table a family (the part of a name before the slash)."""
    captions, families = dict(_CAPTIONS), dict[str, list[str]]()
    for name, metric in metrics.items():
        family = name.partition("/")[0]
        told, colon, _ = metric.label.partition(":")
        caption = captions.setdefault(family, told if colon else family.replace("_", " ").capitalize())
        families.setdefault(clean(caption), []).append(name)
    headline = [name for name, metric in metrics.items() if metric.headline]
    return [("The comparison", headline)] * bool(headline) + list(families.items())


def _cells(report: Report, name: str, metric: DeclaredMetric) -> dict[str, _Cell]:
    """Return the number of every model that has the metric, as it is printed."""
    best, worst = best_and_worst(report, name)
    cells: dict[str, _Cell] = {}
    for model, values in report["models"].items():
        if (value := values.get(name)) is not None:
            cells[model] = {
                "number": value["mean"],
                "text": format_value(metric, value),
                "interval": "" if value["ci95"] is None else format_interval(metric, value),
                "mark": "best" if model in best else "worst" if model in worst else "",
                "partial": None in value["values"],
            }
        elif told := absent(report, model, name):
            cells[model] = {"number": None, "text": told}
    return cells


def _section(
    report: Report,
    model: str,
    metrics: Mapping[str, DeclaredMetric],
    pictures: Sequence[Mapping[str, Any]],
    details: Details,
) -> dict[str, Any]:
    """Return what the page says of one model: its numbers seed by seed, and what its runs left."""
    runs = details.get(model, {})
    # The picture of one seed shows what an evaluator saw; the others would show much the same.
    seed = next((seed for seed, run in runs.items() if run.get("pictures")), None)
    left = [] if seed is None else [_picture(Path(file), seed) for file in runs[seed]["pictures"]]
    configured = next((run["config"] for run in runs.values() if run.get("config")), {})
    rows = []
    for name, metric in metrics.items():
        if (value := report["models"][model].get(name)) is not None:
            digits = decimals(metric, value)
            numbers = [
                {
                    "number": number,
                    "text": absent(report, model, name, place)
                    if number is None
                    else format_number(metric, number, digits),
                }
                for place, number in enumerate(value["values"])
            ]
            rows.append((name, numbers))
    return {
        "model": model,
        "rows": rows,
        "pictures": [picture for picture in pictures if picture["model"] == model] + left,
        "config": _yaml(_own_config(configured, model)) if configured else "",
        "files": [file for run in runs.values() for file in run.get("files", [])],
    }


def _picture(path: Path, seed: int | None = None) -> dict[str, Any]:
    """Read one figure for embedding, with what it says of itself; ``seed`` is named where it shows only one."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(f"figures holds {path}, which does not exist; draw it first")
    try:
        with Image.open(path, formats=("PNG",)) as image:
            words, pixels = dict(image.info), image.width
    except UnidentifiedImageError as error:
        raise ValueError(f"figures holds {path}, which is no PNG file; save the figure as PNG") from error
    alt = str(words.get("Description", f"The figure {path.stem}."))
    return {
        "title": clean(str(words.get("Title", path.stem))),
        "alt": clean(alt if seed is None else f"{alt} Seed {seed}."),
        "model": str(words.get(MODEL_KEYWORD, "")),
        "data": base64.b64encode(path.read_bytes()).decode("ascii"),
        # At the size it was drawn for, figures share a letter size.
        "width": round(pixels * _CSS_DPI / words.get("dpi", (DPI, DPI))[0]),
    }


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
    facts: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping) and not any(isinstance(item, (dict, list)) for item in value.values()):
            facts |= {f"{key}: {inner}": item for inner, item in value.items()}
        else:
            facts[key] = value
    ordered = sorted(facts.items(), key=lambda fact: isinstance(fact[1], (dict, list)))
    method = entry.get("method")
    name = method.get("name") if isinstance(method, Mapping) else method
    heading = ", ".join(clean(str(told)) for told in (entry.get("request"), name, entry.get("time")) if told)
    return heading or f"Line {place}", [(key, _text(value)) for key, value in ordered]


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
