"""Worker processes give results and errors, and are gone afterwards."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_unlearn.ensembles.workers import available_cores, in_workers, why_no_workers

pytestmark = pytest.mark.skipif(bool(why_no_workers()), reason="processes cannot be forked here")


def gone() -> bool:
    return not multiprocessing.active_children()


def test_results_arrive() -> None:
    def work(task: int) -> dict[str, Any]:
        return {"square": torch.tensor(task**2), "threads": torch.get_num_threads(), "pid": os.getpid()}

    results = dict(in_workers(work, range(5), 2))
    assert [int(results[task]["square"]) for task in range(5)] == [0, 1, 4, 9, 16]
    assert {result["threads"] for result in results.values()} == {1}
    assert os.getpid() not in {result["pid"] for result in results.values()}
    assert gone()


def test_no_more_work_at_a_time_than_asked_for(tmp_path: Path) -> None:
    def work(task: int) -> int:
        (tmp_path / str(task)).touch()
        time.sleep(0.05)
        at_once = len(list(tmp_path.iterdir()))
        (tmp_path / str(task)).unlink()
        return at_once

    assert max(at_once for _, at_once in in_workers(work, range(6), 2)) <= 2
    assert {os.getpid()} == {pid for _, pid in in_workers(lambda _: os.getpid(), range(2), 0)}


def test_a_fork_after_parallel_backward_passes_does_not_hang() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)

    def backward(*_: Any) -> float:
        weight = torch.randn(300, 300, requires_grad=True)
        (weight @ weight).relu().sum().backward()
        assert weight.grad is not None
        return float(weight.grad.abs().sum())

    try:
        backward()
        results = list(in_workers(backward, range(4), 2))
    finally:
        torch.set_num_threads(threads)
    assert all(value > 0 for _, value in results)


class UnportableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (FloatingPointError("the loss became nan"), FloatingPointError, "the loss became nan"),
        (UnportableError("a", "b"), RuntimeError, "UnportableError: ab"),
    ],
)
def test_errors_arrive_with_their_traceback(error: Exception, expected: Any, message: str) -> None:
    def work(task: int) -> int:
        if task == 1:
            raise error
        time.sleep(30)
        return task

    start = time.monotonic()
    with pytest.raises(expected, match=message) as raised:
        list(in_workers(work, [0, 1], 2))
    assert "in work" in str(raised.value.__cause__)
    assert time.monotonic() - start < 20, "the other worker was waited for"
    assert gone()


def test_a_worker_that_dies_is_noticed() -> None:
    def work(task: int) -> int:
        if task == 1:
            os._exit(7)
        time.sleep(30)
        return task

    with pytest.raises(RuntimeError, match="exit code 7"):
        list(in_workers(work, [0, 1], 2))
    assert gone()


def test_an_interrupt_kills_the_workers() -> None:
    def work(task: int) -> None:
        if task == 0:
            time.sleep(0.2)
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(30)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(in_workers(work, [0, 1], 2))
    assert time.monotonic() - start < 20
    assert gone()


def test_stopping_early_kills_the_workers() -> None:
    results = in_workers(lambda task: task, range(100), 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert gone()


def test_large_results_do_not_block() -> None:
    # larger than any pipe's buffer, from both workers at a time
    results = dict(in_workers(lambda task: torch.full((2_000_000,), float(task)), range(4), 2))
    assert all(bool((results[task] == task).all()) for task in range(4))


def test_there_is_a_core() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_on_a_cluster_its_processes_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_parts(work: Any, parts: Any, count: int) -> Any:
        return [(part, (work(part), count)) for part in parts]

    monkeypatch.setattr("lightning_unlearn.ensembles.workers.hands_on", lambda: True)
    monkeypatch.setattr("lightning_unlearn.ensembles.workers.in_parts", in_parts)
    assert list(in_workers(lambda task: task**2, range(3), 2)) == [(0, (0, 1)), (1, (1, 1)), (2, (4, 1))]
