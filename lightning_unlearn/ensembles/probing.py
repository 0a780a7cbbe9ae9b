"""Try on two members and one small batch whether models can be trained as a stack."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_unlearn.core.seeds import isolated_rng
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.recipe import Member, Recipe, first_module, member_loader
from lightning_unlearn.ensembles.stacked import Stack, lockstep_batches

_ROWS = 8
# Sums in another order differ by 1e-6 in float32 and 1e-2 in bfloat16, and a flipped ReLU by as much; a tensor
# that is computed wrongly differs by as much as it is large.
_FORWARD_TOLERANCE = 0.1
# An optimizer that treats every element by itself computes the same numbers in the same precision.
_STEP_TOLERANCE = 1e-4
_OPTIMIZER_STEPS = 3


def why_not_stacked(recipe: Recipe, data: TensorData, members: Sequence[Member], runtime: Runtime) -> str:
    """Say why models cannot be trained as a stack, by training two of them for one step both ways.

    What only a run can show is found this way: code that ``vmap`` cannot batch, random numbers drawn by the
    network, buffers that are replaced instead of updated, a transform that looks at a whole batch, an optimizer
    that mixes elements or treats parameters by their number of dimensions.

    Args:
        recipe: What all share.
        data: The samples.
        members: The members; the first two are tried.
        runtime: Device and precision.

    Returns:
        The reason, or an empty string if they can.

    Raises:
        Exception: Whatever training one model alone raises.
    """
    single = runtime.alone()
    if single.grad_scaler().is_enabled():
        return "16-mixed precision scales the loss of every model by a factor of its own; use bf16-mixed"
    first, second = members[0], members[-1]
    rows = min(_ROWS, recipe.batch_size, len(first.indices), len(second.indices))
    pair = [replace(member, indices=member.indices[:rows]) for member in (first, second)]
    with isolated_rng(0), torch.inference_mode(False), torch.enable_grad():
        expected = [_one_step(recipe, data, member, single) for member in pair]
        try:
            stack = Stack([first_module(recipe, member) for member in pair], single)
            batch = next(lockstep_batches(recipe, data, pair, single, 0))
            found = _found(stack, stack.backward(recipe, batch, single))
        except Exception as error:  # whatever the user's code raises when it meets a stack
            return f"{type(error).__name__}: {_first_line(error)}"
        for what, each in found.items():
            pairs = zip(each, (values[what] for values in expected), strict=True)
            if not all(_close(one, other, _FORWARD_TOLERANCE) for one, other in pairs):
                return f"the stack computes another {what} than a model alone"
        try:
            return _why_not_stepped(recipe, stack)
        except Exception as error:  # of anybody's optimizer
            return f"the optimizer cannot step a stack: {type(error).__name__}: {_first_line(error)}"


def _one_step(recipe: Recipe, data: TensorData, member: Member, runtime: Runtime) -> dict[str, Tensor]:
    module = runtime.place(first_module(recipe, member))
    batch = next(iter(member_loader(recipe, data, member, runtime.device)))
    inputs, targets = recipe.adapter.split(runtime.to_device(batch))
    with runtime.forward_context():
        loss = recipe.loss(recipe.adapter.call(module, inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        "loss": loss.detach(),
        "gradient": _joined([p.grad for p in module.parameters() if p.grad is not None]),
        "buffer": _joined(list(module.buffers())),
    }


def _found(stack: Stack, losses: Tensor) -> dict[str, list[Tensor]]:
    gradients = [p.grad for p in stack.parameters.values() if p.grad is not None]
    return {
        "loss": list(losses),
        "gradient": [_joined([g[k] for g in gradients]) for k in range(len(losses))],
        "buffer": [_joined([b[k] for b in stack.buffers.values()]) for k in range(len(losses))],
    }


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(1), *(t.detach().flatten().float().cpu() for t in tensors)])


def _close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    if found.shape != expected.shape:
        return False
    difference = torch.linalg.vector_norm(found.float() - expected.float())
    return bool(difference <= tolerance * torch.linalg.vector_norm(expected.float()))


def _why_not_stepped(recipe: Recipe, stack: Stack) -> str:
    """Step two models and their stack with the same random gradients, and compare."""
    generator = torch.Generator().manual_seed(0)
    together = [p.detach().clone().requires_grad_() for p in stack.trainable]
    apart = [[p.detach()[k].clone().requires_grad_() for p in together] for k in (0, 1)]
    start = _joined(together)
    optimizers = [recipe.optimizer(parameters) for parameters in (together, *apart)]
    for step in range(_OPTIMIZER_STEPS):
        for place, parameter in enumerate(together):
            # Gradients of different sizes, so that a norm over both models would be noticed.
            scale = torch.tensor([1.0, 10.0 * (step + 1)]).view(2, *[1] * (parameter.ndim - 1))
            gradient = torch.randn(parameter.shape, generator=generator) * scale
            parameter.grad = gradient.to(parameter.device, parameter.dtype)
            for k in (0, 1):
                apart[k][place].grad = parameter.grad[k].clone()
        for optimizer in optimizers:
            optimizer.step()
    pairs = zip(*apart, strict=True)
    expected = _joined([torch.stack(pair) for pair in pairs])
    if _close(_joined(together) - start, expected - start, _STEP_TOLERANCE):
        return ""
    return (
        f"{type(optimizers[0]).__name__} steps a stack otherwise than each model alone: it mixes elements of a "
        "tensor, draws random numbers, or treats parameters by their number of dimensions"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
