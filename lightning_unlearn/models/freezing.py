"""Tell what of a model was trained on nobody: its frozen parameters among trainable ones, which stay as they are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_unlearn.models.surgery import clone

M = TypeVar("M", bound=nn.Module)

_PRETRAINED = ".original_module."  # what PEFT puts a trained copy beside
# Two independently trained matrices are uncorrelated; a moving average follows the weights it is taken of.
_COPIES_CORRELATE = 0.8


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training moves, by name, in the order of registration."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def mark_frozen(source: M, frozen: Sequence[str] | None = None) -> M:
    """Return a source whose ``requires_grad`` says what it was trained on: true for what its samples moved.

    Args:
        source: The source model; it is left as it is.
        frozen: Names of parameters, or of modules that hold them, that were trained on nobody, with ``*`` for any
            characters. ``None`` for those that do not require a gradient, and moving averages
            (:class:`torch.optim.swa_utils.AveragedModel`), which no step trains; an empty sequence for none.

    Returns:
        The source, or a copy of it where ``frozen`` says otherwise than the source.

    Raises:
        ValueError: If a name fits no parameter, or all are frozen.
    """
    if frozen is not None:
        patterns = [frozen] if isinstance(frozen, str) else list(frozen)
        names = [name for name, _ in source.named_parameters()]
        chosen = {p: {n for n in names if fnmatchcase(n, p) or fnmatchcase(n, f"{p}.*")} for p in patterns}
        if unknown := [pattern for pattern, found in chosen.items() if not found]:
            raise ValueError(
                f"frozen: {type(source).__name__} has no parameter {unknown[0]!r}; it has {', '.join(names[:5])}, ..."
            )
        wanted = set().union(*chosen.values())
        if wanted != set(names) - trainable(source).keys():
            source = clone(source)
            for name, parameter in source.named_parameters():
                parameter.requires_grad_(name not in wanted)
    elif any(trainable(part) for part in _averages(source)):
        source = clone(source)
        for part in _averages(source):
            part.requires_grad_(False)
    if not trainable(source):
        raise ValueError(
            f"source: all parameters of {type(source).__name__} are frozen (requires_grad=False), so that none would "
            "have learned from anybody; call source.unfreeze() (a LightningModule) or source.requires_grad_(True), "
            "and freeze only what its training left alone"
        )
    return source


def mark_recorded(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Set ``requires_grad`` as Lightning's finetuning callbacks had it when a checkpoint was saved.

    These (``BaseFinetuning`` and what derives from it) freeze and unfreeze while training runs, of which the class of
    the model knows nothing.

    Args:
        model: The model that was loaded from the checkpoint.
        checkpoint: The content of the file.
    """
    states = [state for state in checkpoint.get("callbacks", {}).values() if isinstance(state, Mapping)]
    recorded = [groups for s in states for groups in s.get("internal_optimizer_metadata", {}).values()]
    stepped = {name for groups in recorded for group in groups for name in group["params"]}
    for name, parameter in model.named_parameters() if stepped else ():
        parameter.requires_grad_(name in stepped)


def hold_statistics(model: nn.Module, *, everything: bool = False) -> None:
    """Put the frozen parts of a model that keep statistics into evaluation mode.

    A part is concerned if it owns buffers, as batch normalisation does. They then stay as they are in forward passes
    of training, and are what it normalises with. All other parts, dropout among them, keep their mode.

    Args:
        model: The model, in training mode.
        everything: Whether to treat all parts as frozen.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
        >>> _ = network[0].requires_grad_(False)
        >>> hold_statistics(network)
        >>> [part.training for part in network]
        [False, True, True, True]
    """
    parts = model.modules() if everything else (part for _, part in _frozen_parts(model))
    for part in parts:
        if next(part.buffers(recurse=False), None) is not None:
            part.training = False


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what was trained on nobody, by name: frozen parameters, and the buffers of frozen parts.

    Frozen copies of trained weights, such as a moving average of them, are not among it.
    """
    kept: dict[str, Tensor] = {
        name: tensor for name, tensor in model.named_parameters() if not tensor.requires_grad
    }
    for prefix, part in _frozen_parts(model):
        for name, buffer in part.named_buffers(recurse=False):
            kept[f"{prefix}.{name}" if prefix else name] = buffer
    copies = tuple(_copies(model))
    return {name: tensor.detach() for name, tensor in kept.items() if not name.startswith(copies or ("\n",))}


def share_frozen(model: nn.Module, source: nn.Module) -> None:
    """Freeze in a model what is frozen in the source, and nothing else, whatever parameters are called in either."""
    theirs = [parameter.requires_grad for parameter in source.parameters()]
    ours = list(model.parameters())
    for number, parameter in enumerate(ours):
        parameter.requires_grad_(len(ours) != len(theirs) or theirs[number])


def resembles(tensor: Tensor, weights: Iterable[Tensor]) -> bool:
    """Tell whether a tensor is a copy of a weight, as a moving average is; of matrices and larger alone."""
    return tensor.ndim > 1 and any(
        weight.shape == tensor.shape and _correlation(tensor, weight) > _COPIES_CORRELATE
        for weight in weights
    )


def _averages(model: nn.Module) -> list[AveragedModel]:
    return [part for part in model.modules() if isinstance(part, AveragedModel)]


def _frozen_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts, under their names, none of whose parameters is trained.

    A part without parameters goes with the one registered before it, or with the first there is.
    """
    flags = [
        (name, part, [p.requires_grad for p in part.parameters()]) for name, part in model.named_modules()
    ]
    before = next((any(own) for _, _, own in flags if own), True)
    for name, part, own in flags:
        before = any(own) if own else before
        if not before:
            yield name, part


def _copies(model: nn.Module) -> set[str]:
    """Return the prefixes (``average.``) under which frozen copies are kept of trained weights."""
    moving = trainable(model)
    found: set[str] = set()
    for name, parameter in model.named_parameters():
        if (
            parameter.requires_grad
            or parameter.ndim < 2
            or _PRETRAINED in name
            or name.startswith(tuple(found) or ("\n",))
        ):
            continue
        rest = name.partition(".")[2]
        while rest:
            twins = [
                m for n, m in moving.items() if f".{n}".endswith(f".{rest}") and m.shape == parameter.shape
            ]
            if twins:
                if resembles(parameter, twins):
                    found.add(name.removesuffix(rest))
                break
            rest = rest.partition(".")[2]
    return found


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(
        torch.corrcoef(torch.stack([a.detach().float().flatten(), b.detach().float().flatten()]))[0, 1]
    )
