"""Random-TopK unlearning of Zuo et al.: a random choice of weights that holds the most sensitive ones."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import select_random_top_k
from lightning_unlearn.methods.base import Source
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.methods.top_k import TopK
from lightning_unlearn.models.freezing import trainable


class RandomTopK(TopK):
    """Perturbs as many weights as Random-k, the K most sensitive ones among them, then fine-tunes.

    K members of Random-k's choice make room for the Top-K. Source: Zuo et al., "Machine Unlearning Through
    Fine-Grained Model Parameters Perturbation", section IV-C4, figure 8. The choice is that of
    :class:`~lightning_unlearn.methods.random_k.RandomK` and :class:`~lightning_unlearn.methods.top_k.TopK`;
    perturbation, loss and remaining arguments are those of
    :class:`~lightning_unlearn.methods.base.perturbation.Perturbation`.

    Args:
        source: The source model.
        k: How many of the weights are the most sensitive ones (whole tensors with ``granularity="tensor"``);
            not more than are perturbed.
        fraction: Share of the weights that are perturbed, in (0, 1]; 0.05 in the paper.
        **top_k: Arguments of :class:`~lightning_unlearn.methods.top_k.TopK`.

    Raises:
        TypeError: If ``k`` is not an integer.
        ValueError: If an argument is outside its range, or the most sensitive weights are more than are
            perturbed.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> RandomTopK(MLP(in_features=4, hidden=(3,), num_classes=2), k=5, fraction=0.1)
        Traceback (most recent call last):
        ValueError: k=5 weights are more than the 2 that fraction=0.1 perturbs; lower k or raise fraction
    """

    searched: ClassVar[SearchSpace] = {"fraction": Search(0.01, 0.6, log=True)}

    def __init__(self, source: Source, k: int = 45, fraction: float = 0.05, **top_k: Any) -> None:
        super().__init__(source, k, **top_k)
        self.require_fraction(fraction)
        self.fraction = fraction
        if self.granularity == "scalar":
            self._require_room(k)

    def _require_room(self, count: int) -> None:
        perturbed = round(self.fraction * self.n_weights)
        if count > perturbed:
            what = "weights" if self.granularity == "scalar" else f"tensors of {count} weights"
            raise ValueError(
                f"k={self.k} {what} are more than the {perturbed} that fraction={self.fraction} perturbs; "
                "lower k or raise fraction"
            )

    def select(
        self, data: UnlearningDataModule, runtime: Runtime, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Choose at random, and put the most sensitive in the place of as many others."""
        top = self.top_k(self.sensitivities(data, runtime))
        count = sum(len(positions) for positions in top.values())
        self._require_room(count)
        marks: dict[str, Tensor] = {}
        for name, parameter in trainable(self.model).items():
            marks[name] = torch.zeros(parameter.numel(), device=parameter.device)
            marks[name][top[name]] = 1
        return select_random_top_k(marks, self.fraction, count, generator)
