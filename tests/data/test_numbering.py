"""Numbers for values, against NumPy's own sorting and against Python's dictionaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_unlearn.data import numbering
from lightning_unlearn.data.numbering import group_numbers, places_among


@pytest.mark.parametrize(
    "values",
    [
        np.array([3, 9, 3, 5]),
        np.array([-128, 127, 0] * 100, dtype=np.int8),
        np.array([2**64 - 1, 2**64 - 3, 2**64 - 1], dtype=np.uint64),
        np.array([10**12, -5, 10**12]),
        np.array(["b", "a", "b"]),
        np.array([0.5, -1.0, 0.5]),
        np.array([], dtype=np.int64),
    ],
    ids=lambda values: f"{values.dtype}-{len(values)}",
)
def test_groups_are_numbered_in_order(values):
    groups, group_of = group_numbers(values)
    different, expected = np.unique(values, return_inverse=True)
    assert groups == len(different)
    assert group_of.tolist() == expected.tolist()


def require_right_places(ids: np.ndarray, values: np.ndarray) -> None:
    places = places_among(ids, values)
    rank = {value: place for place, value in enumerate(ids.tolist())}
    found = ids[places] == values
    assert found.tolist() == [value in rank for value in values.tolist()]
    assert places[found].tolist() == [rank[value] for value in values.tolist() if value in rank]


@pytest.mark.parametrize("modulus", [2**64 - 1, 3, 1])
@settings(max_examples=100, deadline=None)
@given(st.sets(st.text(max_size=6), min_size=1), st.lists(st.text(max_size=9), min_size=1))
def test_strings_find_their_places_though_their_keys_collide(modulus, ids, others):
    keys = numbering._string_keys
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbering, "_string_keys", lambda *args: keys(*args) % np.uint64(modulus))
        require_right_places(np.unique(list(ids)), np.asarray([*others, *ids]))


def test_strings_of_any_layout_find_their_places():
    names = np.asarray([f"user-{number}" for number in range(40_000)])
    strided = names[::-2]
    assert not strided.flags["C_CONTIGUOUS"]
    require_right_places(np.unique(names[:3000]), strided)
    require_right_places(np.unique(strided), names)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint64])
def test_integers_find_their_places(dtype):
    top = int(np.iinfo(dtype).max)
    values = np.asarray([top, top - 1, 5, 0, top - 2], dtype=dtype)
    require_right_places(np.asarray([0, 4, 5, min(top - 1, 2**63 - 1)]), values)


def test_large_unsigned_integers_are_not_rounded_to_their_neighbours():
    ids = np.asarray([2**60, 2**60 + 1, 2**60 + 2])
    require_right_places(ids, ids.astype(np.uint64))
