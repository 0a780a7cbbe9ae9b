"""Writes the unlearned model when fit ends, and clears away what still remembers; measures nothing."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.remembering import Remembering, remembering_files, remove

__all__ = ["Export"]


class Export(L.Callback):
    """Exports the model of an unlearning method when ``fit`` ends; with ``clean`` only the export is left.

    The file is that of :meth:`~lightning_unlearn.methods.UnlearningModule.export`: a checkpoint of the source's own
    class. A fit that is interrupted exports and removes nothing, so it can be resumed.

    Args:
        path: Where to write; an existing file is replaced.
        clean: Whether to remove, after a complete fit, the files of this run that still remember: the checkpoints that
            its checkpoint callbacks wrote, and what of its loggers' folders
            :func:`~lightning_unlearn.remembering.remembering_files` lists (the split among it; the next request
            needs one as ``previous``, so keep one with the data's ``split_path``).

    Attributes:
        removed: What was removed.

    Raises:
        TypeError: If what is fitted is no unlearning method.
    """

    def __init__(self, path: str, clean: bool = False) -> None:
        self.path = path
        self.clean = clean
        self.removed: list[Remembering] = []
        self._done = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse other modules before anything is trained."""
        if stage == "fit" and not isinstance(pl_module, UnlearningModule):
            raise TypeError(
                f"Export writes the model of an unlearning method, got {type(pl_module).__name__}; other modules are "
                "saved with trainer.save_checkpoint"
            )
        self._done = False

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Export, on the first process; every process has the whole model by now."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            assert isinstance(pl_module, UnlearningModule)  # setup() has seen to it
            pl_module.export(self.path)
            self._done = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove what remembers, after everybody has written."""
        if not (self._done and self.clean and stage == "fit"):
            return
        self.removed = [
            item for item in _left_by(trainer) if item.file.resolve() != Path(self.path).resolve()
        ]
        remove(self.removed)


def _left_by(trainer: L.Trainer) -> list[Remembering]:
    """List what a run wrote and what remembers, in folders that are its own and no other's."""
    root = Path(trainer.default_root_dir).resolve()
    folders = {
        Path(found).resolve() for logger in trainer.loggers if (found := getattr(logger, "log_dir", None))
    }
    listed = [
        item for folder in sorted(folders - {root}) if folder.is_dir() for item in remembering_files(folder)
    ]
    known = {item.file for item in listed}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Checkpoint):
            written = {
                getattr(callback, "best_model_path", ""),
                getattr(callback, "last_model_path", ""),
                *getattr(callback, "best_k_models", {}),
            }
            files = {Path(name).resolve() for name in written if name} - known
            listed += [
                Remembering(file, "a checkpoint to resume from") for file in sorted(files) if file.is_file()
            ]
    return listed
