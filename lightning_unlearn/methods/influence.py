"""Influence: one Newton step from the weights of all the data towards those without the forget set."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.engine.curvature import gauss_newton_product
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import conjugate_gradients
from lightning_unlearn.methods.base import Declared, OneShotModule, Range, Source
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models.freezing import trainable


class Influence(OneShotModule):
    r"""Takes the forget set's influence off the weights, by one Newton step that is really solved for.

    .. math:: \theta \leftarrow \theta_{source}
        + scale\, \frac{N_f}{N_r}\, (G_r + damping\, I)^{-1}\, \nabla CE(D_f)

    :math:`G_r` is the Gauss-Newton matrix (of the cross-entropy, the Fisher information) of the retain set. At the
    minimum over all of the data, and with the Hessian for :math:`G_r`, the step with ``scale`` 1 is to first order that
    to the minimum over the retain set. Source: Koh & Liang, "Understanding Black-box Predictions via Influence
    Functions", 2017, eq. 1-3; Izzo, Smart, Chaudhuri & Zou, "Approximate Data Deletion from Machine Learning Models",
    2021. The loop that most public code has for it never applies an inverse; here conjugate gradients solve the system,
    the residual is measured, and a warning tells where it is too large.

    Args:
        source: The source model.
        scale: How many times the step to go, > 0.
        damping: What is added to the matrix's diagonal, > 0; the larger, the shorter and the safer the step.
        samples: Of how many retained samples the matrix is at most.
        iterations: How many products with it at most, each of them a pass over these samples.
        tolerance: Relative residual at which the system counts as solved, in (0, 1).
        **one_shot: Arguments of :class:`~lightning_unlearn.methods.base.one_shot.OneShotModule`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> Influence(MLP(in_features=4, hidden=(3,), num_classes=2), damping=0.0)
        Traceback (most recent call last):
        ValueError: damping must be above 0, got 0.0; without any the matrix of a network has no inverse
    """

    searched: ClassVar[SearchSpace] = {
        "scale": Search(0.1, 30.0, log=True),
        "damping": Search(1e-3, 1e-1, log=True),
    }
    declared: ClassVar[Declared] = {
        "scale": Range("(0, inf)", "; 1 is the step of theory"),
        "damping": Range("(0, inf)", "; without any the matrix of a network has no inverse"),
        "samples": Range("[1, inf)", whole=True),
        "iterations": Range("[1, inf)", whole=True),
        "tolerance": Range("(0, 1)"),
    }
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "influence/residual": DeclaredMetric(
            "Residual of the influence step's system",
            "residual",
            "Size of what is left of the linear system, relative to its right-hand side; 0 is solved.",
            direction="lower",
            digits=4,
        )
    }

    def __init__(
        self,
        source: Source,
        scale: float = 1.0,
        *,
        damping: float = 0.01,
        samples: int = 1000,
        iterations: int = 50,
        tolerance: float = 0.01,
        **one_shot: Any,
    ) -> None:
        super().__init__(source, **one_shot)
        self.scale = scale
        self.damping = damping
        self.samples = samples
        self.iterations = iterations
        self.tolerance = tolerance

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Solve for the step, and take it."""
        step, residual = self._solved(data, runtime)
        self.measured["influence/residual"] = residual
        if residual > self.tolerance:
            rank_zero_warn(
                f"Influence: after {self.iterations} iterations the residual is {residual:.2g} of the right-hand side, "
                f"with tolerance={self.tolerance}: the step is not the Newton step; raise iterations or damping"
            )
        times = self.scale * len(data.split.forget) / len(data.split.retain)
        with torch.no_grad():
            for name, parameter in trainable(self.model).items():
                parameter.add_(step[name].to(parameter), alpha=times)

    def _solved(self, data: UnlearningDataModule, runtime: Runtime) -> tuple[dict[str, Tensor], float]:
        drawn = np.random.default_rng(derive_seed(data.order_seed, "curvature")).permutation(
            data.split.retain
        )
        curved = gauss_newton_product(
            self.model,
            data,
            "retain",
            runtime=runtime,
            loss=self.loss,
            adapter=self.adapter,
            positions=np.sort(drawn[: self.samples]),
        )
        parameters = trainable(self.model)

        def split(flat: Tensor, kind: torch.dtype | None = None) -> dict[str, Tensor]:
            parts = torch.split(flat, [p.numel() for p in parameters.values()])
            return {
                name: part.view(p.shape).to(kind or p.dtype)
                for part, (name, p) in zip(parts, parameters.items(), strict=True)
            }

        def joined(by_name: dict[str, Tensor]) -> Tensor:
            kind = torch.float32 if runtime.device.type == "mps" else torch.float64
            flat = torch.empty(sum(p.numel() for p in parameters.values()), dtype=kind, device=runtime.device)
            for name, part in split(flat, kind).items():
                part.copy_(by_name[name])
            return flat

        def product(flat: Tensor) -> Tensor:
            return joined(curved(split(flat))).add_(flat, alpha=self.damping)

        right = joined(self.gradients("mean", "forget", data, runtime))
        solution, residual = conjugate_gradients(
            product, right, iterations=self.iterations, tolerance=self.tolerance
        )
        return split(solution), residual
