"""Top-K unlearning of Zuo et al.: the most sensitive weights are perturbed, then all are fine-tuned."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import output_norm, select_top_k, select_top_k_tensors
from lightning_unlearn.methods.base import Choice, Declared, Range, Source
from lightning_unlearn.methods.base.perturbation import Perturbation
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models.freezing import trainable

Granularity = Literal["scalar", "tensor"]
Sensitivity = Literal["loss", "output_norm"]
SensitivityStream = Literal["forget", "retain", "train"]


class TopK(Perturbation):
    r"""Perturbs the K weights that the model is most sensitive to, then fine-tunes.

    Sensitivity of a weight is the magnitude of a gradient by it, :math:`\|g_{i,j}(x)\|` (eq. 6), taken of
    each sample's own gradient and averaged over samples, as in memory aware synapses (Aljundi et al., 2018).
    The gradient of the samples' mean loss, which costs less, is what training has driven to zero: large
    gradients of opposite sign cancel in it, and what is left ranks noise. It is taken in evaluation mode and
    full precision. Source: Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters
    Perturbation", section III-B. Perturbation, loss and remaining arguments are those of
    :class:`~lightning_unlearn.methods.base.perturbation.Perturbation`.

    Args:
        source: The source model.
        k: How many weights are perturbed, >= 1 (whole tensors with ``granularity="tensor"``); 30 to 50 in the
            paper.
        sensitivity: Gradient of what: of the argument ``"loss"``, or of ``"output_norm"``, the squared L2 norm of the
            logits, which needs no label (as in memory aware synapses).
        sensitivity_samples: Over how many samples at most; ``None`` for all. The paper picks 1, but on a model
            that fits its data few samples have a gradient to speak of, and a handful finds other weights than
            all would.
        sensitivity_stream: Of which set they are a random choice: ``"train"`` (D, as in the paper),
            ``"forget"`` or ``"retain"``.
        sensitivity_per_sample: ``False`` takes the gradient of each batch's mean instead, which is quicker for
            models whose operations :func:`torch.func.vmap` cannot batch.
        granularity: ``"scalar"`` chooses single weights, as the paper's table I counts them; ``"tensor"``
            reads eq. 6 as the norm of a tensor's gradient and perturbs whole tensors.
        **perturbation: Arguments of :class:`~lightning_unlearn.methods.base.perturbation.Perturbation`.

    Raises:
        TypeError: If ``k`` is not an integer.
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> TopK(MLP(in_features=4, hidden=(3,), num_classes=2), k=45)
        Traceback (most recent call last):
        ValueError: k must lie in [1, 23], got 45: MLP has 23 weights
    """

    needs = ("loss", "losses")
    searched: ClassVar[SearchSpace] = {"k": Search(5, 90, whole=True)}
    declared: ClassVar[Declared] = {
        "sensitivity": Choice(("loss", "output_norm")),
        "sensitivity_stream": Choice(("forget", "retain", "train")),
        "sensitivity_samples": Range("[1, inf)", "; None takes all", whole=True, none=True),
        "granularity": Choice(("scalar", "tensor")),
    }

    def __init__(
        self,
        source: Source,
        k: int = 45,
        *,
        sensitivity: Sensitivity = "loss",
        sensitivity_samples: int | None = 128,
        sensitivity_stream: SensitivityStream = "train",
        sensitivity_per_sample: bool = True,
        granularity: Granularity = "scalar",
        **perturbation: Any,
    ) -> None:
        super().__init__(source, **perturbation)
        if granularity == "scalar":
            self.require_k(k, self.n_weights, "weights")
        else:
            self.require_k(k, len(trainable(self.model)), "parameter tensors")
        self.k = k
        self.sensitivity = sensitivity
        self.sensitivity_samples = sensitivity_samples
        self.sensitivity_stream = sensitivity_stream
        self.sensitivity_per_sample = sensitivity_per_sample
        self.granularity = granularity

    def select(
        self, data: UnlearningDataModule, runtime: Runtime, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Choose the most sensitive."""
        return self.top_k(self.sensitivities(data, runtime))

    def top_k(self, sensitivities: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the positions of the K most sensitive weights, or of all weights of the K tensors.

        Args:
            sensitivities: As :meth:`sensitivities` returns them.
        """
        if self.granularity == "tensor":
            return select_top_k_tensors(sensitivities, trainable(self.model), self.k)
        return select_top_k(sensitivities, self.k)

    def sensitivities(self, data: UnlearningDataModule, runtime: Runtime) -> dict[str, Tensor]:
        """Measure how sensitive the model is to each weight (or tensor), on all ranks together.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.

        Returns:
            Means over the samples by parameter name, in the parameters' shapes (or scalars), the same on
            every rank.
        """
        return self.gradients(
            "norm" if self.granularity == "tensor" else "magnitude",
            self.sensitivity_stream,
            data,
            runtime,
            loss=output_norm if self.sensitivity == "output_norm" else self.loss,
            positions=self._sensitivity_positions(data),
            per_sample=self.sensitivity_per_sample,
        )

    def _sensitivity_positions(self, data: UnlearningDataModule) -> np.ndarray[Any, Any]:
        split = data.split
        stream = {"forget": split.forget, "retain": split.retain, "train": split.members}[
            self.sensitivity_stream
        ]
        if self.sensitivity_samples is None or self.sensitivity_samples >= len(stream):
            return stream
        rng = np.random.default_rng(derive_seed(data.order_seed, "sensitivity"))
        return np.sort(rng.choice(stream, self.sensitivity_samples, replace=False))
