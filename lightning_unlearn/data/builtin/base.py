"""What the built-in datamodules share: loaders over data in memory, fixed hold-outs, limits, and their errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.seeds import default_seed
from lightning_unlearn.data.loading import BatchLoader, DatasetLoader, TensorLoader
from lightning_unlearn.data.selection import stratified_draw
from lightning_unlearn.data.selection_data import Positions
from lightning_unlearn.data.tensors import TensorData

# What is held out does not follow the run's seed: a position in the training set must always mean the same
# sample, or a list of positions to forget would name other people in the next run.
_HOLD_OUT_SEED = 0
_CHANNEL_COUNTS = (1, 3, 4)


class LabelledData(Protocol):
    """A map-style dataset that knows its classes without reading its samples, such as :class:`TensorData`."""

    targets: Tensor
    num_classes: int
    attributes: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]: ...

    def subset(self, positions: npt.NDArray[Any] | Tensor) -> LabelledData:
        """Return a dataset of its own with the samples at ``positions``."""
        ...


Data: TypeAlias = TensorData | LabelledData


class TensorDataModule(L.LightningDataModule, ABC):
    """A datamodule that loads a training and a test set once and serves them a whole batch at a time.

    A subclass says in :meth:`load` what the two sets are. The arguments are saved as hyper-parameters.

    Args:
        batch_size: Samples in a batch.
        seed: Seed of the order and the augmentation of training batches. Left out, it is the one given to
            ``lightning.seed_everything``, or 0 without one.
        val_fraction: Share of the training set held out for validation, the same share of every class and the
            same samples whatever the seed. With 0 the test set serves for validation.

    Attributes:
        train_data: The training set, after :meth:`setup`.
        val_data: The validation set, after :meth:`setup`.
        test_data: The test set, after :meth:`setup`.
    """

    train_data: Data
    val_data: Data
    test_data: Data

    # What is held out does not follow it, so that a source trained with another one is no other.
    same_samples_whatever: ClassVar[tuple[str, ...]] = ("seed",)

    # Loader processes for data that do not fit in memory; data in memory need none.
    num_workers: int = 0

    def __init__(self, batch_size: int = 128, seed: int | None = None, val_fraction: float = 0.0) -> None:
        super().__init__()
        in_range("batch_size", batch_size, "[1, inf)", whole=True)
        in_range("seed", seed, "[0, inf)", whole=True, none=True)
        in_range("val_fraction", val_fraction, "[0, 1)", "; it is a share of the training set")
        # Not to the logger: a model may have a batch_size or a seed of its own, which Lightning takes for a
        # clash.
        self.save_hyperparameters(logger=False)
        # a Path among them could not be loaded with weights_only
        paths = {name: str(value) for name, value in self.hparams.items() if isinstance(value, Path)}
        self.hparams.update(paths)
        self.batch_size = batch_size
        self.seed = seed
        self.val_fraction = val_fraction
        self._is_loaded = False

    @abstractmethod
    def load(self) -> tuple[Data, Data]:
        """Read the training set and the test set; called once.

        Raises:
            FileNotFoundError: If a file is missing; the message names it, and where to get it.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes; loads the data where it cannot be known otherwise."""
        self.setup("fit")
        return self.train_data.num_classes

    def setup(self, stage: str) -> None:
        """Load the data, the first time this is called for any stage."""
        if self._is_loaded:
            return
        train, test = self.load()
        validation = test
        if self.val_fraction > 0:
            rest, held = hold_out(train.targets.numpy(), self.val_fraction, name="val_fraction")
            train, validation = train.subset(rest), train.subset(held)
        self.train_data, self.val_data, self.test_data = train, validation, test
        self._is_loaded = True

    def train_dataloader(self) -> BatchLoader:
        """Return the training set, shuffled and, where the data have an augmentation, augmented."""
        return self._loader(self.train_data, training=True)

    def val_dataloader(self) -> BatchLoader:
        """Return the validation set in order."""
        return self._loader(self.val_data)

    def test_dataloader(self) -> BatchLoader:
        """Return the test set in order."""
        return self._loader(self.test_data)

    def predict_dataloader(self) -> BatchLoader:
        """Return the test set in order."""
        return self._loader(self.test_data)

    def _loader(self, data: Data, *, training: bool = False) -> BatchLoader:
        seed = default_seed() if self.seed is None else self.seed
        if isinstance(data, TensorData):
            return TensorLoader(
                data, batch_size=self.batch_size, shuffle=training, augment=training, seed=seed
            )
        return DatasetLoader(
            data,  # type: ignore[arg-type]  # a Dataset, of which Protocol cannot be told
            batch_size=self.batch_size,
            shuffle=training,
            seed=seed,
            num_workers=self.num_workers,
        )


class FilesDataModule(TensorDataModule):
    """A :class:`TensorDataModule` over files in a folder, of which the first samples may be enough.

    Args:
        root: The folder.
        train_limit: Use the first training samples of every class only, this many in all.
        test_limit: The same for the test set.
        **common: ``batch_size``, ``seed`` and ``val_fraction`` of :class:`TensorDataModule`.
    """

    def __init__(
        self,
        root: str | Path = "data",
        train_limit: int | None = None,
        test_limit: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.root = Path(root).expanduser()
        self.limits = {"train": train_limit, "test": test_limit}

    def limited(self, part: str, targets: npt.NDArray[Any]) -> Positions:
        """Return which samples of the ``"train"`` or the ``"test"`` set are used, given the class of each."""
        return balanced_prefix(targets, self.limits[part], name=f"{part}_limit")


def hold_out(targets: npt.NDArray[Any], size: int | float, *, name: str) -> tuple[Positions, Positions]:
    """Divide samples into a rest and a held-out part with the same classes; always in the same way.

    Args:
        targets: Class of every sample, shape ``(n,)``.
        size: Samples to hold out: a number, or a share as a float in ``(0, 1)``.
        name: The user's argument, for messages.

    Returns:
        ``(rest, held_out)``, sorted positions; neither is empty.

    Example:
        >>> rest, held = hold_out(np.array([0, 0, 0, 1, 1, 1]), 2, name="test_size")
        >>> np.array([0, 0, 0, 1, 1, 1])[held].tolist(), len(rest)
        ([0, 1], 4)
    """
    count = size if isinstance(size, int) else round(size * len(targets))
    if not 0 < count < len(targets):
        taken = f"{count} of {len(targets)} samples"
        raise ValueError(f"{name}={size} would take {taken}; it must take at least one and leave one")
    held = stratified_draw(targets, count, np.random.default_rng(_HOLD_OUT_SEED))
    return np.setdiff1d(np.arange(len(targets)), held, assume_unique=True), held


def balanced_prefix(targets: npt.NDArray[Any], limit: int | None, *, name: str) -> Positions:
    """Return the first samples of every class, ``limit`` in all and as many of each class as there are.

    Args:
        targets: Class of every sample, shape ``(n,)``.
        limit: Number of samples; None or more than ``n`` for all.
        name: The user's argument, for messages.

    Returns:
        Sorted positions; those of a smaller limit are among those of a larger one.

    Example:
        >>> balanced_prefix(np.array([0, 0, 0, 1, 0, 1]), 4, name="train_limit").tolist()
        [0, 1, 3, 5]
    """
    in_range(name, limit, "[1, inf)", "; None takes all samples", whole=True, none=True)
    if limit is None or limit >= len(targets):
        return np.arange(len(targets))
    by_class = np.argsort(targets, kind="stable")
    counts = np.unique(targets, return_counts=True)[1]
    rank = np.empty(len(targets), dtype=np.int64)
    rank[by_class] = np.arange(len(targets)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(np.argsort(rank, kind="stable")[:limit])


def channels_first(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Lay out images ``(n, H, W)``, ``(n, H, W, C)`` or ``(n, C, H, W)`` as ``(n, C, H, W)``."""
    if images.ndim == 3:
        return images[:, None]
    is_last = images.shape[3] in _CHANNEL_COUNTS and images.shape[1] not in _CHANNEL_COUNTS
    return images.transpose(0, 3, 1, 2) if is_last else images


def missing_data(
    name: str, looked_for: Path, home: str, *, argument: str = "root", can_download: bool = False
) -> FileNotFoundError:
    """Return the error for a data set that is not there.

    Args:
        name: Name of the data set.
        looked_for: The file or folder that was looked for.
        home: Where the data set comes from.
        argument: The user's argument that says where it is.
        can_download: Whether the datamodule has a ``download`` option.
    """
    return FileNotFoundError(
        f"{name} not found: looked for {looked_for.absolute()}. Get it from {home} and put it there, or set "
        f"{argument} to where it is{', or set download=True' if can_download else ''}"
    )


def to_targets(values: npt.NDArray[Any] | Tensor) -> Tensor:
    """Return class indices as an ``int64`` tensor of shape ``(n,)`` that shares no memory with a file."""
    return torch.as_tensor(np.array(values, dtype=np.int64))
