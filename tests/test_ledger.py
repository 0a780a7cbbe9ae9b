"""The deletion ledger: written whole, chained, verified against checkpoints, and naming nobody."""

import hashlib
import hmac
import json
import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toys import TRAIN, quiet_trainer, toy_data, toy_source
from test_compare import toy_compare

from lightning_unlearn import MethodRun, ReferenceKL, Retrain, SourceRun
from lightning_unlearn.callbacks import Audit, Evaluator, Export, ForgettingMetrics
from lightning_unlearn.cli.main import main
from lightning_unlearn.core.files import key_fingerprint, model_hash, positions_hash
from lightning_unlearn.core.ledger import (
    Ledger,
    append,
    entry,
    not_forgotten,
    read,
    require_forgotten_before,
    verify,
)
from lightning_unlearn.data import Split
from lightning_unlearn.methods.base.export import write_export
from lightning_unlearn.methods.base.source import read_checkpoint
from lightning_unlearn.models import Classifier


def facts(ledger: Ledger, number: int = 0, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "forget": np.asarray([number, number + 1]),
        "earlier": np.asarray([], dtype=np.int64),
        "before": "a" * 64,
        "after": "b" * 64,
        "file": None,
        "method": {"class": "toy", "arguments": {}},
        "config": {},
        "metrics": {"accuracy/test": 0.5},
        "controls": {"source": {"accuracy/test": 0.75}},
        **changes,
    }
    return entry(ledger, **arguments)


def written(folder: Path, lines: int = 4) -> Ledger:
    ledger = Ledger(str(folder / "ledger.jsonl"))
    ledger.prepare()
    for number in range(lines):
        append(ledger, facts(ledger, number))
    return ledger


def fields(mismatches: Any) -> list[tuple[int, str]]:
    return [(mismatch.line, mismatch.field) for mismatch in mismatches]


# ---------------------------------------------------------------- the chain


def test_lines_are_chained_as_documented(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    key = bytes((tmp_path / "ledger.jsonl.key").read_text().strip(), "ascii")
    before = "0" * 64
    for number, raw in enumerate(ledger.file.read_bytes().splitlines()):
        line = json.loads(raw)
        rest = {name: value for name, value in line.items() if name != "hash"}
        # an independent reader: standard JSON, keys sorted, no spaces
        again = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert line["hash"] == hashlib.sha256(again).hexdigest()
        assert line["previous"] == before
        before = line["hash"]
        ids = np.asarray([number, number + 1], dtype="<i8").tobytes()
        assert line["ids"] == {"count": 2, "hmac_sha256": hmac.new(key, ids, "sha256").hexdigest()}
        assert line["time"].endswith("+00:00")
        assert line["metrics"] == {"accuracy/test": {"value": 0.5, "source": 0.75}}
    lines, mismatches = verify(ledger.path, head=before, ids=line["ids"]["hmac_sha256"])
    assert len(lines) == 4
    assert mismatches == []


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (lambda lines: [*lines[:1], lines[1].replace(b'"value":0.5', b'"value":0.6'), *lines[2:]], [(2, "hash")]),
        (lambda lines: [*lines[:1], lines[1].replace(b'"toy"', b'"toy" '), *lines[2:]], [(2, "line")]),
        (lambda lines: [lines[0], *lines[2:]], [(2, "previous")]),
        (lambda lines: lines[1:], [(1, "previous")]),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], [(2, "previous"), (3, "previous"), (4, "previous")]),
        (lambda lines: [*lines[:2], b"", *lines[2:]], [(3, "line")]),
        (lambda lines: [*lines[:2], b"{}", *lines[2:]], [(3, "line")]),
        (lambda lines: [*lines[:2], b"\xff\xfe", *lines[3:]], [(3, "line")]),
        (lambda lines: [*lines[:2], lines[2].replace(b"0.5", b"NaN"), lines[3]], [(3, "line")]),
        (lambda lines: [*lines[:2], b"[" * 100000, lines[3]], [(3, "line")]),
        (lambda lines: [*lines, lines[3]], [(5, "previous")]),
    ],
)  # fmt: skip
def test_what_was_tampered_with_is_named(tmp_path: Path, tamper: Any, found: Any) -> None:
    ledger = written(tmp_path)
    ledger.file.write_bytes(b"\n".join(tamper(ledger.file.read_bytes().splitlines())) + b"\n")
    assert fields(verify(ledger.path)[1]) == found
    before = ledger.file.read_bytes()
    with pytest.raises(ValueError, match=f"does not verify .line {found[0][0]}, {found[0][1]}"):
        ledger.prepare()
    assert ledger.file.read_bytes() == before


def test_an_append_looks_at_the_last_line_alone(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    whole = ledger.file.read_bytes()
    for broken in (
        whole[:-1],
        whole[:-9],
        whole.replace(b'"toy"', b'"Toy"'),
        whole + b"\n",
        whole + b"{}\n",
        b"",
    ):
        ledger.file.write_bytes(broken)
        with pytest.raises(ValueError, match="does not verify"):
            append(ledger, facts(ledger))
        assert ledger.file.read_bytes() == broken
    (line,) = whole.splitlines()[:1]
    filler = facts(ledger, config={"long": "x" * 200_000})
    for lines in (10, 10_000):
        append_cost(ledger, line, lines)
    ledger.file.write_bytes(whole)
    append(ledger, filler)
    append(ledger, facts(ledger, 9))
    assert verify(ledger.path)[1] == []


def append_cost(ledger: Ledger, line: bytes, lines: int) -> None:
    """Assert that what an append reads and writes does not grow with the ledger."""
    content = (line + b"\n") * lines
    ledger.file.write_bytes(content)
    read_at, added = ledger.file.stat(), facts(ledger)
    parsed = 0
    original = json.loads

    def counted(text: Any, **arguments: Any) -> Any:
        nonlocal parsed
        parsed += 1
        return original(text, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_unlearn.core.ledger.json.loads", counted)
        append(ledger, added)
    assert parsed == 1, f"{parsed} of {lines} lines were read"
    assert ledger.file.stat().st_ino == read_at.st_ino, "the ledger was written anew"
    assert ledger.file.read_bytes().startswith(content)


def test_a_power_cut_is_taken_back_and_a_cut_by_hand_is_not(tmp_path: Path) -> None:
    ledger = written(tmp_path, 2)
    whole = ledger.file.read_bytes()
    second = whole.index(b"\n") + 1
    pending = tmp_path / ".ledger.jsonl.pending"
    for size in (second, second + 1, len(whole) - 1, len(whole)):
        ledger.file.write_bytes(whole[:size])
        pending.write_bytes(whole[second:])
        assert len(ledger.prepare()) == (2 if size == len(whole) else 1)
        append(ledger, facts(ledger, 7))
        assert verify(ledger.path)[1] == []
        assert not pending.exists()
    ledger.file.write_bytes(whole[:-5])
    pending.write_bytes(b"another line\n")
    with pytest.raises(ValueError, match="has no end"):
        append(ledger, facts(ledger))
    assert ledger.file.read_bytes() == whole[:-5]


def test_an_empty_ledger_is_called_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = written(tmp_path, 1)
    ledger.file.write_bytes(b"")
    assert fields(verify(ledger.path)[1]) == [(0, "line")]
    assert main(["ledger", "verify", ledger.path]) == 1
    assert "DOES NOT MATCH  line: the file is empty" in capsys.readouterr().out
    with pytest.raises(ValueError, match="is empty"):
        ledger.prepare()


def test_a_replaced_key_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = written(tmp_path, 2)
    known = ledger.key_path.read_text()
    assert {line["key"] for line in read(ledger.path)} == {key_fingerprint(known.strip().encode())}
    assert main(["ledger", "verify", ledger.path]) == 0
    ledger.key_path.write_text("another secret, long enough")
    for attempt in (ledger.prepare, lambda: append(ledger, facts(ledger))):
        with pytest.raises(ValueError, match=r"key_file: .*ledger\.jsonl\.key was replaced"):
            attempt()
    assert main(["ledger", "verify", ledger.path]) == 1
    assert "line 1, key" in capsys.readouterr().out
    # and where lines of another key stand in it already
    last = read(ledger.path)[-1]
    forged = {**last, "key": "0" * 16, "previous": last["hash"]}
    del forged["hash"]
    raw = json.dumps(forged, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    forged["hash"] = hashlib.sha256(raw.encode()).hexdigest()
    with ledger.file.open("a") as file:
        file.write(json.dumps(forged, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n")
    assert fields(verify(ledger.path)[1]) == [(3, "key")]


def test_a_ledger_of_an_early_release_is_read_and_continued(tmp_path: Path) -> None:
    """Its lines have no fingerprint of the key."""
    ledger = written(tmp_path, 1)
    line = {name: value for name, value in read(ledger.path)[0].items() if name not in ("key", "hash")}
    raw = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    line["hash"] = hashlib.sha256(raw.encode()).hexdigest()
    ledger.file.write_text(json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n")
    ledger.prepare()
    append(ledger, facts(ledger, 3))
    assert verify(ledger.path, key=key_fingerprint(ledger.key()))[1] == []


def test_a_line_that_is_cut_off_is_found_at_every_byte(tmp_path: Path) -> None:
    ledger = written(tmp_path, 2)
    whole = ledger.file.read_bytes()
    second = whole.index(b"\n") + 1
    for size in (*range(second + 1, len(whole), 97), len(whole) - 1):
        ledger.file.write_bytes(whole[:size])
        assert {line for line, _ in fields(verify(ledger.path)[1])} == {2}
    # whole lines that are missing at the end only a noted head can tell
    ledger.file.write_bytes(whole[:second])
    assert verify(ledger.path)[1] == []
    assert fields(verify(ledger.path, head=json.loads(whole[second:])["hash"])[1]) == [(0, "head")]


def append_many(path: str, first: int) -> None:
    ledger = Ledger(path)
    for number in range(first, first + 12):
        append(ledger, facts(ledger, number))


def test_two_writers_lose_no_line(tmp_path: Path) -> None:
    ledger = written(tmp_path, 0)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_many, args=(ledger.path, 100 * n)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    lines, mismatches = verify(ledger.path)
    assert mismatches == []
    key = ledger.key()
    wanted = {
        positions_hash(np.asarray([n, n + 1]), key) for first in (0, 100) for n in range(first, first + 12)
    }
    assert {line["ids"]["hmac_sha256"] for line in lines} == wanted
    assert len(lines) == 24


def test_a_full_disk_leaves_the_old_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = written(tmp_path)
    before = ledger.file.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        append(ledger, facts(ledger))
    assert ledger.file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {
        "ledger.jsonl",
        "ledger.jsonl.key",
        ".ledger.jsonl.lock",
    }


def test_a_link_and_permissions_are_kept(tmp_path: Path) -> None:
    ledger = written(tmp_path, 1)
    ledger.file.chmod(0o640)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.jsonl"
    link.symlink_to(ledger.file)
    other = Ledger(str(link), key_file=str(ledger.key_path))
    append(other, facts(other, 7))
    assert link.is_symlink()
    assert len(read(ledger.path)) == 2
    assert stat.S_IMODE(ledger.file.stat().st_mode) == 0o640


# ---------------------------------------------------------------- the key


def test_the_key_is_secret_and_made_once(tmp_path: Path) -> None:
    ledger = written(tmp_path, 1)
    key = ledger.key()
    if os.name == "posix":
        assert stat.S_IMODE(ledger.key_path.stat().st_mode) == 0o600
    ledger.prepare()
    assert ledger.key() == key
    assert len(key) == 64
    other = written(tmp_path / "other", 1)
    assert read(other.path)[0]["ids"] != read(ledger.path)[0]["ids"], (
        "two ledgers can be compared without a key"
    )


def test_a_lost_or_weak_key_is_refused(tmp_path: Path) -> None:
    ledger = written(tmp_path, 1)
    ledger.key_path.unlink()
    with pytest.raises(FileNotFoundError, match=r"key_file: there is no .*the secret"):
        ledger.prepare()
    weak = tmp_path / "weak"
    weak.write_text("1234")
    with pytest.raises(ValueError, match=r"key_file: .* holds 4 bytes"):
        Ledger(str(tmp_path / "new.jsonl"), key_file=str(weak)).prepare()
    with pytest.raises(IsADirectoryError, match="ledger must name a file"):
        Ledger(str(tmp_path)).prepare()


def test_numbers_and_objects_that_json_cannot_say_are_put_in_words(tmp_path: Path) -> None:
    ledger = written(tmp_path, 0)
    line = append(
        ledger, facts(ledger, metrics={"a": float("nan"), "b": float("inf")}, config={"x": torch.nn.ReLU()})
    )
    assert line["metrics"] == {"a": {"value": "nan"}, "b": {"value": "inf"}}
    assert line["config"] == {"x": "ReLU"}
    assert verify(ledger.path)[1] == []


# ---------------------------------------------------------------- hashes of models


def test_the_hash_of_a_model_is_that_of_its_file_however_saved(tmp_path: Path) -> None:
    source = toy_source()
    exported = write_export(source, tmp_path / "a.ckpt")
    content = read_checkpoint(exported)
    torch.save({"something": 1, **content}, tmp_path / "b.ckpt", _use_new_zipfile_serialization=False)
    again = read_checkpoint(tmp_path / "b.ckpt")
    reversed_names = dict(reversed(again["state_dict"].items()))
    assert model_hash(source.state_dict()) == model_hash(content["state_dict"]) == model_hash(reversed_names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])  # fmt: skip
def test_every_bit_name_type_and_shape_counts(dtype: torch.dtype) -> None:
    value = torch.tensor([[1, 0], [0, 1]], dtype=dtype)
    other = value.clone()
    other[0, 1] = 1
    states: list[dict[str, Any]] = [
        {"a": value},
        {"a": other},
        {"b": value},
        {"a": value.reshape(4)},
        {"a": value, "b": value},
        {"a": value[0], "b": value[1]},
        {"a": value.to(torch.uint8)},
        {"a": {"plain": 1}},
    ]
    assert len({model_hash(state) for state in states}) == len(states)
    assert (
        model_hash({"a": value.t().t()})
        == model_hash({"a": value.t().contiguous().t()})
        == model_hash(states[0])
    )


# ---------------------------------------------------------------- a fit


class Knows(Evaluator):
    """A score that is its own control."""

    default_name = "knows"

    def evaluate(self, model: torch.nn.Module, audit: Audit) -> dict[str, float]:
        return {"knows/weight": float(next(iter(model.parameters())).detach().double().sum())}


def test_a_fit_puts_itself_on_record(tmp_path: Path) -> None:
    source, path = toy_source(), tmp_path / "ledger.jsonl"
    data = toy_data([17, 23, 41], ledger=path, split_path=tmp_path / "first.npz")
    method = ReferenceKL(source, 0.3, reference_epochs=1)
    retrained = toy_source(3)
    callbacks = [Knows(retrained=retrained, on_error="raise"), Export(str(tmp_path / "unlearned.ckpt"))]
    quiet_trainer(callbacks=callbacks).fit(method, data)
    (line,) = read(path)
    assert line["ids"]["count"] == line["gone"]["count"] == 3
    assert line["ids"]["hmac_sha256"] == positions_hash(data.split.forget, Ledger(str(path)).key())
    assert line["model"] == {
        "before": model_hash(source.state_dict()),
        "after": model_hash(read_checkpoint(tmp_path / "unlearned.ckpt")["state_dict"]),
        "file": "unlearned.ckpt",
    }
    assert line["method"]["class"] == "lightning_unlearn.methods.reference_kl.ReferenceKL"
    assert line["method"]["arguments"]["lambda_"] == 0.3
    assert line["config"]["epochs"] == 2
    assert set(line["versions"]) == {"lightning_unlearn", "python", "torch", "lightning", "numpy"}
    sums = [float(m.net[0].weight.detach().double().sum()) for m in (method.model, source, retrained)]
    scores = line["metrics"]["knows/weight"]
    assert [scores["value"], scores["source"], scores["retrain"]] == pytest.approx(sums)
    assert line["metrics"]["time/total_s"]["value"] > 0
    text = path.read_text()
    unkeyed = hashlib.sha256(data.split.forget.astype("<i8").tobytes()).hexdigest()
    assert unkeyed not in text, "a hash without a key can be undone"


def test_nothing_is_recorded_of_what_is_no_finished_unlearning(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    data = toy_data(ledger=str(path))
    quiet_trainer(max_epochs=1).fit(toy_source(), data)
    quiet_trainer(fast_dev_run=True).fit(Retrain(toy_source()), data)
    quiet_trainer(callbacks=[ForgettingMetrics()]).test(Retrain(toy_source()), data, verbose=False)

    class Stops(Retrain):
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        quiet_trainer().fit(Stops(toy_source()), data)
    assert not path.exists()
    quiet_trainer(max_epochs=1).fit(Retrain(toy_source()), data)
    assert read(path)[0]["model"]["file"] is None


def test_two_processes_write_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    data = toy_data(ledger=path)
    trainer = quiet_trainer(strategy="ddp_fork", devices=2, callbacks=[Knows(on_error="raise")])
    method = Retrain(toy_source())
    trainer.fit(method, data)
    (line,) = read(path)
    assert line["config"]["processes"] == 2
    assert line["model"]["after"] == model_hash(method.model.state_dict())
    assert {"value", "source"} <= set(line["metrics"]["knows/weight"])


def test_a_broken_ledger_stops_a_run_before_it_begins(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    ledger.file.write_bytes(ledger.file.read_bytes()[:-5])
    method = Retrain(toy_source())
    with pytest.raises(ValueError, match=r"ledger: .* does not verify .line 4"):
        quiet_trainer().fit(method, toy_data(ledger=ledger.path))
    assert method.times["time/total_s"] == 0


# ---------------------------------------------------------------- one request after another


def streams_of(data: Any) -> dict[str, np.ndarray[Any, Any]]:
    split = data.split
    streams = {name: data._positions(name) for name in ("forget", "retain", "train", "shadow")}
    streams["reference"] = split.draw_reference(0.5)
    if split.nonmember_from == "train":
        streams["nonmember"] = split.nonmember
    halves = split.shadow_in_out(0)
    return {**streams, "shadow in": halves[0], "shadow out": halves[1]}


@pytest.mark.parametrize("nonmember_from", ["train", "test"])
def test_a_second_and_third_request_keep_all_earlier_samples_out(tmp_path: Path, nonmember_from: str) -> None:
    ledger = Ledger(str(tmp_path / "ledger.jsonl"))
    model: torch.nn.Module = toy_source()
    gone: set[int] = set()
    files: list[Path] = []
    settings: dict[str, Any] = {
        "shadow": 6,
        "nonmember": 5,
        "nonmember_from": nonmember_from,
        "ledger": ledger,
    }
    for number in range(3):
        forget = 0.1 if number == 0 else lambda d: d.available[3:9]
        data = toy_data(forget, split_path=tmp_path / f"{number}.npz", previous=files, **settings)
        method = ReferenceKL(model, reference_epochs=1)
        quiet_trainer(max_epochs=1).fit(method, data)
        for name, positions in streams_of(data).items():
            assert len(positions), name
            assert not gone & set(positions.tolist()), f"request {number}: forgotten samples are in {name}"
        # and by what is served, not only by what is listed
        inputs = data.inner.inputs  # type: ignore[union-attr]
        for stream in (
            "forget",
            "retain",
            "train",
            "shadow",
            *(["nonmember"] if nonmember_from == "train" else []),
        ):
            served = torch.cat([x for x, _ in data.loader(stream)])
            for position in gone:
                assert not (served == inputs[position]).all(1).any(), (stream, position)
        gone |= set(Split.load(tmp_path / f"{number}.npz").forget.tolist())
        files.append(tmp_path / f"{number}.npz")
        model = method.model
    lines = read(ledger.path)
    assert [line["gone"]["count"] for line in lines] == np.cumsum(
        [line["ids"]["count"] for line in lines]
    ).tolist()
    assert [line["model"]["before"] for line in lines[1:]] == [line["model"]["after"] for line in lines[:-1]]
    assert lines[-1]["gone"]["hmac_sha256"] == positions_hash(np.asarray(sorted(gone)), ledger.key())
    # without the earlier requests, or with only some of them, the ledger refuses
    for some in ([], files[:1], files[1:2]):
        data = toy_data(
            [55], previous=some, **{**settings, "shadow": 0, "nonmember": 0, "nonmember_from": "test"}
        )
        data.split_path = None
        method = ReferenceKL(model, reference_epochs=1)
        before = {name: value.clone() for name, value in method.model.state_dict().items()}
        with pytest.raises(ValueError, match=r"previous: the source is the model that request|must keep the"):
            quiet_trainer(max_epochs=1).fit(method, data)
        assert all(torch.equal(value, before[name]) for name, value in method.model.state_dict().items())


def test_more_than_the_ledger_knows_may_be_kept_out_where_it_is_known_to_be_more(tmp_path: Path) -> None:
    ledger = written(tmp_path, 1)
    own, more, other = (np.asarray(each, dtype=np.int64) for each in ([0, 1], [0, 1, 9], [7, 8, 9]))
    none = more[:0]
    require_forgotten_before(ledger, "b" * 64, [own])
    require_forgotten_before(ledger, "b" * 64, [more, own, more[2:]])
    require_forgotten_before(ledger, "b" * 64, [own, own[:1], own[1:]])
    require_forgotten_before(ledger, "unknown", [none])
    for earlier in ([none], [own[:1]], [more[1:]], [other, other], [more], [more, own[:1], more[1:]]):
        with pytest.raises(
            ValueError, match=r"previous: .* not known to be all of them; give the split file of"
        ):
            require_forgotten_before(ledger, "b" * 64, earlier)


def test_a_larger_split_of_another_request_puts_nothing_back(tmp_path: Path) -> None:
    for name, forget in (("first", [0, 3]), ("other", [6, 9, 12])):
        toy_data(forget, split_path=tmp_path / f"{name}.npz").setup("fit")
    first, other = tmp_path / "first.npz", tmp_path / "other.npz"
    ledger = Ledger(str(tmp_path / "ledger.jsonl"))
    method = ReferenceKL(toy_source(), reference_epochs=1)
    quiet_trainer(max_epochs=1).fit(method, toy_data([0, 3], ledger=ledger))

    def again(previous: Any) -> None:
        data = toy_data([21], previous=previous, ledger=ledger)
        quiet_trainer(max_epochs=1).fit(ReferenceKL(method.model, reference_epochs=1), data)
        assert {0, 3} <= set(data.split.previous.tolist())

    with pytest.raises(ValueError, match=r"previous lists 3, which are not known to be all of them"):
        again(other)
    again([other, first])


def descent(folder: Path, *steps: tuple[str, str, list[int], list[int]]) -> Any:
    """Record who was made of whom by forgetting what, after what; return what asks about a source's next request."""
    ledger = Ledger(str(folder / "ledger.jsonl"))
    ledger.prepare()
    for before, after, forget, earlier in steps:
        gone = {"forget": np.asarray(forget), "earlier": np.asarray(earlier, dtype=np.int64)}
        append(ledger, facts(ledger, before=before, after=after, **gone))

    def found(source: str, forget: list[int], earlier: list[int]) -> Any:
        asked = [positions_hash(np.asarray(each), ledger.key()) for each in (forget, [*earlier, *forget])]
        line = not_forgotten(read(ledger.file), source, asked)
        return line and (line[0]["model"]["after"], line[1])

    return found


def test_what_a_model_of_the_same_descent_forgot_is_forgotten_by_all(tmp_path: Path) -> None:
    steps = [("s", "a", [1], []), ("s", "a2", [1], []), ("a", "c", [2], [1]), ("other", "x", [1], [])]
    found = descent(tmp_path, *steps, ("x", "y", [9], [1]))
    assert found("c", [3], [1, 2]) is None
    assert found("s", [3], []) == ("c", True), "not a2, which was the latest"
    assert found("a", [3], [1]) == found("a2", [3], [1]) == ("c", True)
    assert found("a", [2], [1]) is None, "the same once more"
    assert found("a2", [2], [1]) is None
    assert found("s", [1], []) == ("c", True), "what would come of it remembers 2"
    assert found("y", [3], [1, 9]) is None, "of another descent, whatever it forgot"
    assert found("new", [3], []) is None


def test_two_branches_of_a_descent_become_one(tmp_path: Path) -> None:
    steps = [("s", "a", [1, 2], []), ("s", "b", [3], []), ("b", "c", [4], [3])]
    found = descent(tmp_path / "1", *steps)
    assert found("a", [5], [1, 2]) == ("b", False)
    assert found("b", [5], [3]) == ("c", True)
    assert found("c", [5], [3, 4]) == ("a", False)
    assert found("c", [1, 2], [3, 4]) is None
    steps += [("c", "d", [1, 2], [3, 4])]
    found = descent(tmp_path / "2", *steps)
    assert found("d", [5], [1, 2, 3, 4]) is None
    assert found("a", [5], [1, 2]) == ("d", True)


def test_a_method_that_changes_nothing_makes_no_circle(tmp_path: Path) -> None:
    found = descent(tmp_path, ("s", "s", [1], []), ("s", "a", [1], []))
    assert found("s", [1], []) is None
    assert found("s", [2], [1]) is None
    assert found("a", [2], [1]) is None


# ---------------------------------------------------------------- a comparison


def test_a_comparison_appends_one_line_a_method_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    report = toy_compare(tmp_path / "out", ledger=Ledger(str(path), request="ticket 7")).report
    lines = read(path)
    assert [(line["method"]["name"], line["config"]["seed"]) for line in lines] == [
        (name, seed) for seed in range(2) for name in ("retrain", "reference_kl")
    ]
    assert {line["request"] for line in lines} == {"ticket 7"}
    for line in lines:
        name, seed = line["method"]["name"], line["config"]["seed"]
        state = read_checkpoint(tmp_path / line["model"]["file"])["state_dict"]
        assert line["model"]["after"] == model_hash(state)
        models = report["models"]
        scores = line["metrics"]["accuracy/test"]
        assert scores["value"] == models[name]["accuracy/test"]["values"][seed]
        assert scores["source"] == models["source"]["accuracy/test"]["values"][seed]
        assert ("retrain" in scores) == (name != "retrain")
        assert line["metrics"]["time/total_s"]["value"] == models[name]["time/total_s"]["values"][seed]
    assert report["ledger"] == lines
    assert lines[0]["hash"] in (tmp_path / "out" / "report.html").read_text()
    before = path.read_bytes()
    again = toy_compare(tmp_path / "out", ledger=Ledger(str(path), request="ticket 7")).report
    assert path.read_bytes() == before, "what was kept was recorded again"
    assert again["ledger"] == lines


def test_the_datas_ledger_is_the_comparisons(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    toy_compare(tmp_path / "a", seeds=1, data=lambda: toy_data(nonmember=10, ledger=path))
    assert [line["method"]["name"] for line in read(path)] == ["retrain", "reference_kl"]
    with pytest.raises(ValueError, match="ledger: the data has one already"):
        toy_compare(tmp_path / "b", data=lambda: toy_data(nonmember=10, ledger=path), ledger=path)


@pytest.mark.slow
def test_a_comparison_knows_what_its_source_has_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    toy_compare(tmp_path / "first", seeds=1, ledger=path, data=lambda: toy_data([1, 2, 3], nonmember=10))
    checkpoint = str(tmp_path / "first" / "reference_kl" / "seed_0" / "model.ckpt")
    second: dict[str, Any] = {
        "seeds": 1,
        "ledger": path,
        "source": SourceRun(toy_source, {"max_epochs": 1}, checkpoint),
    }
    with pytest.raises(ValueError, match="previous: the source is the model that request"):
        toy_compare(tmp_path / "second", data=lambda: toy_data([4, 5], nonmember=10), **second)
    first = tmp_path / "first" / "split.npz"
    data = toy_data([4, 5], nonmember=10, previous=first)
    assert not toy_compare(tmp_path / "second", data=lambda: data, **second).failed
    assert read(path)[-1]["gone"]["count"] == 5
    assert len(data.split.retain) == TRAIN - 5


def test_a_ledger_that_cannot_be_written_is_listed_and_the_rest_finishes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"

    class Spoils(ReferenceKL):
        def on_fit_end(self) -> None:
            super().on_fit_end()
            path.write_text("spoilt\n")

    result = toy_compare(
        tmp_path / "out",
        seeds=1,
        ledger=path,
        methods=[MethodRun(lambda s: Spoils(s, reference_epochs=1), "spoils", {"max_epochs": 1})],
    )
    assert [(f["model"], f["error"][:30]) for f in result.report["failures"]] == [
        ("spoils", "observer: ValueError: ledger: ")
    ]
    assert "accuracy/test" in result.report["models"]["spoils"]
    assert path.read_text() == "spoilt\n"


# ---------------------------------------------------------------- the command


@pytest.fixture
def request_on_file(tmp_path: Path) -> tuple[Path, Path]:
    """A ledger with one request, and the folder of its models."""
    source, folder = toy_source(), tmp_path / "run"
    data = toy_data([3, 4], ledger=folder / "ledger.jsonl", split_path=folder / "split.npz")
    method = Retrain(source)
    method_file = folder / "method.ckpt"
    trainer = quiet_trainer(max_epochs=1, callbacks=[Export(str(folder / "unlearned.ckpt"))])
    trainer.fit(method, data)
    trainer.save_checkpoint(method_file)
    write_export(source, folder / "source.ckpt")
    return folder / "ledger.jsonl", folder


def command(*arguments: object) -> int:
    return main(["ledger", "verify", *map(str, arguments)])


def test_the_command_says_that_all_matches(request_on_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, folder = request_on_file
    assert command(ledger) == 0
    printed = capsys.readouterr().out
    assert "1 line, 1 of their models at hand" in printed
    assert f"head: {read(ledger)[0]['hash']}" in printed
    assert "chain intact; outcome: not measured" in printed
    for model in ("unlearned.ckpt", "method.ckpt"):
        assert command(ledger, "--model", folder / model) == 0
        assert (
            f"{model} is the model that request {read(ledger)[0]['request']} made, line 1"
            in capsys.readouterr().out
        )
    assert command(ledger, "--split", folder / "split.npz", "--head", read(ledger)[0]["hash"]) == 0
    told = f"split.npz names the samples of request {read(ledger)[0]['request']}, line 1"
    assert told in capsys.readouterr().out


def test_the_command_says_what_does_not_match(
    request_on_file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, folder = request_on_file
    assert command(ledger, "--model", folder / "source.ckpt") == 1
    assert "line 1, model.before: " in (printed := capsys.readouterr().out)
    assert "it has not forgotten" in printed
    torch.save({"state_dict": Classifier(torch.nn.Linear(2, 2)).state_dict()}, folder / "other.ckpt")
    assert command(ledger, "--model", folder / "other.ckpt") == 1
    assert "model: no line knows" in capsys.readouterr().out
    assert command(ledger, "--head", "0" * 64) == 1
    assert "DOES NOT MATCH  head: " in capsys.readouterr().out
    data = toy_data([3, 5])
    data.setup("fit")
    data.split.save(folder / "another.npz")
    assert command(ledger, "--split", folder / "another.npz") == 1
    assert "ids: no line is about these samples" in capsys.readouterr().out
    (folder / "other.ckpt").replace(folder / "unlearned.ckpt")
    assert command(ledger) == 1
    assert "line 1, model.after: unlearned.ckpt holds another model" in capsys.readouterr().out
    (folder / "unlearned.ckpt").write_bytes(b"junk")
    assert command(ledger) == 1
    assert "line 1, model.file: " in capsys.readouterr().out
    ledger.write_bytes(ledger.read_bytes().replace(b'"count":2', b'"count":1', 1))
    assert command(ledger) == 1
    assert "line 1, hash: " in capsys.readouterr().out


def test_the_command_says_what_is_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = written(tmp_path, 1)
    for arguments in (
        [tmp_path / "missing.jsonl"],
        [ledger.path, "--model", tmp_path / "missing.ckpt"],
        [ledger.path, "--split", tmp_path / "missing.npz"],
        [ledger.path, "--split", tmp_path / "missing.npz", "--key", tmp_path / "missing.key"],
        [ledger.path, "--model", ledger.path],
    ):
        assert command(*arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit) as stop:
        main(["ledger", "forge"])
    assert stop.value.code == 2


def test_a_model_that_was_unlearned_further_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, first = tmp_path / "ledger.jsonl", tmp_path / "first.npz"
    method = ReferenceKL(toy_source(), reference_epochs=1)
    data = toy_data([3], ledger=path, split_path=first)
    quiet_trainer(max_epochs=1, callbacks=[Export(str(tmp_path / "a.ckpt"))]).fit(method, data)
    again = ReferenceKL(method.model, reference_epochs=1)
    second = toy_data([4], ledger=path, previous=first)
    quiet_trainer(max_epochs=1, callbacks=[Export(str(tmp_path / "a.ckpt"))]).fit(again, second)
    capsys.readouterr()
    assert command(path) == 0, "the last line about a file counts"
    method.export(tmp_path / "old.ckpt")
    assert command(path, "--model", tmp_path / "old.ckpt") == 0
    printed = capsys.readouterr().out
    assert "made, line 1" in printed
    assert "began with, line 2" in printed
