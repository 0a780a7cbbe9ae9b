"""The deletion ledger: one line a request, chained by hash, written whole; knows no model, method or trainer.

A line is a JSON object with the keys of :data:`FIELDS`. ``previous`` is the ``hash`` of the line before (64 zeros
in the first), and ``hash`` the SHA-256 of the line without it, keys sorted and no spaces, so that no line can be
changed, taken out or put in between without the chain breaking there.

**What the chain proves.** It finds every change of a line that is followed by others, whoever made it. It does not
keep the owner of the file from writing all of it anew, nor from cutting off its end. Note down the last line's hash
from time to time where the ledger's owner cannot change it: ``verify(head=...)`` then says whether that line is
still there.

**What the hash of the ids hides.** Lines name no sample. The hash of the forgotten samples is keyed (HMAC), because
positions are easily guessed: a hash with a salt in the same file would be undone by trying every sample. The key
stands in a file of its own, ``<ledger>.key``, made with the first line and readable by its owner alone. Keep it
apart from the ledger (``Ledger(key_file=...)``) where the ledger is shown to others. Whoever has both can find out
small requests and confirm guesses about large ones; whoever has the ledger alone learns the number of samples,
whether two lines are about the same samples, and nothing else about them. Without the key nobody can show later
which samples a line is about, so do not lose it.

**Why the file is rewritten.** A line appended in place is torn when the disk is full or the power fails; a ledger is
small, so it is written again under a temporary name and renamed, under a lock that the system lets go of when its
holder is killed.
"""

import hashlib
import json
import math
import os
import platform
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lightning_unlearn.__about__ import __version__
from lightning_unlearn.hashing import positions_hash
from lightning_unlearn.io import atomic_path

__all__ = [
    "FIELDS",
    "Ledger",
    "Mismatch",
    "append",
    "as_ledger",
    "entry",
    "read",
    "require_forgotten_before",
    "verify",
]

FIELDS = (
    "request",
    "time",
    "ids",
    "gone",
    "model",
    "method",
    "config",
    "versions",
    "metrics",
    "previous",
    "hash",
)
"""Keys of every line.

``request`` names the request, ``time`` is UTC. ``ids`` has the ``count`` and ``hmac_sha256`` of the samples that were
forgotten, ``gone`` the same of all that the model must never see again: those and what earlier requests forgot.
``model`` has the hashes ``before`` and ``after`` (:func:`~lightning_unlearn.hashing.model_hash`) and the ``file`` of
the unlearned model, relative to the ledger's folder, or null. ``metrics`` has for each name its ``value`` and, where
they were measured, those of the controls ``source`` and ``retrain``.
"""

_SAMPLES = {"count", "hmac_sha256"}
_INSIDE = {"ids": _SAMPLES, "gone": _SAMPLES, "model": {"before", "after", "file"}}
_START = "0" * 64
_LOCK_SECONDS = 60.0  # a line takes milliseconds; who waits longer waits for a process that hangs
_FEWEST_KEY_BYTES = 16  # 128 bits, if they are random
_REQUEST_DIGITS = 16  # of the keyed hash; enough that no two requests of a ledger share them


@dataclass(frozen=True)
class Ledger:
    """Where deletion requests are put on record.

    Args:
        path: The ledger, one JSON object a line; made with the first request.
        key_file: File with the secret that the ids are hashed with, any text of at least 16 bytes; ``None`` for
            ``path`` + ``.key``. It is made with the first request if it does not exist.
        request: Name of the request, such as a ticket's number, not a person's; ``None`` for the first 16 digits of
            the keyed hash of the ids.
    """

    path: str
    key_file: str | None = None
    request: str | None = None

    @property
    def file(self) -> Path:
        """The ledger, links followed: the file itself is replaced, not a link to it."""
        return Path(self.path).resolve()

    @property
    def key_path(self) -> Path:
        """The file with the secret."""
        return Path(f"{self.path}.key" if self.key_file is None else self.key_file)

    def key(self) -> bytes:
        """Read the secret.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds less than 16 bytes.
        """
        if not self.key_path.is_file():
            raise FileNotFoundError(
                f"key_file: there is no {self.key_path}, the secret that the ids of {self.path} are hashed with; give "
                "the file that was made with the first request"
            )
        secret = self.key_path.read_bytes().strip()
        if len(secret) < _FEWEST_KEY_BYTES:
            raise ValueError(
                f"key_file: {self.key_path} holds {len(secret)} bytes; a secret of fewer than {_FEWEST_KEY_BYTES} can "
                "be guessed"
            )
        return secret

    def prepare(self) -> None:
        """Make sure, before hours of work, that a line can be appended; make the key of a new ledger.

        Raises:
            ValueError: If the ledger does not verify.
            FileNotFoundError: If it has lines, and its key is missing.
            OSError: If its folder cannot be written to.
        """
        with _locked(self.file):
            lines = _sound_lines(self.file)
            if not lines and not self.key_path.exists():
                with atomic_path(self.key_path) as temporary:
                    temporary.touch(mode=0o600)
                    temporary.write_text(secrets.token_hex(32) + "\n")
            self.key()


def as_ledger(ledger: "Ledger | str | os.PathLike[str] | None") -> Ledger | None:
    """Return a ledger given as a path or as it is."""
    return ledger if ledger is None or isinstance(ledger, Ledger) else Ledger(os.fspath(ledger))


@dataclass(frozen=True)
class Mismatch:
    """What does not match in a ledger.

    Attributes:
        line: Number of the line, from 1; 0 for the ledger as a whole.
        field: The field, with dots, such as ``model.after``; ``line`` where it is no line of a ledger.
        message: What was expected and found.
    """

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return (
            f"line {self.line}, {self.field}: {self.message}"
            if self.line
            else f"{self.field}: {self.message}"
        )


def entry(
    ledger: Ledger,
    *,
    forget: np.ndarray[Any, Any],
    earlier: np.ndarray[Any, Any],
    before: str,
    after: str,
    file: Path | None,
    method: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    controls: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Return the facts of a request, all of a line but its place in the chain and its time.

    Args:
        ledger: Where they are to stand; its key hashes the ids.
        forget: Training positions that were forgotten, ``(M,)``.
        earlier: Training positions that earlier requests made the model forget.
        before: Hash of the source model.
        after: Hash of the unlearned model.
        file: Where the unlearned model is exported to, if it is.
        method: Class and arguments of the method.
        config: What else decided the result, such as seeds and Trainer arguments; nothing that names a sample.
        metrics: What was measured on the unlearned model.
        controls: The same of the controls, by their names ``source`` and ``retrain``.
    """
    key = ledger.key()
    ids = positions_hash(forget, key)
    gone = np.union1d(forget, earlier)
    facts = {
        "request": ledger.request or ids[:_REQUEST_DIGITS],
        "ids": {"count": len(forget), "hmac_sha256": ids},
        "gone": {"count": len(gone), "hmac_sha256": positions_hash(gone, key)},
        "model": {
            "before": before,
            "after": after,
            "file": None if file is None else Path(os.path.relpath(file, ledger.file.parent)).as_posix(),
        },
        "method": method,
        "config": config,
        "versions": _versions(),
        "metrics": {
            name: {
                "value": value,
                **{control: found[name] for control, found in controls.items() if name in found},
            }
            for name, value in metrics.items()
        },
    }
    plain: dict[str, Any] = _plain(facts)
    return plain


def append(ledger: Ledger, facts: Mapping[str, Any], *, once: bool = False) -> dict[str, Any]:
    """Write a line at the end of a ledger. Old and new lines are there afterwards, or, after an error, the old ones.

    Args:
        ledger: The ledger.
        facts: What :func:`entry` returned.
        once: Leave the ledger as it is if a line holds these very facts already, times of running apart.

    Returns:
        The line that was written, or was there.

    Raises:
        ValueError: If the ledger does not verify; it is left as it is.
        TimeoutError: If another process holds the ledger for longer than a minute.
    """
    with _locked(ledger.file):
        lines = _sound_lines(ledger.file)
        known = [line for line in lines if _timeless(line) == _timeless(facts)] if once else []
        if known:
            return known[-1]
        line = {
            **facts,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "previous": lines[-1]["hash"] if lines else _START,
        }
        line["hash"] = _digest(line)
        old = ledger.file.read_bytes() if lines else b""
        with atomic_path(ledger.file) as temporary:
            temporary.write_bytes(old + _serialised(line) + b"\n")
            if lines:
                shutil.copymode(ledger.file, temporary)
    return line


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of a ledger that verifies; none of a file that does not exist.

    Raises:
        ValueError: If it does not verify.
    """
    return _sound_lines(Path(path))


def verify(
    path: str | os.PathLike[str], *, head: str | None = None, ids: str | None = None
) -> tuple[list[dict[str, Any]], list[Mismatch]]:
    """Check the chain of a ledger.

    Args:
        path: The ledger.
        head: Hash of a line, noted earlier, that must still be there.
        ids: Keyed hash of samples (:func:`~lightning_unlearn.hashing.positions_hash`) that a line must be about.

    Returns:
        The lines that can be read, each under ``line`` in order, and what does not match, in the order of lines.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    content = Path(path).read_bytes()
    lines: list[dict[str, Any]] = []
    found: list[Mismatch] = []
    if content and not content.endswith(b"\n"):
        found.append(Mismatch(content.count(b"\n") + 1, "line", "has no end; the file was cut off here"))
    previous: str | None = _START
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n") if content else [], start=1):
        line, message = _parsed(raw)
        if line is None:
            found.append(Mismatch(number, "line", message))
            previous = None
            continue
        if (digest := _digest(line)) != line["hash"]:
            message = (
                f"is {_short(line['hash'])}, but the line's content gives {_short(digest)}: it was changed"
            )
            found.append(Mismatch(number, "hash", message))
        elif _serialised(line) != raw:
            found.append(
                Mismatch(number, "line", "is not spelled as it was written; its content is the same")
            )
        if previous is not None and line["previous"] != previous:
            before = "a first line has zeros" if number == 1 else f"line {number - 1} has {_short(previous)}"
            message = f"is {_short(line['previous'])}, but {before}: lines were taken out, put in or moved"
            found.append(Mismatch(number, "previous", message))
        previous = line["hash"]
        lines.append(line)
    if head is not None and head not in [line["hash"] for line in lines]:
        found.append(
            Mismatch(0, "head", f"no line has the hash {_short(head)}: the end was cut off or written anew")
        )
    if ids is not None and ids not in [line["ids"]["hmac_sha256"] for line in lines]:
        found.append(Mismatch(0, "ids", "no line is about these samples (or another key was used)"))
    return lines, sorted(found, key=lambda mismatch: mismatch.line or math.inf)


def require_forgotten_before(ledger: Ledger, source: str, earlier: np.ndarray[Any, Any]) -> None:
    """Refuse a further request on an unlearned model that would train it on what it was made to forget.

    Args:
        ledger: The ledger; nothing is checked if it does not know the model.
        source: Hash of the source model.
        earlier: Training positions that the split keeps out because earlier requests forgot them.

    Raises:
        ValueError: If they lack samples that the ledger says the model has forgotten.
    """
    made = [line for line in read(ledger.file) if line["model"]["after"] == source]
    if not made:
        return
    gone = made[-1]["gone"]
    # of hashes only equality can be told; more samples than the ledger knows of may come from elsewhere
    if len(earlier) <= gone["count"] and positions_hash(earlier, ledger.key()) != gone["hmac_sha256"]:
        raise ValueError(
            f"previous: the source is the model that request {made[-1]['request']} made forget, {gone['count']} "
            f"samples in all says {ledger.path}, and previous lists {len(earlier)}, which are not all of them; give "
            "previous=[the split files of all earlier requests], or the model would be trained on them again"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if path.is_dir():
        raise IsADirectoryError(f"ledger must name a file, got the folder {path}; append a file name")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise TimeoutError(
            f"ledger: another process has held {path} for {_LOCK_SECONDS:.0f} s; see what it waits for, then try again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _sound_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines, mismatches = verify(path)
    if mismatches:
        raise ValueError(
            f"ledger: {path} does not verify ({mismatches[0]}), and nothing was appended to it; "
            "`lightning-unlearn ledger verify` lists everything. Restore the file, or begin another"
        )
    return lines


def _parsed(raw: bytes) -> tuple[dict[str, Any] | None, str]:
    """Return a line as an object with all its fields, or what it is instead."""
    try:
        line = json.loads(raw.decode("utf-8"), parse_constant=_refuse)
        _serialised(line)  # a lone surrogate can be read and not be written
    except (ValueError, RecursionError) as error:
        return None, f"is no JSON ({error})"
    if not isinstance(line, dict) or set(line) != set(FIELDS):
        return None, f"is no line of a ledger, an object with {', '.join(FIELDS)}"
    for field, keys in _INSIDE.items():
        if not isinstance(line[field], dict) or set(line[field]) != keys:
            return None, f"has not {', '.join(sorted(keys))} under {field}"
    return line, ""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _digest(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(_serialised({k: v for k, v in line.items() if k != "hash"})).hexdigest()


def _serialised(line: Any) -> bytes:
    text = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _timeless(line: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line.items() if k not in ("time", "previous", "hash")}


def _plain(value: Any) -> Any:
    """Return a value as JSON can say it; numbers that it cannot say as words, other objects as their type's name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | Collection) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return type(value).__qualname__


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "lightning", "numpy")}
    return {"lightning_unlearn": __version__, "python": platform.python_version(), **packages}


def _short(digest: object) -> str:
    return f"{str(digest)[:12]}…"
