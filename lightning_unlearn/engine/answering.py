"""Answer whether a request was forgotten, from two models' answers on the forget set and on non-members, in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.selection import Classes
from lightning_unlearn.engine.predict import Outputs
from lightning_unlearn.functional.answer import Answer, Estimate, answer, auc_estimate, share_estimate
from lightning_unlearn.functional.tasks import SINGLE_LABEL, Task

Measured = Mapping[str, Outputs]
"""A model's answers by stream: ``forget`` and, where there are any, ``nonmember`` and ``test``."""

_MEASURES = {
    "membership": "AUC of an attacker who tells the samples from unseen ones by their loss",
    "labels": "share of the given labels that it still gives",
    "class": "share of the class that it still names",
}


MOST_LEFT = 0.1
"""Share of a class or of given labels, beyond the target, above which nobody would call them forgotten."""
GIVEN_LABELS = ("accuracy/forget", "accuracy/previous", "backdoor/success_rate_forget")
"""Metrics that are this share."""


def measure_of(data: UnlearningDataModule, task: Task = SINGLE_LABEL) -> str:
    """Return which measure fits a request: ``labels`` (wrong or poisoned ones), ``class`` or ``membership``."""
    if data.wrong_labels or data.backdoor is not None:
        return "labels"
    if "labels" not in task.offers:
        return "membership"
    known, split = data.known_targets(), data.split
    if known is None:
        return "class" if isinstance(data.rule, Classes) else "membership"
    return "membership" if np.isin(known[split.forget], known[split.retain]).any() else "class"


@dataclass(frozen=True)
class Answered:
    """An answer, and what its sentences say.

    Attributes:
        answer: The answer.
        measure: Which measure it rests on: ``membership``, ``labels`` or ``class``.
        shares: Accuracy on the forget set, before and after, then on unseen samples, where it fits; of a regression the
            loss.
        test: The same on the test set before and after, where there is one; of a class that was forgotten without it.
        seconds: What unlearning took, where that is known.
        compared: Whether the target is that of a retrained model.
        tried: How many recipes were tried, of which this is the best.
        task: What the answers mean.
        unlike: Why unseen samples tell nothing of these; empty where they do.
        steps: How many steps unlearning took, where that is known; 0 of a method that takes none.
    """

    answer: Answer
    measure: str
    shares: tuple[float, ...]
    test: tuple[float, ...] = ()
    seconds: float | None = None
    compared: bool = False
    tried: int = 1
    task: Task = SINGLE_LABEL
    unlike: str = ""
    steps: int | None = None

    @property
    def left(self) -> bool:
        """Whether its value says that too much is left, which more samples would not change."""
        found = self.answer
        side = math.copysign(1.0, found.before.value - found.target)
        beyond = side * (found.after.value - found.target) > found.within
        beyond &= not found.after.low <= found.target <= found.after.high
        return found.traced and found.outcome != "shown" and beyond and not self._overdone

    @property
    def _overdone(self) -> bool:
        """Whether unlearning made the samples less known than unseen ones."""
        found = self.answer
        less = self.measure == "membership" and found.after.high < found.target
        return less and found.after.value < found.before.value and not self.unlike

    @property
    def text(self) -> str:
        """The answer in words: what it rests on, what it cost, and that it was not compared, where it was not."""
        found = self.answer
        hint = "labels" in self.task.offers and not self._worse
        samples = f"{found.samples:,} sample{'' if found.samples == 1 else 's'}"
        parts = [f"Forgotten: {found.outcome.upper()}. {samples}: {self._evidence}."]
        if self._worse:
            parts.append(
                "The source is less sure of them than of unseen samples, as of wrong labels: if theirs are wrong, say "
                "so and ask again (wrong_labels)."
            )
        if found.outcome == "shown":
            parts.append(self._limit)
        elif self.unlike:
            parts.append(
                f"{self.unlike[0].upper()}{self.unlike[1:]}: a model that never saw these samples knows them less than "
                "those. Retraining alone tells how much less, or unseen samples of other values."
            )
        elif self.left:
            made = f" after {self.steps:,} step{'' if self.steps == 1 else 's'}" if self.steps else ""
            more = "" if self.steps == 0 else "more epochs, or "
            parts.append(f"Too much is left{made}: {more}a stronger method would tell.")
        elif found.outcome == "cannot tell" and not (self._worse and not found.traced):
            why = "Too few samples" if found.traced else "The source itself shows no trace that this can see"
            needed = found.needed and not self._overdone
            parts.append(f"{why}: about {found.needed:,} like them would tell." if needed else f"{why}.")
        if self._overdone:
            parts.append(
                f"They are now less known than {self._unseen}, which also tells who they were: "
                f"{'' if found.traced or self._worse else 'keep the source, or '}take a milder method (checkpoints, "
                f"fewer epochs){'; if their labels are wrong, say so (wrong_labels)' if hint else ''}."
            )
        others = " of the other classes" if self.measure == "class" else ""
        lost = []
        if self.test and self.task.measured == "loss":
            lost = [f"test loss {self.test[0]:.3g} → {self.test[1]:.3g}"]
        elif self.test:
            fall = max(0.0, 100 * (self.test[0] - self.test[1]))
            lost = [f"{fall:.1f} points of test {self._accuracy}{others}"]
        took = [] if self.seconds is None else [f"{self.seconds:.{0 if self.seconds >= 10 else 1}f} s"]
        parts += [f"Cost: {', '.join(lost + took)}."] if lost + took else []
        if self.tried > 1:
            chosen = "other unseen" if self.measure == "membership" else "the same"
            parts.append(f"The best of {self.tried} tried, chosen on {chosen} samples.")
        return " ".join([*parts, *([] if self.compared else ["Not compared with a retrained model."])])

    @property
    def _worse(self) -> bool:
        """Whether the source knows the samples less than unseen ones, as it does where their labels are wrong."""
        if self.measure != "membership" or self.compared or self.unlike or "labels" not in self.task.offers:
            return False
        # now it is right about fewer of them than of unseen ones
        right = len(self.shares) == 3 and self.shares[0] < self.shares[2] - MOST_LEFT
        return right or self.answer.before.high < self.answer.target

    @property
    def _unseen(self) -> str:
        return "the retrained model" if self.compared else "unseen samples"

    @property
    def _accuracy(self) -> str:
        return "accuracy (all labels right)" if self.task.name == "multilabel" else "accuracy"

    @property
    def _evidence(self) -> str:
        """What was measured before, after, and of the target."""
        found = self.answer
        if self.task.measured == "loss":
            shares, named = [f"{loss:.3g}" for loss in self.shares], "loss {} → {} (unseen samples {}), "
        else:
            shares = [f"{100 * share:.0f}" for share in self.shares]
            named = self._accuracy + " {} → {}% (unseen samples {}%), "
        if self.measure == "membership":
            right = named.format(*shares) if shares else ""
            areas = f"{_two(found.before.value)} → {_two(found.after.value)}"
            ends = f"95%: {_two(found.after.low)}-{_two(found.after.high)}"
            aim = f", {self._unseen} {_two(found.target)}" if self.compared else ""
            return f"{right}an attacker tells them from unseen ones with AUC {areas} ({ends}{aim})"
        what = "the given labels" if self.measure == "labels" else "the class"
        ends = f"95%: {100 * found.after.low:.0f}-{100 * found.after.high:.0f}%"
        aim = "a model that never saw it" if self.measure == "class" and not self.compared else self._unseen
        return f"{what} still answered {shares[0]} → {shares[1]}% ({ends}; {aim} {100 * found.target:.0f}%)"

    @property
    def _limit(self) -> str:
        """What SHOWN means: how much may be left."""
        found = self.answer
        if self.measure == "membership":
            ends = f"{_two(found.target - found.within)}-{_two(found.target + found.within)}"
            return f"That is within half of the gap: {ends}."
        end = 100 * (found.target + math.copysign(found.within, found.before.value - found.target))
        return f"That is within half of the gap and {100 * MOST_LEFT:.0f} points: up to {end:.0f}%."

    def record(self) -> dict[str, Any]:
        """Return what a ledger keeps."""
        found = self.answer
        return {
            "outcome": found.outcome,
            "measure": _MEASURES[self.measure],
            "text": self.text,
            "before": found.before.value,
            "after": found.after.value,
            "target": found.target,
            "interval_before": [found.before.low, found.before.high],
            "interval_after": [found.after.low, found.after.high],
            "samples": found.samples,
            "tried": self.tried,
        }


def answered(
    before: Measured,
    after: Measured,
    measure: str,
    *,
    retrained: Measured | None = None,
    chosen: Tensor | None = None,
    seconds: float | None = None,
    tried: int = 1,
    unlike: str = "",
    steps: int | None = None,
) -> Answered | None:
    """Answer whether what is in the stream ``forget`` was forgotten.

    - ``membership``: the area under the curve of an attacker who goes by the loss; without a trace 0.5.
    - ``labels``: the share of D_f answered with the given label; without a trace, the share of those labels that the
      source gives to unseen samples of other classes.
    - ``class``: the share of D_f that is answered with its class; without a trace 0, as of a model without the class.

    Args:
        before: The source's answers.
        after: The unlearned model's.
        measure: What :func:`measure_of` returned.
        retrained: Those of a model that was trained without the samples, whose value is then the target.
        chosen: Which non-members to use, ``(M,)`` bool; ``None`` for all.
        seconds: What unlearning took.
        tried: How many recipes were tried.
        unlike: Why non-members tell nothing of the forget set: of ``membership`` a retrained model then tells alone.
        steps: How many steps unlearning took.

    Returns:
        The answer; ``None`` where not all that it takes was measured, or the measure has no meaning for the task.
    """
    needed = {"forget"} if measure == "class" else {"forget", "nonmember"}
    if any(not needed <= model.keys() for model in (before, after, retrained) if model is not None):
        return None
    task = before["forget"].task
    if measure != "membership" and "labels" not in task.offers:
        return None  # a share of labels has no meaning

    def estimate(model: Measured) -> Estimate:
        if measure != "membership":
            forget = model["forget"]
            return share_estimate(forget.correct > 0.5)
        others = model["nonmember"] if chosen is None else model["nonmember"].subset(chosen)
        return auc_estimate(-model["forget"].loss, -others.loss)

    if retrained is not None:
        target = estimate(retrained).value
    elif measure == "membership":
        target = 0.5
    else:
        target = 0.0 if measure == "class" else _by_mistake(before["forget"].targets, before["nonmember"])
    found = answer(
        estimate(before),
        estimate(after),
        target,
        samples=len(before["forget"].targets),
        compared=retrained is not None,
        below=measure != "membership",
        most=math.inf if measure == "membership" else MOST_LEFT,
    )
    if unlike := unlike if measure == "membership" and retrained is None else "":
        found = replace(found, outcome="cannot tell", needed=None)
    seen = [before["forget"], after["forget"], *([after["nonmember"]] if "nonmember" in after else [])]
    tests = [m["test"] for m in (before, after) if "test" in m]
    if measure == "class":
        tests = [m.subset(~torch.isin(m.targets, before["forget"].targets)) for m in tests]
    return Answered(
        found,
        measure,
        _measured(*seen),
        test if len(test := _measured(*tests)) == 2 else (),
        seconds,
        retrained is not None,
        tried,
        task,
        unlike,
        steps,
    )


def _measured(*models: Outputs) -> tuple[float, ...]:
    """Return accuracies, or the losses of a regression, of those that have samples."""
    return tuple(each.measured for each in models if len(each.targets))


def _by_mistake(labels: Tensor, others: Outputs) -> float:
    """Return how often unseen samples of other classes are answered with labels like these."""
    true, logits = others.targets, others.logits
    if others.task.name == "binary":
        labels, true, logits = (each.flatten() for each in (labels, true, logits))
        logits = torch.stack((torch.zeros_like(logits), logits), dim=1)
    given = torch.bincount(labels.long(), minlength=logits.shape[1])
    answers = logits.argmax(dim=-1)
    rates = [
        float((answers[true != label] == label).double().mean()) if (true != label).any() else 0.0
        for label in range(len(given))
    ]
    return float((torch.tensor(rates, dtype=torch.float64) * given).sum() / given.sum())


def _two(share: float) -> str:
    """Return two decimals without the zero before the point.

    Example:
        >>> _two(0.5), _two(1.0)
        ('.50', '1.00')
    """
    return f"{share:.2f}".removeprefix("0")
