"""The live display of a comparison: which model, seed and epoch, and the time left."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import lightning as L

from lightning_unlearn.core.processes import is_first
from lightning_unlearn.core.terminal import LOG, encodable, say
from lightning_unlearn.reports.glossary import describe, format_number

_INTERIM = ("accuracy/forget", "accuracy/test", "membership_inference/auc")
"""Scores of one seed that are shown as soon as they are known."""


class Progress(L.Callback):
    """Shows the parts of a comparison as they run: a bar below finished rows on a terminal, a line a part elsewhere.

    As a callback of the running part's Trainer it shows the epoch as well.

    Args:
        parts: Number of parts.
        quiet: Whether to show nothing.
    """

    def __init__(self, parts: int, *, quiet: bool = False) -> None:
        self.parts = parts
        self.quiet = quiet
        self.live = not quiet and sys.stdout.isatty()
        self._encoding = sys.stdout.encoding  # that of the live display's stand-in is not known
        self.finished = 0
        self._what = ""
        self._start = 0.0
        self._bar: Any = None
        self._task: Any = None
        self._process = os.getpid()
        self._level = LOG.level

    def __enter__(self) -> "Progress":
        if self.quiet:
            LOG.setLevel(logging.WARNING)
        if self.live:
            from rich import progress as rich
            from rich.console import Console

            self._bar = rich.Progress(
                rich.TextColumn("{task.description:<44}"),
                rich.BarColumn(bar_width=16),
                rich.MofNCompleteColumn(),
                rich.TimeElapsedColumn(),
                rich.TextColumn("left"),
                rich.TimeRemainingColumn(),
                transient=True,
                console=Console(),  # rich's own shows nothing while another display has it
            )
            self._task = self._bar.add_task("starting", total=self.parts)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        LOG.setLevel(self._level)
        if self._bar is not None:
            self._bar.stop()

    def start(self, model: str, seed: int, step: str = "train") -> None:
        """Begin a part."""
        self._what, self._start = f"seed {seed} · {model} · {step}", time.perf_counter()
        self._describe(self._what)

    def done(
        self,
        scores: Mapping[str, float] = MappingProxyType({}),
        *,
        failed: bool = False,
        there: bool = False,
        seconds: float | None = None,
    ) -> None:
        """End the part that was begun; what it measured, or that it failed, stays on the terminal.

        One that was there already took no time, and one that was done elsewhere took the seconds that are given.
        """
        self.skip(1)
        seconds = time.perf_counter() - self._start if seconds is None else seconds
        end = "FAILED" if failed else "there already" if there else f"{seconds:.1f} s"
        shown = [
            f"{describe(n).short} {format_number(describe(n), scores[n])}" for n in _INTERIM if n in scores
        ]
        line = " · ".join([f"[{self.finished}/{self.parts}] {self._what}: {end}", *shown])
        if self._bar is None and not self.quiet:
            say(line)
        elif self._bar is not None and (failed or shown):
            line = encodable(line, self._encoding)
            self._bar.console.print(line, style="red" if failed else None, markup=False, soft_wrap=True)

    def skip(self, parts: int) -> None:
        """Count parts that have ended, or that cannot run."""
        self.finished += parts
        if self._bar is not None:
            self._bar.advance(self._task, parts)

    def how_far(self) -> str:
        """Say how far the comparison came, for one that is stopped."""
        if not is_first():
            return ""
        return f"Stopped after {self.finished} of {self.parts}. Run the same command to go on."

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the epoch of the running part."""
        self.show_epoch(trainer.current_epoch + 1, trainer.max_epochs)

    def show_epoch(self, epoch: int, epochs: int | None) -> None:
        """Show how far the running part is."""
        total = f"/{epochs}" if epochs and epochs > 0 else ""
        self._describe(f"{self._what} · epoch {epoch}{total}")

    def _describe(self, text: str) -> None:
        # a process that a strategy forked must not draw on the terminal of this one
        if self._bar is not None and os.getpid() == self._process:
            self._bar.update(self._task, description=encodable(text, self._encoding))

    def __getstate__(self) -> dict[str, Any]:
        """Go to another process without the display."""
        return {**self.__dict__, "_bar": None, "live": False, "quiet": True}
