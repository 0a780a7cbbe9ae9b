"""Seconds a step of a member takes, measured on the first steps of a real run; decides nothing."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.chunk import Chunk, OnEpoch
from lightning_unlearn.ensembles.recipe import Member, Recipe

__all__ = ["Trainer", "seconds_per_step"]

Trainer = Callable[[Recipe, TensorData, Sequence[Member], Runtime, OnEpoch], Chunk]

# More passes over the same few batches say nothing new, and could drive a loss out of its range.
_MOST_EPOCHS = 100


class _EnoughError(Exception):
    """Ends a run that has been measured for long enough."""


def seconds_per_step(
    trainer: Trainer,
    recipe: Recipe,
    data: TensorData,
    members: Sequence[Member],
    runtime: Runtime,
    *,
    steps: int,
    seconds: float,
) -> float:
    """Measure what a step costs, by training on a few batches for a while.

    Ways are compared fairly when they are measured for equally long, since other programs take their share of
    the machine in slices of some milliseconds.

    Args:
        trainer: How to train.
        recipe: What all share.
        data: The samples.
        members: Members, with at least one full batch if there are any; one, for a trainer that takes them
            one after another.
        runtime: Device and precision.
        steps: Full batches an epoch, >= 1.
        seconds: How long to measure, at least; one epoch is measured in any case, after one that sets up
            kernels and memory.

    Returns:
        Mean seconds per step and member.
    """
    rows = min(recipe.batch_size * steps, *(len(member.indices) for member in members))
    short = [replace(member, indices=member.indices[:rows]) for member in members]
    ends: list[float] = []

    def note(_: int) -> None:
        runtime.synchronize()
        ends.append(time.perf_counter())
        if len(ends) > 1 and ends[-1] - ends[0] >= seconds:
            raise _EnoughError

    with suppress(_EnoughError):
        trainer(replace(recipe, epochs=_MOST_EPOCHS, lr_scheduler=None), data, short, runtime, note)
    batches = max(1, rows // recipe.batch_size)
    return (ends[-1] - ends[0]) / (len(ends) - 1) / (len(members) * batches)
