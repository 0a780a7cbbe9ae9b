"""The comparison as plain text for the terminal: tables, verdicts, and how to read them."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.cells import cell_len

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.terminal import encodable
from lightning_unlearn.metrics.declared import MATCH
from lightning_unlearn.reports.floor import needed_in_words, same_cost
from lightning_unlearn.reports.glossary import (
    CONTROLS,
    absent,
    all_models,
    best_and_worst,
    clean,
    describe,
    format_value,
    headline_metrics,
    is_control,
    measured_metrics,
    no_interval,
    short_retrainings,
    what_varies,
    wrap_name,
)
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.verdict import (
    VERDICTS,
    Finding,
    Status,
    collapses,
    judge_all,
    margins_in_words,
)

_NAME_WIDTH = 26
"""The widest that the column of model names grows; a longer name goes on in the next line."""
_GAP = "   "
"""What is put between two columns."""
_BEST = "*"
_PARTIAL = "†"
_SIGNS: dict[Status, str] = {"close": "✓", "not close": "✗"}
_UNKNOWN = "?"
_BLIND = "-"

_Spell = Callable[[str], str]
"""Says a text with the characters that the output knows."""


def render_text(
    report: Report, width: int = 100, encoding: str | None = None, metrics: Sequence[str] | None = None
) -> str:
    """Lay the report out as one table, or as several below each other where the width demands it, in plain text.

    Rows are the models, the source and the retrained model first. A cell holds the mean and half the width of
    its 95% interval. The best method of each column is marked; where the goal is the retrained model's value,
    the best is the nearest.

    Args:
        report: The report.
        width: The longest line, in columns, at least 50.
        encoding: What the text will be encoded in, such as ``sys.stdout.encoding``; signs that it lacks are spelled
            in ASCII. None is UTF-8.
        metrics: The metrics to show, in order; None shows the measured ones that are declared headline.

    Raises:
        ValueError: ``width`` is below 50, or no model has one of ``metrics``.
    """
    in_range("width", width, "[50, inf)", "; a narrower table cannot hold a name and a number")
    names = headline_metrics(report) if metrics is None else list(metrics)
    for name in names:
        if not any(name in measured for measured in report["models"].values()):
            raise ValueError(f"metrics holds {name!r}, which no model of the report has")
    spell: _Spell = partial(encodable, encoding=encoding)
    models = list(all_models(report))
    columns = [_metric_column(report, name, models, spell) for name in names]
    notes = [*_notes(report, names, columns), *_verdicts(report, width, spell), *_failures(report)]
    lines = [*_tables(columns, models, width, spell), *(spell(note) for note in notes)]
    # the tables fit by themselves
    folded = (textwrap.wrap(line, width) if len(line) > width else [line.rstrip()] for line in lines)
    return "\n".join(line for part in folded for line in part) + "\n"


@dataclass(frozen=True)
class _Column:
    """One column as text: the heading's lines, a cell a row, and the marks that occur."""

    heading: list[str]
    cells: list[str]
    marks: str = ""

    @property
    def width(self) -> int:
        return max(map(cell_len, [*self.heading, *self.cells]))


def _metric_column(report: Report, name: str, models: Sequence[str], spell: _Spell) -> _Column:
    metric = describe(name, report)
    best, _ = best_and_worst(report, name)
    cells, marks = [], []
    for model in models:
        value = report["models"][model].get(name)
        missing = absent(report, model, name) or "-"
        cells.append(spell(missing if value is None else format_value(metric, value)))
        incomplete = value is not None and None in value["values"]
        marks.append(f"{_PARTIAL if incomplete else ''}{_BEST if model in best else ''}")
    heading = [*_heading(spell(metric.short), cells), spell(metric.unit)]
    if room := max(map(len, marks), default=0):  # all numbers of the column stay aligned
        cells = [f"{cell} {spell(mark).ljust(room)}" for cell, mark in zip(cells, marks, strict=True)]
    return _Column(heading, cells, "".join(marks))


def _heading(name: str, cells: Sequence[str]) -> list[str]:
    """Break a short name into lines: one word a line keeps a column as narrow as its numbers."""
    return textwrap.wrap(name, max(map(cell_len, [*name.split(), *cells])), break_on_hyphens=False)


def _tables(columns: Sequence[_Column], models: Sequence[str], width: int, spell: _Spell) -> Iterator[str]:
    """Yield the lines of as few tables as hold the columns, in their order."""
    names = [wrap_name(model, _NAME_WIDTH).split("\n") for model in models]
    first = max([len("model"), *(cell_len(line) for lines in names for line in lines)])
    for chunk in _chunks(columns, width - first - 2):
        height = max(len(column.heading) for column in chunk)
        headings = [[""] * (height - len(column.heading)) + column.heading for column in chunk]
        for place in range(height):
            title = "model" if place == height - 1 else ""
            yield _row(title, first, chunk, [heading[place] for heading in headings])
        across = 2 + first + sum(len(_GAP) + column.width for column in chunk)
        yield ("─" if spell("─") == "─" else "-") * across
        for row, model in enumerate(models):
            if row and not is_control(model) and is_control(models[row - 1]):
                yield ""
            yield _row(spell(names[row][0]), first, chunk, [column.cells[row] for column in chunk])
            yield from (f" {spell(more)}" for more in names[row][1:])
        # an empty line, or what follows would seem to be one more row
        yield ""


def _row(name: str, width: int, columns: Sequence[_Column], cells: Sequence[str]) -> str:
    """Put a name of so many columns of text at the left, and every cell at the right of its column."""
    padded = [
        " " * (column.width - cell_len(cell)) + cell for column, cell in zip(columns, cells, strict=True)
    ]
    return _GAP.join([f" {name}{' ' * (width - cell_len(name))}", *padded])


def _chunks(columns: Sequence[_Column], room: int) -> list[list[_Column]]:
    """Split the columns, in their order, over as few tables as hold them."""
    chunks: list[list[_Column]] = []
    used = room
    for column in columns:
        needed = column.width + len(_GAP)
        if used + needed > room:
            chunks.append([])
            used = 0
        chunks[-1].append(column)
        used += needed
    return chunks


def _notes(report: Report, names: Sequence[str], columns: Sequence[_Column]) -> Iterator[str]:
    """Say how to read the numbers and the marks that occur."""
    yield no_interval(report) or f"mean ± half the width of the 95% interval over {what_varies(report)}"
    controls = [f"{name} = {meaning}" for name, meaning in CONTROLS.items() if name in report["models"]]
    controls += ["retrain_Npct = retrained for N% of the steps"] if short_retrainings(report) else []
    if controls:
        yield "; ".join(controls)
    if needed := needed_in_words(report):
        yield needed
    yield from collapses(report)
    marks = "".join(column.marks for column in columns)
    if _BEST in marks:
        described = [describe(name, report) for name in names]
        matched = [metric.short for metric in described if metric.direction == MATCH]
        nearest = f" (for {', '.join(matched)}: nearest to the retrained model)" if matched else ""
        yield f"{_BEST} best mean of the methods{nearest}"
    if _PARTIAL in marks:
        yield f"{_PARTIAL} not measured in every seed"


def _verdicts(report: Report, width: int, spell: _Spell) -> Iterator[str]:
    """Lay out each method's verdict in one row, a sign for the whole and one for each metric it rests on."""
    judged = judge_all(report)
    statuses = [verdict.status for verdict in judged.values()]
    if set(statuses) <= {"illustration", "nothing to compare"}:
        if statuses:
            reasons = dict.fromkeys(VERDICTS[status] for status in statuses)
            yield f"no verdict on any method ({'; '.join(reasons)})"
        return

    def column(title: str, signs: Iterable[str]) -> _Column:
        cells = [spell(sign) for sign in signs]
        return _Column(_heading(spell(title), cells), cells)

    columns = [column("verdict", (_SIGNS.get(status, _UNKNOWN) for status in statuses))]
    floors = same_cost(report)
    if floors:
        places = (floors[model].place if model in floors else _BLIND for model in judged)
        columns.append(column("same cost", places))
    for name in measured_metrics(report):
        found = [verdict.by_metric.get(name) for verdict in judged.values()]
        if any(found):
            columns.append(column(describe(name, report).short, map(_sign, found)))
    yield ""
    yield from _tables(columns, list(judged), width, spell)
    yield (
        "Is the method close to the retrained model? Beside it the share of the gap between source (0%) and "
        "retrained model (100%) that it closed."
    )
    yield f"{_SIGNS['close']} within {margins_in_words(report)}, two one-sided tests at 5%"
    yield f"{_SIGNS['not close']} beyond (Holm over metrics and methods); one such metric decides the verdict"
    yield f"{_UNKNOWN} undecided: more seeds would tell; {_BLIND} blind: source and retrained model do not differ"
    if floors:
        yield (
            "same cost: above, on or below the line of retrainings that took as long; below it, a short retraining is "
            "the better method"
        )


def _sign(finding: Finding | None) -> str:
    """Return the sign of one metric's answer, and the share of the gap that was closed."""
    if finding is None or finding.status == "cannot tell":
        return _BLIND
    share = "" if finding.share is None else f" {finding.share:.0%}"
    return f"{_SIGNS.get(finding.status, _UNKNOWN)}{share}"


def _failures(report: Report) -> Iterator[str]:
    """Name what failed, a line a run, with the first line of the error."""
    for failure in report["failures"]:
        first_line = failure["error"].strip().partition("\n")[0]
        yield f"failed: {clean(failure['model'])}, seed {failure['seed']}: {clean(first_line)}"
