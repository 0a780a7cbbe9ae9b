"""Whether a checkpoint is one that a method can be resumed from; loads nothing into anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_unlearn.methods.base.source import read_checkpoint

__all__ = ["require_own_checkpoint", "require_readable"]

_NAMES_SHOWN = 3
_VERSION = "pytorch-lightning_version"  # without it Lightning cannot tell how to read a checkpoint


def require_readable(path: str | Path) -> None:
    """Refuse a file that Lightning would fail on, before it does so in words of its own.

    Args:
        path: What was given as ``ckpt_path``; looked at if it is a local file, since a folder of shards or an address
            is Lightning's to read.

    Raises:
        ValueError: If the file is damaged, no checkpoint, or holds objects that would have to be executed to be read.
    """
    if not Path(path).is_file():
        return
    try:
        content = read_checkpoint(path, mapped=True)
    except ValueError as error:
        raise ValueError(f"ckpt_path: {error}") from error
    if _VERSION not in content:
        raise ValueError(f"ckpt_path: {path} was not written by Lightning; it has no {_VERSION!r}")


def require_own_checkpoint(
    checkpoint: Mapping[str, Any], method: nn.Module, writer: str | None, *, training: bool
) -> None:
    """Refuse a checkpoint that does not fit a method, or whose training another method has begun.

    Args:
        checkpoint: The content.
        method: The method that is to be resumed.
        writer: Name of the class that wrote it, where it says so.
        training: Whether it is to be trained further, and not only looked at.

    Raises:
        ValueError: If it was not written by an unlearning method, is of a model with other shapes, or is to be trained
            further by another method than the one that wrote it.
    """
    own = {name: value.shape for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    found = {name: value for name, value in checkpoint["state_dict"].items() if name in own}
    kind = type(method).__qualname__
    if own and not found:
        raise ValueError(
            f"ckpt_path: the checkpoint was not written by an unlearning method; ckpt_path means to resume {kind}, and "
            "the source's weights are given as its source"
        )
    if training and writer not in (None, kind):
        raise ValueError(f"ckpt_path: the checkpoint was written by {writer} and cannot be resumed by {kind}")
    other = [name for name, value in found.items() if value.shape != own[name]]
    if other:
        raise ValueError(
            f"ckpt_path: the checkpoint is of another model than the source: {len(other)} tensors have other shapes, "
            f"such as {', '.join(other[:_NAMES_SHOWN])}; give the source that it was begun with"
        )
