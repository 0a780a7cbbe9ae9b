"""Agreement among the processes that run along with this one, before and after they are connected."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed
from lightning_utilities.core.rank_zero import rank_zero_only

__all__ = ["decided", "in_group", "is_first", "shared"]

T = TypeVar("T")


def decided(question: Callable[[], T]) -> T:
    """Answer a question about the folder alike on all processes that run along.

    Before they are connected each looks for itself: nothing is written as long as they are not.
    """
    return shared(question) if in_group() else question()


def shared(work: Callable[[], T]) -> T:
    """Do something on the first process alone, and give its result, or its error, to all that run along."""
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = work()
        except Exception as error:  # raised below, on every process
            outcome[1] = error
    if in_group():
        torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def is_first() -> bool:
    """Whether this process, of those that run the comparison, is the one that writes and prints."""
    return getattr(rank_zero_only, "rank", 0) == 0


def in_group() -> bool:
    """Whether this process is connected to others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
