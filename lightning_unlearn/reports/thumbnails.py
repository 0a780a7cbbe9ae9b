"""Small pictures of the forgotten samples, in one file beside the page: it stays with whoever ran the comparison."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_unlearn.core.files import atomic_path

FILE = "samples.png"
SIDE, ACROSS, MOST = 32, 25, 500
"""Pixels of a picture's side, pictures in a row, and the most of them."""


def write_thumbnails(inputs: Iterable[Any], folder: Path, seed: int = 0) -> Path | None:
    """Write the samples as small pictures into ``samples.png``, row by row in their order, if they are images.

    Args:
        inputs: Batches of inputs; images are ``(B, 1 or 3, H, W)`` with sides of at least 4.
        folder: Where the file goes; one of earlier samples there is removed.
        seed: The seed whose samples they are, which the file says of itself.

    Returns:
        The file; None where the samples are no images.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

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
            batch.float().cpu(), (SIDE, SIDE), mode="area" if min(batch.shape[2:]) > SIDE else "nearest"
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
        sheet = Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy())
        words = PngInfo()
        words.add_text("Seed", str(seed))
        sheet.save(temporary, format="PNG", pnginfo=words)
    return file


def read_thumbnails(folder: Path, seed: int) -> list[Any]:
    """Return the pictures as ``PIL.Image``, in the samples' order; none without a file, or with another seed's."""
    from PIL import Image

    if not (folder / FILE).is_file():
        return []
    with Image.open(folder / FILE) as sheet:
        if sheet.info.get("Seed") != str(seed):
            return []
        corners = [(x, y) for y in range(0, sheet.height, SIDE) for x in range(0, sheet.width, SIDE)]
        return [sheet.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners]
