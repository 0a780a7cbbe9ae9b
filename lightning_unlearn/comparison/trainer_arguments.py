"""Arguments of a Trainer, as a file describes them: builds what stands there by class path, its type checked."""

import copy
import functools
from collections.abc import Mapping
from typing import Any

import lightning as L
from jsonargparse import ArgumentError, ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException

__all__ = ["built", "require_trainer"]


def built(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a Trainer's arguments, and build what is described by class path, such as a callback.

    Args:
        arguments: The arguments; objects among them are copied, since callbacks and plugins keep state.

    Raises:
        jsonargparse.ArgumentError: If a class path names something of another type than the argument has, as under
            ``fit``. Nothing is called that is not of the type.
    """
    copied = copy.deepcopy(dict(arguments))
    described = {key: value for key, value in copied.items() if _names_a_class(value)}
    if described:
        parser = _parser()
        build = getattr(parser, "instantiate", None) or parser.instantiate_classes
        copied.update(vars(build(parser.parse_object(described, defaults=False))))
    return copied


def require_trainer(label: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that no Trainer can be made of here, such as an accelerator that the machine has not.

    Args:
        label: Name of the run, for the message.
        arguments: The arguments; see :func:`built`.

    Raises:
        ValueError: With Lightning's own message.
    """
    try:
        L.Trainer(**{**built(arguments), "logger": False})
    except (
        MisconfigurationException,
        ArgumentError,
        ImportError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"trainer of {label!r}: {error}") from error


@functools.cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(L.Trainer, fail_untyped=False)
    return parser


def _names_a_class(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "class_path" in value
    return isinstance(value, list | tuple) and any(map(_names_a_class, value))
