"""The folder of a comparison and of each of its runs: what is written there and what stands finished; runs nothing."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_unlearn.callbacks.watching import read_watched
from lightning_unlearn.identity import file_hash
from lightning_unlearn.io import write_json_atomic
from lightning_unlearn.processes import is_first

__all__ = ["RunFolder", "claim"]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one model of a comparison: its settings, its weights and its audit.

    Args:
        path: The folder; it need not exist yet.
    """

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The exported model."""
        return self.path / "model.ckpt"

    @property
    def facts(self) -> Path:
        """What is known of the training only while it runs."""
        return self.path / "facts.json"

    @property
    def watched(self) -> Path:
        """What evaluators saw during the training."""
        return self.path / "watched.json"

    @property
    def evaluation(self) -> Path:
        """Folder of the evaluators' own files."""
        return self.path / "evaluation"

    @property
    def _training(self) -> Path:
        return self.path / "training.json"

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.json"

    # ------------------------------------------------------------------ the training

    def is_trained(self, fingerprint: str) -> bool:
        """Whether a model was trained as asked and its file is still the one that was written."""
        content = _record(self._training, fingerprint)
        return content is not None and content.get("sha256") == file_hash(self.checkpoint) is not None

    def begin(self, config: Mapping[str, Any]) -> None:
        """Remove what stands here and write the settings of what is to come."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.describe(config)

    def describe(self, config: Mapping[str, Any]) -> None:
        """Write the settings, which readers of the folder need and no fingerprint guards."""
        write_json_atomic(self.path / "config.json", config)

    def finish_training(
        self,
        fingerprint: str,
        times: Mapping[str, float],
        method: Mapping[str, Any],
        frozen: Sequence[str] = (),
    ) -> None:
        """Record that the checkpoint is complete.

        Args:
            fingerprint: Hash of what decided it.
            times: Seconds by name, those of looking on included, which are taken off here.
            method: The method and its hyper-parameters.
            frozen: Names of the parameters that were frozen when training ended.
        """
        content = {
            "fingerprint": fingerprint,
            "times": self._unwatched(times),
            "sha256": file_hash(self.checkpoint),
            "method": method,
            "frozen": list(frozen),
        }
        write_json_atomic(self._training, content)

    def times(self) -> dict[str, float]:
        """Return the seconds that a finished training took, by name."""
        times: dict[str, float] = json.loads(self._training.read_text())["times"]
        return times

    def frozen(self) -> list[str] | None:
        """Return the names of the parameters that were frozen when the training ended, if that was noted."""
        names: list[str] | None = json.loads(self._training.read_text()).get("frozen")
        return names

    def _unwatched(self, times: Mapping[str, float]) -> dict[str, float]:
        """Take off the time that went into looking on, which the method would not have needed."""
        looking, _ = read_watched(self.watched)
        while_unlearning = ("time/unlearn_s", "time/total_s")
        return {key: value - looking * (key in while_unlearning) for key, value in times.items()}

    # ------------------------------------------------------------------ the audit

    def audit(self, fingerprint: str) -> dict[str, Any] | None:
        """Return what the audit with this fingerprint left, or None if none did."""
        return _record(self._metrics, fingerprint)

    def forget_audit(self) -> None:
        """Remove what an earlier audit left: the report reads these files, and must not take them for the new one's."""
        self._metrics.unlink(missing_ok=True)
        shutil.rmtree(self.evaluation, ignore_errors=True)

    def finish_audit(
        self, fingerprint: str, evaluators: Iterable[str], metrics: Mapping[str, float]
    ) -> dict[str, Any]:
        """Put the evaluators' files, what was watched during training and the metrics into one.

        Args:
            fingerprint: Hash of what decided the audit.
            evaluators: Names of the evaluators, each of which has left a file.
            metrics: Scores by name.

        Returns:
            What was written.
        """
        found = {name: json.loads((self.evaluation / f"{name}.json").read_text()) for name in evaluators}
        _, watched = read_watched(self.watched)
        content = {
            "fingerprint": fingerprint,
            "metrics": metrics,
            "details": {key: {**value["details"], **watched.get(key, {})} for key, value in found.items()},
            "errors": {key: value["error"] for key, value in found.items() if value["error"]},
        }
        write_json_atomic(self._metrics, content)
        return content

    def note_evaluators_error(self, name: str, error: str) -> None:
        """Keep what went wrong with an evaluator, in place of its scores."""
        content = {"metrics": {}, "details": {}, "error": error}
        write_json_atomic(self.evaluation / f"{name}.json", content)

    def note_error(self, trace: str) -> None:
        """Keep the traceback of what went wrong."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "error.txt").write_text(trace)


def claim(folder: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make a folder that of one comparison, on the first process, or say whose it is, on any.

    Args:
        folder: The output folder.
        identity: What tells this comparison from another.
        overwrite: Whether to delete what another comparison left.

    Raises:
        ValueError: If another comparison's files are there and are to stay.
    """
    mark = folder / "comparison.json"
    if mark.exists() and _read_json(mark) != identity:
        if not overwrite:
            raise ValueError(
                f"output_dir: {folder} holds another comparison (its config or forget set differs, or its "
                "comparison.json is damaged); choose another folder, or set overwrite to delete it"
            )
        if is_first():
            shutil.rmtree(folder)
    if is_first():
        write_json_atomic(mark, identity)


def _record(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return what a finished part left, if it was this very part; a damaged file is as good as none."""
    content = _read_json(path)
    return content if isinstance(content, dict) and content.get("fingerprint") == fingerprint else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
