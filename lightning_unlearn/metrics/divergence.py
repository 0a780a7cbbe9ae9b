"""Metrics of how far a model's posteriors are from those of a retrained model."""

from torch import Tensor

from lightning_unlearn.functional import activation_distance, js_from_logits, kl_from_logits, posteriors
from lightning_unlearn.metrics._base import SampleMean


class Similarity(SampleMean):
    """Mean of 1 − JS divergence (base 2) between a model's posteriors and the retrained model's.

    Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", section IV-B d; see
    :func:`~lightning_unlearn.functional.js_divergence` for the formula meant by their eq. 9.

    ``update`` takes the logits of the model and of the retrained model on the same samples, both ``(..., C)``
    in any floating-point dtype. ``compute`` returns a scalar in ``[0, 1]``. Memory does not grow with the
    number of samples.

    Args:
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = Similarity()
        >>> metric.update(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 2.0]]))
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True

    def update(self, logits: Tensor, retrained_logits: Tensor) -> None:
        """Add a batch.

        Raises:
            TypeError: If an argument is not a floating-point tensor.
            ValueError: If the shapes differ or there are fewer than two classes.
        """
        self.accumulate(1.0 - js_from_logits(logits, retrained_logits))


class KLDistance(SampleMean):
    """Mean KL divergence in nats of a model's posteriors from the retrained model's, KL(retrained ‖ model).

    The order is that of Chen et al., "Private Data Protection with Machine Unlearning for Next-Generation
    Networks", 2024, eq. 1, with the reference model replaced by the retrained one.

    ``update`` takes the logits of the model and of the retrained model on the same samples, both ``(..., C)``
    in any floating-point dtype. ``compute`` returns a scalar that is not negative. Memory does not grow with
    the number of samples.

    Args:
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = KLDistance()
        >>> metric.update(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        >>> metric.compute()
        tensor(0.3278)
    """

    higher_is_better = False

    def update(self, logits: Tensor, retrained_logits: Tensor) -> None:
        """Add a batch.

        Raises:
            TypeError: If an argument is not a floating-point tensor.
            ValueError: If the shapes differ or there are fewer than two classes.
        """
        self.accumulate(kl_from_logits(retrained_logits, logits, reduction="none"))


class ActivationDistance(SampleMean):
    """Mean Euclidean distance between a model's posteriors and the retrained model's.

    ``update`` takes the logits of the model and of the retrained model on the same samples, both ``(..., C)``
    in any floating-point dtype. ``compute`` returns a scalar in ``[0, sqrt(2)]``. Memory does not grow with
    the number of samples.

    Args:
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = ActivationDistance()
        >>> metric.update(torch.tensor([[0.0, 100.0]]), torch.tensor([[0.0, 0.0]]))
        >>> metric.compute()
        tensor(0.7071)
    """

    higher_is_better = False

    def update(self, logits: Tensor, retrained_logits: Tensor) -> None:
        """Add a batch.

        Raises:
            TypeError: If an argument is not a floating-point tensor.
            ValueError: If the shapes differ, there are fewer than two classes or a logit is not finite.
        """
        self.accumulate(
            activation_distance(posteriors(logits), posteriors(retrained_logits), reduction="none")
        )
