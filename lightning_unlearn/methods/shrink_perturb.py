"""ShrinkPerturb: shrink the source's weights, add some of fresh ones, and train on the retain set."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from lightning_unlearn.methods.base import AscendingModule, Declared, Range, Source
from lightning_unlearn.methods.base.ascent import ASCENT_SEARCH
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import fresh_copy
from lightning_unlearn.models.freezing import trainable


class ShrinkPerturb(AscendingModule):
    r"""Moves the weights towards untrained ones, then trains them on the retain set.

    .. math:: \theta \leftarrow shrink \cdot \theta_{source} + perturb \cdot \theta_{fresh}

    Of all cheap methods its answers come nearest to a retrained model's, while the retain set has to be learned again
    in part. Source: the step is Ash & Adams, "On Warm-Starting Neural Network Training", 2020, there for new data;
    using it to forget, the annealed rate and the ascent beside it are ours. What is frozen in the source stays.

    Args:
        source: The source model.
        shrink: Share of the source's weights that is kept, in [0, 1].
        perturb: Share of the fresh weights that is added, in [0, 1].
        fresh: Builds an untrained model; ``None`` for :func:`~lightning_unlearn.models.fresh_copy`.
        ascent: Weight of a bounded ascent on the forget set beside the training, >= 0.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **ascending: Arguments of :class:`~lightning_unlearn.methods.base.ascent.AscendingModule`.

    Raises:
        ValueError: If an argument is outside its range, or ``fresh`` builds another architecture.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> source = MLP(in_features=4, hidden=(3,), num_classes=2)
        >>> half = ShrinkPerturb(source, shrink=0.5, perturb=0.0).model.layers[0].weight
        >>> torch.equal(half, 0.5 * source.layers[0].weight)
        True
    """

    side_by_side = True
    searched: ClassVar[SearchSpace] = {
        "shrink": Search(0.2, 0.9),
        "perturb": Search(0.0, 0.6),
        **ASCENT_SEARCH,
    }
    declared: ClassVar[Declared] = {
        "shrink": Range("[0, 1]", "; 1 keeps the source's weights whole"),
        "perturb": Range("[0, 1]", "; 0 adds nothing"),
    }

    def __init__(
        self,
        source: Source,
        shrink: float = 0.5,
        perturb: float = 0.3,
        *,
        fresh: Callable[[], nn.Module] | None = None,
        ascent: float = 0.0,
        **ascending: Any,
    ) -> None:
        self.shrink = shrink
        self.perturb = perturb
        self._fresh = fresh
        super().__init__(source, ascent=ascent, **ascending)

    def initial_model(self, source: nn.Module) -> nn.Module:
        """Return the model between the source and a fresh one; statistics that follow the data stay."""
        fresh = fresh_copy(source, self._fresh)
        model = super().initial_model(source)
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter.mul_(self.shrink).add_(fresh.get_parameter(name), alpha=self.perturb)
        return model
