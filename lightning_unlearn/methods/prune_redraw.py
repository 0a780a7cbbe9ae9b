"""PruneRedraw: draw the smallest weights anew, and train on the retain set."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from lightning_unlearn.functional import top_k_masks
from lightning_unlearn.methods.base import AscendingModule, Declared, Range, Source
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import fresh_copy
from lightning_unlearn.models.freezing import trainable


class PruneRedraw(AscendingModule):
    """Draws the weights of smallest magnitude anew, then trains all on the retain set.

    Of all matrices and kernels together the share ``fraction`` with the smallest magnitude takes the values of an
    untrained network. Source: the fourth of the NeurIPS 2023 unlearning competition, as described by Cadet et al.,
    "Deep Unlearn", 2024. There 99% are drawn anew, and a second term keeps the entropy of the source's answers; a
    smaller share needs none, and less of the retain set has to be learned again. What is frozen in the source stays.

    Args:
        source: The source model.
        fraction: Share of the weights that is drawn anew, in (0, 1).
        fresh: Builds an untrained model; ``None`` for :func:`~lightning_unlearn.models.fresh_copy`.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **ascending: Arguments of :class:`~lightning_unlearn.methods.base.ascent.AscendingModule`.

    Raises:
        ValueError: If an argument is outside its range, or ``fresh`` builds another architecture.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> PruneRedraw(MLP(in_features=4, hidden=(3,), num_classes=2), fraction=1.0)
        Traceback (most recent call last):
        ValueError: fraction must lie in (0, 1), got 1.0; all of them are Retrain's
    """

    side_by_side = True
    searched: ClassVar[SearchSpace] = {"fraction": Search(0.1, 0.99)}
    declared: ClassVar[Declared] = {"fraction": Range("(0, 1)", "; all of them are Retrain's")}

    def __init__(
        self,
        source: Source,
        fraction: float = 0.7,
        *,
        fresh: Callable[[], nn.Module] | None = None,
        **ascending: Any,
    ) -> None:
        self.fraction = fraction
        self._fresh = fresh
        super().__init__(source, **ascending)

    def initial_model(self, source: nn.Module) -> nn.Module:
        """Return a copy of the source whose smallest weights are a fresh model's."""
        fresh = fresh_copy(source, self._fresh)
        sizes = {name: w.detach().abs() for name, w in trainable(source).items() if w.ndim > 1}
        total = sum(size.numel() for size in sizes.values())
        kept = top_k_masks(sizes, max(1, round((1 - self.fraction) * total)))
        del sizes
        model = super().initial_model(source)
        with torch.no_grad():
            for name, mask in kept.items():
                weight = model.get_parameter(name)
                weight.copy_(torch.where(mask, weight, fresh.get_parameter(name).to(weight)))
        return model
