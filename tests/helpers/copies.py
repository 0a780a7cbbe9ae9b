"""Count the bytes that tensors hold at once, operation by operation: the same on every machine."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HeldBytes(TorchDispatchMode):
    """Notes the most bytes that the storages made within it held at one time.

    Attributes:
        most: The most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor):
                self._known.add(given.untyped_storage()._cdata)
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and made.untyped_storage()._cdata not in self._known:
                storage = made.untyped_storage()
                self._known.add(storage._cdata)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.held)
        return result

    def _gone(self, key: int, size: int) -> None:
        self.held -= size
        self._known.discard(key)
