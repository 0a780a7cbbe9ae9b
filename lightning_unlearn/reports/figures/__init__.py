"""The figures of a report, drawn from its numbers and from what its runs left.

A figure is a function under :func:`~lightning_unlearn.reports.figures.base.declare`, listed in :data:`FIGURES`; it
returns no panels where the report does not hold its metrics. Matplotlib is imported when the first one is drawn.
"""

import os
from pathlib import Path
from typing import Any

from lightning_unlearn.core.files import atomic_path
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import cost, courses, differences, samples
from lightning_unlearn.reports.figures.base import Chart, FigureSpec, chart_looks, picture
from lightning_unlearn.reports.figures.samples import posterior_histograms
from lightning_unlearn.reports.figures.sweeps import find_sweeps, sweeps
from lightning_unlearn.reports.figures.trade_off import ForgettingAxis, forgetting_axis, trade_off
from lightning_unlearn.reports.schema import Report

__all__ = [
    "DPI",
    "FIGURES",
    "Chart",
    "FigureSpec",
    "ForgettingAxis",
    "draw_figures",
    "find_sweeps",
    "forgetting_axis",
    "posterior_histograms",
    "save_chart",
]

DPI = 150
"""Pixels an inch of every figure that is written."""

FIGURES: list[FigureSpec] = [
    cost.cost_quality,
    differences.differences,
    trade_off,
    sweeps,
    courses.backdoor_curve,
    courses.relearn_time,
    samples.roc,
    differences.blind,
    samples.posteriors,
    samples.weights,
    courses.training,
]
"""All figures, in the order of presentation."""

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "legend.fontsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.usetex": False,
}


def draw_figures(
    report: Report, folder: str | os.PathLike[str], details: Details | None = None
) -> list[Path]:
    """Draw every figure of all models that the report has the numbers for, as PNG that names and describes itself.

    Those of a single model are for the page alone, which draws them by itself.

    A figure of an earlier report that the present one cannot draw is removed, so that none goes stale; files
    under other names than those of :data:`FIGURES` are left alone.

    Args:
        report: The report.
        folder: Where the files go; made if missing.
        details: What the runs left beyond their scores; None draws the figures that need only scores.

    Returns:
        The files, in the order of presentation.
    """
    root = Path(folder)
    earlier = set(os.listdir(root)) if root.is_dir() else set()
    charts = [chart for one in FIGURES if not one.of_model for chart in one.charts(report, details or {})]
    written = [save_chart(chart, report, root) for chart in charts]
    for filename in earlier - {path.name for path in written}:
        if any(spec.key(filename) is not None for spec in FIGURES):
            (root / filename).unlink()
    return written


def save_chart(chart: Chart, report: Report, folder: Path) -> Path:
    """Draw a chart as PNG under its name, in the looks that the models of a report have."""
    from matplotlib import style

    words = {"Title": chart.title, "Description": chart.alt}
    # "default" first, so that a user's own style file cannot make the figures of a report illegible.
    with style.context(["default", _STYLE]), atomic_path(folder / chart.filename) as temporary:
        drawn = picture(chart.panels, chart_looks(report, chart.panels))
        drawn.savefig(temporary, format="png", dpi=DPI, metadata=words)
    return folder / chart.filename
