"""Describe the models of an ensemble: the rows and the seed of each, and the recipe that all share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.seeds import derive_seed, isolated_rng
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.loading import BatchLoader, TensorLoader
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.models.freezing import hold_statistics


@dataclass(frozen=True)
class Member:
    """One model of an ensemble: what it is trained on and where it starts.

    Attributes:
        indices: Rows of the data it is trained on, ``(n,)`` int64, none twice. Members may overlap.
        seed: Seed of everything random about this member: weights, order, augmentation, dropout; >= 0.
    """

    indices: Tensor
    seed: int


@dataclass(frozen=True)
class Recipe:
    """Everything else that determines a model; the members of an ensemble share it.

    Attributes:
        build: Makes the untrained network, drawing its weights from PyTorch's global random numbers.
        epochs: Passes of every member over its rows, >= 1.
        batch_size: Samples of a step of one member, >= 1.
        optimizer: Makes the optimizer from the trainable parameters.
        lr_scheduler: Makes a schedule that is stepped once an epoch; ``None`` for a constant rate.
        loss: Loss of a batch's outputs and targets; ``None`` for that of the adapter's task.
        adapter: How the network's output is taken apart.
    """

    build: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    optimizer: OptimizerCallable
    lr_scheduler: LRSchedulerCallable | None = None
    loss: Loss = None  # type: ignore[assignment]  # set when it is made
    adapter: Adapter = field(default_factory=Adapter)

    def __post_init__(self) -> None:
        in_range("epochs", self.epochs, "[1, inf)", whole=True)
        in_range("batch_size", self.batch_size, "[1, inf)", whole=True)
        if self.loss is None:
            object.__setattr__(self, "loss", self.adapter.kind.batch_loss)  # type: ignore[unreachable]


Samples = TensorData | Callable[[Member], BatchLoader]
"""Samples in memory, or what makes the batches of a member, in its own order and in this process alone."""


def check_members(members: Sequence[Member], size: float) -> None:
    """Check that members can be trained on data of ``size`` rows.

    Raises:
        TypeError: If ``indices`` are not a one-dimensional int64 tensor.
        ValueError: If there is no member, or one has no rows, a row twice or a row outside the data.
    """
    if not members:
        raise ValueError("members is empty; an ensemble needs at least one member")
    for number, member in enumerate(members):
        rows, name = member.indices, f"members[{number}].indices"
        if not isinstance(rows, Tensor) or rows.ndim != 1 or rows.dtype != torch.int64:
            raise TypeError(
                f"{name} must be a one-dimensional int64 tensor of rows; use mask.nonzero()[:, 0]"
            )
        if not len(rows):
            raise ValueError(f"{name} is empty; a model cannot be trained on no samples")
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= size:
            raise ValueError(f"{name} must lie in [0, {size}), the rows of the data, got {low} to {high}")
        if int(torch.bincount(rows).max()) > 1:
            raise ValueError(f"{name} holds a row twice; every sample may be trained on once an epoch")
        in_range(f"members[{number}].seed", member.seed, "[0, inf)", whole=True)


def first_module(recipe: Recipe, member: Member) -> nn.Module:
    """Return the network of a member before its first step, on the CPU and in training mode."""
    with isolated_rng(derive_seed(member.seed, "weights")), torch.inference_mode(False):
        module = recipe.build()
    module.train()
    hold_statistics(module)
    return module


def member_loader(
    recipe: Recipe, data: Samples, member: Member, device: torch.device | None = None
) -> BatchLoader:
    """Return the batches a member is trained on, in its own order, in this process alone."""
    if not isinstance(data, TensorData):
        return data(member)
    return TensorLoader(
        data,
        member.indices,
        batch_size=recipe.batch_size,
        shuffle=True,
        augment=True,
        seed=member.seed,
        device=device,
        rank=0,
        world_size=1,
    )
