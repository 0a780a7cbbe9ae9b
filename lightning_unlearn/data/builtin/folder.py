"""Images in files: decoding, a dataset that decodes on demand, and a datamodule over folders of classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_unlearn.core.checks import in_range, shapes
from lightning_unlearn.data.builtin.base import FilesDataModule, missing_data, to_targets
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.transforms import Normalize, RandomCropFlip

_MAX_THREADS = 8


def decode_image(path: Path, image_size: int | None = None) -> Tensor:
    """Read one image file as RGB.

    Args:
        path: A file of any format that Pillow reads.
        image_size: Cut the largest centred square and resize it to this many pixels a side; None keeps the
            image as it is.

    Returns:
        Tensor ``(3, H, W)``, ``uint8``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not an image or is damaged.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except FileNotFoundError:
        where = f"{path.absolute()}; put it back or take it off the list"
        raise FileNotFoundError(f"image file not found: {where}") from None
    except OSError as error:
        why = f"cannot be decoded ({error}); replace or remove it"
        raise ValueError(f"image file {path.absolute()} {why}") from error
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return torch.as_tensor(np.array(image)).permute(2, 0, 1)


def decode_images(paths: Sequence[Path], image_size: int | None = None) -> Tensor:
    """Read image files as RGB, several at a time.

    Args:
        paths: At least one file.
        image_size: See :func:`decode_image`; needed where the images differ in size.

    Returns:
        Tensor ``(len(paths), 3, H, W)``, ``uint8``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be decoded, or sizes differ and ``image_size`` is None.
    """
    first = decode_image(paths[0], image_size)
    images = torch.empty((len(paths), *first.shape), dtype=torch.uint8)

    def fill(index: int) -> None:
        image = decode_image(paths[index], image_size)
        if image.shape != first.shape:
            which = f"{paths[0]} and {paths[index]} are {shapes(first[0], image[0])}"
            raise ValueError(f"images differ in size: {which} (height, width); set image_size")
        images[index] = image

    # Threads suffice, since Pillow releases the interpreter's lock while it decodes.
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(fill, range(len(paths))))
    return images


@dataclass(eq=False)
class LazyImages(Dataset[tuple[Tensor, Tensor]]):
    """Labelled image files that are decoded when a sample is asked for, for data that do not fit in memory.

    Args:
        paths: The image files.
        targets: Class of every image, shape ``(n,)``, ``int64``.
        num_classes: Number of classes.
        image_size: Pixels a side; see :func:`decode_image`.
        transform: Deterministic map over a batch of ``uint8`` images.
        attributes: Columns with one value per image.
    """

    paths: list[Path]
    targets: Tensor
    num_classes: int
    image_size: int
    transform: Callable[[Tensor], Tensor]
    attributes: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = decode_image(self.paths[index], self.image_size)
        return self.transform(image.unsqueeze(0))[0], self.targets[index]

    def subset(self, positions: npt.NDArray[Any] | Tensor) -> LazyImages:
        """Return a dataset of its own with the images at ``positions`` (shape ``(m,)``), in that order."""
        rows = np.asarray(positions)
        return replace(
            self,
            paths=[self.paths[row] for row in rows.tolist()],
            targets=self.targets[torch.as_tensor(rows)],
            attributes={name: column[rows] for name, column in self.attributes.items()},
        )


class ImageFolder(FilesDataModule):
    """Images in ``root/train/<class>/`` and ``root/test/<class>/``, decoded once and held as ``uint8``.

    Classes are numbered in the order of their names. The attribute ``"file"`` is the image's path below
    ``root/train`` or ``root/test``, so that files can be forgotten by name, with
    ``Ids("request.csv", column="file")``.

    Args:
        root: Folder with the subfolders ``train`` and ``test``.
        image_size: Cut the largest centred square and resize it to this many pixels a side; needed where the
            images differ in size.
        mean: Mean of each channel, for normalisation. The default maps pixels to [-1, 1] and is not estimated
            from the data: a statistic of the training set would outlive the samples that are forgotten.
        std: Standard deviation of each channel, likewise.
        augment: Whether to shift training images by up to 4 pixels and mirror them, on the training device.
        **common: ``train_limit``, ``test_limit``, ``batch_size``, ``seed`` and ``val_fraction`` of
            :class:`FilesDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | None = None,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        augment: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        in_range("image_size", image_size, "[1, inf)", whole=True, none=True)
        self.image_size = image_size
        self.normalize = Normalize(mean, std)
        self.augment = augment

    def load(self) -> tuple[TensorData, TensorData]:
        """List and decode the images of both folders."""
        listings = {name: self._listing(name) for name in ("train", "test")}
        classes = {name: listing.classes for name, listing in listings.items()}
        if classes["train"] != classes["test"]:
            differing = sorted(set(classes["train"]) ^ set(classes["test"]))
            found = f"only one of them has {', '.join(differing)}"
            raise ValueError(f"{self.root}: train and test must have the same class folders; {found}")
        train, test = (self._decode(name, listing) for name, listing in listings.items())
        if train.inputs.shape[1:] != test.inputs.shape[1:]:
            found = shapes(train.inputs[0, 0], test.inputs[0, 0])
            raise ValueError(f"training and test images are {found} (height, width); set image_size")
        return train, test

    def _listing(self, name: str) -> Any:
        from torchvision import datasets

        folder = self.root / name
        if not folder.is_dir():
            raise missing_data("ImageFolder", folder, "your own images, in one subfolder a class")
        return datasets.ImageFolder(str(folder))

    def _decode(self, part: str, listing: Any) -> TensorData:
        targets = np.asarray(listing.targets)
        chosen = self.limited(part, targets)
        paths = [Path(listing.samples[row][0]) for row in chosen.tolist()]
        return TensorData(
            decode_images(paths, self.image_size),
            to_targets(targets[chosen]),
            num_classes=len(listing.classes),
            transform=self.normalize,
            augment=RandomCropFlip() if self.augment else None,
            attributes={"file": np.array([path.relative_to(listing.root).as_posix() for path in paths])},
        )
