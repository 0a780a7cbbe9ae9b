"""Print a comparison as papers print theirs: UA, RA, TA, MIA, run time, average gap and ToW, for LaTeX and others."""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from lightning_unlearn.reports.glossary import LEAST_SEEDS, all_models, clean, no_interval
from lightning_unlearn.reports.schema import Report

PaperFormat = Literal["latex", "markdown", "csv"]

PAPER_COLUMNS: Mapping[str, str] = {
    "UA": "unlearning accuracy, 1 - accuracy on the forget set [%]",
    "RA": "accuracy on the retain set [%]",
    "TA": "accuracy on the test set [%]",
    "MIA": "MIA efficacy, share of the forget set that the attack takes for samples never trained on [%]",
    "RTE": "run time [s]",
    "Avg. gap": "mean of |method - Retrain| over UA, RA, TA and MIA, of those measured [points]",
    "ToW": "tug of war, the product of 1 - |method - Retrain| over the accuracies on forget, retain and test set",
}
"""The columns of :func:`paper_table` and what they hold; UA, RA, TA, MIA, RTE and the average gap as in Fan et al.,
"SalUn", 2024, ToW as in Zhao et al., "What makes unlearning hard and what to do about it", 2024."""

_ACCURACIES = ("UA", "RA", "TA")
_SOURCES = {
    "UA": ("accuracy/forget", -100.0, 100.0),
    "RA": ("accuracy/retain", 100.0, 0.0),
    "TA": ("accuracy/test", 100.0, 0.0),
    "MIA": ("membership_inference/fnr", 100.0, 0.0),
    "RTE": ("time/total_s", 1.0, 0.0),
}
"""For each column the metric it is made of, a factor and a summand."""

_Seeds: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def paper_table(report: Report, form: PaperFormat) -> str:
    """Return the comparison in the columns of :data:`PAPER_COLUMNS`, mean ± standard deviation from three seeds on.

    Args:
        report: The report.
        form: ``"latex"`` (a ``tabular`` for the package booktabs), ``"markdown"``, or ``"csv"`` with mean and standard
            deviation in columns of their own.

    Returns:
        The table; a column that no model has is left out, and a number that a model lacks is "-" ("" in CSV).

    Raises:
        ValueError: ``form`` is none of these.
    """
    return paper_tables({"": report}, form)


def paper_tables(reports: Mapping[str, Report], form: PaperFormat) -> str:
    """Return several comparisons in one :func:`paper_table`, one below the other under their names.

    Args:
        reports: The reports by the scenario that each is of.
        form: See :func:`paper_table`; markdown and CSV have a first column for the scenario.

    Raises:
        ValueError: ``form`` is none of these.
    """
    if form not in get_args(PaperFormat):
        raise ValueError(f"form must be one of {get_args(PaperFormat)}, got {form!r}")
    columns = {
        (scenario, model): _columns(report, model)
        for scenario, report in reports.items()
        for model in all_models(report)
    }
    names = [name for name in PAPER_COLUMNS if any(name in each for each in columns.values())]
    first = ["scenario"] if any(reports) else []
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        spread = [part for name in names for part in (name, f"{name} std")]
        writer.writerow([*first, "method", *spread, "seeds"])
        for (scenario, model), each in columns.items():
            cells = [part for name in names for part in _moments(each.get(name))]
            told = ["" if cell is None else f"{cell:.6g}" for cell in cells]
            seeds = len(reports[scenario]["seeds"])
            writer.writerow([*([scenario] if first else []), clean(model), *told, seeds])
        return text.getvalue()
    rows = {
        key: [clean(key[1]), *(_cell(name, each.get(name), form) for name in names)]
        for key, each in columns.items()
    }
    if form == "markdown":
        lines = [[*first, "method", *names], [*(["---"] * len(first)), "---", *["---:"] * len(names)]]
        lines += [[*([scenario] if first else []), *row] for (scenario, _), row in rows.items()]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{table}\n\n{_held(reports, '±').capitalize()}.\n"
    body = ""
    for scenario in reports:
        heading = (
            f"\\multicolumn{{{len(names) + 1}}}{{l}}{{\\textit{{{_escaped(scenario)}}}}} \\\\\n"
            if first
            else ""
        )
        own = [row for key, row in rows.items() if key[0] == scenario]
        body += f"\\midrule\n{heading}" + "".join(
            f"{' & '.join([_escaped(row[0]), *row[1:]])} \\\\\n" for row in own
        )
    return (
        f"% {_held(reports, 'and')}\n\\begin{{tabular}}{{l{'r' * len(names)}}}\n\\toprule\n"
        f"Method & {' & '.join(names)} \\\\\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )


def _held(reports: Mapping[str, Report], joint: str) -> str:
    """Say what the cells hold."""
    counts = sorted({len(report["seeds"]) for report in reports.values()})
    enough = " or ".join(str(count) for count in counts if count >= LEAST_SEEDS)
    alone = [told for told in dict.fromkeys(map(no_interval, reports.values())) if told]
    return ", ".join([f"mean {joint} standard deviation over {enough} seeds" if enough else "mean", *alone])


def _escaped(name: str) -> str:
    return name.replace("_", "\\_").replace("%", "\\%")


def paper_columns(report: Report) -> dict[str, dict[str, list[float | None]]]:
    """Return model name to column to one number a seed, ``None`` where the seed lacks it; what report.json holds."""
    return {
        model: {
            name: [float(value) if math.isfinite(value) else None for value in values]
            for name, values in _columns(report, model).items()
        }
        for model in all_models(report)
    }


def _columns(report: Report, model: str) -> dict[str, _Seeds]:
    """Return each column of a model as one number a seed, NaN where a seed lacks it."""
    own = _measured(report, model)
    retrained = _measured(report, "retrain")
    gaps = {
        name: np.abs(own[name] - retrained[name])
        for name in (*_ACCURACIES, "MIA")
        if {name} <= own.keys() & retrained.keys()
    }
    if set(_ACCURACIES) <= gaps.keys():
        own["Avg. gap"] = np.mean(list(gaps.values()), axis=0)
        own["ToW"] = np.prod([1 - gaps[name] / 100 for name in _ACCURACIES], axis=0)
    return own


def _measured(report: Report, model: str) -> dict[str, _Seeds]:
    metrics = report["models"].get(model, {})
    return {
        name: summand
        + factor * np.array([math.nan if value is None else value for value in metrics[metric]["values"]])
        for name, (metric, factor, summand) in _SOURCES.items()
        if metric in metrics
    }


def _moments(values: _Seeds | None) -> tuple[float | None, float | None]:
    """Return mean and standard deviation over the seeds that have the number."""
    there = np.empty(0) if values is None else values[np.isfinite(values)]
    return (
        float(there.mean()) if there.size else None,
        float(there.std(ddof=1)) if there.size > 1 else None,
    )


def _cell(name: str, values: _Seeds | None, form: PaperFormat) -> str:
    mean, spread = _moments(values)
    if mean is None or values is None:
        return "-"
    if np.isfinite(values).sum() < LEAST_SEEDS:
        spread = None
    digits = 3 if name == "ToW" else 2
    if form == "latex":
        return (
            f"${mean:.{digits}f}$" if spread is None else f"${mean:.{digits}f}_{{\\pm {spread:.{digits}f}}}$"
        )
    return f"{mean:.{digits}f}" if spread is None else f"{mean:.{digits}f} ± {spread:.{digits}f}"
