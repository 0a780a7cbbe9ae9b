"""What `tune` tries for a method can be tried: every setting is the method's own, and both ends are allowed."""

import inspect

import pytest

from lightning_unlearn import methods
from lightning_unlearn.methods.base.searched import Search, search_space

TRAINER = {"lr", "max_epochs", "warm_up", "batch_size"}


def arguments_of(method: type) -> set[str]:
    return {name for base in method.__mro__ for name in inspect.signature(base.__init__).parameters}


@pytest.mark.parametrize(
    "name", [name for name in methods.__all__ if hasattr(getattr(methods, name), "searched")]
)
def test_the_search_space_is_of_arguments_within_their_ranges(name: str) -> None:
    method = getattr(methods, name)
    space = search_space(method)
    assert space.keys() - TRAINER <= arguments_of(method)
    assert not (method.one_shot and space.keys() & TRAINER)
    for setting, tried in space.items():
        ends = (tried.low, tried.high) if isinstance(tried, Search) else tried
        if isinstance(tried, Search):
            assert 0 < tried.low < tried.high or (not tried.log and tried.low < tried.high)
        for end in ends:
            whole = isinstance(tried, Search) and tried.whole
            if setting in method.declared:
                method.declared[setting].check(setting, int(end) if whole else end)


def test_a_method_adds_to_its_bases_and_may_take_away() -> None:
    class Own(methods.NegGradPlus):
        searched = {"mine": (1, 2), "ascent_share": None}  # noqa: RUF012

    assert search_space(Own).keys() == {*TRAINER, "alpha", "mine"}
