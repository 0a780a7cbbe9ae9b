"""Whether a method's arguments are of the right kind; the ranges of numbers each method checks itself."""

from numbers import Integral, Real

__all__ = ["require_choice", "require_integers", "require_numbers"]


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def require_numbers(*, none: tuple[str, ...] = (), **arguments: object) -> None:
    """Refuse what is no number, with the name of the argument.

    Args:
        none: Names of arguments that may be None.
        **arguments: The values by their names.

    Raises:
        TypeError: If a value is no real number; truth values are none.

    Example:
        >>> require_numbers(alpha="x")
        Traceback (most recent call last):
        TypeError: alpha must be a number, got the str 'x'
    """
    _require(Real, "a number", none, arguments)


def require_integers(*, none: tuple[str, ...] = (), **arguments: object) -> None:
    """Refuse what is no integer, with the name of the argument; as :func:`require_numbers` otherwise."""
    _require(Integral, "an integer", none, arguments)


def _require(kind: type, what: str, none: tuple[str, ...], arguments: dict[str, object]) -> None:
    for name, value in arguments.items():
        if value is None and name in none:
            continue
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"{name} must be {what}, got the {type(value).__name__} {value!r}")
