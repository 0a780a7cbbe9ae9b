"""Draw untrained models of a trained one's architecture, as its class draws them."""

import contextvars
import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import instantiate_module
from lightning_utilities.core.apply_func import apply_to_collection
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_unlearn.core.compat import INSTANTIATOR, RESET_METHODS, hparams_name
from lightning_unlearn.models.freezing import frozen_tensors, mark_frozen, share_frozen, trainable
from lightning_unlearn.models.hparams import needed_by, taken_by
from lightning_unlearn.models.surgery import (
    FACTORIES,
    clone,
    listed,
    reinitialize,
    surviving_tensors,
    tensors_of,
)

# What training does to the spread of a tensor; another scheme changes it by more.
_SAME_SPREAD = 2.0
_FEWEST = 32


def built_by(module: nn.Module, factory: Callable[[], nn.Module]) -> None:
    """Have fresh models of a module's architecture, and of its clones', be built by a factory."""
    FACTORIES[module] = factory


def fresh_copy(module: nn.Module, fresh: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Return an untrained model with the architecture of a trained one, which stays as it was.

    What is frozen in the trained model among trainable parameters was trained on nobody, and is kept.

    Args:
        module: The trained model.
        fresh: Builds the untrained model. ``None`` builds it as the trained one was built, where that is known: by
            the factory that :func:`built_by` names, or by its class and saved hyper-parameters. Otherwise the parts
            of a clone are built by their classes where these take no arguments, and re-initialised
            (:func:`~lightning_unlearn.models.reinitialize`) where they do; a warning names what that may draw
            otherwise than the class does.

    Returns:
        A model that shares no tensor with ``module``.

    Raises:
        TypeError: If ``fresh`` does not return a module.
        ValueError: If all of ``module`` is frozen, if the parameters and buffers of what ``fresh`` builds differ from
            its in name or shape, or if ``fresh`` hands out the trained model's own tensors.
    """
    factory = fresh or FACTORIES.get(mark_frozen(module))
    if factory is None:
        built = clone(module)
        _draw(built)
    else:
        built = factory()
        if not isinstance(built, nn.Module):
            raise TypeError(f"fresh must return a torch.nn.Module, got {type(built).__name__}")
        if isinstance(built, L.LightningModule):
            built.configure_model()
        _require_same_architecture(built, module)
    share_frozen(built, module)
    tensors = tensors_of(built)
    with torch.no_grad():
        for name, tensor in frozen_tensors(module).items():
            if name in tensors:
                tensors[name].copy_(tensor)
    return built


def _draw(model: nn.Module) -> None:
    """Give a model untrained weights in place."""
    if _drawn_by_class(model):
        return
    before = {name: _spread(parameter) for name, parameter in trainable(model).items()}
    left = reinitialize(model)
    drawn = tuple(f"{name}." for name in _draw_parts(model, ""))
    open_parts = dict(_open_parts(model, ""))
    parameters = {n: p for n, p in model.named_parameters() if not n.startswith(drawn)}
    doubtful = [
        name
        for name, spread in before.items()
        if (part := open_parts.get(name.rpartition(".")[0])) is not None
        and type(part).__module__.startswith("torch.nn.")
        and name in parameters
        and _differ(spread, _spread(parameters[name]))
    ]
    guessed = [name for name in left if name in parameters]
    constants = [name for name in left if name not in parameters and not name.startswith(drawn)]
    said = [
        f"{listed(names)} ({words})"
        for names, words in (
            (doubtful, "spread otherwise in the source than by PyTorch's own draw"),
            (guessed, "reset by no reset_parameters(), drawn with the source's spread"),
            (constants, "reset by no reset_parameters(), kept as constants"),
        )
        if names
    ]
    if said:
        rank_zero_warn(
            f"a fresh {type(model).__name__} is drawn layer by layer, since its class cannot be called again with "
            f"saved hyper-parameters, and perhaps not as its class draws it: {'; '.join(said)}. Give fresh=..., a "
            "callable that builds an untrained model"
        )


def _has_scheme(part: nn.Module) -> bool:
    return any(hasattr(part, method) for method in RESET_METHODS)


def _open_parts(part: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts that are in none with a scheme for all that it holds."""
    yield name, part
    if not _has_scheme(part):
        for each, child in part.named_children():
            yield from _open_parts(child, f"{name}.{each}" if name else each)


def _draw_parts(part: nn.Module, name: str) -> Iterator[str]:
    """Have the outermost parts that can be built anew be drawn by their classes; yield their names."""
    for each, child in () if _has_scheme(part) else part.named_children():
        full = f"{name}.{each}" if name else each
        if _drawn_by_class(child):
            yield full
        else:
            yield from _draw_parts(child, full)


def _drawn_by_class(part: nn.Module) -> bool:
    """Give a part the tensors of a new instance of its class; return whether its arguments are known."""
    arguments = _saved_arguments(part)
    if arguments is None or next(part.parameters(), None) is None:
        return False
    try:
        built = contextvars.Context().run(_instance, type(part), arguments)
        _require_same_architecture(built, part)
    except Exception as error:  # a constructor of anybody's may need what is no longer there
        rank_zero_warn(f"{type(part).__name__} cannot be built anew with its saved hyper-parameters: {error}")
        return False
    if surviving_tensors(part, built) == surviving_tensors(part, part):
        return False  # its constructor hands out what was trained
    part.load_state_dict(built.state_dict())
    return True


def _instance(kind: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    if INSTANTIATOR in arguments:
        built = instantiate_module(kind, {k: v for k, v in arguments.items() if k != INSTANTIATOR})
    else:
        built = kind(**arguments)
    if isinstance(built, L.LightningModule):
        built.configure_model()
    return built


def _saved_arguments(part: nn.Module) -> dict[str, Any] | None:
    """Return the arguments that build a part as it was built, or ``None`` if they are not known."""
    try:
        parameters = inspect.signature(type(part)).parameters
    except ValueError:
        return None
    if not isinstance(part, L.LightningModule):
        return None if parameters else {}
    saved = dict(part.hparams)
    modules: list[nn.Module] = []
    apply_to_collection(saved, nn.Module, modules.append)
    if modules:  # they may be those that were trained
        return None
    if INSTANTIATOR in saved:
        return copy.deepcopy(saved)
    if (name := hparams_name(part)) is not None and name in parameters:
        return {name: copy.deepcopy(part.hparams)}
    known = {name: saved[name] for name in taken_by(type(part), saved)}
    return copy.deepcopy(known) if set(needed_by(type(part))) <= known.keys() else None


def _spread(tensor: Tensor) -> float:
    """Return the standard deviation, or 0 where there are too few numbers to tell."""
    return 0.0 if is_lazy(tensor) or tensor.numel() < _FEWEST else float(tensor.detach().std())


def _differ(a: float, b: float) -> bool:
    return min(a, b) > 0 and not 1 / _SAME_SPREAD < a / b < _SAME_SPREAD


def _require_same_architecture(built: nn.Module, module: nn.Module) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in _state_tensors(module).items()}
    found = {name: tuple(tensor.shape) for name, tensor in _state_tensors(built).items()}
    if expected != found:
        differences = [
            f"{name} (shape {found.get(name, 'missing')}, expected {expected.get(name, 'none')})"
            for name in dict.fromkeys((*expected, *found))
            if expected.get(name) != found.get(name)
        ]
        raise ValueError(
            f"fresh must build the trained model's architecture, but {type(built).__name__} differs from "
            f"{type(module).__name__} in {listed(differences)}"
        )
    storages = {
        tensor.untyped_storage().data_ptr() for tensor in _state_tensors(module).values() if tensor.numel()
    }
    shared = [
        name
        for name, tensor in _state_tensors(built).items()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in storages
    ]
    if shared:
        raise ValueError(
            f"fresh must build a new model, but its result shares {listed(shared)} with the trained one; "
            "build the network anew in every call"
        )


def _state_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor) and not is_lazy(value)
    }
