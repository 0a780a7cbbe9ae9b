"""What a model's outputs and targets mean: loss, divergence, correctness and confidence for each kind of task."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from lightning_unlearn.functional.divergence import js_from_logits, kl_from_logits, posteriors
from lightning_unlearn.functional.lira import logit_scaled_confidence
from lightning_unlearn.functional.unlearning import wrong_labels

__all__ = ["SINGLE_LABEL", "SingleLabel", "Task", "task_named", "tasks_of"]

_NEEDS = {
    "loss": "a loss of outputs and targets",
    "correct": "a share of right answers",
    "posteriors": "posteriors",
    "distribution": "one distribution over classes a sample",
    "wrong targets": "wrong targets to draw",
    "classes": "one class a sample",
}


@dataclass(frozen=True)
class Task:
    """What the outputs and targets of one kind of task mean; methods and evaluators speak through it.

    Outputs and targets are a batch's, samples first. What is of a sample has the shape ``(B,)`` and, where it is no
    confidence, carries a gradient. The class is immutable and hashable, as the adapter is that holds it.

    Attributes:
        name: What users call it by.
        offers: What of :data:`_NEEDS` has a meaning for it.
    """

    name: ClassVar[str]
    offers: ClassVar[frozenset[str]] = frozenset()

    @property
    def measured(self) -> str:
        """What :meth:`measure` returns: ``accuracy``, or ``loss`` where no answer is right or wrong."""
        return "accuracy" if "correct" in self.offers else "loss"

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how right each sample's answer is, or its loss where that has no meaning, ``(B,)``."""
        return (self.correct if "correct" in self.offers else self.loss)(outputs, targets)

    def require(self, who: str, needs: tuple[str, ...]) -> None:
        """Refuse what has no meaning for this task.

        Args:
            who: A method or evaluator, for the message.
            needs: What it needs.

        Raises:
            ValueError: If the task does not offer one of these.
        """
        if missing := [_NEEDS[need] for need in needs if need not in self.offers]:
            raise ValueError(
                f"{who} needs {' and '.join(missing)}, which the task {self.name!r} has not; leave {who} out for this "
                "model, or name the task that is meant with Adapter(task=...)"
            )

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether shapes, types and values may be of this task."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each sample's loss, ``(B,)``, in at least float32."""
        raise NotImplementedError

    @property
    def batch_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss that a source is usually trained by: a function of outputs and targets, a scalar mean."""
        return self._mean_loss

    def _mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs, targets).mean()

    def posteriors(self, outputs: Tensor) -> Tensor:
        """Return probabilities, the last dimension over classes, in at least float32."""
        raise NotImplementedError

    def kl(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return how far outputs ``q`` are from ``p``, ``(B,)``: KL(P ‖ Q) in nats, or what stands for it.

        Args:
            p: Outputs of the model that is followed.
            q: Outputs of the other.
            targets: The samples' targets, where these say which positions count.
        """
        raise NotImplementedError

    def js(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the Jensen-Shannon divergence in base 2, ``(B,)``, or what stands for it; arguments as of ``kl``."""
        raise NotImplementedError

    def similarity(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return 1 for equal answers and 0 for disjoint ones, ``(B,)``."""
        return 1.0 - self.js(p, q, targets)

    def distillation(
        self, teacher: Tensor, outputs: Tensor, temperature: float, targets: Tensor | None = None
    ) -> Tensor:
        r"""Return :math:`T^2 \, KL` of outputs softened by a temperature, a mean over samples."""
        return temperature**2 * self.kl(teacher / temperature, outputs / temperature, targets).mean()

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how right each sample's answer is, ``(B,)`` float32 in [0, 1]."""
        raise NotImplementedError

    def confidence(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return φ, how well a model knows each sample, ``(B,)`` float64 on the CPU; Gaussian over models, roughly."""
        raise NotImplementedError

    def wrong_targets(
        self, outputs: Tensor, targets: Tensor, index: Tensor, *, count: int, seed: int
    ) -> Tensor:
        """Return wrong targets, which belong to the sample and the seed.

        Args:
            outputs: What the model answers, which tells how many classes there are.
            targets: The true ones.
            index: Places of the samples in their set, ``(B,)`` in ``[0, count)``.
            count: How many samples the set has.
            seed: Seed of the draw.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class SingleLabel(Task):
    """One of C classes: logits ``(B, C)``, targets ``(B,)`` int64, cross-entropy."""

    name: ClassVar[str] = "classes"
    offers: ClassVar[frozenset[str]] = frozenset(_NEEDS)

    @property
    def batch_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The cross-entropy."""
        return F.cross_entropy

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether there are two columns or more, and one whole number a sample."""
        return outputs.ndim == 2 and outputs.shape[1] > 1 and targets.ndim == 1 and _whole(targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(_wide(outputs), targets, reduction="none")

    def posteriors(self, outputs: Tensor) -> Tensor:
        """Return the softmax, ``(B, C)``."""
        return posteriors(outputs)

    def kl(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return KL(P ‖ Q) of the posteriors."""
        return kl_from_logits(p, q, "none")

    def js(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the JS divergence of the posteriors, in [0, 1]."""
        return js_from_logits(p, q)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 where the largest logit is the target's."""
        return (outputs.argmax(dim=-1) == targets).float()

    def confidence(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the logit-scaled confidence of the true class."""
        return logit_scaled_confidence(outputs, targets)

    def wrong_targets(
        self, outputs: Tensor, targets: Tensor, index: Tensor, *, count: int, seed: int
    ) -> Tensor:
        """Return one of the other classes, uniformly."""
        return wrong_labels(targets, index, count=count, classes=outputs.shape[1], seed=seed)


SINGLE_LABEL = SingleLabel()
"""The task where none is known."""

_TASKS: tuple[Task, ...] = (SINGLE_LABEL,)


def task_named(task: "Task | str") -> Task:
    """Return the task of a name; a task is returned as it is.

    Raises:
        ValueError: If there is none of that name.

    Example:
        >>> task_named("classes")
        SingleLabel()
    """
    if isinstance(task, Task):
        return task
    known = {each.name: each for each in _TASKS}
    if task not in known:
        raise ValueError(f"task must be one of {', '.join(map(repr, known))}, got {task!r}")
    return known[task]


def tasks_of(outputs: Tensor, targets: Tensor) -> list[Task]:
    """Return the tasks that outputs and targets may be of, the likeliest first."""
    return [task for task in _TASKS if task.fits(outputs, targets)]


def _whole(targets: Tensor) -> bool:
    return not (targets.is_floating_point() or targets.is_complex())


def _wide(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype.itemsize < 4 else outputs  # half precision
