"""Purchase and Location, the binary tables of the membership-inference literature, as published."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.data.builtin.arrays import read_npz
from lightning_unlearn.data.builtin.base import TensorDataModule, hold_out, missing_data, to_targets
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.transforms import AsFloat

_HOME = "https://github.com/privacytrustlab/datasets"
_SUFFIXES = ("", ".csv", ".gz", ".csv.gz", ".tgz", ".tar.gz")
_KMEANS_SEED = 0  # classes must not depend on the run's seed, or every run would have a task of its own
_KMEANS_STARTS = 3


class BinaryTable(TensorDataModule):
    """What Purchase and Location have in common: rows of zeros and ones, with or without a class.

    Args:
        root: Folder that holds the file, or the file itself.
        classes: Number of classes to make by k-means; None for those in the file.
        train_size: Use this many training samples only, with the same share of every class.
        test_size: Samples held out for testing, a number or a share, with the same share of every class.
        **common: ``batch_size``, ``seed`` and ``val_fraction`` of :class:`TensorDataModule`.
    """

    _stems: ClassVar[tuple[str, ...]]
    _archives: ClassVar[tuple[str, ...]] = ()
    _default_classes: ClassVar[int]

    def __init__(
        self,
        root: str | Path = "data",
        classes: int | None = None,
        train_size: int | None = None,
        test_size: int | float = 0.2,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        in_range("classes", classes, "[2, inf)", "; None takes those in the file", whole=True, none=True)
        self.root = Path(root).expanduser()
        self.classes = classes
        self.train_size = train_size
        self.test_size = test_size

    def load(self) -> tuple[TensorData, TensorData]:
        """Read the table, make classes where there are none, and divide it."""
        features, labels = read_binary_table(self._file())
        if self.classes is not None or labels is None:
            labels = kmeans_classes(features, self.classes or self._default_classes)
        rest, held = hold_out(labels, self.test_size, name="test_size")
        if self.train_size is not None and self.train_size != len(rest):
            rest = rest[hold_out(labels[rest], self.train_size, name="train_size")[1]]
        whole = TensorData(torch.as_tensor(features), to_targets(labels), transform=AsFloat())
        return whole.subset(rest), whole.subset(held)

    def _file(self) -> Path:
        if self.root.is_file():
            return self.root
        names = [*self._archives, *(stem + suffix for stem in self._stems for suffix in _SUFFIXES)]
        for name in names:
            if (self.root / name).is_file():
                return self.root / name
        tried = "{" + ", ".join(names) + "}"
        raise missing_data(type(self).__name__, self.root / tried, _HOME)


class Purchase(BinaryTable):
    """Shopping histories, ``(600,)`` zeros and ones; Purchase-10, -20, -50 or -100 by the number of classes.

    Reads ``dataset_purchase`` as published, plain, ``.gz`` or ``.tgz``: a row is ``label,f1,…,f600`` with
    labels from 1 to 100, or the features only. Classes by k-means are those of Chen, Huang & Wang, "Machine
    unlearning via GAN", 2021, section 3.2. Source: Shokri et al., "Membership inference attacks against
    machine learning models", 2017.

    Args:
        root: Folder that holds the file, or the file itself.
        classes: Number of classes to make by k-means, such as 10, 20, 50 or 100. Left out, the classes are
            those in the file, or 100 by k-means where it has none.
        train_size: Use this many training samples only, with the same share of every class.
        test_size: Samples held out for testing, a number or a share, with the same share of every class.
        **common: ``batch_size``, ``seed`` and ``val_fraction`` of :class:`TensorDataModule`.
    """

    _stems = ("dataset_purchase",)
    _default_classes = 100


class Location(BinaryTable):
    """Places that people in Bangkok checked in at, ``(446,)`` zeros and ones, 5,010 people in 30 classes.

    Reads ``bangkok`` as published (a row is a quoted label from 1 to 30 and the features), also inside
    ``dataset_location.tgz``, or ``location30.npz`` with ``x`` and ``y``. Source: Shokri et al., "Membership
    inference attacks against machine learning models", 2017.

    Args:
        root: Folder that holds the file, or the file itself.
        classes: Number of classes to make by k-means. Left out, the classes are those in the file, or 30 by
            k-means where it has none.
        train_size: Use this many training samples only, with the same share of every class.
        test_size: Samples held out for testing, a number or a share, with the same share of every class.
        **common: ``batch_size``, ``seed`` and ``val_fraction`` of :class:`TensorDataModule`.
    """

    _stems = ("bangkok", "dataset_location")
    _archives = ("location30.npz",)
    _default_classes = 30


def read_binary_table(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
    """Read a table of zeros and ones with, possibly, a label in its first column.

    The first column is a label if it holds anything but 0 and 1. Labels are renumbered from 0, in their
    order.

    Args:
        path: A CSV file, plain, ``.gz`` or inside a ``.tgz``; or an ``.npz`` file with ``x`` and, possibly,
            ``y``.

    Returns:
        Features ``(n, F)`` and labels ``(n,)``, or None where there are none.

    Raises:
        ValueError: If the file is damaged, empty, or has features that are not 0 or 1.
    """
    labels: npt.NDArray[Any] | None = None
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if "x" not in arrays or arrays["x"].ndim != 2:
            raise ValueError(f"{path} holds {sorted(arrays)}; it must hold a table x and, possibly, labels y")
        table, labels = arrays["x"], arrays.get("y")
    else:
        table = _read_csv(path)
        if len(table) and table[:, 0].max() > 1:
            table, labels = table[:, 1:], table[:, 0]
    if not table.size:
        raise ValueError(f"{path} holds no features; get it again from {_HOME}")
    if ((table != 0) & (table != 1)).any():
        raise ValueError(f"{path} must hold features of 0 and 1, got others; get it again from {_HOME}")
    if labels is not None:
        if labels.shape != table.shape[:1]:
            raise ValueError(
                f"{path} has {len(table)} rows and labels of shape {labels.shape}; give one each"
            )
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return table.astype(np.uint8), labels


def kmeans_classes(features: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    """Group rows into classes by k-means, always in the same way.

    Args:
        features: Table ``(n, F)``.
        classes: Number of classes.

    Returns:
        Class of every row, ``(n,)``, in ``[0, classes)``; no class is empty.

    Raises:
        ValueError: If there are too few different rows for so many classes.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if len(features) >= classes:
        kmeans = KMeans(classes, n_init=_KMEANS_STARTS, random_state=_KMEANS_SEED)
        with threadpool_limits(1):  # sums do not depend on the number of threads
            labels = np.asarray(kmeans.fit_predict(features.astype(np.float32)), dtype=np.int64)
        if len(np.unique(labels)) == classes:
            return labels
    raise ValueError(f"classes={classes} is too many for the {len(features)} rows of the table; choose fewer")


def _read_csv(path: Path) -> npt.NDArray[np.int16]:
    # NumPy opens .gz files itself
    try:
        lines = _text_in_archive(path) if path.name.endswith((".tgz", ".tar.gz")) else path
        return np.loadtxt(lines, dtype=np.int16, delimiter=",", quotechar='"', comments=None, ndmin=2)
    except (ValueError, OSError, EOFError, zlib.error, tarfile.TarError) as error:
        what = f"rows of integers separated by commas ({error})"
        raise ValueError(f"{path} cannot be read as {what}; get it again from {_HOME}") from error


def _text_in_archive(path: Path) -> io.StringIO:
    with tarfile.open(path) as archive:
        # archives made on a Mac carry a hidden companion of every file
        files = [item for item in archive if item.isfile() and not Path(item.name).name.startswith("._")]
        stream = archive.extractfile(files[0]) if len(files) == 1 else None
        if stream is None:
            raise ValueError(f"the archive holds {len(files)} files and must hold one")
        return io.StringIO(stream.read().decode())
