"""SalUn: random labels for the forget set, learned by the weights that its loss depends on most."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import top_k_masks
from lightning_unlearn.methods.base import Declared, MaskedModule, Range, Source
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.methods.random_label import RandomLabel
from lightning_unlearn.models import count_parameters
from lightning_unlearn.models.freezing import trainable


class SalUn(MaskedModule, RandomLabel):
    r"""Trains the forget set on wrong labels, moving only the weights that its loss depends on most.

    .. math:: m = 1\big[\,|\nabla_\theta CE(D_f)| \ge \tau\,\big], \qquad
        \theta \leftarrow \theta_{source} + m \odot (\theta - \theta_{source})

    with :math:`\tau` so that the share ``fraction`` of all weights moves, and the loss of
    :class:`~lightning_unlearn.methods.random_label.RandomLabel`. Source: Fan et al., "SalUn: Empowering Machine
    Unlearning via Gradient-based Weight Saliency in Both Image Classification and Generation", 2024, eq. 3-5: the
    gradient is the mean over D_f with its sign, of which the magnitude is taken, in evaluation mode. What is masked
    stays bit-identical, which masking gradients alone does not give: weight decay and momentum move it. Adam and the
    annealed rate are ours; the paper has SGD with learning rate 0.013 and ten epochs. Running statistics are estimated
    anew on the retain set.

    Args:
        source: The source model.
        fraction: Share of the weights that move, in (0, 1]; at 1 it is RandomLabel.
        weight: Weight ω of the wrong labels, >= 0.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        step: ``"loss"``, or ``"source"`` for the source's own training step; the gradient is of ``loss`` either way.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Attributes:
        masks: True for the weights that move, by parameter name; empty before ``fit``.

    Raises:
        ValueError: If an argument is outside its range, or no weight would move.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> SalUn(MLP(in_features=4, hidden=(3,), num_classes=2), fraction=50)
        Traceback (most recent call last):
        ValueError: fraction must lie in (0, 1], got 50; half the weights are 0.5
    """

    needs = ("loss", "losses", "wrong targets")
    searched: ClassVar[SearchSpace] = {"weight": Search(0.1, 3.0, log=True), "fraction": Search(0.1, 1.0)}
    saved = ("masks",)
    declared: ClassVar[Declared] = {
        "fraction": Range("(0, 1]", "; half the weights are 0.5"),
    }

    def __init__(self, source: Source, fraction: float = 0.5, *, weight: float = 1.0, **method: Any) -> None:
        super().__init__(source, weight=weight, **method)
        self.fraction = fraction
        self.masks: dict[str, Tensor] = {}
        count = count_parameters(self.model, list(trainable(self.model)))
        self._moving = round(fraction * count)
        if not self._moving:
            raise ValueError(f"fraction={fraction} of {count} weights moves none; raise it")

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Choose the weights that move."""
        found = self.gradients("mean", "forget", data, runtime)
        self.masks = top_k_masks({name: gradient.abs_() for name, gradient in found.items()}, self._moving)

    def step_scales(self) -> dict[str, Tensor]:
        """Return the masks."""
        return self.masks
