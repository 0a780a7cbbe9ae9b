"""What a search tries for a method's settings, declared beside the method."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias


class Search(NamedTuple):
    """A range that a search draws a setting from.

    Attributes:
        low: The least value.
        high: The largest one.
        log: Whether to draw on a logarithmic scale.
        whole: Whether to draw whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False


SearchSpace: TypeAlias = Mapping[str, Search | tuple[Any, ...] | None]
"""For each setting a range, or the values to choose from; ``None`` takes one out that a base class has. ``lr`` is the
optimizer's learning rate, ``max_epochs`` the Trainer's, ``warm_up`` the share of the steps in which the rate of an
:class:`~lightning_unlearn.models.Annealed` schedule rises, ``batch_size`` the run's, both as the file has them where
``None`` is drawn, and any other an argument of the method."""


def search_space(method: type) -> dict[str, Search | tuple[Any, ...]]:
    """Return what is searched for a method: its own ``searched`` and that of its bases.

    Example:
        >>> from lightning_unlearn.methods import NegGradPlus
        >>> sorted(search_space(NegGradPlus))
        ['alpha', 'ascent_share', 'batch_size', 'lr', 'max_epochs', 'warm_up']
    """
    found: dict[str, Search | tuple[Any, ...] | None] = {}
    for base in reversed(method.__mro__):
        found |= vars(base).get("searched", {})
    return {name: space for name, space in found.items() if space is not None}
