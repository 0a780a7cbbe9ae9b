"""Processes that run along: what one cannot do fails in all, soon; a signal ends them with its own status."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_compare import toy_compare
from test_launched import launch
from torch import nn

from lightning_unlearn import MethodRun, ReferenceKL
from lightning_unlearn.core.processes import InStep, said, together
from lightning_unlearn.core.surroundings import stoppable

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes of these tests are forks")


def forked(work: Callable[[], Any], errors: Path) -> int:
    """Do some work in a child, which ends as a program would: by its exit status, with stderr in a file."""
    if child := os.fork():
        return child
    status = 3
    try:
        sys.stderr = errors.open("w")
        work()
        status = 0
    except SystemExit as end:
        print(end.code if isinstance(end.code, str) else "", end="", file=sys.stderr)
        status = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.close()
        os._exit(status)


def ended(child: int, seconds: float = 20) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("it hangs")


class Trainer:
    world_size = 2


def connected(rank: int, folder: Path, work: Callable[[], Any]) -> Callable[[], Any]:
    def begin() -> Any:
        store = torch.distributed.FileStore(str(folder / "rendezvous"), 2)  # type: ignore[attr-defined]
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
        InStep("start").setup(Trainer, None, "fit")  # type: ignore[arg-type]
        return work()

    return begin


def two(folder: Path, work: Callable[[int], Any]) -> list[int]:
    children = [
        forked(connected(rank, folder, lambda rank=rank: work(rank)), folder / f"{rank}.err")
        for rank in range(2)
    ]
    return [ended(child) for child in children]


@pytest.mark.parametrize("failing", [0, 1])
def test_what_fails_in_one_process_fails_in_both_and_they_go_on(failing: int, tmp_path: Path) -> None:
    def part(rank: int, number: int, network: nn.Module) -> None:
        if rank == failing:
            raise RuntimeError(f"fault {number}")
        network(torch.ones(1, 2)).sum().backward()  # waits for the other in the middle of it

    def work(rank: int) -> None:
        network = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
        for number in range(3):  # as many failures as parts
            with pytest.raises(RuntimeError) as caught, together(f"part {number}"):
                part(rank, number, network)
            prefix = "RuntimeError: " if rank == failing else f"process {failing}: RuntimeError: "
            assert said(caught.value) == f"{prefix}fault {number}"
            network = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
        with pytest.raises(ValueError, match="the same in both"), together("both"):
            raise ValueError("the same in both")
        with together("at the end"):
            total = torch.tensor([rank + 1.0])
            torch.distributed.all_reduce(total)
        assert total.item() == 3

    assert two(tmp_path, work) == [0, 0], [(tmp_path / f"{r}.err").read_text() for r in range(2)]


def test_processes_that_are_at_different_parts_end(tmp_path: Path) -> None:
    def ahead(rank: int) -> None:
        InStep(f"part {rank}").setup(Trainer, None, "fit")  # type: ignore[arg-type]

    assert two(tmp_path, ahead) == [1, 1]
    assert "at different parts (part 0, part 1)" in (tmp_path / "0.err").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_comparison_with_its_status(number: int, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    class Long(ReferenceKL):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.trainer.should_stop = begun.exists() and begun.read_text() == "go on"
            begun.touch()
            time.sleep(0.01)
            return super().training_step(batch, batch_idx)

    def work() -> None:
        slow = MethodRun(lambda s: Long(s, reference_epochs=1), "slow", {"max_epochs": 10000})
        toy_compare(tmp_path / "out", methods=[slow], seeds=1, evaluators=[])

    child = forked(work, tmp_path / "err")
    while not begun.exists():
        time.sleep(0.01)
    os.kill(child, number)
    assert ended(child) == 128 + number
    line = "Stopped after 4 of 6. Run the same command to go on.\n"
    assert (tmp_path / "err").read_text() == line
    assert sorted(path.name for path in (tmp_path / "out" / "slow" / "seed_0").iterdir()) == [
        "config.json",
        "log",
    ]
    if number == signal.SIGINT:  # and going on does what is missing
        kept = (tmp_path / "out" / "source" / "seed_0" / "model.ckpt").stat().st_mtime_ns
        begun.write_text("go on")
        assert ended(forked(work, tmp_path / "err"), 60) == 0
        assert (tmp_path / "out" / "slow" / "seed_0" / "metrics.json").is_file()
        assert (tmp_path / "out" / "source" / "seed_0" / "model.ckpt").stat().st_mtime_ns == kept


def test_a_signal_ends_what_does_not_come_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lightning_unlearn.core.surroundings._GRACE", 0.2)

    def work(rank: int) -> None:
        with stoppable(lambda: "it came this far"):
            (tmp_path / f"{rank} waits").touch()
            if rank == 0:
                torch.distributed.recv(torch.ones(1), 1)  # which the main thread does not come back from
            time.sleep(60)

    children = [
        forked(connected(rank, tmp_path, lambda rank=rank: work(rank)), tmp_path / f"{rank}.err")
        for rank in range(2)
    ]
    while not (tmp_path / "0 waits").exists() or not (tmp_path / "1 waits").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(children[0], signal.SIGTERM)
    assert ended(children[0], 5) == 143
    assert (tmp_path / "0.err").read_text() == "it came this far\n"
    os.kill(children[1], signal.SIGTERM)
    assert ended(children[1], 5) == 143


def test_a_signal_in_one_process_ends_the_other_alike(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with stoppable(lambda: ""), together("part"):
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            torch.distributed.all_reduce(torch.ones(1))

    assert two(tmp_path, work) == [143, 143]


def test_a_signal_that_a_compiled_function_met_ends_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    def compiled() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:  # as Cython does
            raise SystemError("returned a result with an exception set") from error

    with pytest.raises(KeyboardInterrupt), stoppable(lambda: "it came this far"):
        compiled()
    assert capsys.readouterr().err == "it came this far\n"
    with pytest.raises(SystemError, match="its own"), stoppable(lambda: ""):
        raise SystemError("its own")


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stoppable(lambda: ""):
        signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.slow
def test_a_comparison_under_ddp_goes_on_without_what_failed_in_one_process(tmp_path: Path) -> None:
    start = time.monotonic()
    done = launch("helpers/failing_compare.py", tmp_path / "out", timeout=120)
    assert done.returncode == 1, done.stderr
    assert time.monotonic() - start < 110, "a process that waits would wait for half an hour"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["models"]) == {"source", "retrain", "good"}
    assert "membership_inference/auc" in report["models"]["good"], "the other evaluators measure"
    errors = {(failure["model"], failure["error"]) for failure in report["failures"]}
    fault = "evaluator faulty: process 1: RuntimeError: a fault of one evaluator"
    assert errors == {
        ("bad", "process 1: RuntimeError: a fault of one process"),
        *((model, fault) for model in report["models"]),
    }
    assert "a fault of one process" in (tmp_path / "out" / "bad" / "seed_0" / "error.txt").read_text()
