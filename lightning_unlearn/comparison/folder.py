"""The folder of a comparison and of each of its runs: who writes what, and what is finished."""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lightning_unlearn.callbacks.base.watching import read_watched
from lightning_unlearn.core.files import (
    file_hash,
    read_object,
    target_of,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)
from lightning_unlearn.core.processes import is_first
from lightning_unlearn.reports.glossary import is_control

KEY = "forget.key"
"""The secret of a comparison that was given none; removed with what remembers."""
MARK = "comparison.json"
THE_KEY, SOURCE_MODEL = "the comparison's key, which clean removes", "the source model"
AS_BUILT = "the network or method as it is built"
_FILES = (
    MARK,
    "report.json",
    "report.html",
    "remembering.json",
    "samples.png",
    "split.npz",
    "wandb.json",
    KEY,
)
_FOLDERS = ("figures", "wandb")
_HASHES = ("forget_hmac", "previous_hmac")
_CACHES = ("populations", "shadow_models")
_RUN_JSON = ("config", "training", "metrics", "facts", "watched", "rates", "wandb")
_RUN_FILES = (*(f"{name}.json" for name in _RUN_JSON), "model.ckpt", "split.npz", "error.txt")
_RUN_FOLDERS = ("log", "evaluation", "earlier")
_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}"


class RunFolder:
    """The folder of one model of a comparison: its settings, its weights and its audit.

    Args:
        path: The folder; it need not exist yet.

    Attributes:
        checkpoint: The exported model.
        facts: What is known of the training only while it runs.
        watched: What evaluators saw during the training.
        split: Who is forgotten, where each seed has a split of its own; in the source's folder.
        learning_rates: The steps and learning rates of a retraining.
        evaluation: Folder of the evaluators' own files.
        earlier: Folder of the weights that a source had earlier in its training.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "model.ckpt"
        self.facts = path / "facts.json"
        self.watched = path / "watched.json"
        self.split = path / "split.npz"
        self.learning_rates = path / "rates.json"
        self.evaluation = path / "evaluation"
        self.earlier = path / "earlier"
        self._training = path / "training.json"
        self._metrics = path / "metrics.json"

    # ------------------------------------------------------------------ the training

    def is_trained(self, fingerprint: str) -> bool:
        """Whether a model was trained as asked and its file is still the one that was written."""
        content = _record(self._training, fingerprint)
        return content is not None and content.get("sha256") == file_hash(self.checkpoint) is not None

    def changed(self, decided_by: Mapping[str, str]) -> str:
        """Name what decided the model here and is no longer the same; empty where there is no record of it.

        Another key changes every hash, and another source every method that is built from it: they alone are named.
        """
        before = (_read_json(self._training) or {}).get("decided_by")
        known = before if isinstance(before, dict) else {}
        names = [what for what, value in decided_by.items() if known.get(what, value) != value]
        if THE_KEY in names:
            return THE_KEY
        return ", ".join(what for what in names if what != AS_BUILT or SOURCE_MODEL not in names)

    def begin(self, config: Mapping[str, Any]) -> None:
        """Remove what a run left here and write the settings of what is to come."""
        self.clear()
        self.describe(config)

    def clear(self) -> None:
        """Remove what a run left here, and the folder if nothing else is in it."""
        _remove(self.path, _RUN_FILES, _RUN_FOLDERS)
        with suppress(OSError):  # something else is in it, or it is a link
            self.path.rmdir()
            self.path.parent.rmdir()

    def describe(self, config: Mapping[str, Any]) -> None:
        """Write the settings, which readers of the folder need and no fingerprint guards."""
        write_json_atomic(self.path / "config.json", config)

    def finish_training(
        self,
        decided: tuple[str, Mapping[str, str]],
        times: Mapping[str, float],
        method: Mapping[str, Any],
        frozen: Sequence[str],
        started: str,
        made_from: str | None = None,
    ) -> None:
        """Record that the checkpoint is complete.

        Args:
            decided: Hash of what decided it, and one of each such thing by its name.
            times: Seconds by name. Those that went into looking on, which the method would not have needed, are
                taken off here.
            method: The method and its hyper-parameters.
            frozen: Names of the parameters that were frozen when training ended.
            started: What tells this start of the comparison from others, in which times may differ.
            made_from: Hash of the model of the request before that it was made from.
        """
        (looking, cpu), _ = read_watched(self.watched)
        taken_off = {"time/unlearn_s": looking, "time/total_s": looking, "time/cpu_s": cpu}
        content = {
            "fingerprint": decided[0],
            "decided_by": dict(decided[1]),
            "times": {key: seconds - taken_off.get(key, 0.0) for key, seconds in times.items()},
            "sha256": file_hash(self.checkpoint),
            "method": method,
            "frozen": list(frozen),
            "started": started,
            **({} if made_from is None else {"made_from": made_from}),
        }
        write_json_atomic(self._training, content)

    def training(self) -> dict[str, Any]:
        """Return what :meth:`finish_training` wrote; folders of earlier releases lack ``frozen`` and ``started``."""
        return read_object(self._training)

    # ------------------------------------------------------------------ the audit

    def audit(self, fingerprint: str) -> dict[str, Any] | None:
        """Return what the audit with this fingerprint left, or None if none did."""
        return _record(self._metrics, fingerprint)

    def samples(self) -> dict[str, dict[str, list[Any]]]:
        """Return the scores of single samples that attacks left in the last audit, by evaluator."""
        details = (_read_json(self._metrics) or {}).get("details", {})
        return {
            key: noted["samples"] for key, noted in details.items() if isinstance(noted.get("samples"), dict)
        }

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
        found = {name: read_object(self.evaluation / f"{name}.json") for name in evaluators}
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
        write_json_atomic(self.evaluation / f"{name}.json", {"metrics": {}, "details": {}, "error": error})

    def note_error(self, trace: str) -> None:
        """Keep the traceback of what went wrong."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(self.path / "error.txt", trace.encode("utf-8", "backslashreplace"))


def require_names(names: Iterable[str]) -> None:
    """Refuse names of runs that make no folder of their own.

    Args:
        names: The names, those of the controls left out.

    Raises:
        ValueError: If one is long, of other letters, taken by the comparison itself, or there twice.
    """
    taken = {name.casefold() for name in (*_FILES, *_FOLDERS, *_CACHES)}
    for name in names:
        if not re.fullmatch(_NAME, name):
            raise ValueError(
                f"methods: the name {name!r} becomes a folder; give one of at most 64 letters, digits, '.', '_' and "
                "'-' that does not begin with '.'"
            )
        if name.casefold() in taken or is_control(name.casefold()):
            raise ValueError(
                f"methods: the name {name!r} is that of another run or of a file of the comparison; give another"
            )
        taken.add(name.casefold())


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other comparisons out of a folder for a while; a process that is killed keeps nobody out.

    Raises:
        ValueError: If another is at work there.
    """
    if not is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / ".lock"), folder / ".holder"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        by = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise ValueError(
            f"output_dir: {folder} is in use by {by}; wait for it, or choose another folder"
        ) from error
    try:
        write_text_atomic(holder, f"process {os.getpid()} on host {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def claim(
    folder: Path,
    identity: Mapping[str, Any],
    runs: Collection[str],
    *,
    inputs: Collection[Path],
    overwrite: bool,
) -> None:
    """Make a folder that of one comparison, on the first process, or say whose it is, on any.

    Args:
        folder: The output folder.
        identity: What tells this comparison from another: its ``config``, and ``forget_hmac`` and
            ``previous_hmac``, which a cleaned folder knows no more.
        runs: Folders of the runs, within the folder; what is written is noted before it is.
        inputs: Files that may lie in the folder and are no part of it, such as a ledger.
        overwrite: Whether to remove what another comparison wrote.

    Raises:
        ValueError: If another comparison's files are there and are to stay, or files that no comparison wrote.
    """
    require_ours(folder, inputs)
    known, written = _mark(folder), _written(folder)
    # a cleaned folder knows no hash
    same = known.get("config") == identity["config"] and all(
        known.get(name) in (None, identity.get(name)) for name in _HASHES
    )
    if (folder / MARK).exists() and not (same or overwrite):
        raise ValueError(
            f"output_dir: {folder} holds another comparison (its config, forget set, earlier requests or key differ, "
            "or its comparison.json is damaged); choose another folder, or set overwrite to remove what it wrote"
        )
    if not is_first():
        return
    if (folder / MARK).exists() and not same:
        for name in written:
            RunFolder(folder / name).clear() if "/" in name else _remove(folder, (), (name,))
        _remove(folder, [name for name in _FILES if name != KEY], _FOLDERS)
        written = []
    write_json_atomic(folder / MARK, {**identity, "written": sorted({*written, *runs})})
    ours = places(folder)
    for file in folder.rglob("*"):
        if target_of(file) is not None and file.is_file() and ours(file):
            file.unlink(missing_ok=True)  # a write was interrupted here


def require_ours(folder: Path, inputs: Collection[Path]) -> None:
    """Refuse a folder with something in it that is neither a comparison's nor given to this one.

    Raises:
        ValueError: If something else lies there.
    """
    require_local(folder)
    if (folder / MARK).exists() or not folder.is_dir():
        return
    known = {path.resolve() for path in inputs}
    for path in sorted(folder.iterdir()):
        if not (path.name.startswith(".") or path.name == KEY or path.resolve() in known):
            raise ValueError(
                f"output_dir: {folder} is not a comparison's, it holds {path.name}; give a new folder or an empty one"
            )


def require_local(folder: Path) -> Path:
    """Return a folder, and refuse a remote path that was taken for one."""
    if re.match(r"\w{2,}:/", folder.as_posix()):
        raise ValueError(
            f"output_dir: {folder} is a remote path, which only a single comparison takes, as text; for scenarios and "
            "tune mount the store as a folder"
        )
    return folder


def add_written(folder: Path, name: str) -> None:
    """Note a folder, such as a cache, that the comparison is about to write."""
    if is_first() and name not in (written := _written(folder)):
        write_json_atomic(folder / MARK, {**_mark(folder), "written": sorted({*written, name})})


def places(folder: Path) -> Callable[[Path], bool]:
    """Return what tells whether a file has a place that the comparison writes to, and so is none of its user's."""
    written = set(_written(folder))

    def is_written(file: Path) -> bool:
        first, *rest = (target_of(file) or file).relative_to(folder).parts
        if not rest:
            return first in _FILES
        if f"{first}/{rest[0]}" in written:
            return len(rest) > 1 and (rest[1] in _RUN_FOLDERS or rest[1:] in [[name] for name in _RUN_FILES])
        return first in _FOLDERS or first in written

    return is_written


def forget_key_gone(folder: Path) -> None:
    """Take the hashes of the forgotten samples back whose key was removed: they say nothing any more."""
    write_json_atomic(folder / MARK, {**_mark(folder), **dict.fromkeys(_HASHES)})


def noted(folder: Path, name: str) -> Any:
    """Return what a comparison noted of itself for those that go on from it; ``None`` where it noted nothing."""
    return _mark(folder).get(name)


def _mark(folder: Path) -> dict[str, Any]:
    return _read_json(folder / MARK) or {}


def _written(folder: Path) -> list[str]:
    """Return the manifest; what is not one of ours in it is passed over, since a file may come from anybody."""
    names = _mark(folder).get("written")
    pattern = rf"{_NAME}(/seed_\d+)?"
    listed = names if isinstance(names, list) else []
    return [name for name in listed if isinstance(name, str) and re.fullmatch(pattern, name)]


def _remove(folder: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    for name in files:
        (folder / name).unlink(missing_ok=True)
    for name in folders:
        if (folder / name).is_symlink():
            (folder / name).unlink()
        shutil.rmtree(folder / name, ignore_errors=True)


def _record(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return what a finished part left, if it was this very part; a damaged file is as good as none."""
    content = _read_json(path)
    return content if content and content.get("fingerprint") == fingerprint else None


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's object; a damaged file is as good as none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
