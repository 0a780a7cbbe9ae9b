"""Say what a resumed run must not do again, and refuse a checkpoint that a method cannot be resumed from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_unlearn.methods.base.source import read_checkpoint

STATE_KEY = "lightning_unlearn"

_NAMES_SHOWN = 3
_VERSION = "pytorch-lightning_version"  # without it Lightning cannot tell how to read a checkpoint
_NEEDED = ("prepared", "request", "moving", "settled", "prepare_s", "unlearn_s", "cpu_s", "rng")


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


def resumable_state(
    checkpoint: Mapping[str, Any], method: nn.Module, *, training: bool
) -> Mapping[str, Any] | None:
    """Return what a method left in a checkpoint for its own resumption; ``None`` if it left nothing.

    Args:
        checkpoint: The content.
        method: The method that is to be resumed.
        training: Whether it is to be trained further, and not only looked at.

    Raises:
        ValueError: If it was not written by an unlearning method, is of a model with other shapes, is to be trained
            further by another method than the one that wrote it, or was written by an older version.
    """
    state: Mapping[str, Any] | None = checkpoint.get(STATE_KEY)
    kind = type(method).__qualname__
    if checkpoint.get("state_dict"):  # shards, which a strategy reads by itself, are not among it
        own = {name: value.shape for name, value in method.state_dict().items() if isinstance(value, Tensor)}
        found = {name: value for name, value in checkpoint["state_dict"].items() if name in own}
        if own and not found:
            raise ValueError(
                f"ckpt_path: the checkpoint was not written by an unlearning method; ckpt_path means to resume {kind}, "
                "and the source's weights are given as its source"
            )
        writer = None if state is None else state.get("method")
        if training and writer not in (None, kind):
            raise ValueError(
                f"ckpt_path: the checkpoint was written by {writer} and cannot be resumed by {kind}"
            )
        if other := [name for name, value in found.items() if value.shape != own[name]]:
            raise ValueError(
                f"ckpt_path: the checkpoint is of another model than the source: {len(other)} tensors have other "
                f"shapes, such as {', '.join(other[:_NAMES_SHOWN])}; give the source that it was begun with"
            )
    if state is not None and (missing := [name for name in _NEEDED if name not in state]):
        raise ValueError(
            f"ckpt_path: the checkpoint was written by an older version, which did not say {', '.join(missing)}; "
            f"begin {kind} again from its source"
        )
    return state
