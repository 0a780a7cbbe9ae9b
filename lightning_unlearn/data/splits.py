"""The split of a data set, by positions, into what is forgotten, retained and held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.core.files import atomic_path, read_arrays
from lightning_unlearn.data.fingerprint import require_same
from lightning_unlearn.data.selection import ForgetLike, as_rule, select
from lightning_unlearn.data.selection_data import Positions, SelectionData

Origin: TypeAlias = Literal["train", "test"]

_FORMAT = "lightning_unlearn.Split"
_DENSEST = 100  # how many times smaller positions become when they are packed, at most
_FORMAT_VERSION = 1
_ORIGINS = ("train", "test")
_SETS = ("forget", "retain", "nonmember", "shadow", "test", "previous", "undrawn")
_KEPT = (
    "Rows that were forgotten must stay in their places, as they were, until the last request; once they are deleted, "
    "leave out previous and begin another ledger"
)
_NONE = np.empty(0, dtype=np.int64)
_ENOUGH = 2000  # samples to estimate an accuracy on: a standard error of at most 1.1 points
_FEWEST_NONMEMBERS = 100  # so that a request of one sample still has rates that can be told from chance

# One stream of randomness per purpose, so that the size of one set never changes the choice of another.
_FORGET, _NONMEMBER, _SHADOW, _REFERENCE, _SHADOW_HALVES = range(5)


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, *purpose]))


def some_of(positions: Positions, seed: int) -> Positions:
    """Return all positions, or 2,000 of more, drawn at random and sorted: enough to estimate an accuracy on."""
    if len(positions) <= _ENOUGH:
        return positions
    return np.sort(np.random.default_rng(seed).choice(positions, _ENOUGH, replace=False))


@dataclass(frozen=True, eq=False)
class Split:
    """Who is in which set; every set is a sorted array of unique ``int64`` positions, and no two overlap.

    Together the sets that come from the training set cover it, and so do those that come from the test set.

    Args:
        train_size: Number of samples in the training set.
        test_size: Number of samples in the test set; may be 0.
        forget: Training positions of D_f.
        retain: Training positions of D_r.
        nonmember: Positions of the non-member set, which no model is trained on.
        nonmember_from: Which set ``nonmember`` counts in.
        shadow: Positions held out for shadow models; may be empty.
        shadow_from: Which set ``shadow`` counts in.
        test: Test positions that are left for testing.
        previous: Training positions that earlier requests made the model forget; they are in no other set.
        seed: The seed that the split was drawn with.
        fingerprint: That of the training set
            (:func:`~lightning_unlearn.data.fingerprint.training_fingerprint`); empty where it is not known.
        undrawn: Training positions that the sampler of the training loader never draws; they are in no other set.

    Raises:
        TypeError: If a set is not a 1-D ``int64`` array.
        ValueError: If a set is unsorted or out of range, two sets overlap, or a sample is in none.
    """

    train_size: int
    test_size: int
    forget: Positions
    retain: Positions
    nonmember: Positions
    nonmember_from: Origin
    shadow: Positions
    shadow_from: Origin
    test: Positions
    previous: Positions
    seed: int
    fingerprint: str = ""
    undrawn: Positions = field(default_factory=_NONE.copy)

    def __post_init__(self) -> None:
        one_of("nonmember_from", self.nonmember_from, *_ORIGINS)
        one_of("shadow_from", self.shadow_from, *_ORIGINS)
        in_range("seed", self.seed, "[0, inf)", whole=True)
        if not isinstance(self.fingerprint, str):
            raise TypeError(f"fingerprint must be text, got {type(self.fingerprint).__name__}")
        origins = dict.fromkeys(_SETS, "train") | {
            "nonmember": self.nonmember_from,
            "shadow": self.shadow_from,
            "test": "test",
        }
        for origin, size in (("train", self.train_size), ("test", self.test_size)):
            seen = np.zeros(size, dtype=np.bool_)
            for name in (name for name in _SETS if origins[name] == origin):
                positions = getattr(self, name)
                _check_positions(name, positions, size, origin)
                if seen[positions].any():
                    raise ValueError(
                        f"{name} overlaps another set of the {origin} set; sets must be disjoint"
                    )
                seen[positions] = True
            if not seen.all():
                left = size - int(seen.sum())
                raise ValueError(f"{left} of {size} samples of the {origin} set are in no set of the split")
        for name in ("forget", "retain"):
            if len(getattr(self, name)) == 0:
                raise ValueError(f"{name} is empty; a split needs samples to forget and samples to retain")

    def __repr__(self) -> str:
        shown = _SETS if len(self.undrawn) else _SETS[:-1]
        sizes = ", ".join(f"{name}={len(getattr(self, name))}" for name in shown)
        return f"Split({sizes}, seed={self.seed})"

    @property
    def members(self) -> Positions:
        """Training positions that the source model was trained on: D_f and D_r together, sorted."""
        member = np.zeros(self.train_size, dtype=np.bool_)
        member[self.forget] = True
        member[self.retain] = True
        return np.flatnonzero(member)

    def same_as(self, other: Split) -> bool:
        """Whether the other split has the same sizes, sets, origins and seed."""
        names = (kept.name for kept in fields(self) if kept.name != "fingerprint")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def draw_reference(self, size: int | float, seed: int | None = None) -> Positions:
        """Draw the reference subset D_s from the retain set.

        Args:
            size: Number of samples, or their share of the retain set as a float in ``(0, 1)``.
            seed: Seed of the draw; the split's own when left out.

        Returns:
            Sorted training positions, the same for the same seed.
        """
        count = _count("size", size, len(self.retain), "retain set")
        if count == 0:
            raise ValueError(f"size must leave at least one sample in the reference subset, got {size}")
        in_range("seed", seed, "[0, inf)", whole=True, none=True)
        rng = _generator(self.seed if seed is None else seed, _REFERENCE)
        return self.retain[np.sort(rng.choice(len(self.retain), count, replace=False, shuffle=False))]

    def shadow_in_out(self, index: int) -> tuple[Positions, Positions]:
        """Halve the shadow set into what shadow model number ``index`` is trained on and what it never sees.

        Args:
            index: Number of the shadow model, from 0. Each has halves of its own.

        Returns:
            ``(D_in, D_out)``, sorted positions in the set ``shadow_from``; D_in is the smaller by at most
            one.
        """
        in_range("index", index, "[0, inf)", whole=True)
        if len(self.shadow) < 2:
            raise ValueError(f"{len(self.shadow)} shadow samples cannot be halved; set shadow to 2 or more")
        order = _generator(self.seed, _SHADOW_HALVES, index).permutation(len(self.shadow))
        half = len(order) // 2
        return self.shadow[np.sort(order[:half])], self.shadow[np.sort(order[half:])]

    def save(self, path: str | Path) -> None:
        """Write the split to an ``.npz`` file, which appears complete or not at all.

        Raises:
            ValueError: If the path does not end in ``.npz``.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"path must end in .npz, got {path}")
        content = {kept.name: np.asarray(getattr(self, kept.name)) for kept in fields(self)}
        if not len(self.undrawn):
            del content["undrawn"]  # so that the file is as it was before there were any
        marks = {"format": np.asarray(_FORMAT), "version": np.asarray(_FORMAT_VERSION)}
        with atomic_path(path) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **marks, **content)  # type: ignore[arg-type]  # none is allow_pickle

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """Read a split that :meth:`save` wrote. Nothing in the file is executed: no pickles are read.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is truncated, damaged or not a split.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no saved split at {path.resolve()}")
        advice = "make the split anew from its seed, or restore the file"
        content = read_arrays(path, "a saved split", advice, densest=_DENSEST)
        wanted = {kept.name for kept in fields(cls)}
        content.setdefault("fingerprint", np.asarray(""))  # written before there were any
        content.setdefault("undrawn", _NONE)
        if str(content.get("format")) != _FORMAT or not wanted <= content.keys():
            raise ValueError(f"{path} holds {sorted(content)} and is not a saved split of Split.save")
        if str(content.get("version")) != str(_FORMAT_VERSION):
            version = f"format version {content.get('version')}, and this package reads {_FORMAT_VERSION}"
            raise ValueError(f"{path} is a split of {version}; read it with the package that wrote it")
        try:
            return cls(**{name: _plain(content[name]) for name in wanted})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is a damaged split: {error}") from error


def _plain(value: npt.NDArray[Any]) -> Any:
    return value if value.ndim else value.item()


def make_split(
    train_size: int,
    test_size: int,
    rule: ForgetLike,
    data: SelectionData | None = None,
    *,
    seed: int,
    nonmember: int | float | None = None,
    nonmember_from: Origin = "test",
    shadow: int | float = 0,
    shadow_from: Origin = "train",
    previous: Sequence[Split] = (),
    fingerprint: str = "",
) -> Split:
    """Choose the forget set and divide the rest. Everything follows from ``seed`` alone.

    The forget set is chosen first, then the non-member set, then the shadow set, each from a random stream of its
    own: the forget set does not depend on the sizes of the others, and a larger non-member or shadow set contains the
    smaller one.

    Args:
        train_size: Number of samples in the training set.
        test_size: Number of samples in the test set; 0 where there is none.
        rule: What to forget, in any form that :func:`~lightning_unlearn.data.selection.as_rule` takes.
        data: Targets and attributes of the training set, for rules that look at them.
        seed: Seed of the split, 0 or more.
        nonmember: Size of the non-member set, or its share of the set it is drawn from as a float in ``(0, 1)``;
            None takes the size of the forget set, from the test set at least 100, but no more than half of the
            samples it can be drawn from.
        nonmember_from: ``"test"`` takes the non-members from the test set, whose remainder is the new test
            set, as in Chen, Huang & Wang, "Machine unlearning via GAN", 2021, section 3.4; ``"train"`` holds
            them out of training.
        shadow: Size or share of the shadow set, drawn from what is left.
        shadow_from: Which set the shadow set is drawn from.
        previous: The splits of the earlier requests. What these forgot is in no set and cannot be forgotten again, and
            the training samples that they held out keep their roles: the model that is to forget now never saw them.
        fingerprint: That of the training set, kept in the split; earlier splits of another are refused.

    Raises:
        ValueError: If nothing or everything would be forgotten, a sample is forgotten twice, or the sizes do
            not fit.

    Example:
        >>> split = make_split(1000, 200, 0.05, seed=0, shadow=100)
        >>> split
        Split(forget=50, retain=850, nonmember=100, shadow=100, test=100, previous=0, seed=0)
    """
    in_range("train_size", train_size, "[2, inf)", ": one sample to forget and one to retain", whole=True)
    in_range("test_size", test_size, "[0, inf)", whole=True)
    in_range("seed", seed, "[0, inf)", whole=True)
    one_of("nonmember_from", nonmember_from, *_ORIGINS)
    one_of("shadow_from", shadow_from, *_ORIGINS)
    if data is not None and data.n != train_size:
        raise ValueError(f"data describe {data.n} samples and train_size is {train_size}; they must be equal")

    _require_of_same_set(previous, train_size, fingerprint)
    parts = [part for split in previous for part in (split.previous, split.forget)]
    removed = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *parts]))
    held = _held_out(previous, removed)
    view = SelectionData(train_size) if data is None else data
    excluded = np.concatenate([removed, view.undrawn, *held.values()])
    forget = select(as_rule(rule), view.with_(rng=_generator(seed, _FORGET), excluded=excluded))

    free = {"train": np.ones(train_size, dtype=np.bool_), "test": np.ones(test_size, dtype=np.bool_)}
    free["train"][excluded] = False
    free["train"][forget] = False
    totals = {"train": train_size - len(view.undrawn), "test": test_size}
    drawn: dict[str, Positions] = {}
    for name, size, origin, purpose in (
        ("nonmember", nonmember, nonmember_from, _NONMEMBER),
        ("shadow", shadow, shadow_from, _SHADOW),
    ):
        if size is None and name not in held:
            wanted = max(len(forget), _FEWEST_NONMEMBERS if origin == "test" else 0)
            size = min(wanted, int(free[origin].sum()) // 2)
        rng = _generator(seed, purpose)
        count = None if size is None else _count(name, size, totals[origin], f"{origin} set")
        drawn[name] = _held_or_drawn(name, count, free[origin], origin, rng, held.get(name))
        free[origin][drawn[name]] = False

    retain, test = np.flatnonzero(free["train"]), np.flatnonzero(free["test"])
    if len(retain) == 0:
        others = f"{len(removed)} were forgotten before and the others are held out"
        raise ValueError(
            f"the retain set is empty: of {train_size} training samples {len(forget)} are forgotten, {others}; make "
            "nonmember or shadow smaller"
        )
    if test_size and len(test) == 0:
        advice = "make them smaller or draw them from 'train'"
        raise ValueError(f"no test samples are left: nonmember and shadow take all {test_size}; {advice}")
    return Split(
        train_size=train_size,
        test_size=test_size,
        forget=forget,
        retain=retain,
        nonmember=drawn["nonmember"],
        nonmember_from=nonmember_from,
        shadow=drawn["shadow"],
        shadow_from=shadow_from,
        test=test,
        previous=removed,
        seed=seed,
        fingerprint=fingerprint,
        undrawn=np.sort(view.undrawn),
    )


def _require_of_same_set(previous: Sequence[Split], train_size: int, fingerprint: str) -> None:
    for split in previous:
        require_same(split.fingerprint, fingerprint, "previous: an earlier split", _KEPT)
        if split.train_size != train_size:
            sizes = f"a split of {split.train_size} training samples, and train_size is {train_size}"
            raise ValueError(f"previous holds {sizes}; give splits of the same training set. {_KEPT}")


def _held_out(earlier: Sequence[Split], removed: Positions) -> dict[str, Positions]:
    """Return the training samples that earlier splits held out, by role; roles without any are left out."""
    held: dict[str, Positions] = {}
    for split in earlier:
        for name, positions, origin in (
            ("nonmember", split.nonmember, split.nonmember_from),
            ("shadow", split.shadow, split.shadow_from),
        ):
            kept = np.setdiff1d(positions, removed) if origin == "train" else positions[:0]
            if len(kept):
                held[name] = np.union1d(held[name], kept) if name in held else kept
    return held


def _held_or_drawn(
    name: str,
    count: int | None,
    free: npt.NDArray[np.bool_],
    origin: str,
    rng: np.random.Generator,
    held: Positions | None,
) -> Positions:
    """Return what an earlier split held out, or the first free positions of a random order: draws are nested."""
    if held is not None:
        if origin != "train" or count not in (None, len(held)):
            kept = f"the {len(held)} training samples that the earlier split held out"
            raise ValueError(
                f"{name} must keep {kept}, got {count} from the {origin} set; use the earlier size"
            )
        return held
    if not count:
        return np.empty(0, dtype=np.int64)
    if count > (left := int(free.sum())):
        raise ValueError(
            f"{name} asks for {count} of the {left} samples left of the {origin} set; ask for less"
        )
    order = rng.permutation(len(free))
    return np.sort(order[free[order]][:count])


def _count(name: str, size: int | float, total: int, of: str) -> int:
    """Turn a number of samples, or a share of ``total``, into a number of samples."""
    if isinstance(size, bool | np.bool_):
        raise ValueError(f"{name} must be a number of samples or a share of the {of}, got {size}")
    if isinstance(size, int | np.integer):
        in_range(name, size, f"[0, {total}]", f"; the {of} has {total} samples")
        return int(size)
    if size == 0:
        return 0
    in_range(name, size, "(0, 1)", f"; as a float it is a share of the {of}")
    return max(1, round(size * total)) if total else 0


def _check_positions(name: str, positions: Any, size: int, origin: str) -> None:
    if not isinstance(positions, np.ndarray) or positions.dtype != np.int64 or positions.ndim != 1:
        raise TypeError(f"{name} must be a 1-D int64 array, got {positions!r}")
    if len(positions) and not (positions[1:] > positions[:-1]).all():
        raise ValueError(f"{name} must be sorted and hold every position once")
    if len(positions) and (positions[0] < 0 or positions[-1] >= size):
        found = f"{positions[0]} to {positions[-1]}"
        raise ValueError(f"{name} must hold positions in the {origin} set, 0 to {size - 1}, got {found}")
