"""Write a model's weights as a checkpoint of its own class: what a user deploys after unlearning."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.core.compat import hparams_name
from lightning_unlearn.core.files import atomic_path
from lightning_unlearn.models.freezing import frozen_tensors, resembles, trainable
from lightning_unlearn.models.hparams import plain_values, unkept_arguments
from lightning_unlearn.models.surgery import class_state, listed


def export_unlearned(
    model: nn.Module, path: str | Path, source: nn.Module, *, copies_only: bool, weights_only: bool
) -> Path:
    """Export an unlearned model, and warn of what in the file may remember and of what the file cannot hold.

    Args:
        model: The unlearned model.
        path: Where to write; an existing file is replaced.
        source: The model it was unlearned from.
        copies_only: Whether parameters and statistics may stay the source's, as for methods that are about that.
        weights_only: Whether to write the bare ``state_dict``.

    Returns:
        The path.
    """
    kept = _unchanged_tensors(source, model, copies_only)
    if kept:
        rank_zero_warn(
            f"the export holds {len(kept)} tensors that are the source's, bit for bit: {listed(kept)}. If they were "
            "trained on forgotten samples (a moving average of the weights, say), the model still remembers; reset "
            "or update them before exporting"
        )
    written = write_export(model, path, weights_only=weights_only)
    if isinstance(model, L.LightningModule) and not weights_only:
        # Lightning gives a class that saved one argument whole (a namespace, a dictionary) that argument back
        lost = [name for name in unkept_arguments(type(model), model.hparams) if name != hparams_name(model)]
        kind, given = type(model).__name__, ", ".join(f"{name}=..." for name in lost)
        if lost:
            rank_zero_warn(
                f"the export cannot hold the arguments {', '.join(lost)} of {kind}, which are no plain values; load "
                f"it with {kind}.load_from_checkpoint(path, {given}), or write a state dict with "
                "export(path, weights_only=True)"
            )
    return written


def write_export(model: nn.Module, path: str | Path, *, weights_only: bool = False) -> Path:
    """Write a model as a checkpoint that ``load_from_checkpoint`` of its own class reads.

    The file holds weights and buffers, the constructor arguments that the class itself saves, and what its
    own ``on_save_checkpoint`` adds. No optimizer, loop or callback state is in it. It is written whole or not
    at all, and a model gives the same bytes whenever it is written.

    Args:
        model: A LightningModule, or any module (then the file is read with ``torch.load``).
        path: Where to write; an existing file is replaced.
        weights_only: Whether to write the bare ``state_dict``.

    Returns:
        The path.

    Raises:
        FloatingPointError: If weights are NaN or infinite.
    """
    path = Path(path)
    require_finite(model, "the model that was to be exported")
    state = class_state(model)
    # what a hook is given is its own to change, and a copy
    hooked = isinstance(model, L.LightningModule) and is_overridden("on_save_checkpoint", model)
    known: set[int] = set()
    for entry, value in state.items():
        if isinstance(value, Tensor):
            state[entry] = value.detach().cpu()
            stored = state[entry].untyped_storage()
            whole = stored.nbytes() == value.nbytes and value.is_contiguous()
            if hooked or not whole or stored.data_ptr() in known:
                state[entry] = state[entry].clone(memory_format=torch.contiguous_format)
            known.add(stored.data_ptr())
    # Without "loops", Lightning validates, tests and predicts from the file, and refuses to resume from it.
    checkpoint: dict[str, Any] = {
        "state_dict": state,
        "pytorch-lightning_version": L.__version__,
        "epoch": 0,
        "global_step": 0,
    }
    if isinstance(model, L.LightningModule) and not weights_only:
        if model.hparams:
            checkpoint[model.CHECKPOINT_HYPER_PARAMS_KEY] = plain_values(model.hparams)
            if name := hparams_name(model):
                checkpoint[model.CHECKPOINT_HYPER_PARAMS_NAME] = name
        model.on_save_checkpoint(checkpoint)
    # given a path, torch would write its name into the file, and this one is random
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(state if weights_only else checkpoint, file)
    return path


def require_finite(model: nn.Module, what: str) -> None:
    """Refuse a model with weights that are NaN or infinite; a buffer may hold -inf, as masks of attention do.

    Args:
        model: The model.
        what: What it is called in the message.

    Raises:
        FloatingPointError: If there are any.
    """
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    spoilt = [
        name
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and value.numel()
        and not _within(value, -torch.inf if name in weights else None)
    ]
    if spoilt:
        raise FloatingPointError(
            f"{what} holds NaN or infinite values in {len(spoilt)} tensors, such as {spoilt[0]}; lower the learning "
            "rate, or set gradient_clip_val, and unlearn again"
        )


def _within(value: Tensor, low: float | None) -> bool:
    """Return whether all of a tensor is below infinity, above a bound, and no NaN, without a mask of its size."""
    least, most = value.aminmax()
    return bool(most < torch.inf) and (low is None or bool(least > low))


def _unchanged_tensors(before: nn.Module, after: nn.Module, copies_only: bool) -> list[str]:
    """Name the tensors that the source trained and unlearning left alone.

    These are trained parameters, running statistics, and copies of trained weights such as a moving average.
    """
    old, moving = before.state_dict(), trainable(before)
    trained = {name for name, p in before.named_parameters(remove_duplicate=False) if p.requires_grad}
    parameters = {name for name, _ in before.named_parameters()}
    untrained = frozen_tensors(before)

    def counts(name: str) -> bool:
        if not copies_only and (name in parameters or ".running_" in f".{name}"):
            return True
        return name not in trained and resembles(old[name], moving.values())

    return [
        name
        for name, value in after.state_dict().items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and name not in untrained
        and bool((value != value.flatten()[:1]).any())
        and torch.equal(value.cpu(), old[name].cpu().to(value.dtype))
        and counts(name)
    ]
