"""Random-k unlearning of Zuo et al.: a random share of the weights is perturbed, then all are fine-tuned."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import select_random
from lightning_unlearn.methods.base import Source
from lightning_unlearn.methods.base.perturbation import Perturbation
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models.freezing import trainable


class RandomK(Perturbation):
    """Perturbs a random share k of all weights, then fine-tunes.

    Exactly ``round(fraction * total)`` weights are chosen, where the mask of algorithm 1, line 10, chooses
    that many on average. Line 12 of the algorithm mixes each chosen weight with another, while eq. 7 scales
    it; ``mix`` says which. Source: Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters
    Perturbation", section III-B. Perturbation, loss and remaining arguments are those of
    :class:`~lightning_unlearn.methods.base.perturbation.Perturbation`.

    Args:
        source: The source model.
        fraction: Share k of the weights that are perturbed, in (0, 1]; 0.05 in the paper.
        **perturbation: Arguments of :class:`~lightning_unlearn.methods.base.perturbation.Perturbation`.

    Raises:
        ValueError: If an argument is outside its range, or no weight would be chosen.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> RandomK(MLP(in_features=4, hidden=(3,), num_classes=2), fraction=5)
        Traceback (most recent call last):
        ValueError: fraction must lie in (0, 1], got 5; 5% is 0.05
    """

    searched: ClassVar[SearchSpace] = {"fraction": Search(0.01, 0.6, log=True)}

    def __init__(self, source: Source, fraction: float = 0.05, **perturbation: Any) -> None:
        super().__init__(source, **perturbation)
        self.require_fraction(fraction)
        self.fraction = fraction

    def select(
        self, data: UnlearningDataModule, runtime: Runtime, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Choose at random, every set of that many weights being equally likely."""
        return select_random(trainable(self.model), self.fraction, generator)
