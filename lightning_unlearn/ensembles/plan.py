"""Which way to train an ensemble: what is possible, and what is fastest here; trains nothing to the end."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import torch

from lightning_unlearn.core.compat import AnyConvolution
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.chunk import alone, train_one_by_one
from lightning_unlearn.ensembles.grouped import grouped_forward
from lightning_unlearn.ensembles.memory import activation_bytes, models_that_fit
from lightning_unlearn.ensembles.probing import why_not_stacked
from lightning_unlearn.ensembles.recipe import Member, Recipe, first_module, member_loader
from lightning_unlearn.ensembles.stacked import Forward, train_stacked, vmap_forward
from lightning_unlearn.ensembles.timing import Trainer, seconds_per_step
from lightning_unlearn.ensembles.workers import Note, available_cores, in_workers, why_no_workers

__all__ = ["TRAINERS", "Plan", "Way", "decide", "even_chunks"]

Way = Literal["auto", "stacked", "grouped", "sequential", "workers"]

_FORWARDS: dict[str, Forward] = {"grouped": grouped_forward, "stacked": vmap_forward}
TRAINERS: dict[str, Trainer] = {
    "sequential": train_one_by_one,
    **{name: partial(train_stacked, forward=forward) for name, forward in _FORWARDS.items()},
}

# Share of the time of training one after another for which each way is measured, and the longest in seconds.
_SHARE, _LONGEST = 0.005, 1.0
# Measuring one member takes two steps at least, which is too much with fewer steps in all than these.
_FEWEST_STEPS = 50
# Steps an epoch of a measurement has where they are affordable: what is done once an epoch is done less often then.
_STEPS = 4
# Starting workers and measuring in them takes a good tenth of a second.
_WORKERS_FROM_SECONDS = 3.0
# A stack is measured small and larger. If larger is faster it is made as large as memory allows, on a CPU not
# beyond the point where nothing is gained any more; if not, it outgrew the caches.
_SMALL, _LARGER, _CPU_MOST = 4, 16, 64
# How much faster a stack is expected to be, at least, where there are no convolutions; with them, not at all.
_ROWS_FASTER = 3.0
# One thread instead of several can turn the order of two ways round, but not of ways further apart.
_CLOSE = 2.0


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


@dataclass(frozen=True)
class _Candidate:
    """A way to train in one process, with the number of members side by side."""

    trainer: str
    models: int = 1


_ALONE = _Candidate("sequential")
_Seconds = dict[_Candidate, float]


@dataclass
class _Measured:
    """Seconds per step and member in this process, and in workers that all measure at the same time.

    With them the seconds in which the workers had started.
    """

    here: _Seconds = field(default_factory=dict)
    there: _Seconds = field(default_factory=dict)
    start_workers: float = 0.0


_REMEMBERED: dict[tuple[Any, ...], _Measured] = {}


def even_chunks(
    recipe: Recipe, data: TensorData, members: Sequence[Member], size: int, workers: int = 1
) -> list[list[int]]:
    """Divide members into chunks that can be trained in lockstep, none larger than ``size``, about equally large.

    Args:
        recipe: What all share.
        data: The samples.
        members: The members.
        size: Largest chunk, >= 1.
        workers: Number of chunks there should be at least, so that every worker has one.

    Returns:
        Numbers of the members of each chunk; members of a chunk have equally many steps an epoch.
    """
    by_steps: dict[int, list[int]] = {}
    for number, member in enumerate(members):
        by_steps.setdefault(len(member_loader(recipe, data, member)), []).append(number)
    chunks = []
    for _, group in sorted(by_steps.items(), reverse=True):
        parts = min(len(group), max(-(-len(group) // size), workers))
        chunks += [group[part::parts] for part in range(parts)]
    return chunks


def decide(
    recipe: Recipe,
    data: TensorData,
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
    if way not in get_args(Way):
        raise ValueError(f"way must be one of {sorted(get_args(Way))}, got {way!r}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if way == "sequential":
        return Plan("sequential", 1, 0, "asked for")
    chooser = _Chooser(recipe, data, members, runtime, chunk)
    if way in _FORWARDS:
        why_not = why_not_stacked(recipe, data, members, runtime, _FORWARDS[way])
        if why_not:
            return Plan("sequential", 1, 0, f"{way} is impossible here: {why_not}")
        return Plan(way, chooser.most, 0, "asked for")
    if way == "workers" and not chooser.workers:
        return replace(chooser.plan(), reason=f"workers are impossible here: {chooser.why_no_workers}")
    return chooser.plan(only_workers=way == "workers")


class _Chooser:
    """Measures ways for one ensemble, as far as that pays, and plans."""

    def __init__(
        self,
        recipe: Recipe,
        data: TensorData,
        members: Sequence[Member],
        runtime: Runtime,
        chunk: int | None,
    ) -> None:
        self.recipe, self.data, self.runtime = recipe, data, alone(runtime)
        # The longest first: they have the full batches that are measured.
        self.members = sorted(members, key=lambda member: -len(member.indices))
        self.network = self.runtime.place(first_module(recipe, members[0]))
        self.on_cpu = runtime.device.type == "cpu"
        # Without convolutions a step is mostly overhead, which a stack shares: the larger it is, the less is left.
        self.rows = not any(isinstance(m, AnyConvolution) for m in self.network.modules())
        fitting = chunk or (min(self._fitting(), _CPU_MOST) if self.on_cpu else self._fitting())
        self.most = min(fitting, len(members))
        self.larger = min(_LARGER, self.most) if self.on_cpu else self.most
        self.steps = recipe.epochs * sum(len(member_loader(recipe, data, member)) for member in members)
        self.workers, self.why_no_workers = _possible_workers(runtime, len(members))
        self.measured = _REMEMBERED.setdefault(self._kind(), _Measured())
        self.impossible: list[str] = []

    def plan(self, only_workers: bool = False) -> Plan:
        """Return the plan that is expected to take the least time."""
        stacks = self._possible_stacks()
        if not stacks and not self.workers:
            return self._planned(_ALONE, 0, "there is no other way")
        seconds = self._measure_here(stacks)
        if not seconds or (self.rows and stacks and len(seconds) == 1):
            usual = stacks[-1] if stacks and (self.rows or not self.on_cpu) else _ALONE
            return self._planned(usual, self.workers if only_workers else 0, "too few steps to measure")
        totals = {(each, 0): self.steps * value for each, value in seconds.items()}
        if self.workers and (only_workers or min(totals.values()) > _WORKERS_FROM_SECONDS):
            fastest = min(seconds.values())
            start, there = self._measure_there(
                [k for k, value in seconds.items() if value <= _CLOSE * fastest]
            )
            busiest = -(-len(self.members) // self.workers) / len(self.members)
            for each, value in there.items():
                totals[each, self.workers] = start + self.steps * value * busiest
        best, workers = min((key for key in totals if key[1] or not only_workers), key=totals.__getitem__)
        order = sorted(totals, key=totals.__getitem__)
        said = [f"{_words(*key)} {totals[key]:.2g} s" for key in order]
        return self._planned(best, workers, "estimated: " + ", ".join(said))

    def _planned(self, best: _Candidate, workers: int, reason: str) -> Plan:
        chunk = self.most if best.models == self.larger else best.models
        return Plan(best.trainer, chunk, workers, "; ".join([reason, *self.impossible]))

    def _possible_stacks(self) -> list[_Candidate]:
        found: list[_Candidate] = []
        if self.most == 1:
            self.impossible.append("only one model fits the memory or was asked for")
            return found
        for name, forward in _FORWARDS.items():
            why_not = why_not_stacked(self.recipe, self.data, self.members, self.runtime, forward)
            if why_not:
                self.impossible.append(f"{name} is impossible here: {why_not}")
                continue
            smaller = self.larger if self.rows else min(_SMALL, self.larger)
            found += [_Candidate(name, models) for models in sorted({smaller, self.larger})]
            if self.on_cpu:
                break  # on a CPU, vmap has not once been seen to be faster than grouped
        return found

    def _measure_here(self, stacks: Sequence[_Candidate]) -> _Seconds:
        """Measure what is affordable; nothing if there is too little to do."""
        known = self.measured.here
        if _ALONE not in known:
            if self.steps < _FEWEST_STEPS:
                return {}
            known[_ALONE] = self._seconds(_ALONE, 0.0)  # two steps, to know for how long to measure
            if self._window() > known[_ALONE]:
                known[_ALONE] = self._seconds(_ALONE, self._window())
        for each in stacks:
            affordable = self._affordable_steps(each) >= 1
            smaller = known.get(_Candidate(each.trainer, min(_SMALL, self.larger)), 0.0)
            if each not in known and affordable and smaller < _CLOSE * known[_ALONE]:
                known[each] = self._seconds(each, self._window())
        return {each: known[each] for each in [_ALONE, *stacks] if each in known}

    def _measure_there(self, candidates: Sequence[_Candidate]) -> tuple[float, _Seconds]:
        """Measure in workers, all at once, since they share caches and memory."""
        known = self.measured.there
        wanted = [each for each in candidates if each not in known]
        if wanted:
            started = time.perf_counter()
            starts: list[float] = []

            def measure(_: int, note: Note) -> list[float]:
                note(None)
                return [self._seconds(each, self._window()) for each in wanted]

            results = in_workers(
                measure,
                range(self.workers),
                self.workers,
                lambda _: starts.append(time.perf_counter() - started),
            )
            each_worker = [values for _, values in results]
            known |= {
                each: max(values) for each, values in zip(wanted, zip(*each_worker, strict=True), strict=True)
            }
            self.measured.start_workers = max(starts)
        return self.measured.start_workers, {each: known[each] for each in candidates}

    def _window(self) -> float:
        """Return for how many seconds to measure."""
        return min(_LONGEST, _SHARE * self.steps * self.measured.here[_ALONE])

    def _seconds(self, candidate: _Candidate, window: float) -> float:
        return seconds_per_step(
            TRAINERS[candidate.trainer],
            self.recipe,
            self.data,
            self.members[: candidate.models],
            self.runtime,
            steps=max(1, min(_STEPS, self._affordable_steps(candidate))),
            seconds=window,
        )

    def _affordable_steps(self, candidate: _Candidate) -> int:
        """Return how many steps an epoch of a measurement may have: one epoch sets up, at least one is measured."""
        faster = _ROWS_FASTER if self.rows and candidate.models > 1 else 1.0
        return int(faster * self.steps * _SHARE / (2 * candidate.models))

    def _fitting(self) -> int:
        weights = sum(tensor.nbytes for tensor in (*self.network.parameters(), *self.network.buffers()))
        inputs, _ = next(iter(member_loader(self.recipe, self.data, self.members[0], self.runtime.device)))
        with torch.inference_mode(False), self.runtime.forward_context():
            inputs = self.runtime.precision.convert_input(inputs[:2])
            activations, _ = activation_bytes(self.network, inputs)
        # Weights, gradients, two moments and a temporary; outputs, their gradients and copies in other layouts.
        each = 5 * weights + 3 * activations * self.recipe.batch_size
        return models_that_fit(each, self.runtime.device)

    def _kind(self) -> tuple[Any, ...]:
        """Return what a step's time depends on; names, so that nothing is kept alive."""
        recipe, data = self.recipe, self.data
        optimizer = recipe.optimizer([p for p in self.network.parameters() if p.requires_grad])
        callables = (recipe.loss, data.transform, data.augment if recipe.augment else None)
        return (
            repr(self.network),
            tuple(p.shape for p in self.network.parameters()),
            (recipe.batch_size, tuple(data.inputs.shape[1:]), data.inputs.dtype),
            type(optimizer).__qualname__,
            tuple(getattr(each, "__qualname__", type(each).__qualname__) for each in callables),
            (
                str(self.runtime.device),
                self.runtime.precision.precision,
                torch.get_num_threads(),
                self.workers,
            ),
        )


def _possible_workers(runtime: Runtime, members: int) -> tuple[int, str]:
    """Return how many workers this rank may have, and why none if none."""
    if runtime.device.type != "cpu":
        return 0, "the models are trained on an accelerator"
    why_not = why_no_workers()
    if why_not:
        return 0, why_not
    here = runtime.world_size if runtime.trainer is None else runtime.trainer.num_devices
    workers = min(available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", here)), members)
    return (workers, "") if workers > 1 else (0, "there is only one core, or one member, for this process")


def _words(candidate: _Candidate, workers: int) -> str:
    models = f" by {candidate.models}" if candidate.models > 1 else ""
    return f"{candidate.trainer}{models}" + (f" in {workers} workers" if workers else "")
