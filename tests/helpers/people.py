"""A small file of UCI's vowels: other numbers of the same kind."""

from pathlib import Path

import numpy as np


def write_vowels(folder: Path) -> None:
    """Write ``vowel-context.data``, and an empty folder ``data``: eight people to train on, and four to test on."""
    rng = np.random.default_rng(0)
    takes = [(speaker, vowel) for speaker in range(12) for vowel in range(11) for _ in range(2)]
    rows = [
        f"{int(speaker >= 8)} {speaker} {speaker % 2} {' '.join(f'{x:.3f}' for x in rng.normal(size=10))} {vowel}"
        for speaker, vowel in takes
    ]
    (folder / "vowel-context.data").write_text("\n".join(rows) + "\n")
    (folder / "data").mkdir()
