"""Fisher: add noise to every weight, the more the less it matters to the retain set."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base import Declared, OneShotModule, Range, Source
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models.freezing import trainable

# of public code: the most that 1 / F may be, in the last layer and elsewhere, and the variance of a blanked row
_MOST, _MOST_IN_HEAD, _OF_THE_ROW = 1e3, 1e2, 1e-4


class Fisher(OneShotModule):
    r"""Adds noise to every weight, the more the less it matters to the retain set, and blanks a forgotten class's row.

    .. math:: \theta_i \leftarrow \theta_i + \sqrt{\alpha / F_i}\; \xi_i, \quad
        F_i = E_{D_r} \textstyle\sum_c P_c \, (\partial_i CE(x, c))^2, \quad \xi_i \sim N(0, 1)

    Source: Golatkar, Achille & Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
    2020, and its code, whose variance is :math:`\alpha / F` (the paper's optimum has the root): 1/F at most 1,000 and
    100 in the last layer, averaged over what a unit is given, ten times as much in the last layer, biases and
    normalisation. There the row of a forgotten class in the last layer gets mean 0; but what all rows have in common
    changes no answer, so that a row of 0 means nothing of its own and often still wins. Here it gets the mean of the
    other rows, which never wins but for the noise.

    That row is all that forgets a class; the noise loses the others before it does. It is poor on random samples, which
    a warning says.

    Args:
        source: The source model.
        alpha: Size α of the noise, > 0; from 1e-9 to 1e-5, and the retain accuracy falls within one power of ten.
        samples: Of how many retained samples F is at most; of each there is a gradient a class.
        **one_shot: Arguments of :class:`~lightning_unlearn.methods.base.one_shot.OneShotModule`.

    Raises:
        ValueError: If an argument is outside its range; in ``fit``, if a class is forgotten and the last layer has no
            row for it.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> Fisher(MLP(in_features=4, hidden=(3,), num_classes=2), alpha=0.0)
        Traceback (most recent call last):
        ValueError: alpha must be above 0, got 0.0; 1e-6 is usual
    """

    needs = ("classes",)
    searched: ClassVar[SearchSpace] = {"alpha": Search(1e-9, 1e-4, log=True)}
    declared: ClassVar[Declared] = {
        "alpha": Range("(0, inf)", "; 1e-6 is usual"),
        "samples": Range("[1, inf)", whole=True),
    }

    def __init__(self, source: Source, alpha: float = 1e-6, *, samples: int = 1000, **one_shot: Any) -> None:
        super().__init__(source, **one_shot)
        self.alpha = alpha
        self.samples = samples

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Measure F on D_r, blank the rows of forgotten classes, and add the noise."""
        if not data.forgets_a_class:
            rank_zero_warn(
                "Fisher is made for whole classes, and none is forgotten: its noise loses other samples as it loses "
                "these; NegGradPlus, Rewind or ReferenceKL is the better choice"
            )
        head, classes = self.head_rows(data, runtime)
        information, gone = self._information(classes, data, runtime), data.forgotten_classes
        generator = torch.Generator().manual_seed(derive_seed(data.order_seed, "fisher"))
        with torch.no_grad():
            for name, parameter in trainable(self.model).items():
                variance = self.alpha / information[name].clamp(
                    min=1 / (_MOST_IN_HEAD if name in head else _MOST)
                )
                if parameter.ndim > 1:
                    variance = variance.mean(dim=1, keepdim=True).expand(parameter.shape).clone()
                if name in head and gone:
                    parameter[gone] = others(parameter, gone).mean(dim=0)
                    variance[gone] = _OF_THE_ROW
                if name in head or parameter.ndim == 1:
                    variance = 10 * variance
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((variance.sqrt() * noise.to(variance)).to(parameter))

    def _information(self, classes: int, data: UnlearningDataModule, runtime: Runtime) -> dict[str, Tensor]:
        """Return F of each weight: the samples' own squared gradients, weighted by the classes' probabilities."""
        drawn = np.random.default_rng(derive_seed(data.order_seed, "fisher")).permutation(data.split.retain)
        total: dict[str, Tensor] = {}
        for each in range(classes):
            some, loss = np.sort(drawn[: self.samples]), _weighted(each)
            squares = self.gradients("square", "retain", data, runtime, loss=loss, positions=some)
            for name, square in squares.items():
                total[name] = total[name].add_(square) if name in total else square
        return total


def others(rows: Tensor, gone: list[int]) -> Tensor:
    """Return the rows of the classes that are not forgotten."""
    kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    kept[gone] = False
    return rows[kept]


def _weighted(target: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss whose squared gradient is that of a class's cross-entropy times the class's probability."""

    def loss(logits: Tensor, _: Tensor) -> Tensor:
        log = logits.float().log_softmax(dim=1)[:, target]
        return -((0.5 * log.detach()).exp() * log).mean()

    return loss
