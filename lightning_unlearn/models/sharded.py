"""An ensemble whose networks are trained on shards of the data, so that each sample is known to one of them alone."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.models.small import check_least


class Sharded(nn.Module):
    """Networks of one task that answer together, each for a shard of the training set: log of their mean posterior.

    Source: Bourtoule et al., "Machine Unlearning", 2021 (SISA). :func:`~lightning_unlearn.methods.sisa.train_shards`
    trains it. Trained as one network, on batches of all samples, or unlearned by anything but SISA, it is no such
    ensemble, and says so.

    Args:
        networks: The networks, each with its own initial weights; logits ``(B, C)``.
        samples: Size of the training set, the forget set and what is held out of it included.
        seed: Seed of who is in which shard.

    Attributes:
        networks: The networks.
        shard_of: The shard of each training position, ``(samples,)`` int64; a buffer, so that checkpoints hold it.
        isolated: Whether each network was trained on its shard alone; a buffer as well.

    Example:
        >>> Sharded([nn.Linear(4, 3), nn.Linear(4, 3)], samples=5)(torch.zeros(2, 4)).exp().sum(dim=1).detach().round()
        tensor([1., 1.])
    """

    shard_of: Tensor
    isolated: Tensor

    def __init__(self, networks: Sequence[nn.Module], samples: int, seed: int = 0) -> None:
        super().__init__()
        check_least(networks=len(networks), samples=samples)
        self.networks = nn.ModuleList(networks)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("shard_of", torch.randperm(samples, generator=generator) % len(networks))
        self.register_buffer("isolated", torch.tensor(False))

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the log of the mean posterior, ``(B, C)``."""
        if self.training and torch.is_grad_enabled():  # every network is about to learn from the same batch
            self.isolated.fill_(False)
        logs = torch.stack([network(*inputs, **named).log_softmax(dim=-1) for network in self.networks])
        return logs.logsumexp(dim=0) - math.log(len(self.networks))


def mark_mixed(model: nn.Module) -> None:
    """Have the ensembles in a model say that a network of theirs may know more than its shard.

    Args:
        model: The model, which need not hold any.
    """
    for part in model.modules():
        if isinstance(part, Sharded):
            part.isolated.fill_(False)
