"""Point 5: what a growing training set costs where the forget set does not grow."""

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from benchmarks.material import linear, mnist_like
from benchmarks.measuring import Table, Turns

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.data.selection import Classes, ForgetRule, Groups, Ids, RandomFraction, SelectionData
from lightning_unlearn.data.splits import make_split
from lightning_unlearn.methods import WGAN, RandomK, ReferenceKL, UnlearningModule

SIZES = (6_000, 600_000)
FORGOTTEN, EPOCHS = 600, 5
IDS, REQUEST = 10_000_000, 1_000_000

METHODS: dict[str, Callable[[Any], UnlearningModule]] = {
    "ReferenceKL": lambda source: ReferenceKL(source, reference=source),
    # D_s is the whole retain set, so that it grows with the data
    "WGAN": lambda source: WGAN(source, retain_fraction=1.0),
    "RandomK": lambda source: RandomK(source, epoch="forget"),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_fit_costs_the_same_in_a_hundred_times_more_data(
    name: str, interleave: Callable[..., Turns], table: Table
) -> None:
    def fit(size: int) -> Callable[[], None]:
        data = UnlearningDataModule(
            mnist_like(size),
            list(range(FORGOTTEN)),
            test_dataset=mnist_like(2_000),
            nonmember=FORGOTTEN,
            batch_size=64,
        )
        data.setup("fit")
        off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")

        def run() -> None:
            trainer = L.Trainer(
                accelerator="cpu", max_epochs=EPOCHS, limit_val_batches=0, **dict.fromkeys(off, False)
            )
            trainer.fit(METHODS[name](linear()), data)

        return run

    small, large = (f"{size:,}" for size in SIZES)
    turns = interleave({small: fit(SIZES[0]), large: fit(SIZES[1])})
    # a linear layer, so that the steps, which are equal, hide as little as can be
    assert table.at_most(
        5,
        f"{name}.fit over {FORGOTTEN} forgotten of {large} ÷ of {small}, CPU time",
        turns.ratio(large, small),
        1.25,
        f"{turns.median(large):.3g} / {turns.median(small):.3g} s for {EPOCHS} epochs; {turns.spread(large, small)}",
    )


def rules() -> dict[str, tuple[ForgetRule, dict[str, Any]]]:
    rng = np.random.default_rng(0)
    targets, user = rng.integers(0, 10, IDS), rng.integers(0, 100_000, IDS)
    return {
        "fraction": (RandomFraction(0.01), {}),
        "stratified fraction": (RandomFraction(0.01, stratified=True), {"targets": targets}),
        "class": (Classes(3), {"targets": targets}),
        "groups": (Groups("user", 0.02), {"attributes": {"user": user}}),
        "ids": (Ids(rng.choice(IDS, REQUEST, replace=False)), {}),
        "ids of a column": (Ids(np.arange(0, 100_000, 100), column="user"), {"attributes": {"user": user}}),
    }


def test_ten_million_ids_are_split(table: Table, benchmark: Any) -> None:
    seconds, megabytes = {}, {}
    for name, (rule, known) in rules().items():

        def split(rule: ForgetRule = rule, known: dict[str, Any] = known) -> None:
            make_split(IDS, 0, rule, SelectionData(IDS, **known), seed=0, shadow=0.1)

        times = []
        for _ in range(5):
            start = time.process_time()
            split()
            times.append(time.process_time() - start)
        seconds[name] = float(np.median(times))
        tracemalloc.start()
        split()
        megabytes[name] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    slowest, largest = max(seconds, key=seconds.__getitem__), max(megabytes, key=megabytes.__getitem__)
    benchmark.extra_info.update(seconds=seconds, megabytes=megabytes)
    benchmark.pedantic(lambda: None, rounds=1)
    met = [
        table.at_most(
            5,
            f"selecting from and splitting {IDS:,} ids, CPU time",
            seconds[slowest],
            2,
            f"by {slowest}",
            " s",
        ),
        table.at_most(
            5,
            f"selecting from and splitting {IDS:,} ids, peak",
            megabytes[largest],
            400,
            f"by {largest}",
            " MB",
        ),
    ]
    assert all(met)


def test_a_million_ids_are_read(table: Table, benchmark: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.choice(IDS, REQUEST, replace=False)
    names = np.char.add("user-", rng.permutation(2 * REQUEST).astype(np.str_))
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)))
    (tmp_path / "ids.csv").write_text("id,note\n" + "\n".join(f"{i},x" for i in ids))
    (tmp_path / "ids.json").write_text(json.dumps(ids.tolist()))
    (tmp_path / "names.csv").write_text("user\n" + "\n".join(names[:REQUEST]))
    every = SelectionData(IDS)
    people = SelectionData(len(names), attributes={"user": names})
    seconds = {}
    for file, column, data in (
        ("ids.txt", None, every),
        ("ids.csv", None, every),
        ("ids.json", None, every),
        ("names.csv", "user", people),
    ):
        times = []
        for _ in range(5):
            start = time.process_time()
            chosen = Ids(tmp_path / file, column=column)(data)
            times.append(time.process_time() - start)
            assert len(chosen) == REQUEST
        seconds[file] = float(np.median(times))
    benchmark.extra_info.update(seconds=seconds)
    benchmark.pedantic(lambda: None, rounds=1)
    met = [
        table.at_most(
            5,
            f"forget file of {REQUEST:,} ids, CPU time",
            seconds.pop("names.csv"),
            2,
            "names in a .csv, among 2,000,000",
            " s",
        ),
        table.at_most(
            5,
            f"forget file of {REQUEST:,} ids, CPU time",
            max(seconds.values()),
            2,
            f"positions, slowest {max(seconds, key=seconds.__getitem__)}",
            " s",
        ),
    ]
    assert all(met)
