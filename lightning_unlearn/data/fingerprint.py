"""A fingerprint of a training set: who is in it, in which order, and what is served of them."""

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from lightning_unlearn.core.compat import tree_leaves
from lightning_unlearn.core.seeds import isolated_rng
from lightning_unlearn.data.columns import origin_of
from lightning_unlearn.data.tensors import TensorData

_READ = 16  # samples that are read, spread over the dataset
_FILES = 20_000  # files of a dataset that are looked at, likewise
_BYTES = 2**26  # of a column that are hashed; of more, as many rows as fit, likewise
_STORED = ("tensors", "inputs", "data", "images", "x", "X", "samples", "imgs", "paths", "files")
_LABELS = ("targets", "labels")


def training_fingerprint(
    dataset: Dataset[Any],
    targets: npt.NDArray[Any] | None = None,
    *,
    served: bool = True,
    drawn: npt.NDArray[np.int64] | None = None,
) -> str:
    """Tell one training set from another: by its order and content, at a bounded cost.

    Looked at are the size; the innermost datasets and every sample's position in them (beneath ``Subset``,
    ``random_split`` and ``ConcatDataset``); the targets; what the innermost datasets store of each sample, such as
    tensors, arrays or names of files (64 MiB of each, evenly spread); and 16 samples as they are served, under one
    fixed random state. The same in every process. Where 16 samples, read twice under the same random state, differ
    (augmentation that draws from a generator of its own), served content is left out.

    Args:
        dataset: A map-style dataset.
        targets: Class of every sample as served, ``(N,)``, where known.
        served: Whether it counts how a sample is served (its transforms), and name, size and time of the dataset's
            files. Without it the fingerprint tells who is where, and stays when only preprocessing changes; it
            looks at served samples only where the dataset stores nothing that is known.
        drawn: Positions of the samples that are trained on, which alone are looked at; ``None`` for all.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> from torch.utils.data import Subset, TensorDataset
        >>> data = TensorDataset(torch.arange(4))
        >>> a, b = training_fingerprint(Subset(data, [0, 1])), training_fingerprint(Subset(data, [1, 0]))
        >>> a == training_fingerprint(Subset(Subset(data, [3, 1, 0]), [2, 1])), a == b
        (True, False)
    """
    digest = hashlib.sha256()
    if drawn is not None:
        add(digest, drawn)
        dataset, targets = Subset(dataset, drawn.tolist()), None if targets is None else targets[drawn]
    origin = origin_of(dataset)
    for part in (origin.base, origin.position, targets):
        add(digest, part)
    known = True
    for number, base in enumerate(origin.bases):
        rows = origin.position[origin.base == number]
        known &= not len(rows) or _add_stored(digest, base, rows)
    if served or not known:
        reading = _reading(dataset, 0)
        add(digest, reading if reading == _reading(dataset, 0) else None)
    if served:
        for file in (file for base in origin.bases for file in _files(base)):
            state = file.stat()
            add(digest, (file.name, state.st_size, state.st_mtime_ns))
    return digest.hexdigest()


def require_same(recorded: str, fingerprint: str, what: str, more: str = "") -> None:
    """Refuse a training set other than the one that something was made with, where both are known.

    Args:
        recorded: The fingerprint then; empty where it was not kept.
        fingerprint: The fingerprint now.
        what: What was made, for the message.
        more: What the message ends with.

    Raises:
        ValueError: If they differ.
    """
    if recorded and fingerprint and recorded != fingerprint:
        raise ValueError(
            f"{what} was made with a training set of another order or content than this one, where its positions would "
            "mean other samples. Give the training set as it was then; where random_split deals it, give random_split "
            f"a generator{more and f'. {more}'}"
        )


def varies(dataset: Dataset[Any]) -> bool:
    """Whether a dataset gives another sample each time it is read; the random state is as before."""
    return not isinstance(dataset, TensorData) and _reading(dataset, 0) != _reading(dataset, 1)


def spread(size: int, number: int) -> npt.NDArray[np.int64]:
    """Return up to ``number`` places in ``[0, size)``, evenly spread."""
    return np.unique(np.linspace(0, size - 1, min(size, number)).astype(np.int64))


def _reading(dataset: Dataset[Any], seed: int) -> str:
    """Hash some samples as they are served when every global random state starts from a seed."""
    digest = hashlib.sha256()
    with isolated_rng(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  the legacy state is what transforms draw from
        for place in spread(len(dataset), _READ).tolist():  # type: ignore[arg-type]
            for leaf in tree_leaves(dataset[place]):
                add(digest, leaf)
    return digest.hexdigest()


def _add_stored(digest: Any, base: Dataset[Any], rows: npt.NDArray[np.int64]) -> bool:
    """Hash what a dataset stores of some samples; return whether it stores more of them than labels."""
    held = getattr(base, "__dict__", {})
    found = False
    for name in (*_STORED, *_LABELS):
        values = held.get(name)
        for column in values if name == "tensors" and isinstance(values, tuple) else (values,):
            content = _stored(column, rows, len(base))  # type: ignore[arg-type]
            if content is not None:
                add(digest, content)
                found |= name in _STORED
    return found


def _stored(column: Any, rows: npt.NDArray[np.int64], size: int) -> Any:
    """Return some rows of a column, evenly spread where they take too much memory; None for anything else."""
    if isinstance(column, list) and len(column) == size > 0:
        if not isinstance(_path_of(column[0]), str | os.PathLike):
            return None
        names = [os.fspath(_path_of(column[row])).replace(os.sep, "/") for row in rows.tolist()]
        shared = os.path.commonprefix([names[0], names[-1]])  # noqa: RUF071  texts are no paths
        # the folder that files lie in may be elsewhere tomorrow
        return "\0".join(name.removeprefix(shared[: shared.rfind("/") + 1]) for name in names)
    if not isinstance(column, Tensor | np.ndarray) or not column.ndim or not len(column) == size > 0:
        return None
    step = max(1, -(-len(rows) * (column.nbytes // len(column)) // _BYTES))
    chosen = rows[::step]
    return column[torch.from_numpy(chosen)] if isinstance(column, Tensor) else column[chosen]


def _path_of(entry: Any) -> Any:
    return entry[0] if isinstance(entry, tuple) and entry else entry


def _files(base: Dataset[Any]) -> Iterator[Path]:
    """Yield the files that a dataset names in its fields, of many a part."""
    for name, value in sorted(getattr(base, "__dict__", {}).items()):
        entries = value if isinstance(value, list) else [value]
        if name == "imgs" or not entries or not isinstance(_path_of(entries[0]), str | os.PathLike):
            continue  # torchvision keeps one list under two names
        chosen = [_path_of(entries[row]) for row in spread(len(entries), _FILES).tolist()]
        # texts may be too long for a path, which pathlib does not forgive
        yield from (Path(entry) for entry in chosen if os.path.isfile(entry))


def add(digest: Any, value: Any) -> None:
    """Hash a value with its type and shape; of an unknown object its type alone, for its address changes."""
    shape: Any = ()
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        kind, shape = str(value.dtype), tuple(value.shape)
        content = value.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray | np.generic):
        kind, shape = value.dtype.str, value.shape
        content = b"" if value.dtype.hasobject else value.tobytes()
    elif value is None or isinstance(value, bool | int | float | str | bytes | tuple):
        kind, content = type(value).__name__, repr(value).encode()
    else:  # a PIL image, for instance
        kind, shape = type(value).__name__, getattr(value, "size", ())
        content = value.tobytes() if hasattr(value, "tobytes") else b""
    digest.update(repr((kind, shape if content else (), len(content))).encode())
    digest.update(content)
