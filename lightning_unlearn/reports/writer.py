"""Writes the whole output of a comparison, in the order that keeps it honest."""

import os
from pathlib import Path

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import draw_figures
from lightning_unlearn.reports.page import write_page
from lightning_unlearn.reports.paper import paper_columns
from lightning_unlearn.reports.schema import Report, validate, write_json


def write_all(report: Report, folder: str | os.PathLike[str], details: Details | None = None) -> list[Path]:
    """Write ``figures/*.png``, ``report.html`` and, last, ``report.json``.

    The JSON comes last so that its presence says that the rest is there. One left by an earlier report is
    removed first, and so an interruption leaves no old numbers beside new figures.

    Args:
        report: The report.
        folder: The output folder; made if missing.
        details: What the runs left beyond their scores, see :data:`~lightning_unlearn.reports.Details`.

    Returns:
        The files, in the order of writing.

    Raises:
        ValueError: The report breaks its contract; nothing is written or removed then.
    """
    validate(report)
    root = Path(folder)
    (root / "report.json").unlink(missing_ok=True)
    figures = draw_figures(report, root / "figures", details)
    page = write_page(report, root / "report.html", details)
    return [*figures, page, write_json({**report, "paper": paper_columns(report)}, root / "report.json")]
