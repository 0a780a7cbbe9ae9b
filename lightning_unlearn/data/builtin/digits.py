"""The handwritten digits that come inside scikit-learn: real data without a file or a download."""

from __future__ import annotations

import torch

from lightning_unlearn.data.builtin.base import TensorDataModule, hold_out, to_targets
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.transforms import Normalize

_LARGEST_PIXEL = 16  # pixels are counts of set bits in 4x4 cells
_MEAN, _STD = (0.305,), (0.376,)  # of all pixels, once scaled to [0, 1]
_TEST_FRACTION = 0.2


class Digits(TensorDataModule):
    """1,797 images of handwritten digits in 10 classes, ``(1, 8, 8)``, embedded in scikit-learn.

    1,438 are for training and 359 for testing, with equal shares of every digit; always the same ones.
    Source: Alpaydin & Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998 (its test
        set).

    Args:
        batch_size: Samples in a batch.
        seed: Seed of the order of training batches; see :class:`TensorDataModule`.
        val_fraction: Share of the training set held out for validation; with 0 the test set serves.

    Example:
        >>> data = Digits(batch_size=64)
        >>> data.setup("fit")
        >>> len(data.train_data), len(data.test_data), data.num_classes
        (1438, 359, 10)
    """

    @property
    def num_classes(self) -> int:
        """Number of classes: 10."""
        return 10

    def load(self) -> tuple[TensorData, TensorData]:
        """Read the digits and divide them."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.as_tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / _LARGEST_PIXEL
        whole = TensorData(images, to_targets(bunch.target), num_classes=10, transform=Normalize(_MEAN, _STD))
        train, test = hold_out(bunch.target, _TEST_FRACTION, name="test fraction")
        return whole.subset(train), whole.subset(test)
