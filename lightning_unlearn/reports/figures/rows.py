"""Figures with a row a model: accuracies, what attacks still find, unlearning degree, relearn time and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures import base
from lightning_unlearn.reports.glossary import describe, format_value, half_width, measured_metrics
from lightning_unlearn.reports.schema import Report, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# ---------------------------------------------------------------------------------------------- bars, a panel a metric


def _bar_panels(report: Report, metrics: Sequence[str]) -> Figure | None:
    """Draw several metrics of the same models beside each other, with one legend for the lines."""
    metrics = base.measured(report, metrics)
    if not metrics:
        return None
    models = base.models_with(report, metrics)
    figure = base.new_figure(2.6 + 2.9 * len(metrics), 1.5 + base.rows_height(models))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        base.metric_bars(axes, report, metric, models)
    handles = list(base.control_handles(report, metrics).values())
    if any(describe(metric, report).ideal is not None for metric in metrics):
        handles.append(base.line_handle("ideal", **base.IDEAL))
    if len(report["seeds"]) > 1:
        label = f"95% interval over {len(report['seeds'])} seeds"
        handles.append(base.line_handle(label, color=base.WHISKER, linewidth=1.4, marker="|", markersize=7))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


@base.declare(
    "accuracy.png",
    "Accuracy",
    "Horizontal bars: each model's accuracy on the forget set, the retain set and the test set with 95% "
    "intervals; a dashed line marks the retrained model.",
)
def accuracy(report: Report, details: Details) -> Figure | None:
    """Draw the accuracies on the sets."""
    return _bar_panels(report, ("accuracy/forget", "accuracy/retain", "accuracy/test"))


@base.declare(
    "membership_inference.png",
    "Membership inference",
    "Horizontal bars: the membership inference attack's hit rate on the forget set, its false positive rate "
    "beside it and its area under the ROC curve for each model with 95% intervals; lines mark the retrained model and "
    "guessing, one half.",
)
def membership_inference(report: Report, details: Details) -> Figure | None:
    """Draw the attack's main scores."""
    return _bar_panels(report, [f"membership_inference/{name}" for name in ("hit_rate", "fpr", "auc")])


@base.declare(
    "backdoor.png",
    "Backdoor",
    "Horizontal bars: the share of triggered forget samples and of triggered test samples that get the label "
    "of the trigger, and the share of the forget samples that get their true label again, for each model with "
    "95% intervals; a dashed line marks the retrained model.",
)
def backdoor(report: Report, details: Details) -> Figure | None:
    """Draw what is left of the backdoor."""
    names = ("success_rate_forget", "success_rate_test", "recovered_accuracy")
    return _bar_panels(report, [f"backdoor/{name}" for name in names])


_SHOWN_ELSEWHERE = (
    "accuracy",
    "membership_inference",
    "backdoor",
    "unlearning_degree",
    "relearn_time",
    "time",
    "memory",
)
_MOST_PANELS = 4


@base.declare(
    "scores_*.png",
    "Scores of *",
    "Horizontal bars: the main scores of the evaluator * for each model with 95% intervals; a dashed line marks the "
    "retrained model, a dotted one the ideal where there is one.",
)
def scores(report: Report, details: Details) -> Mapping[str, Figure]:
    """Draw what an evaluator declares to be in the headline, if it has no figure of its own."""
    chosen: dict[str, list[str]] = {}
    for name in measured_metrics(report):
        evaluator, slash, _ = name.partition("/")
        if slash and evaluator not in _SHOWN_ELSEWHERE and describe(name, report).headline:
            chosen.setdefault(evaluator, []).append(name)
    drawn = {evaluator: _bar_panels(report, names[:_MOST_PANELS]) for evaluator, names in chosen.items()}
    return {evaluator: figure for evaluator, figure in drawn.items() if figure is not None}


# ---------------------------------------------------------------------------------------------- unlearning degree

_DEGREE, _NULL, _CALIBRATED, _MET = (
    f"unlearning_degree/{name}" for name in ("degree", "null", "calibrated", "constraint_met")
)
_TWO_LINES = 0.46
"""Inches of a row with two lines of numbers."""
_APART = 0.19
"""Half the distance of degree and null within a model's row, so that their intervals do not cover each other."""


@base.declare(
    "unlearning_degree.png",
    "Unlearning degree",
    "For each model the unlearning degree beside that of its null control, a model that changed and forgot "
    "nothing, and their difference, with 95% intervals. A cross marks a degree that was measured where the "
    "constraint on the perturbation was not met. A dashed line marks the retrained model.",
)
def unlearning_degree(report: Report, details: Details) -> Figure | None:
    """Draw the degree beside its null control."""
    from matplotlib.ticker import MaxNLocator

    models = base.models_with(report, (_DEGREE, _NULL, _CALIBRATED))
    if not models:
        return None
    figure = base.new_figure(9.6, 1.7 + base.rows_height(models, _TWO_LINES))
    both, difference = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1.0))
    for axes in (both, difference):
        base.model_rows(axes, models)
    for row, name in enumerate(models):
        tint = base.CONTROL_LOOKS.get(name, {"color": base.BLUE})["color"]
        broken = _broken(report["models"][name].get(_MET))
        _point(both, report, name, _DEGREE, row - _APART, broken, color=base.BLUE, marker="o")
        _point(both, report, name, _NULL, row + _APART, color=base.ORANGE, marker="s")
        _point(difference, report, name, _CALIBRATED, row, color=tint, marker="o")
    base.reference_line(both, report, _DEGREE)
    base.reference_line(difference, report, _CALIBRATED)
    difference.axvline(0.0, color=base.WHISKER, linewidth=1.0, zorder=1)
    about = describe(_CALIBRATED, report)
    both.set(title="Degree and null control", xlabel=base.typeset(describe(_DEGREE, report).label))
    difference.set(title=base.typeset(about.label, 30), xlabel=base.typeset(about.short_heading))
    for axes in (both, difference):
        axes.xaxis.set_major_locator(MaxNLocator(5))
    handles = [
        base.line_handle("degree", color=base.BLUE, marker="o"),
        base.line_handle("null control", color=base.ORANGE, marker="s"),
        *base.control_handles(report, (_DEGREE, _CALIBRATED)).values(),
    ]
    if any(_broken(report["models"][name].get(_MET)) for name in models):
        handles.append(
            base.line_handle("constraint not met (seeds)", linestyle="none", color=base.VERMILION, marker="x")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _point(
    axes: Axes, report: Report, name: str, metric: str, height: float, mark: str = "", **look: Any
) -> None:
    """Draw one mean with its interval, and print it at the right with what is to be said of it."""
    value = report["models"][name].get(metric)
    if value is None:
        base.row_text(axes, height, "not measured")
        return
    shape: dict[str, Any] = {"markersize": 6.5, "elinewidth": 1.4, "capsize": 3, "zorder": 3}
    axes.errorbar(value["mean"], height, xerr=half_width(value) or 0.0, **shape, **look)
    text = format_value(describe(metric, report), value)
    base.row_text(axes, height, f"{text}  {mark}".rstrip(), color=base.VERMILION if mark else "black")


def _broken(met: Value | None) -> str:
    """Return the mark of a degree for which the constraint failed, with the seeds in which it did."""
    known = [] if met is None else [value for value in met["values"] if value is not None]
    failed = sum(value < 1 for value in known)
    return f"× {failed}/{len(known)}" if failed else ""  # noqa: RUF001 - a cross


# ---------------------------------------------------------------------------------------------- relearn time

_STEPS, _REACHED, _FRESH = (f"relearn_time/{name}" for name in ("steps", "reached", "fresh"))
_LEAST_LOSS = 1e-6
"""What is below stands at the lower end of the logarithmic axis, on which a loss of 0 has no place."""


@base.declare(
    "relearn_time.png",
    "Relearn time",
    "For each model the training steps on the forget set alone until its loss there is the source model's again, "
    "with 95% intervals, a dashed line for the retrained model and a dotted one for an untrained model; beside it, "
    "as far as it was kept, the course of that loss, averaged over the seeds.",
)
def relearn_time(report: Report, details: Details) -> Figure | None:
    """Draw the steps of relearning, and the loss on the way."""
    models = base.models_with(report, (_STEPS, _REACHED))
    if not models:
        return None
    runs = base.noted(report, details, "relearn_time", "losses")
    figure = base.new_figure(7.2 + 4.6 * bool(runs), max(1.7 + base.rows_height(models), 3.6))
    panels = figure.subplots(1, 1 + bool(runs), squeeze=False)[0]
    base.metric_bars(panels[0], report, _STEPS, models)
    panels[0].set_xlabel(f"{describe(_STEPS, report).short} [training steps]")
    fresh = [report["models"][name][_FRESH]["mean"] for name in models if _FRESH in report["models"][name]]
    if fresh:
        panels[0].axvline(sum(fresh) / len(fresh), label="untrained model", zorder=1.6, **base.IDEAL)
    panels[0].set_xlim(left=0)
    if runs:
        _losses(panels[1], runs)
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    base.legend(figure, handles)
    return figure


def _losses(axes: Axes, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    styles = base.line_styles(list(runs))
    for name, each in runs.items():
        course = _mean_course([run["losses"] for run in each])
        axes.plot(
            course, label=base.model_label(name), markersize=4, markevery=[len(course) - 1], **styles[name]
        )
    every = [run for each in runs.values() for run in each]
    if untrained := [run["losses_fresh"] for run in every if run.get("losses_fresh")]:
        axes.plot(_mean_course(untrained), label="untrained model", **base.IDEAL)
    if targets := [run["target"] for run in every if "target" in run]:
        learned = max(float(np.mean(targets)), _LEAST_LOSS)
        axes.axhline(
            learned, color=base.CONTROL_LOOKS["source"]["color"], linewidth=1.0, label="counts as learned"
        )
    axes.grid(**base.GRID)
    axes.set(
        yscale="log",
        title="Loss on $D_f$ while relearning",
        xlabel="training steps on $D_f$ alone",
        ylabel="cross-entropy [nats]",
    )


def _mean_course(courses: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """Average a loss over the runs, up to where the first of them ends."""
    shortest = min(map(len, courses))
    means = np.array([losses[:shortest] for losses in courses], dtype=np.float64).mean(axis=0)
    return np.asarray(np.maximum(means, _LEAST_LOSS))


# ---------------------------------------------------------------------------------------------- time

_LINEAR_TIME_RATIO = 30.0
"""Above this ratio of the longest to the shortest time, the shortest bar would be a hairline: a log axis."""
_LONGEST_WHISKER = 1.5
"""An interval is shown up to this multiple of the longest mean; beyond, it would press the bars together."""


@base.declare(
    "time.png",
    "Time",
    "Each model's wall-clock time, split into preparing and unlearning, with the total and the acceleration "
    "over retraining in numbers.",
)
def time(report: Report, details: Details) -> Figure | None:
    """Draw what each model took."""
    models = base.models_with(report, ("time/total_s",))
    if not models:
        return None
    values = [report["models"][name] for name in models]
    totals = np.array([value["time/total_s"]["mean"] for value in values])
    prepare = np.array(
        [value["time/prepare_s"]["mean"] if "time/prepare_s" in value else 0.0 for value in values]
    )
    halves = np.array([half_width(value["time/total_s"]) or 0.0 for value in values])
    rows = np.arange(len(models))
    figure = base.new_figure(8.6, 1.5 + base.rows_height(models))
    axes = figure.subplots()
    base.model_rows(axes, models)
    positive = totals[totals > 0]
    if positive.size and positive.max() / positive.min() > _LINEAR_TIME_RATIO:
        _time_points(axes, rows, prepare, totals)
    else:
        axes.barh(rows, prepare, height=0.66, color=base.ORANGE, zorder=2, label="prepare")
        rest = np.maximum(totals - prepare, 0.0)
        axes.barh(rows, rest, left=prepare, height=0.66, color=base.BLUE, zorder=2, label="train or unlearn")
        axes.set_xlim(0, min((totals + halves).max(), _LONGEST_WHISKER * totals.max()) * 1.05 or 1.0)
    if halves.any():
        look: dict[str, Any] = {
            "fmt": "none",
            "ecolor": base.WHISKER,
            "elinewidth": 1.4,
            "capsize": 3,
            "zorder": 5,
        }
        axes.errorbar(totals, rows, xerr=halves, label="95% interval of the total", **look)
    for column, metric in enumerate(base.measured(report, ("time/total_s", "acceleration"))):
        about = describe(metric, report)
        _print_column(axes, column, -0.85, about.short_heading)
        for row, value in enumerate(values):
            if metric in value:
                _print_column(axes, column, row, format_value(about, value[metric]))
    axes.set_xlabel("Wall-clock time [s]")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _time_points(
    axes: Axes, rows: npt.NDArray[Any], prepare: npt.NDArray[Any], totals: npt.NDArray[Any]
) -> None:
    """Draw times as points: on a log axis the length of a bar, and all the more of a stacked one, means nothing."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    prepared = prepare > 0
    low, high = min(prepare[prepared].min(initial=np.inf), totals[totals > 0].min()) / 1.8, totals.max() * 1.8
    axes.set(xscale="log", xlim=(low, high))
    axes.hlines(rows, low, totals, color="#CCCCCC", linewidth=1, zorder=1)
    look: dict[str, Any] = {"linestyle": "none", "zorder": 4}
    axes.plot(
        prepare[prepared],
        rows[prepared],
        marker="s",
        color=base.ORANGE,
        markersize=7,
        label="of it to prepare",
        **look,
    )
    axes.plot(totals, rows, marker="o", color=base.BLUE, markersize=8, label="total (mean)", **look)
    # ticks as plain numbers, few enough not to touch each other
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _print_column(axes: Axes, column: int, row: float, text: str) -> None:
    """Print a number in one of the columns at the right of the axes."""
    axes.annotate(
        text,
        (1.0, row),
        xycoords=axes.get_yaxis_transform(),
        xytext=(10 + 105 * column, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        annotation_clip=False,
    )
