"""``lightning-unlearn certificate``: the page on a deletion request, from its line in the ledger."""

from pathlib import Path
from typing import Any

from lightning_unlearn.core.ledger import read
from lightning_unlearn.core.remembering import Remembering, remembering_files, seen_from
from lightning_unlearn.core.terminal import say
from lightning_unlearn.reports.certificate import write_certificate

EXAMPLE = "deletions.jsonl --line 3"


def run(ledger: Path, *, line: int | None = None, output: Path | None = None) -> int:
    """Write the certificate of a deletion request, a page to print and sign. A ledger whose chain is broken is refused.

    Args:
        ledger: The ledger.
        line: Number of the line, from 1; the last if left out.
        output: File to write; certificate-N.html if left out.
    """
    if not ledger.is_file():
        raise FileNotFoundError(f"there is no ledger {ledger}")
    lines = read(ledger)
    number = len(lines) if line is None else line
    if not 1 <= number <= len(lines):
        raise ValueError(f"--line must be from 1 to {len(lines)}, the lines of {ledger}, got {number}")
    output, content = output or Path(f"certificate-{number}.html"), lines[number - 1]
    write_certificate(content, output, remembering=_remembering(ledger, content))
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
    return seen_from(folder, remembering_files(folder))
