"""``lightning-unlearn report``: write a comparison's page again, merge several, or show them side by side."""

import sys
from pathlib import Path
from typing import get_args

from lightning_unlearn.cli.parsing import Parser
from lightning_unlearn.core.terminal import columns, say
from lightning_unlearn.reports import rebuild, render_text
from lightning_unlearn.reports.merge import beside
from lightning_unlearn.reports.paper import PaperFormat, paper_table, paper_tables
from lightning_unlearn.reports.scenarios import SCENARIOS, read_scenarios, write_scenarios
from lightning_unlearn.reports.schema import read_json

_BESIDE = "side_by_side.html"
"""The page of several comparisons, in the working folder."""


def run(args: list[str]) -> int:
    """Parse the arguments of ``report``, write the page and say where it is."""
    parser = Parser(
        "report",
        "runs/digits",
        "Write the page and figures of a comparison again, and print the table. Several are shown side by side; with "
        "--output those on the same data become one.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="output_dir of a comparison, or of one over scenarios",
    )
    parser.add_argument("--output", type=Path, help="folder to write to; DIR itself if left out")
    parser.add_argument(
        "--table",
        choices=get_args(PaperFormat),
        help="print the columns of papers in this form: UA, RA, TA, MIA, run time, gap; else the table of compare",
    )
    parsed = parser.parse_args(args)
    if parsed.output is None and len(parsed.folders) > 1:
        say(f"Report: {beside(parsed.folders, _BESIDE)}")
        return 0
    output = parsed.output or parsed.folders[0]
    beside_table = sys.stderr if parsed.table else None  # the output can then be read in as it is
    if len(parsed.folders) == 1 and (output / SCENARIOS).is_file():
        names, _ = read_scenarios(output)
        for name in names:
            rebuild([output / name], output / name)
        page, *_ = write_scenarios(output)
        if parsed.table:
            say(paper_tables(read_scenarios(output)[0], parsed.table))
        say(f"Report: {page}", beside_table)
        return 0
    rebuild(parsed.folders, output)
    report = read_json(output / "report.json")
    say(
        paper_table(report, parsed.table)
        if parsed.table
        else render_text(report, columns(), encoding=sys.stdout.encoding)
    )
    say(f"Report: {output / 'report.html'}", beside_table)
    return 0
