"""Find, list and remove the files of a run that still remember what was forgotten."""

import json
import os
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

_CHECKPOINTS = (".ckpt", ".pt", ".pth")
_CONFIGS = (".json", ".yaml", ".yml")
_TEXTS = (*_CONFIGS, ".html", ".txt", ".csv", ".log", ".md")
_MAIL = re.compile(r"[\w.+-]@[\w-]+\.\w")  # without its beginning, so that a long text takes no longer
_NAMELESS = ("Classes", "Groups", "RandomFraction")  # rules of ours that say what, and not who


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

    Listed are the source model of a comparison, checkpoints of trainings (optimizer momentum, the state of an
    unfinished method, weights that ``ModelCheckpoint`` kept), splits and the key of their hashes, configurations that
    name samples (see :func:`without_names`) and the page made of them, pictures of the samples, texts with an e-mail
    address, tracebacks (which may quote ids), what an interrupted write left, and checkpoints that cannot be read
    without executing them. Not listed are exported models and scores, those of single samples included: they name none.
    Links to folders are followed.

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
    files = sorted(_files(folder))
    reasons = [why(file, of_source=compared and file.is_relative_to(folder / "source")) for file in files]
    return [Remembering(file, reason) for file, reason in zip(files, reasons, strict=True) if reason]


def _files(folder: Path) -> Iterator[Path]:
    """Yield every file once, wherever links to folders lead, except to a folder above."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        above = Path(parent) != folder and folder.resolve().is_relative_to(real)
        if real in seen or above:
            folders.clear()
            continue
        seen.add(real)
        yield from (
            file for name in names if (file := Path(parent, name)).is_file() and not file.is_symlink()
        )


def summary(found: Sequence[Remembering]) -> list[str]:
    """Return a line for each kind of file and name, for a reader who would not look through a list of all.

    Example:
        >>> summary([Remembering(Path(f"out/{name}/split.npz"), "positions") for name in ("a", "b")])
        ['2 files split.npz: positions']
        >>> summary([Remembering(Path("out/source/model.ckpt"), "the source model")])
        ['out/source/model.ckpt: the source model']
        >>> summary([Remembering(Path(f"out/earlier/epoch={n}.ckpt"), "weights") for n in (1, 3)])
        ['2 files earlier/*.ckpt: weights']
    """
    kinds: dict[tuple[str, str], list[Path]] = {}
    alike = Counter((item.file.parent, item.reason) for item in found)
    for item in found:
        file, several = item.file, alike[item.file.parent, item.reason] > 1
        name = f"{file.parent.name}/*{file.suffix}" if several else file.name
        kinds.setdefault((name, item.reason), []).append(file)
    return [
        f"{files[0]}: {reason}" if len(files) == 1 else f"{len(files)} files {name}: {reason}"
        for (name, reason), files in kinds.items()
    ]


def seen_from(folder: Path, found: Sequence[Remembering]) -> list[Remembering]:
    """Return the files by their paths within a folder."""
    return [Remembering(each.file.relative_to(folder), each.reason) for each in found]


def remove(found: Sequence[Remembering]) -> None:
    """Remove files that remember, and checkpoints that are folders; what is gone already is passed over."""
    for item in found:
        if item.file.is_dir():
            shutil.rmtree(item.file)
        else:
            item.file.unlink(missing_ok=True)


def why(file: Path, *, of_source: bool = False) -> str | None:
    """Return what a file holds that was to be forgotten, or None.

    Args:
        file: The file.
        of_source: Whether it belongs to a source model, which was trained on the forgotten samples.
    """
    if file.name.startswith(".") and ".tmp" in file.suffixes:
        return "left by an interrupted write"
    if file.suffix in _CHECKPOINTS:
        return _of_checkpoint(file) or (
            "the source model, trained on the forgotten samples" if of_source else None
        )
    if file.suffix == ".npz":
        return "positions of the forgotten samples" if _names_forgotten(file) else None
    if file.name == "samples.png":
        return "pictures of the forgotten samples"
    if file.name == "forget.key":
        return "the key to hashes of the forgotten samples"
    if file.name == "error.txt":
        return "a traceback, which may quote ids"
    return _of_text(file) if file.suffix in _TEXTS else None


def _of_checkpoint(file: Path) -> str | None:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception:  # torch raises UnpicklingError, RuntimeError, EOFError, ... as the damage falls
        return "cannot be read without executing it, so what it holds is not known"
    if not isinstance(content, dict):
        return None
    states = content.get("optimizer_states", [])
    if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
        return "holds optimizer states of a kind that is not known"
    if any(state.get("state") for state in states):
        return "momentum of an optimizer that saw the source or the forgotten samples"
    if "lightning_unlearn" in content:  # where UnlearningModule.on_save_checkpoint puts it
        return "the state of an unlearning that can be resumed"
    # Lightning writes it into every checkpoint of a training, and an export has none
    return "weights that a training kept on its way" if "loops" in content else None


def _names_forgotten(file: Path) -> bool:
    """Whether a file holds an array of that name, as a split does."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return "forget" in arrays.files
    except Exception:  # zipfile, zlib and NumPy raise whatever as the damage falls
        return False


def _of_text(file: Path) -> str | None:
    text = file.read_text(encoding="utf-8", errors="replace")
    if "@" in text and _MAIL.search(text):
        return "a text with an e-mail address"
    if file.name == "report.html" and (report := file.with_suffix(".json")).is_file():
        return why(report) and "the page of a report that names forgotten samples"
    if file.suffix in _CONFIGS and ("forget" in text or "ids" in text):
        try:
            config = _parsed(text, as_json=file.suffix == ".json")
            return None if without_names(config) == config else "a configuration that names forgotten samples"
        except RecursionError:
            return "nested too deeply to be read, so what it holds is not known"
    return None


def _parsed(text: str, *, as_json: bool) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        # libyaml's loader, where it is there, takes a tenth of the time
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return json.loads(text) if as_json else yaml.load(text, loader)
    except (ValueError, yaml.YAMLError):
        return None


def without_names(config: Any, *, below: str = "") -> Any:
    """Leave out of a configuration who is to be forgotten: a list of ids becomes its length.

    Class numbers, fractions and the package's rules name nobody and stay. Of another's rule the texts and lists
    are left out, since nobody knows what they say.

    Args:
        config: Plain values.
        below: The key above them.

    Returns:
        The same configuration, or a new one.

    Example:
        >>> without_names({"data": {"forget": [3, 4]}})
        {'data': {'forget': '2 ids'}}
        >>> without_names({"forget": {"class_path": "Ids", "init_args": {"ids": [1003.0, 1007.0]}}})
        {'forget': {'class_path': 'Ids', 'init_args': {'ids': '2 ids'}}}
        >>> without_names({"forget": {"class_path": "my.Customer", "init_args": {"mail": "ann@example.org", "n": 2}}})
        {'forget': {'class_path': 'my.Customer', 'init_args': {'mail': 'left out', 'n': 2}}}
        >>> without_names({"forget": {"class_path": "Classes", "init_args": {"classes": [3, 4]}}})
        {'forget': {'class_path': 'Classes', 'init_args': {'classes': [3, 4]}}}
    """
    if isinstance(config, dict):
        rule = str(config.get("class_path", "")).rpartition(".")[2]
        if below == "forget" and rule in _NAMELESS:
            return config
        if below == "forget" and rule != "Ids":
            return _left_out(config)
        return {key: without_names(value, below=str(key)) for key, value in config.items()}
    if isinstance(config, list):
        if (
            config
            and below in ("forget", "ids")
            and all(isinstance(item, int | float | str) for item in config)
        ):
            return f"{len(config)} ids"
        return [without_names(item, below=below) for item in config]
    if isinstance(config, str) and below in ("forget", "ids"):
        if config.lstrip().startswith("["):  # a list from the command line, as jsonargparse may leave it
            return f"{config.count(',') + 1} ids"
        return "left out" if _MAIL.search(config) else config
    return config


def _left_out(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key == "class_path" else _left_out(item) for key, item in value.items()}
    return "left out" if isinstance(value, str | list) and value else value
