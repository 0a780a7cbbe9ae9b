"""The deletion ledger: one line a request, chained by hash, appended whole or not at all.

A line is a JSON object with the keys of :data:`FIELDS`. ``previous`` is the ``hash`` of the line before (64 zeros
in the first), and ``hash`` the SHA-256 of the line without it, keys sorted and no spaces, so that no line can be
changed, taken out or put in between without the chain breaking there.

**What the chain proves.** It finds every change of a line that is followed by others, whoever made it. It does not
keep the owner of the file from writing all of it anew, nor from cutting off its end. Note down the last line's hash
from time to time where the ledger's owner cannot change it: ``verify(head=...)`` then says whether that line is
still there.

**What the hash of the ids hides.** Lines name no sample. The hash of the forgotten samples is keyed (HMAC), because
positions are easily guessed: a hash with a salt in the same file would be undone by trying every sample. The key
is in a file of its own, ``<ledger>.key``, made with the first line and readable by its owner alone. Keep it
apart from the ledger (``Ledger(key_file=...)``) where the ledger is shown to others. Whoever has both can find out
small requests and confirm guesses about large ones; whoever has the ledger alone learns the number of samples,
whether two lines are about the same samples, and nothing else about them. Without the key nobody can show later
which samples a line is about, so do not lose it. Each line holds a fingerprint of the key, so that another key in
its place is noticed.

**What an append costs.** The same at every length: it looks at the last line alone. ``verify`` looks at all of them,
and so does ``prepare``, once before a run. A line is written in place, under a lock that the system lets go of when
its holder is killed, and beforehand to a file of its own: what a power cut tears is known by it and taken back.
"""

import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lightning_unlearn.core.files import atomic_path, key_fingerprint, positions_hash, write_bytes_atomic
from lightning_unlearn.core.versions import installed_versions

FIELDS = (
    *("request", "time", "key", "ids", "gone", "model"),
    *("method", "config", "versions", "metrics", "answer", "previous", "hash"),
)
"""Keys of every line.

``request`` names the request, ``time`` is UTC, ``key`` a fingerprint of the secret (lines of early releases have
none). ``ids`` has the ``count`` and ``hmac_sha256`` of the samples that were
forgotten, ``gone`` the same of all that the model must never see again: those and what earlier requests forgot.
``model`` has the hashes ``before`` and ``after`` (:func:`~lightning_unlearn.core.files.model_hash`) and the ``file`` of
the unlearned model, relative to the ledger's folder, or null. ``metrics`` has for each name its ``value`` and, where
they were measured, those of the controls ``source`` and ``retrain``. ``answer`` says whether it was forgotten: its
``outcome`` (shown, not shown, cannot tell) and what that rests on; null where it was not measured, and not in lines of
early releases.
"""

_SAMPLES = {"count", "hmac_sha256"}
_INSIDE = {"ids": _SAMPLES, "gone": _SAMPLES, "model": {"before", "after", "file"}}
_LATER = {"key", "answer"}  # of which lines of early releases know nothing
_START = "0" * 64
_LOCK_SECONDS = 60.0  # a line takes milliseconds; who waits longer waits for a process that hangs
_FEWEST_KEY_BYTES = 16  # 128 bits, if they are random
_EMPTY = "the file is empty: its lines are gone, or none was ever written; without lines it must not be there"
_CUT_OFF = "has no end; the file was cut off here"
_BLOCK = 2**16  # bytes; more than a line has
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
        """Read the secret; see :func:`secret_in`."""
        return secret_in(self.key_path, f"the ids of {self.path}")

    def prepare(self) -> list[dict[str, Any]]:
        """Make sure, before hours of work, that a line can be appended; make the key of a new ledger.

        Returns:
            The lines so far.

        Raises:
            ValueError: If the ledger does not verify, or its key is not that of its lines.
            FileNotFoundError: If it has lines, and its key is missing.
            OSError: If its folder cannot be written to.
        """
        with _locked(self.file):
            _take_back_torn(self.file)
            lines = read(self.file)
            secret = secret_in(self.key_path, f"the ids of {self.path}", make=not lines)
            if lines:
                _require_key(lines[-1], key_fingerprint(secret), self.key_path)
        return lines


def secret_in(file: Path, use: str, *, make: bool = False, argument: str = "key_file") -> bytes:
    """Read a secret that samples are hashed with.

    Args:
        file: The file, any text of at least 16 bytes.
        use: What is hashed with it, for messages.
        make: Whether to make the file, readable by its owner alone, where there is none.
        argument: What names the file, for messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds less than 16 bytes.
    """
    if make and not file.exists():
        _make_secret(file)
    if not file.is_file():
        raise FileNotFoundError(
            f"{argument}: there is no {file}, the secret that {use} are hashed with; give the file that was made with "
            "the first request"
        )
    secret = file.read_bytes().strip()
    if len(secret) < _FEWEST_KEY_BYTES:
        raise ValueError(
            f"{argument}: {file} holds {len(secret)} bytes; a secret of fewer than {_FEWEST_KEY_BYTES} can be guessed"
        )
    return secret


def _make_secret(file: Path) -> None:
    """Write a secret, unless another process does so first: then that one counts."""
    own = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with atomic_path(own) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(secrets.token_hex(32) + "\n")
    try:
        os.link(own, file)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(own, file)
    finally:
        own.unlink(missing_ok=True)


def as_ledger(ledger: "Ledger | str | os.PathLike[str] | None") -> Ledger | None:
    """Return a ledger given as a path or as it is."""
    return ledger if ledger is None or isinstance(ledger, Ledger) else Ledger(os.fspath(ledger))


@dataclass(frozen=True)
class Mismatch:
    """What does not match in a ledger.

    Attributes:
        line: Number of the line, from 1; 0 for the ledger as a whole.
        field: The field, with dots, such as ``model.after``; ``line`` where the line itself is wrong.
        message: What was expected and found.
    """

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}, " if self.line else ""
        return f"{where}{self.field}: {self.message}"


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
    answer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the facts of a request, all of a line but its place in the chain and its time.

    Args:
        ledger: The ledger that they are for; its key hashes the ids.
        forget: Training positions that were forgotten, ``(M,)``.
        earlier: Training positions that earlier requests made the model forget.
        before: Hash of the source model.
        after: Hash of the unlearned model.
        file: Where the unlearned model is exported to, if it is.
        method: Class and arguments of the method.
        config: What else decided the result, such as seeds and Trainer arguments; nothing that names a sample.
        metrics: What was measured on the unlearned model.
        controls: The same of the controls, by their names ``source`` and ``retrain``.
        answer: Whether the samples were forgotten, and what that rests on.
    """
    key = ledger.key()
    ids = positions_hash(forget, key)
    gone = np.sort(np.concatenate([forget, earlier]))  # union1d is forty times slower than sorting
    gone = gone[np.append(True, gone[1:] != gone[:-1])[: len(gone)]]
    facts = {
        "request": ledger.request or ids[:_REQUEST_DIGITS],
        "key": key_fingerprint(key),
        "ids": {"count": len(forget), "hmac_sha256": ids},
        "gone": {"count": len(gone), "hmac_sha256": positions_hash(gone, key)},
        "model": {
            "before": before,
            "after": after,
            "file": None if file is None else Path(os.path.relpath(file, ledger.file.parent)).as_posix(),
        },
        "method": method,
        "config": config,
        "versions": installed_versions("torch", "lightning", "numpy"),
        "metrics": {
            name: {"value": value, **{c: found[name] for c, found in controls.items() if name in found}}
            for name, value in metrics.items()
        },
        "answer": answer,
    }
    plain: dict[str, Any] = _plain(facts)
    return plain


def append(ledger: Ledger, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write a line at the end of a ledger. Old and new lines are there afterwards, or, after an error, the old ones.

    Args:
        ledger: The ledger.
        facts: What :func:`entry` returned.

    Returns:
        The line that was written.

    Raises:
        ValueError: If the last line does not verify, or was hashed with another key; the ledger is left as it is.
        TimeoutError: If another process holds the ledger for longer than a minute.
    """
    with _locked(ledger.file):
        _take_back_torn(ledger.file)
        last = _last_line(ledger.file)
        if last is not None:
            _require_key(last, facts["key"], ledger.key_path)
        line = {
            **facts,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "previous": _START if last is None else last["hash"],
        }
        line["hash"] = _digest(line)
        content = _serialised(line) + b"\n"
        if last is None:
            write_bytes_atomic(ledger.file, content)
            return line
        write_bytes_atomic(_pending(ledger.file), content)
        with ledger.file.open("r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, "No space left on device", str(ledger.file))
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)
                raise
            finally:
                _take_back_torn(ledger.file)
    return line


def same_facts(line: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a line holds these very facts, whenever it was written."""
    placed = ("time", "previous", "hash")
    told = [{k: v for k, v in each.items() if k not in placed and v is not None} for each in (line, facts)]
    return told[0] == told[1]


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of a ledger that verifies; none of a file that does not exist.

    Raises:
        ValueError: If it does not verify.
    """
    if not Path(path).exists():
        return []
    lines, mismatches = verify(path)
    if mismatches:
        raise _unsound(path, mismatches[0])
    return lines


def verify(
    path: str | os.PathLike[str], *, head: str | None = None, ids: str | None = None, key: str | None = None
) -> tuple[list[dict[str, Any]], list[Mismatch]]:
    """Check the chain of a ledger.

    Args:
        path: The ledger.
        head: Hash of a line, noted earlier, that must still be there.
        ids: Keyed hash of samples (:func:`~lightning_unlearn.core.files.positions_hash`) that a line must be about.
        key: Fingerprint of the key that the ids must be hashed with.

    Returns:
        The lines that can be read, each under ``line`` in order, and what does not match, in the order of lines.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    content = Path(path).read_bytes()
    lines: list[dict[str, Any]] = []
    found: list[Mismatch] = []

    def miss(number: int, field: str, message: str) -> None:
        found.append(Mismatch(number, field, message))

    if not content:
        miss(0, "line", _EMPTY)
    elif not content.endswith(b"\n"):
        miss(content.count(b"\n") + 1, "line", _CUT_OFF)
    previous: str | None = _START
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n") if content else [], start=1):
        line, message = _parsed(raw)
        if line is None:
            miss(number, "line", message)
            previous = None
            continue
        found += _changes(number, line, raw)
        if previous is not None and line["previous"] != previous:
            before = "a first line has zeros" if number == 1 else f"line {number - 1} has {_short(previous)}"
            message = f"is {_short(line['previous'])}, but {before}: lines were taken out, put in or moved"
            miss(number, "previous", message)
        if line.get("key", key) != (key := key or line.get("key")):
            miss(number, "key", f"is {_short(line['key'])}, not {_short(key)}: the key was replaced")
        previous = line["hash"]
        lines.append(line)
    if head is not None and head not in [line["hash"] for line in lines]:
        miss(0, "head", f"no line has the hash {_short(head)}: the end was cut off or written anew")
    if ids is not None and ids not in [line["ids"]["hmac_sha256"] for line in lines]:
        miss(0, "ids", "no line is about these samples (or another key was used)")
    return lines, sorted(found, key=lambda mismatch: mismatch.line or math.inf)


def require_forgotten_before(ledger: Ledger, source: str, earlier: Sequence[np.ndarray[Any, Any]]) -> None:
    """Refuse a further request on an unlearned model that would train it on what it was made to forget.

    Args:
        ledger: The ledger; nothing is checked if it does not know the model.
        source: Hash of the source model.
        earlier: Training positions that are kept out because earlier requests forgot them: all together, and those of
            each split alone. Of hashes only equality can be told, so that one of them must be what the ledger knows.

    Raises:
        ValueError: If they lack samples that the ledger says the model has forgotten.
    """
    made = [line for line in read(ledger.file) if line["model"]["after"] == source]
    if not made:
        return
    gone, key = made[-1]["gone"], ledger.key()
    if not any(positions_hash(each, key) == gone["hmac_sha256"] for each in earlier):
        raise ValueError(
            f"previous: the source is the model that request {made[-1]['request']} made forget, {gone['count']} "
            f"samples in all says {ledger.path}, and previous lists {len(earlier[0])}, which are not known to be all "
            "of them; give the split file of that request, alone or beside others, or those of all requests until "
            "then (forget takes the request's output folder), or the model would be trained on them again. Their rows "
            "must stay in their places until the last request; once they are deleted, begin another ledger"
        )


def not_forgotten(
    lines: Sequence[Mapping[str, Any]], source: str, asked: Collection[str]
) -> tuple[Mapping[str, Any], bool] | None:
    """Return a line on samples that models of a source's line of descent were made to forget, and the source was not.

    Args:
        lines: The ledger's lines.
        source: Hash of the source model.
        asked: Hashes of what the source is to forget now, which may be what another model forgot.

    Returns:
        The line of the model that forgot most, the latest, and True where the source's own requests are among them;
        else the first line of another branch, and False. ``None`` where there is none.
    """
    models, gone = _way_to(lines, source)
    related, lacking = [], []
    for line in lines:  # in which a model is made before others go on from it
        if line["model"]["before"] in models:
            models.add(line["model"]["after"])
            related.append(line)
            if not _hashes(line) & (gone | set(asked)):
                lacking.append(line)
    if not lacking:
        return None
    new = set[str]().union(*map(_hashes, lacking))
    ways = [(line, _way_to(lines, line["model"]["after"])[1]) for line in related]
    ahead = [line for line, way in ways if gone <= way and way & new]
    if not ahead:
        return lacking[0], False
    return max(reversed(ahead), key=lambda line: line["gone"]["count"]), True


def _way_to(lines: Sequence[Mapping[str, Any]], model: str) -> tuple[set[str], set[str]]:
    """Return the models that a model was made from, itself among them, and the hashes of what it forgot."""
    models, gone = {model}, set[str]()
    for line in reversed(lines):
        if line["model"]["after"] in models:
            models.add(line["model"]["before"])
            gone |= _hashes(line)
    return models, gone


def _hashes(line: Mapping[str, Any]) -> set[str]:
    return {line["ids"]["hmac_sha256"], line["gone"]["hmac_sha256"]}


def _changes(number: int, line: Mapping[str, Any], raw: bytes) -> list[Mismatch]:
    """Return what is wrong with a line by itself."""
    if (digest := _digest(line)) != line["hash"]:
        message = f"is {_short(line['hash'])}, but the line's content gives {_short(digest)}: it was changed"
        return [Mismatch(number, "hash", message)]
    if _serialised(line) != raw:
        return [Mismatch(number, "line", "is not spelled as it was written; its content is the same")]
    return []


def _last_line(path: Path) -> dict[str, Any] | None:
    """Return the last line, checked by itself; None where there is no ledger yet."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        if not (size := file.seek(0, os.SEEK_END)):
            raise _unsound(path, Mismatch(0, "line", _EMPTY))
        tail, step = b"", _BLOCK
        while len(tail) < size and tail.count(b"\n", 0, len(tail) - 1) == 0:
            file.seek(max(0, size - step))
            tail, step = file.read(), step * 2
    raw = tail.removesuffix(b"\n").rpartition(b"\n")[2]
    line, message = _parsed(raw) if tail.endswith(b"\n") else (None, _CUT_OFF)
    mismatches = [Mismatch(0, "last line", message)] if line is None else _changes(0, line, raw)
    if mismatches:
        raise _unsound(path, mismatches[0])
    return line


def _pending(path: Path) -> Path:
    return path.with_name(f".{path.name}.pending")


def _take_back_torn(path: Path) -> None:
    """Cut off what an append began and did not finish, which is the beginning of what it noted beforehand."""
    pending = _pending(path)
    if not pending.is_file():
        return
    content, begun = path.read_bytes(), pending.read_bytes()
    torn = content[content.rfind(b"\n") + 1 :]
    if torn and begun.startswith(torn):
        os.truncate(path, len(content) - len(torn))
    pending.unlink()


def _require_key(line: Mapping[str, Any], key: str, file: Path) -> None:
    if line.get("key", key) != key:
        raise ValueError(
            f"key_file: {file} was replaced: its fingerprint is {_short(key)}, the ledger's last line has "
            f"{_short(line['key'])}; give the file that was made with the first request, or begin another ledger"
        )


def _unsound(path: str | os.PathLike[str], mismatch: Mismatch) -> ValueError:
    return ValueError(
        f"ledger: {path} does not verify ({mismatch}), so nothing is made of it; `lightning-unlearn ledger verify` "
        "lists everything. Restore the file, or begin another"
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


def _parsed(raw: bytes) -> tuple[dict[str, Any] | None, str]:
    """Return a line as an object with all its fields, or what it is instead."""
    try:
        line = json.loads(raw.decode("utf-8"))
        _serialised(line)  # NaN and lone surrogates can be read and not be written
    except (ValueError, RecursionError) as error:
        return None, f"is no JSON ({error})"
    if not isinstance(line, dict) or set(line) | _LATER != set(FIELDS):
        return None, f"is no line of a ledger, an object with {', '.join(FIELDS)}"
    for field, keys in _INSIDE.items():
        if not isinstance(line[field], dict) or set(line[field]) != keys:
            return None, f"has not {', '.join(sorted(keys))} under {field}"
    return line, ""


def _digest(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(_serialised({k: v for k, v in line.items() if k != "hash"})).hexdigest()


def _serialised(line: Any) -> bytes:
    text = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _plain(facts: Any) -> Any:
    """Return facts as JSON can say them; numbers that it cannot say as words, other objects as their type's name."""
    text = json.dumps(facts, default=lambda value: type(value).__qualname__)
    return json.loads(text, parse_constant=lambda word: str(float(word)))


def _short(digest: object) -> str:
    return f"{str(digest)[:12]}…"
