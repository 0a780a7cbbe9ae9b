"""Train several models as one computation over stacked parameters."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from lightning_unlearn.core.compat import AnyDropout
from lightning_unlearn.core.seeds import isolated_rng
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.loading import SideBySideLoader
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.ensembles.chunk import Chunk, fuse
from lightning_unlearn.ensembles.recipe import Member, Recipe, first_module, member_loader
from lightning_unlearn.models.surgery import call_with, tensors_of

Batch = tuple[Tensor, Tensor]
"""Inputs ``(k, B, ...)`` and targets ``(k, B)`` of one step of k models, on the device."""


def _losses(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of each model, ``(k,)``, from logits ``(k, B, C)`` and targets ``(k, B)``."""
    if loss is F.cross_entropy:  # one call over all rows is cheaper than a batched one
        rows = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return rows.view(targets.shape).mean(dim=1)
    losses: Tensor = vmap(loss)(logits, targets)
    return losses


class Stack:
    """Models of one architecture whose tensors are stacked along a new first dimension.

    Attributes:
        network: The first model; its code computes all of them.
        parameters: Parameters by name, ``(k, ...)`` each, leaves that require a gradient where the network's do.
        buffers: Buffers by name, ``(k, ...)`` each.

    Args:
        modules: The models, on the CPU; the first one is taken over.
        runtime: Where and in which precision to compute.
    """

    def __init__(self, modules: Sequence[nn.Module], runtime: Runtime) -> None:
        tensors = [tensors_of(module) for module in modules]
        together = {name: torch.stack([each[name].detach() for each in tensors]) for name in tensors[0]}
        self.network = runtime.place(modules[0])
        for part in self.network.modules():
            if isinstance(part, AnyDropout) and part.p == 0:
                part.eval()  # it drops nothing, but would ask for random numbers
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            value = together[name].to(parameter.device, parameter.dtype)
            self.parameters[name] = nn.Parameter(value, requires_grad=parameter.requires_grad)
        for name, buffer in self.network.named_buffers():
            self.buffers[name] = together[name].to(buffer.device, buffer.dtype)
        names = {id(value): name for name, value in self.network.named_parameters()}
        names |= {id(value): name for name, value in self.network.named_buffers()}
        # A tensor that the state dict has under two names (tied weights) is stacked once.
        self._entries = {
            entry: names[id(value)] for entry, value in self.network.state_dict(keep_vars=True).items()
        }

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The stacked parameters to be trained, in the network's order."""
        return [parameter for parameter in self.parameters.values() if parameter.requires_grad]

    def logits(self, adapter: Adapter, inputs: Tensor) -> Tensor:
        """Ask every model about its own inputs ``(k, B, ...)``; running statistics are updated in place.

        Raises:
            RuntimeError: If the network draws random numbers, or does what ``vmap`` cannot batch.
        """

        def one(tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return adapter.call(cast(nn.Module, partial(call_with, self.network, tensors)), inputs)

        logits: Tensor = vmap(one, randomness="error")({**self.parameters, **self.buffers}, inputs)
        return logits

    def backward(self, recipe: Recipe, batch: Batch, runtime: Runtime) -> Tensor:
        """Add the gradients of a step to the parameters', and update the running statistics.

        Returns:
            The members' losses, ``(k,)``, detached.
        """
        inputs, targets = batch
        with runtime.forward_context():
            losses = _losses(recipe.loss, self.logits(recipe.adapter, inputs), targets)
        # No loss depends on another member's parameters, so the sum's gradient holds each member's own.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    def states(self) -> dict[str, Tensor]:
        """Return copies of all state dicts on the CPU, stacked."""
        tensors: dict[str, Tensor] = {**self.parameters, **self.buffers}
        return {entry: tensors[name].detach().to("cpu", copy=True) for entry, name in self._entries.items()}


def lockstep_batches(
    recipe: Recipe, data: TensorData, members: Sequence[Member], runtime: Runtime, epoch: int
) -> Iterator[Batch]:
    """Yield, step by step, the batches that each member would get when trained alone.

    Args:
        recipe: What all share.
        data: The samples.
        members: Members of equally many rows.
        runtime: Device and precision.
        epoch: Epoch, from 0.
    """
    loader = SideBySideLoader([member_loader(recipe, data, member, runtime.device) for member in members])
    loader.sampler.set_epoch(epoch)
    yield from map(runtime.to_device, loader)


def train_stacked(recipe: Recipe, data: TensorData, members: Sequence[Member], runtime: Runtime) -> Chunk:
    """Train members side by side; each ends as if trained alone, but for the order of sums.

    One optimizer steps the stack: it must treat every element by itself, as SGD and Adam do.

    Args:
        recipe: What all share.
        data: The samples.
        members: Members of equally many rows.
        runtime: Device and precision; other ranks are left alone.

    Raises:
        FloatingPointError: If a loss is not finite.
    """
    single = runtime.alone()
    stack = Stack([first_module(recipe, member) for member in members], single)
    optimizer = fuse(recipe.optimizer(stack.trainable))
    schedule: Any = None if recipe.lr_scheduler is None else recipe.lr_scheduler(optimizer)
    curves = torch.empty((len(members), recipe.epochs))
    with isolated_rng(), torch.inference_mode(False), torch.enable_grad():
        for epoch in range(recipe.epochs):
            totals, steps = torch.zeros(len(members), device=single.device), 0
            for batch in lockstep_batches(recipe, data, members, single, epoch):
                optimizer.zero_grad()
                totals += stack.backward(recipe, batch, single)
                optimizer.step()
                steps += 1
            if schedule is not None:
                schedule.step()
            curves[:, epoch] = totals.cpu() / steps
            _check_finite(curves[:, epoch], members, epoch)
    return Chunk(stack.states(), curves)


def _check_finite(losses: Tensor, members: Sequence[Member], epoch: int) -> None:
    bad = (~losses.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        raise FloatingPointError(
            f"the loss of {len(bad)} of {len(members)} models (first: the one with seed {members[bad[0]].seed}) "
            f"became {float(losses[bad[0]])} in epoch {epoch + 1}; check the data for NaN or infinite values, or "
            "lower the learning rate"
        )
