"""SSD: dampen, once, the weights that matter to the forget set far more than to all of the data."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import dampening, output_norm
from lightning_unlearn.methods.base import Declared, OneShotModule, Range, Source
from lightning_unlearn.methods.base.limits import OF_ITS_OWN, warn_without_a_class
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models.freezing import trainable


class SSD(OneShotModule):
    r"""Selective synaptic dampening: shrinks, once, the weights that matter to the forget set above all.

    .. math:: \theta_i \leftarrow \min\!\Big(\lambda \frac{I_i(D)}{I_i(D_f)}, 1\Big)\,\theta_i
        \quad\text{where } I_i(D_f) > \alpha\, I_i(D)

    :math:`I` is the mean square of the samples' own gradients, of the loss, or without labels of the squared norm of
    the outputs. Source: Foster, Schoepf & Brintrup, "Fast Machine Unlearning Without Retraining Through Selective
    Synaptic Dampening", 2024, eq. 5-7; ``labels=False`` is LFSSD, Foster, Fogarty, Schoepf et al., "Loss-Free Machine
    Unlearning", 2024. Public code squares the gradient of a batch's mean, so that importance depends on the batch size,
    and its α on that: they are not the α of here. :math:`D` is all of the training set; so no weight can matter more
    than :math:`N / N_f` times as much to :math:`D_f` as to it, and an α above that is refused.

    It is made for a class or another part of the data with weights of its own. Of random samples the weights are
    everybody's, and next to nothing is dampened.

    Args:
        source: The source model.
        alpha: How many times as much a weight must matter to the forget set, > 0 and below N / N_f; ``None`` for half
            of that. 10 and more in the paper, for the importance of public code.
        lambda_: Strength of the dampening, > 0; 1 in the paper.
        labels: Whether importance is of the loss; ``False`` needs no label.
        **one_shot: Arguments of :class:`~lightning_unlearn.methods.base.one_shot.OneShotModule`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> SSD(MLP(in_features=4, hidden=(3,), num_classes=2), alpha=0.0)
        Traceback (most recent call last):
        ValueError: alpha must be above 0, got 0.0; the smaller, the more weights are dampened
    """

    keeps_source_tensors = True
    searched: ClassVar[SearchSpace] = {"alpha": Search(1.0, 100.0, log=True), "lambda_": Search(0.1, 2.0)}
    declared: ClassVar[Declared] = {
        "alpha": Range("(0, inf)", "; the smaller, the more weights are dampened", none=True),
        "lambda_": Range("(0, inf)", "; the smaller, the more they are dampened"),
    }
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "ssd/dampened": DeclaredMetric(
            "Weights dampened by SSD", "dampened", "Share of the weights that were dampened.", unit="%"
        )
    }

    def __init__(
        self,
        source: Source,
        alpha: float | None = None,
        lambda_: float = 1.0,
        *,
        labels: bool = True,
        **one_shot: Any,
    ) -> None:
        super().__init__(source, **one_shot)
        self.alpha = alpha
        self.lambda_ = lambda_
        self.labels = labels

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Measure importance on D_f and D_r, and dampen."""
        apart = data.forgets_a_class or data.backdoor is not None
        warn_without_a_class(self, forgets_a_class=apart, does=OF_ITS_OWN)
        forget, retain = len(data.split.forget), len(data.split.retain)
        most = (forget + retain) / forget
        alpha = most / 2 if self.alpha is None else self.alpha
        if alpha >= most:
            raise ValueError(
                f"alpha={alpha} dampens nothing: {forget} of {forget + retain} are forgotten, so no weight "
                f"matters more than {most:.3g} times as much to them as to all; give SSD a smaller alpha"
            )
        of_forget, of_retain = (
            self.gradients("square", stream, data, runtime, loss=self.loss if self.labels else output_norm)
            for stream in ("forget", "retain")
        )
        dampened = total = 0
        for name, parameter in trainable(self.model).items():
            both = (forget * of_forget[name] + retain * of_retain[name]) / (forget + retain)
            factors = dampening(of_forget[name], both, alpha, self.lambda_)
            with torch.no_grad():
                parameter.mul_(factors.to(parameter))
            dampened += int((factors < 1).sum())
            total += factors.numel()
        self.measured["ssd/dampened"] = dampened / total
        if not dampened:
            rank_zero_warn(
                f"SSD: no weight matters {alpha:.3g} times as much to the forget set as to all, so none was dampened "
                f"and nothing is forgotten; lower alpha"
            )
