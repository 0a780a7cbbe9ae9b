"""Figures of how sure models are of samples: histograms of the posterior of their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    BLUE,
    CONTROL_LOOKS,
    DASHES,
    GRID,
    METHOD_COLOURS,
    FigureSpec,
    model_label,
    new_figure,
    register,
)
from lightning_unlearn.reports.glossary import CONTROLS, ordered_models
from lightning_unlearn.reports.schema import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "posterior_histograms"]

FIGURES: list[FigureSpec] = []
"""Posteriors by model, and before against after unlearning."""

_BINS = 24
_ROW_INCHES = 1.8
_ROW_LABEL_WIDTH = 18
"""Characters of a model's name that fit in a row's height."""
_LEAST = 1e-6
"""What is nearer to 0 or 1 stands in the outermost bins of a log-odds axis; float32 tells little more apart."""
_KNOWN_SETS = ("forget set", "retain set", "non-member set")
_XLABEL = "Posterior of the sample's label"

_Scale = Literal["linear", "log-odds"]
_Array = npt.NDArray[np.float64]


@register(
    FIGURES,
    "posterior_change.png",
    "Posteriors before and after unlearning",
    "Histograms of the posterior of each sample's label, a row a method and a column a set of samples: the method "
    "against the source model, which is the state before, and the retrained model, which is the goal. The axis "
    "is that of the log-odds, on which values near 0 and near 1 can be told apart.",
)
def _change(report: Report, details: Details) -> Figure | None:
    pooled = _pooled(report, details)
    methods = [name for name in pooled if name not in CONTROLS]
    if not methods or "source" not in pooled:
        return None
    sets = _sets(pooled)
    figure = new_figure(1.2 + 3.2 * len(sets), 1.1 + _ROW_INCHES * len(methods))
    grid = figure.subplots(len(methods), len(sets), squeeze=False, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for row, method in enumerate(methods):
        looks = {
            "before: source model": ("source", *CONTROL_LOOKS["source"]),
            "goal: retrained model": ("retrain", *CONTROL_LOOKS["retrain"]),
            "after: unlearned model": (method, BLUE, "solid"),
        }
        for column, set_name in enumerate(sets):
            axes = grid[row, column]
            for meaning, (model, tint, dash) in looks.items():
                values = pooled.get(model, {}).get(set_name)
                if values is not None:
                    handles[meaning] = _outline(axes, values, "log-odds", _BINS, color=tint, linestyle=dash)
            _posterior_axis(axes, "log-odds")
            if row == 0:
                axes.set_title(set_name)
        grid[row, 0].set_ylabel(model_label(method, _ROW_LABEL_WIDTH), fontsize=9, fontweight="bold")
    grid[0, 0].set_ylim(bottom=0)
    figure.supxlabel(f"{_XLABEL} (log-odds scale)", fontsize=10)
    figure.supylabel("Share of the set [%]", fontsize=10)
    # One column each in a narrow figure, where three entries side by side would be cut off.
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=3 if len(sets) > 1 else 1,
        frameon=False,
        handlelength=3.0,
    )
    return figure


@register(
    FIGURES,
    "posteriors.png",
    "Posteriors",
    "Histograms of the posterior of each sample's label on the forget set, the retain set and samples never "
    "trained on, as far as they were kept, one panel a model; a poisoned sample's label is the one that the source "
    "model learned. The axis is that of the log-odds, on which "
    "values near 0 and near 1 can be told apart.",
)
def _posteriors(report: Report, details: Details) -> Figure | None:
    pooled = _pooled(report, details)
    return posterior_histograms(pooled, bins=_BINS, scale="log-odds") if pooled else None


def _pooled(report: Report, details: Details) -> dict[str, dict[str, _Array]]:
    """Put the posteriors of all seeds together: model to set to values."""
    pooled: dict[str, dict[str, _Array]] = {}
    for name in ordered_models(report):
        by_set: dict[str, list[_Array]] = {}
        for run in details.get(name, {}).values():
            for set_name, values in run.get("posteriors", {}).items():
                by_set.setdefault(set_name, []).append(_checked(name, set_name, values))
        if by_set:
            pooled[name] = {set_name: np.concatenate(parts) for set_name, parts in by_set.items()}
    return pooled


def _sets(arrays: Mapping[str, Mapping[str, _Array]]) -> list[str]:
    """Return the names of all sets: those of the papers' figures in their order, then all others."""
    names = dict.fromkeys(set_name for by_set in arrays.values() for set_name in by_set)
    return [name for name in _KNOWN_SETS if name in names] + [
        name for name in names if name not in _KNOWN_SETS
    ]


def _checked(model: str, set_name: str, values: npt.ArrayLike) -> _Array:
    array = np.asarray(values, dtype=np.float64)
    # The comparison is written so that a NaN fails it.
    if array.ndim != 1 or array.size == 0 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"posteriors[{model!r}][{set_name!r}] must be of shape (n,) with n > 0 and lie in "
            f"[0, 1], got the shape {array.shape}"
        )
    return array


def _outline(axes: Axes, values: _Array, scale: _Scale, bins: int, **look: Any) -> Any:
    """Draw one set's histogram as an outline and return its handle for a legend."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    if scale == "log-odds":
        reach = np.log((1 - _LEAST) / _LEAST)
        edges = 1 / (1 + np.exp(-reach * (2 * edges - 1)))
        values = np.clip(values, edges[0], edges[-1])
    shares = 100.0 * np.histogram(values, edges)[0] / values.size
    return axes.stairs(shares, edges, linewidth=1.8, baseline=None, **look)


def _posterior_axis(axes: Axes, scale: _Scale) -> None:
    """Set scale, range and ticks; few and short ticks, since the next panel's first follows the last."""
    from matplotlib.ticker import NullLocator

    axes.grid(**GRID)
    if scale == "log-odds":
        axes.set_xscale("logit")
        axes.set_xlim(_LEAST, 1 - _LEAST)
        axes.set_xticks([0.001, 0.5, 0.999], ["0.001", "0.5", "0.999"])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))


def posterior_histograms(
    posteriors: Mapping[str, Mapping[str, npt.ArrayLike]],
    *,
    bins: int = 25,
    scale: _Scale = "linear",
    xlabel: str = _XLABEL,
) -> Figure:
    """Draw how sure models are of samples, one panel a model and one outline a set of samples.

    Before unlearning, D_f looks like D_r; after it, D_f should look as it does for the retrained model.

    Args:
        posteriors: Model name to set name ("forget set", "retain set", ...) to values in [0, 1], shape (n,).
        bins: Bars between 0 and 1, at least 2.
        scale: "linear" as the papers print it, or "log-odds", on which posteriors that crowd at 0 or 1 spread
            out; bars are equally wide on the chosen axis, and the outermost of a log-odds axis hold what is
            beyond 1e-6 and 1 - 1e-6.
        xlabel: What the values are.

    Returns:
        A figure outside pyplot; save it with its ``savefig``. Each outline shows shares that sum to 100 %, so
        sets of different sizes can be compared.

    Raises:
        ValueError: No model, a model without sets, a set without values, values outside [0, 1] or not of
            shape (n,), ``bins`` below 2, an unknown ``scale``, or more sets than there are colours (6).
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    if not posteriors:
        raise ValueError("posteriors must hold at least one model")
    if scale not in ("linear", "log-odds"):
        raise ValueError(f"scale must be 'linear' or 'log-odds', got {scale!r}")
    arrays: dict[str, dict[str, _Array]] = {}
    for model, by_set in posteriors.items():
        if not by_set:
            raise ValueError(f"posteriors[{model!r}] must hold at least one set of samples")
        arrays[model] = {set_name: _checked(model, set_name, values) for set_name, values in by_set.items()}
    sets = _sets(arrays)
    if len(sets) > len(METHOD_COLOURS):
        raise ValueError(
            f"posteriors holds {len(sets)} different sets, at most {len(METHOD_COLOURS)} can be told apart"
        )
    columns = min(3, len(arrays))
    rows = -(-len(arrays) // columns)
    figure = new_figure(1.0 + 3.3 * columns, 0.9 + 2.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for index, axes in enumerate(grid.flat):
        if index >= len(arrays):
            axes.set_axis_off()
            continue
        model = list(arrays)[index]
        for set_name, array in arrays[model].items():
            place = sets.index(set_name)
            handles[set_name] = _outline(
                axes,
                array,
                scale,
                bins,
                color=METHOD_COLOURS[place],
                linestyle=DASHES[place % len(DASHES)],
                label=set_name,
            )
        axes.set_title(model_label(model))
        _posterior_axis(axes, scale)
        if index + columns >= len(arrays):
            axes.tick_params(labelbottom=True)
    grid[0, 0].set_ylim(bottom=0)
    figure.supxlabel(xlabel + (" (log-odds scale)" if scale == "log-odds" else ""), fontsize=10)
    figure.supylabel("Share of the set [%]", fontsize=10)
    figure.legend(
        [handles[name] for name in sets],
        sets,
        loc="outside upper center",
        ncols=3,
        frameon=False,
        handlelength=3.0,
    )
    return figure
