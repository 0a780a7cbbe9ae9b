"""Transforms and augmentations of whole batches of images on any device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_unlearn.core.checks import in_range, shapes

_UINT8_MAX = 255


@dataclass(frozen=True)
class AsFloat:
    """Cast a batch to ``float32`` without changing a value, for tables held in a smaller type.

    Example:
        >>> AsFloat()(torch.tensor([[0, 1]], dtype=torch.uint8))
        tensor([[0., 1.]])
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return ``inputs`` (any shape and dtype) as ``float32``."""
        return inputs.to(torch.float32)


@dataclass(frozen=True)
class Normalize:
    """Subtract a mean and divide by a standard deviation, channel by channel, in one multiply-add.

    ``uint8`` inputs are first scaled to [0, 1]; floating-point inputs are taken as they are.

    Args:
        mean: Mean of each channel, or a single one for all.
        std: Standard deviation of each channel, or a single one for all; positive.

    Raises:
        ValueError: If the lengths differ or a standard deviation is not positive.

    Example:
        >>> Normalize((0.5,), (0.25,))(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        tensor([[[[-2.,  2.]]]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        # Lists, as a configuration file gives them, would make the object unhashable.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean and std must have a value per channel, got {self.mean} and {self.std}")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std must be positive in every channel, got {self.std}")

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the normalised batch.

        Args:
            inputs: Batch of shape ``(B, C, ...)``, ``uint8`` or floating point.

        Returns:
            Tensor of the same shape, ``float32``.
        """
        channels = len(self.mean)
        if channels > 1 and (inputs.ndim < 2 or inputs.shape[1] != channels):
            raise ValueError(
                f"inputs must have the {channels} channels of mean and std, got {shapes(inputs)}"
            )
        full_scale = _UINT8_MAX if inputs.dtype == torch.uint8 else 1
        scale, shift = _affine(self.mean, self.std, full_scale, inputs.ndim, inputs.device)
        floats = inputs.to(torch.float32)  # a copy, unless they are that already
        return (floats.mul(scale) if floats is inputs else floats.mul_(scale)).add_(shift)


@lru_cache(maxsize=64)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], full_scale: int, ndim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return factor and summand of a normalisation, kept: copying them to a GPU each batch would stall it."""
    # A constant made in inference mode could not be used under autograd later.
    with torch.inference_mode(False):
        centre, spread = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        shape = (1, -1, *[1] * (ndim - 2)) if len(mean) > 1 else ()
        factor, summand = (1 / (full_scale * spread)).reshape(shape), (-centre / spread).reshape(shape)
        return factor.to(device, torch.float32), summand.to(device, torch.float32)


def crop_flip(inputs: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Pad every image with zeros, cut a window of the old size out of it, and mirror it where asked.

    Args:
        inputs: Images, shape ``(B, C, H, W)``, any dtype.
        top: First row of each window in the padded image, shape ``(B,)``, ``int64`` in ``[0, 2·padding]``.
        left: First column of each window, likewise.
        flip: Whether to mirror each image left to right, shape ``(B,)``, ``bool``.
        padding: Rows and columns of zeros on every side.

    Returns:
        The images, shape ``(B, C, H, W)``, same dtype.
    """
    count, channels, height, width = inputs.shape
    padded = F.pad(inputs, [padding] * 4)
    across = torch.arange(width, device=inputs.device)
    rows = top[:, None] + torch.arange(height, device=inputs.device)
    columns = left[:, None] + torch.where(flip[:, None], across.flip(0), across)
    places = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    places = places.reshape(count, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, places).view(count, channels, height, width)


@dataclass(frozen=True)
class RandomCropFlip:
    """Shift every image by up to ``padding`` pixels each way, and mirror it with probability one half.

    Args:
        padding: Largest shift, in pixels, 0 or more; what comes in from outside is zero.
        flip: Whether to mirror images left to right. Not for digits or letters.

    Raises:
        ValueError: If ``padding`` is negative, or if there would be nothing to do.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        in_range("padding", self.padding, "[0, inf)", whole=True)
        if self.padding == 0 and not self.flip:
            raise ValueError("padding=0 with flip=False changes nothing; leave the augmentation out")

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ``top``, ``left`` and ``flip`` of :func:`crop_flip`, on the generator's device."""
        offsets = torch.randint(
            2 * self.padding + 1, (2, count), generator=generator, device=generator.device
        )
        flip = torch.zeros(count, dtype=torch.bool, device=generator.device)
        if self.flip:
            flip = torch.rand(count, generator=generator, device=generator.device) < 0.5
        return offsets[0], offsets[1], flip

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a batch of images, shape ``(B, C, H, W)``, any dtype; shape and dtype are kept."""
        if inputs.ndim != 4:
            raise ValueError(f"inputs must be images of shape (B, C, H, W), got shape {tuple(inputs.shape)}")
        top, left, flip = (drawn.to(inputs.device) for drawn in self.draw(len(inputs), generator))
        return crop_flip(inputs, top, left, flip, self.padding)
