"""Files of a run that still remember what was forgotten: finds, lists and removes them; knows no method."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn.data import Split

__all__ = ["Remembering", "remembering_files", "remove", "summary"]

_CHECKPOINTS = (".ckpt", ".pt", ".pth")
_CONFIGS = (".json", ".yaml", ".yml")
_LARGEST_CONFIG = 2**20  # bytes; what is larger is a table of results, not a configuration


@dataclass(frozen=True)
class Remembering:
    """A file that remembers.

    Attributes:
        file: Its path.
        reason: What it holds.
    """

    file: Path
    reason: str


def remembering_files(folder: str | Path) -> list[Remembering]:
    """Look through a folder for files that hold what unlearning has removed from the exported model.

    Listed are the source model of a comparison, checkpoints to resume from (optimizer momentum, the state of an
    unfinished method), splits, configurations that name samples, tracebacks (which may quote ids), what an
    interrupted write left, and checkpoints that cannot be read without executing them. Not listed are exported models
    and scores, those of single samples included: they name none.

    Args:
        folder: Folder of a run or of a comparison.

    Returns:
        The files, sorted by path.

    Raises:
        NotADirectoryError: If there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"folder: there is no folder {folder}")
    compared = (folder / "comparison.json").is_file()
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        of_source = compared and file.relative_to(folder).parts[0] == "source"
        if (reason := _reason(file, of_source=of_source)) is not None:
            found.append(Remembering(file, reason))
    return found


def summary(found: Sequence[Remembering]) -> list[str]:
    """Return a line for each kind of file and name, for a reader who would not look through a list of all.

    Example:
        >>> summary([Remembering(Path(f"out/{name}/split.npz"), "positions") for name in ("a", "b")])
        ['2 files split.npz: positions']
        >>> summary([Remembering(Path("out/source/model.ckpt"), "the source model")])
        ['out/source/model.ckpt: the source model']
    """
    kinds: dict[tuple[str, str], list[Path]] = {}
    for item in found:
        kinds.setdefault((item.file.name, item.reason), []).append(item.file)
    return [
        f"{files[0]}: {reason}" if len(files) == 1 else f"{len(files)} files {name}: {reason}"
        for (name, reason), files in kinds.items()
    ]


def remove(found: list[Remembering]) -> None:
    """Remove files that remember; what is gone already is passed over."""
    for item in found:
        item.file.unlink(missing_ok=True)


def _reason(file: Path, *, of_source: bool) -> str | None:
    if file.name.startswith(".") and ".tmp" in file.suffixes:
        return "left by an interrupted write"
    if file.suffix in _CHECKPOINTS:
        return _of_checkpoint(file) or (
            "the source model, trained on the forgotten samples" if of_source else None
        )
    if file.suffix == ".npz":
        return "positions of the forgotten samples" if _is_split(file) else None
    if file.suffix in _CONFIGS and file.stat().st_size <= _LARGEST_CONFIG:
        try:
            return "a configuration that names forgotten samples" if _names_samples(_config(file)) else None
        except RecursionError:
            return "nested too deeply to be read, so what it holds is not known"
    return "a traceback, which may quote ids" if file.name == "error.txt" else None


def _of_checkpoint(file: Path) -> str | None:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception:  # torch raises UnpicklingError, RuntimeError, EOFError, ... as the damage falls
        return "cannot be read without executing it, so what it holds is not known"
    if not isinstance(content, dict):
        return None
    states = content.get("optimizer_states", [])
    if states and not (isinstance(states, list) and all(isinstance(state, dict) for state in states)):
        return "holds optimizer states of a kind that is not known"
    if any(state.get("state") for state in states):
        return "momentum of an optimizer that saw the source or the forgotten samples"
    if "lightning_unlearn" in content:  # where UnlearningModule.on_save_checkpoint puts it
        return "the state of an unlearning that can be resumed"
    return None


def _is_split(file: Path) -> bool:
    try:
        Split.load(file)
    except ValueError:
        return False
    return True


def _config(file: Path) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        text = file.read_text(encoding="utf-8")
        return json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return None


def _names_samples(config: Any, below: str = "") -> bool:
    """Whether a list of ids stands under ``forget``, by itself or as the ``ids`` of a rule."""
    if isinstance(config, dict):
        inside = below == "forget"
        return any(
            _names_samples(value, "ids" if inside and key == "ids" else "forget" if inside else str(key))
            for key, value in config.items()
        )
    if isinstance(config, list):
        plain = bool(config) and all(isinstance(item, int | str) for item in config)
        return (plain and below in ("forget", "ids")) or any(_names_samples(item) for item in config)
    return False
