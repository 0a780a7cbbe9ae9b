"""What a model's outputs and targets mean: loss, divergence, correctness and confidence for each kind of task."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_unlearn.functional.divergence import js_from_logits, kl_from_logits, posteriors
from lightning_unlearn.functional.gan import sort_posteriors
from lightning_unlearn.functional.lira import clamped, logit_scaled_confidence
from lightning_unlearn.functional.unlearning import wrong_labels

__all__ = [
    "SINGLE_LABEL",
    "TASKS",
    "AbsoluteRegression",
    "Binary",
    "Embedding",
    "Masks",
    "MultiLabel",
    "NextToken",
    "Positions",
    "Regression",
    "SingleLabel",
    "SoftLabels",
    "Task",
    "TokenScores",
    "Tokens",
    "min_k",
    "task_named",
    "tasks_of",
]

_SLACK = 1e-3  # how far from 1 distributions may sum
_NEEDS = {
    "loss": "a loss (the source's own with step='source', or one that is given as loss=...)",
    "losses": "a loss of each sample",
    "correct": "a share of right answers",
    "posteriors": "posteriors",
    "distribution": "one distribution over classes a sample",
    "wrong targets": "wrong targets to draw",
    "classes": "one class a sample",
    "labels": "one label a sample",
    "tokens": "a probability of each token",
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
    pads: ClassVar[bool] = False  # whether batches may differ in their second dimension

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

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return what of outputs and targets is kept to be measured, as :attr:`of_kept` understands it."""
        return outputs, targets

    @property
    def of_kept(self) -> "Task":
        """The task of what is kept."""
        return self

    @property
    def judged_as(self) -> "Task":
        """The task of what a model is judged by on whole streams."""
        return self.of_kept

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

    def features(self, outputs: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return what an attack learns from: sorted posteriors, or what of a sample stands for them, ``(B, F)``.

        Args:
            outputs: A model's.
            targets: The samples' targets, where these say which positions count.
        """
        return sort_posteriors(self.posteriors(outputs))

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

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the class that each sample is given, ``(B,)``, where it is given one."""
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
    offers: ClassVar[frozenset[str]] = frozenset(_NEEDS) - {"tokens"}

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
        return (self.answers(outputs) == targets).float()

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the class of the largest logit."""
        return outputs.argmax(dim=-1)

    def confidence(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the logit-scaled confidence of the true class."""
        return logit_scaled_confidence(outputs, targets)

    def wrong_targets(
        self, outputs: Tensor, targets: Tensor, index: Tensor, *, count: int, seed: int
    ) -> Tensor:
        """Return one of the other classes, uniformly."""
        return wrong_labels(targets, index, count=count, classes=outputs.shape[1], seed=seed)


@dataclass(frozen=True)
class SoftLabels(SingleLabel):
    """A distribution over C classes: logits ``(B, C)``, targets ``(B, C)`` that sum to 1 (one-hot, smoothed, mixed).

    Right is the likeliest class. Samples that are not mixed may have their class, ``(B,)``.
    """

    name: ClassVar[str] = "soft"
    offers: ClassVar[frozenset[str]] = SingleLabel.offers - {"classes", "labels"}

    @property
    def batch_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The cross-entropy."""
        return self._mean_loss

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether the rows of targets are distributions over the columns of outputs."""
        alike = outputs.ndim == 2 and outputs.shape[1] > 1 and targets.shape == outputs.shape
        sums = targets.sum(dim=-1).float()
        return (
            alike and bool((targets >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=_SLACK)
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy."""
        outputs = _wide(outputs)
        return super().loss(outputs, targets if targets.ndim == 1 else targets.to(outputs.dtype))

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 where the largest logit is at the likeliest class."""
        return super().correct(outputs, self._hard(targets))

    def confidence(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the logit-scaled confidence of the likeliest class."""
        return super().confidence(outputs, self._hard(targets))

    def wrong_targets(
        self, outputs: Tensor, targets: Tensor, index: Tensor, *, count: int, seed: int
    ) -> Tensor:
        """Return the distributions with all classes moved on by as much."""
        if targets.ndim == 1:
            return super().wrong_targets(outputs, targets, index, count=count, seed=seed)
        classes = outputs.shape[1]
        zeros = torch.zeros_like(index, device=targets.device)
        moves = wrong_labels(zeros, index, count=count, classes=classes, seed=seed)
        places = (torch.arange(classes, device=targets.device) - moves[:, None]) % classes
        return targets.gather(1, places)

    @staticmethod
    def _hard(targets: Tensor) -> Tensor:
        return targets if targets.ndim == 1 else targets.argmax(dim=-1)


@dataclass(frozen=True)
class Binary(Task):
    """One logit a sample, ``(B,)`` or ``(B, 1)``, targets 0 and 1 of either shape, binary cross-entropy."""

    name: ClassVar[str] = "binary"
    offers: ClassVar[frozenset[str]] = frozenset(_NEEDS) - {"classes", "tokens"}

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether there is one number a sample, and the targets are 0 and 1."""
        return outputs.numel() == len(outputs) and _decided(outputs, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the binary cross-entropy, a mean over what a sample has of labels."""
        flat = _flat(_wide(outputs))
        return F.binary_cross_entropy_with_logits(flat, _flat(targets).to(flat), reduction="none").mean(dim=1)

    def posteriors(self, outputs: Tensor) -> Tensor:
        """Return the probabilities of 0 and 1, ``(B, 2)``."""
        return posteriors(_pairs(outputs)).squeeze(1)

    def kl(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return KL(P ‖ Q) of every label, summed."""
        return self._of_sample(kl_from_logits(_pairs(p), _pairs(q), "none"))

    def js(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the JS divergence of every label, summed."""
        return self._of_sample(js_from_logits(_pairs(p), _pairs(q)))

    def similarity(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return 1 − JS, a mean over labels."""
        return 1.0 - js_from_logits(_pairs(p), _pairs(q)).mean(dim=1)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 where all labels are right."""
        return self.by_label(outputs, targets).amin(dim=1)

    def by_label(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 for each label that is right, ``(B, L)`` float32."""
        return ((_flat(outputs) > 0) == (_flat(targets) > 0)).float()

    def confidence(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the logit-scaled confidence of the true value of a label, a mean over labels."""
        signed = _flat(outputs) * (2 * _flat(targets).to(outputs) - 1)
        return clamped(signed.detach().cpu().double()).mean(dim=1)

    def wrong_targets(
        self, outputs: Tensor, targets: Tensor, index: Tensor, *, count: int, seed: int
    ) -> Tensor:
        """Return the other value."""
        return _other(targets)

    def _of_sample(self, by_label: Tensor) -> Tensor:
        return by_label.sum(dim=1)


@dataclass(frozen=True)
class MultiLabel(Binary):
    """L labels that each are there or not: logits ``(B, L)``, targets 0 and 1 ``(B, L)``, binary cross-entropy.

    An answer is right if all labels are.
    """

    name: ClassVar[str] = "multilabel"
    offers: ClassVar[frozenset[str]] = Binary.offers - {"distribution", "labels"}

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether there are several columns of outputs, and as many of 0 and 1."""
        return outputs.ndim == 2 and outputs.shape[1] > 1 and _decided(outputs, targets)

    def posteriors(self, outputs: Tensor) -> Tensor:
        """Return the probabilities of 0 and 1 of every label, ``(B, L, 2)``."""
        return posteriors(_pairs(outputs))

    def features(self, outputs: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return how sure every label is, the surest first, ``(B, L)``."""
        return self.posteriors(outputs).amax(dim=-1).sort(dim=1, descending=True).values

    def wrong_targets(
        self, outputs: Tensor, targets: Tensor, index: Tensor, *, count: int, seed: int
    ) -> Tensor:
        """Return other labels: each changed by the throw of a coin, and all where none was."""
        changed = _coins(count, targets.shape[1], seed).to(targets.device)[index.to(targets.device)]
        return torch.where(changed, _other(targets), targets)


@dataclass(frozen=True)
class Masks(MultiLabel):
    """One logit a position, ``(B, 1, ...)`` or as the targets, which are 0 and 1, ``(B, ...)``: a mask of a sample."""

    name: ClassVar[str] = "masks"

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether there is a number for each position of the targets, which are 0 and 1."""
        return outputs.ndim > 2 and _decided(outputs, targets)

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and marks; of large masks some, ``(B, 1, positions)`` and ``(B, positions)``."""
        return _some(outputs, targets, _flat(targets))

    def features(self, outputs: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return how sure the positions are, on average, ``(B, 2)``."""
        return self.posteriors(outputs).sort(dim=-1, descending=True).values.mean(dim=1)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of positions that are right."""
        return self.by_label(outputs, targets).mean(dim=1)

    def wrong_targets(
        self, outputs: Tensor, targets: Tensor, index: Tensor, *, count: int, seed: int
    ) -> Tensor:
        """Return the complement."""
        return _other(targets)

    def _of_sample(self, by_label: Tensor) -> Tensor:
        return by_label.mean(dim=1)


@dataclass(frozen=True)
class Positions(Task):
    """One of C classes at each position: logits ``(B, C, ...)``, targets ``(B, ...)`` whole numbers.

    Losses, divergences and accuracies of a sample are means over its positions, without those that are ignored.

    Attributes:
        ignore_index: The mark of positions that do not count.
    """

    name: ClassVar[str] = "positions"
    offers: ClassVar[frozenset[str]] = MultiLabel.offers
    ignore_index: int = -100

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether there is a class for each position, or what is ignored."""
        if not _whole(targets) or outputs.ndim < 3:
            return False
        rows = self._rows(outputs)
        counted = targets[targets != self.ignore_index]
        return (
            self._shape(outputs) == _without_channel(targets).shape
            and rows.shape[-1] > 1
            and (not counted.numel() or (int(counted.min()) >= 0 and int(counted.max()) < rows.shape[-1]))
        )

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and marks; of large maps some, ``(B, C, positions)`` and ``(B, positions)``."""
        marks = self._marks(targets)
        return _some(outputs, targets, marks, marks != self.ignore_index)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, a mean over positions."""
        return self._mean(self._losses(outputs, targets), targets)

    def posteriors(self, outputs: Tensor) -> Tensor:
        """Return the softmax at every position, ``(B, positions, C)``."""
        return posteriors(self._rows(outputs))

    def features(self, outputs: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the sorted posteriors, a mean over positions, ``(B, C)``."""
        return self._mean(self.posteriors(outputs).sort(dim=-1, descending=True).values, targets)

    def kl(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return KL(P ‖ Q), a mean over positions."""
        return self._mean(kl_from_logits(self._rows(p), self._rows(q), "none"), targets)

    def js(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the JS divergence, a mean over positions."""
        return self._mean(js_from_logits(self._rows(p), self._rows(q)), targets)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of positions that are right."""
        return self._mean((self._rows(outputs).argmax(dim=-1) == self._marks(targets)).float(), targets)

    def confidence(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the logit-scaled confidence of the true class, a mean over positions."""
        targets = targets.cpu()
        flat = self._marks(targets)
        known = flat.masked_fill(flat == self.ignore_index, 0)
        rows = self._rows(outputs.detach().cpu())
        found = logit_scaled_confidence(rows.flatten(0, 1), known.flatten()).view_as(flat)
        return self._mean(found, targets)

    def wrong_targets(
        self, outputs: Tensor, targets: Tensor, index: Tensor, *, count: int, seed: int
    ) -> Tensor:
        """Return the classes of a sample moved on by as much at all its positions."""
        classes, zeros = self._rows(outputs).shape[-1], torch.zeros_like(index, device=targets.device)
        moves = wrong_labels(zeros, index, count=count, classes=classes, seed=seed)
        moved = (targets + moves.view(-1, *[1] * (targets.ndim - 1))) % classes
        if 0 <= self.ignore_index < classes:  # no class to answer: the next but the true one is taken
            first, second = ((self.ignore_index + step) % classes for step in (1, 2))
            moved = torch.where(
                moved == self.ignore_index, torch.where(targets == first, second, first), moved
            )
        return torch.where(targets == self.ignore_index, targets, moved)

    def _mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        counted = self._marks(targets) != self.ignore_index
        return self._losses(outputs, targets).sum() / counted.sum().clamp(min=1)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy at each position, 0 where it is ignored, ``(B, positions)``."""
        rows = self._rows(_wide(outputs)).transpose(1, 2)
        marks = self._marks(targets)
        return F.cross_entropy(rows, marks, reduction="none", ignore_index=self.ignore_index)

    def _mean(self, values: Tensor, targets: Tensor | None) -> Tensor:
        """Return means over the positions ``(B, positions)`` or ``(B, positions, F)`` that count."""
        if targets is None:
            return values.mean(dim=1)
        counted = (self._marks(targets) != self.ignore_index).to(values)
        if values.ndim > 2:
            counted = counted[..., None]
        return (values * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)

    def _rows(self, outputs: Tensor) -> Tensor:
        """Return the logits of each position, ``(B, positions, C)``."""
        return outputs.flatten(2).transpose(1, 2)

    def _marks(self, targets: Tensor) -> Tensor:
        """Return the targets of these positions, ``(B, positions)``."""
        return targets.flatten(1)

    def _shape(self, outputs: Tensor) -> torch.Size:
        """Return the shape that targets have."""
        return outputs.shape[:1] + outputs.shape[2:]


@dataclass(frozen=True)
class Tokens(Positions):
    """One of C classes at each position: logits ``(B, ..., C)``, targets ``(B, ...)`` whole numbers."""

    name: ClassVar[str] = "tokens"
    pads: ClassVar[bool] = True

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return them as they are: a text is no map."""
        return outputs, targets

    def _rows(self, outputs: Tensor) -> Tensor:
        return outputs.flatten(1, -2)

    def _shape(self, outputs: Tensor) -> torch.Size:
        return outputs.shape[:-1]


@dataclass(frozen=True)
class NextToken(Tokens):
    """The next token of a causal language model: logits ``(B, T, V)``, targets ``(B, T)``, the tokens themselves.

    The logits at a position are of the token after it, as in Hugging Face models. What is kept of a model's answers are
    three numbers a token (:class:`TokenScores`), since all of them, V a token, would fill the memory.
    """

    name: ClassVar[str] = "next token"
    offers: ClassVar[frozenset[str]] = Tokens.offers | {"tokens"}

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return log probabilities of the true token, the likeliest other, and the rest, ``(B, T - 1, 3)``."""
        marks = self._marks(targets)
        true = marks.masked_fill(marks == self.ignore_index, 0)[..., None]
        logs = self._rows(_wide(outputs)).log_softmax(dim=-1)
        others = logs.scatter(-1, true, -torch.inf)
        best = others.max(dim=-1, keepdim=True)
        rest = others.scatter(-1, best.indices, -torch.inf).logsumexp(dim=-1, keepdim=True)
        kept = torch.cat([logs.gather(-1, true), best.values, rest], dim=-1).clamp_min(_LEAST)
        ignored = marks == self.ignore_index
        return kept.masked_fill(ignored[..., None], _NONE), torch.where(ignored, _KEPT.ignore_index, 0)

    @property
    def of_kept(self) -> Task:
        """The task of these numbers."""
        return _KEPT

    def _rows(self, outputs: Tensor) -> Tensor:
        return outputs[:, :-1]

    def _marks(self, targets: Tensor) -> Tensor:
        return targets[:, 1:]


@dataclass(frozen=True)
class TokenScores(Tokens):
    """What is kept of a language model's answers; divergences are those of "the true token, or another"."""

    name: ClassVar[str] = "token scores"
    offers: ClassVar[frozenset[str]] = NextToken.offers

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of tokens that are the likeliest."""
        return self._mean((outputs[..., 0] >= outputs[..., 1]).float(), targets)

    def features(self, outputs: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the geometric mean of the tokens' probabilities, and that of the least likely fifth, ``(B, 2)``."""
        logs = self.logs(outputs)
        means = logs.nanmean(dim=1).nan_to_num(nan=0.0)  # of no token, as the loss of none
        return torch.stack([means, min_k(logs)], dim=1).exp()

    def logs(self, outputs: Tensor) -> Tensor:
        """Return the log probabilities of the tokens, ``(B, T)``, ``nan`` where none is."""
        return torch.where(outputs[..., 0] > 0, torch.nan, outputs[..., 0])

    def kl(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return KL(P ‖ Q), a mean over tokens."""
        return super().kl(_true_or_not(p), _true_or_not(q), targets)

    def js(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the JS divergence, a mean over tokens."""
        return super().js(_true_or_not(p), _true_or_not(q), targets)


@dataclass(frozen=True)
class Regression(Task):
    """One or more numbers: outputs and targets ``(B, ...)``, mean squared error.

    How far two models' answers are apart is the loss of one under the other. No answer is right or wrong.
    """

    name: ClassVar[str] = "regression"
    offers: ClassVar[frozenset[str]] = frozenset({"loss", "losses"})

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether there are as many numbers."""
        return _alike(outputs, targets)

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers; of large maps some, ``(B, 1, numbers)`` and ``(B, numbers)``."""
        return _some(outputs, targets, _flat(targets))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean error of a sample's numbers."""
        flat = _flat(_wide(outputs))
        return self._errors(flat, _flat(targets).to(flat)).mean(dim=1)

    def kl(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the loss of one answer under the other."""
        return self.loss(q, p)

    def js(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the loss of one answer under the other."""
        return self.loss(p, q)

    def confidence(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the negative logarithm of the residual, the root of a mean square over a sample's numbers."""
        residual = _flat(outputs).detach().cpu().double() - _flat(targets).detach().cpu().double()
        return clamped(-0.5 * residual.square().mean(dim=1).log())

    def explained(self, outputs: Tensor, targets: Tensor) -> float:
        """Return 1 minus the loss over that of the best constant answer, R² of a squared error; NaN of equal targets.

        Example:
            >>> Regression().explained(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 2.0]))
            0.5
        """
        flat = _flat(targets).double()
        floor = self.loss(self._middle(flat).expand_as(flat), targets).mean()
        return float(1 - self.loss(outputs.double(), targets).mean() / floor) if floor else math.nan

    def _errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square()

    def _middle(self, targets: Tensor) -> Tensor:
        return targets.mean(dim=0)


@dataclass(frozen=True)
class AbsoluteRegression(Regression):
    """The same, with the mean absolute error."""

    name: ClassVar[str] = "l1"

    def _errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs()

    def _middle(self, targets: Tensor) -> Tensor:
        return targets.median(dim=0).values


@dataclass(frozen=True)
class Embedding(Task):
    """Vectors whose distances are meant: outputs ``(B, D)``; targets, whatever the source's own loss makes of them.

    It has no loss but the source's own (``step="source"``). Two models' answers are compared by the distances between
    a batch's samples, which no turn of the space changes. Where targets are classes, a model is judged by the distances
    of samples from the means of the retained ones (:meth:`nearness`). It is never guessed, since it looks like logits.
    """

    name: ClassVar[str] = "embedding"

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether there is a vector for each sample."""
        return outputs.ndim == 2 and len(targets) == len(outputs)

    def kl(self, p: Tensor, q: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the mean squared difference of a sample's distances from the batch's others."""
        # squared distances: at 0, where a sample meets itself, the root has no slope
        ours, theirs = ((x[:, None] - x).square().sum(dim=-1) for x in (_wide(p), _wide(q)))
        return (ours - theirs).square().sum(dim=1) / max(1, len(p) - 1)

    js = kl

    @property
    def judged_as(self) -> Task:
        """Single labels, of what :meth:`nearness` gives."""
        return SINGLE_LABEL

    @staticmethod
    def nearness(
        outputs: Tensor, targets: Tensor, known: Tensor, classes: Tensor, *, among: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return logits of the nearest class mean, as a Gaussian of one width around each has, and targets as columns.

        Width is the mean squared distance of known samples from the mean of the others of their class, so the unit of
        the space does not count (Snell et al., "Prototypical Networks for Few-shot Learning", 2017).

        Args:
            outputs: Vectors, ``(N, D)``.
            targets: Their classes, ``(N,)`` whole numbers.
            known: Vectors that make the means, ``(M, D)``.
            classes: Their classes.
            among: Whether the samples are the known ones, which then do not count in their own class's mean.

        Raises:
            ValueError: If targets are no classes, or a class has no known sample.
        """
        if any(_fractional(each) for each in (targets, classes)):
            raise ValueError(
                "embeddings are judged by the distances from class means, and their targets are no classes, one whole "
                "number a sample; leave this evaluator out, or give an Adapter whose split() returns the classes"
            )
        names, of_known = torch.unique(classes, return_inverse=True)
        column = torch.searchsorted(names, targets).clamp(max=len(names) - 1)
        if (absent := targets[names[column] != targets]).numel():
            raise ValueError(
                "embeddings are judged by the distances from the means of retained classes, and of the class "
                f"{int(absent[0])} nothing is retained; leave this evaluator out for such data"
            )
        wide, counts = known.double(), of_known.bincount()
        means = wide.new_zeros(len(names), wide.shape[1]).index_add_(0, of_known, wide) / counts[:, None]
        apart = (counts / (counts - 1).clamp(min=1)).square()  # from the mean of the others, over that of all
        width = ((wide - means[of_known]).square().sum(dim=1) * apart[of_known]).mean()
        distances = torch.cdist(outputs.double(), means).square()
        if among:
            own = distances.gather(1, column[:, None]) * apart[column, None]
            alone = (counts[column] == 1)[:, None]  # nothing says where its class lies
            distances = distances.scatter(
                1, column[:, None], own.where(~alone, distances.amax(1, keepdim=True))
            )
        return (-distances / (2 * width).clamp_min(_TINY)).float(), column


_KEPT = TokenScores()  # whose targets are 0, which may be what the task itself ignores
SINGLE_LABEL = SingleLabel()
"""The task where none is known."""

_TINY = 1e-12
_LEAST = -1e4  # logarithm of what is no probability any more
MOST_POSITIONS = 4096  # that are kept of a map to be measured, or those of many would fill the memory
_NONE = 1.0  # stands for the logarithm of no probability, where a token is ignored
_IGNORED = (-100, 255, 0)  # usual marks of positions that do not count
_GUESSED: tuple[Task, ...] = (
    SINGLE_LABEL,
    SoftLabels(),
    Binary(),
    MultiLabel(),
    Masks(),
    *(kind(mark) for kind in (Positions, Tokens) for mark in _IGNORED),
    NextToken(),
    Regression(),
    AbsoluteRegression(),
)
TASKS: tuple[Task, ...] = (*_GUESSED, Embedding())
"""All there are; embeddings look like logits, and are never guessed."""


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
    known = {each.name: each for each in reversed(TASKS)}
    if task not in known:
        raise ValueError(f"task must be one of {', '.join(map(repr, sorted(known)))}, got {task!r}")
    return known[task]


def tasks_of(outputs: Tensor, targets: Tensor) -> list[Task]:
    """Return the tasks that outputs and targets may be of, the likeliest first."""
    return [task for task in _GUESSED if task.fits(outputs, targets)]


def _flat(values: Tensor) -> Tensor:
    """Return a row a sample, ``(B, numbers)``."""
    return values.flatten(1) if values.ndim > 1 else values[:, None]


def _pairs(outputs: Tensor) -> Tensor:
    """Return logits of two classes for each logit of a sample, ``(B, L, 2)``."""
    flat = _flat(outputs)
    return torch.stack([torch.zeros_like(flat), flat], dim=-1)


def min_k(logs: Tensor, share: float = 0.2) -> Tensor:
    """Return the mean log probability of a share of each sequence's tokens, the least likely, ``(B,)``: min-k%.

    Source: Shi et al., "Detecting Pretraining Data from Large Language Models", 2024, eq. 1.

    Args:
        logs: Log probabilities of the tokens, ``(B, T)``; ``nan`` where there is none.
        share: The share k in (0, 1]; at least one token is taken.

    Example:
        >>> min_k(torch.tensor([[-1.0, -5.0, -3.0, torch.nan]]), 0.67)
        tensor([-4.])
    """
    sizes = (~logs.isnan()).sum(dim=1, keepdim=True)
    taken = (sizes * share).round().clamp(min=1)
    lowest = logs.nan_to_num(nan=0.0).sort(dim=1).values  # none comes last, and of none at all it is 0
    counted = torch.arange(logs.shape[1], device=logs.device) < taken
    return torch.where(counted, lowest, 0.0).sum(dim=1) / taken.squeeze(1)


def _true_or_not(scores: Tensor) -> Tensor:
    return torch.stack([scores[..., 0], scores[..., 1:].logsumexp(dim=-1)], dim=-1)


def _some(
    outputs: Tensor, targets: Tensor, marks: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what is measured of maps; of large ones some positions, drawn alike each time, that count if any do."""
    if marks.shape[1] <= MOST_POSITIONS:
        return outputs, targets
    drawn = _order(marks.shape[1]).to(marks.device)
    counted = torch.ones_like(marks, dtype=torch.bool) if counted is None else counted
    places = drawn[(~counted[:, drawn]).byte().argsort(dim=1, stable=True)[:, :MOST_POSITIONS]]
    logits = outputs.reshape(len(marks), -1, marks.shape[1])
    return logits.gather(2, places[:, None].expand(-1, logits.shape[1], -1)), marks.gather(1, places)


@lru_cache(maxsize=8)
def _order(size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))


def _without_channel(targets: Tensor) -> Tensor:
    """Return targets ``(B, 1, H, W)`` as ``(B, H, W)``."""
    return targets.squeeze(1) if targets.ndim > 3 else targets


def _alike(outputs: Tensor, targets: Tensor) -> bool:
    """Return whether shapes are the same but for a dimension of 1."""
    return len(outputs) == len(targets) and _flat(outputs).shape == _flat(targets).shape


def _decided(outputs: Tensor, targets: Tensor) -> bool:
    """Return whether there is a 0 or 1 for each output."""
    return _alike(outputs, targets) and bool(((targets == 0) | (targets == 1)).all())


def _other(targets: Tensor) -> Tensor:
    """Return 1 for 0 and 0 for all else, of the same type."""
    return (targets == 0).to(targets.dtype)


@lru_cache(maxsize=2)  # one throw serves all steps of an epoch
def _coins(count: int, labels: int, seed: int) -> Tensor:
    thrown = torch.rand(count, labels, generator=torch.Generator().manual_seed(seed)) < 1 / 2
    thrown[~thrown.any(dim=1)] = True
    return thrown


def _fractional(targets: Tensor) -> bool:
    return targets.ndim != 1 or not _whole(targets)


def _whole(targets: Tensor) -> bool:
    return not (targets.is_floating_point() or targets.is_complex())


def _wide(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype.itemsize < 4 else outputs  # half precision
