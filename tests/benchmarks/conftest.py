"""The benchmarks' fixtures and their table.

``pytest tests/benchmarks -n 0`` measures everything that a CPU can show and prints the table of the README. Figures
are ratios between things that take turns in one process, of CPU time where nothing runs in another process, so that
whoever else uses the machine counts as little as can be. What misses its aim fails its test and has a ✗ in the table.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks.measuring import Table, Turns, take_turns

_TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", 0):
        raise pytest.UsageError("benchmarks disturb each other when run side by side: add -n 0")
    config.stash[_TABLE] = Table()
    # its table times whole rounds of all arms together; ours compares the arms
    config.option.benchmark_quiet = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(0))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if (table := config.stash[_TABLE]).rows:
        terminalreporter.section(
            f"benchmarks, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
        )
        for line in table.lines():
            terminalreporter.write_line(line)


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    """Where a benchmark puts its figures."""
    return request.config.stash[_TABLE]


@pytest.fixture
def interleave(benchmark: Any) -> Callable[..., Turns]:
    """Run arms in turns: ``interleave({"a": f, "b": g}, rounds=5, clock=time.process_time)``."""

    def run(arms: dict[str, Callable[[], Any]], **how: Any) -> Turns:
        turns: Turns = benchmark.pedantic(take_turns, args=(arms,), kwargs=how, rounds=1)
        benchmark.extra_info.update(turns.seconds)
        return turns

    return run
