"""The figure of the unlearning degree beside its null control; the published score is never drawn alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    BLUE,
    ORANGE,
    VERMILION,
    WHISKER,
    FigureSpec,
    control_handles,
    metric_title,
    model_colour,
    model_label,
    models_with,
    new_figure,
    reference_line,
    register,
    rows_height,
    short_heading,
)
from lightning_unlearn.reports.glossary import describe, format_value, half_width
from lightning_unlearn.reports.schema import Report, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES"]

FIGURES: list[FigureSpec] = []
"""The unlearning degree."""

_DEGREE, _NULL, _CALIBRATED, _MET = (
    f"unlearning_degree/{name}" for name in ("degree", "null", "calibrated", "constraint_met")
)
_ROW_INCHES = 0.46
"""Room for two lines of numbers in a model's row."""
_APART = 0.19
"""Half the distance of degree and null within a model's row, so that their intervals do not cover each other."""


@register(
    FIGURES,
    "unlearning_degree.png",
    "Unlearning degree",
    "For each model the unlearning degree beside that of its null control, a model that changed and forgot "
    "nothing, and their difference, with 95% intervals. A cross marks a degree that was measured where the "
    "constraint on the perturbation was not met. A dashed line marks the retrained model.",
)
def _degree(report: Report, details: Details) -> Figure | None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    models = models_with(report, (_DEGREE, _NULL, _CALIBRATED))
    if not models:
        return None
    figure = new_figure(9.6, 1.7 + max(rows_height(models), _ROW_INCHES * max(len(models), 3)))
    both, difference = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1.0))
    both.set_ylim(len(models) - 0.4, -0.6)
    for row, name in enumerate(models):
        values = report["models"][name]
        _point(both, values.get(_DEGREE), row - _APART, BLUE, "o")
        _point(both, values.get(_NULL), row + _APART, ORANGE, "s")
        _point(difference, values.get(_CALIBRATED), row, model_colour(name), "o")
        rows = [(_DEGREE, row - _APART), (_NULL, row + _APART)]
        for axes, entries in ((both, rows), (difference, [(_CALIBRATED, row)])):
            for metric, height in entries:
                value = values.get(metric)
                text = "not measured" if value is None else format_value(describe(metric, report), value)
                mark = _broken(report, name) if metric == _DEGREE and value is not None else ""
                axes.text(
                    1.03,
                    height,
                    f"{text}  {mark}".rstrip(),
                    transform=axes.get_yaxis_transform(),
                    va="center",
                    fontsize=9,
                    color=VERMILION if mark else "black",
                )
    reference_line(both, report, _DEGREE)
    reference_line(difference, report, _CALIBRATED)
    difference.axvline(0.0, color=WHISKER, linewidth=1.0, zorder=1)
    both.set_title("Degree and null control")
    both.set_xlabel("unlearning degree")
    difference.set_title(metric_title(describe(_CALIBRATED, report)))
    difference.set_xlabel(short_heading(describe(_CALIBRATED, report)))
    both.set_yticks(range(len(models)), [model_label(name) for name in models])
    for axes in (both, difference):
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    handles = [
        Line2D([], [], color=BLUE, marker="o", label="degree"),
        Line2D([], [], color=ORANGE, marker="s", label="null control"),
        *control_handles(report, (_DEGREE, _CALIBRATED)),
    ]
    if any(_broken(report, name) for name in models):
        handles.append(
            Line2D([], [], linestyle="none", color=VERMILION, marker="x", label="constraint not met (seeds)")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _point(axes: Axes, value: Value | None, height: float, tint: str, marker: str) -> None:
    if value is not None:
        axes.errorbar(
            value["mean"],
            height,
            xerr=half_width(value) or 0.0,
            color=tint,
            marker=marker,
            markersize=6.5,
            elinewidth=1.4,
            capsize=3,
            zorder=3,
        )


def _broken(report: Report, name: str) -> str:
    """Return the mark of a degree for which the constraint failed, with the seeds in which it did."""
    met = report["models"][name].get(_MET)
    if met is None:
        return ""
    known = [value for value in met["values"] if value is not None]
    failed = sum(value < 1 for value in known)
    return f"× {failed}/{len(known)}" if failed else ""  # noqa: RUF001 - a cross
