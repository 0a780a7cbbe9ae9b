"""Renders what the harnesses run as the README's tables; ``PYTHONPATH=tests python -m helpers.support_table`` writes them there."""

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def render(kind: str) -> str:
    """Return the table of one kind, in Markdown: options down, methods or evaluators across.

    Args:
        kind: ``methods`` or ``evaluators``.
    """
    from helpers import support

    subjects = support.METHODS if kind == "methods" else support.EVALUATORS
    axes = support.METHOD_AXES if kind == "methods" else support.EVALUATOR_AXES
    names = [subject.__name__ for subject in subjects]
    lines = ["| | " + " | ".join(f"`{name}`" for name in names) + " |", "| --- |" + " :-: |" * len(names)]
    lines += [
        f"| {label} | " + " | ".join(_cell(name, axis) for name in names) + " |"
        for axis, label in axes.items()
    ]
    return "\n".join(lines)


def _cell(name: str, axis: str) -> str:
    from helpers import support

    if axis in support.REFUSED.get(name, {}):
        return "refused"
    return "not run" if name in support.NOT_RUN.get(axis, ()) else "yes"


def markers(kind: str) -> tuple[str, str]:
    """Return the lines of the README between which the table of one kind stands."""
    return f"<!-- support: {kind} -->", f"<!-- end of support: {kind} -->"


def shown(kind: str, readme: str) -> str | None:
    """Return the table as a README's text has it, or None if it has no markers for it."""
    start, end = map(re.escape, markers(kind))
    found = re.search(f"{start}\n(.*?)\n{end}", readme, re.DOTALL)
    return None if found is None else found[1].strip()


def main() -> int:
    """Write the tables into the README."""
    text = README.read_text()
    for kind in ("methods", "evaluators"):
        if shown(kind, text) is None:
            print(f"README.md has no lines {markers(kind)[0]} and {markers(kind)[1]}", file=sys.stderr)
            return 1
        start, end = markers(kind)
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{render(kind)}\n{end}{rest.partition(end)[2]}"
    README.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
