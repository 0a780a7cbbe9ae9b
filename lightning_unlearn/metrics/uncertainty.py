"""Metrics of how sure a single model is."""

from torch import Tensor

from lightning_unlearn.functional import confidence, entropy, posteriors
from lightning_unlearn.metrics._base import SampleMean


class PredictiveEntropy(SampleMean):
    """Mean Shannon entropy in nats of a model's posteriors.

    A model that remembers D_f is surer there than on non-members. ``higher_is_better`` is ``None``: what to
    aim at is the retrained model's value.

    ``update`` takes logits ``(..., C)`` in any floating-point dtype. ``compute`` returns a scalar in
    ``[0, log C]``. Memory does not grow with the number of samples.

    Args:
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = PredictiveEntropy()
        >>> metric.update(torch.zeros(3, 2))
        >>> metric.compute()
        tensor(0.6931)
    """

    def update(self, logits: Tensor) -> None:
        """Add a batch.

        Raises:
            TypeError: If ``logits`` is not a floating-point tensor.
            ValueError: If there are fewer than two classes or a logit is not finite.
        """
        self.accumulate(entropy(posteriors(logits)))


class Confidence(SampleMean):
    """Mean of the largest posterior of each sample.

    ``higher_is_better`` is ``None``: what to aim at is the retrained model's value.

    ``update`` takes logits ``(..., C)`` in any floating-point dtype. ``compute`` returns a scalar in
    ``[1 / C, 1]``. Memory does not grow with the number of samples.

    Args:
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = Confidence()
        >>> metric.update(torch.zeros(3, 4))
        >>> metric.compute()
        tensor(0.2500)
    """

    def update(self, logits: Tensor) -> None:
        """Add a batch.

        Raises:
            TypeError: If ``logits`` is not a floating-point tensor.
            ValueError: If there are fewer than two classes or a logit is not finite.
        """
        self.accumulate(confidence(posteriors(logits)))
