"""Files that are either complete or absent: atomic writing for every room; knows nothing of their content."""

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "target_of", "write_bytes_atomic", "write_json_atomic", "write_text_atomic"]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder, and move it to ``path`` only when the block succeeds.

    A reader sees the old file or the complete new one, never a part; when the block raises (an interrupt
    included), the temporary file is removed and an older ``path`` stays as it was. The temporary name keeps
    the suffix, because some writers derive the format from it. A missing parent folder is made.

    Args:
        path: Where the file is to stand in the end; an existing file is replaced.

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
