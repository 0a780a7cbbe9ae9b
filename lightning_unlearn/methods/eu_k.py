"""EU-k: the last k parameter tensors are drawn anew and trained from scratch; the rest stays frozen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_unlearn.methods.base import Source
from lightning_unlearn.methods.cf_k import CFk
from lightning_unlearn.models import fresh_copy, last_parameter_tensors


class EUk(CFk):
    """Re-initialises the last k parameter tensors and trains them on the retain set alone.

    "Exact unlearning" of these tensors: nothing of them survives, each is drawn anew by its layer's own
    scheme. What is frozen, which tensors are meant, and the source are as for
    :class:`~lightning_unlearn.methods.cf_k.CFk`. Running statistics are no parameters: those of a layer that
    is trained start from the source's and follow the retain set.

    Args:
        source: The source model.
        k: How many parameter tensors, from 1 to as many as the source trains; 5 and 10 in the papers.
        fresh: Builds an untrained model; ``None`` for :func:`~lightning_unlearn.models.fresh_copy`.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 1e-4, the paper's.
        **ascending: Arguments of :class:`~lightning_unlearn.methods.base.ascent.AscendingModule`.

    Raises:
        ValueError: If ``k`` is outside its range, or ``fresh`` builds another architecture.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> source = MLP(in_features=4, hidden=(3,), num_classes=2)
        >>> method = EUk(source, k=2)
        >>> new, old = method.model.state_dict(), source.state_dict()
        >>> [name for name in old if not torch.equal(new[name], old[name])]
        ['layers.2.weight', 'layers.2.bias']
    """

    side_by_side = True

    def __init__(
        self, source: Source, k: int = 5, *, fresh: Callable[[], nn.Module] | None = None, **ascending: Any
    ) -> None:
        self._fresh = fresh
        super().__init__(source, k, **ascending)

    def initial_model(self, source: nn.Module) -> nn.Module:
        """Return a copy of the source with new last tensors."""
        fresh = fresh_copy(source, self._fresh)
        model = super().initial_model(source)
        with torch.no_grad():
            for name in last_parameter_tensors(source, self.k):
                model.get_parameter(name).copy_(fresh.get_parameter(name))
        return model
