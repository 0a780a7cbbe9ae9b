"""A hash of anything that determines a model: tensors, settings, and code; stores nothing."""

import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["fingerprint"]

_PLAIN = (
    type(None),
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
)


def fingerprint(*values: Any) -> str:
    """Return a SHA-256 of values, by content and not by identity.

    Tensors and arrays count by type, shape and bytes; functions by their bytecode, constants, defaults and
    closure; classes by their source; other objects, modules included, by their class and attributes. What a
    function reads from global variables is not looked at.

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
        elif isinstance(value, type):
            self._say("class", value.__module__, value.__qualname__, _source(value))
        elif isinstance(value, types.FunctionType):
            self._say("function")
            self._code(value.__code__)
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            self.add([value.__defaults__, value.__kwdefaults__, cells])
        elif isinstance(value, types.MethodType):
            self._say("method")
            self.add([value.__self__, value.__func__])
        elif isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType):
            self._say("builtin", str(value.__qualname__))
        elif isinstance(value, types.ModuleType):
            self._say("module", value.__name__)
        else:
            self._object(value)

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
                "neither content nor attributes; keep it out of the recipe, the data and the network, or pass "
                "cache=None"
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
