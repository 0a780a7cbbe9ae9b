"""Small image data sets read through torchvision and held as ``uint8`` tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from lightning_unlearn.data.builtin.base import FilesDataModule, channels_first, missing_data, to_targets
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.transforms import Normalize, RandomCropFlip


class TorchvisionData(FilesDataModule):
    """What the data sets that torchvision reads have in common.

    Args:
        root: Folder that torchvision takes as ``root``.
        download: Whether to download what is missing.
        augment: Whether to augment training batches, on the training device.
        **common: ``train_limit``, ``test_limit``, ``batch_size``, ``seed`` and ``val_fraction`` of
            :class:`FilesDataModule`.
    """

    _home: ClassVar[str]
    _num_classes: ClassVar[int] = 10
    _targets: ClassVar[str] = "targets"  # where torchvision keeps them
    _normalize: ClassVar[Normalize]
    _augmentation: ClassVar[RandomCropFlip]

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = False,
        augment: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        self.download = download
        self.augment = augment

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes

    def prepare_data(self) -> None:
        """Download what is missing, if ``download`` is set."""
        if self.download:
            for train in (True, False):
                self._open(train, download=True)

    def load(self) -> tuple[TensorData, TensorData]:
        """Read both sets; torchvision checks that their files are there and as published."""
        try:
            train, test = self._open(True), self._open(False)
        except RuntimeError as error:
            name = f"{type(self).__name__}, whole and as published,"
            raise missing_data(name, self.root, self._home, can_download=True) from error
        return self._hold("train", train), self._hold("test", test)

    def _hold(self, part: str, dataset: Any) -> TensorData:
        targets = np.atleast_1d(np.asarray(getattr(dataset, self._targets), dtype=np.int64))
        chosen = self.limited(part, targets)
        images = channels_first(np.asarray(dataset.data))[chosen]
        return TensorData(
            torch.as_tensor(np.ascontiguousarray(images)),
            to_targets(targets[chosen]),
            num_classes=self._num_classes,
            transform=self._normalize,
            augment=self._augmentation if self.augment else None,
        )

    def _open(self, train: bool, *, download: bool = False) -> Any:
        """Return torchvision's dataset."""
        from torchvision import datasets

        return getattr(datasets, type(self).__name__)(self.root, train=train, download=download)


class MNIST(TorchvisionData):
    """70,000 handwritten digits, ``(1, 28, 28)``, 10 classes, from ``root/MNIST/raw``.

    Augmentation shifts by up to 2 pixels and does not mirror. Source: LeCun et al., "Gradient-based learning
    applied to document recognition", 1998.

    Args:
        root: Folder that holds ``MNIST/raw``.
        download: Whether to download what is missing.
        augment: Whether to augment training batches, on the training device.
        **common: ``train_limit``, ``test_limit``, ``batch_size``, ``seed`` and ``val_fraction`` of
            :class:`FilesDataModule`.
    """

    _home = "https://yann.lecun.com/exdb/mnist/ or https://ossci-datasets.s3.amazonaws.com/mnist/"
    _normalize = Normalize((0.1307,), (0.3081,))
    _augmentation = RandomCropFlip(padding=2, flip=False)


class FashionMNIST(MNIST):
    """70,000 pictures of clothes, ``(1, 28, 28)``, 10 classes, from ``root/FashionMNIST/raw``.

    Augmentation shifts by up to 2 pixels and mirrors. Source: Xiao, Rasul & Vollgraf, "Fashion-MNIST", 2017.

    Args:
        root: Folder that holds ``FashionMNIST/raw``.
        download: Whether to download what is missing.
        augment: Whether to augment training batches, on the training device.
        **common: ``train_limit``, ``test_limit``, ``batch_size``, ``seed`` and ``val_fraction`` of
            :class:`FilesDataModule`.
    """

    _home = "https://github.com/zalandoresearch/fashion-mnist"
    _normalize = Normalize((0.2860,), (0.3530,))
    _augmentation = RandomCropFlip(padding=2, flip=True)


class SVHN(TorchvisionData):
    """99,289 cropped house numbers, ``(3, 32, 32)``, 10 classes, from ``root/{train,test}_32x32.mat``.

    Augmentation shifts by up to 4 pixels and does not mirror. Source: Netzer et al., "Reading digits in
    natural images with unsupervised feature learning", 2011.

    Args:
        root: Folder that holds the two files.
        download: Whether to download what is missing.
        augment: Whether to augment training batches, on the training device.
        **common: ``train_limit``, ``test_limit``, ``batch_size``, ``seed`` and ``val_fraction`` of
            :class:`FilesDataModule`.
    """

    _home = "http://ufldl.stanford.edu/housenumbers/"
    _targets = "labels"
    _normalize = Normalize((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    _augmentation = RandomCropFlip(padding=4, flip=False)

    def _open(self, train: bool, *, download: bool = False) -> Any:
        from torchvision import datasets

        return datasets.SVHN(self.root, split="train" if train else "test", download=download)


class CIFAR10(TorchvisionData):
    """60,000 pictures of 10 classes of things, ``(3, 32, 32)``, from ``root/cifar-10-batches-py``.

    Augmentation shifts by up to 4 pixels and mirrors. Source: Krizhevsky, "Learning multiple layers of
    features from tiny images", 2009.

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        download: Whether to download what is missing.
        augment: Whether to augment training batches, on the training device.
        **common: ``train_limit``, ``test_limit``, ``batch_size``, ``seed`` and ``val_fraction`` of
            :class:`FilesDataModule`.
    """

    _home = "https://www.cs.toronto.edu/~kriz/cifar.html"
    _normalize = Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    _augmentation = RandomCropFlip(padding=4, flip=True)

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = False,
        augment: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(root, download, augment, **common)


class CIFAR100(CIFAR10):
    """60,000 pictures of 100 classes of things, ``(3, 32, 32)``, from ``root/cifar-100-python``.

    Augmentation shifts by up to 4 pixels and mirrors. Source: Krizhevsky, "Learning multiple layers of
    features from tiny images", 2009.

    Args:
        root: Folder that holds ``cifar-100-python``.
        download: Whether to download what is missing.
        augment: Whether to augment training batches, on the training device.
        **common: ``train_limit``, ``test_limit``, ``batch_size``, ``seed`` and ``val_fraction`` of
            :class:`FilesDataModule`.
    """

    _num_classes = 100
    _normalize = Normalize((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
