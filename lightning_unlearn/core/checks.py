"""Check arguments against declared constraints: intervals of numbers and choices of words."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypeAlias, cast


@dataclass(frozen=True)
class Range:
    """Numbers that an argument may be.

    Args:
        interval: ``"[0, 1]"``, ``"(0, inf)"``; a round bracket leaves out its end. Infinity is never allowed.
        hint: What the message says behind the value.
        whole: Whether it must be an integer.
        none: Whether ``None`` is allowed.

    Example:
        >>> Range("(0, 1]", "; 1 is all").check("share", 2)
        Traceback (most recent call last):
        ValueError: share must lie in (0, 1], got 2; 1 is all
    """

    interval: str
    hint: str = ""
    whole: bool = False
    none: bool = False

    def check(self, name: str, value: object) -> None:
        """Raise ``TypeError`` unless a value is such a number, and ``ValueError`` if it lies outside the interval."""
        if value is None and self.none:
            return
        kind, what = (Integral, "an integer") if self.whole else (Real, "a number")
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"{name} must be {what}, got the {type(value).__name__} {value!r}{self.hint}")
        number = cast(float, value)
        low, high = (float(end) for end in self.interval[1:-1].split(","))
        above = number > low or (number == low and self.interval[0] == "[")
        below = number < high or (number == high and self.interval[-1] == "]")
        if not (above and below):
            where = f"lie in {self.interval}"
            if math.isinf(low):
                where = "be finite"
            elif math.isinf(high):
                least = f"be {'at least' if self.interval[0] == '[' else 'above'} {low:g}"
                where = least if math.isfinite(number) else f"{least} and finite"
            raise ValueError(f"{name} must {where}, got {value}{self.hint}")


@dataclass(frozen=True)
class Choice:
    """Words that an argument may be."""

    words: tuple[str, ...]

    def check(self, name: str, value: object) -> None:
        """Raise ``ValueError`` unless a value is one of the words."""
        if value not in self.words:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, self.words))}, got {value!r}")


Declared: TypeAlias = Mapping[str, Range | Choice]  # what arguments may be, by their names


def check_arguments(declared: Declared, arguments: Mapping[str, object]) -> None:
    """Check those arguments of which something is declared.

    Raises:
        TypeError: If one is of the wrong kind.
        ValueError: If one lies outside what is declared for it.
    """
    for name, allowed in declared.items():
        if name in arguments:
            allowed.check(name, arguments[name])


def in_range(
    name: str, value: object, interval: str, hint: str = "", *, whole: bool = False, none: bool = False
) -> None:
    """Check one number, as :class:`Range` does.

    Example:
        >>> in_range("batch_size", 0, "[1, inf)")
        Traceback (most recent call last):
        ValueError: batch_size must be at least 1, got 0
    """
    Range(interval, hint, whole, none).check(name, value)


def one_of(name: str, value: object, *words: str) -> None:
    """Check one word, as :class:`Choice` does."""
    Choice(words).check(name, value)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a question for what may have been meant, or nothing.

    Example:
        >>> nearest("compere", ["compare", "demo"]), nearest("x", ["compare"])
        ('; did you mean compare?', '')
    """
    found = get_close_matches(word, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def shapes(*arrays: Any) -> str:
    """Name the shapes of tensors or arrays, for a message.

    Example:
        >>> import torch
        >>> shapes(torch.zeros(2, 3), torch.zeros(2))
        '(2, 3) and (2,)'
    """
    return " and ".join(str(tuple(array.shape)) for array in arrays)


def of_shape(**arrays: tuple[Any, str]) -> None:
    """Check shapes by the names of their dimensions: where two share a name, they share a size, and none is empty.

    Args:
        **arrays: Each array with the names of its dimensions, by what the message calls it.

    Raises:
        ValueError: If one has other dimensions, none along one, or another size along one than an array before it.

    Example:
        >>> import numpy as np
        >>> of_shape(scores=(np.zeros((3, 2)), "models samples"), targets=(np.zeros(5), "samples"))
        Traceback (most recent call last):
        ValueError: shapes must be scores (models, samples), targets (samples), none of them 0, got (3, 2) and (5,)
    """
    sizes: dict[str, int] = {}
    for array, dimensions in arrays.values():
        named = list(zip(dimensions.split(), array.shape, strict=False))
        fits = array.ndim == len(dimensions.split()) and all(
            sizes.setdefault(n, size) == size for n, size in named
        )
        if not fits or 0 in array.shape:
            wanted = [f"{name} ({', '.join(each.split())})" for name, (_, each) in arrays.items()]
            found = shapes(*(each for each, _ in arrays.values()))
            raise ValueError(f"shapes must be {', '.join(wanted)}, none of them 0, got {found}")
