"""Rules that choose the training samples to forget."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_unlearn.core.checks import in_range, nearest
from lightning_unlearn.data.ids import ID_FILES, blank, read_ids, require_id_file, shown, typed_ids, whole
from lightning_unlearn.data.selection_data import INNERMOST, Positions, SelectionData
from lightning_unlearn.data.tensors import as_array

_SHARE = "; it is a share of the training set"


class ForgetRule(ABC):
    """Chooses the samples to forget. A rule of your own is a subclass, or any function of one argument."""

    @abstractmethod
    def __call__(self, data: SelectionData) -> npt.NDArray[Any]:
        """Return sorted, unique ``int64`` positions in the training set, drawn from ``data.available``."""


def stratified_draw(targets: npt.NDArray[Any], size: int, rng: np.random.Generator) -> Positions:
    """Draw ``size`` positions so that every class has its share of them, to within one sample.

    The shares are rounded by largest remainder, so the sizes add up exactly.

    Args:
        targets: Class of every sample, shape ``(n,)``, integers.
        size: Number of positions to draw, in ``[0, n]``.
        rng: Source of randomness.

    Returns:
        Sorted, unique positions, shape ``(size,)``.

    Example:
        >>> drawn = stratified_draw(np.array([0, 0, 0, 0, 1, 1]), 3, np.random.default_rng(0))
        >>> np.bincount(np.array([0, 0, 0, 0, 1, 1])[drawn]).tolist()
        [2, 1]
    """
    if not 0 <= size <= len(targets):
        raise ValueError(f"size must lie in [0, {len(targets)}], the number of samples, got {size}")
    groups = np.unique(targets)
    # not by return_inverse, which holds twice as much; 16 bits are sorted by radix, ten times faster
    codes = np.searchsorted(groups, targets).astype(np.min_scalar_type(len(groups)))
    counts = np.bincount(codes)
    shares = counts * (size / max(len(targets), 1))
    taken = np.floor(shares).astype(np.int64)
    order = np.argsort(taken - shares, kind="stable")
    taken[order[: size - int(taken.sum())]] += 1
    by_class = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    drawn = [
        by_class[start + rng.choice(count, take, replace=False, shuffle=False)]
        for start, count, take in zip(starts.tolist(), counts.tolist(), taken.tolist(), strict=True)
        if take
    ]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *drawn]))


@dataclass(frozen=True)
class RandomFraction(ForgetRule):
    """A random share of the training set.

    Args:
        fraction: Share of the samples that can still be forgotten, in ``(0, 1)``; at least one is taken.
        stratified: Give every class the same share, to within one sample; needs targets.

    Example:
        >>> len(RandomFraction(0.25)(SelectionData(100, rng=np.random.default_rng(0))))
        25
    """

    fraction: float
    stratified: bool = False

    def __post_init__(self) -> None:
        in_range("fraction", self.fraction, "(0, 1)", _SHARE)

    def __call__(self, data: SelectionData) -> Positions:
        """Draw the share from the available samples."""
        free = data.available
        size = _share(self.fraction, len(free))
        if not self.stratified:
            return free[np.sort(data.rng.choice(len(free), size, replace=False, shuffle=False))]
        if data.targets is None:
            raise ValueError("stratified=True needs targets, and there are none; use stratified=False")
        return free[stratified_draw(data.targets[free], size, data.rng)]


@dataclass(frozen=True)
class Classes(ForgetRule):
    """All samples of one class or of several.

    Args:
        classes: A class index or a list of them.

    Example:
        >>> Classes([0, 2])(SelectionData(5, targets=[0, 1, 2, 2, 1])).tolist()
        [0, 2, 3]
    """

    classes: int | list[int]

    def __post_init__(self) -> None:
        wanted = self._wanted
        if wanted.size == 0 or wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
            raise ValueError(f"classes must be a class index or a list of them, got {self.classes!r}")
        if len(np.unique(wanted)) != len(wanted):
            raise ValueError(f"classes must name every class once, got {self.classes!r}")

    @property
    def _wanted(self) -> npt.NDArray[Any]:
        return np.atleast_1d(np.asarray(self.classes))

    def __call__(self, data: SelectionData) -> Positions:
        """Find the available samples of the classes."""
        if data.targets is None:
            raise ValueError("Classes needs targets, and there are none; forget by Ids or Groups instead")
        targets = data.targets[data.available]
        absent = np.setdiff1d(self._wanted, targets)
        if len(absent):
            present = f"the classes present are {shown(np.unique(targets), limit=20)}"
            raise ValueError(f"classes {shown(absent)} have no samples that can be forgotten; {present}")
        return data.available[np.isin(targets, self._wanted)]


@dataclass(frozen=True, eq=False)
class Ids(ForgetRule):
    """Exactly the samples that a list or a file names.

    A ``.txt`` file has one id per line, a ``.json`` file is a list of ids or of records, a ``.csv`` file may have a
    header. Of several CSV columns the one named ``column`` is read, without ``column`` the one headed id, index or
    position; a file of several columns where none is so named is refused, since a wrong guess would forget the wrong
    people.

    Args:
        ids: Ids as a sequence, array or tensor, or the path of a .csv, .json or .txt file.
        column: Attribute of the training data whose values the ids are, strings or integers; every sample
            with such a value is chosen. Left out, the ids are positions in the training set, the dataset of the
            training loader, counted from 0; one that the loader's sampler never draws is refused.
        innermost: The ids are positions in the dataset beneath every ``Subset`` and ``random_split``, not in the
            order of the training loader's dataset.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a position is repeated, an id out of range or unknown, or the file cannot be read as ids.

    Example:
        >>> Ids([4, 1])(SelectionData(5)).tolist()
        [1, 4]
        >>> Ids(["ann"], column="user")(SelectionData(3, attributes={"user": ["ann", "bob", "ann"]})).tolist()
        [0, 2]
    """

    ids: str | Path | Sequence[int] | Sequence[str] | npt.NDArray[Any] | Tensor
    column: str | None = None
    innermost: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.ids, str | Path):
            require_id_file(self.ids)
        if self.innermost and self.column is not None:
            raise ValueError(f"innermost=True is for positions; leave out column={self.column!r}")

    @property
    def _origin(self) -> str:
        return f"ids file {self.ids}" if isinstance(self.ids, str | Path) else "ids"

    def __call__(self, data: SelectionData) -> Positions:
        """Read the ids and find their samples."""
        column = INNERMOST if self.innermost else self.column
        if column is not None:
            return self._matches(data, column)
        ids = self._named(integers=True)
        outside = ids[(ids < 0) | (ids >= data.n)]
        if len(outside):
            raise ValueError(
                f"{self._origin}: {len(outside)} ids are out of range: {shown(outside)}. Without `column` "
                f"ids are positions in the training set, 0 to {data.n - 1}; where they are values of an "
                f"attribute, name it in `column` (they offer: {data.offered})"
            )
        return self._sorted_unique(ids)

    def _matches(self, data: SelectionData, column: str) -> Positions:
        given = data.attribute(column)
        values = whole(given)
        integers = bool(np.issubdtype(values.dtype, np.integer))
        ids = self._sorted_unique(self._named(integers=integers))
        if not integers:
            values = values.astype(np.str_)
        # Every sample looks its value up among the sorted ids: n log(ids), no table over all values. Without the cast
        # NumPy would look uint64 up as float64, and mistake neighbours for each other.
        sought = values.astype(np.int64, copy=False) if integers else values
        nearest = np.minimum(np.searchsorted(ids, sought), len(ids) - 1)
        found = ids[nearest] == values
        found[found] = ~blank(given[found])  # a gap is nobody's value
        occurs = np.zeros(len(ids), dtype=np.bool_)
        occurs[nearest[found]] = True
        unknown = ids[~occurs]
        if len(unknown):
            raise ValueError(
                f"{self._origin}: {len(unknown)} ids do not occur in attribute {column!r} of the "
                f"training data: {shown(unknown)}. Its values are {_kind(values)}; remove or "
                "correct these ids"
            )
        # Of a person whose samples were in part forgotten or held out before, the others remain to be
        # forgotten; a person of whom none remain is kept, so that the request is refused and not silently
        # shortened.
        free = data.is_available
        exhausted = np.ones(len(ids), dtype=np.bool_)
        exhausted[nearest[found & free]] = False
        return np.flatnonzero(found & (free | exhausted[nearest]))

    def _sorted_unique(self, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        ids = np.sort(ids)
        if len(repeated := _repeated(ids)):
            found = f"{self._origin}: {len(repeated)} ids are repeated: {shown(repeated)}"
            if self.column is None:
                raise ValueError(f"{found}. Name every id once")
            rank_zero_warn(f"{found}; each counts once")
            return np.unique(ids)
        return ids

    def _named(self, *, integers: bool) -> npt.NDArray[Any]:
        """Read the ids, of which there must be one."""
        if not len(ids := self._read(integers=integers)):
            raise ValueError(f"{self._origin}: the forget set is empty; name at least one sample to forget")
        return ids

    def _read(self, *, integers: bool) -> npt.NDArray[Any]:
        """Read the ids as ``int64`` or as strings, shape ``(M,)``."""
        if not isinstance(self.ids, str | Path):
            return typed_ids(self.ids, self.column, integers=integers, origin=self._origin)
        return read_ids(self.ids, self.column, integers=integers)


@dataclass(frozen=True)
class Groups(ForgetRule):
    """All samples of a share of the groups, for instance of 2% of the identities.

    With ``skew_by`` the groups are drawn one after another without replacement, each with a probability
    proportional to ``exp(-skew * z)``, where ``z`` is the standard score of the group's mean ``skew_by``
    among the groups. ``Groups("identity", 0.02, skew_by="age", skew=1.0)`` is a forget set of 2% of the
    identities with an emphasis on the young, the setting of Akbari, Morshed & Gaudi, "Machine Unlearning",
    section 3.

    Args:
        attribute: Attribute of the training data whose equal values make a group.
        fraction: Share of the groups, in ``(0, 1)``; at least one group is taken.
        skew_by: Numeric attribute towards whose small values the draw is skewed.
        skew: Strength of the skew; 0 for none, negative towards large values.

    Example:
        >>> data = SelectionData(6, attributes={"user": list("aabbcc")}, rng=np.random.default_rng(0))
        >>> len(Groups("user", 0.4)(data))
        2
    """

    attribute: str
    fraction: float
    skew_by: str | None = None
    skew: float = 0.0

    def __post_init__(self) -> None:
        in_range("fraction", self.fraction, "(0, 1)", "; it is a share of the groups")
        in_range("skew", self.skew, "(-inf, inf)")
        if self.skew != 0 and self.skew_by is None:
            raise ValueError(f"skew={self.skew} needs skew_by, the attribute to skew by, or set skew=0")

    def __call__(self, data: SelectionData) -> Positions:
        """Draw the groups and find their available samples."""
        column = data.attribute(self.attribute)[data.available]
        values, group_of = np.unique(column, return_inverse=True)
        groups = len(values)
        log_weights = np.zeros(groups)
        if self.skew_by is not None:
            log_weights -= self.skew * self._scores(data, group_of)
        # The groups with the largest log-weight plus Gumbel noise are a draw without replacement in
        # proportion to the weights.
        keys = log_weights + data.rng.gumbel(size=groups)
        chosen = np.zeros(groups, dtype=np.bool_)
        chosen[np.argsort(-keys, kind="stable")[: _share(self.fraction, groups)]] = True
        return data.available[chosen[group_of]]

    def _scores(self, data: SelectionData, group_of: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        values = data.attribute(str(self.skew_by))[data.available]
        numeric = np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_
        if not numeric or not np.isfinite(values).all():
            raise ValueError(f"skew_by={self.skew_by!r} must be a numeric attribute without missing values")
        means = np.bincount(group_of, weights=values) / np.bincount(group_of)
        spread = float(means.std())
        return (means - means.mean()) / spread if spread > 0 else np.zeros_like(means)


@dataclass(frozen=True)
class _Function(ForgetRule):
    """A user's function of :class:`SelectionData`, which may return positions or a boolean mask."""

    function: Callable[[SelectionData], Any]

    def __call__(self, data: SelectionData) -> npt.NDArray[Any]:
        chosen = as_array(self.function(data))
        if chosen.dtype == np.bool_ and chosen.shape == (data.n,):
            return np.flatnonzero(chosen)
        return chosen


ForgetLike: TypeAlias = (
    float
    | str
    | Path
    | Sequence[int]
    | Sequence[str]
    | npt.NDArray[Any]
    | Tensor
    | ForgetRule
    | Callable[[SelectionData], Any]
)


def spelled_rule(text: str) -> ForgetRule:
    """Turn what a command line says of who is forgotten into a rule.

    Args:
        text: ``class:3`` or ``class:3,5``, a fraction such as ``0.1``, ``group:identity=0.02`` for a share of the
            values of an attribute, or the path of a file of ids.

    Raises:
        ValueError: If it is none of these, or a number lies outside its range.
        FileNotFoundError: If there is no such file.

    Example:
        >>> spelled_rule("class:3"), spelled_rule("class:3,5")
        (Classes(classes=3), Classes(classes=[3, 5]))
        >>> spelled_rule("0.1")
        RandomFraction(fraction=0.1, stratified=False)
        >>> spelled_rule("group:identity=0.02")
        Groups(attribute='identity', fraction=0.02, skew_by=None, skew=0.0)
    """
    if re.fullmatch(r"class:\d+(,\d+)*", text):
        numbers = [int(number) for number in text.removeprefix("class:").split(",")]
        return Classes(numbers if len(numbers) > 1 else numbers[0])
    if found := re.fullmatch(r"group:(.+)=(0?\.\d+)", text):
        return Groups(found[1], float(found[2]))
    if re.fullmatch(r"\d*\.\d+", text):
        return as_rule(float(text))
    if Path(text).suffix.lower() not in ID_FILES:
        raise ValueError(
            f"forget={text!r} is none of class:3, class:3,5, 0.1, group:identity=0.02, and no path of a file of ids "
            f"({', '.join(ID_FILES)})"
        )
    return Ids(text)


def as_rule(forget: ForgetLike) -> ForgetRule:
    """Turn what a user may write for ``forget`` into a rule.

    Args:
        forget: A fraction in ``(0, 1)`` (:class:`RandomFraction`), the path of a file of ids or a sequence,
            array or tensor of positions (:class:`Ids`), a text as :func:`spelled_rule` reads it, a rule, or a
            function of :class:`SelectionData` that returns positions or a boolean mask.

    Raises:
        TypeError: If ``forget`` is a bare integer, which could be a class or an id, or of another type.
        ValueError: If the fraction lies outside ``(0, 1)``.

    Example:
        >>> as_rule(0.01)
        RandomFraction(fraction=0.01, stratified=False)
    """
    given: Any = forget  # in a file it may be what the parser could make no rule of
    if isinstance(given, Mapping) and "class_path" in given:
        raise TypeError(f"forget: {_misfit(given)}")
    if isinstance(forget, ForgetRule):
        return forget
    if isinstance(forget, bool | np.bool_ | int | np.integer | float | np.floating):
        value = float(forget)
        # A command line gives 3 as 3.0.
        if not isinstance(forget, float | np.floating) or (value > 1 and value.is_integer()):
            advice = (
                f"write Classes({value:.0f}), on a command line class:{value:.0f}, to forget a class, or "
            )
            advice += f"[{value:.0f}] to forget one sample"
            raise TypeError(f"forget={forget!r} could mean a class or a sample; {advice}")
        in_range("forget", value, "(0, 1)", _SHARE)
        return RandomFraction(value)
    if isinstance(forget, str):
        return spelled_rule(forget)
    if isinstance(forget, Path | np.ndarray | Tensor | Sequence):
        return Ids(forget)
    if callable(forget):
        return _Function(forget)
    raise TypeError(
        f"forget must be a fraction, ids, their file, a rule or a function, got {type(forget).__name__}"
    )


def _misfit(given: Mapping[str, Any]) -> str:
    """Say what does not fit about a rule's entry in a file, which the parser has handed on as it is."""
    name = str(given["class_path"]).rpartition(".")[2]
    kind = next((each for each in ForgetRule.__subclasses__() if each.__name__ == name), None)
    known = [] if kind is None else list(inspect.signature(kind).parameters)
    takes = f" (it takes {', '.join(known)})" if known else ""
    for key in given.get("init_args") or {}:
        if key not in known:
            return f"{name} has no argument {key!r}{nearest(key, known)}{takes}"
    return f"{name} does not take {dict(given.get('init_args') or {})}{takes}"


def select(rule: ForgetRule, data: SelectionData) -> Positions:
    """Apply a rule and check what it chose.

    Returns:
        Sorted, unique ``int64`` positions in the training set.

    Raises:
        ValueError: If the choice is empty, is everything, repeats a position, or holds a position that is out
            of range, was forgotten before, or is never drawn by the training loader's sampler.
    """
    chosen = np.asarray(rule(data))
    chooser = rule.function if isinstance(rule, _Function) else type(rule)
    name = getattr(chooser, "__name__", type(chooser).__name__)
    if chosen.ndim != 1 or not (np.issubdtype(chosen.dtype, np.integer) or chosen.size == 0):
        raise ValueError(
            f"{name} returned {chosen.dtype} of shape {chosen.shape}; it must return the positions to forget, 1-D "
            f"integers, or, as a function, a boolean mask of shape ({data.n},)"
        )
    if chosen.size == 0:
        raise ValueError("the forget set is empty; choose at least one training sample to forget")
    chosen = chosen.astype(np.int64, copy=False)
    if not (chosen[1:] > chosen[:-1]).all():
        chosen = np.sort(chosen)
        if len(repeated := _repeated(chosen)):
            raise ValueError(f"{name} chose {len(repeated)} positions more than once: {shown(repeated)}")
    outside = chosen[(chosen < 0) | (chosen >= data.n)]
    if len(outside):
        raise ValueError(f"{name} chose positions outside the training set: {shown(outside)} of {data.n}")
    if len(data.undrawn) and len(never := np.intersect1d(chosen, data.undrawn)):
        raise ValueError(
            f"{name} chose {len(never)} samples that the sampler of the training loader never draws, so that the "
            f"source was not trained on them: {shown(never)}. Positions count in the loader's dataset; leave these "
            "out (a function finds the others in `data.available`)"
        )
    taken = chosen[~data.is_available[chosen]]
    if len(taken):
        raise ValueError(
            f"{name} chose {len(taken)} samples that cannot be forgotten again, since the source model was "
            f"not trained on them: {shown(taken)}. Leave out what an earlier request removed (a function "
            "finds the rest in `data.available`)"
        )
    if len(chosen) == len(data.available):
        whole = f"the forget set is the whole training set ({len(chosen)} samples)"
        raise ValueError(f"{whole}; choose fewer samples, or train a new model")
    return chosen


def _kind(values: npt.NDArray[Any]) -> str:
    """Say what values are like and none of them: they may name persons."""
    if values.dtype.kind != "U":
        return "integers"
    lengths = np.unique(np.char.str_len(values))
    return f"text of {' to '.join(dict.fromkeys(map(str, lengths[[0, -1]])))} characters"


def _repeated(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the sorted values that occur more than once, each once."""
    return np.unique(values[1:][values[1:] == values[:-1]])


def _share(fraction: float, total: int) -> int:
    """Return the rounded share, which is never nothing and, of two or more, never all."""
    return max(1, min(round(fraction * total), total - 1))
