"""Train members of an ensemble one after another, and hold those that are trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.engine.train import train_classifier
from lightning_unlearn.ensembles.recipe import Member, Recipe, Samples, first_module, member_loader
from lightning_unlearn.models.surgery import lay_out_for_cpu

# These are the optimizers PyTorch has a fused step for on every device it trains on.
_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)


@dataclass(frozen=True)
class Chunk:
    """Members trained to the end.

    Attributes:
        states: Every entry of ``state_dict()``, stacked over the members, ``(k, ...)`` on the CPU.
        losses: Each member's loss curve, ``(k, epochs)`` float32 on the CPU: means over the steps of an epoch.
    """

    states: dict[str, Tensor]
    losses: Tensor

    def __len__(self) -> int:
        return len(self.losses)

    def __getitem__(self, rows: slice | Tensor) -> "Chunk":
        return Chunk({name: value[rows] for name, value in self.states.items()}, self.losses[rows])


def join_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Put chunks behind one another."""
    states = {name: torch.cat([chunk.states[name] for chunk in chunks]) for name in chunks[0].states}
    return Chunk(states, torch.cat([chunk.losses for chunk in chunks]))


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's ``state_dict()`` on the CPU.

    Raises:
        TypeError: If it holds anything but tensors, which cannot be stacked.
    """
    state: Mapping[str, Tensor] = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the state dict of {type(module).__name__} must hold tensors only, got "
                f"{type(value).__name__} at {name!r}; keep other state outside get_extra_state()"
            )
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in state.items()
    }


def fuse(optimizer: Optimizer) -> Optimizer:
    """Switch an optimizer to PyTorch's fused step, where it has one and the user said nothing else.

    The update is the same; only its operations are done in one pass over the parameters.
    """
    if type(optimizer) in _FUSED:
        for group in optimizer.param_groups:
            said = group.get("fused") is not None or group.get("foreach") or group.get("differentiable")
            plain = all(
                p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in group["params"]
            )
            if not said and plain and not isinstance(group["lr"], Tensor):
                group["fused"], group["foreach"] = True, False
    return optimizer


def _ask(recipe: Recipe, inputs: Any, module: nn.Module) -> Tensor:
    return recipe.adapter.call(module, inputs)


def train_one_by_one(recipe: Recipe, data: Samples, members: Sequence[Member], runtime: Runtime) -> Chunk:
    """Train members one after another, each with :func:`train_classifier`; what every other way must equal.

    Args:
        recipe: What all share.
        data: The samples.
        members: At least one.
        runtime: Device and precision; other ranks are left alone.

    Raises:
        FloatingPointError: If a loss is not finite.
    """
    single = runtime.alone()
    chunks: list[Chunk] = []
    for member in members:
        module = single.place(first_module(recipe, member))
        if single.device.type == "cpu" and isinstance(data, TensorData):
            few, _ = recipe.adapter.split(data.batch(member.indices[:2]))
            with single.forward_context():
                lay_out_for_cpu(module, partial(_ask, recipe, few))
        try:
            losses = train_classifier(
                module,
                member_loader(recipe, data, member, single.device),
                epochs=recipe.epochs,
                optimizer=lambda parameters: fuse(recipe.optimizer(parameters)),
                lr_scheduler=recipe.lr_scheduler,
                runtime=single,
                loss=recipe.loss,
                adapter=recipe.adapter,
                seed=member.seed,
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"member with seed {member.seed}: {error}") from error
        chunks.append(Chunk({name: value[None] for name, value in state_of(module).items()}, losses[None]))
    return join_chunks(chunks)
