"""Point 7: what the package adds to importing Lightning, and to the command's answer."""

import resource
import subprocess
import sys
from collections.abc import Callable

from benchmarks.measuring import Table, Turns


def child_seconds() -> float:
    """CPU time of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def python(*arguments: str) -> Callable[[], None]:
    return lambda: (
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL) and None
    )


def test_starting(interleave: Callable[..., Turns], table: Table) -> None:
    arms = {
        "lightning": python("-c", "import lightning"),
        "package": python("-c", "from lightning_unlearn import *"),
        "help": python("-m", "lightning_unlearn", "--help"),
    }
    turns = interleave(arms, clock=child_seconds)
    met = [
        table.at_most(
            7,
            "from lightning_unlearn import * ÷ import lightning, CPU time",
            turns.ratio("package", "lightning"),
            1.10,
            f"{turns.median('package'):.3g} / {turns.median('lightning'):.3g} s; {turns.spread('package', 'lightning')}",
        ),
        table.at_most(
            7,
            "lightning-unlearn --help, CPU time",
            turns.median("help"),
            1,
            unit=" s",
        ),
    ]
    assert all(met)
