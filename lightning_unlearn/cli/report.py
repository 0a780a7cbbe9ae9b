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
        folders: Each the output_dir of a comparison; or that of one over scenarios, alone.
        output: Folder to write to; that of the comparison if left out.
        table: Print the columns of papers in this form: UA, RA, TA, MIA, run time, gap; else the table of compare.
    """
    over = [folder for folder in folders if (folder / SCENARIOS).is_file()]
    if over and len(folders) > 1:
        names = ", ".join(str(over[0] / name) for name in read_scenarios(over[0])[0])
        raise ValueError(f"folders: {over[0]} holds several comparisons; give it alone, or of these: {names}")
    if over and output is not None and output.resolve() != over[0].resolve():
        raise ValueError(
            f"output: the page over the scenarios of {over[0]} lies in there; leave out --output {output}"
        )
    if not over and output is not None and (output / SCENARIOS).is_file():
        raise ValueError(
            f"output: {output} holds several comparisons, whose page would be replaced; choose another folder"
        )
    beside_table = sys.stderr if table else None  # the output can then be read in as it is
    if output is None and len(folders) > 1:
        page = beside(folders, _BESIDE)
        if table:
            reports = {str(folder): read_json(folder / "report.json") for folder in folders}
            say(paper_tables(reports, table))
        say(f"Report: {page}", beside_table)
        return 0
    if over:
        return _over_scenarios(over[0], table)
    output = output or folders[0]
    rebuild(folders, output)
    report = read_json(output / "report.json")
    say(paper_table(report, table) if table else render_text(report, columns(), encoding=sys.stdout.encoding))
    say(f"Report: {output / 'report.html'}", beside_table)
    return 0


def _over_scenarios(folder: Path, table: PaperFormat | None) -> int:
    """Write the pages of a folder of scenarios again, and that over all."""
    for name in read_scenarios(folder)[0]:
        rebuild([folder / name], folder / name)
    page, *_ = write_scenarios(folder)
    if table:
        say(paper_tables(read_scenarios(folder)[0], table))
    say(f"Report: {page}", sys.stderr if table else None)
    return 0
