"""The data of each seed, and what the splits of all seeds have in common."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_unlearn.comparison.before import Before
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import Split, UnlearningDataModule
from lightning_unlearn.data.selection import ForgetRule, as_rule

_PARTS = ("forget", "retain", "test", "nonmember", "shadow")


@dataclass
class SeedSplits:
    """Draws each seed a split of its own, where that can be, and remembers who was forgotten and who non-member.

    Args:
        given: The data as the arguments describe it, split.
        build: Makes the same data once more, not split yet.
        vary: What differs between the seeds.
        source_given: Whether the source comes from a checkpoint, so that its forget set is fixed.
        before: The comparison of the request before, if there was one: what it forgot is in no stream.
    """

    given: UnlearningDataModule
    build: Callable[[], UnlearningDataModule]
    vary: str
    source_given: bool
    before: Before | None = None
    _seen: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)  # by seed: forget set, non-members

    @property
    def drawn_anew(self) -> bool:
        """Whether each seed has a split of its own; of a source that is given, only the test set can be split anew."""
        held = self.given.held_out
        from_train = held["nonmember_from"] == "train" or (held["shadow"] and held["shadow_from"] == "train")
        fixed = self.given.split_path is not None or (self.source_given and from_train)
        return self.vary == "all" and not fixed

    def require(self) -> None:
        """Refuse data that cannot be split anew.

        Raises:
            ValueError: If ``build`` returns the same object again, or the request before drew a split a seed and this
                one does not.
        """
        if self.before is not None and self.before.one_split is None and not self.drawn_anew:
            raise ValueError(
                f"after: each seed of {self.before.folder} has a split of its own, and here all share one; give "
                "vary='all' and no split_path"
            )
        if self.drawn_anew and self.build() is self.given:
            raise ValueError(
                "data: returned the same object twice, so no seed could draw a split of its own; build a new "
                "UnlearningDataModule each time, or give vary='training' for one split"
            )

    def of(self, seed: int) -> UnlearningDataModule:
        """Return the data with the split of a seed."""
        data, forget = self.given, self.given.split.forget
        if self.drawn_anew:
            data = self._drawn(seed)
            if self.source_given and not np.array_equal(data.split.forget, forget):
                data = self._drawn(seed, as_rule(forget))
        self._seen[seed] = data.split.forget.tobytes(), data.split.nonmember.tobytes()
        return data

    def _drawn(self, seed: int, rule: ForgetRule | None = None) -> UnlearningDataModule:
        data = self.build()
        data.ledger = None
        data.rule = rule or data.rule
        set_up(data, seed, self.before, anew=True)
        if rule is not None:  # positions, which know nothing of the people that the given rule names
            data._known_groups = self.given._known_groups
        return data

    @property
    def forgotten(self) -> np.ndarray[Any, Any]:
        """Positions of the samples to forget, ``int64`` of shape ``(n,)``, of all seeds one after another."""
        if not self.drawn_anew:
            return self.given.split.forget
        return np.concatenate([np.frombuffer(forget, dtype=np.int64) for forget, _ in self._seen.values()])

    def sizes(self, split: Split) -> dict[str, int]:
        """Return the samples of each part of a split; where seeds forget differently many, the fewest and the most."""
        found = {f"n_{part}": len(getattr(split, part)) for part in _PARTS}
        if self._seen:
            forgotten = [len(forget) // np.dtype(np.int64).itemsize for forget, _ in self._seen.values()]
            found["n_retain"] += found["n_forget"] - min(forgotten)
            found["n_forget"] = min(forgotten)
            if max(forgotten) > min(forgotten):
                found["n_forget_most"] = max(forgotten)
        return found

    @property
    def sharing(self) -> list[int]:
        """The seeds, where there are several and all forget and hold out the same samples; else none."""
        return list(self._seen) if len(self._seen) > 1 and len(set(self._seen.values())) == 1 else []

    def __str__(self) -> str:
        """Say what differs between the seeds' splits: an interval over seeds tells of nothing that does not."""
        forget, nonmember = (set(parts) for parts in zip(*self._seen.values(), strict=True))
        if len(forget) > 1:
            return "forget and non-member sets drawn anew in each seed"
        if len(nonmember) > 1:
            return "one forget set, non-members drawn anew in each seed: training noise only"
        return "one split" if len(self._seen) == 1 else "one split for all seeds: training noise only"


def set_up(data: UnlearningDataModule, seed: int, before: Before | None, *, anew: bool) -> None:
    """Split data for a seed, without what the request before forgot.

    Args:
        data: The data, not split yet.
        seed: The seed.
        before: The comparison of the request before, if there was one.
        anew: Whether the seed draws a split of its own.

    Raises:
        ValueError: If the data does not go on from what the request before left.
    """
    if anew:
        data.seed = derive_seed(data.seed, "split", seed) % 2**32
    if before is not None:
        data.previous = [*data.previous, before.split(seed)]
    data.prepare_data()
    data.setup("fit")
    if before is not None:
        before.require_followed(seed, data.split)
