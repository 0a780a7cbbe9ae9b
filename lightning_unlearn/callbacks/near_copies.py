"""Near copies: does the model know what lies beside the forgotten samples?"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.nonmembers import AgainstNonmembers
from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data.loading import TensorLoader
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.ensembles import Outputs
from lightning_unlearn.functional import auc
from lightning_unlearn.metrics.declared import DeclaredMetric, near_score, near_share

_BATCH = 256


class NearCopies(AgainstNonmembers):
    """Asks about near copies of the forget set and of non-members, which no list of forgotten samples holds.

    A model that refuses to answer on the forget set itself, or looks it up elsewhere, has forgotten nothing: a shift by
    a pixel or a little noise brings the answer back. Whoever never saw the samples knows their copies no better than
    those of non-members.

    - ``<name>/accuracy``: share of the copies of the forget set that are given their sample's label.
    - ``<name>/nonmember_accuracy``: the same of non-members.
    - ``<name>/auc``: how well the confidence on copies ranks the forget set above non-members; 0.5 is guessing.

    The results' file also holds the accuracy on the samples themselves: far from that on their copies, it is a lookup.
    With a backdoor the non-members carry the trigger too. Copies are the same for every model and number of processes.

    Args:
        copies: Copies of each sample, over which its confidence is averaged.
        by: ``"noise"`` shifts images and adds noise, ``"augment"`` takes the augmentation of the training data, which
            must lie in memory as :class:`~lightning_unlearn.data.TensorData` with ``augment``, for non-members too.
        noise: Standard deviation of the noise, as a share of each input feature's own.
        shift: Largest shift of an image each way, as a share of its side, rounded down to pixels; what comes in repeats
            the edge.
        **evaluator: Arguments of :class:`~lightning_unlearn.callbacks.base.evaluator.Evaluator`.

    Raises:
        ValueError: If an argument is outside its range, there are no non-members, or the inputs are not one
            floating-point tensor, of which alone such copies can be made.
    """

    needs = ("losses", "correct")
    default_name: ClassVar[str] = "near_copies"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "near_copies/accuracy": near_share(
            "Near copies of D_f: accuracy",
            "near copies",
            "Share of slightly changed copies of the forget set that are given their sample's label: what a list of "
            "forgotten samples cannot hide.",
            decides="forgetting",
        ),
        "near_copies/nonmember_accuracy": DeclaredMetric(
            "Near copies of non-members: accuracy",
            "near copies, others",
            "The same for samples never trained on.",
            unit="%",
        ),
        "near_copies/auc": near_score(
            "Near copies: area under the ROC curve",
            "near copies AUC",
            "How well the confidence on slightly changed copies ranks D_f above samples never trained on: 0.5 is "
            "guessing, 1 is certainty.",
            ideal=0.5,
        ),
    }

    def __init__(
        self,
        copies: int = 4,
        *,
        by: Literal["noise", "augment"] = "noise",
        noise: float = 0.1,
        shift: float = 0.04,
        **evaluator: Any,
    ) -> None:
        in_range("copies", copies, "[1, inf)", whole=True)
        one_of("by", by, "noise", "augment")
        in_range("noise", noise, "[0, inf)", "; 0.1 is a tenth of the inputs' own spread")
        in_range("shift", shift, "[0, 1)", "; 0.04 is a pixel of 28")
        super().__init__(**evaluator)
        self.copies = copies
        self.by = by
        self.noise = noise
        self.shift = shift

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Ask about the copies, and rank the samples by the answers."""
        spread = None if self.by == "augment" else self._spread(audit)
        forget, nonmember = (
            [audit.answers(model, self._near(stream, number, spread, audit)) for number in range(self.copies)]
            for stream in ("forget", "nonmember")
        )
        accuracy = _mean_accuracy(forget)
        audit.details["accuracy"] = {
            "forget set": audit.outputs(model, "forget").accuracy,
            "its near copies": accuracy,
        }
        scores = {
            "accuracy": accuracy,
            "nonmember_accuracy": _mean_accuracy(nonmember),
            "auc": auc(_mean_confidence(forget), _mean_confidence(nonmember)),
        }
        return {f"{self.name}/{score}": value for score, value in scores.items()}

    def _spread(self, audit: Audit) -> Tensor:
        """Return each feature's standard deviation over forget set and non-members, of the inputs' shape."""
        inputs = [
            _checked(batch)
            for stream in ("forget", "nonmember")
            for batch, _ in audit.batches(stream, _BATCH)
        ]
        return torch.cat(inputs).float().std(dim=0)

    def _near(
        self, stream: str, number: int, spread: Tensor | None, audit: Audit
    ) -> Iterator[tuple[Any, Tensor]]:
        """Yield a copy of a stream, the same on every rank."""
        seed = derive_seed(audit.seed, "near copies", stream, number)
        if spread is None:
            for batch in _augmented(audit, stream, seed):
                yield audit.adapter.split(audit.runtime.to_device(batch))
            return
        generator = torch.Generator().manual_seed(seed)
        for inputs, targets in audit.batches(stream, _BATCH):
            moved = _shifted(inputs, self.shift, generator)
            noise = torch.randn(inputs.shape, generator=generator).to(inputs.device) * spread * self.noise
            yield moved + noise.to(inputs.dtype), targets


def _augmented(audit: Audit, stream: str, seed: int) -> TensorLoader:
    """Return a loader over a stream with the augmentation that the training data have."""
    members, loader = (
        audit.data.evaluated(name, batch_size=_BATCH, indexed=False, seed=seed, rank=0, world_size=1)
        for name in ("forget", stream)
    )
    augment = members.dataset.augment if isinstance(members.dataset, TensorData) else None
    if augment is None or not isinstance(loader, TensorLoader):
        raise ValueError(
            "by='augment' needs training and test data in memory, as TensorData with augment=..., so that forget set "
            "and non-members are changed alike; use by='noise'"
        )
    loader.dataset = copy.copy(loader.dataset)
    loader.dataset.augment = augment
    loader.augment = True
    return loader


def _shifted(inputs: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    """Shift every image by up to such a share of its side each way; other inputs stay as they are."""
    if inputs.ndim != 4:
        return inputs
    places = []
    for side in inputs.shape[2:]:
        most = int(shift * side)
        moves = torch.randint(-most, most + 1, (len(inputs), 1), generator=generator)
        places.append((torch.arange(side) + moves).clamp(0, side - 1).to(inputs.device))
    rows, columns = places
    which = torch.arange(len(inputs), device=inputs.device)[:, None, None]
    return inputs[which, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def _checked(inputs: Any) -> Tensor:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        found = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(
            f"near copies are made by adding noise to the model's inputs, which must be one floating-point tensor, got "
            f"{found}; leave this evaluator out for such data"
        )
    return inputs


def _mean_accuracy(answers: list[Outputs]) -> float:
    return sum(each.accuracy for each in answers) / len(answers)


def _mean_confidence(answers: list[Outputs]) -> Tensor:
    """Return each sample's logit-scaled confidence, averaged over its copies, ``(n,)`` float64."""
    return torch.stack([each.confidence for each in answers]).mean(dim=0)
