"""``lightning-unlearn certificate``: the page on a deletion request, from its line in the ledger."""

from pathlib import Path
from typing import Any

from lightning_unlearn.cli.parsing import Parser
from lightning_unlearn.core.ledger import read
from lightning_unlearn.core.remembering import Remembering, remembering_files
from lightning_unlearn.core.terminal import say
from lightning_unlearn.reports.certificate import write_certificate


def run(args: list[str]) -> int:
    """Parse the arguments, verify the ledger, write the page and say where it is."""
    parser = Parser(
        "certificate",
        "deletions.jsonl --line 3",
        "Write the certificate of a deletion request, a page to print and sign. A ledger whose chain is "
        "broken is refused.",
    )
    parser.add_argument("ledger", type=Path, metavar="LEDGER", help="the ledger")
    parser.add_argument(
        "--line", type=int, metavar="N", help="number of the line, from 1; the last if left out"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="certificate-N.html if left out")
    parsed = parser.parse_args(args)
    if not parsed.ledger.is_file():
        raise FileNotFoundError(f"there is no ledger {parsed.ledger}")
    lines = read(parsed.ledger)
    number = len(lines) if parsed.line is None else parsed.line
    if not 1 <= number <= len(lines):
        raise ValueError(f"--line must be from 1 to {len(lines)}, the lines of {parsed.ledger}, got {number}")
    line = lines[number - 1]
    output = parsed.output or Path(f"certificate-{number}.html")
    write_certificate(line, output, remembering=_remembering(parsed.ledger, line))
    say(f"Certificate: {output}")
    return 0


def _remembering(ledger: Path, line: dict[str, Any]) -> list[Remembering] | None:
    """Return what remembers beside the exported model, or in its comparison, by paths that name no user's folder."""
    if line["model"]["file"] is None:
        return None
    file = ledger.resolve().parent / line["model"]["file"]
    folder = next((up for up in file.parents[:3] if (up / "comparison.json").is_file()), file.parent)
    if not file.is_file():
        return None
    return [Remembering(each.file.relative_to(folder), each.reason) for each in remembering_files(folder)]
