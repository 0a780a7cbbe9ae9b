"""All figures of a report in their order, and the writing of their files; draws none itself."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_unlearn.core.files import atomic_path
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import (
    bars,
    curves,
    degree,
    membership,
    posteriors,
    relearning,
    sweeps,
    trade_off,
    training,
    wall_clock,
)
from lightning_unlearn.reports.figures.base import DPI, STYLE, FigureSpec
from lightning_unlearn.reports.schema import Report

__all__ = ["FIGURES", "draw_figures"]

FIGURES: list[FigureSpec] = [
    spec
    for module in (
        bars,
        degree,
        relearning,
        trade_off,
        sweeps,
        curves,
        wall_clock,
        membership,
        posteriors,
        training,
    )
    for spec in module.FIGURES
]
"""All figures, in the order of presentation."""


def draw_figures(
    report: Report, folder: str | os.PathLike[str], details: Details | None = None
) -> list[Path]:
    """Draw every figure that the report has the numbers for, as PNG that names and describes itself.

    A figure of an earlier report that the present one cannot draw is removed, so that none goes stale; files
    under other names than those of :data:`FIGURES` are left alone.

    Args:
        report: The report.
        folder: Where the files go; made if missing.
        details: What the runs left beyond their scores; None draws the figures that need only scores.

    Returns:
        The files, in the order of presentation.
    """
    from matplotlib import style

    root = Path(folder)
    earlier = set(os.listdir(root)) if root.is_dir() else set()
    written: list[Path] = []
    for spec in FIGURES:
        # "default" first, so that a user's own style file cannot make the figures of a report illegible.
        with style.context(["default", STYLE]):
            for drawn in spec.figures(report, details or {}):
                with atomic_path(root / drawn.filename) as temporary:
                    drawn.figure.savefig(temporary, format="png", dpi=DPI, metadata=drawn.words)
                written.append(root / drawn.filename)
    for filename in earlier - {path.name for path in written}:
        if any(spec.key(filename) is not None for spec in FIGURES):
            (root / filename).unlink()
    return written
