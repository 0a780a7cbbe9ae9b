"""Batches of several members side by side, step by step; knows nothing of models."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_unlearn.data.loading import TensorLoader, _resident
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.recipe import Member, Recipe, member_loader

__all__ = ["Part", "lockstep_batches"]


class Part(NamedTuple):
    """The batches of one step of those members whose batches are equally large.

    Attributes:
        members: Which members, ``(k,)`` int64 on the device; ``None`` for all of them.
        inputs: ``(k, B, ...)`` on the device.
        targets: ``(k, B)`` int64 on the device.
    """

    members: Tensor | None
    inputs: Tensor
    targets: Tensor


def lockstep_batches(
    recipe: Recipe, data: TensorData, members: Sequence[Member], runtime: Runtime, epoch: int
) -> Iterator[list[Part]]:
    """Yield, step by step, the batches that each member would get when trained alone.

    Only in the last step of an epoch can batches differ in size between members; then it has several parts.

    Args:
        recipe: What all share.
        data: The samples.
        members: Members whose epochs have equally many steps.
        runtime: Device and precision.
        epoch: Epoch, from 0.
    """
    loaders = [member_loader(recipe, data, member, runtime.device) for member in members]
    for loader in loaders:
        loader.sampler.set_epoch(epoch)
    steps, size = len(loaders[0]), recipe.batch_size
    everyone = [_Group(None, range(len(members)), size)]
    last = _by_length([len(member.indices) - (steps - 1) * size for member in members], runtime.device)
    if recipe.augment and data.augment is not None:
        # Each member's augmentation draws from a generator of its own, as when it is trained alone.
        for step, batches in enumerate(zip(*loaders, strict=True)):
            moved = [runtime.to_device(batch) for batch in batches]
            yield [_side_by_side(moved, group) for group in (last if step == steps - 1 else everyone)]
    else:
        resident = _resident(data, runtime.device)
        orders = pad_sequence([_order(loader) for loader in loaders], batch_first=True)
        orders = orders.to(resident.inputs.device)
        for step in range(steps):
            rows = orders[:, step * size :]
            yield [
                _gathered(resident, rows, group, runtime)
                for group in (last if step == steps - 1 else everyone)
            ]


class _Group(NamedTuple):
    """Members whose batches are equally long."""

    members: Tensor | None
    numbers: Sequence[int]
    length: int


def _by_length(lengths: Sequence[int], device: torch.device) -> list[_Group]:
    groups: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        groups.setdefault(length, []).append(number)
    if len(groups) == 1:
        return [_Group(None, range(len(lengths)), lengths[0])]
    return [_Group(torch.tensor(group, device=device), group, length) for length, group in groups.items()]


def _order(loader: TensorLoader) -> Tensor:
    places = torch.cat(list(loader.sampler))
    return places if loader.positions is None else loader.positions[places]


def _gathered(data: TensorData, rows: Tensor, group: _Group, runtime: Runtime) -> Part:
    if group.members is not None:
        rows = rows[group.members.to(rows.device)]
    flat = rows[:, : group.length].flatten()
    # All members' batches are served as one: a deterministic transform treats each sample by itself.
    inputs, targets = runtime.to_device(data.batch(flat, device=runtime.device))
    shape = (len(group.numbers), group.length)
    return Part(group.members, inputs.view(*shape, *inputs.shape[1:]), targets.view(shape))


def _side_by_side(batches: Sequence[tuple[Tensor, Tensor]], group: _Group) -> Part:
    chosen = [batches[number] for number in group.numbers]
    inputs, targets = (torch.stack(parts) for parts in zip(*chosen, strict=True))
    return Part(group.members, inputs, targets)
