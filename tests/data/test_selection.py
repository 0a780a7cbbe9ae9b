"""Forget rules: what they choose, against brute force and closed forms, and what they refuse."""

import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_unlearn.data.groups import as_keys, share_known
from lightning_unlearn.data.selection import (
    Classes,
    ForgetRule,
    Groups,
    Ids,
    RandomFraction,
    SelectionData,
    as_rule,
    select,
    stratified_draw,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def selection(n: int = 100, seed: int = 0, **options) -> SelectionData:
    return SelectionData(n, rng=rng(seed), **options)


# ---------------------------------------------------------------- SelectionData


def test_columns_are_fetched_once_and_only_when_asked():
    calls = []

    def column(name):
        calls.append(name)
        if name != "age":
            raise KeyError(name)
        return torch.arange(4)

    data = SelectionData(
        4, targets=lambda: calls.append("targets") or [0, 1, 0, 1], attributes=column, attribute_names=["age"]
    )
    assert calls == []
    assert data.attribute("age").tolist() == data.attribute("age").tolist() == [0, 1, 2, 3]
    assert data.targets.tolist() == data.targets.tolist() == [0, 1, 0, 1]
    assert calls == ["age", "targets"]
    with pytest.raises(ValueError, match=r"no attribute 'identity'; they offer: 'age'"):
        data.attribute("identity")


def test_missing_and_malformed_columns_are_named():
    with pytest.raises(ValueError, match="they offer: none"):
        SelectionData(3).attribute("id")
    with pytest.raises(ValueError, match=r"attribute 'id' must have one value for each of the 3 samples"):
        SelectionData(3, attributes={"id": [1, 2]}).attribute("id")
    with pytest.raises(ValueError, match=r"targets must have one value for each of the 3 samples"):
        _ = SelectionData(3, targets=[1, 2]).targets
    with pytest.raises(ValueError, match="class indices"):
        _ = SelectionData(2, targets=[0.5, 1.0]).targets
    assert SelectionData(3, targets=lambda: None).targets is None


# ---------------------------------------------------------------- fractions


@pytest.mark.parametrize(("fraction", "size"), [(0.1, 10), (0.001, 1), (0.995, 99), (0.25, 25)])
def test_random_fraction_has_the_size_and_depends_on_the_seed(fraction, size):
    chosen = select(RandomFraction(fraction), selection())
    assert len(chosen) == size
    assert chosen.dtype == np.int64
    assert np.array_equal(chosen, select(RandomFraction(fraction), selection()))
    assert not np.array_equal(chosen, select(RandomFraction(fraction), selection(seed=1)))


@pytest.mark.parametrize("stratified", [False, True])
def test_random_fraction_gives_every_sample_the_same_chance(stratified):
    targets = np.repeat([0, 1, 2], [10, 20, 10])
    counts = np.zeros(40)
    for seed in range(2000):
        counts[select(RandomFraction(0.1, stratified), selection(40, seed, targets=targets))] += 1
    # Each sample is chosen 200 times on average, with a standard deviation below sqrt(2000 · 0.1 · 0.9) =
    # 13.4.
    assert np.abs(counts - 200).max() < 5 * 13.4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 100))
def test_stratified_draw_gives_each_class_its_share_to_within_one(targets, share, seed):
    classes = np.asarray(targets) * 100_000  # beyond 16 bits as soon as there are two classes
    size = round(share * len(classes))
    drawn = stratified_draw(classes, size, rng(seed))
    assert len(np.unique(drawn)) == len(drawn) == size
    for label in np.unique(classes):
        exact = (classes == label).sum() * size / len(classes)
        assert abs((classes[drawn] == label).sum() - exact) < 1 + 1e-9


def test_stratified_fraction_needs_targets():
    with pytest.raises(ValueError, match="stratified=True needs targets"):
        select(RandomFraction(0.1, stratified=True), selection())


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fractions_outside_the_open_interval_are_refused(fraction):
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        RandomFraction(fraction)
    with pytest.raises(ValueError, match="forget must lie in"):
        as_rule(fraction)


# ---------------------------------------------------------------- classes


def test_classes_finds_every_sample_of_them():
    targets = rng(3).integers(0, 5, 200)
    chosen = select(Classes([1, 4]), selection(200, targets=targets))
    assert chosen.tolist() == [i for i, target in enumerate(targets) if target in (1, 4)]
    assert select(Classes(2), selection(200, targets=targets)).tolist() == [
        i for i, target in enumerate(targets) if target == 2
    ]


@pytest.mark.parametrize("classes", [[], [1, 1], [[1]], "3", 1.5, [0.5]])
def test_malformed_classes_are_refused(classes):
    with pytest.raises(ValueError, match="classes must"):
        Classes(classes)


def test_absent_classes_and_missing_targets_are_refused():
    with pytest.raises(ValueError, match=r"classes 7 have no samples .* classes present are 0, 1"):
        select(Classes([1, 7]), selection(4, targets=[0, 1, 0, 1]))
    with pytest.raises(ValueError, match="needs targets"):
        select(Classes(1), selection())


# ---------------------------------------------------------------- ids


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", "7\n3\n\n12\n"),
        ("ids.txt", "\ufeff7\r\n3\r\n12"),
        ("ids.json", "[7, 3, 12]"),
        ("ids.csv", "7\n3\n12\n"),
        ("ids.csv", "position\n7\n3\n12\n"),
        ("ids.csv", "\ufeffid,name\n7,ann\n3,bob\n12,eve\n"),
        ("ids.CSV", 'name;"Position"\n"ann; old";7\nbob;3\neve;"12"\n'),
        ("ids.csv", ",index\r\n0,7\r\n1,3\r\n2,12\r\n"),
        ("ids.csv", "id,why\n7,moved\n,\n\n3,\n12,left\n , \n"),
        ("ids.csv", "sep=;\r\nid;amount\r\n7;1,5\r\n3;2,25\r\n12;0,1\r\n"),
        ("ids.csv", "amount, EUR;id\n1,5;7\n2,25;3\n0,1;12\n"),
        ("ids.csv", "sep=,\n7\n3\n12\n"),
        ("ids.csv", "\n7\n3\n12\n"),
    ],
)
def test_files_of_positions(tmp_path, name, text):
    assert select(Ids(write(tmp_path / name, text)), selection()).tolist() == [3, 7, 12]
    assert select(as_rule(str(tmp_path / name)), selection()).tolist() == [3, 7, 12]


@pytest.mark.parametrize(
    "ids",
    [[7, 3, 12], (7, 3, 12), np.array([7, 3, 12], dtype=np.int32), torch.tensor([7, 3, 12]), range(3, 6)],
)
def test_sequences_of_positions(ids):
    assert select(as_rule(ids), selection()).tolist() == sorted(int(i) for i in ids)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("who.csv", "user,why\nu 02,moved\nu10,left\n"),
        ("who.csv", "u 02\nu10\n"),
        ("who.csv", "sep=;\nwhy;user\nmoved, far;u 02\n;u10\n"),
        ("who.txt", "u 02\n\n u10\n"),
        ("who.json", '["u10", "u 02"]'),
    ],
)
def test_files_of_attribute_values(tmp_path, name, text):
    users = np.array(["u10", "u1", "u 02", "u10", "u2", "u 02"], dtype=object)
    rule = Ids(write(tmp_path / name, text), column="user")
    assert select(rule, selection(6, attributes={"user": users})).tolist() == [0, 2, 3, 5]


def test_integer_attribute_values(tmp_path):
    identity = np.array([900, 5, 17, 900, 5, 3])
    data = selection(6, attributes={"identity": identity})
    assert select(Ids([900, 3], column="identity"), data).tolist() == [0, 3, 5]
    path = write(tmp_path / "who.csv", "date,identity\n2024-01-01,900\n2024-01-02,3\n")
    assert select(Ids(path, column="identity"), data).tolist() == [0, 3, 5]
    path = write(tmp_path / "another.csv", "age\n900\n3\n")
    with pytest.raises(
        ValueError, match=r"begins with 'age', which is neither an integer nor a header 'identity'"
    ):
        select(Ids(path, column="identity"), data)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("who.csv", "customer\n900.0\n3.\n"),
        ("who.csv", "900.0\n3.0\n"),
        ("who.csv", "why,Customer\nmoved,900\nleft,3\n"),
        ("who.txt", "900.0\n3\n"),
        ("who.json", "[900.0, 3]"),
        ("who.json", '[{"customer": 900, "why": "moved"}, {"customer": 3}]'),
        ("who.json", '[{"Customer": 900}, {"Customer": 3}]'),
    ],
)
@pytest.mark.parametrize("kind", [np.int32, np.float64])
def test_integers_of_a_column_as_tables_write_them(tmp_path, name, text, kind):
    data = selection(5, attributes={"customer": np.array([900, 5, 17, 900, 3], dtype=kind)})
    assert select(Ids(write(tmp_path / name, text), column="customer"), data).tolist() == [0, 3, 4]


@pytest.mark.parametrize("text", ["customer\nabc\n", "customer\n4.5\n", "abc\n"])
def test_the_message_says_what_a_columns_values_are(tmp_path, text):
    data = selection(3, attributes={"customer": [900, 5, 17]})
    path = write(tmp_path / "who.csv", text)
    for ids in (path, ["abc"], [4.5]):
        with pytest.raises(ValueError, match=r"values of 'customer' in the training data are integers$"):
            select(Ids(ids, column="customer"), data)


def test_a_value_may_be_listed_twice_and_a_position_may_not(tmp_path):
    data = selection(3, attributes={"customer": [900, 5, 900]})
    with pytest.warns(UserWarning, match="1 ids are repeated: 900; each counts once"):
        assert select(Ids(write(tmp_path / "who.txt", "900\n900"), column="customer"), data).tolist() == [
            0,
            2,
        ]
    with pytest.raises(ValueError, match="1 ids are repeated: 2"):
        select(Ids([2, 2]), data)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=40), st.integers(0, 1000))
def test_attribute_values_against_brute_force(values, seed):
    column = np.asarray(values)
    wanted = rng(seed).permutation(np.unique(column))[: max(1, len(np.unique(column)) // 2)]
    expected = [i for i, value in enumerate(values) if value in set(wanted.tolist())]
    data = selection(len(column), attributes={"id": column, "name": column.astype(str)})
    assert Ids(wanted, column="id")(data).tolist() == expected
    assert Ids([str(value) for value in wanted], column="name")(data).tolist() == expected


def test_a_person_in_part_excluded_is_forgotten_in_the_rest_and_one_wholly_excluded_is_refused():
    user = np.array(["a", "b", "a", "b", "c", "a"])
    data = selection(6, attributes={"user": user}, excluded=[0, 1, 3])
    assert select(Ids(["a"], column="user"), data).tolist() == [2, 5]
    with pytest.raises(ValueError, match=r"2 samples that cannot be forgotten again.*1, 3"):
        select(Ids(["a", "b"], column="user"), data)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ids.txt", "3\n100\n-1\n", r"ids\.txt: 2 ids are out of range: 100, -1.*0 to 99"),
        ("ids.txt", "3\n4\n3\n", r"ids\.txt: 1 ids are repeated: 3"),
        ("ids.txt", "3\n4.5\n", r"ids\.txt could not be read as integer ids.*4\.5"),
        ("ids.txt", "3\nann\n", r"ids\.txt could not be read as integer ids.*ann"),
        ("ids.txt", "3 4\n5 6\n", r"has 2 values in a line"),
        ("ids.txt", "99999999999999999999\n", "could not be read as integer ids"),
        ("ids.txt", "", r"ids file .*ids\.txt: the forget set is empty"),
        ("ids.csv", "id\n", r"ids file .*ids\.csv: the forget set is empty"),
        ("ids.json", '[{"customer": 3}]', r"records with the keys \['customer'\].*'id' or .*--column"),
        ("ids.csv", "3,100\n4,2\n", r"2 columns.*'3', '100'.*not clear which"),
        ("ids.csv", "user,age\nann,3\n", r"'user', 'age'.*not clear which"),
        ("ids.csv", "id,position\n1,3\n", "not clear which"),
        ("ids.csv", "id,why\n3,moved\n4\n", "line 3 has 1 cells, the first line 2"),
        ("ids.csv", "id,why\n3,moved\n,left\n", r"ids\.csv: line 3 has no id"),
        ("ids.json", "[5, null]", r"1 of 2 ids are empty, the first is number 2"),
        ("ids.csv", "customer\n3\n4\n", r"begins with 'customer'.*--column"),
        ("ids.csv", "customer_id\n3\n4\n", r"begins with 'customer_id'.*--column"),
        ("ids.csv", "3.0\n4.0\n", r"begins with '3\.0', which is neither an integer nor a header"),
        ("ids.csv", "3;1,5\n4;2,5\n", r"2 columns.*not clear which.*--column"),
        ("ids.csv", "sep=;\ncustomer;age\n3;4\n", r"2 columns.*'customer', 'age'.*not clear which"),
        ("ids.json", "[5, 2, true]", "1 values that are true or false, which name no sample"),
        ("ids.json", '{"ids": [1]}', "one list of ids, got a JSON dict"),
        ("ids.json", "[1, 2", "not valid JSON"),
        ("ids.json", "[1, 2.5]", "must be integers, got float64"),
        ("ids.json", '["ann"]', "name it in `column`"),
        ("ids.json", "[[1], [2]]", "flat list"),
        ("ids.json", "[true, false]", "boolean mask"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        select(Ids(write(tmp_path / name, text)), selection())


def test_unknown_values_unknown_columns_and_unusable_paths_are_refused(tmp_path):
    data = selection(3, attributes={"user": ["a", "b", "c"]})
    with pytest.raises(
        ValueError,
        match=r"2 ids do not occur in attribute 'user'.*'x', 'z'. Its values are text of 1 characters",
    ):
        select(Ids(["z", "a", "x"], column="user"), data)
    with pytest.raises(ValueError, match=r"no attribute 'email'; they offer: 'user'"):
        select(Ids(["a"], column="email"), data)
    with pytest.raises(FileNotFoundError, match=r"no such file .*absent\.csv"):
        as_rule(tmp_path / "absent.csv")
    for text in (
        "everything",
        "3",
        "class:x",
        "class:3,",
        "group:identity",
        "group:=0.1",
        "group:a=2",
        "-0.1",
    ):
        with pytest.raises(ValueError, match=r"none of class:3, .* \(\.csv, \.json, \.txt\)"):
            as_rule(text)
    with pytest.raises(ValueError, match=r"1\.5"):
        as_rule("1.5")
    with pytest.raises(ValueError, match=r"np\.flatnonzero"):
        select(as_rule(np.array([True, False, True])), data)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("who.csv", "user,why\nann,moved\n,left\n", r"who\.csv: line 3 has no id; fill in the id or remove"),
        ("who.csv", "sep=;\nwhy;user\n\nmoved;ann\nleft; \n", r"who\.csv: line 5 has no id"),
        ("who.json", '["ann", null]', r"who\.json: 1 of 2 ids are empty, the first is number 2"),
        ("who.json", '[{"user": ""}, {"user": "ann"}]', r"1 of 2 ids are empty, the first is number 1"),
    ],
)
def test_an_empty_id_names_nobody_in_a_file(tmp_path, name, text, message):
    data = selection(6, attributes={"user": np.array(["ann", "", "bob", None, "eve", ""], dtype=object)})
    with pytest.raises(ValueError, match=message):
        select(Ids(write(tmp_path / name, text), column="user"), data)


@pytest.mark.parametrize(
    "ids", [["ann", ""], ["ann", " "], ["ann", None], ["ann", float("nan")], np.array(["ann", ""])]
)
def test_an_empty_id_names_nobody_in_a_list(ids):
    data = selection(4, attributes={"user": np.array(["ann", "", "bob", None], dtype=object)})
    with pytest.raises(ValueError, match="1 of 2 ids are empty, the first is number 2"):
        select(Ids(ids, column="user"), data)


@pytest.mark.parametrize("ids", [7, 7.0, True, np.int64(7), torch.tensor(7), {7}])
@pytest.mark.parametrize("column", [None, "user"])
def test_a_scalar_is_no_list_of_ids(ids, column):
    data = selection(4, attributes={"user": [7, 8, 9, 10]})
    with pytest.raises(ValueError, match=r"ids must be a list, got .*(7|True).*; put one id into brackets"):
        select(Ids(ids, column=column), data)


def test_a_column_with_gaps_is_of_whole_numbers_and_a_gap_is_nobody():
    data = selection(4, attributes={"user": np.array([1003.0, np.nan, 7.0, 0.0])})
    assert select(Ids([1003], "user"), data).tolist() == [0]
    assert select(Ids([0, 7], "user"), data).tolist() == [2, 3]
    texts = selection(4, attributes={"user": np.array(["None", None, float("nan"), "nan"], dtype=object)})
    assert select(Ids(["None", "nan"], "user"), texts).tolist() == [0, 3]
    halves = selection(3, attributes={"user": np.array([0.5, np.nan, 7.0])})
    assert select(Ids(["0.5"], "user"), halves).tolist() == [0]


def test_groups_compare_whole_numbers_and_leave_gaps_out():
    keys = as_keys(np.array([1003.0, np.nan, 7.0]), np.array([7, 1003]))
    assert [key.tolist() for key in keys] == [[1003, 7], [7, 1003]]
    gaps = np.array(["", None, "", "ann", "ann"], dtype=object)
    assert share_known(gaps, np.array(["", "ann"])) == 0.5


def test_a_million_ids_are_read(tmp_path):
    ids = rng().permutation(2_000_000)[:1_000_000]
    np.savetxt(tmp_path / "ids.csv", ids, fmt="%d", header="id", comments="")
    (tmp_path / "ids.json").write_text(json.dumps(ids.tolist()))
    for name in ("ids.csv", "ids.json"):
        chosen = select(Ids(tmp_path / name), selection(2_000_000))
        assert np.array_equal(chosen, np.sort(ids))


# ---------------------------------------------------------------- groups


def test_groups_are_taken_whole():
    users = rng(1).choice(np.array([f"u{i}" for i in range(50)]), 1000)
    chosen = select(Groups("user", 0.1), selection(1000, attributes={"user": users}))
    inside, outside = set(users[chosen]), set(np.delete(users, chosen))
    assert len(inside) == 5
    assert not inside & outside


def test_at_least_one_group_is_taken():
    data = selection(6, attributes={"user": list("aabbcc")})
    assert len(select(Groups("user", 0.01), data)) == 2
    assert len(select(Groups("user", 0.99), data)) == 4  # and at least one is left


def test_skewed_draw_follows_the_stated_probabilities():
    # Two of four groups, drawn one after another without replacement; each pair's probability is written out.
    ages = np.array([10.0, 20.0, 40.0, 50.0])
    user, age = np.repeat(np.arange(4), [1, 2, 3, 1]), np.repeat(ages, [1, 2, 3, 1])
    weights = np.exp(-0.7 * (ages - ages.mean()) / ages.std())
    p = weights / weights.sum()
    pairs = list(itertools.combinations(range(4), 2))
    expected = np.array([p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b]) for a, b in pairs])
    counts = dict.fromkeys(pairs, 0)
    draws = 4000
    source = rng(5)
    rule = Groups("user", 0.5, skew_by="age", skew=0.7)
    for _ in range(draws):
        data = SelectionData(len(user), attributes={"user": user, "age": age}, rng=source)
        counts[tuple(np.unique(user[rule(data)]).tolist())] += 1
    observed = np.array([counts[pair] for pair in pairs])
    chi_squared = ((observed - draws * expected) ** 2 / (draws * expected)).sum()
    assert chi_squared < 20.5  # 99.9% quantile for five degrees of freedom


def test_skew_reverses_with_its_sign_and_is_void_for_equal_groups():
    n = 2000
    identity, age = np.arange(n) // 4, rng(2).uniform(10, 80, n // 4).repeat(4)
    columns = {"identity": identity, "age": age, "flat": np.ones(n)}
    young = select(Groups("identity", 0.1, "age", 2.0), selection(n, attributes=columns))
    old = select(Groups("identity", 0.1, "age", -2.0), selection(n, attributes=columns))
    assert age[young].mean() < 30 < 60 < age[old].mean()
    plain = select(Groups("identity", 0.1), selection(n, attributes=columns))
    flat = select(Groups("identity", 0.1, "flat", 2.0), selection(n, attributes=columns))
    assert np.array_equal(plain, flat)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Groups("user", 1.0), "fraction must lie in"),
        (lambda: Groups("user", 0.1, skew=1.0), "needs skew_by"),
        (lambda: Groups("user", 0.1, "age", float("inf")), "finite"),
        (lambda: select(Groups("who", 0.1), selection(2, attributes={"user": [1, 2]})), "no attribute 'who'"),
        (
            lambda: select(Groups("u", 0.1, "u", 1.0), selection(2, attributes={"u": ["a", "b"]})),
            "skew_by='u' must be a numeric attribute",
        ),
        (
            lambda: select(
                Groups("u", 0.1, "v", 1.0), selection(2, attributes={"u": [1, 2], "v": [1, np.nan]})
            ),
            "without missing values",
        ),
    ],
)
def test_bad_groups_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- functions and rules of one's own


@pytest.mark.parametrize(
    "function",
    [
        lambda data: data.targets == 1,
        lambda data: torch.as_tensor(data.targets == 1),
        lambda data: [3, 1],
        lambda data: torch.tensor([1, 3]),
    ],
)
def test_functions_may_return_positions_or_a_mask(function):
    assert select(as_rule(function), selection(5, targets=[0, 1, 0, 1, 2])).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda data: np.ones(3, dtype=bool), r"bool of shape \(3,\).*mask"),
        (lambda data: [0.5], "positions to forget"),
        (lambda data: [[1]], "positions to forget"),
        (lambda data: None, "positions to forget"),
        (lambda data: [], "empty"),
        (lambda data: np.zeros(5, dtype=bool), "empty"),
        (lambda data: np.ones(5, dtype=bool), "whole training set"),
        (lambda data: [1, 5], "outside the training set: 5"),
        (lambda data: [-1, 1], "outside the training set: -1"),
        (lambda data: [2, 1, 2], "more than once: 2"),
    ],
)
def test_what_a_function_returns_is_checked(function, message):
    with pytest.raises(ValueError, match=message):
        select(as_rule(function), selection(5))


def test_a_rule_of_ones_own():
    class FirstHalf(ForgetRule):
        def __call__(self, data):
            return np.arange(data.n // 2)

    rule = FirstHalf()
    assert as_rule(rule) is rule
    assert select(rule, selection(10)).tolist() == [0, 1, 2, 3, 4]

    class Wrong(ForgetRule):
        def __call__(self, data):
            return np.zeros((2, 2))

    with pytest.raises(ValueError, match=r"Wrong returned float64 of shape \(2, 2\)"):
        select(Wrong(), selection(10))


@pytest.mark.parametrize("forget", [3, np.int64(3), 3.0, True])
def test_a_bare_integer_is_refused_with_both_ways_to_write_it(forget):
    with pytest.raises(TypeError, match=r"Classes\(\d\).*\[\d\]"):
        as_rule(forget)


@pytest.mark.parametrize("forget", [None, {"a": 1}])
def test_other_types_are_refused(forget):
    with pytest.raises(TypeError, match="forget must be a fraction"):
        as_rule(forget)


def test_a_files_entry_with_a_wrong_argument_says_what_the_rule_takes():
    entry = {"class_path": "lightning_unlearn.Ids", "init_args": {"ids": "a.csv", "colum": "customer"}}
    with pytest.raises(
        TypeError, match=r"Ids has no argument 'colum'; did you mean column\? \(it takes ids, column, "
    ):
        as_rule(entry)
    with pytest.raises(ValueError, match="got None; give Ids its ids"):
        select(Ids(None, column="customer"), selection(2, attributes={"customer": [1, 2]}))


# ---------------------------------------------------------------- exclusion and size


@pytest.mark.parametrize(
    "rule",
    [
        RandomFraction(0.3),
        RandomFraction(0.3, stratified=True),
        Classes([0, 1]),
        Groups("user", 0.5),
        Groups("user", 0.5, "age", 1.0),
    ],
)
def test_no_rule_chooses_excluded_samples(rule):
    columns = {"user": np.arange(200) // 5, "age": np.arange(200.0)}
    excluded = rng(9).permutation(200)[:120]
    for seed in range(20):
        data = SelectionData(
            200, targets=np.arange(200) % 3, attributes=columns, rng=rng(seed), excluded=excluded
        )
        chosen = select(rule, data)
        assert not np.isin(chosen, excluded).any()
    with pytest.raises(ValueError, match="cannot be forgotten again"):
        select(Ids([int(excluded[0]), int(chosen[0])]), data)
    with pytest.raises(ValueError, match="whole training set"):
        select(Ids(data.available), data)


@pytest.mark.parametrize("rule", [RandomFraction(0.3), RandomFraction(0.01, stratified=True), Classes(3)])
def test_ten_million_samples_are_chosen_from_in_little_memory(rule):
    n = 10_000_000
    targets = np.arange(n) % 100
    data = SelectionData(n, targets=targets, rng=rng())
    tracemalloc.start()
    chosen = select(rule, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(chosen) in (3_000_000, 100_000)
    assert peak < 400e6
