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
        "package": python("-c", "import lightning_unlearn"),
        "help": python("-m", "lightning_unlearn", "--help"),
    }
    turns = interleave(arms, clock=child_seconds)
    added = [h - i for h, i in zip(turns.seconds["help"], turns.seconds["lightning"], strict=True)]
    met = [
        table.at_most(
            7,
            "import lightning_unlearn ÷ import lightning, CPU time",
            turns.ratio("package", "lightning"),
            1.10,
            f"{turns.median('package'):.3g} / {turns.median('lightning'):.3g} s; {turns.spread('package', 'lightning')}",
        ),
        table.at_most(
            7,
            "what lightning-unlearn --help adds to import lightning, CPU time",
            sorted(added)[len(added) // 2],
            1,
            unit=" s",
        ),
    ]
    assert all(met)
