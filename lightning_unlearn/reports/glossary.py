"""What each metric means and how it is printed, the source for table, figures and page; measures nothing."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from lightning_unlearn.reports.schema import Report, Value

__all__ = [
    "CONTROLS",
    "METRICS",
    "Direction",
    "Metric",
    "best_and_worst",
    "clean",
    "decimals",
    "describe",
    "format_interval",
    "format_number",
    "format_value",
    "half_width",
    "headline_metrics",
    "measured_metrics",
    "method_names",
    "ordered_models",
    "wrap_name",
]

Direction = Literal["higher", "lower", "match the retrained model"]
"""What makes a value good: more, less, or being near the retrained model's."""

CONTROLS: dict[str, str] = {
    "source": "control: nothing forgotten",
    "retrain": "control: everything forgotten",
}
"""The models that are no methods but the floor and the ceiling of every score, with what they stand for."""


@dataclass(frozen=True)
class Metric:
    """How one metric is named, printed and read.

    Attributes:
        label: The name in full, for headings and figures.
        short: The name for a narrow column.
        explanation: One line on what is measured.
        unit: "%" (the report holds a fraction, printed times 100), "s", "×", or "" for a plain number.
        direction: What makes a value good; None for a number that is only read beside others.
        digits: Decimals printed; None prints three significant digits.
        headline: Whether it stands in the terminal's table and in the first table of the page.
        question: The part of the verdict that it decides; None when it decides nothing.
    """

    label: str
    short: str
    explanation: str
    unit: Literal["%", "s", "×", ""] = ""  # noqa: RUF001 - the multiplication sign is meant
    direction: Direction | None = None
    digits: int | None = None
    headline: bool = False
    question: Literal["forgetting", "utility"] | None = None

    @property
    def scale(self) -> float:
        """The factor from the report's number to the printed one."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def heading(self) -> str:
        """The full name with its unit, for an axis or a column."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


_MATCH: Direction = "match the retrained model"


def _low_fpr(name: str, label: str) -> dict[str, Metric]:
    """Return the entries of an attack's true positive rates at low false positive rates."""
    return {
        f"{name}/tpr_at_{rate}pct_fpr": Metric(
            f"{label}: true positive rate at {rate} % false positives",
            f"{label} TPR @ {rate} % FPR",
            f"Share of unlearned models, sample by sample, that the attack finds out when it may mistake {rate} % of "
            f"the retrained models for one; {rate} % is guessing.",
            unit="%",
            direction=_MATCH,
            digits=2,
        )
        for rate in ("1", "0.1")
    }


METRICS: dict[str, Metric] = {
    "accuracy/test": Metric(
        "Accuracy on the test set",
        "test accuracy",
        "Share of the test set that the model classifies correctly: what forgetting may cost.",
        unit="%",
        direction="higher",
        digits=2,
        headline=True,
        question="utility",
    ),
    "accuracy/test_retained_classes": Metric(
        "Accuracy on the test samples of retained classes",
        "test accuracy, retained classes",
        "Share of the test samples of classes that are still trained on that the model classifies correctly.",
        unit="%",
        direction="higher",
        digits=2,
    ),
    "accuracy/test_forgotten_classes": Metric(
        "Accuracy on the test samples of forgotten classes",
        "test accuracy, forgotten classes",
        "Share of the test samples of classes forgotten whole that the model classifies correctly; the goal is the "
        "retrained model's value.",
        unit="%",
        direction=_MATCH,
        digits=2,
    ),
    "accuracy/retain": Metric(
        "Accuracy on the retain set D_r",
        "retain accuracy",
        "Share of the retained training samples that the model classifies correctly.",
        unit="%",
        direction="higher",
        digits=2,
        headline=True,
    ),
    "accuracy/forget": Metric(
        "Accuracy on the forget set D_f",
        "forget accuracy",
        "Share of the samples to be forgotten that the model classifies correctly. A model that never saw "
        "them still gets many right, so the goal is the retrained model's value and not 0.",
        unit="%",
        direction=_MATCH,
        digits=2,
        headline=True,
        question="forgetting",
    ),
    "forgetting_rate": Metric(
        "Forgetting rate",
        "forgetting rate",
        "How much of the source model's accuracy on D_f is gone, as a share of that accuracy. A model that "
        "never saw D_f loses little, so the goal is the retrained model's value.",
        unit="%",
        direction=_MATCH,
        digits=2,
    ),
    "memory_retention_rate": Metric(
        "Memory retention rate",
        "memory retention",
        "Accuracy on the retain set after unlearning over the source model's accuracy on D_f before; it may "
        "exceed 100 %.",
        unit="%",
        direction="higher",
        digits=2,
    ),
    "similarity": Metric(
        "Similarity to the retrained model",
        "similarity",
        "1 minus the Jensen-Shannon divergence (base 2) between the model's posteriors and the retrained "
        "model's: 1 means equal outputs.",
        direction="higher",
        digits=4,
        headline=True,
    ),
    "membership_inference/accuracy": Metric(
        "Membership inference: accuracy on D_f",
        "MIA accuracy",
        "Share of the forget set that a membership inference attack (MIA) takes for training data.",
        unit="%",
        direction=_MATCH,
        digits=2,
        headline=True,
        question="forgetting",
    ),
    "membership_inference/auc": Metric(
        "Membership inference: area under the ROC curve",
        "MIA AUC",
        "How well the attack ranks D_f above samples never trained on: 0.5 is guessing, 1 is certainty.",
        direction=_MATCH,
        digits=3,
        headline=True,
        question="forgetting",
    ),
    "membership_inference/fnr": Metric(
        "Membership inference: false negative rate",
        "MIA FNR",
        "Share of the forget set that the attack takes for samples never trained on.",
        unit="%",
        direction=_MATCH,
        digits=2,
    ),
    "membership_inference/fpr": Metric(
        "Membership inference: false positive rate",
        "MIA FPR",
        "Share of the samples never trained on that the attack takes for training data: the attack's own "
        "error, beside which its accuracy is read.",
        unit="%",
        digits=2,
    ),
    "membership_inference/balanced_accuracy": Metric(
        "Membership inference: balanced accuracy",
        "MIA balanced",
        "Mean of the attack's accuracies on D_f and on samples never trained on: 50 % is guessing.",
        unit="%",
        direction=_MATCH,
        digits=2,
    ),
    "membership_inference/tpr_at_1pct_fpr": Metric(
        "Membership inference: true positive rate at 1 % false positives",
        "MIA TPR @ 1 % FPR",
        "Share of D_f that the attack finds when it may err on 1 % of the samples never trained on; "
        "1 % is guessing.",
        unit="%",
        direction=_MATCH,
        digits=2,
    ),
    "population_attack/auc": Metric(
        "Population attack: area under the ROC curve",
        "population attack AUC",
        "How well a low loss alone tells D_f from samples never trained on: 0.5 is guessing, 1 is certainty, and "
        "below 0.5 D_f looks less known than they do.",
        direction=_MATCH,
        digits=3,
    ),
    **{
        f"population_attack/tpr_at_{rate}pct_fpr": Metric(
            f"Population attack: true positive rate at {rate} % false positives",
            f"population attack TPR @ {rate} % FPR",
            f"Share of D_f whose loss gives it away when the attack may err on {rate} % of the samples never trained "
            f"on; guessing gives {rate} %, and slightly more where those samples are few.",
            unit="%",
            direction=_MATCH,
            digits=2,
        )
        for rate in ("1", "0.1")
    },
    "backdoor/success_rate_forget": Metric(
        "Backdoor: success rate on D_f",
        "backdoor on D_f",
        "Share of the poisoned forget samples that still get the label of the trigger.",
        unit="%",
        direction=_MATCH,
        digits=2,
        headline=True,
        question="forgetting",
    ),
    "backdoor/success_rate_test": Metric(
        "Backdoor: success rate on the test set",
        "backdoor on test",
        "Share of the test samples with the trigger that get its label, samples of that label left out.",
        unit="%",
        direction=_MATCH,
        digits=2,
    ),
    "backdoor/recovered_accuracy": Metric(
        "Backdoor: recovered accuracy",
        "recovered accuracy",
        "Share of the poisoned forget samples that get their true label again.",
        unit="%",
        direction=_MATCH,
        digits=2,
    ),
    "backdoor/clean_accuracy": Metric(
        "Accuracy on the test set without the trigger",
        "clean accuracy",
        "Share of the test set as it is that the model classifies correctly.",
        unit="%",
        direction="higher",
        digits=2,
    ),
    "backdoor/combined": Metric(
        "Backdoor: combined score",
        "backdoor combined",
        "Half the clean accuracy plus half the share of triggered forget samples on which the backdoor fails: "
        "1 keeps everything and forgets the trigger.",
        direction="higher",
        digits=3,
    ),
    "relearn_time/steps": Metric(
        "Relearn time",
        "relearn steps",
        "Training steps on the forget set alone until its loss is the source model's again.",
        direction=_MATCH,
        digits=1,
    ),
    "relearn_time/reached": Metric(
        "Relearned within the steps",
        "relearned",
        "Whether those steps sufficed; where not, the relearn time is the number of steps tried.",
        unit="%",
    ),
    "relearn_time/fresh": Metric(
        "Relearn time of an untrained model",
        "relearn, fresh",
        "The same for a model that never learned anything.",
        digits=1,
    ),
    "unlearning_degree/degree": Metric(
        "Unlearning degree",
        "degree",
        "The published SPD-GAN score; models that forgot nothing score high too, so it is read beside its "
        "null control.",
        direction=_MATCH,
        digits=3,
        headline=True,
    ),
    "unlearning_degree/null": Metric(
        "Unlearning degree of the null control",
        "degree, null",
        "The same score between the source model and a model that changed and forgot nothing.",
        digits=3,
        headline=True,
    ),
    "unlearning_degree/calibrated": Metric(
        "Unlearning degree, calibrated",
        "degree - null",
        "The degree minus its null control: 0 means no more than any change to the model gives.",
        direction=_MATCH,
        digits=3,
        headline=True,
        question="forgetting",
    ),
    "unlearning_degree/constraint_met": Metric(
        "Unlearning degree: constraint met",
        "constraint met",
        "Whether the source model keeps its accuracy on the perturbed forget set, as the degree's definition "
        "demands: 1 where it does, 0 where not; the mean is the share of the seeds.",
        direction="higher",
        digits=2,
    ),
    "unlearning_degree/source_accuracy_perturbed": Metric(
        "Unlearning degree: source's accuracy on the perturbed D_f",
        "source, perturbed",
        "Share of the perturbed forget set that the source model still classifies correctly.",
        unit="%",
        digits=2,
    ),
    "unlearning_degree/source_accuracy_drop": Metric(
        "Unlearning degree: source's loss of accuracy by the perturbation",
        "source drop",
        "The source model's accuracy on D_f minus that on the perturbed D_f; the definition asks for about 0.",
        unit="%",
        digits=2,
    ),
    "unlearning_degree/perturbation_l2": Metric(
        "Unlearning degree: size of the perturbation, Euclidean norm",
        "perturbation L2",
        "Mean Euclidean norm of a sample's perturbation, in the units of the model's input: any two models can "
        "be told apart if it is large enough.",
    ),
    "unlearning_degree/perturbation_linf": Metric(
        "Unlearning degree: size of the perturbation, largest entry",
        "perturbation L∞",
        "The perturbation's largest absolute value, in the units of the model's input.",
    ),
    "forgetting_quality/epsilon_mean": Metric(
        "Forgetting quality: mean ε",
        "mean ε",
        "Mean over D_f of the privacy parameter ε that tells unlearned from retrained models. It depends on how "
        "many models were compared, and that of retrained models is not 0 either.",
        direction=_MATCH,
        digits=3,
    ),
    "forgetting_quality/score": Metric(
        "Forgetting quality: score",
        "quality score",
        "Forgetting quality F as the NeurIPS 2023 unlearning competition scores it, before the accuracy factors. A "
        "perfect unlearner is far from 1, and only scores of equally many models can be compared.",
        direction="higher",
        digits=4,
    ),
    "forgetting_quality/null": Metric(
        "Forgetting quality of other retrained models",
        "quality, null",
        "The score of a second set of retrained models: what a perfect unlearner gets with as many models.",
        digits=4,
    ),
    "forgetting_quality/relative": Metric(
        "Forgetting quality over its null",
        "quality / null",
        "The forgetting quality score over that of a second set of retrained models: 1 is what a perfect unlearner "
        "gets, whatever the number of models.",
        direction="higher",
        digits=3,
        headline=True,
        question="forgetting",
    ),
    "forgetting_quality/final": Metric(
        "Forgetting quality: final score",
        "quality, final",
        "The forgetting quality score times the ratios of retain and test accuracy to the retrained models'.",
        direction="higher",
        digits=4,
        headline=True,
    ),
    "u_lira/auc": Metric(
        "U-LiRA: area under the ROC curve",
        "U-LiRA AUC",
        "How well an attacker who can repeat the unlearning tells models that unlearned a sample of D_f from models "
        "that never saw it: 0.5 is guessing, 1 is certainty.",
        direction=_MATCH,
        digits=3,
        headline=True,
        question="forgetting",
    ),
    "u_lira/accuracy": Metric(
        "U-LiRA: accuracy",
        "U-LiRA accuracy",
        "Share of unlearned and retrained models, sample by sample, that the attacker tells right: 50 % is guessing.",
        unit="%",
        direction=_MATCH,
        digits=2,
    ),
    **_low_fpr("u_lira", "U-LiRA"),
    "u_lira/null": Metric(
        "U-LiRA on other retrained models: area under the ROC curve",
        "U-LiRA, null",
        "The same attack on a second set of retrained models: 0.5 but for chance.",
        digits=3,
    ),
    "lira/auc": Metric(
        "LiRA: area under the ROC curve",
        "LiRA AUC",
        "How well an attacker with ordinary reference models tells that D_f was trained on: 0.5 is guessing, 1 is "
        "certainty, and below 0.5 the samples look less known than ones never seen.",
        direction=_MATCH,
        digits=3,
    ),
    "lira/accuracy": Metric(
        "LiRA: accuracy",
        "LiRA accuracy",
        "Share of unlearned and retrained models, sample by sample, that the attacker tells right: 50 % is guessing.",
        unit="%",
        direction=_MATCH,
        digits=2,
    ),
    **_low_fpr("lira", "LiRA"),
    "rmia/auc": Metric(
        "RMIA: area under the ROC curve",
        "RMIA AUC",
        "How well the robust membership inference attack tells that D_f was trained on: 0.5 is guessing, 1 is "
        "certainty, and below 0.5 the samples look less known than ones never seen.",
        direction=_MATCH,
        digits=3,
    ),
    **_low_fpr("rmia", "RMIA"),
    "klom/mean": Metric(
        "KLOM: mean over D_f",
        "KLOM",
        "KL divergence of the unlearned models' margins from the retrained models', mean over D_f, in nats. It "
        "depends on how many models were compared, and that of retrained models is not 0 either.",
        direction=_MATCH,
        digits=3,
        headline=True,
        question="forgetting",
    ),
    "klom/p95": Metric(
        "KLOM: 95th percentile over D_f",
        "KLOM, p95",
        "The same for the worst-forgotten samples: 5 % of D_f are beyond it.",
        direction=_MATCH,
        digits=3,
    ),
    "klom/test": Metric(
        "KLOM: mean over the test set",
        "KLOM, test",
        "The same on the test set: what unlearning has changed that it should not have.",
        direction=_MATCH,
        digits=3,
    ),
    "klom/null": Metric(
        "KLOM of other retrained models",
        "KLOM, null",
        "KL divergence of a second set of retrained models' margins, mean over D_f: what a perfect unlearner gets.",
        digits=3,
    ),
    "time/prepare_s": Metric(
        "Time to prepare",
        "prepare",
        "Wall-clock time before the first step: reference model, sensitivities and the like.",
        unit="s",
    ),
    "time/unlearn_s": Metric(
        "Time to unlearn",
        "unlearn",
        "Wall-clock time of the unlearning steps alone.",
        unit="s",
        direction="lower",
    ),
    "time/total_s": Metric(
        "Total time",
        "total time",
        "Wall-clock time of everything that the method needed.",
        unit="s",
        direction="lower",
        headline=True,
    ),
    "acceleration": Metric(
        "Acceleration",
        "acceleration",
        "The retrained model's total time over this method's total time, on the same machine.",
        unit="×",  # noqa: RUF001 - as above
        direction="higher",
        headline=True,
    ),
}
"""Every metric of the contract, in the order of presentation; a user's own evaluator may add its own."""


def describe(name: str) -> Metric:
    """Return the entry of :data:`METRICS`, or a plain one made from the name for a metric not listed there.

    Example:
        >>> describe("accuracy/test").heading
        'Accuracy on the test set [%]'
        >>> describe("my_audit/mean_score").label
        'my audit: mean score'
    """
    if name in METRICS:
        return METRICS[name]
    label = clean(name).replace("/", ": ").replace("_", " ")
    return Metric(label, label, "A metric of an evaluator that this glossary does not list.")


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
    """Return the models in the order of presentation: the controls first, then the methods as reported."""
    models = report["models"]
    return [name for name in CONTROLS if name in models] + method_names(report)


def method_names(report: Report) -> list[str]:
    """Return the models that are methods, not controls, in the report's order."""
    return [name for name in report["models"] if name not in CONTROLS]


def measured_metrics(report: Report) -> list[str]:
    """Return each metric that at least one model has: those of the glossary in its order, then all others."""
    present = dict.fromkeys(name for values in report["models"].values() for name in values)
    return [name for name in METRICS if name in present] + [name for name in present if name not in METRICS]


def headline_metrics(report: Report) -> list[str]:
    """Return the measured metrics that stand in the first table."""
    return [name for name in measured_metrics(report) if describe(name).headline]


def half_width(value: Value) -> float | None:
    """Return half the width of the 95% interval in the report's own scale, or None without an interval."""
    interval = value["ci95"]
    return None if interval is None else (interval[1] - interval[0]) / 2


def _significant(number: float, digits: int) -> int:
    """Return the decimals that show so many significant digits, between 0 and 4; 2 for a zero."""
    if number == 0:
        return 2
    return min(max(digits - 1 - math.floor(math.log10(abs(number))), 0), 4)


def decimals(metric: Metric, value: Value) -> int:
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


def format_number(metric: Metric, number: float, digits: int | None = None) -> str:
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


def format_value(metric: Metric, value: Value) -> str:
    """Print a mean with half the width of its 95% interval, or the mean alone where there is no interval.

    Example:
        >>> format_value(METRICS["accuracy/test"],
        ...              {"mean": 0.9, "std": 0.01, "ci95": [0.88, 0.92], "values": [0.89, 0.9, 0.91]})
        '90.00 ± 2.00'
    """
    digits, half = decimals(metric, value), half_width(value)
    mean = format_number(metric, value["mean"], digits)
    return mean if half is None else f"{mean} ± {format_number(metric, half, digits)}"


def format_interval(metric: Metric, value: Value) -> str:
    """Print the ends of the 95% interval, or "no interval".

    Example:
        >>> format_interval(METRICS["membership_inference/auc"],
        ...                 {"mean": 0.5, "std": None, "ci95": None, "values": [0.5]})
        'no interval'
    """
    interval = value["ci95"]
    if interval is None:
        return "no interval"
    low, high = (format_number(metric, end, decimals(metric, value)) for end in interval)
    return f"[{low}, {high}]"


def best_and_worst(report: Report, name: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the methods whose mean is best and those whose mean is worst, by the metric's direction.

    Controls take no part. Both sets are empty for a metric without direction, where fewer than two methods
    have it, where all are equal, and for "match the retrained model" without a retrained model.
    """
    direction = describe(name).direction
    means = {
        model: report["models"][model][name]["mean"]
        for model in method_names(report)
        if name in report["models"][model]
    }
    target = report["models"].get("retrain", {}).get(name)
    if direction is None or len(means) < 2 or (direction == _MATCH and target is None):
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
