"""Splits: disjoint, complete, reproducible from the seed, saved whole or not at all, sound in sequence."""

import io
import os
import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_unlearn.data.selection import Classes, Ids, SelectionData
from lightning_unlearn.data.splits import Split, make_split

SETS = ("forget", "retain", "nonmember", "shadow", "test", "previous")


def check_partition(split: Split) -> None:
    """Assert, with Python sets, that every sample of either set is in exactly one set of the split."""
    parts = {"train": ["forget", "retain", "previous"], "test": ["test"]}
    parts[split.nonmember_from].append("nonmember")
    parts[split.shadow_from].append("shadow")
    for origin, size in (("train", split.train_size), ("test", split.test_size)):
        everything = [int(position) for name in parts[origin] for position in getattr(split, name)]
        assert sorted(everything) == list(range(size))
    for name in SETS:
        assert getattr(split, name).dtype == np.int64
        assert (np.diff(getattr(split, name)) > 0).all()


sizes = st.one_of(st.none(), st.integers(0, 8), st.floats(0.05, 0.3))


@settings(max_examples=300, deadline=None)
@given(
    train_size=st.integers(40, 80),
    test_size=st.integers(30, 60),
    fraction=st.floats(0.01, 0.2),
    nonmember=sizes,
    nonmember_from=st.sampled_from(["train", "test"]),
    shadow=sizes.filter(lambda size: size is not None),
    shadow_from=st.sampled_from(["train", "test"]),
    previous=st.lists(st.integers(0, 39), max_size=5),
    seed=st.integers(0, 2**32),
)
def test_sets_are_disjoint_and_complete(train_size, test_size, fraction, seed, previous, **options):
    earlier = [make_split(train_size, 0, sorted(set(previous)), seed=0)] if previous else []
    split = make_split(train_size, test_size, fraction, seed=seed, previous=earlier, **options)
    check_partition(split)
    assert split.previous.tolist() == sorted(set(previous))
    assert split.members.tolist() == sorted({*split.forget.tolist(), *split.retain.tolist()})
    again = make_split(train_size, test_size, fraction, seed=seed, previous=earlier, **options)
    assert split.same_as(again)
    # The forget set depends on the seed and on what was forgotten before, on nothing else.
    bare = make_split(train_size, 0, fraction, seed=seed, previous=earlier)
    assert np.array_equal(bare.forget, split.forget)
    assert bare.forget.tolist() == split.forget.tolist()


def test_default_sizes_follow_the_forget_set_up_to_half_of_the_test_set():
    split = make_split(1000, 200, 0.05, seed=0)
    assert [len(getattr(split, name)) for name in SETS] == [50, 950, 100, 0, 100, 0]
    assert len(make_split(1000, 800, 0.2, seed=0).nonmember) == 200
    assert len(make_split(1000, 800, [5], seed=0).nonmember) == 100
    assert len(make_split(1000, 60, 0.05, seed=0).nonmember) == 30
    assert len(make_split(1000, 0, 0.05, seed=0).nonmember) == 0
    held_out = make_split(1000, 200, 0.05, seed=0, nonmember_from="train")
    assert [len(getattr(held_out, name)) for name in SETS] == [50, 900, 50, 0, 200, 0]


def test_sizes_may_be_counts_or_shares_of_the_set_they_come_from():
    split = make_split(1000, 200, 0.05, seed=0, nonmember=0.1, shadow=0.25)
    assert (len(split.nonmember), len(split.shadow)) == (20, 250)
    split = make_split(1000, 200, 0.05, seed=0, nonmember=7, shadow=9, shadow_from="test")
    assert (len(split.nonmember), len(split.shadow), len(split.test)) == (7, 9, 184)


def test_larger_sets_contain_smaller_ones_and_seeds_differ():
    small = make_split(500, 200, 0.05, seed=4, nonmember=20, shadow=50)
    large = make_split(500, 200, 0.05, seed=4, nonmember=40, shadow=90)
    assert np.isin(small.nonmember, large.nonmember).all()
    assert np.isin(small.shadow, large.shadow).all()
    other = make_split(500, 200, 0.05, seed=5, nonmember=20, shadow=50)
    for name in ("forget", "nonmember", "shadow"):
        assert not np.array_equal(getattr(small, name), getattr(other, name))


def test_purposes_do_not_share_randomness():
    split = make_split(
        200, 200, [0], seed=0, nonmember=50, nonmember_from="train", shadow=50, shadow_from="test"
    )
    # Drawn independently, 50 and 50 of 200 have 12.5 in common on average; from one stream they would be the
    # same.
    assert len(np.intersect1d(split.nonmember, split.shadow)) < 30


def test_a_class_may_vanish_from_the_retain_set():
    targets = np.arange(100) % 4
    split = make_split(100, 20, Classes(2), SelectionData(100, targets=targets), seed=0)
    assert (targets[split.forget] == 2).all()
    assert (targets[split.retain] != 2).all()
    check_partition(split)


def test_what_is_printed_of_a_split_gives_no_hash_to_guess_from():
    split = make_split(10, 0, [7, 1], seed=0)
    assert repr(split) == "Split(forget=2, retain=8, nonmember=0, shadow=0, test=0, previous=0, seed=0)"


def test_reference_subset():
    split = make_split(1000, 200, 0.05, seed=3)
    drawn = split.draw_reference(0.1)
    assert len(drawn) == len(np.unique(drawn)) == 95
    assert np.isin(drawn, split.retain).all()
    assert (np.diff(drawn) > 0).all()
    assert np.array_equal(drawn, split.draw_reference(95))
    assert np.array_equal(drawn, split.draw_reference(95, seed=3))
    assert not np.array_equal(drawn, split.draw_reference(95, seed=4))
    assert np.array_equal(split.draw_reference(950), split.retain)
    for size in (0, 951, -1, 1.5, 0.0, True):
        with pytest.raises(ValueError, match="size"):
            split.draw_reference(size)


def test_shadow_halves():
    split = make_split(1000, 200, 0.05, seed=3, shadow=101)
    inside, outside = split.shadow_in_out(0)
    assert (len(inside), len(outside)) == (50, 51)
    assert np.array_equal(np.sort(np.concatenate([inside, outside])), split.shadow)
    assert np.array_equal(inside, split.shadow_in_out(0)[0])
    assert not np.array_equal(inside, split.shadow_in_out(1)[0])
    counts = sum(np.isin(split.shadow, split.shadow_in_out(index)[0]).astype(int) for index in range(400))
    # Each sample is inside 198 times of 400, with a standard deviation of 10.
    assert np.abs(counts - 198).max() < 50
    with pytest.raises(ValueError, match="index"):
        split.shadow_in_out(-1)
    with pytest.raises(ValueError, match="cannot be halved"):
        make_split(100, 20, 0.05, seed=0, shadow=1).shadow_in_out(0)


# ---------------------------------------------------------------- one request after another


def test_a_second_request_never_puts_forgotten_samples_back():
    first = make_split(500, 100, 0.1, seed=0, shadow=60)
    second = make_split(500, 100, 0.1, seed=1, shadow=60, previous=[first])
    third = make_split(500, 100, [int(second.retain[0])], seed=2, shadow=60, nonmember=10, previous=[second])
    listed = make_split(
        500, 100, [int(second.retain[0])], seed=2, shadow=60, nonmember=10, previous=[first, second]
    )
    for split in (second, third):
        check_partition(split)
        assert np.isin(first.forget, split.previous).all()
    assert np.array_equal(third.previous, np.union1d(first.forget, second.forget))
    assert listed.same_as(third)
    # What the source never saw stays out of training, and keeps its role.
    assert np.array_equal(second.shadow, first.shadow)
    assert np.array_equal(third.shadow, first.shadow)
    assert np.isin(second.members, first.retain).all()


def test_train_nonmembers_are_kept_by_a_second_request():
    first = make_split(500, 100, 0.1, seed=0, nonmember_from="train", nonmember=30)
    second = make_split(500, 100, 0.2, seed=1, nonmember_from="train", previous=[first])
    assert np.array_equal(first.nonmember, second.nonmember)
    with pytest.raises(ValueError, match="nonmember must keep the 30 training samples"):
        make_split(500, 100, 0.2, seed=1, nonmember_from="train", nonmember=31, previous=[first])
    with pytest.raises(ValueError, match="nonmember must keep the 30 training samples"):
        make_split(500, 100, 0.2, seed=1, nonmember=30, previous=[first])


def test_shares_mean_the_same_number_in_a_second_request():
    first = make_split(500, 100, 0.1, seed=0, shadow=0.2)
    second = make_split(500, 100, 0.1, seed=0, shadow=0.2, previous=[first])
    assert np.array_equal(first.shadow, second.shadow)
    with pytest.raises(ValueError, match="shadow must keep the 100 training samples"):
        make_split(500, 100, 0.1, seed=0, previous=[first])


def test_forgetting_twice_is_refused():
    first = make_split(100, 20, [4, 8], seed=0)
    with pytest.raises(ValueError, match=r"cannot be forgotten again.*: 8"):
        make_split(100, 20, [8, 9], seed=0, previous=[first])


# ---------------------------------------------------------------- files


def test_save_and_load(tmp_path):
    first = make_split(1000, 200, [5, 6], seed=0)
    split = make_split(1000, 200, 0.05, seed=2**40, shadow=31, nonmember_from="train", previous=[first])
    path = tmp_path / "runs" / "split.npz"
    split.save(path)
    first_file = path.stat().st_ino
    split.save(path)
    assert path.stat().st_ino != first_file  # replaced by a finished file, not written over
    loaded = Split.load(path)
    assert loaded.same_as(split)
    assert (loaded.nonmember_from, loaded.shadow_from, loaded.seed) == ("train", "train", 2**40)
    assert isinstance(loaded.seed, int)
    assert [file.name for file in path.parent.iterdir()] == ["split.npz"]
    assert not loaded.same_as(make_split(1000, 200, 0.05, seed=1))


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    split = make_split(100, 20, 0.05, seed=0)
    path = tmp_path / "split.npz"
    split.save(path)
    before = path.read_bytes()

    def fail(file, **content):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        make_split(100, 20, 0.05, seed=1).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["split.npz"]


def npz(**content) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    return buffer.getvalue()


def saved(tmp_path, **changes) -> bytes:
    make_split(100, 20, 0.05, seed=0).save(tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as archive:
        return npz(**({name: archive[name] for name in archive.files} | changes))


class Exploit:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder / "executed"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda p: saved(p)[:-30], "truncated"),
        (lambda p: saved(p)[: len(saved(p)) // 2], "truncated"),
        (lambda p: b"", "truncated"),
        (lambda p: b"not a split", "truncated"),
        (lambda p: pickle.dumps(Exploit(p)), "truncated"),
        (lambda p: npz(forget=np.array([Exploit(p)], dtype=object)), "truncated"),
        (lambda p: npz(x=np.arange(3)), "not a saved split"),
        (lambda p: saved(p, version=np.asarray(99)), "format version 99"),
        (lambda p: saved(p, forget=np.array([3, 1])), "damaged split: forget must be sorted"),
        (lambda p: saved(p, forget=np.array([1.5])), "damaged split: forget must be a 1-D int64"),
        (lambda p: saved(p, test=np.array([99])), "damaged split: test must hold positions"),
        (lambda p: saved(p, previous=np.array([0])), "damaged split: previous overlaps"),
        (lambda p: saved(p, undrawn=np.array([0])), "damaged split: undrawn overlaps"),
        (lambda p: saved(p, retain=np.array([0])), "damaged split"),
        (lambda p: saved(p, nonmember_from=np.asarray("moon")), "damaged split: nonmember_from"),
    ],
)
def test_unusable_files_are_refused_and_nothing_in_them_is_run(tmp_path, content, message):
    path = tmp_path / "split.npz"
    path.write_bytes(content(tmp_path))
    with pytest.raises(ValueError, match=message):
        Split.load(path)
    assert not (tmp_path / "executed").exists()


def test_an_array_file_and_a_missing_file_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match="cannot be read as a saved split"):
        Split.load(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match="no saved split at"):
        Split.load(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        make_split(100, 20, 0.05, seed=0).save(tmp_path / "split")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": []}, "the forget set is empty"),
        ({"rule": list(range(50))}, "whole training set"),
        ({"rule": [1, 50]}, "out of range: 50"),
        ({"rule": list(range(40)), "shadow": 10}, "the retain set is empty"),
        (
            {"rule": list(range(40)), "shadow": 11},
            "shadow asks for 11 of the 10 samples left of the train set",
        ),
        ({"nonmember": 20}, "no test samples are left"),
        ({"nonmember": 10, "shadow": 10, "shadow_from": "test"}, "no test samples are left"),
        ({"nonmember": 21}, r"nonmember must lie in \[0, 20\]"),
        ({"nonmember": -1}, r"nonmember must lie in \[0, 20\]"),
        ({"nonmember": 1.5}, "nonmember must lie in \\(0, 1\\)"),
        ({"nonmember": True}, "nonmember must be a number"),
        ({"shadow": float("nan")}, "shadow must lie in \\(0, 1\\)"),
        ({"nonmember_from": "moon"}, "nonmember_from must be"),
        ({"shadow_from": None}, "shadow_from must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 0.5}, "seed must be"),
        ({"train_size": 1}, "train_size must be at least 2"),
        ({"test_size": -1}, "test_size must be at least 0"),
        ({"data": SelectionData(49)}, "data describe 49 samples"),
        (
            {"previous": [make_split(40, 20, [0], seed=0)]},
            "split of 40 training samples.*Rows that were forgotten must stay",
        ),
    ],
)
def test_bad_arguments_are_refused(options, message):
    arguments = {"train_size": 50, "test_size": 20, "rule": [3], "seed": 0} | options
    with pytest.raises((ValueError, TypeError), match=message):
        make_split(**arguments)


def test_ten_million_samples_are_split_quickly():
    start = time.process_time()
    split = make_split(10_000_000, 1_000_000, 0.01, seed=0, shadow=0.1)
    assert time.process_time() - start < 5
    assert len(split.retain) == 8_900_000


def test_ids_by_attribute_go_through_make_split():
    data = SelectionData(4, attributes={"user": ["a", "b", "a", "c"]})
    assert make_split(4, 0, Ids(["a"], column="user"), data, seed=0).forget.tolist() == [0, 2]
