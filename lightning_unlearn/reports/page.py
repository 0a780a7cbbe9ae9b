"""The report as one self-contained HTML file: what the report and the runs' folders hold, laid out."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from lightning_unlearn.core.files import write_text_atomic
from lightning_unlearn.metrics.declared import COST, DeclaredMetric
from lightning_unlearn.reports.answer import answer_of
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import DPI, FIGURES, Chart
from lightning_unlearn.reports.figures.base import chart_looks
from lightning_unlearn.reports.figures.differences import is_blind
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
    interval_of,
    is_control,
    no_interval,
    what_varies,
)
from lightning_unlearn.reports.paper import PAPER_COLUMNS, PaperFormat, paper_table
from lightning_unlearn.reports.schema import Report, validate
from lightning_unlearn.reports.thumbnails import ACROSS, FILE, SIDE
from lightning_unlearn.reports.verdict import control_findings, judge_all, margins_in_words, summary_sentences

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_CSS_DPI = 96
"""Pixels of a style sheet in an inch."""
_DATA_LABELS = {
    "name": "Data set",
    "split": "What differs between the seeds' splits",
    "n_forget": "Forget set D_f, samples",
    "n_forget_most": "Forget set D_f of the seed with most, samples",
    "n_retain": "Retain set D_r, samples",
    "n_test": "Test set, samples",
    "n_nonmember": "Never trained on, samples",
    "n_shadow": "Shadow sets, samples",
    "after": "Goes on from the comparison",
    "n_previous": "Forgotten by earlier requests, samples",
    "forget_hmac": "Keyed hash of the forget set's ids",
    "forget_compared_by": "Forget sets compared by",
    "seconds": "Time of the whole comparison [s]",
    "other_times": "Timed in another start than the retraining, so the acceleration is uncertain",
    "merged_from": "Merged from the reports",
}
_PLAIN = {
    "accuracy": "How many answers are right?",
    "forgetting_rate": "How many answers are right?",
    "memory_retention_rate": "How many answers are right?",
    "similarity": "How many answers are right?",
    "time": "What did it cost?",
    "acceleration": "What did it cost?",
    "epochs": "What did it cost?",
    "memory": "What did it cost?",
    "membership_inference": "Can an attacker tell who was in?",
    "lira": "Can an attacker with many models tell who was in?",
    "rmia": "Can an attacker with a few models tell who was in?",
    "u_lira": "Can an attacker tell an unlearned model from a retrained one?",
    "backdoor": "Is the planted trigger still obeyed?",
    "unlearning_degree": "Did the model move because it forgot, or only move?",
    "relearn_time": "How fast does it learn the samples again?",
    "forgetting_quality": "Do many unlearned models answer as retrained ones do?",
    "klom": "Do many unlearned models answer as retrained ones do?",
    "linear_probe": "Do its inner features still tell who was in?",
}
"""Questions in plain words, by what metrics' names begin with; elsewhere a label's part before its colon is taken."""
_COST, _BLIND = "cost_quality.png", "blind.png"
_POINTS = 150
"""About the most points of a line that the page holds."""
_SAMPLES = 500
"""The most samples whose confidences the page holds."""
_Cell = dict[str, Any]
"""One number of a table: ``number`` as the report holds it, None without one, and what is printed of it."""


def write_page(report: Report, path: str | os.PathLike[str], details: Details | None = None) -> Path:
    """Write the report as one HTML file that loads nothing from the network.

    Its plots are drawn in the browser from the data in the file. Beside it are looked for ``report.json``, to which it
    links, and ``samples.png``, pictures of the forgotten samples; without them it is whole all the same.

    Args:
        report: The report.
        path: The file, by convention ``report.html``; it is written whole or not at all.
        details: What the runs left beyond their scores: courses, answers to single samples, configurations, files and
            pictures.

    Returns:
        The path.

    Raises:
        ValueError: The report breaks its contract, or a picture is no PNG file.
        FileNotFoundError: A picture does not exist.
    """
    validate(report)
    metrics, known = declared_in(report), details or {}
    charts = [chart for spec in FIGURES for chart in spec.charts(report, known)]
    overview = _overview(report, metrics, charts)
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            **overview,
            overview=_rendered(overview),
            title=f"Unlearning report: {_name(report)}",
            summary=summary_sentences(report),
            controls=control_findings(report),
            tables=_tables(metrics),
            paper=[(form, paper_table(report, form)) for form in get_args(PaperFormat)],
            paper_columns=PAPER_COLUMNS,
            charts=[chart for chart in charts if chart.filename not in (_COST, _BLIND) and not chart.model],
            blind_chart=next((chart for chart in charts if chart.filename == _BLIND), None),
            sections=[_section(report, model, metrics, charts, known) for model in overview["models"]],
            samples=_samples(report, known),
            ledger=[_entry(entry, place) for place, entry in enumerate(report.get("ledger", []), start=1)],
            data=[(_DATA_LABELS.get(key, key), _text(value)) for key, value in report["data"].items()],
            versions=[(key, _text(value)) for key, value in report["versions"].items()],
            config=_yaml(report["config"]),
            printed=format_number,
            drawn=_json([_as_data(report, chart) for chart in charts]),
            pictured=(Path(path).parent / FILE).is_file(),
            side=SIDE,
            across=ACROSS,
        )
    )
    return write_text_atomic(path, page)


class Across(NamedTuple):
    """What is said over comparisons that are the scenarios of one.

    Attributes:
        table: A heading and rows, the first cell of each a method.
        not_run: Why other scenarios were not run, by name.
        chart: Their metrics beside each other, if there are several.
        latex: Their table for a paper.
    """

    table: Sequence[Sequence[str]]
    not_run: Mapping[str, str]
    chart: Chart | None
    latex: str


def write_side_by_side(
    reports: Mapping[str, Report], path: str | os.PathLike[str], across: Across | None = None
) -> Path:
    """Write the answers, the costs and the headline tables of several comparisons next to each other.

    Args:
        reports: The reports by the names of their comparisons; they need not share data, seeds or methods.
        path: The file; it is written whole or not at all.
        across: What is said over all of them, whose own pages then lie in folders of their names.

    Raises:
        ValueError: A report breaks its contract.
    """
    parts, drawn = dict[str, Any](), list[dict[str, Any]]()
    for place, (name, report) in enumerate(reports.items()):
        validate(report, name)
        charts = [chart for spec in FIGURES if spec.filename == _COST for chart in spec.charts(report, {})]
        overview = _overview(report, declared_in(report), charts, prefix=f"{place}-")
        parts[name] = _rendered(overview)
        drawn += [_as_data(report, chart, prefix=f"{place}-") for chart in charts]
    if across and across.chart:
        drawn.append(_as_data(next(iter(reports.values())), across.chart))
    title = "Unlearning over scenarios" if across else " beside ".join(clean(name) for name in reports)
    template = environment().get_template("side.html.j2")
    page = template.render(parts=parts, title=title, drawn=_json(drawn), across=across, prefix="")
    return write_text_atomic(path, page)


@cache
def environment() -> Environment:
    """Return what renders this room's templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("lightning_unlearn.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["breakable"] = _breakable
    made.globals["clean"] = clean
    return made


def _overview(
    report: Report, metrics: Mapping[str, DeclaredMetric], charts: Sequence[Chart], prefix: str = ""
) -> dict[str, Any]:
    """Return what the first screen and the table below it are made of."""
    verdicts, floors = judge_all(report), same_cost(report)
    blind = [name for name in metrics if is_blind(report, name)]
    cost = [name for name in ("acceleration", "time/total_s") if name in metrics]
    headline = [name for name in metrics if metrics[name].headline and name not in {*blind, *COST}]
    models = all_models(report)
    return {
        "report": report,
        "prefix": prefix,
        "data_name": _name(report),
        "answer": answer_of(report, verdicts),
        "cost_chart": next((chart for chart in charts if chart.filename == _COST), None),
        "control": {name: meaning for name, meaning in models.items() if meaning},
        "models": list(models),
        "metrics": metrics,
        "about": {name: f"{prefix}about-{place}" for place, name in enumerate(metrics)},
        "verdicts": verdicts,
        # what is known of one seed is said once, in the answer
        "judged": {verdict.status for verdict in verdicts.values()} - {"illustration", "nothing to compare"},
        "floors": {name: floor for name, floor in floors.items() if floor.place != "illustration"},
        "all_floors": floors,
        "needed": needed_in_words(report),
        "headline": [*cost, *headline],
        "blind": blind,
        "cells": {name: _cells(report, name, metric) for name, metric in metrics.items()},
        "margins": margins_in_words(report),
        "varied": what_varies(report),
        "no_interval": no_interval(report),
    }


def _rendered(overview: Mapping[str, Any]) -> Markup:
    from markupsafe import Markup

    return Markup(environment().get_template("overview.html.j2").render(**overview))


def _name(report: Report) -> str:
    return clean(str(report["data"].get("name", "unnamed data")))


def _tables(metrics: Mapping[str, DeclaredMetric]) -> list[tuple[str, list[str]]]:
    """Return captions with metrics: a table for each question that families (a name up to the slash) ask."""
    captions, families = dict(_PLAIN), dict[str, list[str]]()
    for name, metric in metrics.items():
        family = name.partition("/")[0]
        told, colon, _ = metric.label.partition(":")
        caption = captions.setdefault(family, told if colon else family.replace("_", " ").capitalize())
        families.setdefault(clean(caption), []).append(name)
    return list(families.items())


def _as_data(report: Report, chart: Chart, prefix: str = "") -> dict[str, Any]:
    """Return a chart as the page's script draws it."""
    axes: tuple[Literal["x", "y"], ...] = ("x", "y")
    return {
        "id": f"{prefix}{chart.filename}",
        "looks": chart_looks(report, chart.panels),
        "panels": [
            {
                **{key: getattr(panel, key) for key in ("x", "y", "title", "metric", "lines", "log", "rows")},
                "limits": [panel.limits(axis) for axis in axes],
                "series": [
                    {
                        **{key: getattr(one, key) for key in ("name", "kind", "faint", "look")},
                        **{key: _thinned(getattr(one, key), one.kind) for key in ("x", "y", "ends")},
                    }
                    for one in panel.series
                ],
            }
            for panel in chart.panels
        ],
    }


def _thinned(points: Sequence[Any], kind: str) -> list[Any]:
    """Leave out of a long line what a reader could not see."""
    every = 1 if kind != "line" else -(-len(points) // _POINTS)
    return list(points[::every]) if every else []


def _json(value: Any) -> Markup:
    """Write data for a script of the page, short, and so that no text in it ends the script."""
    from markupsafe import Markup

    def rounded(item: Any) -> Any:
        if isinstance(item, float):
            return float(f"{item:.5g}")
        if isinstance(item, dict):
            return {key: rounded(each) for key, each in item.items()}
        return [rounded(each) for each in item] if isinstance(item, (list, tuple)) else item

    text = json.dumps(rounded(value), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _samples(report: Report, details: Details) -> dict[str, Any] | None:
    """Return each model's confidence in the labels of the forgotten samples, in their order, in the first seed."""
    seed = report["seeds"][0]
    found = {
        clean(model): [
            round(value, 3) for value in details[model][seed]["posteriors"]["forget set"][:_SAMPLES]
        ]
        for model in all_models(report)
        if "forget set" in details.get(model, {}).get(seed, {}).get("posteriors", {})
    }
    whole = {"source", "retrain"} <= found.keys() and len({len(values) for values in found.values()}) == 1
    if not whole or len(found) < 3:
        return None
    methods = sorted(
        found.keys() - {"source", "retrain"}, key=lambda name: (is_control(name), list(found).index(name))
    )
    return {"seed": seed, "count": len(found["source"]), "models": methods, "values": _json(found)}


def _cells(report: Report, name: str, metric: DeclaredMetric) -> dict[str, _Cell]:
    """Return the number of every model that has the metric, as it is printed."""
    best, worst = best_and_worst(report, name)
    cells: dict[str, _Cell] = {}
    for model, values in report["models"].items():
        if (value := values.get(name)) is not None:
            cells[model] = {
                "number": value["mean"],
                "text": format_value(metric, value),
                "interval": "" if interval_of(value) is None else format_interval(metric, value),
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
    charts: Sequence[Chart],
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
        "charts": [chart for chart in charts if chart.model == model],
        "pictures": left,
        "config": _yaml(_own_config(configured, model)) if configured else "",
        "files": [file for run in runs.values() for file in run.get("files", [])],
    }


def _picture(path: Path, seed: int) -> dict[str, Any]:
    """Read a picture that an evaluator left in a seed, with what it says of itself, for embedding."""
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
        "alt": clean(f"{alt} Seed {seed}."),
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
