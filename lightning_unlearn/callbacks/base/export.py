"""Write the unlearned model when fit ends, and clear away what still remembers."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from lightning_unlearn.core.remembering import Remembering, remove, why, without_names
from lightning_unlearn.methods import UnlearningModule


class Export(L.Callback):
    """Exports the model of an unlearning method when ``fit`` ends; with ``clean`` only the export is left.

    The file is that of :meth:`~lightning_unlearn.methods.UnlearningModule.export`: a checkpoint of the source's own
    class. A fit that is interrupted exports and removes nothing, so it can be resumed.

    Args:
        path: Where to write; an existing file is replaced.
        clean: Whether to remove, after a complete fit, the files of this run that still remember, and no others:
            every checkpoint that was saved, before it was resumed too, the split beside the log (the next request
            needs one as ``previous``, so keep one with the data's ``split_path``), and configurations that name
            samples. W&B writes its own later, and is named in a warning where it names samples.

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
        self._saved: list[str] = []
        self._saved_before: list[str] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse other modules before anything is trained."""
        if stage == "fit" and not isinstance(pl_module, UnlearningModule):
            raise TypeError(
                f"Export writes the model of an unlearning method, got {type(pl_module).__name__}; other modules are "
                "saved with trainer.save_checkpoint"
            )
        self._done = False
        if stage == "fit" and self.clean:
            self._log_dir = trainer.log_dir  # every rank must ask: the answer is broadcast
            self._follow(trainer)

    def _follow(self, trainer: L.Trainer) -> None:
        """Note every checkpoint that is saved, whoever saves it: callbacks remember only some of theirs."""
        save = trainer.save_checkpoint

        def noted(filepath: Any, *arguments: Any, **named: Any) -> None:
            self._saved.append(str(Path(filepath).resolve()))
            save(filepath, *arguments, **named)

        trainer.save_checkpoint = noted  # type: ignore[method-assign]

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoints saved so far, for the run that is resumed from one of them."""
        return {"saved": sorted({*self._saved, *self._saved_before})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the checkpoints that were saved before."""
        self._saved_before = [str(name) for name in state_dict.get("saved", ())]

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Export, on the first process; every process has the whole model by now."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            assert isinstance(pl_module, UnlearningModule)  # setup() has seen to it
            pl_module.export(self.path)
            self._done = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove what remembers, after everybody has written."""
        if stage != "fit" or not self.clean:
            return
        vars(trainer).pop("save_checkpoint", None)  # which _follow() put before the class's own
        if self._done:
            kept = {Path(self.path).resolve(), *_chosen_split(trainer)}
            self.removed = [item for item in self._left(trainer) if item.file.resolve() not in kept]
            remove(self.removed)
            _name_wandb(trainer)

    def _left(self, trainer: L.Trainer) -> Iterator[Remembering]:
        """List what this run wrote and what remembers."""
        # a checkpoint may come from anybody: of what it names only its own folder is believed
        place = Path(trainer.ckpt_path).resolve().parent if trainer.ckpt_path else None
        before = [name for name in self._saved_before if Path(name).parent == place and why(Path(name))]
        for name in dict.fromkeys([*before, *self._saved]):
            if Path(name).exists():
                yield Remembering(Path(name), "a checkpoint to resume from")
        log_dirs = [found for logger in trainer.loggers if (found := getattr(logger, "log_dir", None))]
        written = [Path(folder) / "hparams.yaml" for folder in log_dirs]
        if self._log_dir is not None:
            names = [getattr(callback, "config_filename", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
            if log_dirs:
                names.append("split.npz")  # where the data saves it
            written += [Path(self._log_dir) / name for name in names if name]
        for file in dict.fromkeys(written):
            if file.is_file() and (reason := why(file)) is not None:
                yield Remembering(file, reason)


def _chosen_split(trainer: L.Trainer) -> list[Path]:
    """Return the split that the user asked to be kept."""
    path = getattr(trainer.datamodule, "split_path", None)  # type: ignore[attr-defined]
    return [] if path is None else [Path(path).resolve()]


def _name_wandb(trainer: L.Trainer) -> None:
    """Warn of W&B runs whose configuration names samples: their file is written when they end."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            config = dict(run.config)
            if without_names(config) != config:
                warnings.warn(
                    f"Export: W&B run {run.id} names forgotten samples in its configuration and writes it to "
                    f"{Path(run.dir) / 'config.yaml'} when it ends; remove that file, and the run where it was sent to",
                    stacklevel=2,
                )
