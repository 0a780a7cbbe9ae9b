"""Ensembles of modules that train themselves: one ``Trainer.fit`` after another, or in worker processes."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_unlearn.core.seeds import derive_seed, isolated_rng
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.chunk import Chunk, join_chunks, state_of
from lightning_unlearn.ensembles.result import Ensemble
from lightning_unlearn.ensembles.workers import Note, in_workers, why_no_workers

__all__ = ["fit_each"]

_QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
_NUMPY_SEEDS = 2**32


def fit_each(
    build: Callable[[], L.LightningModule],
    data: Sequence[Any],
    *,
    seeds: Sequence[int] | None = None,
    workers: int = 1,
    **trainer: Any,
) -> Ensemble:
    """Train modules with a ``training_step`` of their own, each by a ``Trainer.fit`` of its own.

    What such a module does cannot be computed side by side, so this is no faster than a loop, unless worker
    processes share the work.

    Args:
        build: Makes an untrained module, drawing its weights from PyTorch's global random numbers.
        data: What each module is fitted on: a datamodule, or training dataloaders. One entry a module.
        seeds: Seed of everything random about each module, >= 0; ``None`` for 0, 1, 2, …
        workers: Single-threaded processes that fit at the same time, >= 1; dataloaders must then have no
            worker processes of their own. With 1, or where there can be none, modules are fitted in this process.
        **trainer: Arguments of :class:`lightning.Trainer`. Unless given, it neither logs nor writes
            checkpoints nor shows anything.

    Returns:
        The ensemble. Its loss curves are means of what ``training_step`` returned, NaN where it returned no loss
        and for epochs that a module did not train.

    Raises:
        ValueError: If there is no data, the numbers of seeds and data differ, or ``workers`` < 1.
        Exception: What a fit raises.
    """
    start = time.perf_counter()
    if not data:
        raise ValueError("data is empty; give a datamodule or dataloaders for each module")
    chosen = list(range(len(data))) if seeds is None else list(seeds)
    if len(chosen) != len(data):
        raise ValueError(f"seeds must have one entry for each of the {len(data)} of data, got {len(chosen)}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")

    def fit(number: int, note: Note) -> dict[str, Any]:
        return _fit(build, data[number], chosen[number], {**_QUIET, **trainer})

    why_not = why_no_workers() if workers > 1 else "one worker was asked for"
    if why_not:
        done = {number: fit(number, lambda _: None) for number in range(len(data))}
    else:
        done = dict(in_workers(fit, range(len(data)), workers))
    curves = torch.nn.utils.rnn.pad_sequence(
        [done[number]["losses"] for number in range(len(data))], batch_first=True, padding_value=float("nan")
    )
    states = [
        {name: value[None] for name, value in done[number]["state"].items()} for number in range(len(data))
    ]
    whole = join_chunks([Chunk(state, curve[None]) for state, curve in zip(states, curves, strict=True)])
    return Ensemble(
        whole.states,
        whole.losses,
        "sequential" if why_not else "workers",
        f"a training_step is run as it is; {why_not or f'{workers} workers were asked for'}",
        time.perf_counter() - start,
        build,
        Adapter(),
        Runtime(),
    )


def _fit(
    build: Callable[[], L.LightningModule], data: Any, seed: int, trainer: dict[str, Any]
) -> dict[str, Any]:
    curve = _Curve()
    callbacks = trainer.get("callbacks") or []
    callbacks = [*callbacks] if isinstance(callbacks, list | tuple) else [callbacks]
    with isolated_rng(derive_seed(seed, "weights")):
        module = build()
    with isolated_rng(derive_seed(seed, "training")):
        random.seed(seed)
        np.random.seed(derive_seed(seed, "numpy") % _NUMPY_SEEDS)  # noqa: NPY002  what users' code draws from
        L.Trainer(**{**trainer, "callbacks": [*callbacks, curve]}).fit(module, data)
    return {"state": state_of(module), "losses": torch.tensor(curve.means)}


class _Curve(L.Callback):
    """Keeps the mean loss of every epoch."""

    def __init__(self) -> None:
        self.means: list[float] = []
        self._losses: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach())

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.means.append(float(torch.stack(self._losses).mean()) if self._losses else float("nan"))
        self._losses.clear()
