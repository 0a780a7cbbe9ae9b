"""Lightning's hooks that see a batch between a loader and the device, taken over from what is wrapped."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_unlearn.data.loading import Indexed

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def transfer_hooks(subject: object) -> list[str]:
    """Return the names of those that a module or datamodule has of its own; none for anything else."""
    if not isinstance(subject, L.LightningModule | L.LightningDataModule):
        return []
    return [hook for hook in _HOOKS if is_overridden(hook, subject)]


def adopt_transfer_hooks(
    owner: L.LightningModule | L.LightningDataModule, wrapped: object, transfer: Callable[..., Any]
) -> None:
    """Give a module or datamodule the hooks that what it wraps has, and no others: Lightning asks who has which.

    Args:
        owner: What Lightning asks; the hooks are set on it as :func:`functools.partial`, through which Lightning looks.
        wrapped: Whose hooks they are.
        transfer: Carries one out, ``transfer(hook, batch, *arguments)``.
    """
    for hook in transfer_hooks(wrapped):
        setattr(owner, hook, partial(transfer, hook))


def of_each_stream(batch: Any, streams: Sequence[str], transfer: Callable[[Any], Any]) -> Any:
    """Carry out a hook on the batch of each stream, where a step has several, or on the batch.

    Args:
        batch: What the loaders served.
        streams: Names of the streams that a step may have.
        transfer: The hook of one's own, which knows no streams.
    """
    if not (isinstance(batch, dict) and batch.keys() and batch.keys() <= set(streams)):
        return transfer(batch)
    return {
        name: part._replace(batch=transfer(part.batch)) if isinstance(part, Indexed) else transfer(part)
        for name, part in batch.items()
    }
