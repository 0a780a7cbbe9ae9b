"""Where the W&B runs of a comparison go, and the opening of one."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch.loggers import WandbLogger

from lightning_unlearn.core.compat import wandb_arguments

Mode = Literal["online", "offline", "disabled", "shared"]

_OURS = {"name", "dir", "id", "resume", "anonymous", "mode", "reinit", "group", "tags", "config", "settings"}
"""Arguments of ``wandb.init`` that a comparison sets itself, most of them from what was asked for."""
# finished runs are written: this process's output and load are not theirs
_SILENT = {"console": "off", "silent": True, "x_disable_stats": True}
_ONE_RUN_ONLY = {"id": "id (or version)", "job_type": "job_type", "sync_tensorboard": "sync_tensorboard"}


class Destination:
    """What a ``WandbLogger`` was told, for many runs in place of one.

    Args:
        logger: The logger; it opens no run of its own.

    Attributes:
        group: The group that was asked for, or None.
        log_model: Whether models may be sent.

    Raises:
        ValueError: If the logger was told something that only one run can do.
    """

    def __init__(self, logger: WandbLogger) -> None:
        given = wandb_arguments(logger)
        told = given.init
        for key, words in _ONE_RUN_ONLY.items():
            if told.get(key):
                raise ValueError(
                    f"trainer.logger: WandbLogger({words}=...) describes one run, and a comparison writes one a model "
                    "and seed; leave it out (group, tags and project hold for all of them)"
                )
        if given.prefix or given.experiment is not None:
            raise ValueError(
                "trainer.logger: a comparison opens W&B runs of its own and names metrics alike everywhere; give it a "
                "WandbLogger without prefix and experiment"
            )
        self.group: str | None = told.get("group")
        self.log_model = given.log_model
        self._told = told
        self._mode = "offline" if given.offline else told.get("mode")

    @property
    def in_sweep(self) -> bool:
        """Whether a W&B agent started this process; then all of it is one run, the agent's."""
        return "WANDB_SWEEP_ID" in os.environ

    @property
    def mode(self) -> Mode:
        """``online``, ``offline`` or ``disabled``; without a login nobody is asked for one, and it is offline."""
        if self._mode is None:
            self._mode = os.environ.get("WANDB_MODE") or self._online_if_known()
        return cast(Mode, {"dryrun": "offline"}.get(self._mode, self._mode))

    @property
    def identity(self) -> list[Any]:
        """What tells this destination from another."""
        return [self._told.get("entity"), self._told.get("project"), self.group, self.mode]

    def folder(self, comparison: Path) -> Path:
        """Return the folder in which W&B keeps its files: the comparison's own unless another was named."""
        named = self._told.get("dir")
        # "." is the logger's default, and no choice of anybody's
        return Path(os.environ.get("WANDB_DIR", comparison) if named in (None, ".") else named)

    @contextmanager
    def open(
        self,
        comparison: Path,
        name: str,
        *,
        group: str,
        job_type: str,
        tags: Sequence[str],
        config: Mapping[str, Any],
    ) -> Iterator[Any]:
        """Open a run and finish it, as failed if the block raises.

        Args:
            comparison: The comparison's folder.
            name: Name of the run.
            group: Its group, unless another was asked for.
            job_type: Its job type.
            tags: Tags beside those that were asked for.
            config: Its configuration, above what was asked for.

        Yields:
            The ``wandb.Run``; another run that may be live in this process is not touched.
        """
        import wandb

        folder = self.folder(comparison)
        folder.mkdir(parents=True, exist_ok=True)
        named = self._told.get("name")
        arguments = {
            **{key: value for key, value in self._told.items() if key not in _OURS},
            "name": f"{named} {name}" if named else name,
            "dir": str(folder),
            "group": self.group or group,
            "job_type": job_type,
            "tags": list(dict.fromkeys([*self._told.get("tags", ()), *tags])),
            "config": {**(self._told.get("config") or {}), **config},
            "settings": self._told.get("settings", _SILENT),
            "reinit": "create_new",
        }
        try:
            run = wandb.init(**arguments, mode=self.mode)
        except Exception as error:  # W&B documents none; without a network it raises several kinds
            if self.mode != "online":
                raise
            self._mode = "offline"  # for the runs to come too: each would wait for the network as long
            warnings.warn(
                f"W&B cannot be reached, runs are written offline: {type(error).__name__}: {error}",
                stacklevel=2,
            )
            run = wandb.init(**arguments, mode="offline")
        try:
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            yield run
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish()

    def add(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Add to the summary of a run that the server has."""
        import wandb

        told = {key: value for key, value in self._told.items() if key in ("entity", "project", "dir")}
        run = wandb.init(**told, id=run_id, resume="must", reinit="create_new", settings=_SILENT)
        run.summary.update(dict(summary))
        run.finish()

    @staticmethod
    def _online_if_known() -> str:
        import wandb

        if wandb.login(prompt=False):
            return "online"
        warnings.warn(
            "no login to W&B was found, runs are written offline; after `wandb login`, `wandb sync` sends them",
            stacklevel=2,
        )
        return "offline"
