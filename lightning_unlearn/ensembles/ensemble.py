"""Train an ensemble: share its members out over the ranks, look into the cache, and train what is missing."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_unlearn.core.terminal import Tally
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.cache import keys_of, read_model, write_model
from lightning_unlearn.ensembles.chunk import Chunk, join_chunks
from lightning_unlearn.ensembles.plan import TRAINERS, Plan, Way, decide, even_chunks
from lightning_unlearn.ensembles.recipe import Member, Recipe, Samples, check_members
from lightning_unlearn.ensembles.workers import in_workers


@dataclass(frozen=True)
class Ensemble:
    """K trained models, on every rank the same.

    Attributes:
        states: Every entry of ``state_dict()``, stacked over the models in the order of the members,
            ``(K, ...)`` on the CPU.
        losses: Loss curves, ``(K, epochs)`` float32 on the CPU: means over the steps of an epoch.
        way: How the models were trained: ``"stacked"``, ``"sequential"``, ``"workers"``, or ``"cache"`` if all of
            them were read from disk.
        reason: Why this way was taken, in words.
        seconds: Wall-clock seconds it took.
    """

    states: dict[str, Tensor]
    losses: Tensor
    way: str
    reason: str
    seconds: float
    _build: Callable[[], nn.Module] = field(repr=False)

    def __len__(self) -> int:
        return len(self.losses)

    def state_dict(self, k: int) -> dict[str, Tensor]:
        """Return the state dict of model ``k``, its tensors views of :attr:`states`."""
        if not 0 <= k < len(self):
            raise IndexError(f"k must lie in [0, {len(self)}), the models of the ensemble, got {k}")
        return {name: value[k] for name, value in self.states.items()}

    def models(self) -> Iterator[nn.Module]:
        """Yield the models one by one, on the CPU and in evaluation mode."""
        for k in range(len(self)):
            module = self._build()
            module.load_state_dict(self.state_dict(k))
            yield module.eval()


def train_ensemble(
    recipe: Recipe,
    data: Samples,
    members: Sequence[Member],
    *,
    runtime: Runtime | None = None,
    way: Way = "auto",
    chunk: int | None = None,
    cache: str | Path | None = None,
) -> Ensemble:
    """Train K models of one architecture on rows and seeds of their own.

    Each model equals the one trained alone, with ``members=[member]`` and ``way="sequential"``, but for the
    order of sums: to 1e-8 in float64 after some steps. Its order, augmentation and weights come from its own
    seed; its batches, normalisation statistics and loss curve are its own. Members side by side have equally
    many rows.

    The ways:

    - ``"sequential"``: one after another, by :func:`train_classifier`.
    - ``"stacked"``: side by side, their parameters stacked, by :func:`torch.func.vmap`.
    - ``"workers"``: in single-threaded processes, one a core, each in the better of the ways above. On Linux
      and on the CPU.
    - ``"auto"``: side by side where a step is mostly overhead: without convolutions, in small batches, and on a GPU
      as long as a step leaves it idle; otherwise one after another. On a CPU in workers, if there are several cores
      and enough to do.

    A way that is impossible falls back to one after another. It is tried on two members first: a network that
    draws random numbers or that cannot be batched, an optimizer that does not treat every element by itself
    and 16-mixed precision (whose loss scale is each model's own) cannot be stacked.

    Args:
        recipe: What all share.
        data: The samples, of which members say the rows they are trained on; or what makes the batches of a member
            where only their own loader can: such models are trained one after another, and not kept.
        members: The members, at least one.
        runtime: Device, precision and ranks, as of a running Trainer; each rank trains its share of the members.
            ``None`` computes on the CPU in float32, in this process alone.
        way: How to train.
        chunk: Largest number of members side by side, >= 1; ``None`` for as many as fit the memory and pay.
        cache: Folder in which every finished model is kept under a hash of all that determines it, and
            looked for first: so a run that was interrupted goes on, and another caller's equal models are
            taken. The way of training does not count, nor does the device. ``None`` keeps nothing.

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
    """
    start = time.perf_counter()
    check_members(members, len(data) if isinstance(data, TensorData) else math.inf)
    if cache is not None and not isinstance(data, TensorData):
        raise ValueError(
            "cache needs samples in memory: of a loader it cannot be told what it gives; leave it out"
        )
    used, folder = runtime or Runtime(), None if cache is None else Path(cache)
    numbers = list(range(used.rank, len(members), used.world_size))
    with used.all_or_none("train its members"):
        mine = _train([members[number] for number in numbers], recipe, data, used, way, chunk, folder)
    numbers_of, trained, hows, whys = zip(*used.gather_objects((numbers, *mine)), strict=True)
    order = torch.tensor([number for some in numbers_of for number in some]).argsort()
    whole = join_chunks([chunk for chunk in trained if chunk is not None])[order]
    seconds = time.perf_counter() - start
    return Ensemble(whole.states, whole.losses, hows[0], whys[0], seconds, recipe.build)


def _train(
    members: Sequence[Member],
    recipe: Recipe,
    data: Samples,
    runtime: Runtime,
    way: Way,
    chunk: int | None,
    folder: Path | None,
) -> tuple[Chunk | None, str, str]:
    """Train or find the members of this rank; return them, the way and the reason."""
    if not members:
        return None, "sequential", "no member is left for this rank"
    models: dict[int, Chunk] = {}
    keys: list[str] = []
    if folder is not None and isinstance(data, TensorData):
        keys = keys_of(recipe, data, members, runtime)
        found = ((number, read_model(folder, key)) for number, key in enumerate(keys))
        models = {number: model for number, model in found if model is not None}
    missing = [number for number in range(len(members)) if number not in models]
    how, why = "cache", f"every model was in {folder}"
    if missing:
        todo = [members[number] for number in missing]
        plan = decide(recipe, data, todo, runtime, way, chunk)
        how, why = plan.way, plan.reason
        tell, done = Tally("models are trained", len(todo)), 0
        for numbers, trained in _chunks(recipe, data, todo, runtime.alone(), plan):
            for place, number in enumerate(numbers):
                model = models[missing[number]] = trained[place : place + 1]
                if folder is not None:
                    write_model(folder, keys[missing[number]], model)
            done += len(numbers)
            tell(done)
    return join_chunks([models[number] for number in range(len(members))]), how, why


def _chunks(
    recipe: Recipe, data: Samples, members: Sequence[Member], runtime: Runtime, plan: Plan
) -> Iterator[tuple[list[int], Chunk]]:
    """Train chunk by chunk, and yield each with the numbers of its members."""
    chunks = even_chunks(members, plan.chunk, plan.workers)

    def work(numbers: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        done = TRAINERS[plan.trainer](recipe, data, [members[number] for number in numbers], runtime)
        return done.states, done.losses

    for numbers, done in in_workers(work, chunks, plan.workers):
        yield numbers, Chunk(*done)
