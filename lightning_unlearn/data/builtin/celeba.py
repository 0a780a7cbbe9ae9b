"""CelebA: faces with identities to forget and an attribute to predict, from the published files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.data.builtin.base import FilesDataModule, missing_data, to_targets
from lightning_unlearn.data.builtin.folder import LazyImages, decode_images
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.transforms import Normalize

_HOME = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_FOLDER = "celeba"
_ATTRIBUTES = "list_attr_celeba.txt"
_IDENTITIES = "identity_CelebA.txt"
_PARTITION = "list_eval_partition.txt"
_IMAGES = "img_align_celeba"
_TRAIN, _TEST = 0, 2  # numbers of the published partition; 1 is for validation
_CHANNELS = 3


class CelebA(FilesDataModule):
    """202,599 faces of 10,177 people, ``(3, image_size, image_size)``; two classes: has the attribute or not.

    The training and test sets are those of the published partition; nobody is in both. Per-sample attributes:
    ``"identity"`` (number of the person), ``"file"`` (file name), each of the 40 published attributes as 0 or
    1, and ``"age"``, which takes the place of an age that CelebA does not have: 0 for faces labelled young and 1
    for the others. Non-i.i.d. forgetting of 2% of the identities, mostly young ones, is
    ``Groups("identity", 0.02, skew_by="age", skew=1.0)``.

    Images are held in memory where they fit, and else decoded whenever they are asked for. Source: Liu et
    al., "Deep learning face attributes in the wild", 2015.

    Args:
        root: Folder that holds ``celeba`` with ``list_attr_celeba.txt``, ``identity_CelebA.txt``,
            ``list_eval_partition.txt`` and the folder ``img_align_celeba``.
        target: Name of the published attribute to predict.
        image_size: Pixels a side, after cutting the largest centred square.
        max_memory_gb: Largest size of a set of images that is held in memory, in GB (10^9 bytes).
        num_workers: Processes that decode images, where they are not held in memory.
        download: Whether to download what is missing; needs the package ``gdown``.
        **common: ``train_limit``, ``test_limit``, ``batch_size``, ``seed`` and ``val_fraction`` of
            :class:`FilesDataModule`.
    """

    def __init__(
        self,
        root: str | Path = "data",
        target: str = "Smiling",
        image_size: int = 64,
        max_memory_gb: float = 4.0,
        num_workers: int = 0,
        download: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        in_range("image_size", image_size, "[1, inf)", whole=True)
        in_range("max_memory_gb", max_memory_gb, "[0, inf)")
        self.target = target
        self.image_size = image_size
        self.max_memory_gb = max_memory_gb
        self.num_workers = num_workers
        self.download = download

    @property
    def num_classes(self) -> int:
        """Number of classes: 2."""
        return 2

    def prepare_data(self) -> None:
        """Download what is missing, if ``download`` is set."""
        if self.download:
            from torchvision import datasets

            datasets.CelebA(str(self.root), download=True)

    def load(self) -> tuple[TensorData | LazyImages, TensorData | LazyImages]:
        """Read the lists, and the images where they fit in memory."""
        folder = self.root / _FOLDER
        for name in (_ATTRIBUTES, _IDENTITIES, _PARTITION, _IMAGES):
            if not (folder / name).exists():
                raise missing_data("CelebA", folder / name, _HOME, can_download=True)
        names, files, values = _read_attributes(folder / _ATTRIBUTES)
        if self.target not in names:
            raise ValueError(f"target must be one of {', '.join(names)}; got {self.target!r}")
        partition = _read_numbers(folder / _PARTITION, files)
        columns: dict[str, npt.NDArray[Any]] = {name: values[:, index] for index, name in enumerate(names)}
        columns["identity"] = _read_numbers(folder / _IDENTITIES, files)
        columns["file"] = files
        if "Young" in columns:
            columns["age"] = 1 - columns["Young"]
        return (
            self._images("train", np.flatnonzero(partition == _TRAIN), columns),
            self._images("test", np.flatnonzero(partition == _TEST), columns),
        )

    def _images(
        self, part: str, rows: npt.NDArray[np.int64], columns: dict[str, npt.NDArray[Any]]
    ) -> TensorData | LazyImages:
        if not len(rows):
            raise ValueError(f"{_PARTITION} names no {part} images; restore the file")
        rows = rows[self.limited(part, columns[self.target][rows])]
        paths = [self.root / _FOLDER / _IMAGES / file for file in columns["file"][rows]]
        targets = to_targets(columns[self.target][rows])
        attributes = {column: values[rows] for column, values in columns.items()}
        normalize = Normalize((0.5,) * _CHANNELS, (0.5,) * _CHANNELS)
        known: dict[str, Any] = {"num_classes": 2, "transform": normalize, "attributes": attributes}
        if len(rows) * _CHANNELS * self.image_size**2 > self.max_memory_gb * 1e9:
            return LazyImages(paths, targets, image_size=self.image_size, **known)
        return TensorData(decode_images(paths, self.image_size), targets, **known)


def _read_attributes(path: Path) -> tuple[list[str], npt.NDArray[np.str_], npt.NDArray[np.int8]]:
    """Return the attributes' names, the file names ``(n,)``, and the values ``(n, names)`` as 0 and 1."""
    lines = path.read_text().splitlines()
    names = lines[1].split() if len(lines) > 1 else []
    files, values = _columns(path, lines[2:], len(names))  # the first line is the number of images
    return names, files, ((values + 1) // 2).astype(np.int8)


def _read_numbers(path: Path, files: npt.NDArray[np.str_]) -> npt.NDArray[np.int32]:
    """Return the number beside every file name, ``(n,)``; the file names must be ``files``."""
    listed, values = _columns(path, path.read_text().splitlines(), 1)
    if not np.array_equal(listed, files):
        raise ValueError(f"{path} does not list the same images as {_ATTRIBUTES}; get both from {_HOME}")
    return values[:, 0]


def _columns(path: Path, lines: list[str], count: int) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int32]]:
    """Return the first column and the ``count`` integers after it, shapes ``(n,)`` and ``(n, count)``."""
    if not lines or not count or any(len(line.split()) != 1 + count for line in (lines[0], lines[-1])):
        raise ValueError(f"{path} is damaged: it must have 1 + {count} columns; get it again from {_HOME}")
    try:
        files = np.loadtxt(lines, dtype=np.str_, comments=None, usecols=0, ndmin=1)
        values = np.loadtxt(lines, dtype=np.int32, comments=None, usecols=range(1, 1 + count), ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); get it again from {_HOME}") from error
    return files, values
