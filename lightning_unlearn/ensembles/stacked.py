"""Training several models as one computation over stacked parameters, whatever computes their logits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from lightning_unlearn.core.compat import AnyDropout
from lightning_unlearn.core.seeds import isolated_rng
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.ensembles.chunk import Chunk, OnEpoch, alone, fuse
from lightning_unlearn.ensembles.lockstep import Part, lockstep_batches
from lightning_unlearn.ensembles.recipe import Member, Recipe, first_module
from lightning_unlearn.models.surgery import call_with

__all__ = ["Forward", "Stack", "stack_losses", "train_stacked", "vmap_forward"]

Tensors = Mapping[str, Tensor]
Forward = Callable[[nn.Module, Adapter, Tensors, Tensor, bool], Tensor]
"""``forward(network, adapter, tensors, inputs, shared)`` gives the logits ``(k, B, C)`` of k stacked models.

``tensors`` holds their parameters and buffers, ``(k, ...)`` each; running statistics are updated in place.
``inputs`` is ``(k, B, ...)``, or ``(B, ...)`` for all models alike when ``shared``.
"""


def vmap_forward(
    network: nn.Module, adapter: Adapter, tensors: Tensors, inputs: Tensor, shared: bool = False
) -> Tensor:
    """Compute the logits of stacked models by :func:`torch.func.vmap`; see :data:`Forward`.

    Raises:
        RuntimeError: If the network draws random numbers, or does what ``vmap`` cannot batch.
    """

    def one(tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return adapter.call(cast(nn.Module, partial(call_with, network, tensors)), inputs)

    mapped = vmap(one, in_dims=(0, None if shared else 0), randomness="error")
    logits: Tensor = mapped(dict(tensors), inputs)
    return logits


def stack_losses(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
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
        tensors = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
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
        # A tensor that stands in the state dict under two names (tied weights) is stacked once.
        self._entries = {
            entry: names[id(value)] for entry, value in self.network.state_dict(keep_vars=True).items()
        }

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The stacked parameters to be trained, in the network's order."""
        return [parameter for parameter in self.parameters.values() if parameter.requires_grad]

    def backward(self, recipe: Recipe, part: Part, runtime: Runtime, forward: Forward) -> Tensor:
        """Add the gradients of a part of a step to the parameters', and update the part's running statistics.

        Returns:
            The losses of the part's members, ``(k,)``, detached.
        """
        parameters: dict[str, nn.Parameter] = self.parameters
        buffers = self.buffers
        if part.members is not None:
            # Gradients with respect to copies: those through an indexing would be as large as the whole stack.
            parameters = {
                name: nn.Parameter(value.detach()[part.members], requires_grad=value.requires_grad)
                for name, value in parameters.items()
            }
            buffers = {name: value[part.members] for name, value in buffers.items()}
        with runtime.forward_context():
            logits = forward(self.network, recipe.adapter, {**parameters, **buffers}, part.inputs, False)
            losses = stack_losses(recipe.loss, logits, part.targets)
        # No loss depends on another member's parameters, so the sum's gradient holds each member's own.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        if part.members is not None:
            for name, copied in parameters.items():
                if copied.grad is not None:
                    whole = self.parameters[name]
                    if whole.grad is None:
                        whole.grad = torch.zeros_like(whole)
                    whole.grad.index_copy_(0, part.members, copied.grad)
            for name, value in buffers.items():
                self.buffers[name].index_copy_(0, part.members, value)
        return losses.detach()

    def states(self) -> dict[str, Tensor]:
        """Return copies of all state dicts on the CPU, stacked."""
        tensors: dict[str, Tensor] = {**self.parameters, **self.buffers}
        return {entry: tensors[name].detach().to("cpu", copy=True) for entry, name in self._entries.items()}


def train_stacked(
    recipe: Recipe,
    data: TensorData,
    members: Sequence[Member],
    runtime: Runtime,
    on_epoch: OnEpoch,
    forward: Forward = vmap_forward,
) -> Chunk:
    """Train members side by side; each ends as if trained alone, but for the order of sums.

    One optimizer steps the stack: it must treat every element by itself, as SGD and Adam do.

    Args:
        recipe: What all share.
        data: The samples.
        members: Members whose epochs have equally many steps.
        runtime: Device and precision; other ranks are left alone.
        on_epoch: Called with the number of member-epochs that have ended since the last call.
        forward: Computes the logits of the stack.

    Raises:
        FloatingPointError: If a loss is not finite.
    """
    single = alone(runtime)
    stack = Stack([first_module(recipe, member) for member in members], single)
    optimizer = fuse(recipe.optimizer(stack.trainable))
    schedule: Any = None if recipe.lr_scheduler is None else recipe.lr_scheduler(optimizer)
    curves = torch.empty((len(members), recipe.epochs))
    with isolated_rng(), torch.inference_mode(False), torch.enable_grad():
        for epoch in range(recipe.epochs):
            totals, steps = torch.zeros(len(members), device=single.device), 0
            for parts in lockstep_batches(recipe, data, members, single, epoch):
                optimizer.zero_grad()
                for part in parts:
                    losses = stack.backward(recipe, part, single, forward)
                    if part.members is None:
                        totals += losses
                    else:
                        totals.index_add_(0, part.members, losses.to(totals.dtype))
                optimizer.step()
                steps += 1
            if schedule is not None:
                schedule.step()
            curves[:, epoch] = totals.cpu() / steps
            _check_finite(curves[:, epoch], members, epoch)
            on_epoch(len(members))
    return Chunk(stack.states(), curves)


def _check_finite(losses: Tensor, members: Sequence[Member], epoch: int) -> None:
    bad = (~losses.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        raise FloatingPointError(
            f"the loss of {len(bad)} of {len(members)} models (first: the one with seed {members[bad[0]].seed}) "
            f"became {float(losses[bad[0]])} in epoch {epoch + 1}; check the data for NaN or infinite values, or "
            "lower the learning rate"
        )
