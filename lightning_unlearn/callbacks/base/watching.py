"""Looking on while a model is trained, for what cannot be asked of the finished model; evaluates none itself."""

import json
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L

from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.ensembles import Runtime

__all__ = ["WatchRecorder", "Watcher", "read_watched"]


class Watcher(L.Callback):
    """Looks at a model before training and after every so many epochs of it.

    An evaluator that has a course to show, and not only a score at the end, returns one from
    :meth:`~lightning_unlearn.callbacks.Evaluator.watching`. A comparison puts it into the Trainer that fits
    the method, and what it saw into the evaluator's details.

    Args:
        every_n_epochs: How many epochs lie between two looks, at least 1.

    Attributes:
        record: What was seen so far; plain values that JSON can hold.
        seconds: Wall-clock seconds that the looks after the first took, the device synchronised. The first one
            comes before a method starts its clock; these come while it runs and are none of the method's.
    """

    def __init__(self, every_n_epochs: int) -> None:
        self.every_n_epochs = every_n_epochs
        self.record: dict[str, Any] = {}
        self.seconds = 0.0

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int) -> None:
        """Look at the model and put what is seen into :attr:`record`.

        Weights, modes and random state must be afterwards as they were before.

        Args:
            trainer: The running trainer; all ranks look at once.
            pl_module: The module in training.
            epoch: Epochs done; 0 before the first step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define look()")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the model that training starts from; a resumed run has done so already."""
        if trainer.global_step == 0:
            self.look(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the model as it is after this epoch."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs:
            return
        runtime = Runtime(trainer)
        runtime.synchronize()
        start = time.perf_counter()
        as_exported = getattr(pl_module, "looked_at", nullcontext)  # an unlearning method's
        with as_exported():
            self.look(trainer, pl_module, epoch)
        runtime.synchronize()
        self.seconds += time.perf_counter() - start


class WatchRecorder(L.Callback):
    """Writes what watchers saw to a file, since nothing else comes back from the processes a strategy may start.

    Args:
        path: The file, for :func:`read_watched`.
        watchers: Name of an evaluator to its watcher, which must be in the same trainer.
    """

    def __init__(self, path: Path, watchers: Mapping[str, Watcher]) -> None:
        self.path = path
        self.watchers = dict(watchers)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file, on the first rank."""
        if trainer.is_global_zero:
            content = {
                "seconds": sum(watcher.seconds for watcher in self.watchers.values()),
                "records": {name: watcher.record for name, watcher in self.watchers.items()},
            }
            write_json_atomic(self.path, content)


def read_watched(path: Path) -> tuple[float, dict[str, dict[str, Any]]]:
    """Read what a :class:`WatchRecorder` wrote.

    Args:
        path: The file; it need not exist.

    Returns:
        Seconds of the training's time that went into looking, and each evaluator's record; 0 and nothing
        without a file.
    """
    if not path.is_file():
        return 0.0, {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["seconds"], content["records"]
