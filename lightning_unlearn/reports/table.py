"""The comparison as a table for the terminal; knows the report, nothing of how the numbers were made."""

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_unlearn.core.terminal import encodable
from lightning_unlearn.reports.glossary import (
    CONTROLS,
    best_and_worst,
    clean,
    describe,
    format_value,
    headline_metrics,
    measured_metrics,
    ordered_models,
    wrap_name,
)
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.verdict import VERDICTS, Finding, Status, judge_all

__all__ = ["comparison_table", "render_text"]

_NAME_WIDTH = 26
"""The widest that the column of model names grows; a longer name goes on in the next line."""
_GAP = 3
"""What a column takes beside its text: a space at each side and the box's invisible divider."""
_RULE = "─"
"""What the lines of the tables are drawn with, where the output knows it."""
_BEST = "*"
_PARTIAL = "†"
_SIGNS: dict[Status, str] = {"close": "✓", "not close": "✗"}
_UNKNOWN = "?"
_BLIND = "-"

_Spell = Callable[[str], str]
"""Says a text with the characters that the output knows."""


def comparison_table(
    report: Report,
    *,
    width: int = 100,
    metrics: Sequence[str] | None = None,
    encoding: str | None = None,
) -> RenderableType:
    """Lay the report out as one table, or as several below each other where the width demands it.

    Rows are the models, the source and the retrained model first. A cell holds the mean and half the width of
    its 95% interval. The best method of each column is marked; where the goal is the retrained model's value,
    the best is the nearest.

    Args:
        report: The report.
        width: The columns of text there are, at least 50.
        metrics: The metrics to show, in order; None shows the measured ones that the glossary calls headline.
        encoding: What the output is encoded in; signs that it lacks are spelled in ASCII. None is UTF-8.

    Returns:
        Something that a :class:`rich.console.Console` prints.

    Raises:
        ValueError: ``width`` is below 50, or no model has one of ``metrics``.
    """
    if width < 50:
        raise ValueError(
            f"width must be at least 50, got {width}; a narrower table cannot hold a name and a number"
        )
    names = headline_metrics(report) if metrics is None else list(metrics)
    for name in names:
        if not any(name in measured for measured in report["models"].values()):
            raise ValueError(f"metrics holds {name!r}, which no model of the report has")
    models = ordered_models(report)
    spell: _Spell = partial(encodable, encoding=encoding)
    columns = {name: _column(report, name, models, spell) for name in names}
    name_width = min(_NAME_WIDTH, max((cell_len(clean(model)) for model in models), default=5))
    chunks = _chunks(columns, width - name_width - _GAP) if columns else []
    parts = [_table(chunk, columns, models, name_width, spell) for chunk in chunks]
    # An empty line after each table, the notes included, or the next heading would seem to be one more row.
    return Group(
        *(part for table in parts for part in (table, Text(""))),
        *_notes(report, columns, models, spell),
        *_verdicts(report, width, name_width, spell),
        *_failures(report, spell),
    )


def render_text(report: Report, width: int = 100, encoding: str | None = None) -> str:
    """Return the table as plain text: no colours and no control characters but line ends.

    Args:
        report: The report.
        width: The longest line, in columns, at least 50.
        encoding: What the text will be encoded in, such as ``sys.stdout.encoding``; see :func:`comparison_table`.
    """
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=False,
        force_jupyter=False,
        color_system=None,
        legacy_windows=False,
    )
    console.print(comparison_table(report, width=width, encoding=encoding))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


@dataclass(frozen=True)
class _Column:
    """One metric as text: the heading's lines, and for each model the number and its marks."""

    heading: list[str]
    cells: list[str]
    marks: list[str]

    @property
    def width(self) -> int:
        return max(map(cell_len, [*self.heading, *(self.cell(row) for row in range(len(self.cells)))]))

    def cell(self, row: int) -> str:
        """Return a number with room for the longest mark, so that all numbers of the column stay aligned."""
        room = max(map(len, self.marks), default=0)
        return f"{self.cells[row]} {self.marks[row].ljust(room)}" if room else self.cells[row]


def _column(report: Report, name: str, models: Sequence[str], spell: _Spell) -> _Column:
    metric = describe(name, report)
    best, _ = best_and_worst(report, name)
    cells, marks = [], []
    for model in models:
        value = report["models"][model].get(name)
        cells.append("-" if value is None else spell(format_value(metric, value)))
        incomplete = value is not None and None in value["values"]
        marks.append(spell(f"{_PARTIAL if incomplete else ''}{_BEST if model in best else ''}"))
    return _Column([*_heading(spell(metric.short), cells), spell(metric.unit)], cells, marks)


def _chunks(columns: dict[str, _Column], room: int) -> list[list[str]]:
    """Split the columns, in their order, over as few tables as hold them."""
    chunks: list[list[str]] = [[]]
    used = 0
    for name, column in columns.items():
        needed = column.width + _GAP
        if chunks[-1] and used + needed > room:
            chunks.append([])
            used = 0
        chunks[-1].append(name)
        used += needed
    return chunks


def _table(
    chunk: Sequence[str],
    columns: dict[str, _Column],
    models: Sequence[str],
    name_width: int,
    spell: _Spell,
) -> RenderableType:
    plain = spell(_RULE) != _RULE
    table = Table(box=box.ASCII if plain else box.SIMPLE_HEAD, padding=(0, 1), pad_edge=True, show_edge=False)
    height = max((len(columns[name].heading) for name in chunk), default=1)
    # Headings stand at the bottom, cells at the top; rich aligns a column alike, hence the empty lines.
    table.add_column(Text("\n" * (height - 1) + "model"), width=name_width, overflow="fold")
    for name in chunk:
        heading = "\n" * (height - len(columns[name].heading)) + "\n".join(columns[name].heading)
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for row, model in enumerate(models):
        last_control = model in CONTROLS and (row + 1 == len(models) or models[row + 1] not in CONTROLS)
        style = "dim" if model in CONTROLS else ""
        cells = [Text(columns[name].cell(row), style=style) for name in chunk]
        table.add_row(
            Text(spell(wrap_name(model, name_width)), style=style or "bold"), *cells, end_section=last_control
        )
    return table


def _notes(report: Report, columns: dict[str, _Column], models: Sequence[str], spell: _Spell) -> list[Text]:
    """Say how to read the numbers and the marks that occur."""
    n_seeds = len(report["seeds"])
    marks = "".join(mark for column in columns.values() for mark in column.marks)
    lines = [
        f"mean ± half the width of the 95% interval over {n_seeds} seeds (Student t)"
        if n_seeds > 1
        else "no interval: one seed"
    ]
    controls = [f"{name} = {CONTROLS[name]}" for name in models if name in CONTROLS]
    if controls:
        lines.append("; ".join(controls))
    if _BEST in marks:
        matched = [
            describe(name, report).short
            for name in columns
            if describe(name, report).direction == "match the retrained model"
        ]
        nearest = f" (for {', '.join(matched)}: nearest to the retrained model)" if matched else ""
        lines.append(f"{_BEST} best mean of the methods{nearest}")
    if spell(_PARTIAL) in marks:
        lines.append(f"{_PARTIAL} not measured in every seed")
    return [Text(spell(line), style="dim") for line in lines]


def _verdicts(report: Report, width: int, name_width: int, spell: _Spell) -> list[RenderableType]:
    """Lay out each method's verdict in one row, a sign for the whole and one for each metric it rests on."""
    judged = judge_all(report)
    telling = [name for name in judged if judged[name].status not in ("illustration", "nothing to compare")]
    if not telling:
        if not judged:
            return []
        reasons = dict.fromkeys(VERDICTS[verdict.status] for verdict in judged.values())
        return [Text(f"no verdict on any method ({'; '.join(reasons)})", style="dim")]
    signs = {
        name: {finding.metric: spell(_sign(finding)) for finding in verdict.findings}
        for name, verdict in judged.items()
    }
    metrics = [
        metric for metric in measured_metrics(report) if any(metric in each for each in signs.values())
    ]
    whole = [spell(_SIGNS.get(verdict.status, _UNKNOWN)) for verdict in judged.values()]
    columns = {"": _Column(_heading("verdict", whole), whole, [""] * len(whole))}
    for metric in metrics:
        cells = [signs[name].get(metric, "-") for name in judged]
        columns[metric] = _Column(
            _heading(spell(describe(metric, report).short), cells), cells, [""] * len(cells)
        )
    chunks = _chunks(columns, width - name_width - _GAP)
    lines = [
        "Is the method close to the retrained model? Beside it the share of the gap between source (0%) and "
        "retrained model (100%) that it closed.",
        f"{_SIGNS['close']} within half that gap, or less than a point of test accuracy lost, two one-sided tests "
        "at 5%",
        f"{_SIGNS['not close']} beyond (Holm over metrics and methods); one such metric decides the verdict",
        f"{_UNKNOWN} undecided: more seeds would tell; {_BLIND} blind: source and retrained model do not differ",
    ]
    tables = (_table(chunk, columns, list(judged), name_width, spell) for chunk in chunks)
    return [
        Text(""),
        *(part for table in tables for part in (table, Text(""))),
        *(Text(spell(line), style="dim") for line in lines),
    ]


def _sign(finding: Finding) -> str:
    """Return the sign of one metric's answer, and the share of the gap that was closed."""
    if finding.status == "cannot tell":
        return _BLIND
    share = "" if finding.share is None else f" {finding.share:.0%}"
    return f"{_SIGNS.get(finding.status, _UNKNOWN)}{share}"


def _failures(report: Report, spell: _Spell) -> list[Text]:
    """Name what failed, a line a run, with the first line of the error."""
    notes = []
    for failure in report["failures"]:
        first_line = failure["error"].strip().partition("\n")[0]
        text = f"failed: {clean(failure['model'])}, seed {failure['seed']}: {clean(first_line)}"
        notes.append(Text(spell(text), style="red", overflow="fold"))
    return notes


def _heading(name: str, cells: Sequence[str]) -> list[str]:
    """Break a short name into lines: one word a line keeps a column as narrow as its numbers."""
    return textwrap.wrap(name, max(map(cell_len, [*name.split(), *cells])), break_on_hyphens=False)
