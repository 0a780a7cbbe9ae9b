"""Training an ensemble: on which ranks, from which cache, in which chunks; the training itself is elsewhere."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.cache import keys_of, read_model, write_model
from lightning_unlearn.ensembles.chunk import Chunk, OnEpoch, alone, join_chunks, state_of
from lightning_unlearn.ensembles.plan import TRAINERS, Plan, Way, decide, even_chunks
from lightning_unlearn.ensembles.recipe import Member, Recipe, check_members, first_module
from lightning_unlearn.ensembles.result import Ensemble
from lightning_unlearn.ensembles.workers import Note, in_workers

__all__ = ["OnProgress", "train_ensemble"]

OnProgress = Callable[[int, int], None]


def train_ensemble(
    recipe: Recipe,
    data: TensorData,
    members: Sequence[Member],
    *,
    runtime: Runtime | None = None,
    way: Way = "auto",
    chunk: int | None = None,
    cache: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Ensemble:
    """Train K models of one architecture on rows and seeds of their own, in the way that is fastest here.

    Each model equals the one trained alone, with ``members=[member]`` and ``way="sequential"``, but for the
    order of sums: to 1e-8 in float64 after some steps. Its order, augmentation and weights come from its own
    seed; its batches, normalisation statistics and loss curve are its own. Members side by side have equally
    many steps an epoch; where their last batches differ in size, that step is computed in parts.

    The ways:

    - ``"sequential"``: one after another, by :func:`train_classifier`.
    - ``"stacked"``: side by side, their parameters stacked, by :func:`torch.func.vmap`.
    - ``"grouped"``: likewise, with linear layers as batched products and convolutions as grouped ones; for
      networks of ordinary layers (no dropout).
    - ``"workers"``: in single-threaded processes, one a core, each in the best of the ways above. On Linux
      and on the CPU.
    - ``"auto"`` measures a few steps of each and takes the one that is expected to end first. What was
      measured is remembered while the process lives.

    A way that is impossible falls back to one after another. It is tried on two members first: a network that
    draws random numbers or that cannot be batched, an optimizer that does not treat every element by itself
    and 16-mixed precision (whose loss scale is each model's own) cannot be stacked.

    Args:
        recipe: What all share.
        data: The samples; members say which rows they are trained on.
        members: The members, at least one.
        runtime: Device, precision and ranks, as of a running Trainer; each rank trains its share of the members.
            ``None`` computes on the CPU in float32, and shares the members with the other ranks of the
            process group or, under ``torchrun``, of the launch.
        way: How to train.
        chunk: Largest number of members side by side, >= 1; ``None`` for as many as fit the memory and pay.
        cache: Folder in which every finished model is kept under a hash of all that determines it, and
            looked for first: so a run that was interrupted goes on, and another caller's equal models are
            taken. The way of training does not count, nor does the device. ``None`` keeps nothing.
        on_progress: Called with the numbers of epochs that this rank's members have ended, and will have.

    Returns:
        The ensemble, in the order of ``members``, on every rank the same.

    Raises:
        TypeError: If ``indices`` are no int64 tensor, or with ``cache`` if something cannot be hashed.
        ValueError: If an argument is outside its range.
        FloatingPointError: If the loss of a member is not finite. Chunks that ended before stay in the cache.
        RuntimeError: If another rank failed, or a worker died.

    Example:
        >>> from functools import partial
        >>> data = TensorData(torch.randn(20, 4), torch.arange(20) % 2)
        >>> recipe = Recipe(
        ...     partial(torch.nn.Linear, 4, 2), epochs=3, batch_size=5, optimizer=partial(torch.optim.SGD, lr=0.1)
        ... )
        >>> halves = [Member(torch.randperm(20)[:10], seed) for seed in range(6)]
        >>> ensemble = train_ensemble(recipe, data, halves)
        >>> len(ensemble), ensemble.states["weight"].shape, ensemble.losses.shape
        (6, torch.Size([6, 2, 4]), torch.Size([6, 3]))
        >>> ensemble.logits(data.inputs).shape
        torch.Size([6, 20, 2])
    """
    start = time.perf_counter()
    check_members(members, len(data))
    folder = None if cache is None else Path(cache)
    with _ranks(runtime) as used:
        mine = [members[number] for number in range(used.rank, len(members), used.world_size)]
        with used.all_or_none("train its members"):
            chunk_of_mine, how, why = _train_mine(recipe, data, mine, used, way, chunk, folder, on_progress)
        if chunk_of_mine is None:  # more ranks than members
            empty = state_of(used.place(first_module(recipe, members[0])))
            states = {name: value[None][:0] for name, value in empty.items()}
            chunk_of_mine = Chunk(states, torch.empty((0, recipe.epochs)))
        whole = _gathered(chunk_of_mine, len(members), used)
        how, why = used.gather_objects((how, why))[0]
        return Ensemble(
            whole.states,
            whole.losses,
            how,
            why,
            time.perf_counter() - start,
            recipe.build,
            recipe.adapter,
            alone(used),
        )


def _train_mine(
    recipe: Recipe,
    data: TensorData,
    members: Sequence[Member],
    runtime: Runtime,
    way: Way,
    chunk: int | None,
    folder: Path | None,
    on_progress: OnProgress | None,
) -> tuple[Chunk | None, str, str]:
    """Train or find the members of this rank; return them, the way and the reason."""
    if not members:
        return None, "sequential", "no member is left for this rank"
    models: dict[int, Chunk] = {}
    keys: list[str] = []
    if folder is not None:
        keys = keys_of(recipe, data, members, runtime)
        read = ((number, read_model(folder, key)) for number, key in enumerate(keys))
        models = {number: model for number, model in read if model is not None}
    missing = [number for number in range(len(members)) if number not in models]
    ended = (len(members) - len(missing)) * recipe.epochs

    def on_epoch(epochs: int) -> None:
        nonlocal ended
        ended += epochs
        if on_progress is not None:
            on_progress(ended, len(members) * recipe.epochs)

    if ended:
        on_epoch(0)
    if not missing:
        return join_chunks([models[n] for n in range(len(members))]), "cache", f"every model was in {folder}"
    todo = [members[number] for number in missing]
    plan = decide(recipe, data, todo, runtime, way, chunk)
    for numbers, trained in _chunks(recipe, data, todo, runtime, plan, on_epoch):
        for place, number in enumerate(numbers):
            models[missing[number]] = trained[place : place + 1]
            if folder is not None:
                write_model(folder, keys[missing[number]], trained[place : place + 1])
    return join_chunks([models[n] for n in range(len(members))]), plan.way, plan.reason


def _chunks(
    recipe: Recipe,
    data: TensorData,
    members: Sequence[Member],
    runtime: Runtime,
    plan: Plan,
    on_epoch: OnEpoch,
) -> Iterator[tuple[list[int], Chunk]]:
    """Train chunk by chunk, and yield each with the numbers of its members."""
    trainer, single = TRAINERS[plan.trainer], alone(runtime)
    chunks = even_chunks(recipe, data, members, plan.chunk, max(1, plan.workers))

    def work(numbers: list[int], note: Note) -> dict[str, Any]:
        done = trainer(recipe, data, [members[number] for number in numbers], single, note)
        return {"states": done.states, "losses": done.losses}

    if plan.workers:
        for numbers, done in in_workers(work, chunks, plan.workers, on_epoch):
            yield numbers, Chunk(**done)
    else:
        for numbers in chunks:
            yield numbers, Chunk(**work(numbers, on_epoch))


def _gathered(mine: Chunk, members: int, runtime: Runtime) -> Chunk:
    """Give every rank the models of all ranks, in the order of the members."""
    if runtime.world_size == 1:
        return mine
    shares = [range(rank, members, runtime.world_size) for rank in range(runtime.world_size)]
    place = torch.tensor([number for share in shares for number in share]).argsort()
    gather = partial(_gather_rows, runtime)
    return Chunk(
        {name: gather(value)[place] for name, value in mine.states.items()}, gather(mine.losses)[place]
    )


def _gather_rows(runtime: Runtime, rows: torch.Tensor) -> torch.Tensor:
    return runtime.gather(rows.to(runtime.device)).cpu()


@contextmanager
def _ranks(runtime: Runtime | None) -> Iterator[Runtime]:
    """Give the runtime, and without one that of this process among the ranks that are there."""
    if runtime is not None:
        yield runtime
        return
    found = Runtime()
    launched = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    if launched and torch.cuda.is_available():
        found.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(found.device)
    if launched and not joined:
        torch.distributed.init_process_group()
    try:
        if launched or joined:
            found.rank, found.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        yield found
    finally:
        if launched and not joined:
            torch.distributed.destroy_process_group()
