"""Print to streams that may not know all characters."""

import logging
import shutil
import sys
import textwrap
import time
from typing import TextIO

_SIGNS = "✓✗†±×·ελ∞…−→"  # noqa: RUF001 - the minus and multiplication signs
_WORDS = ("Y", "N", "!", "+-", "x", "-", "eps", "lambda", "inf", "...", "-", "->")
_SPELLED = str.maketrans(dict(zip(_SIGNS, _WORDS, strict=True)))
"""The characters that our own texts use beyond ASCII, and what is said in their place."""


def encodable(text: str, encoding: str | None) -> str:
    """Return a text that an encoding can say: the text itself where it can.

    Args:
        text: Any text.
        encoding: The name of an encoding, such as ``sys.stdout.encoding``; ``None`` is UTF-8.

    Returns:
        The text; otherwise with our own signs spelled in ASCII, and a question mark for whatever else the encoding
        lacks.

    Example:
        >>> encodable("✓ 0.93 ± 0.01", "utf-8"), encodable("✓ 0.93 ± 0.01", "ascii")
        ('✓ 0.93 ± 0.01', 'Y 0.93 +- 0.01')
    """
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_SPELLED).encode(encoding, "replace").decode(encoding)
    return text


def columns() -> int:
    """Return how wide a table may be: as the terminal is, from 50, below which it would not fit, to 100."""
    return max(min(shutil.get_terminal_size().columns, 100), 50)


def boxed(text: str, width: int = 96) -> str:
    """Return a text in lines of at most a width, in a frame.

    Example:
        >>> print(boxed("Forgotten: SHOWN.", 12))
        +------------+
        | Forgotten: |
        | SHOWN.     |
        +------------+
    """
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    widest = max(map(len, lines))
    rule = f"+{'-' * (widest + 2)}+"
    return "\n".join([rule, *(f"| {line:{widest}} |" for line in lines), rule])


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line at once, whatever the stream can encode; ``None`` is the standard output."""
    stream = sys.stdout if stream is None else stream
    print(encodable(text, stream.encoding), file=stream, flush=True)


LOG = logging.getLogger("lightning.unlearn")
"""What says how far long work is: heard, as Lightning's own is, unless a program wants quiet."""


class Tally:
    """Say now and then how many of many are done; of what is done within half a minute nothing.

    Args:
        what: What they are.
        total: How many there will be.
    """

    _EVERY = 30.0  # seconds

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._said = time.monotonic()

    def __call__(self, done: int) -> None:
        """Say that so many are done, unless that was said a moment ago or all are."""
        from lightning_unlearn.core.processes import is_first  # PyTorch, which a printed help does without

        if done < self.total and time.monotonic() - self._said >= self._EVERY and is_first():
            self._said = time.monotonic()
            LOG.info(f"{done} of {self.total} {self.what}")
