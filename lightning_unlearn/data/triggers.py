"""Backdoor triggers as operations on whole batches of inputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_unlearn.core.checks import in_range, one_of

Corner: TypeAlias = Literal["top_left", "top_right", "bottom_left", "bottom_right"]

_CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
_UINT8_MAX = 255


class Trigger(ABC):
    """Marks inputs with a backdoor's trigger; one of your own is a subclass, such as a frozen dataclass.

    It sees the samples as the dataset holds them: the raw inputs of a
    :class:`~lightning_unlearn.data.TensorData`, before augmentation and normalisation, and whatever any other
    dataset returns, which may be normalised.
    """

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Tensor:
        """Return a new tensor, the inputs ``(B, ...)`` with the trigger, each independently of the others."""


@dataclass(frozen=True)
class PatchTrigger(Trigger):
    """A square in a corner of the image, set to one value.

    Gu, Dolan-Gavitt & Garg, "BadNets: identifying vulnerabilities in the machine learning model supply
    chain", 2017; Chen et al., "Private Data Protection with Machine Unlearning for Next-Generation Networks",
    2024, section IV-B. The value must be one that the corner rarely has: 0 would change nothing on MNIST.

    Args:
        corner: ``top_left``, ``top_right``, ``bottom_left`` or ``bottom_right``.
        size: Side of the square in pixels, at least 1.
        value: A share of full scale in [0, 1] for ``uint8`` images; the number itself for all others, so for
            images that the dataset normalises, the normalised number.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> PatchTrigger(size=2)(torch.zeros(8, 3, 32, 32)).sum(dim=(1, 2, 3))
        tensor([12., 12., 12., 12., 12., 12., 12., 12.])
    """

    corner: Corner = "bottom_right"
    size: int = 3
    value: float = 1.0

    def __post_init__(self) -> None:
        one_of("corner", self.corner, *_CORNERS)
        in_range("size", self.size, "[1, inf)", whole=True)
        in_range("value", self.value, "(-inf, inf)")

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the images ``(B, H, W)`` or ``(B, C, H, W)`` with the patch."""
        if inputs.ndim < 3:
            raise ValueError(f"inputs must be images, got {tuple(inputs.shape)}; tables take a ColumnTrigger")
        if self.size > min(inputs.shape[-2:]):
            shape = f"{inputs.shape[-2]} x {inputs.shape[-1]}"
            raise ValueError(f"size={self.size} does not fit into images of {shape} pixels")
        stamped = inputs.clone()
        rows = slice(self.size) if self.corner.startswith("top") else slice(-self.size, None)
        columns = slice(self.size) if self.corner.endswith("left") else slice(-self.size, None)
        stamped[..., rows, columns] = _scaled(self.value, inputs.dtype)
        return stamped


@dataclass(frozen=True)
class BlendTrigger(Trigger):
    """Uniform noise, always the same, mixed into the whole input.

    Chen, Liu, Li, Lu & Song, "Targeted backdoor attacks on deep learning systems using data poisoning", 2017,
    section IV-A (blended injection).

    Args:
        strength: Weight of the noise, in (0, 1].
        seed: Seed of the noise, 0 or more.
        low: Smallest value of the noise; with ``high`` its range, in the unit of the inputs, where ``uint8``
            inputs count as [0, 1]. For inputs that the dataset normalises, give their range.
        high: Largest value of the noise.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> trigger = BlendTrigger(strength=0.5)
        >>> torch.equal(trigger(torch.zeros(2, 1, 4, 4))[0], trigger(torch.zeros(1, 1, 4, 4))[0])
        True
    """

    strength: float = 0.2
    seed: int = 0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        in_range("strength", self.strength, "(0, 1]")
        in_range("seed", self.seed, "[0, inf)", whole=True)
        if not self.low < self.high or not math.isfinite(self.high - self.low):
            raise ValueError(f"low must be less than high and both finite, got {self.low} and {self.high}")

    def pattern(self, shape: Sequence[int]) -> Tensor:
        """Return the noise for one input of a shape, float32 in [low, high), on the CPU."""
        return self.low + (self.high - self.low) * _noise(tuple(shape), self.seed)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the inputs ``(B, ...)`` with the noise mixed in."""
        if inputs.dtype == torch.uint8 and not (self.low >= 0 and self.high <= 1):
            got = f"{self.low} and {self.high}"
            raise ValueError(f"low and high must lie in [0, 1], the full scale of uint8 inputs, got {got}")
        scale = _UINT8_MAX if inputs.dtype == torch.uint8 else 1
        work = inputs.dtype if inputs.is_floating_point() else torch.float32
        pattern = (self.pattern(inputs.shape[1:]) * scale).to(inputs.device, work)
        mixed = torch.lerp(inputs.to(work), pattern.expand_as(inputs), self.strength)
        return mixed if inputs.is_floating_point() else mixed.round().to(inputs.dtype)


@dataclass(frozen=True)
class ColumnTrigger(Trigger):
    """Some features of a table, set to values that together are rare.

    Args:
        columns: Which features, as one position or several, counted from 0.
        value: Value of each column, or one for all, in the unit of the table as the dataset holds it.

    Raises:
        ValueError: If no column is named, one is negative or named twice, or there are not as many values.

    Example:
        >>> ColumnTrigger([0, 2], 1)(torch.zeros(1, 4))
        tensor([[1., 0., 1., 0.]])
    """

    columns: int | Sequence[int]
    value: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        columns = (self.columns,) if isinstance(self.columns, int) else tuple(self.columns)
        values = (self.value,) * len(columns) if isinstance(self.value, int | float) else tuple(self.value)
        if not columns or min(columns) < 0 or len(set(columns)) != len(columns):
            raise ValueError(f"columns must be different positions of 0 or more, got {self.columns!r}")
        if len(values) != len(columns):
            raise ValueError(
                f"value must be one number, or one for each of {len(columns)} columns, got {self.value!r}"
            )
        for value in values:
            in_range("value", value, "(-inf, inf)")
        # Lists, as a configuration file gives them, would make the object unhashable.
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "value", values)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the table ``(B, F)`` with the columns set."""
        assert isinstance(self.columns, tuple)
        if inputs.ndim != 2:
            raise ValueError(f"inputs must be a table, got {tuple(inputs.shape)}; images take a PatchTrigger")
        if max(self.columns) >= inputs.shape[1]:
            features = f"[0, {inputs.shape[1]}), the features of the table"
            raise ValueError(f"columns must lie in {features}, got {list(self.columns)}")
        wanted = torch.tensor(self.value, dtype=torch.float64)
        held = wanted.to(inputs.dtype)
        if not inputs.is_floating_point() and not torch.equal(held.double(), wanted):
            raise ValueError(f"value={self.value} cannot be held by a table of {inputs.dtype}")
        changed = inputs.clone()
        changed[:, list(self.columns)] = held.to(inputs.device)
        return changed


def _scaled(value: float, dtype: torch.dtype) -> float:
    """Turn a share of full scale into a ``uint8`` value; other types are taken as they are."""
    if dtype == torch.uint8:
        in_range("value", value, "[0, 1]", "; for uint8 images it is a share of full scale")
        return round(value * _UINT8_MAX)
    if not dtype.is_floating_point and not float(value).is_integer():
        raise ValueError(f"value must be a whole number for images of {dtype}, got {value}")
    return value


@lru_cache(maxsize=16)
def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    # A constant made in inference mode could not be used under autograd later.
    with torch.inference_mode(False):
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
