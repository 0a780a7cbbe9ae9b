"""The figures of a report, drawn from its numbers; measures nothing, keeps no state.

A figure is added by writing one function under :func:`~lightning_unlearn.reports.figures.base.register` in a
module of this folder; it returns None where the report does not hold its metrics. A new module is named in
``drawing.py``. Matplotlib is imported when the first figure is drawn.
"""

from lightning_unlearn.reports.figures.base import (
    DPI,
    MODEL_KEYWORD,
    DrawnFigure,
    FigureSpec,
)
from lightning_unlearn.reports.figures.drawing import FIGURES, draw_figures
from lightning_unlearn.reports.figures.posteriors import posterior_histograms
from lightning_unlearn.reports.figures.sweeps import find_sweeps
from lightning_unlearn.reports.figures.trade_off import ForgettingAxis, forgetting_axis

__all__ = [
    "DPI",
    "FIGURES",
    "MODEL_KEYWORD",
    "DrawnFigure",
    "FigureSpec",
    "ForgettingAxis",
    "draw_figures",
    "find_sweeps",
    "forgetting_axis",
    "posterior_histograms",
]
