"""Choose how to train an ensemble: by one rule, among the ways that are possible here."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.core.compat import AnyConvolution
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.chunk import Chunk, train_one_by_one
from lightning_unlearn.ensembles.probing import why_not_stacked
from lightning_unlearn.ensembles.recipe import Member, Recipe, Samples, first_module, member_loader
from lightning_unlearn.ensembles.stacked import train_stacked
from lightning_unlearn.ensembles.workers import available_cores, why_no_workers
from lightning_unlearn.models.surgery import evaluating

Way = Literal["auto", "stacked", "sequential", "workers"]
Trainer = Callable[[Recipe, Any, Sequence[Member], Runtime], Chunk]

TRAINERS: dict[str, Trainer] = {"sequential": train_one_by_one, "stacked": train_stacked}

# On a CPU a stack shares the overhead of a step: much of it without convolutions or with few samples, else little.
_SMALL_BATCH = 8
# A stack that outgrows a CPU's caches is no faster; a GPU is given a share of what is free.
_CPU_MODELS, _CPU_BYTES, _GPU_SHARE = 64, 350e6, 0.4
# With convolutions whose outputs take more than this in a step, a GPU has enough to do with one model.
_GPU_STEP_BYTES = 100e6
# Steps of all members from which on starting processes pays; a step with convolutions takes longer.
_STEPS_FOR_WORKERS = {True: 200, False: 2000}


@dataclass(frozen=True)
class Plan:
    """How to train an ensemble.

    Attributes:
        trainer: Key of :data:`TRAINERS`.
        chunk: Largest number of members trained side by side.
        workers: Processes that train at the same time; 0 for this one alone.
        reason: Why.
    """

    trainer: str
    chunk: int
    workers: int
    reason: str

    @property
    def way(self) -> str:
        """The plan's name among the ways."""
        return "workers" if self.workers else self.trainer


def even_chunks(members: Sequence[Member], size: int, workers: int = 0) -> list[list[int]]:
    """Divide members into chunks of equally many rows, none larger than ``size``, about equally large.

    Args:
        members: The members.
        size: Largest chunk, >= 1.
        workers: Number of chunks there should be at least, so that every worker has one.

    Returns:
        Numbers of the members of each chunk.
    """
    by_rows: dict[int, list[int]] = {}
    for number, member in enumerate(members):
        by_rows.setdefault(len(member.indices), []).append(number)
    chunks = []
    for _, group in sorted(by_rows.items(), reverse=True):
        parts = min(len(group), max(-(-len(group) // size), workers))
        chunks += [group[part::parts] for part in range(parts)]
    return chunks


def decide(
    recipe: Recipe,
    data: Samples,
    members: Sequence[Member],
    runtime: Runtime,
    way: Way,
    chunk: int | None,
) -> Plan:
    """Plan the training of an ensemble.

    Args:
        recipe: What all share.
        data: The samples.
        members: This rank's members, at least one.
        runtime: Device, precision and ranks.
        way: What was asked for. A way that is impossible here falls back, and the plan says why.
        chunk: Largest number of members side by side; ``None`` for as many as fit and pay.

    Raises:
        ValueError: If ``way`` is unknown or ``chunk`` < 1.
        Exception: Whatever training a member alone raises in its first step.
    """
    one_of("way", way, *get_args(Way))
    in_range("chunk", chunk, "[1, inf)", whole=True, none=True)
    if not isinstance(data, TensorData):
        return Plan("sequential", 1, 0, "a loader of their own makes the batches")
    if way == "sequential":
        return Plan("sequential", 1, 0, "asked for")
    network, on_cpu = runtime.place(first_module(recipe, members[0])), runtime.device.type == "cpu"
    convolutional = any(isinstance(part, AnyConvolution) for part in network.modules())
    overhead = not (on_cpu and convolutional and recipe.batch_size > _SMALL_BATCH)
    size, trainer, workers, reasons = 1, "sequential", 0, []
    if way == "stacked" or (overhead and len(members) > 1):
        size = chunk or _models_that_fit(recipe, data, members[0], network, runtime, convolutional)
    if way == "stacked" or size > 1:
        if why_not := why_not_stacked(recipe, data, members, runtime):
            reasons.append(f"stacked is impossible here: {why_not}")
        else:
            trainer = "stacked"
    if way in ("auto", "workers"):
        workers, why_not = _workers(runtime, len(members))
        steps = recipe.epochs * sum(len(member_loader(recipe, data, member)) for member in members)
        if way == "workers" and why_not:
            reasons.append(f"workers are impossible here: {why_not}")
        elif way == "auto" and steps < _STEPS_FOR_WORKERS[convolutional]:
            workers = 0
    how = "by the rule" if way == "auto" else "asked for"
    return Plan(trainer, size if trainer == "stacked" else 1, workers, "; ".join(reasons) or how)


def _workers(runtime: Runtime, members: int) -> tuple[int, str]:
    """Return how many workers this rank may have, and why none if none."""
    if runtime.device.type != "cpu":
        return 0, "the models are trained on an accelerator"
    if why_not := why_no_workers():
        return 0, why_not
    here = runtime.world_size if runtime.trainer is None else runtime.trainer.num_devices
    workers = min(available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", here)), members)
    return (workers, "") if workers > 1 else (0, "there is only one core, or one member, for this process")


def _models_that_fit(
    recipe: Recipe,
    data: TensorData,
    member: Member,
    network: nn.Module,
    runtime: Runtime,
    convolutional: bool,
) -> int:
    """Return how many models fit what a stack should take, by the outputs of a network's layers."""
    kept = 0

    def note(module: nn.Module, arguments: Sequence[Tensor], output: Tensor) -> None:
        nonlocal kept
        if isinstance(output, Tensor):
            kept += output.nbytes

    inputs, _ = recipe.adapter.split(next(iter(member_loader(recipe, data, member, runtime.device))))
    inputs = runtime.precision.convert_input(inputs)
    leaves = [part for part in network.modules() if not any(part.children())]
    with ExitStack() as hooks:
        for part in leaves:
            hooks.enter_context(part.register_forward_hook(note))
        with evaluating(network), torch.no_grad(), torch.inference_mode(False), runtime.forward_context():
            recipe.adapter.call(network, inputs)
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    # Weights, gradients, two moments and a temporary; outputs, their gradients and copies in other layouts.
    each = 5 * weights + 3 * (kept + inputs.nbytes)
    if runtime.device.type != "cuda":
        return max(1, min(_CPU_MODELS, int(_CPU_BYTES // each)))
    most = _GPU_SHARE * torch.cuda.mem_get_info(runtime.device)[0] // each
    if convolutional:
        most = min(most, _GPU_STEP_BYTES // (kept + inputs.nbytes))
    return max(1, int(most))
