"""Write constructor arguments into checkpoints, so that these load with plain values only."""

import enum
import inspect
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import lightning as L
import numpy as np

from lightning_unlearn.core.compat import (
    CLASS_PATH,
    INSTANTIATOR,
    given_hyperparameters,
    giving_hyperparameters,
    trainer_of,
)


def save_primitive_hyperparameters(module: L.LightningModule, *, ignore: Collection[str] = ()) -> None:
    """Save a module's constructor arguments so that its checkpoint can be loaded with ``weights_only=True``.

    To be called in ``__init__``, of the class itself or of a base class; an ``__init__`` must not rebind its
    arguments before. There are two ways in which a module comes to be:

    * **Under LightningCLI** the arguments are known as the parsed configuration, plain nested dictionaries.
      All of it is saved, so ``load_from_checkpoint(path)`` rebuilds networks, optimizers and all.
    * **In plain Python** the arguments made of numbers, strings, booleans, ``None``, lists, tuples and
      dictionaries are saved (paths and enumeration members as strings and values, NumPy's numbers as
      Python's). Modules, optimizer factories and the like are not: pass those to ``load_from_checkpoint(path,
      net=...)`` again.

    Args:
        module: The module under construction.
        ignore: Names of arguments that must not be saved in either case.

    Raises:
        RuntimeError: If it is not called from the ``__init__`` of ``module``.
    """
    given = given_hyperparameters()
    if given is not None and _belongs_to(given, module):
        arguments = given
    else:
        arguments = plain_values(_constructor_arguments(module))
    _save(module, {name: value for name, value in arguments.items() if name not in ignore})


def restore_hyperparameters(module: L.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Give a module that ``load_from_checkpoint`` rebuilds the configuration that it is rebuilt from.

    To be called in ``on_load_checkpoint``. Lightning rebuilds a module saved under LightningCLI from its
    parsed configuration, but then leaves it with what plain Python would have saved; the next checkpoint of
    it could no longer be loaded without arguments. Nothing happens when training resumes, or for other
    checkpoints.

    Args:
        module: The module being loaded.
        checkpoint: The content of the checkpoint file.
    """
    recorded = checkpoint.get(module.CHECKPOINT_HYPER_PARAMS_KEY, {})
    if INSTANTIATOR not in recorded or trainer_of(module) is not None:
        return
    # Arguments passed to load_from_checkpoint are among the recorded ones and may be any object.
    _save(module, plain_values(recorded))


def _save(module: L.LightningModule, arguments: dict[str, Any]) -> None:
    # Lightning compares the dictionary with every argument it finds in the constructors below a frame, which
    # fails for arrays; below the first frame of the process there is none.
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    module.save_hyperparameters(arguments, frame=frame)


def _belongs_to(given: Mapping[str, Any], module: L.LightningModule) -> bool:
    """Tell whether the CLI is building this very module, and not another that contains it or builds it."""
    class_path = given.get(CLASS_PATH)
    if class_path is not None:
        module_name, _, name = str(class_path).rpartition(".")
        return getattr(sys.modules.get(module_name), name, None) is type(module)
    # Without a class path the class is fixed by the CLI, and only the arguments tell.
    names = [name for name in given if name != INSTANTIATOR]
    return taken_by(type(module), names) == names


def _constructor_arguments(module: L.LightningModule) -> dict[str, Any]:
    """Return what the module's class was called with: the arguments of the outermost ``__init__``.

    Where that takes ``**kwargs``, so that a base class says what else there is, the defaults of the base are among it.
    """
    frames = constructor_frames(module)
    if not frames:
        raise RuntimeError(
            f"save_primitive_hyperparameters must be called in the __init__ of {type(module).__name__}"
        )
    inits = [vars(kind).get("__init__") for kind in type(module).__mro__]
    defaults = {init.__code__: init.__kwdefaults__ or {} for init in inits if inspect.isfunction(init)}
    arguments: dict[str, Any] = {}
    for depth, each in enumerate(frames):
        names, _, keywords, values = inspect.getargvalues(each)
        if depth == 0:
            arguments = {name: values[name] for name in names[1:]} | (values[keywords] if keywords else {})
        else:  # what the class itself gives its base is none of its arguments
            left = {name: value for name, value in defaults[each.f_code].items() if values[name] is value}
            arguments = left | arguments
        if not keywords:
            break
    return arguments


def constructor_frames(module: L.LightningModule) -> list[FrameType]:
    """Return the frames of the ``__init__`` that are building a module, the one of its own class first."""
    frames: list[FrameType] = []
    frame = inspect.currentframe()
    while frame is not None:
        if _is_init_of(frame, module):
            frames.insert(0, frame)
        frame = frame.f_back
    return frames


def _is_init_of(frame: FrameType, module: L.LightningModule) -> bool:
    code = frame.f_code
    return (
        code.co_name == "__init__"
        and code.co_argcount > 0
        and frame.f_locals.get(code.co_varnames[0]) is module
    )


def _as_plain(value: Any) -> Any:
    """Return a value made of Python's own plain types only.

    Raises:
        TypeError: If it is or holds something else.
    """
    if isinstance(value, enum.Enum):
        return _as_plain(value.value)
    if isinstance(value, np.generic):
        return _as_plain(value.item())
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)  # a subclass would have to be imported, and so trusted, to be read again
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        items = [_as_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, Mapping):
        return {_as_plain(key): _as_plain(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} is not plain")


def plain_values(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments that are made of plain values, which any checkpoint reader accepts."""
    plain = {}
    for name, value in arguments.items():
        with suppress(TypeError):
            plain[name] = _as_plain(value)
    return plain


def unkept_arguments(kind: type, arguments: Mapping[str, Any]) -> list[str]:
    """Return the names of constructor arguments that a checkpoint does not hold, so that loading must be given them.

    Args:
        kind: The class of a module.
        arguments: Its hyper-parameters.
    """
    kept, named = plain_values(arguments), [*taken_by(kind, arguments), *needed_by(kind)]
    return [name for name in dict.fromkeys(named) if name not in kept]


def taken_by(kind: type, names: Iterable[str]) -> list[str]:
    """Return those of some names that a class's constructor takes."""
    taken = inspect.signature(kind).parameters
    every = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    return [name for name in names if every or name in taken]


def needed_by(kind: type) -> list[str]:
    """Return the names of the arguments that a class's constructor cannot do without."""
    taken = inspect.signature(kind).parameters
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, each in taken.items() if each.default is each.empty and each.kind not in starred]


@contextmanager
def recorded_hyperparameters(config: Mapping[str, Any]) -> Iterator[None]:
    """Build a module inside as LightningCLI would, so that its checkpoints rebuild it without arguments.

    Args:
        config: The parsed arguments of the module's class, plain values, with its import path as
            ``_class_path``.
    """
    with giving_hyperparameters(config):
        yield
