"""Looks up what metrics declare of themselves, and prints numbers accordingly, for table, page and figures."""

import math
import re
from dataclasses import replace

from lightning_unlearn import callbacks
from lightning_unlearn.callbacks import ForgettingMetrics
from lightning_unlearn.metrics.declared import COST, MATCH, DeclaredMetric
from lightning_unlearn.reports.schema import Report, Value

CONTROLS: dict[str, str] = {
    "source": "control: nothing forgotten",
    "retrain": "control: everything forgotten",
    "retrain_2": "control: retrained once more",
}
"""The models that are no methods but the floor and the ceiling of every score, with what they stand for."""
LEAST_SEEDS = 3
"""With fewer seeds a comparison is an illustration, with no verdict and no interval, which would fill the scale."""
_SHORT = r"retrain_([0-9.]+)pct"


def is_control(model: str) -> bool:
    """Return whether a model is a control: the source, a retrained model, or one retrained for a part of the steps."""
    return model in CONTROLS or re.fullmatch(_SHORT, model) is not None


def short_retrainings(report: Report) -> list[str]:
    """Return the models that were retrained for a part of the steps, the shortest first."""
    shares = {name: float(m[1]) for name in report["models"] if (m := re.fullmatch(_SHORT, name))}
    return sorted(shares, key=shares.__getitem__)


def _declared_here() -> dict[str, DeclaredMetric]:
    kinds = [getattr(callbacks, name) for name in callbacks.__all__]
    evaluators = {kind.default_name: kind for kind in kinds if hasattr(kind, "default_name")}
    ordered = [ForgettingMetrics, *(evaluators[name] for name in sorted(evaluators))]
    return {name: metric for kind in ordered for name, metric in kind.metrics.items()} | COST


METRICS: dict[str, DeclaredMetric] = _declared_here()
"""Every metric that this package declares; a report holds the declarations of its own, those of a user's evaluators
among them."""


def describe(name: str, report: Report | None = None) -> DeclaredMetric:
    """Return what was declared of a metric, or a plain entry made from its name where nothing was.

    Args:
        name: The metric.
        report: The report it is in, whose own declaration counts; None asks this package alone.

    Example:
        >>> describe("accuracy/test").heading
        'Accuracy on the test set [%]'
        >>> describe("my_audit/mean_score").label
        'my audit: mean score'
    """
    told = {} if report is None else report.get("metrics", {})
    if name in told:
        metric = DeclaredMetric.read(told[name])
        texts = {
            key: clean(getattr(metric, key)) for key in ("label", "short", "explanation", "unit", "absent")
        }
        return replace(metric, **texts)  # type: ignore[arg-type]  # all of them texts
    if name in METRICS:
        return METRICS[name]
    label = clean(name).replace("/", ": ").replace("_", " ")
    return DeclaredMetric(label, explanation="A metric of which its evaluator declares nothing.")


def forgot_nothing(report: Report, name: str) -> Value | None:
    """Return what a model that forgot nothing has of a metric: the source, or the goal's null where one is declared."""
    metric = describe(name, report)
    model, there = (
        ("source", name) if not metric.null else (metric.goal, f"{name.rpartition('/')[0]}/{metric.null}")
    )
    return report["models"].get(model, {}).get(there)


def worse_side(metric: DeclaredMetric) -> int:
    """Return where only being worse than the goal matters, -1 if that is a lower value, 1 if a higher; else 0."""
    one_sided = metric.decides == "utility" or metric.goal == "retrain_2"
    return {"higher": -1, "lower": 1}.get(metric.direction or "", 0) if one_sided else 0


def samples_of(report: Report, name: str) -> int | None:
    """Return of how many samples an accuracy is the share; None where that is not known, and of any other metric."""
    number = (
        report["data"].get(f"n_{name.removeprefix('accuracy/')}") if name.startswith("accuracy/") else None
    )
    return number if isinstance(number, int) and number > 0 else None


def absent(report: Report, model: str, name: str, place: int | None = None) -> str:
    """Return what to say of a number that a model lacks: what its evaluator, if it measured the model, declares.

    Args:
        report: The report.
        model: The model.
        name: The metric.
        place: Place of the seed that lacks it; None where all do.
    """
    evaluator = f"{name.partition('/')[0]}/"
    measured = any(
        other.startswith(evaluator) and (place is None or value["values"][place] is not None)
        for other, value in report["models"][model].items()
    )
    return describe(name, report).absent if measured else ""


def clean(text: str) -> str:
    """Replace characters that a terminal or a plot would obey instead of show (line ends, escape codes)."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


_LETTER = r"(?:[^_./ ]|(?<=\d)\.(?=\d))"
"""A character of a name that no line ends after: no separator, or the point of a decimal number."""


def wrap_name(name: str, width: int, max_lines: int | None = None) -> str:
    r"""Break a model's name into lines, after an underscore, dot, slash or space where there is one.

    A decimal point is no place to break.

    Args:
        name: The name.
        width: The longest line, at least 2.
        max_lines: The most lines; what is beyond is replaced by an ellipsis. None sets no limit.

    Example:
        >>> wrap_name("negative_gradient_ascent_with_projection", 24)
        'negative_gradient_\nascent_with_projection'
    """
    lines = [""]
    for part in re.findall(rf"{_LETTER}*[_./ ]|{_LETTER}+", clean(name)):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    if max_lines is not None and len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1][: width - 1] + "…"]
    return "\n".join(line.strip() for line in lines)


def ordered_models(report: Report) -> list[str]:
    """Return the models in the order of presentation: the controls first, then the methods as reported.

    The short retrainings, of which figures show one alone, are not among them.
    """
    models = report["models"]
    return [name for name in CONTROLS if name in models] + method_names(report)


def all_models(report: Report) -> dict[str, str]:
    """Return every model in the order of presentation, with what a control stands for; "" for a method."""
    models = report["models"]
    controls = {name: meaning for name, meaning in CONTROLS.items() if name in models}
    short = dict.fromkeys(short_retrainings(report), "control: retrained for a part of the steps")
    return controls | short | dict.fromkeys(method_names(report), "")


def method_names(report: Report) -> list[str]:
    """Return the models that are methods, not controls, in the report's order."""
    return [name for name in report["models"] if not is_control(name)]


def measured_metrics(report: Report) -> list[str]:
    """Return each metric that at least one model has: in the order of declaration, then all others."""
    present = dict.fromkeys(name for values in report["models"].values() for name in values)
    declared = dict.fromkeys([*report.get("metrics", {}), *METRICS])
    return [name for name in declared if name in present] + [name for name in present if name not in declared]


def declared_in(report: Report) -> dict[str, DeclaredMetric]:
    """Return each metric that at least one model has with what was declared of it, as :func:`measured_metrics`."""
    return {name: describe(name, report) for name in measured_metrics(report)}


def utility_of(report: Report) -> str:
    """Return the metric that stands for utility: the test accuracy, or what decides on utility in another task."""
    deciding = (name for name in measured_metrics(report) if describe(name, report).decides == "utility")
    return next(deciding, "accuracy/test")


def headline_metrics(report: Report) -> list[str]:
    """Return the measured metrics of the first table."""
    return [name for name in measured_metrics(report) if describe(name, report).headline]


def what_varies(report: Report) -> str:
    """Say what an interval over the seeds is over."""
    split = report["data"].get("split")
    return f"{len(report['seeds'])} seeds" + (f" ({clean(str(split))})" if split else "")


def interval_of(value: Value) -> tuple[float, float] | None:
    """Return the ends of the 95% interval that may be shown; None where fewer than three seeds have the number."""
    interval = value["ci95"]
    few = sum(number is not None for number in value["values"]) < LEAST_SEEDS
    return None if few or interval is None else (interval[0], interval[1])


def no_interval(report: Report) -> str:
    """Say that there is no interval over the seeds; "" where there is."""
    told = {1: "one seed", 2: "two seeds"}.get(len(report["seeds"]))
    return f"no interval: {told}" if told else ""


def half_width(value: Value) -> float | None:
    """Return half the width of the 95% interval in the report's own scale, or None without an interval."""
    interval = interval_of(value)
    return None if interval is None else (interval[1] - interval[0]) / 2


def _significant(number: float, digits: int) -> int:
    """Return the decimals that show so many significant digits, between 0 and 4; 2 for a zero."""
    if number == 0:
        return 2
    return min(max(digits - 1 - math.floor(math.log10(abs(number))), 0), 4)


def decimals(metric: DeclaredMetric, value: Value) -> int:
    """Return the decimals for a mean and its interval.

    They are the metric's own; without those, as many as give the mean three significant digits, and one more
    where the half-width would read as a bare zero without it.
    """
    if metric.digits is not None:
        return metric.digits
    digits, half = _significant(value["mean"] * metric.scale, 3), half_width(value)
    one_more = half is not None and round(half * metric.scale, digits) == 0 < round(
        half * metric.scale, digits + 1
    )
    return digits + one_more


def format_number(metric: DeclaredMetric, number: float, digits: int | None = None) -> str:
    """Print one of the report's numbers in the metric's unit, the unit itself left out.

    Args:
        metric: The metric it belongs to.
        number: The number as the report holds it.
        digits: Decimals; None takes the metric's own, or three significant digits.

    Example:
        >>> format_number(METRICS["accuracy/test"], 0.98765)
        '98.77'
        >>> format_number(METRICS["time/total_s"], 12.345)
        '12.3'
    """
    scaled = number * metric.scale
    if digits is None:
        digits = _significant(scaled, 3) if metric.digits is None else metric.digits
    # Adding 0.0 turns a rounded -0.0 into 0.0, so that no "-0.00" is printed.
    return f"{round(scaled, digits) + 0.0:.{digits}f}"


def format_value(metric: DeclaredMetric, value: Value) -> str:
    """Print a mean with half the width of its 95% interval, or the mean alone where there is no interval.

    Example:
        >>> format_value(METRICS["accuracy/test"],
        ...              {"mean": 0.9, "std": 0.01, "ci95": [0.88, 0.92], "values": [0.89, 0.9, 0.91]})
        '90.00 ± 2.00'
    """
    digits, half = decimals(metric, value), half_width(value)
    mean = format_number(metric, value["mean"], digits)
    return mean if half is None else f"{mean} ± {format_number(metric, half, digits)}"


def with_unit(metric: DeclaredMetric, value: Value) -> str:
    """Print a value as :func:`format_value` does, with its unit."""
    return f"{format_value(metric, value)} {metric.unit}".rstrip()


def format_interval(metric: DeclaredMetric, value: Value) -> str:
    """Print the ends of the 95% interval, or "no interval".

    Example:
        >>> format_interval(METRICS["membership_inference/auc"],
        ...                 {"mean": 0.5, "std": None, "ci95": None, "values": [0.5]})
        'no interval'
    """
    interval = interval_of(value)
    if interval is None:
        return "no interval"
    low, high = (format_number(metric, end, decimals(metric, value)) for end in interval)
    return f"[{low}, {high}]"


def best_and_worst(report: Report, name: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the methods whose mean is best and those whose mean is worst, by the metric's direction.

    Controls take no part. Both sets are empty for a metric without direction, where fewer than two methods
    have it, where all are equal, and for "match the retrained model" without a retrained model.
    """
    direction = describe(name, report).direction
    means = {
        model: report["models"][model][name]["mean"]
        for model in method_names(report)
        if name in report["models"][model]
    }
    target = report["models"].get("retrain", {}).get(name)
    if direction is None or len(means) < 2 or (direction == MATCH and target is None):
        return frozenset(), frozenset()
    if direction == "higher":
        cost = {model: -mean for model, mean in means.items()}
    elif direction == "lower" or target is None:
        cost = means
    else:
        cost = {model: abs(mean - target["mean"]) for model, mean in means.items()}
    lowest, highest = min(cost.values()), max(cost.values())
    if lowest == highest:
        return frozenset(), frozenset()
    return (
        frozenset(model for model, value in cost.items() if value == lowest),
        frozenset(model for model, value in cost.items() if value == highest),
    )
