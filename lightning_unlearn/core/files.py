"""Write files whole or not at all, and hash what must be told apart."""

import hashlib
import hmac
import json
import os
import re
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SMALL = 2**26  # bytes that arrays may always have
_BLOCK = 2**20  # bytes of a file that are read at once


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder, and move it to ``path`` only when the block succeeds.

    A reader sees the old file or the complete new one, never a part; when the block raises (an interrupt
    included), the temporary file is removed and an older ``path`` stays as it was. The temporary name keeps
    the suffix, because some writers derive the format from it. A missing parent folder is made.

    Args:
        path: Where the file is to be in the end; an existing file is replaced.

    Yields:
        The temporary path; the block must create this file.

    Raises:
        IsADirectoryError: ``path`` is a folder.
        FileNotFoundError: The block ended without writing to the temporary path.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("1 2 3")
        ...     target.exists()
        False
        >>> target.read_text()
        '1 2 3'
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"path must name a file, got the folder {target}; append a file name")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(
                f"nothing was written to the temporary path for {target}; write to the path that "
                "atomic_path yields, not to the final one"
            )
        # Without the sync, a power cut after the rename could leave a complete name with empty content.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def target_of(path: Path) -> Path | None:
    """Return which file a temporary one was to become, or None where it is none of :func:`atomic_path`.

    Example:
        >>> target_of(Path("out/.report.0a1b2c3d.tmp.json")).name
        'report.json'
    """
    match = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.tmp(\.[^.]*)?", path.name)
    return path.with_name(match[1] + (match[2] or "")) if match else None


def write_bytes_atomic(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write ``content`` to ``path`` through :func:`atomic_path`, and return the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text_atomic(path: str | os.PathLike[str], content: str) -> Path:
    """Write ``content`` to ``path`` as UTF-8, its line ends as they are, and return the path."""
    return write_bytes_atomic(path, content.encode("utf-8"))


def write_json_atomic(path: str | os.PathLike[str], content: Any, *, indent: int | None = 2) -> Path:
    """Write ``content`` to ``path`` as strict JSON (UTF-8), and return the path; see :func:`atomic_path`.

    Args:
        path: The file to write.
        content: Anything that :mod:`json` can write.
        indent: Spaces of indentation; None writes one line.

    Raises:
        ValueError: ``content`` holds NaN or an infinity, which JSON cannot say.
        TypeError: ``content`` holds an object that JSON cannot say.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    return write_text_atomic(path, text + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds; an empty one where there is no file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits, or None where there is no file."""
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def key_fingerprint(key: bytes) -> str:
    """Return what tells one key from another and gives neither away, 16 hexadecimal digits."""
    return hmac.new(key, b"fingerprint", hashlib.sha256).hexdigest()[:16]


def positions_hash(positions: np.ndarray[Any, Any], key: bytes) -> str:
    """Return the keyed hash (HMAC-SHA256) of a set of samples.

    Positions are easily guessed: whoever has the key can try every sample of a data set in a moment, and so find
    out a request of one or two samples, or confirm a guess of any size. Without the key the hash says nothing.

    Args:
        positions: Positions in the training set, ``(M,)`` integers in any order.
        key: The secret.

    Returns:
        64 hexadecimal digits, the same for the same set and key.

    Example:
        >>> a, b = np.array([3, 1]), np.array([1, 3])
        >>> positions_hash(a, b"secret") == positions_hash(b, b"secret")
        True
        >>> positions_hash(a, b"secret") == positions_hash(a, b"another")
        False
    """
    content = np.sort(np.asarray(positions)).astype("<i8", copy=False).tobytes()
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def model_hash(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a ``state_dict``'s content: names, types, shapes and values, down to the last bit.

    It does not depend on how, where or when the weights were saved, so a checkpoint that is written again has the
    same hash, and a model in memory has that of its export.

    Args:
        state: The ``state_dict`` of a model or of a checkpoint file.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: If an entry is neither a tensor nor made of plain values.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> before = model_hash(layer.state_dict())
        >>> _ = layer.bias.data.add_(1)
        >>> model_hash(layer.state_dict()) == before
        False
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            header: list[Any] = [name, str(value.dtype), list(value.shape)]
            # as bytes: NumPy knows no bfloat16
            content: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        else:  # what a module's get_extra_state gives
            header, content = [name, "plain"], json.dumps(value, sort_keys=True).encode()
        for part in (json.dumps(header).encode(), content):
            # with its length, so that no two contents run together to the same bytes
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def read_arrays(path: Path, what: str, advice: str, *, densest: int | None = None) -> dict[str, Any]:
    """Read all arrays of an ``.npz`` file. Nothing in it is executed: no pickles are read.

    Args:
        path: An existing file.
        what: What it should be, for the message.
        advice: What to do where it is damaged, likewise.
        densest: How many times larger than the file its arrays may be, beyond 64 MiB; ``None`` for any size.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
        if densest is not None and unpacked > max(_SMALL, densest * path.stat().st_size):
            raise ValueError(f"it unpacks to {unpacked} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and NumPy raise whatever as the damage falls, MemoryError too
        raise ValueError(
            f"{path} cannot be read as {what} ({error}): it is truncated, damaged or another kind of file; {advice}"
        ) from error
