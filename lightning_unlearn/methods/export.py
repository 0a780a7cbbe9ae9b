"""A model's weights as a checkpoint of its own class, and nothing else; what a user deploys after unlearning."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_unlearn.io import atomic_path
from lightning_unlearn.models.hparams import plain_values

__all__ = ["unchanged_tensors", "write_export"]


def write_export(model: nn.Module, path: str | Path) -> Path:
    """Write a model as a checkpoint that ``load_from_checkpoint`` of its own class reads.

    The file holds weights and buffers, the constructor arguments that the class itself saves, and what its
    own ``on_save_checkpoint`` adds. No optimizer, loop or callback state is in it. It is written whole or not
    at all.

    Args:
        model: A LightningModule, or any module (then the file is read with ``torch.load``).
        path: Where to write; an existing file is replaced.

    Returns:
        The path.
    """
    path = Path(path)
    checkpoint: dict[str, Any] = {
        "state_dict": {
            name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
            for name, value in model.state_dict().items()
        },
        "pytorch-lightning_version": L.__version__,
        "epoch": 0,
        "global_step": 0,
        "loops": {},
    }
    if isinstance(model, L.LightningModule):
        if model.hparams:
            checkpoint[model.CHECKPOINT_HYPER_PARAMS_KEY] = plain_values(model.hparams)
            if model._hparams_name:
                checkpoint[model.CHECKPOINT_HYPER_PARAMS_NAME] = model._hparams_name
        model.on_save_checkpoint(checkpoint)
    with atomic_path(path) as temporary:
        torch.save(checkpoint, temporary)
    return path


def unchanged_tensors(before: nn.Module, after: nn.Module) -> list[str]:
    """Return the names of tensors that training did not change, constants left out: an export of them remembers.

    Args:
        before: The source model.
        after: The unlearned model, of the same class.
    """
    old = before.state_dict()
    return [
        name
        for name, value in after.state_dict().items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and bool((value != value.flatten()[:1]).any())
        and torch.equal(value.cpu(), old[name].cpu().to(value.dtype))
    ]
