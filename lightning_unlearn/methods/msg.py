"""MSG: draw kernels anew where forget and retain set pull least apart, and train on the retain set."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, isolated_rng
from lightning_unlearn.functional import top_k_masks
from lightning_unlearn.methods.base import AscendingModule, Declared, MaskedModule, Range, Source
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import fresh_copy
from lightning_unlearn.models.freezing import trainable
from lightning_unlearn.models.surgery import convolution_kernels


class MSG(MaskedModule, AscendingModule):
    r"""Draws the kernel weights of smallest gradient anew, then trains on the retain set with the others held back.

    .. math:: g = \nabla_\theta CE(D_r') - \nabla_\theta CE(D_f)

    with D_r' as many samples of D_r as D_f has. In every convolution the share ``fraction`` of the weights with the
    smallest :math:`|g|` is drawn anew; then all is trained on D_r, while the kernel weights that were not drawn take
    ``kept_step`` of each step. Source: the second of the NeurIPS 2023 unlearning competition ("masked small
    gradients"), as described and compared by Cadet et al., "Deep Unlearn", 2024, where it is one of the two best of
    eighteen methods. Ours are Adam and the annealed rate (there SGD, 1e-3, five epochs), weights that are drawn as the
    source's class draws them, the share of a step instead of a factor of the gradient, which Adam would not notice, and
    matrices in place of kernels in a network that has no convolution. One epoch is one pass over the retain set.

    Args:
        source: The source model.
        fraction: Share of each kernel's weights that is drawn anew, in (0, 1).
        kept_step: Share of a step that the other weights of the kernels take, in [0, 1]; at 0 they stay bit-identical.
        fresh: Builds an untrained model; ``None`` for :func:`~lightning_unlearn.models.fresh_copy`.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        step: ``"loss"``, or ``"source"`` for the source's own training step; the gradient is of ``loss`` either way.
        **ascending: Arguments of :class:`~lightning_unlearn.methods.base.ascent.AscendingModule`.

    Attributes:
        redrawn: True for the weights that were drawn anew, by the kernels' names; empty before ``fit``.

    Raises:
        ValueError: If an argument is outside its range, ``fresh`` builds another architecture, or there is no kernel.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> MSG(MLP(in_features=4, hidden=(3,), num_classes=2), fraction=1.0)
        Traceback (most recent call last):
        ValueError: fraction must lie in (0, 1), got 1.0; 0.3 is the published one, and all of them are Retrain's
    """

    needs = ("loss", "losses")
    searched: ClassVar[SearchSpace] = {"fraction": Search(0.05, 0.6), "kept_step": Search(0.0, 0.5)}
    saved = ("redrawn",)  # which weights; they come drawn out of a checkpoint
    declared: ClassVar[Declared] = {
        "fraction": Range("(0, 1)", "; 0.3 is the published one, and all of them are Retrain's"),
        "kept_step": Range("[0, 1]", "; 0.1 is the published one"),
    }

    def __init__(
        self,
        source: Source,
        fraction: float = 0.3,
        *,
        kept_step: float = 0.1,
        fresh: Callable[[], nn.Module] | None = None,
        **ascending: Any,
    ) -> None:
        super().__init__(source, **ascending)
        self.fraction = fraction
        self.kept_step = kept_step
        self._fresh = fresh
        self.redrawn: dict[str, Tensor] = {}
        kernels = convolution_kernels(self.model)
        matrices = {name: weight for name, weight in trainable(self.model).items() if weight.ndim > 1}
        self._kernels = list(kernels or matrices)
        if not self._kernels:
            raise ValueError(f"source: {type(source).__name__} has no kernel or matrix to draw anew")

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Choose weights by their gradients, and draw them anew."""
        forget, retain = data.split.forget, data.split.retain
        rng = np.random.default_rng(derive_seed(data.order_seed, "beside"))
        beside = np.sort(rng.choice(retain, min(len(forget), len(retain)), replace=False))
        pulls = (
            self.gradients("mean", stream, data, runtime, positions=positions)
            for stream, positions in (("forget", forget), ("retain", beside))
        )
        apart = {name: pull for name, pull in next(pulls).items() if name in self._kernels}
        for name, pull in next(pulls).items():
            if name in apart:
                apart[name].sub_(pull).abs_()
        with isolated_rng(derive_seed(data.order_seed, "redrawn")):
            fresh = fresh_copy(self.source, self._fresh)
        for name in self._kernels:
            count = apart[name].numel()
            kept = max(1, count - round(self.fraction * count))
            redrawn = ~top_k_masks({name: apart.pop(name)}, kept)[name]
            weight = self.model.get_parameter(name)
            with torch.no_grad():
                weight.copy_(torch.where(redrawn, fresh.get_parameter(name).to(weight), weight))
            self.redrawn[name] = redrawn

    def step_scales(self) -> dict[str, Tensor]:
        """Return 1 for what was drawn anew, and ``kept_step`` for the rest of the kernels."""
        return {name: torch.where(redrawn, 1.0, self.kept_step) for name, redrawn in self.redrawn.items()}
