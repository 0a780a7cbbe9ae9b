"""What a forget rule may look at: size, targets and attributes of a training set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_unlearn.core.checks import in_range, nearest
from lightning_unlearn.data.tensors import column_of

INNERMOST = "position in the innermost dataset"  # an attribute that a datamodule knows of every training set

Positions: TypeAlias = npt.NDArray[np.int64]


class SelectionData:
    """What a forget rule may look at: the size of the training set, its targets and its attributes.

    Targets and attributes may be given as functions; they are called at most once, and only if a rule asks.

    Args:
        n: Number of samples in the training set.
        targets: Class of every sample, shape ``(n,)``, or a function that returns it; None where the dataset
            has no targets.
        attributes: Per-sample columns by name, each of shape ``(n,)``, or a function that returns the column
            of a name and raises KeyError for a name it does not know.
        attribute_names: Names that such a function knows, for messages, or a function that returns them; taken from a
            mapping by itself.
        rng: Source of randomness.
        excluded: Positions that no rule may choose, shape ``(M,)``: samples forgotten earlier.
        undrawn: Positions that no rule may choose either, shape ``(M,)``: samples that the sampler of the training
            loader never draws. Their target is -1 in what a datamodule shows.

    Attributes:
        is_available: Whether a rule may choose each sample, shape ``(n,)``.

    Example:
        >>> data = SelectionData(4, targets=[0, 1, 1, 0], attributes={"age": [30, 20, 25, 40]}, excluded=[0])
        >>> data.targets, data.attribute("age").tolist(), data.available.tolist()
        (array([0, 1, 1, 0]), [30, 20, 25, 40], [1, 2, 3])
    """

    def __init__(
        self,
        n: int,
        *,
        targets: npt.ArrayLike | Tensor | Callable[[], Any] | None = None,
        attributes: Mapping[str, Any] | Callable[[str], Any] | None = None,
        attribute_names: Iterable[str] | Callable[[], Iterable[str]] = (),
        rng: np.random.Generator | None = None,
        excluded: npt.ArrayLike = (),
        undrawn: npt.ArrayLike = (),
    ) -> None:
        in_range("n", n, "[1, inf)", "; it is the size of the training set", whole=True)
        self.n = int(n)
        self.rng = np.random.default_rng() if rng is None else rng
        self._targets: Any = targets
        self._source = attributes
        self._names: Any = attributes if isinstance(attributes, Mapping) else attribute_names
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self.undrawn: Positions = np.asarray(undrawn, dtype=np.int64)
        self.is_available = self._without(excluded)

    def with_(self, *, rng: np.random.Generator, excluded: npt.ArrayLike) -> SelectionData:
        """Return the same data with another source of randomness and other positions excluded."""
        view = copy.copy(self)
        view.rng, view.is_available = rng, self._without(excluded)
        return view

    def _without(self, excluded: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return who may be chosen."""
        free = np.ones(self.n, dtype=np.bool_)
        free[np.asarray(excluded, dtype=np.int64)] = False
        free[self.undrawn] = False
        return free

    @property
    def targets(self) -> npt.NDArray[np.int64] | None:
        """Class of every training sample, shape ``(n,)``, or None where the dataset has no targets."""
        if callable(self._targets):
            self._targets = self._targets()
        if self._targets is None:
            return None
        targets = column_of("targets", self._targets, self.n)
        if not np.issubdtype(targets.dtype, np.integer):
            raise ValueError(f"targets must be class indices (integers), got dtype {targets.dtype}")
        self._targets = targets
        return targets

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attributes that the dataset offers, sorted."""
        return sorted(self._names() if callable(self._names) else self._names)

    @property
    def offered(self) -> str:
        """The names in words, for a message."""
        return ", ".join(map(repr, self.attribute_names)) or "none"

    @property
    def available(self) -> Positions:
        """Positions that a rule may choose, sorted: all but the excluded ones."""
        return np.flatnonzero(self.is_available)

    def attribute(self, name: str) -> npt.NDArray[Any]:
        """Return the per-sample column ``name``, shape ``(n,)``.

        Raises:
            ValueError: If the dataset has no such attribute; the message lists those it has.
        """
        if name not in self._columns:
            source = {} if self._source is None else self._source
            try:
                value = source[name] if isinstance(source, Mapping) else source(name)
            except KeyError as error:
                meant = nearest(name, self.attribute_names)
                raise ValueError(
                    f"the training data have no attribute {name!r}{f'{meant} They' if meant else '; they'} offer: "
                    f"{self.offered}. Name one of these, or give the dataset an `attributes` mapping"
                ) from error
            self._columns[name] = column_of(f"attribute {name!r}", value, self.n)
        return self._columns[name]
