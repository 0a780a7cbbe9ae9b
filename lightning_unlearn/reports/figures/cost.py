"""The cost-quality figure: what each method reaches for its time, beside retraining for as long."""

import math
from collections.abc import Mapping

from lightning_unlearn.reports.details import Details
from lightning_unlearn.reports.figures.base import (
    FLOOR,
    Line,
    Panel,
    Panels,
    Series,
    declare,
    goal_line,
    scaled,
    within,
)
from lightning_unlearn.reports.figures.trade_off import forgetting_axis
from lightning_unlearn.reports.floor import costs
from lightning_unlearn.reports.glossary import (
    describe,
    forgot_nothing,
    method_names,
    short_retrainings,
    utility_of,
)
from lightning_unlearn.reports.schema import Report


@declare(
    "cost_quality.png",
    "Cost against quality",
    "Two panels over the share of retraining's time that a model took, on a logarithmic axis: test accuracy, and the "
    "share of the gap between source and retrained model that was closed. The black line joins "
    "the retrainings that were stopped short, and leaves a panel towards one that lies far off; a method above it is "
    "worth its time.",
)
def cost_quality(report: Report, details: Details) -> Panels:
    """Draw what methods and short retrainings reach for their cost."""
    cost, choice = costs(report), forgetting_axis(report)
    methods = [name for name in method_names(report) if name in cost]
    if "retrain" not in cost or not methods:
        return []
    utility = utility_of(report)
    about = describe(utility, report)
    panels = _panel(report, cost, utility, about.heading, 0.0, about.scale)
    source = None if choice is None else forgot_nothing(report, choice.metric)
    if choice is not None and source and choice.metric in report["models"]["retrain"]:
        gap = report["models"]["retrain"][choice.metric]["mean"] - source["mean"]
        if gap:
            label = f"Share of the gap closed [%], {describe(choice.metric, report).short}"
            panels += _panel(report, cost, choice.metric, label, source["mean"], 100 / gap)
    return panels


def _panel(
    report: Report, cost: Mapping[str, float], metric: str, label: str, zero: float, scale: float
) -> list[Panel]:
    """Return the panel of one metric, counted from ``zero`` in units of ``1 / scale``, if methods have it."""
    values = {
        name: each[metric] for name, each in report["models"].items() if name in cost and metric in each
    }
    at = {name: (100 * cost[name], (value["mean"] - zero) * scale) for name, value in values.items()}
    line = [name for name in (*short_retrainings(report), "retrain") if name in at]
    floor = Series(FLOOR, [at[name][0] for name in line], [at[name][1] for name in line])
    series = [floor] if len(line) > 1 else []
    series += [
        Series(name, [at[name][0]], [at[name][1]], [scaled(values[name], scale, zero)], kind="points")
        for name in method_names(report)
        if name in at
    ]
    if not series:
        return []
    goal = [Line("retrain", "y", at["retrain"][1])] if zero and "retrain" in at else goal_line(report, metric)
    # retrainings that were stopped very short may lie far off, and would press everything else together: it keeps at
    # least a quarter of the panel
    ends = [at[name][1] for name in (*method_names(report), "retrain") if name in at]
    low, high = min([0.0, *ends] if zero else ends), max(ends)
    room = max(1.3 * (high - low), 2.0)
    least, most = (-math.inf, math.inf) if zero else within(metric, report)
    limits = {"y": (max(low - room, least), min(high + room, most))}
    return [
        Panel(
            "Time, as a share of retraining's [%]",
            label,
            series,
            metric=metric,
            lines=goal,
            log="x",
            within=limits,
        )
    ]
