"""The folder of a comparison: whose it is, who is at work there, and what is removed from it."""

import json
import multiprocessing
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from helpers.toys import toy_data
from test_compare import reference_kl, toy_compare

from lightning_unlearn import MethodRun, Retrain
from lightning_unlearn.comparison.folder import RunFolder, claim, in_use
from lightning_unlearn.core.files import positions_hash
from lightning_unlearn.core.ledger import Ledger, read
from lightning_unlearn.core.remembering import remembering_files


def quick(folder: Path, forget: Any = 0.1, **arguments: Any) -> Any:
    """Compare the source with the retrained model, which takes a second."""
    named = {"seeds": 1, "evaluators": [], "methods": [], "data": lambda: toy_data(forget, nonmember=10)}
    return toy_compare(folder, **{**named, **arguments})


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def tree(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


# ---------------------------------------------------------------- whose it is


@pytest.mark.parametrize(
    "name",
    ["../victim", "/victim", "a/b", "..", ".", ".hidden", "", "a b", "ä", "x" * 65, "a\n", "figures", "wandb",
     "Source", "retrain", "report.json", "comparison.json", "populations", "shadow_models"],
)  # fmt: skip
def test_a_name_that_makes_no_folder_of_its_own_is_refused(name: str, tmp_path: Path) -> None:
    def data() -> Any:
        raise AssertionError("something ran")

    (tmp_path / "victim").mkdir()
    methods = [MethodRun(reference_kl, name, {"max_epochs": 1})]
    with pytest.raises(ValueError, match=r"methods: .*name"):
        quick(tmp_path / "out", methods=methods, data=data)
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    methods = [MethodRun(reference_kl, name, {"max_epochs": 1}) for name in ("one", "One")]
    with pytest.raises(ValueError, match="'One'"):
        quick(tmp_path / "out", methods=methods)


def test_a_folder_that_is_no_comparisons_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"is not a comparison's, it holds thesis\.tex"):
            quick(tmp_path, overwrite=overwrite)
    assert tree(tmp_path) == {"thesis.tex": b"mine"}


def test_overwrite_removes_what_a_comparison_wrote_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ledger = Ledger(str(out / "ledger.jsonl"))
    methods = [MethodRun(Retrain, "mine", {"max_epochs": 1})]
    quick(out, [1, 2], ledger=ledger, methods=methods)
    mine = {
        "thesis/chapter.tex": "one",
        "notes.json": "{}",
        "mine/seed_0/notes.txt": "two",
        "mine/a.ckpt": "",
    }
    for name, text in mine.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)
    before = tree(out)
    with pytest.raises(ValueError, match="holds another comparison"):
        quick(out, [3, 4], ledger=ledger)
    assert tree(out) == before
    quick(out, [3, 4], ledger=ledger, overwrite=True)
    assert {name: (out / name).read_text() for name in mine} == mine
    assert not (out / "mine" / "seed_0" / "model.ckpt").exists()
    assert not (out / "mine" / "seed_0" / "log").exists()
    lines = read(ledger.path)
    assert len({line["ids"]["hmac_sha256"] for line in lines}) == 2, "the second request is on record"
    assert before["ledger.jsonl"] == (out / "ledger.jsonl").read_bytes()[: len(before["ledger.jsonl"])]


def test_a_manifest_of_anybodys_removes_nothing_outside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "victim" / "seed_0").mkdir(parents=True)
    (tmp_path / "victim" / "seed_0" / "model.ckpt").write_text("theirs")
    out.mkdir()
    written = ["../victim/seed_0", "..", "/", 3, "a/seed_0/..", None]
    (out / "comparison.json").write_text(json.dumps({"config": 1, "written": written}))
    claim(out, {"config": 2, "forget_hmac": "x"}, [], inputs=[], overwrite=True)
    assert (tmp_path / "victim" / "seed_0" / "model.ckpt").read_text() == "theirs"
    (out / "comparison.json").write_text(json.dumps({"config": 1, "written": "all"}))
    claim(out, {"config": 2, "forget_hmac": "x"}, [], inputs=[], overwrite=True)


def test_unfinished_files_are_swept_at_any_level_and_a_users_are_not(tmp_path: Path) -> None:
    quick(tmp_path)
    theirs = [".report.0a1b2c3d.tmp.html", "source/seed_0/.model.0a1b2c3d.tmp.ckpt",
              "source/seed_0/log/checkpoints/.epoch=1.0a1b2c3d.tmp.ckpt", "retrain/seed_0/evaluation/.a.0a1b2c3d.tmp.json"]  # fmt: skip
    mine = [".ledger.0a1b2c3d.tmp.jsonl", "notes/.report.0a1b2c3d.tmp.html", "source/seed_0/.mine.tmp"]
    for name in theirs + mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    quick(tmp_path)
    assert not files(tmp_path) & set(theirs)
    assert files(tmp_path) >= set(mine)


@pytest.mark.parametrize("name", ["with space", "ümläut", "[a]*?", "50%", "-dash", "quote'\"", "new\nline"])
def test_odd_paths(name: str, tmp_path: Path) -> None:
    result = quick(tmp_path / name, ledger=tmp_path / name / "ledger.jsonl", clean=True)
    assert not result.failed
    assert (tmp_path / name / "report.json").is_file()
    assert len(read(tmp_path / name / "ledger.jsonl")) == 1
    assert remembering_files(tmp_path / name) == []


# ---------------------------------------------------------------- who is at work there


def hold(folder: Path, started: Any, go: Any) -> None:
    with in_use(folder):
        started.set()
        go.wait(30)


def test_a_folder_in_use_is_refused_and_a_dead_process_holds_none(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started, go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "out", started, go))
    other.start()
    assert started.wait(30)
    message = rf"output_dir: .*out is in use by process {other.pid} on host {socket.gethostname()}"
    with pytest.raises(ValueError, match=message):
        quick(tmp_path / "out")
    other.kill()
    other.join()
    assert not quick(tmp_path / "out").failed
    with in_use(tmp_path / "out"), pytest.raises(ValueError, match=f"in use by process {os.getpid()} "):
        quick(tmp_path / "out")


# ---------------------------------------------------------------- what clean removes


def test_clean_keeps_what_names_nobody_and_says_what_it_removed(tmp_path: Path) -> None:
    rule = {"class_path": "Classes", "init_args": {"classes": [3, 4]}}
    config = {"data": {"class_path": "UnlearningDataModule", "init_args": {"forget": rule}}, "seeds": [0]}
    (tmp_path / "out").mkdir()
    result = quick(tmp_path / "out", config=config, clean=True)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["config"] == config
    kept = {
        "report.json",
        "report.html",
        "comparison.json",
        "retrain/seed_0/config.json",
        "retrain/seed_0/model.ckpt",
    }
    assert files(tmp_path / "out") >= kept
    removed = {item.file.relative_to(tmp_path / "out").as_posix() for item in result.removed}
    assert removed >= {"split.npz", "source/seed_0/model.ckpt", "forget.key"}
    assert not removed & files(tmp_path / "out")
    assert result.remembering == []


@pytest.mark.parametrize(
    "rule",
    [
        [1401, 1402, 1403],
        {"class_path": "Ids", "init_args": {"ids": ["ann@example.org"]}},
        {"class_path": "my.Customer", "init_args": {"mail": "ann@example.org", "since": "1403"}},
    ],
)
def test_nobody_is_named_in_what_a_comparison_writes(rule: Any, tmp_path: Path) -> None:
    config = {"data": {"class_path": "UnlearningDataModule", "init_args": {"forget": rule}}, "trainer": None}
    quick(tmp_path, config=config)
    for name, content in tree(tmp_path).items():
        if name.endswith((".json", ".html", ".csv", ".yaml")):
            assert b"ann@example.org" not in content, name
            # within a hash these digits are chance
            assert not re.search(rb"(?<![0-9a-f.])1403(?![0-9a-f])", content), name


def test_clean_leaves_a_users_file_and_lists_it(tmp_path: Path) -> None:
    quick(tmp_path)
    (tmp_path / "requests.json").write_text(json.dumps({"forget": [1, 2]}))
    result = quick(tmp_path, clean=True)
    assert [item.file.name for item in result.remembering] == ["requests.json"]
    record = json.loads((tmp_path / "remembering.json").read_text())
    assert record["removed"]
    assert record["left"] == ["requests.json"]


# ---------------------------------------------------------------- the hash of who was forgotten


def test_the_hash_of_the_forget_set_is_keyed(tmp_path: Path) -> None:
    key = tmp_path / "shared.key"
    reports = [quick(tmp_path / name, [1, 2], forget_key=key).report for name in ("a", "b")]
    data = toy_data([1, 2])
    data.setup("fit")
    wanted = positions_hash(data.split.forget, key.read_bytes().strip())
    assert [report["data"]["forget_hmac"] for report in reports] == [wanted, wanted]
    assert reports[0]["schema_version"] == 2
    ledger = Ledger(str(tmp_path / "ledger.jsonl"))
    report = quick(tmp_path / "c", [1, 2], ledger=ledger).report
    assert report["data"]["forget_hmac"] == read(ledger.path)[0]["ids"]["hmac_sha256"]
    weak = tmp_path / "weak"
    weak.write_text("1234")
    with pytest.raises(ValueError, match=r"forget_key: .*weak holds 4 bytes"):
        quick(tmp_path / "d", forget_key=weak)


def test_without_a_key_nobody_can_try_who_was_forgotten(tmp_path: Path) -> None:
    """Two comparisons that differ in nothing have no hash in common that a guess could be held against."""
    first, second = tmp_path / "a", tmp_path / "b"
    for out in (first, second):
        assert "forget_hmac" not in quick(out, [1, 2]).report["data"]
    for name in ("comparison.json", "retrain/seed_0/training.json", "retrain/seed_0/metrics.json"):
        one, two = (json.loads((out / name).read_text()) for out in (first, second))
        key = "forget_hmac" if name == "comparison.json" else "fingerprint"
        assert one[key] != two[key], name


def test_a_cleaned_comparison_with_a_key_keeps_its_finished_parts(tmp_path: Path) -> None:
    out, key = tmp_path / "out", tmp_path / "shared.key"
    stamps = []
    for _ in range(2):
        assert not quick(out, forget_key=key, clean=True).failed
        stamps.append((out / "retrain" / "seed_0" / "model.ckpt").stat().st_mtime_ns)
    assert stamps[0] == stamps[1]
    assert key.is_file()


def test_a_traceback_of_any_characters_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "method")
    folder.note_error("ValueError: → \udc80")
    assert (folder.path / "error.txt").read_bytes().startswith("ValueError: →".encode())
