"""Figures of what was found sample by sample: what the attack took samples for, and how sure models are of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import base
from lightning_unlearn.reports.glossary import CONTROLS, ordered_models
from lightning_unlearn.reports.schema import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Array = npt.NDArray[np.float64]

# ---------------------------------------------------------------------------------------------- membership inference

_DARK = 0.72
"""Share above which a field's blue is so dark that white letters stand out better than black ones."""


@base.declare(
    "membership_confusion.png",
    "Membership inference: confusion matrices",
    "For each model, how many forget-set samples and samples never trained on the attack took for members, "
    "summed over the seeds, with the share of each row.",
)
def confusion(report: Report, details: Details) -> Figure | None:
    """Draw a confusion matrix a model."""
    runs = base.noted(report, details, "membership_inference", "confusion")
    if not runs:
        return None
    figure, panels = base.panel_grid(list(runs), 4, panel=(2.4, 2.5), around=(1.4, 0.5))
    for axes, name, lowest in panels:
        matrix = np.sum([np.asarray(run["confusion"], dtype=np.float64) for run in runs[name]], axis=0)
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for (row, column), share in np.ndenumerate(shares):
            text = f"{100 * share:.1f} %\n({matrix[row, column]:,.0f})"
            tint = "white" if share > _DARK else "black"
            axes.text(column, row, text, ha="center", va="center", color=tint, fontsize=9.5)
        axes.set_title(base.model_label(name))
        first = axes.get_subplotspec().is_first_col()  # type: ignore[union-attr]  # it is one of a grid
        axes.set_xticks([0, 1], ["member", "never\ntrained on"] if lowest else ["", ""])
        axes.set_yticks([0, 1], ["$D_f$", "never\ntrained on"] if first else ["", ""])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.supxlabel("The attack says", fontsize=10)
    figure.supylabel("The truth", fontsize=10)
    return figure


@base.declare(
    "membership_roc.png",
    "Membership inference: ROC curves",
    "The attack's true positive rate against its false positive rate for each model, averaged over the "
    "seeds, on linear axes and on logarithmic axes; the diagonal is guessing.",
)
def roc(report: Report, details: Details) -> Figure | None:
    """Draw the attack's ROC curves."""
    runs = base.noted(report, details, "membership_inference", "fpr", "tpr")
    if not runs:
        return None
    # Every curve is read at the same rates, dense near 0, where the logarithmic panel looks.
    rates = np.union1d(np.linspace(0.0, 1.0, 201), np.geomspace(1e-3, 1.0, 121))
    figure = base.new_figure(11.0, max(4.6, 1.2 + 0.30 * len(runs)))
    linear, logarithmic = figure.subplots(1, 2)
    styles = base.line_styles(list(runs))
    handles: dict[str, Any] = {}
    for axes in (linear, logarithmic):
        (handles["guessing"],) = axes.plot(rates, rates, zorder=1, **base.IDEAL)
        for name, each in runs.items():
            curve = np.mean([np.interp(rates, run["fpr"], run["tpr"]) for run in each], axis=0)
            look = {**styles[name], "marker": "", "linewidth": 1.9, "label": base.model_label(name)}
            (handles[base.model_label(name)],) = axes.plot(rates, curve, **look)
        axes.set(xlabel="False positive rate", ylabel="True positive rate on $D_f$")
        axes.grid(**base.GRID)
    linear.set(xlim=(0, 1), ylim=(0, 1.01), title="Linear axes")
    logarithmic.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1.05), title="Logarithmic axes")
    base.legend(figure, handles)
    return figure


# ---------------------------------------------------------------------------------------------- posteriors

_BINS = 24
_ROW_LABEL_WIDTH = 18
"""Characters of a model's name that fit in a row's height."""
_LEAST = 1e-6
"""What is nearer to 0 or 1 stands in the outermost bins of a log-odds axis; float32 tells little more apart."""
_KNOWN_SETS = ("forget set", "retain set", "non-member set")
_XLABEL = "Posterior of the sample's label"

_Scale = Literal["linear", "log-odds"]


@base.declare(
    "posterior_change.png",
    "Posteriors before and after unlearning",
    "Histograms of the posterior of each sample's label, a row a method and a column a set of samples: the method "
    "against the source model, which is the state before, and the retrained model, which is the goal. The axis "
    "is that of the log-odds, on which values near 0 and near 1 can be told apart.",
)
def posterior_change(report: Report, details: Details) -> Figure | None:
    """Draw posteriors before, after and as they should be."""
    pooled = _pooled(report, details)
    methods = [name for name in pooled if name not in CONTROLS]
    if not methods or "source" not in pooled:
        return None
    sets = _sets(pooled)
    cells = [(method, set_name) for method in methods for set_name in sets]
    figure, panels = base.panel_grid(
        cells, len(sets), panel=(3.2, 1.8), around=(1.2, 1.1), sharex=True, sharey=True
    )
    handles: dict[str, Any] = {}
    for place, (axes, (method, set_name), _) in enumerate(panels):
        looks = {
            "before: source model": ("source", base.CONTROL_LOOKS["source"]),
            "goal: retrained model": ("retrain", base.CONTROL_LOOKS["retrain"]),
            "after: unlearned model": (method, {"color": base.BLUE, "linestyle": "solid"}),
        }
        for meaning, (model, look) in looks.items():
            values = pooled.get(model, {}).get(set_name)
            if values is not None:
                handles[meaning] = _outline(axes, values, "log-odds", _BINS, **look)
        _posterior_axis(axes, "log-odds")
        if place < len(sets):
            axes.set_title(set_name)
        if set_name == sets[0]:
            axes.set_ylabel(base.model_label(method, _ROW_LABEL_WIDTH), fontsize=9, fontweight="bold")
    _finish(figure, _XLABEL, "log-odds")
    # One column each in a narrow figure, where three entries side by side would be cut off.
    base.legend(figure, handles, "upper center", ncols=3 if len(sets) > 1 else 1)
    return figure


@base.declare(
    "posteriors.png",
    "Posteriors",
    "Histograms of the posterior of each sample's label on the forget set, the retain set and samples never "
    "trained on, as far as they were kept, one panel a model; a poisoned sample's label is the one that the source "
    "model learned. The axis is that of the log-odds, on which "
    "values near 0 and near 1 can be told apart.",
)
def posteriors(report: Report, details: Details) -> Figure | None:
    """Draw the posteriors of each model."""
    pooled = _pooled(report, details)
    return posterior_histograms(pooled, bins=_BINS, scale="log-odds") if pooled else None


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
    in_range("bins", bins, "[2, inf)", whole=True)
    one_of("scale", scale, "linear", "log-odds")
    if not posteriors:
        raise ValueError("posteriors must hold at least one model")
    arrays: dict[str, dict[str, _Array]] = {}
    for model, by_set in posteriors.items():
        if not by_set:
            raise ValueError(f"posteriors[{model!r}] must hold at least one set of samples")
        arrays[model] = {set_name: _checked(model, set_name, values) for set_name, values in by_set.items()}
    sets = _sets(arrays)
    if len(sets) > len(base.COLOURS):
        raise ValueError(
            f"posteriors holds {len(sets)} different sets, at most {len(base.COLOURS)} can be told apart"
        )
    figure, panels = base.panel_grid(
        list(arrays), 3, panel=(3.3, 2.4), around=(1.0, 0.9), sharex=True, sharey=True
    )
    handles: dict[str, Any] = {}
    for axes, model, lowest in panels:
        for set_name, array in arrays[model].items():
            place = sets.index(set_name)
            look = {
                "color": base.COLOURS[place],
                "linestyle": base.DASHES[place % len(base.DASHES)],
                "label": set_name,
            }
            handles[set_name] = _outline(axes, array, scale, bins, **look)
        axes.set_title(base.model_label(model))
        _posterior_axis(axes, scale)
        if lowest:
            axes.tick_params(labelbottom=True)
    _finish(figure, xlabel, scale)
    base.legend(figure, {name: handles[name] for name in sets}, "upper center", ncols=3)
    return figure


def _pooled(report: Report, details: Details) -> dict[str, dict[str, _Array]]:
    """Put the posteriors of all seeds together: model to set to values."""
    pooled: dict[str, dict[str, _Array]] = {}
    for name in ordered_models(report):
        for run in details.get(name, {}).values():
            for set_name, values in run.get("posteriors", {}).items():
                earlier = pooled.setdefault(name, {}).get(set_name, np.empty(0))
                pooled[name][set_name] = np.append(earlier, _checked(name, set_name, values))
    return pooled


def _sets(arrays: Mapping[str, Mapping[str, _Array]]) -> list[str]:
    """Return the names of all sets: those of the papers' figures in their order, then all others."""
    names = dict.fromkeys(set_name for by_set in arrays.values() for set_name in by_set)
    known = [name for name in _KNOWN_SETS if name in names]
    return list(dict.fromkeys([*known, *names]))


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

    axes.grid(**base.GRID)
    if scale == "log-odds":
        axes.set_xscale("logit")
        axes.set_xlim(_LEAST, 1 - _LEAST)
        axes.set_xticks([0.001, 0.5, 0.999], ["0.001", "0.5", "0.999"])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))


def _finish(figure: Figure, xlabel: str, scale: _Scale) -> None:
    figure.axes[0].set_ylim(bottom=0)
    figure.supxlabel(xlabel + (" (log-odds scale)" if scale == "log-odds" else ""), fontsize=10)
    figure.supylabel("Share of the set [%]", fontsize=10)
