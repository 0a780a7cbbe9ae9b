"""The figures of a report, one function each, drawn from its numbers; measures nothing, keeps no state.

A figure is added by writing one function under the decorator :func:`_figure`; it returns None where the
report does not hold its metrics. Matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from lightning_unlearn.io import atomic_path
from lightning_unlearn.reports.glossary import (
    CONTROLS,
    describe,
    format_value,
    half_width,
    ordered_models,
    wrap_name,
)
from lightning_unlearn.reports.schema import Report, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DPI",
    "FIGURES",
    "Details",
    "FigureSpec",
    "MembershipDetails",
    "RunDetails",
    "draw_figures",
    "posterior_histograms",
]

# Okabe & Ito's palette, told apart under every common colour blindness; black is for the retrained model.
_BLUE, _ORANGE, _GREEN, _VERMILION, _SKY, _PURPLE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
)
_METHOD_COLOURS = (_BLUE, _VERMILION, _GREEN, _ORANGE, _PURPLE, _SKY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)))
_SOURCE_COLOUR, _RETRAIN_COLOUR = "#8C8C8C", "#000000"

DPI = 150
"""Pixels an inch of every figure that is written."""
_ROW_INCHES = 0.36
_LABEL_WIDTH = 22
"""Characters of a model's name in one line of a figure."""
_MAX_LABEL_LINES = 3
_LINE_INCHES = 0.165
"""Height of one line of a 10-point label."""
_LINEAR_TIME_RATIO = 30.0
"""Above this ratio of the longest to the shortest time, the shortest bar would be a hairline: a log axis."""

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.labelsize": 10.0,
    "legend.fontsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.usetex": False,
}


class MembershipDetails(TypedDict, total=False):
    """What one run's membership inference attack found, beyond its scores.

    Attributes:
        confusion: Counts, shape (2, 2): rows are the truth (member, never trained on), columns what the
            attack said (member, never trained on).
        fpr: False positive rates of the ROC curve, ascending from 0 to 1.
        tpr: True positive rates at them.
    """

    confusion: Sequence[Sequence[float]]
    fpr: Sequence[float]
    tpr: Sequence[float]


class RunDetails(TypedDict, total=False):
    """What one run left for the figures; every part may be absent.

    Attributes:
        membership_inference: The attack's confusion matrix and ROC curve.
        posteriors: Name of a set (such as "forget set") to the posterior of each sample's true class, all
            in [0, 1].
    """

    membership_inference: MembershipDetails
    posteriors: Mapping[str, Sequence[float]]


Details = Mapping[str, Mapping[int, RunDetails]]
"""Model name to seed to :class:`RunDetails`."""


@dataclass(frozen=True)
class FigureSpec:
    """One figure of the report.

    Attributes:
        filename: Its name under ``figures/``.
        title: Its heading on the page.
        alt: What it shows, in words, for those who cannot see it.
        draw: Returns the figure, or None where the report lacks what it needs.
    """

    filename: str
    title: str
    alt: str
    draw: Callable[[Report, Details], Figure | None]


FIGURES: list[FigureSpec] = []
"""All figures, in the order of presentation."""

_Draw = Callable[[Report, Details], "Figure | None"]


def _figure(filename: str, title: str, alt: str) -> Callable[[_Draw], _Draw]:
    """Enter the function below into :data:`FIGURES`."""

    def enter(draw: _Draw) -> _Draw:
        FIGURES.append(FigureSpec(filename, title, alt, draw))
        return draw

    return enter


def draw_figures(
    report: Report, folder: str | os.PathLike[str], details: Details | None = None
) -> list[Path]:
    """Draw every figure that the report has the numbers for, as PNG.

    A figure of an earlier report that the present one cannot draw is removed, so that none goes stale.

    Args:
        report: The report.
        folder: Where the files go; made if missing.
        details: What the runs left beyond their scores; None draws the figures that need only scores.

    Returns:
        The files, in the order of presentation.
    """
    from matplotlib import style

    written = []
    for spec in FIGURES:
        path = Path(folder) / spec.filename
        # "default" first, so that a user's own style file cannot make the figures of a report illegible.
        with style.context(["default", _STYLE]):
            figure = spec.draw(report, details or {})
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format="png", dpi=DPI)
        written.append(path)
    return written


def _new_figure(width: float, height: float) -> Figure:
    """Return a figure outside pyplot, so that nobody's current figure changes and nothing stays in memory."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _label(name: str) -> str:
    """Break a model's name into lines, and keep matplotlib from reading it as a formula."""
    return wrap_name(name, _LABEL_WIDTH, _MAX_LABEL_LINES).replace("$", r"\$")


def _rows_height(models: Sequence[str]) -> float:
    """Return the inches that one row a model takes; rows grow with the longest name."""
    lines = max(_label(name).count("\n") + 1 for name in models)
    return max(_ROW_INCHES, _LINE_INCHES * lines + 0.06) * max(len(models), 3)


def _typeset(text: str) -> str:
    """Set the names of the sets as formulas."""
    return text.replace("D_f", "$D_f$").replace("D_r", "$D_r$")


def _colour(name: str) -> str:
    """Return the colour of a model where methods need not be told apart."""
    return {"source": _SOURCE_COLOUR, "retrain": _RETRAIN_COLOUR}.get(name, _BLUE)


def _line_styles(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give each model a colour, a marker and a dash that together no other of up to 42 methods has."""
    styles: dict[str, dict[str, Any]] = {
        "source": {"color": _SOURCE_COLOUR, "marker": "*", "linestyle": (0, (4, 2, 1, 2))},
        "retrain": {"color": _RETRAIN_COLOUR, "marker": "*", "linestyle": (0, (4, 2))},
    }
    methods = [name for name in models if name not in CONTROLS]
    for index, name in enumerate(methods):
        styles[name] = {
            "color": _METHOD_COLOURS[index % len(_METHOD_COLOURS)],
            "marker": _MARKERS[index % len(_MARKERS)],
            "linestyle": _DASHES[index // len(_METHOD_COLOURS) % len(_DASHES)],
        }
    return styles


def _reference_line(axes: Axes, metric: str, target: Value | None, *, along: str = "x") -> None:
    """Mark the retrained model's mean as a dashed line, and its 95% interval as a band."""
    if target is None:
        return
    scale = describe(metric).scale
    line, band = (axes.axvline, axes.axvspan) if along == "x" else (axes.axhline, axes.axhspan)
    line(target["mean"] * scale, color=_RETRAIN_COLOUR, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1.5)
    if target["ci95"] is not None:
        low, high = target["ci95"]
        band(low * scale, high * scale, color=_RETRAIN_COLOUR, alpha=0.10, linewidth=0, zorder=0.5)


def _bars(
    axes: Axes, report: Report, metric: str, models: Sequence[str], *, guess: float | None = None
) -> None:
    """Draw one metric as horizontal bars with intervals, and print the numbers in a column at the right."""
    about = describe(metric)
    positions = range(len(models))
    axes.set_ylim(len(models) - 0.4, -0.6)
    for position, name in zip(positions, models, strict=True):
        value = report["models"][name].get(metric)
        text = "not measured"
        if value is not None:
            half = half_width(value)
            axes.barh(position, value["mean"] * about.scale, height=0.66, color=_colour(name), zorder=2)
            if half is not None:
                # Grey with a light edge, since a black whisker is lost on the retrained model's black bar.
                for colour, line in (("white", 3.2), ("#444444", 1.4)):
                    axes.errorbar(
                        value["mean"] * about.scale,
                        position,
                        xerr=half * about.scale,
                        fmt="none",
                        ecolor=colour,
                        elinewidth=line,
                        capsize=3,
                        capthick=line,
                        zorder=3,
                    )
            text = format_value(about, value)
        axes.text(
            1.04, position, text, transform=axes.get_yaxis_transform(), va="center", ha="left", fontsize=9
        )
    _reference_line(axes, metric, report["models"].get("retrain", {}).get(metric))
    limit = 1.0 * about.scale
    axes.set_xlim(0, limit)
    if guess is not None:
        axes.axvline(
            guess * about.scale, color=_VERMILION, linestyle=(0, (1.2, 1.2)), linewidth=1.6, zorder=1.6
        )
    axes.set_yticks(list(positions), [_label(name) for name in models])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_title(_typeset("\n".join(textwrap.wrap(about.label, 30))))
    axes.set_xlabel(about.short + (f" [{about.unit}]" if about.unit else ""))


def _bar_panels(
    report: Report, metrics: Sequence[str], models: Sequence[str], *, guess: Mapping[str, float] | None = None
) -> Figure:
    """Draw several metrics of the same models beside each other, with one legend for the lines."""
    from matplotlib.lines import Line2D

    guess = guess or {}
    figure = _new_figure(2.6 + 2.9 * len(metrics), 1.5 + _rows_height(models))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        _bars(axes, report, metric, models, guess=guess.get(metric))
    handles = []
    if any(metric in report["models"].get("retrain", {}) for metric in metrics):
        handles.append(Line2D([], [], color=_RETRAIN_COLOUR, linestyle=(0, (4, 2)), label="retrained model"))
    if any(metric in guess for metric in metrics):
        handles.append(
            Line2D([], [], color=_VERMILION, linestyle=(0, (1.2, 1.2)), linewidth=1.6, label="0.5")
        )
    if len(report["seeds"]) > 1:
        label = f"95% interval over {len(report['seeds'])} seeds"
        handles.append(Line2D([], [], color="#444444", linewidth=1.4, marker="|", markersize=7, label=label))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _models_with(report: Report, metrics: Sequence[str]) -> list[str]:
    """Return the models that have at least one of the metrics, controls first."""
    return [
        name for name in ordered_models(report) if any(metric in report["models"][name] for metric in metrics)
    ]


def _measured(report: Report, metrics: Sequence[str]) -> list[str]:
    return [metric for metric in metrics if any(metric in values for values in report["models"].values())]


@_figure(
    "accuracy.png",
    "Accuracy",
    "Horizontal bars: each model's accuracy on the forget set, the retain set and the test set with 95% "
    "intervals; a dashed line marks the retrained model.",
)
def _accuracy(report: Report, details: Details) -> Figure | None:
    metrics = _measured(report, ("accuracy/forget", "accuracy/retain", "accuracy/test"))
    return _bar_panels(report, metrics, _models_with(report, metrics)) if metrics else None


@_figure(
    "membership_inference.png",
    "Membership inference",
    "Horizontal bars: the membership inference attack's accuracy on the forget set and its area under the "
    "ROC curve for each model with 95% intervals; lines mark the retrained model and 0.5.",
)
def _membership_inference(report: Report, details: Details) -> Figure | None:
    metrics = _measured(report, ("membership_inference/accuracy", "membership_inference/auc"))
    if not metrics:
        return None
    return _bar_panels(report, metrics, _models_with(report, metrics), guess=dict.fromkeys(metrics, 0.5))


_FORGETTING_AXIS = ("membership_inference/accuracy", "membership_inference/auc", "accuracy/forget")
"""What the trade-off is drawn against: the first that the report holds."""


@_figure(
    "trade_off.png",
    "Forgetting against accuracy",
    "Scatter plot: each model's test accuracy against how much of the forget set it still gives away, with "
    "95% intervals; dashed lines and grey bands mark the retrained model, which a method should be near.",
)
def _trade_off(report: Report, details: Details) -> Figure | None:
    from matplotlib.ticker import MaxNLocator

    utility = "accuracy/test"
    measured = _measured(report, _FORGETTING_AXIS)
    if not measured:
        return None
    forgetting = measured[0]
    models = [
        name for name in ordered_models(report) if {utility, forgetting} <= report["models"][name].keys()
    ]
    if not models:
        return None
    figure = _new_figure(7.8, max(4.6, 1.6 + 0.30 * len(models)))
    axes = figure.subplots()
    styles = _line_styles(models)
    about_x, about_y = describe(utility), describe(forgetting)
    for name in models:
        x, y = report["models"][name][utility], report["models"][name][forgetting]
        axes.errorbar(
            x["mean"] * about_x.scale,
            y["mean"] * about_y.scale,
            xerr=(half_width(x) or 0.0) * about_x.scale,
            yerr=(half_width(y) or 0.0) * about_y.scale,
            color=styles[name]["color"],
            marker=styles[name]["marker"],
            markersize=12 if name in CONTROLS else 8,
            markeredgecolor="white",
            markeredgewidth=0.8,
            linestyle="none",
            elinewidth=1.2,
            capsize=2.5,
            zorder=3,
            label=_label(name),
        )
    # Limits before the band, which would otherwise widen them; no mean is cut off, a long whisker may be.
    for axis, metric in (("x", utility), ("y", forgetting)):
        low, high = _limits([report["models"][name][metric] for name in models], describe(metric).scale)
        axes.set(**{f"{axis}lim": (low, high)})
        _reference_line(axes, metric, report["models"].get("retrain", {}).get(metric), along=axis)
    axes.set_xlabel(_typeset(about_x.heading))
    axes.set_ylabel(_typeset("\n".join(textwrap.wrap(about_y.heading, 46))))
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.ticklabel_format(useOffset=False)
    title = "dashed: the retrained model"
    if len(report["seeds"]) > 1:
        title = "dashed and grey: the retrained\nmodel and its 95% interval"
    figure.legend(loc="outside right upper", frameon=False, title=title)
    return figure


def _limits(values: Sequence[Value], scale: float) -> tuple[float, float]:
    """Return an axis range that holds all intervals within [0, 1], plus a margin so that no marker is cut.

    Both axes of the trade-off hold shares, so an interval that reaches beyond 0 or 1 is shown up to there.
    """
    ends = [end for value in values for end in (value["ci95"] or [value["mean"]])]
    low, high = max(min(ends), 0.0), min(max(ends), 1.0)
    margin = max(0.06 * (high - low), 0.004)
    return (low - margin) * scale, (high + margin) * scale


@_figure(
    "time.png",
    "Time",
    "Each model's wall-clock time, split into preparing and unlearning, with the total and the acceleration "
    "over retraining in numbers.",
)
def _time(report: Report, details: Details) -> Figure | None:
    models = _models_with(report, ("time/total_s",))
    if not models:
        return None
    means = {
        name: {metric: value["mean"] for metric, value in report["models"][name].items()} for name in models
    }
    prepare = [means[name].get("time/prepare_s", 0.0) for name in models]
    totals = [means[name]["time/total_s"] for name in models]
    rest = [max(total - before, 0.0) for total, before in zip(totals, prepare, strict=True)]
    positions = np.arange(len(models))
    figure = _new_figure(8.6, 1.5 + _rows_height(models))
    axes = figure.subplots()
    axes.set_ylim(len(models) - 0.4, -0.6)
    positive = [total for total in totals if total > 0]
    if positive and max(positive) / min(positive) > _LINEAR_TIME_RATIO:
        # On a log axis the length of a bar, and all the more of a stacked one, means nothing: points instead.
        axes.set_xscale("log")
        left = min([before for before in prepare if before > 0] + positive) / 1.8
        axes.set_xlim(left, max(totals) * 1.8)
        axes.hlines(positions, left, totals, color="#CCCCCC", linewidth=1, zorder=1)
        shown = [position for position, before in zip(positions, prepare, strict=True) if before > 0]
        axes.plot(
            [prepare[position] for position in shown],
            shown,
            "s",
            color=_ORANGE,
            markersize=7,
            zorder=3,
            label="of it to prepare",
        )
        axes.plot(totals, positions, "o", color=_BLUE, markersize=8, zorder=4, label="total (mean)")
        _plain_log_ticks(axes)
    else:
        axes.barh(positions, prepare, height=0.66, color=_ORANGE, zorder=2, label="prepare")
        axes.barh(positions, rest, left=prepare, height=0.66, color=_BLUE, zorder=2, label="train or unlearn")
        axes.set_xlim(0, max(totals) * 1.05 or 1.0)
    halves = [half_width(report["models"][name]["time/total_s"]) for name in models]
    if any(half is not None for half in halves):
        axes.errorbar(
            totals,
            positions,
            xerr=[half or 0.0 for half in halves],
            fmt="none",
            ecolor="#444444",
            elinewidth=1.4,
            capsize=3,
            zorder=5,
            label="95% interval of the total",
        )
    for column, metric in enumerate(_measured(report, ("time/total_s", "acceleration"))):
        about = describe(metric)
        texts = [report["models"][name].get(metric) for name in models]
        rows = [(-0.85, f"{about.short} [{about.unit}]")]
        rows += [
            (position, format_value(about, value))
            for position, value in enumerate(texts)
            if value is not None
        ]
        for height, text in rows:
            axes.annotate(
                text,
                (1.0, height),
                xycoords=axes.get_yaxis_transform(),
                xytext=(10 + 105 * column, 0),
                textcoords="offset points",
                va="center",
                ha="left",
                fontsize=9,
                annotation_clip=False,
            )
    axes.set_yticks(list(positions), [_label(name) for name in models])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_xlabel("Wall-clock time [s]")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _plain_log_ticks(axes: Axes) -> None:
    """Print the ticks of a log axis as plain numbers, few enough not to touch each other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    within_two_decades = high / low < 100
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if within_two_decades else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


@_figure(
    "membership_confusion.png",
    "Membership inference: confusion matrices",
    "For each model, how many forget-set samples and samples never trained on the attack took for members, "
    "summed over the seeds, with the share of each row.",
)
def _confusion(report: Report, details: Details) -> Figure | None:
    matrices: dict[str, npt.NDArray[np.float64]] = {}
    for name in ordered_models(report):
        counts = [
            run["membership_inference"]["confusion"]
            for run in details.get(name, {}).values()
            if "confusion" in run.get("membership_inference", {})
        ]
        if counts:
            matrices[name] = np.sum([_confusion_matrix(name, count) for count in counts], axis=0)
    if not matrices:
        return None
    columns = min(4, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = _new_figure(1.4 + 2.4 * columns, 0.5 + 2.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(matrices):
            axes.set_axis_off()
            continue
        name, matrix = list(matrices.items())[index]
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for row in range(2):
            for column in range(2):
                colour = "white" if shares[row, column] > 0.55 else "black"
                text = f"{100 * shares[row, column]:.1f} %\n({matrix[row, column]:,.0f})"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9.5)
        axes.set_title(_label(name))
        last_of_column = index + columns >= len(matrices)
        axes.set_xticks([0, 1], ["member", "never\ntrained on"] if last_of_column else ["", ""])
        axes.set_yticks([0, 1], ["$D_f$", "never\ntrained on"] if index % columns == 0 else ["", ""])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.supxlabel("The attack says", fontsize=10)
    figure.supylabel("The truth", fontsize=10)
    return figure


def _confusion_matrix(model: str, counts: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    matrix = np.asarray(counts, dtype=np.float64)
    if matrix.shape != (2, 2) or (matrix < 0).any():
        raise ValueError(f"details[{model!r}]: confusion must be 2 rows of 2 counts >= 0, got {counts!r}")
    return matrix


@_figure(
    "membership_roc.png",
    "Membership inference: ROC curves",
    "The attack's true positive rate against its false positive rate for each model, averaged over the "
    "seeds, on linear axes and on logarithmic axes; the diagonal is guessing.",
)
def _roc(report: Report, details: Details) -> Figure | None:
    # Dense near 0, where the logarithmic panel looks.
    grid = np.union1d(np.linspace(0.0, 1.0, 201), np.geomspace(1e-3, 1.0, 121))
    curves: dict[str, npt.NDArray[np.float64]] = {}
    for name in ordered_models(report):
        runs = [
            run["membership_inference"]
            for run in details.get(name, {}).values()
            if {"fpr", "tpr"} <= run.get("membership_inference", {}).keys()
        ]
        if runs:
            curves[name] = np.mean([_roc_on(grid, name, run["fpr"], run["tpr"]) for run in runs], axis=0)
    if not curves:
        return None
    figure = _new_figure(11.0, max(4.6, 1.2 + 0.30 * len(curves)))
    linear, logarithmic = figure.subplots(1, 2)
    styles = _line_styles(list(curves))
    for axes in (linear, logarithmic):
        axes.plot(
            grid, grid, color=_VERMILION, linestyle=(0, (1.2, 1.2)), linewidth=1.6, label="guessing", zorder=1
        )
        for name, curve in curves.items():
            style = styles[name]
            axes.plot(
                grid,
                curve,
                color=style["color"],
                linestyle=style["linestyle"],
                linewidth=1.9,
                label=_label(name),
            )
        axes.set_xlabel("False positive rate")
        axes.set_ylabel("True positive rate on $D_f$")
        axes.grid(color="#E4E4E4", linewidth=0.8)
    linear.set(xlim=(0, 1), ylim=(0, 1.01), title="Linear axes")
    logarithmic.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1.05), title="Logarithmic axes")
    handles, labels = linear.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, handlelength=3.2)
    return figure


def _roc_on(
    grid: npt.NDArray[np.float64], model: str, fpr: Sequence[float], tpr: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Read one ROC curve at the false positive rates of ``grid``, so that several seeds can be averaged."""
    x, y = np.asarray(fpr, dtype=np.float64), np.asarray(tpr, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or x.size < 2 or (np.diff(x) < 0).any():
        raise ValueError(
            f"details[{model!r}]: fpr must ascend and be as long as tpr, at least 2, got the shapes "
            f"{x.shape} and {y.shape}"
        )
    return np.interp(grid, x, y)


@_figure(
    "posteriors.png",
    "Posteriors",
    "Histograms of the posterior of the true class on the forget set, the retain set and samples never "
    "trained on, one panel a model.",
)
def _posteriors(report: Report, details: Details) -> Figure | None:
    pooled: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for name in ordered_models(report):
        by_set: dict[str, list[npt.NDArray[np.float64]]] = {}
        for run in details.get(name, {}).values():
            for set_name, values in run.get("posteriors", {}).items():
                by_set.setdefault(set_name, []).append(np.asarray(values, dtype=np.float64))
        if by_set:
            pooled[name] = {set_name: np.concatenate(parts) for set_name, parts in by_set.items()}
    return posterior_histograms(pooled) if pooled else None


def posterior_histograms(
    posteriors: Mapping[str, Mapping[str, npt.ArrayLike]],
    *,
    bins: int = 25,
    xlabel: str = "Posterior of the true class",
) -> Figure:
    """Draw how sure models are of samples, one panel a model and one outline a set of samples.

    Before unlearning, D_f looks like D_r; after it, D_f should look as it does for the retrained model.

    Args:
        posteriors: Model name to set name ("forget set", "retain set", ...) to values in [0, 1], shape (n,).
        bins: Bars between 0 and 1, at least 2.
        xlabel: What the values are.

    Returns:
        A figure outside pyplot; save it with its ``savefig``. Each outline shows shares that sum to 100 %, so
        sets of different sizes can be compared.

    Raises:
        ValueError: No model, a model without sets, a set without values, values outside [0, 1] or not of
            shape (n,), ``bins`` below 2, or more sets than there are colours (6).
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    if not posteriors:
        raise ValueError("posteriors must hold at least one model")
    arrays: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for model, by_set in posteriors.items():
        if not by_set:
            raise ValueError(f"posteriors[{model!r}] must hold at least one set of samples")
        arrays[model] = {}
        for set_name, values in by_set.items():
            array = np.asarray(values, dtype=np.float64)
            # The comparison is written so that a NaN fails it.
            if array.ndim != 1 or array.size == 0 or not ((array >= 0) & (array <= 1)).all():
                raise ValueError(
                    f"posteriors[{model!r}][{set_name!r}] must be of shape (n,) with n > 0 and lie in "
                    f"[0, 1], got the shape {array.shape}"
                )
            arrays[model][set_name] = array
    sets = list(dict.fromkeys(set_name for by_set in arrays.values() for set_name in by_set))
    if len(sets) > len(_METHOD_COLOURS):
        raise ValueError(
            f"posteriors holds {len(sets)} different sets, at most {len(_METHOD_COLOURS)} can be told apart"
        )
    columns = min(3, len(arrays))
    rows = -(-len(arrays) // columns)
    figure = _new_figure(1.0 + 3.3 * columns, 0.9 + 2.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    edges = np.linspace(0.0, 1.0, bins + 1)
    handles: dict[str, Any] = {}
    for index, axes in enumerate(grid.flat):
        if index >= len(arrays):
            axes.set_axis_off()
            continue
        model = list(arrays)[index]
        for set_name, array in arrays[model].items():
            place = sets.index(set_name)
            shares = 100.0 * np.histogram(array, edges)[0] / array.size
            handles[set_name] = axes.stairs(
                shares,
                edges,
                color=_METHOD_COLOURS[place],
                linestyle=_DASHES[place % len(_DASHES)],
                linewidth=1.8,
                label=set_name,
                baseline=None,
            )
        axes.set_title(_label(model))
        axes.grid(color="#E4E4E4", linewidth=0.8)
        # Few and short ticks: the last of one panel stands beside the first of the next.
        axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
        if index + columns >= len(arrays):
            axes.tick_params(labelbottom=True)
    grid[0, 0].set_ylim(bottom=0)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel("Share of the set [%]", fontsize=10)
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False, handlelength=3.0
    )
    return figure
