"""``lightning-unlearn report``: write a comparison's page again, merge several, or show them side by side."""

import sys
from pathlib import Path

from lightning_unlearn.core.terminal import columns, say
from lightning_unlearn.reports import rebuild, render_text
from lightning_unlearn.reports.merge import beside
from lightning_unlearn.reports.paper import PaperFormat, paper_table, paper_tables
from lightning_unlearn.reports.scenarios import SCENARIOS, read_scenarios, write_scenarios
from lightning_unlearn.reports.schema import read_json

EXAMPLE = "runs/digits"
_BESIDE = "side_by_side.html"
"""The page of several comparisons, in the working folder."""


def run(folders: list[Path], *, output: Path | None = None, table: PaperFormat | None = None) -> int:
    """Write the page and figures of a comparison again, and print the table.

    Several are shown side by side; with --output those on the same data become one.

    Args:
        folders: Each the output_dir of a comparison, or of one over scenarios.
        output: Folder to write to; that of the comparison if left out.
        table: Print the columns of papers in this form: UA, RA, TA, MIA, run time, gap; else the table of compare.
    """
    if output is None and len(folders) > 1:
        say(f"Report: {beside(folders, _BESIDE)}")
        return 0
    output = output or folders[0]
    beside_table = sys.stderr if table else None  # the output can then be read in as it is
    if len(folders) == 1 and (output / SCENARIOS).is_file():
        names, _ = read_scenarios(output)
        for name in names:
            rebuild([output / name], output / name)
        page, *_ = write_scenarios(output)
        if table:
            say(paper_tables(read_scenarios(output)[0], table))
        say(f"Report: {page}", beside_table)
        return 0
    rebuild(folders, output)
    report = read_json(output / "report.json")
    say(paper_table(report, table) if table else render_text(report, columns(), encoding=sys.stdout.encoding))
    say(f"Report: {output / 'report.html'}", beside_table)
    return 0
