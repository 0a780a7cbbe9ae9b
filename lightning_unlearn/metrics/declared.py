"""What a metric is called, how it is printed and read, and whether it decides: declared by whoever measures it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, get_args

from lightning_unlearn.core.checks import in_range

Direction = Literal["higher", "lower", "match the retrained model"]
"""What makes a value good: more, less, or being near the retrained model's."""
Question = Literal["forgetting", "utility"]
Goal = Literal["retrain", "retrain_2"]

MATCH: Direction = "match the retrained model"


@dataclass(frozen=True)
class DeclaredMetric:
    """How one metric is named, printed and read, in the table, on the page, in figures and on dashboards.

    An evaluator declares its own in :attr:`~lightning_unlearn.callbacks.Evaluator.metrics`.

    Args:
        label: The name in full, for headings and figures.
        short: The name for a narrow column; the label if left out.
        explanation: One line on what is measured.
        unit: "%" (the value is a fraction, printed times 100) or any other unit, such as "s"; "" for a plain number.
        direction: What makes a value good; None for a number that is only read beside others.
        digits: Decimals printed; None prints two of a percentage, and three significant digits of anything else.
        headline: Whether it is in the terminal's table and the page's first table; what decides always does.
        decides: The part of the verdict that it decides, "forgetting" or "utility"; None when it decides nothing.
        margin: The difference from the retrained model that does not matter, in the measured unit (0.01 is a point of a
            percentage). None is half the gap between source and retrained model, which a metric that decides on utility
            cannot take.
        goal: The model whose value a perfect method has: "retrain", or "retrain_2", the model retrained once more, for
            a distance to the retrained model, which has none to itself.
        null: The evaluator's metric that holds this one's value for a model which forgot nothing, where the source
            model's own says nothing, as in a distance from the source; it takes the source's place in the verdict.
        ideal: The value that a perfect method has on any data, such as 0.5 for an attack that can only guess; None
            where there is none. Figures mark it by a line.
        absent: What is printed in place of a number that the evaluator left out of its scores, such as "never".

    Raises:
        ValueError: If an argument is none of those above.

    Example:
        >>> metric = DeclaredMetric("Confidence on D_f", explanation="Mean largest posterior.", unit="%")
        >>> metric.heading, metric.short, metric.scale
        ('Confidence on D_f [%]', 'Confidence on D_f', 100.0)
    """

    label: str
    short: str = ""
    explanation: str = ""
    unit: str = ""
    direction: Direction | None = None
    digits: int | None = None
    headline: bool = False
    decides: Question | None = None
    margin: float | None = None
    goal: Goal = "retrain"
    null: str = ""
    ideal: float | None = None
    absent: str = ""

    def __post_init__(self) -> None:
        for argument in ("label", "short", "explanation", "unit", "null", "absent"):
            if not isinstance(getattr(self, argument), str):
                raise ValueError(f"{argument} must be a text, got {getattr(self, argument)!r}")
        if not self.label:
            raise ValueError("label must not be empty; give the metric's name in full")
        in_range(f"digits of {self.label!r}", self.digits, "[0, 10]", whole=True, none=True)
        in_range(f"margin of {self.label!r}", self.margin, "(0, inf)", none=True)
        if self.decides == "utility" and (self.margin is None or self.direction != "higher"):
            raise ValueError(
                f"{self.label!r} decides on utility, so give its margin, the loss that does not matter, and "
                f"direction='higher'; got margin={self.margin!r}, direction={self.direction!r}"
            )
        digits = 2 if self.digits is None and self.unit == "%" else self.digits
        headline = self.headline or self.decides is not None
        for argument, value in (
            ("short", self.short or self.label),
            ("digits", digits),
            ("headline", headline),
        ):
            object.__setattr__(self, argument, value)
        for argument, kind in (("direction", Direction), ("decides", Question), ("goal", Goal)):
            value = getattr(self, argument)
            if value is not None and value not in get_args(kind):
                raise ValueError(
                    f"{argument} of {self.label!r} must be one of {get_args(kind)} or None, got {value!r}"
                )

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> "DeclaredMetric":
        """Take up a declaration that :func:`dataclasses.asdict` wrote; keys that are not known are left alone.

        Raises:
            ValueError: If it is none.
        """
        known = {field.name: entry[field.name] for field in fields(cls) if field.name in entry}
        return cls(**{"label": "", **known})

    @property
    def scale(self) -> float:
        """The factor from the measured number to the printed one."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def heading(self) -> str:
        """The full name with its unit, for an axis or a column."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label

    @property
    def short_heading(self) -> str:
        """The short name with its unit."""
        return f"{self.short} [{self.unit}]" if self.unit else self.short


near_share = partial(DeclaredMetric, unit="%", direction=MATCH)
"""Declares a share that is good where it is near the retrained model's."""
near_score = partial(DeclaredMetric, direction=MATCH, digits=3)
"""Declares a score that is good where it is near the retrained model's."""


def low_fpr_rates(
    prefix: str, label: str, short: str, explanation: str, rates: Iterable[str] = ("1", "0.1")
) -> dict[str, DeclaredMetric]:
    """Declare an attack's true positive rates at low false positive rates.

    Args:
        prefix: What their names begin with, as in ``<prefix>/tpr_at_1pct_fpr``.
        label: The attack's name.
        short: The same for a narrow column.
        explanation: What is measured; ``{rate}`` stands for the false positive rate in percent.
        rates: The false positive rates in percent.
    """
    return {
        f"{prefix}/tpr_at_{rate}pct_fpr": near_share(
            f"{label}: true positive rate at {rate} % false positives",
            f"{short} TPR @ {rate} % FPR",
            explanation.format(rate=rate),
        )
        for rate in rates
    }


MODELS_FOUND_OUT = (
    "Share of unlearned models, sample by sample, that the attack finds out when it may mistake {rate} % of the "
    "K retrained models for one. Guessing gives (k + 1) / (K + 1) where it may mistake k of K."
)
"""What :func:`low_fpr_rates` says of attacks on models."""

COST: dict[str, DeclaredMetric] = {
    "time/prepare_s": DeclaredMetric(
        "Time to prepare",
        "prepare",
        "Wall-clock time before the first step: reference model, sensitivities and the like.",
        unit="s",
    ),
    "time/unlearn_s": DeclaredMetric(
        "Time to unlearn",
        "unlearn",
        "Wall-clock time of the unlearning steps alone.",
        unit="s",
        direction="lower",
    ),
    "time/total_s": DeclaredMetric(
        "Total time",
        "total time",
        "Wall-clock time of everything that the method needed.",
        unit="s",
        direction="lower",
        headline=True,
    ),
    "time/cpu_s": DeclaredMetric(
        "CPU time",
        "CPU time",
        "Processor time of all that the method needed: where other work shares the machine it is steadier than time by "
        "the clock. It is of the process itself, without its loader workers and without the GPU.",
        unit="s",
        direction="lower",
    ),
    "acceleration": DeclaredMetric(
        "Acceleration",
        "acceleration",
        "The retrained model's total time over this method's total time, on the same machine.",
        unit="×",  # noqa: RUF001 - the multiplication sign is meant
        direction="higher",
        headline=True,
    ),
    "acceleration/cpu": DeclaredMetric(
        "Acceleration in CPU time",
        "acceleration, CPU",
        "The retrained model's CPU time over this method's.",
        unit="×",  # noqa: RUF001 - the multiplication sign is meant
        direction="higher",
    ),
    "epochs/needed": DeclaredMetric(
        "Epochs that retraining needed",
        "epochs needed",
        "The first epoch within one binomial standard error of the best test accuracy: a longer retraining makes every "
        "acceleration look better than it is.",
        digits=1,
    ),
    "epochs/trained": DeclaredMetric(
        "Epochs that retraining took", "epochs", "As its recipe asks for.", digits=0
    ),
    "memory/process_peak_mib": DeclaredMetric(
        "Peak memory of the process", "peak memory", "Most resident memory while training.", unit="MiB"
    ),
    "memory/gpu_peak_mib": DeclaredMetric(
        "Peak memory of the GPU", "peak GPU memory", "Most memory that PyTorch allocated there.", unit="MiB"
    ),
}
"""What methods and comparisons measure beside all evaluators: what forgetting costs."""
