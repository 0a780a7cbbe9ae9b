"""Small pictures of the forgotten samples, in one file beside the page: it stays with whoever ran the comparison."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_unlearn.core.files import atomic_path

__all__ = ["ACROSS", "FILE", "MOST", "SIDE", "write_thumbnails"]

FILE = "samples.png"
SIDE, ACROSS, MOST = 32, 25, 500
"""Pixels of a picture's side, pictures in a row, and the most of them."""


def write_thumbnails(inputs: Iterable[Any], folder: Path) -> Path | None:
    """Write the samples as small pictures into ``samples.png``, row by row in their order, if they are images.

    Args:
        inputs: Batches of inputs; images are ``(B, 1 or 3, H, W)`` with sides of at least 4.
        folder: Where the file goes; one of earlier samples there is removed.

    Returns:
        The file; None where the samples are no images.
    """
    from PIL import Image

    file = folder / FILE
    file.unlink(missing_ok=True)
    tiles: list[Tensor] = []
    for batch in inputs:
        if (
            not isinstance(batch, Tensor)
            or batch.ndim != 4
            or batch.shape[1] not in (1, 3)
            or min(batch.shape[2:]) < 4
        ):
            return None
        small = interpolate(
            batch.float(), (SIDE, SIDE), mode="area" if min(batch.shape[2:]) > SIDE else "nearest"
        )
        low, high = small.amin((1, 2, 3), keepdim=True), small.amax((1, 2, 3), keepdim=True)
        shown = (255 * (small - low) / (high - low).clamp(min=1e-6)).expand(-1, 3, -1, -1)
        tiles += islice(shown.byte(), MOST - len(tiles))
        if len(tiles) == MOST:
            break
    if not tiles:
        return None
    tiles += [torch.zeros_like(tiles[0])] * (-len(tiles) % ACROSS)
    rows = [torch.cat(tiles[start : start + ACROSS], dim=2) for start in range(0, len(tiles), ACROSS)]
    with atomic_path(file) as temporary:
        Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    return file
