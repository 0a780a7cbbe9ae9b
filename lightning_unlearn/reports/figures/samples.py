"""Figures of distributions: what an attack can tell, how sure models are of the samples, and models' weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    GUESSING,
    Panel,
    Panels,
    Series,
    declare,
    looks,
    noted,
    picture,
)
from lightning_unlearn.reports.glossary import CONTROLS, ordered_models
from lightning_unlearn.reports.schema import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Array = npt.NDArray[np.float64]
_BINS = 24
_LEAST = 1e-6
"""What is nearer to 0 or 1 is in the outermost bins of a log-odds axis; float32 tells little more apart."""
_KNOWN_SETS = ("forget set", "retain set", "non-member set")
_MOST_SETS = 6
_XLABEL = "Posterior of the sample's label"
_SHARE = "Share of the set [%]"
_ROC = 1e-3, 1.0

_Scale = Literal["linear", "log-odds"]


@declare(
    "membership_roc.png",
    "Membership inference: ROC curves",
    "The attack's true positive rate against its false positive rate for each model, averaged over the "
    "seeds, on linear axes and on logarithmic axes; the diagonal is guessing.",
)
def roc(report: Report, details: Details) -> Panels:
    """Draw the attack's ROC curves."""
    # Every curve is read at the same rates, dense near 0, where the logarithmic panel looks.
    rates = np.union1d(np.linspace(0.0, 1.0, 51), np.geomspace(*_ROC, 40))
    curves = {
        name: np.mean([np.interp(rates, run["fpr"], run["tpr"]) for run in each], axis=0)
        for name, each in noted(report, details, "membership_inference", "fpr", "tpr").items()
    }
    if not curves:
        return []
    panels = []
    for log, seen in (("", rates >= 0), ("xy", rates >= _ROC[0])):
        series = [Series(GUESSING, rates[seen].tolist(), rates[seen].tolist())]
        series += [
            Series(name, rates[seen].tolist(), curve[seen].clip(_ROC[0] * bool(log)).tolist())
            for name, curve in curves.items()
        ]
        axes = "False positive rate", "True positive rate on D_f"
        panels.append(Panel(*axes, series, f"{'Logarithmic' if log else 'Linear'} axes", log=log))
    return panels


@declare(
    "posteriors_*.png",
    "How sure * is of the samples",
    "Histograms of the posterior of each sample's label under *, a panel a set of samples, beside the source model, "
    "which is the state before, and the retrained model, which is the goal. A poisoned sample's label is the one that "
    "the source model learned. The axis is that of the log-odds, on which values near 0 and near 1 can be told apart.",
    of_model=True,
)
def posteriors(report: Report, details: Details) -> Mapping[str, Panels]:
    """Draw posteriors before, after and as they should be."""
    pooled = _pooled(report, details)
    figures: dict[str, Panels] = {}
    for name in pooled:
        if name not in CONTROLS:
            shown = {model: pooled[model] for model in ("source", "retrain", name) if model in pooled}
            figures[name] = _histograms(shown, "log-odds", _BINS, _XLABEL)
    return figures


@declare(
    "weights_*.png",
    "How the weights of * are distributed",
    "Histograms of all weights of *, biases and normalisation left out, beside those of the source model, which is the "
    "state before, and of the retrained model; they reach from the source's 0.5 % quantile to its 99.5 % one. Models "
    "whose histograms are alike may still differ in every weight.",
    of_model=True,
)
def weights(report: Report, details: Details) -> Mapping[str, Panels]:
    """Draw the weights before, after and as they should be."""
    found = {
        name: [run["weights"] for run in details.get(name, {}).values() if run.get("weights")]
        for name in ordered_models(report)
    }
    before = found.get("source") or []
    if not before:
        return {}
    share = np.linspace(0.0, 100.0, len(before[0]))
    low, high = (np.mean([np.interp(at, share, run) for run in before]) for at in (0.5, 99.5))
    edges = np.linspace(low, high, 2 * _BINS + 1)
    series = {
        name: Series(
            name,
            edges.tolist(),
            np.mean([np.diff(np.interp(edges, run, share)) for run in runs], axis=0).tolist(),
            kind="steps",
        )
        for name, runs in found.items()
        if runs
    }
    return {
        name: [
            Panel(
                "Weight",
                "Share of the weights [%]",
                [series[m] for m in ("source", "retrain", name) if m in series],
            )
        ]
        for name in series
        if name not in CONTROLS
    }


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
            shape (n,), ``bins`` below 2, an unknown ``scale``, or more sets than can be told apart (6).
    """
    in_range("bins", bins, "[2, inf)", whole=True)
    one_of("scale", scale, "linear", "log-odds")
    if not posteriors:
        raise ValueError("posteriors must hold at least one model")
    by_set: dict[str, dict[str, _Array]] = {}
    for model, sets in posteriors.items():
        if not sets:
            raise ValueError(f"posteriors[{model!r}] must hold at least one set of samples")
        for set_name, values in sets.items():
            by_set.setdefault(set_name, {})[model] = _checked(model, set_name, values)
    if len(by_set) > _MOST_SETS:
        raise ValueError(
            f"posteriors holds {len(by_set)} different sets, at most {_MOST_SETS} can be told apart"
        )
    names = [name for name in dict.fromkeys([*_KNOWN_SETS, *by_set]) if name in by_set]
    turned = {name: by_set[name] for name in names}
    panels = _histograms(turned, scale, bins, xlabel)
    return picture(panels, looks(names))


def _histograms(
    values: Mapping[str, Mapping[str, _Array]], scale: _Scale, bins: int, xlabel: str
) -> list[Panel]:
    """Return a panel for each inner name, with a histogram for each outer one."""
    reach = math.log((1 - _LEAST) / _LEAST)
    edges = np.linspace(-reach, reach, bins + 1) if scale == "log-odds" else np.linspace(0.0, 1.0, bins + 1)
    panels = []
    inner = dict.fromkeys(title for each in values.values() for title in each)
    for title in [name for name in dict.fromkeys([*_KNOWN_SETS, *inner]) if name in inner]:
        series = []
        for name, each in values.items():
            if title in each:
                clipped = each[title].clip(_LEAST, 1 - _LEAST)
                onto = (
                    np.log(clipped / (1 - clipped)).clip(-reach, reach)
                    if scale == "log-odds"
                    else each[title]
                )
                shares = 100.0 * np.histogram(onto, edges)[0] / len(onto)
                series.append(Series(name, edges.tolist(), shares.tolist(), kind="steps"))
        axis = f"{xlabel} (log-odds)" if scale == "log-odds" else xlabel
        panels.append(Panel(axis, _SHARE, series, title, within={"y": (0.0, 100.0)}))
    return panels


def _pooled(report: Report, details: Details) -> dict[str, dict[str, _Array]]:
    """Put the posteriors of all seeds together: model to set to values."""
    pooled: dict[str, dict[str, _Array]] = {}
    for name in ordered_models(report):
        for run in details.get(name, {}).values():
            for set_name, values in run.get("posteriors", {}).items():
                earlier = pooled.setdefault(name, {}).get(set_name, np.empty(0))
                pooled[name][set_name] = np.append(earlier, _checked(name, set_name, values))
    return pooled


def _checked(model: str, set_name: str, values: npt.ArrayLike) -> _Array:
    array = np.asarray(values, dtype=np.float64)
    # The comparison is written so that a NaN fails it.
    if array.ndim != 1 or array.size == 0 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"posteriors[{model!r}][{set_name!r}] must be of shape (n,) with n > 0 and lie in "
            f"[0, 1], got the shape {array.shape}"
        )
    return array
