"""Keep a comparison's folder at a remote path too, such as ``s3://bucket/run``: bring there and take from there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from lightning_unlearn.comparison.folder import MARK
from lightning_unlearn.core.files import atomic_path

_LAST = {MARK: -1, "training.json": 1, "metrics.json": 2}  # which say that a part is done


class Store:
    """A folder, and the remote path that has all of it too; with no such path, a folder alone.

    Files are told apart by size and time, or by what the remote file system says of them; hidden ones stay.

    Args:
        output_dir: A folder, or a path of fsspec, with ``://``, whose settings are fsspec's own (``FSSPEC_S3_KEY``).
        folder: Folder that is to have its files; ``None`` for one of its name in ``runs``.

    Attributes:
        url: The remote path, or ``None``.
        folder: The folder.

    Raises:
        ValueError: If what reads such paths is not installed.
    """

    def __init__(self, output_dir: str | Path, folder: Path | None = None) -> None:
        self.url = str(output_dir) if "://" in str(output_dir) else None
        # what a file was there, and here, when both were the same
        self._known: dict[str, tuple[Any, Any]] = {}
        if self.url is None:
            self.folder = Path(output_dir)
            return
        kind, _, path = self.url.partition("://")
        parts = [quote(part, safe="") for part in (kind, *path.split("/")) if part.strip(".")]
        self.folder = folder or Path("runs", *parts)
        own = {"auto_mkdir": True} if kind in ("file", "local") else {}  # others make folders, or have none
        try:
            self._system, root = url_to_fs(self.url, **own)
        except (ImportError, ValueError) as error:
            raise ValueError(f"output_dir: {self.url}: {error}") from error
        self._root = str(root).rstrip("/")

    def fetch(self, wanted: Callable[[str], bool] = lambda _: True) -> None:
        """Take what is there and not here, and remove here what was there and is no more.

        Args:
            wanted: Says by its name within the folder which file is needed.

        Raises:
            ValueError: If something else than a comparison is there.
        """
        if self.url is None:
            return
        self._system.invalidate_cache()
        listed = self._system.find(self._root, detail=True)
        there = {name[len(self._root) + 1 :]: str(sorted(info.items())) for name, info in listed.items()}
        if there and MARK not in there:
            raise ValueError(
                f"output_dir: {self.url} is not a comparison's, it holds {min(there)}; give a new path"
            )
        for name in [name for name in self._known if wanted(name) and name not in there]:
            (self.folder / name).unlink(missing_ok=True)
            del self._known[name]
        for name, state in there.items():
            if wanted(name) and self._known.get(name, ("",))[0] != state:
                with atomic_path(self.folder / name) as temporary:
                    self._system.get_file(f"{self._root}/{name}", str(temporary))
                self._known[name] = state, _state(self.folder / name)

    def send(self) -> None:
        """Bring there what is new here, that it is done last, and remove there what was here and is no more."""
        if self.url is None:
            return
        found = {file.relative_to(self.folder): file for file in self.folder.rglob("*") if file.is_file()}
        files = {
            name.as_posix(): _state(file)
            for name, file in found.items()
            if not any(part.startswith(".") for part in name.parts)
        }
        for name in self._known.keys() - files.keys():
            self._system.rm_file(f"{self._root}/{name}")
            del self._known[name]
        for name in sorted(files, key=lambda name: (_LAST.get(Path(name).name, 0), name)):
            if self._known.get(name, ("", None))[1] != files[name]:
                self._system.put_file(str(self.folder / name), f"{self._root}/{name}")
                self._known[name] = "", files[name]


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns
