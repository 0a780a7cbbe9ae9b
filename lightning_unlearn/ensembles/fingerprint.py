"""Hash anything that determines a model: tensors, settings and code."""

import datetime
import functools
import hashlib
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

_PLAIN = (
    type(None),
    types.EllipsisType,
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.Size,
    range,
    slice,
    datetime.timedelta,
    re.Pattern,
)
_LIBRARIES = {
    "builtins",
    "collections",
    "lightning",
    "numpy",
    "torch",
    "torchmetrics",
    "torchvision",
    "typing",
}


def fingerprint(*values: Any) -> str:
    """Return a SHA-256 of values, by content and not by identity.

    Tensors and arrays count by type, shape and bytes; functions by their bytecode, constants, defaults, closure, and
    what they name: plain values, functions of their own package, and code that is not installed; classes by their
    source and that of their bases; other objects, modules included, by their class and attributes.

    Args:
        *values: The values.

    Returns:
        64 hexadecimal digits, the same in every process of one version of Python and PyTorch.

    Raises:
        TypeError: If something holds a value with neither content nor attributes, such as a lock.

    Example:
        >>> fingerprint({"a": torch.ones(2)}) == fingerprint({"a": torch.ones(2)})
        True
        >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 2)
        False
    """
    hasher = _Hasher()
    for value in values:
        hasher.add(value)
    return hasher.digest.hexdigest()


class _Hasher:
    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.read: dict[int, Any] = {}  # functions and classes that were added already
        self.path: dict[int, int] = {}  # objects being walked, by depth, so that a cycle ends

    def add(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._say(type(value).__name__, repr(value))
            return
        if id(value) in self.path:
            self._say("cycle", str(len(self.path) - self.path[id(value)]))
            return
        self.path[id(value)] = len(self.path)
        try:
            self._walk(value)
        finally:
            del self.path[id(value)]

    def _walk(self, value: Any) -> None:
        if isinstance(value, Tensor):
            content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
            self._say("tensor", str(value.dtype), str(tuple(value.shape)), str(value.requires_grad))
            self.digest.update(content.data)
        elif isinstance(value, np.ndarray | np.generic):
            array = np.ascontiguousarray(value)
            self._say("array", str(array.dtype), str(array.shape))
            self.digest.update(array.tobytes())
        elif isinstance(value, Mapping):
            self._say("mapping", str(len(value)))
            for key in sorted(value, key=repr):
                self.add(key)
                self.add(value[key])
        elif isinstance(value, list | tuple):
            self._say("sequence", str(len(value)))
            for each in value:
                self.add(each)
        elif isinstance(value, set | frozenset):
            self._say("set", *sorted(fingerprint(each) for each in value))
        elif isinstance(value, functools.partial):
            self._say("partial")
            self.add([value.func, value.args, value.keywords])
        elif isinstance(value, os.PathLike):
            self._say("path", os.fspath(value))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, L.Trainer):
            self._say("trainer")  # whoever looks back at it is not decided by it
        elif isinstance(value, types.FunctionType) and hasattr(value, "dispatch"):
            self.add(inspect.unwrap(value))  # of functools.singledispatch, whose cache grows with every call
        elif isinstance(value, types.FunctionType):
            self._say("function")
            self._code(value.__code__)
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            self.add([value.__defaults__, value.__kwdefaults__, cells])
            self._globals(value)
        elif isinstance(value, types.MethodType):
            self._say("method")
            self.add([value.__self__, value.__func__])
        elif isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType):
            self._say("builtin", str(value.__qualname__))
        elif isinstance(value, types.ModuleType):
            self._say("module", value.__name__)
        else:
            self._object(value)

    def _class(self, kind: type) -> None:
        """Add a class by name and, once and unless it is of a library, by its source; likewise its bases."""
        for base in kind.__mro__:
            self._say("class", base.__module__, base.__qualname__)
            if id(base) in self.read or _root(base) in _LIBRARIES:
                continue
            self.read[id(base)] = base
            self._say(_source(base))
            for member in vars(base).values():
                if isinstance(member, types.FunctionType):
                    self._globals(member)

    def _globals(self, function: types.FunctionType) -> None:
        """Add what a function reads from around it, once: settings, functions of its package, and a project's code."""
        if id(function) in self.read or _root(function) in _LIBRARIES:
            return
        self.read[id(function)] = function
        names = _names(function.__code__)
        around = {name: function.__globals__.get(name) for name in names}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # an empty cell
                around[name] = cell.cell_contents
        for module in [found for found in around.values() if isinstance(found, types.ModuleType)]:
            if _is_users(module.__name__.partition(".")[0]):
                around |= {f"{module.__name__}.{name}": vars(module).get(name) for name in names}
        for name, found in around.items():
            if isinstance(found, types.FunctionType | type) and _is_users(_root(found)):
                self._say(name)
                self._follow(found)
            elif _is_setting(found) or (
                isinstance(found, types.FunctionType) and _root(found) == _root(function)
            ):
                self.add([name, found])

    def _follow(self, code: types.FunctionType | type) -> None:
        """Add a project's code, once: what it says, and those values it holds that have content."""
        if id(code) in self.read:
            return
        if isinstance(code, types.FunctionType):
            self._code(code.__code__)
            held = (*(code.__defaults__ or ()), *(code.__kwdefaults__ or {}).values())
            self.add(
                [value for value in held if _is_setting(value) or isinstance(value, Tensor | np.ndarray)]
            )
            self._globals(code)
            return
        for base in code.__mro__:
            if id(base) not in self.read and _is_users(_root(base)):
                self.read[id(base)] = base
                self._say(_source(base))
                for member in vars(base).values():
                    if isinstance(member, types.FunctionType):
                        self._globals(member)

    def _object(self, value: Any) -> None:
        attributes = dict(getattr(value, "__dict__", {}))
        for slot in _slots(type(value)):
            if hasattr(value, slot):
                attributes[slot] = getattr(value, slot)
        # Built-in classes keep what there is to say about an instance out of sight.
        if not hasattr(value, "__dict__") and not any(
            "__slots__" in vars(base) for base in type(value).__mro__
        ):
            raise TypeError(
                f"cannot tell what determines a {type(value).__module__}.{type(value).__qualname__}, which has "
                "neither content nor attributes"
            )
        self._say("object")
        self.add(type(value))
        self.add(attributes)

    def _code(self, code: types.CodeType) -> None:
        self._say(code.co_name, repr(code.co_names), code.co_code.hex())
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant)
            else:
                self.add(constant)

    def _say(self, *words: str) -> None:
        for word in words:
            self.digest.update(f"{len(word)}:{word};".encode())


def _is_setting(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_setting, value))
    return isinstance(value, _PLAIN) or (isinstance(value, dict) and all(map(_is_setting, value.values())))


def _root(thing: Any) -> str:
    return str(thing.__module__).partition(".")[0]


@functools.cache
def _is_users(root: str) -> bool:
    """Say whether a module lies in somebody's project, and not where packages are installed."""
    module = sys.modules.get(root)
    if module is None or root in _LIBRARIES or root == "lightning_unlearn" or root in sys.stdlib_module_names:
        return False
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return not {"site-packages", "dist-packages"} & {part for place in places for part in Path(place).parts}


def _names(code: types.CodeType) -> list[str]:
    inner = [
        name
        for constant in code.co_consts
        if isinstance(constant, types.CodeType)
        for name in _names(constant)
    ]
    return [*code.co_names, *inner]


def _slots(kind: type) -> list[str]:
    slots: list[str] = []
    for base in kind.__mro__:
        own = base.__dict__.get("__slots__", ())
        slots += [own] if isinstance(own, str) else list(own)
    return [slot for slot in slots if slot not in ("__dict__", "__weakref__")]


@functools.lru_cache(maxsize=512)
def _source(kind: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""  # built in, or typed at a prompt
