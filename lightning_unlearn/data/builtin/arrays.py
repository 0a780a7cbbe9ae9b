"""A datamodule over arrays in an ``.npz`` file: images or tables, with attributes beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_unlearn.core.checks import in_range, shapes
from lightning_unlearn.core.files import read_arrays
from lightning_unlearn.data.builtin.base import (
    TensorDataModule,
    channels_first,
    hold_out,
    missing_data,
    to_targets,
)
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.transforms import AsFloat, Normalize, RandomCropFlip

_TEST_FRACTION = 0.2


class Arrays(TensorDataModule):
    """Arrays from an ``.npz`` file: ``x_train, y_train, x_test, y_test``, or ``x, y`` to be divided.

    Inputs of four axes are images, ``(n, H, W, C)`` or ``(n, C, H, W)``; ``uint8`` of three axes are grey
    images; everything else is taken as it is, in ``float32``. Other arrays in the file are per-sample
    attributes, for instance to forget by id or by group: ``id_train`` and ``id_test`` (or ``id``) make the
    attribute ``"id"``.

    Args:
        path: The ``.npz`` file. Files with Python objects in them are refused, for they can hold programs.
        test_fraction: Share held out for testing, with the same share of every class, where the file has
            ``x`` and ``y`` only; 0.2 when left out.
        mean: Mean of each channel or feature, or one for all. Left out, ``uint8`` images are mapped to [-1,
            1] and other inputs stay as they are; nothing is estimated from the data, since a statistic of the
            training set would outlive the samples that are forgotten.
        std: Standard deviation of each channel or feature; goes with ``mean``.
        augment: Whether to shift training images by up to 4 pixels and mirror them, on the training device.
        **common: ``batch_size``, ``seed`` and ``val_fraction`` of :class:`TensorDataModule`.
    """

    def __init__(
        self,
        path: str | Path,
        test_fraction: float | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        augment: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std go together, got mean={mean} and std={std}; give both or neither")
        in_range("test_fraction", test_fraction, "(0, 1)", none=True)
        self.path = Path(path).expanduser()
        self.test_fraction = test_fraction
        self.normalize = None if mean is None or std is None else Normalize(mean, std)
        self.augment = augment

    def load(self) -> tuple[TensorData, TensorData]:
        """Read the file and divide it, where it does not come divided."""
        arrays = read_npz(self.path)
        if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
            if self.test_fraction is not None:
                raise ValueError(
                    f"test_fraction={self.test_fraction} is for files with x and y only; leave it out"
                )
            classes = 1 + max(int(np.max(arrays["y_train"])), int(np.max(arrays["y_test"])))
            return self._part(arrays, "_train", classes), self._part(arrays, "_test", classes)
        if {"x", "y"} <= arrays.keys():
            whole = self._part(arrays, "", None)
            share = _TEST_FRACTION if self.test_fraction is None else self.test_fraction
            rest, held = hold_out(whole.targets.numpy(), share, name="test_fraction")
            return whole.subset(rest), whole.subset(held)
        wanted = "x_train, y_train, x_test and y_test, or x and y"
        raise ValueError(f"{self.path} holds {sorted(arrays)}; it must hold {wanted}")

    def _part(self, arrays: dict[str, npt.NDArray[Any]], suffix: str, num_classes: int | None) -> TensorData:
        targets = arrays[f"y{suffix}"]
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
            found = f"{targets.dtype} of shape {targets.shape}"
            raise ValueError(f"{self.path}: y{suffix} must be class indices, 1-D integers, got {found}")
        inputs, transform = self._inputs(arrays[f"x{suffix}"])
        if self.augment and inputs.ndim != 4:
            raise ValueError(f"augment=True needs images; x{suffix} of {self.path} is {shapes(inputs)}")
        names = [name.removesuffix(suffix) for name in arrays if name.endswith(suffix)]
        attributes = {name: arrays[name + suffix] for name in names if name not in ("x", "y")}
        try:
            return TensorData(
                inputs,
                to_targets(targets),
                num_classes=num_classes,
                transform=transform,
                augment=RandomCropFlip() if self.augment else None,
                attributes=attributes,
            )
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def _inputs(self, array: npt.NDArray[Any]) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
        is_image = array.ndim == 4 or (array.ndim == 3 and array.dtype == np.uint8)
        array = channels_first(array) if is_image else array
        small = array.dtype in (np.uint8, np.bool_)
        inputs = torch.as_tensor(np.ascontiguousarray(array, dtype=np.uint8 if small else np.float32))
        if small and self.normalize is None:
            return inputs, Normalize((0.5,), (0.5,)) if is_image else AsFloat()
        if small and not is_image:  # numbers of a table, not brightness: they must not be scaled to [0, 1]
            return inputs.to(torch.float32), self.normalize
        return inputs, self.normalize


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of an ``.npz`` file, without running anything that is in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not an ``.npz`` file, or holds Python objects.
    """
    if not path.is_file():
        raise missing_data("Array file", path, "your own arrays, with numpy.savez", argument="path")
    advice = "write it anew with numpy.savez, without Python objects"
    return read_arrays(path, "an .npz file of plain arrays", advice)
