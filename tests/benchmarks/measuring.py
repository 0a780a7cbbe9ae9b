"""Arms that take turns in one process, and the rows of the table; measures nothing itself."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning as L

__all__ = ["AlternatingEpochs", "Row", "Table", "Turns", "take_turns"]

Clock = Callable[[], float]


class Turns:
    """Seconds of several arms that took turns, one number a round.

    A ratio is taken within a round, whose arms ran under the same conditions, and then the median over rounds.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def median(self, arm: str) -> float:
        return statistics.median(self.seconds[arm])

    def ratios(self, arm: str, to: str) -> list[float]:
        return [a / b for a, b in zip(self.seconds[arm], self.seconds[to], strict=True)]

    def ratio(self, arm: str, to: str) -> float:
        return statistics.median(self.ratios(arm, to))

    def spread(self, arm: str, to: str) -> str:
        ratios = self.ratios(arm, to)
        return f"{min(ratios):.3g} to {max(ratios):.3g} over {len(ratios)} rounds"


def take_turns(
    arms: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 5,
    warmup: int = 1,
    clock: Clock = time.process_time,
) -> Turns:
    """Run every arm once a round, in an order that is turned round each time."""
    turns, order = Turns(), list(arms)
    for number in range(warmup + rounds):
        order.reverse()
        for arm in order:
            start = clock()
            arms[arm]()
            if number >= warmup:
                turns.seconds[arm].append(clock() - start)
    return turns


class AlternatingEpochs(L.Callback):
    """Times each epoch of a fit from its start to the start of the next, with other arms run in between."""

    def __init__(
        self, others: Mapping[str, Callable[[], Any]], *, warmup: int = 1, clock: Clock = time.process_time
    ):
        self.others = others
        self.warmup = warmup
        self.clock = clock
        self.turns = Turns()
        self._start: float | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        end = self.clock()
        if self._start is not None and trainer.current_epoch > self.warmup:
            self.turns.seconds["fit"].append(end - self._start)
            for arm, run in self.others.items():
                start = self.clock()
                run()
                self.turns.seconds[arm].append(self.clock() - start)
        self._start = self.clock()


@dataclass(frozen=True)
class Row:
    """One figure: the point it belongs to, what was measured, its value, what was aimed at, and whether it is met."""

    point: int
    what: str
    value: str
    aim: str
    met: bool | None
    detail: str


@dataclass
class Table:
    """The figures of a session, in the order of their points."""

    rows: list[Row] = field(default_factory=list)

    def at_most(
        self, point: int, what: str, value: float, limit: float, detail: str = "", unit: str = ""
    ) -> bool:
        """Add a figure with an upper limit and return whether it keeps to it."""
        met = value <= limit
        self.rows.append(Row(point, what, f"{value:.3g}{unit}", f"≤ {limit:g}{unit}", met, detail))
        return met

    def at_least(
        self, point: int, what: str, value: float, limit: float, detail: str = "", unit: str = ""
    ) -> bool:
        """Add a figure with a lower limit and return whether it reaches it."""
        met = value >= limit
        self.rows.append(Row(point, what, f"{value:.3g}{unit}", f"≥ {limit:g}{unit}", met, detail))
        return met

    def note(self, point: int, what: str, value: float, detail: str = "", unit: str = "") -> None:
        """Add a figure that has no aim."""
        self.rows.append(Row(point, what, f"{value:.3g}{unit}", "", None, detail))

    def lines(self) -> list[str]:
        """Return the table as Markdown, its columns aligned."""
        sign = {True: "✓", False: "✗", None: ""}
        cells = [("", "measured", "value", "aim", "", "")]
        cells += [
            (str(r.point), r.what, r.value, r.aim, sign[r.met], r.detail)
            for r in sorted(self.rows, key=lambda r: r.point)
        ]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells
        ]
        return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
