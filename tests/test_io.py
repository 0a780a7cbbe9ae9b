"""Atomic writing: the whole file or none, and nothing left over."""

import json
import os
from pathlib import Path

import pytest

from lightning_unlearn.core.files import atomic_path, write_bytes_atomic, write_json_atomic, write_text_atomic


def test_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder" / "table.csv"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".csv"
        temporary.write_text("a,b\n")
        assert not target.exists()
    assert target.read_text() == "a,b\n"
    assert list(target.parent.iterdir()) == [target]


def fail_half_way(path: Path, error: type[BaseException]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half of it")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failing_writer_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail_half_way(tmp_path / "new.txt", error)
    assert list(tmp_path.iterdir()) == []


def test_failing_writer_keeps_the_old_file(tmp_path: Path) -> None:
    target = write_text_atomic(tmp_path / "old.txt", "old")
    with pytest.raises(RuntimeError):
        fail_half_way(target, RuntimeError)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing was written"), atomic_path(tmp_path / "x.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="append a file name"), atomic_path(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="file modes are a POSIX matter")
def test_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    assert write_bytes_atomic(tmp_path / "atomic", b"").stat().st_mode == ordinary.stat().st_mode


def test_json_is_strict_utf8(tmp_path: Path) -> None:
    content = {"ε": [1, 2.5, None, "ü"]}
    path = write_json_atomic(tmp_path / "a.json", content)
    assert json.loads(path.read_bytes().decode("utf-8")) == content
    assert "ε" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_it_cannot_say(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "a.json", {"x": number})
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_byte_for_byte(tmp_path: Path) -> None:
    assert write_text_atomic(tmp_path / "a.txt", "1\r\n2\n").read_bytes() == b"1\r\n2\n"
