"""Choose what trains faster on this machine and changes no result beyond rounding: memory format and precision."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_unlearn.models.surgery import unsafe_for_cpu


class ChannelsLast(L.Callback):
    """Lays the weights of two-dimensional convolutions out channels last; an export has them as they were."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Lay them out, before an optimizer sees them, unless a CPU would compute wrong gradients of one."""
        unsafe = unsafe_for_cpu(pl_module) if trainer.strategy.root_device.type == "cpu" else None
        if unsafe is not None:
            rank_zero_warn(
                f"fast: the network stays as it is laid out, since oneDNN computes wrong gradients of {unsafe}, a "
                "convolution with a kernel of 1, a stride and few channels, channels last "
                "(github.com/uxlfoundation/oneDNN/issues/6035)"
            )
            return
        for layer in pl_module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.to(memory_format=torch.channels_last)


_LAYOUT = {"class_path": f"{__name__}.{ChannelsLast.__name__}"}


def faster(arguments: Mapping[str, Any], shared: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a Trainer's own arguments with what is faster where it trains; what was given stays.

    Args:
        arguments: Its own arguments.
        shared: Those it has in common with other Trainers, to which its own come first.

    Example:
        >>> sorted(faster({"accelerator": "cpu", "max_epochs": 3}))
        ['accelerator', 'callbacks', 'max_epochs']
    """
    both = {**(shared or {}), **arguments}
    asked, found = both.get("accelerator", "auto"), torch.accelerator.is_available()
    cuda = asked in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if not cuda and asked != "cpu" and (asked != "auto" or found):  # of others we know nothing
        return dict(arguments)
    given = both.get("callbacks") or []
    chosen = {**arguments, "callbacks": [*(given if isinstance(given, list | tuple) else [given]), _LAYOUT]}
    bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if bf16 and not {"precision", "plugins"} & both.keys():
        chosen["precision"] = "bf16-mixed"
    return chosen


def why(arguments: Mapping[str, Any]) -> str:
    """Return a sentence that says what is chosen for a Trainer with these arguments, and why."""
    chosen = faster(arguments)
    if "precision" in chosen.keys() - arguments.keys():
        what = "bf16-mixed, and channels_last for convolutions: CUDA computes both faster"
    elif _LAYOUT in chosen.get("callbacks", ()):
        what = (
            "channels_last for convolutions where that is safe, and the precision as it is: given, or a CPU, or CUDA "
            "without bfloat16"
        )
    else:
        return "fast: nothing, since nothing was measured on this accelerator"
    return f"fast: {what}; not compiled, which took longer than it saved"
