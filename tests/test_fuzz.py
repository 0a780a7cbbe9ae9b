"""Any deletion file and any argument: it works, or there is one clear message; nothing is left half written."""

import json
import re
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doc_tables import parameters_of
from helpers.support import METHODS, settings_of
from helpers.toys import TRAIN, quiet_trainer, toy_data, toy_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_unlearn.cli.main import main
from lightning_unlearn.core.ledger import verify
from lightning_unlearn.data import Classes, Groups, Ids, RandomFraction, Split
from lightning_unlearn.methods import UnlearningModule

QUICK = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
EXPECTED = (ValueError, TypeError, OSError, FloatingPointError)


def require_clear(error: BaseException) -> None:
    """Assert that an error is a message to a user, raised by this package and not from deep inside another."""
    message = str(error)
    assert 15 < len(message) < 1500, message
    assert message.strip() == message
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    assert "/lightning_unlearn/" in frames[-1].replace("\\", "/"), f"raised in {frames[-1]}: {message}"


# ---------------------------------------------------------------- deletion files

numbers = st.one_of(
    st.integers(0, TRAIN - 1),
    st.integers(0, TRAIN - 1),  # mostly sensible, so that some files are
    st.integers(-5, TRAIN + 5),
    st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400]),
)
ODD_CELLS = [
    "",
    " ",
    "id",
    "ID",
    "index",
    "name",
    "1.0",
    "3.5",
    "1e3",
    "nan",
    "inf",
    "-0",
    "+3",
    " 7 ",
    "٣",
    "1_0",
    "0x1f",
    "#4",
    "true",
    "null",
    '"5"',
    "'5'",
    '"5',
    "5;6",
    "5,6",
    "é",
    "人",
    "a b",
    "=1+1",
]
words = st.one_of(
    numbers.map(str),
    st.sampled_from([*ODD_CELLS, "5\t6", "\x00", "\u2028", "\ufeff"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
endings = st.sampled_from(["\n", "\r\n", "\r"])
boms = st.sampled_from([b"", b"", b"\xef\xbb\xbf"])


@st.composite
def id_texts(draw: st.DrawFn) -> bytes:
    """A list of ids, one a line, with what spreadsheets and people do to such files."""
    sound = draw(st.booleans())
    cells = draw(st.lists(numbers.map(str) if sound else words, max_size=8, unique=sound))
    header = draw(st.sampled_from([[], [], ["id"], ["Position"], ["name,id"], ["who;id;age"]]))
    lines = [*header, *cells, *draw(st.sampled_from([[], [""], ["", ""]]))]
    text = draw(endings).join(lines) + draw(st.sampled_from(["", "\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"]))
    return draw(boms) + text.encode(encoding, errors="replace")


json_values = st.recursive(
    st.one_of(numbers, st.none(), st.booleans(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
id_jsons = st.one_of(
    st.lists(st.integers(0, TRAIN - 1), min_size=1, max_size=6, unique=True).map(json.dumps),
    json_values.map(json.dumps),
    st.sampled_from(["", "[", "[1,]", "[1] [2]", "NaN", "[" * 5000, '{"ids": [1]}', "[1, 1]", "\ufeff[2]"]),
).map(str.encode)


def outcome(folder: Path, forget: Any) -> str:
    """Split by a request, and check what is left: a whole split with exactly these samples, or none."""
    path = folder / "split.npz"
    path.unlink(missing_ok=True)
    data = toy_data(forget, split_path=path)
    try:
        data.setup("fit")
    except EXPECTED as error:
        require_clear(error)
        assert not path.exists()
        return str(error)
    finally:
        assert [file.name for file in folder.iterdir() if ".tmp" in file.name] == []
    split = Split.load(path)
    assert split.same_as(data.split)
    assert 0 < len(split.forget) < TRAIN
    return ""


@settings(QUICK, max_examples=250)
@given(content=id_texts(), kind=st.sampled_from(["csv", "txt"]))
def test_any_text_of_ids(content: bytes, kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"ids.{kind}"
    file.write_bytes(content)
    message = outcome(tmp_path, file)
    if not message:
        found = Split.load(tmp_path / "split.npz").forget.tolist()
        text = content.decode("utf-8-sig")
        cells = [cell.strip(' "') for line in re.split(r"[\r\n]", text) for cell in re.split(r"[,;\t]", line)]
        given_ids = sorted({int(cell) for cell in cells if re.fullmatch(r"[+-]?\d+", cell)})
        assert set(found) <= set(given_ids), "a sample is forgotten that no one named"


@settings(QUICK, max_examples=120)
@given(content=id_jsons)
def test_any_json_of_ids(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "ids.json"
    file.write_bytes(content)
    message = outcome(tmp_path, file)
    if not message:
        assert Split.load(tmp_path / "split.npz").forget.tolist() == sorted(
            json.loads(content.decode("utf-8-sig"))
        )


@settings(QUICK, max_examples=40)
@given(content=st.binary(max_size=200), kind=st.sampled_from(["csv", "txt", "json"]))
def test_any_bytes(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / f"ids.{kind}").write_bytes(content)
    outcome(tmp_path, tmp_path / f"ids.{kind}")


@settings(QUICK, max_examples=60)
@given(content=id_texts(), kind=st.sampled_from(["csv", "txt", "json"]))
def test_any_file_of_names_in_a_column(content: bytes, kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"ids.{kind}"
    file.write_bytes(content)
    people = [f"p{number % 20}" for number in range(TRAIN)]
    try:
        data = toy_data(Ids(file, column="who"), attributes={"who": people})
        data.setup("fit")
    except EXPECTED as error:
        require_clear(error)


# ---------------------------------------------------------------- arguments of the data

wild = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.floats(),
    st.sampled_from(
        [0.1, 0.5, "", "ids.csv", "x", [], [1, 2], [1.5], ["a"], [[1]], {}, {"a": 1}, (1,), b"x", object]
    ),
)


@settings(QUICK, max_examples=120)
@given(
    forget=st.one_of(wild, st.floats(0.01, 0.9)),
    changes=st.dictionaries(
        st.sampled_from(["nonmember", "shadow", "seed", "batch_size", "nonmember_from", "shadow_from", "previous"]), wild, max_size=2
    ),
)  # fmt: skip
def test_any_arguments_of_the_data(forget: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    try:
        data = toy_data(forget, **changes)
        data.setup("fit")
        next(iter(data.loader("forget", train=True)))
    except EXPECTED as error:
        require_clear(error)


@settings(QUICK, max_examples=100)
@given(kind=st.sampled_from([RandomFraction, Classes, Ids]), value=wild, other=wild)
def test_any_rule(kind: Any, value: Any, other: Any) -> None:
    try:
        toy_data(kind(value)).setup("fit")
    except EXPECTED as error:
        require_clear(error)
    try:
        rule = Groups("who", value, "age", other)
        toy_data(rule, attributes={"who": np.arange(TRAIN) % 9, "age": np.arange(TRAIN)}).setup("fit")
    except EXPECTED as error:
        require_clear(error)


# ---------------------------------------------------------------- arguments of the methods

# what each method declares of its own arguments
ranges = st.sampled_from(
    [
        (method, argument)
        for method in METHODS
        for argument in method.declared
        if argument in parameters_of(method)
    ]
)
values = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 5, 10**9, -0.5, 0.0, 1e-9, 0.3, 1.0, 1.5, 1e300, float("nan"), float("inf"), "x", "", True]),
    st.sampled_from([None, [], [1], {}, -float("inf")]),
)  # fmt: skip


@settings(QUICK, max_examples=120)
@given(place=ranges, value=values)
def test_any_argument_of_a_method(place: tuple[type[UnlearningModule], str], value: Any) -> None:
    kind, argument = place
    try:
        method = kind(toy_source(), **{**settings_of(kind, source=toy_source()), argument: value})
    except EXPECTED as error:
        require_clear(error)
        message = str(error)
        assert argument in message, f"{kind.__name__}({argument}={value!r}): {message}"
        return
    if isinstance(value, int | float) and abs(value) < 10:  # a billion epochs would work, in time
        trainer = quiet_trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=0)
        try:
            trainer.fit(method, toy_data(nonmember=10))
        except EXPECTED as error:
            require_clear(error)


# ---------------------------------------------------------------- the command

COMPARE = """
source: {model: {class_path: Classifier, init_args: {net: {class_path: lightning_unlearn.models.MLP, init_args: {in_features: 64, hidden: [4], num_classes: 10}}}}, trainer: {max_epochs: 1}}
data: {class_path: UnlearningDataModule, init_args: {datamodule: {class_path: Digits}, forget: 0.1}}
methods: []
trainer: {accelerator: cpu}
seeds: 1
quiet: true
"""  # fmt: skip
OPTIONS = """seeds vary threads trainer methods evaluators retrain adapter source data data.forget data.seed
data.split_path source.checkpoint config ledger clean"""
options = st.sampled_from([f"--{name}" for name in OPTIONS.split()])
option_values = st.one_of(
    st.sampled_from(["-1", "0", "nan", "[]", "[0,0]", "[-1]", "{}", "null", "x", "", "[", "{a: 1}", "1e400", "true", "..", "/"]),
    st.sampled_from(["ids.csv", "missing.csv", "missing.yaml", "[{method: Nope}]", "[{method: ReferenceKL}]", "Nope", "0.0"]),
    st.text(string.printable, max_size=5),
)  # fmt: skip


@pytest.mark.slow
@settings(QUICK, max_examples=70)
@given(option=options, value=option_values)
def test_any_option_of_compare(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No source is trained here: what is wrong with the options is known before that, or nothing is."""
    capsys.readouterr()
    (tmp_path / "compare.yaml").write_text(COMPARE)
    (tmp_path / "ids.csv").write_text("id\n1\n1\n")
    arguments = ["compare", f"--config={tmp_path / 'compare.yaml'}", f"--output_dir={tmp_path / 'out'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr("lightning_unlearn.comparison.pipeline.Pipeline.do", lambda *_: None)
        try:
            status: Any = main([*arguments, f"{option}={value}"])
        except SystemExit as stop:  # jsonargparse's way
            status = stop.code
    captured = capsys.readouterr()
    assert status in (0, 2, None), captured.err
    assert "Traceback" not in captured.err
    if status == 2:
        assert "error: " in captured.err
    for path in tmp_path.rglob("*"):
        assert ".tmp" not in path.name
        if path.suffix == ".json":
            json.loads(path.read_text())


# ---------------------------------------------------------------- ledgers


@settings(QUICK, max_examples=80)
@given(
    content=st.one_of(st.binary(max_size=80), json_values.map(lambda value: json.dumps(value).encode())),
    newline=st.booleans(),
)
def test_any_file_as_a_ledger(
    content: bytes, newline: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(content + b"\n" * newline)
    _, mismatches = verify(path)
    assert mismatches, "an empty file is no ledger either"
    assert main(["ledger", "verify", str(path)]) == 1
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="does not verify"):
        toy_data([1], ledger=path).setup("fit")
    assert path.read_bytes() == content + b"\n" * newline
