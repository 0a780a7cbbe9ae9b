"""Look on while a model is trained, for what cannot be asked of the finished model."""

import json
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_unlearn.core.compat import batches_stepped
from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, isolated_rng

if TYPE_CHECKING:
    from lightning_unlearn.callbacks.base.evaluator import Evaluator

Scores = Callable[[nn.Module, UnlearningDataModule, Runtime, Adapter], dict[str, float]]


class Watcher(L.Callback):
    """Looks at a model before training and after every so many epochs of it.

    An evaluator that has a course to show, and not only a score at the end, returns one from
    :meth:`~lightning_unlearn.callbacks.Evaluator.watching`. A comparison puts it into the Trainer that fits
    the method, and what it saw into the evaluator's details.

    Args:
        every_n_epochs: How many epochs lie between two looks, at least 1.
        name: Name of the evaluator, for messages.
        on_error: ``"report"`` warns and looks no more, so that training goes on; ``"raise"`` stops. With several
            processes an error always stops all of them.

    Attributes:
        record: What was seen so far; plain values that JSON can hold.
        seconds: Wall-clock seconds that the looks after the first took, the device synchronised. The first one
            comes before a method starts its clock; these come while it runs and are none of the method's.
        cpu_seconds: Those of the processor.
    """

    def __init__(
        self, every_n_epochs: int, *, name: str = "watcher", on_error: Literal["report", "raise"] = "raise"
    ) -> None:
        self.every_n_epochs = every_n_epochs
        self.name = name
        self.on_error = on_error
        self.failed = False
        self.record: dict[str, Any] = {}
        self.seconds = self.cpu_seconds = 0.0

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int) -> None:
        """Look at the model and put what is seen into :attr:`record`.

        Weights and modes must be afterwards as they were before, as the random state is.

        Args:
            trainer: The running trainer; all ranks look at once.
            pl_module: The module in training.
            epoch: Epochs done; 0 before the first step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define look()")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the model that training starts from; a resumed run has done so already."""
        if trainer.global_step == 0:
            self._look(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the model as it is after this epoch."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs:
            return
        runtime = Runtime(trainer)
        runtime.synchronize()
        start = time.perf_counter(), time.process_time()
        as_exported = getattr(pl_module, "looked_at", nullcontext)  # an unlearning method's
        with as_exported():
            self._look(trainer, pl_module, epoch)
        runtime.synchronize()
        self.seconds += time.perf_counter() - start[0]
        self.cpu_seconds += time.process_time() - start[1]

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at a model that took no step, as of a method that edits the weights once: one point is its course."""
        if trainer.max_epochs == 0:
            device = pl_module.device  # the strategy has let go of it
            self._look(trainer, pl_module.to(Runtime(trainer).device), 0)
            pl_module.to(device)

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int) -> None:
        if self.failed:
            return
        try:
            with isolated_rng():  # a project's own data may draw random numbers
                self.look(trainer, pl_module, epoch)
        except Exception:  # a curve must not cost the training; with several processes none could go on alone
            if self.on_error == "raise" or trainer.world_size > 1:
                raise
            self.failed = True
            rank_zero_warn(
                f"the curve of the evaluator {self.name!r} failed at epoch {epoch} and ends there; training goes on.\n"
                f"{traceback.format_exc()}"
            )


class Curve(Watcher):
    """Measures an evaluator's scores over the epochs of one fit, for the loggers and its results' file.

    Args:
        evaluator: The evaluator.
        every_n_epochs: How many epochs lie between two measurements.
        scores: Scores of a model by their short names, of split data under a runtime, taken apart by an adapter.
        prefix: What comes before a short name in the name of the metric.
        record: Whether the results' file holds the curve, and ``trainer.callback_metrics`` its last point.
    """

    def __init__(
        self, evaluator: "Evaluator", every_n_epochs: int, scores: Scores, *, prefix: str, record: bool
    ) -> None:
        super().__init__(every_n_epochs, name=evaluator.name, on_error=evaluator.on_error)
        self.evaluator = evaluator
        self.scores = scores
        self.prefix = prefix
        self.recorded = record

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int) -> None:
        """Measure and log."""
        if not (self.recorded or trainer.loggers):
            return
        evaluator = self.evaluator
        scores = self.scores(
            pl_module, evaluator.data_of(trainer), Runtime(trainer), evaluator.adapter_for(pl_module)
        )
        metrics = {f"{self.prefix}{score}": value for score, value in scores.items()}
        if self.recorded:
            curve = self.record.setdefault("curve", {})
            for score, value in {"epoch": epoch, **scores}.items():
                curve.setdefault(score, []).append(value)
            trainer.callback_metrics.update(
                {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
            )
        for logger in trainer.loggers:
            # not global_step, which counts the steps of a second optimizer too
            logger.log_metrics(metrics, step=batches_stepped(trainer))


class WatchRecorder(L.Callback):
    """Writes what watchers saw to a file, since nothing else comes back from the processes a strategy may start.

    Args:
        path: The file, for :func:`read_watched`.
        watchers: Name of an evaluator to its watcher, which must be in the same trainer.
    """

    def __init__(self, path: Path, watchers: Mapping[str, Watcher]) -> None:
        self.path = path
        self.watchers = dict(watchers)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file, on the first rank."""
        if trainer.is_global_zero:
            content = {
                "seconds": sum(watcher.seconds for watcher in self.watchers.values()),
                "cpu_seconds": sum(watcher.cpu_seconds for watcher in self.watchers.values()),
                "records": {name: watcher.record for name, watcher in self.watchers.items()},
                "every_n_epochs": _looks(self.watchers),
            }
            write_json_atomic(self.path, content)


def read_watched(path: Path) -> tuple[tuple[float, float], dict[str, dict[str, Any]]]:
    """Read what a :class:`WatchRecorder` wrote.

    Args:
        path: The file; it need not exist.

    Returns:
        Seconds of the training's time that went into looking, by the clock and of the processor, and each evaluator's
        record; 0 and nothing without a file.
    """
    if not path.is_file():
        return (0.0, 0.0), {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return (content["seconds"], content.get("cpu_seconds", 0.0)), content["records"]


def was_watched(path: Path, watchers: Mapping[str, Watcher]) -> bool:
    """Return whether a :class:`WatchRecorder` wrote what such watchers see, in a file that need not exist."""
    if not path.is_file():
        return not watchers
    seen: dict[str, int] = json.loads(path.read_text(encoding="utf-8")).get("every_n_epochs", {})
    return _looks(watchers).items() <= seen.items()


def _looks(watchers: Mapping[str, Watcher]) -> dict[str, int]:
    return {name: watcher.every_n_epochs for name, watcher in watchers.items()}
