"""Spread a module over processes, parameter by parameter (FSDP2), and put it together again."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_unlearn.models.surgery import clone, tensors_of

M = TypeVar("M", bound=nn.Module)


def spread_out(module: M, mesh: DeviceMesh) -> M:
    """Return a module like one given whose parameters, which it takes over, are spread over the processes of a mesh.

    The whole module is one unit of :func:`torch.distributed.fsdp.fully_shard`: between steps a process holds
    its share of parameters, gradients and optimizer state; forward and backward passes gather the parameters.

    Args:
        module: Any module, alike on every process; it is left without values until :func:`gather_shards` fills it.
        mesh: One-dimensional mesh of the processes that share the data.
    """
    values = {name: parameter.data for name, parameter in module.named_parameters()}
    copy = clone(emptied(module))
    for name, parameter in copy.named_parameters():
        parameter.data = values.pop(name)
    fully_shard(copy, mesh=mesh, reshard_after_forward=True)  # else a pass without a backward leaves it whole
    return copy


def emptied(module: M) -> M:
    """Let go of the values of a module's parameters, which stay as they are otherwise."""
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)
    return module


def whole(value: Tensor | float) -> Tensor:
    """Return a number computed from spread parameters as a plain tensor, the same on every process."""
    tensor = torch.as_tensor(value)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_sharded(module: nn.Module) -> bool:
    """Return whether any parameter of a module is spread over processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def gather_shards(sharded: nn.Module, whole: nn.Module) -> None:
    """Give a whole module the values and modes of a spread one, on every process; all must call this.

    Buffers, which are not spread, are those of the own process.
    """
    parts = tensors_of(sharded)
    with torch.no_grad():
        for name, tensor in tensors_of(whole).items():
            part = parts[name]
            # of the part's type, which the strategy's precision may have changed
            value = part.full_tensor() if isinstance(part, DTensor) else part.detach().clone()
            tensor.data = value.to(tensor.device)
    for part_of_whole, part_of_sharded in zip(whole.modules(), sharded.modules(), strict=True):
        part_of_whole.training = part_of_sharded.training


def scatter_shards(whole: nn.Module, sharded: nn.Module) -> None:
    """Copy a whole module's parameters and buffers, alike on every process, into a spread one."""
    tensors = tensors_of(whole)
    with torch.no_grad():
        for name, part in tensors_of(sharded).items():
            local_part(part).copy_(local_part_of(tensors[name].to(part.device), part))


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, sharing its memory; all of it, if it is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_part_of(whole: Tensor, like: Tensor) -> Tensor:
    """Return the part of a whole tensor, alike on every process, that this process would hold of it.

    Args:
        whole: A tensor on the device of ``like`` and of its shape.
        like: The tensor that says how it is spread.
    """
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements).to_local()
