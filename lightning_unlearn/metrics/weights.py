"""A metric of how far a model's weights are from another's."""

import torch
from torch import nn

from lightning_unlearn.functional import weight_distance
from lightning_unlearn.metrics._base import SampleMean


class WeightDistance(SampleMean):
    r"""Mean over layers of the relative distance between the weights of two models of one architecture.

    Each layer's distance is :math:`\|w - w_{ref}\|_2 / \|w_{ref}\|_2` over its parameters (buffers, such as
    the statistics of batch normalisation, are left out);
    :func:`~lightning_unlearn.functional.weight_distance` gives them one by one. Two models trained alike from
    different seeds are far apart in this measure, so it tells how far a method moved, not how well it forgot.

    ``update`` takes the model and the reference model (source or retrained). ``compute`` returns a scalar
    that is not negative; after several updates, the mean over all their layers. Under data parallelism every
    rank holds the same weights, so the mean over the ranks is each rank's value.

    Args:
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> model, reference = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(model.weight, 3.0), torch.nn.init.constant_(reference.weight, 2.0)
        >>> _ = torch.nn.init.zeros_(model.bias), torch.nn.init.zeros_(reference.bias)
        >>> metric = WeightDistance()
        >>> metric.update(model, reference)
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False

    def update(self, model: nn.Module, reference: nn.Module) -> None:
        """Add the layers of one pair of models.

        Raises:
            ValueError: If the names or shapes of their parameters differ, or all reference parameters of a
                layer are 0.
        """
        distances = weight_distance(dict(model.named_parameters()), dict(reference.named_parameters()))
        self.accumulate(torch.stack([distance.to(self.total.device) for distance in distances.values()]))
