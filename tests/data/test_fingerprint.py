"""The fingerprint of a training set: what changes it, what does not, and that processes agree."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import TRAIN, blobs, train_set
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_unlearn.data.fingerprint import training_fingerprint, varies
from lightning_unlearn.data.recorded import require_same_arguments


class Lazy(Dataset[Any]):
    """Samples made when they are read, of which nothing is stored."""

    def __init__(self, order: list[int] | None = None, noise: Any = None, scale: float = 1.0) -> None:
        self.order = order or list(range(TRAIN))
        self.noise = noise or (lambda: 0.0)
        self.scale = scale

    def __len__(self) -> int:
        return TRAIN

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((6,), float(self.order[index])) * self.scale + self.noise(), self.order[index] % 3


def tensors() -> TensorDataset:
    return TensorDataset(*blobs(TRAIN, 0))


def test_order_and_content_change_it_and_the_way_they_are_wrapped_does_not() -> None:
    x, y = blobs(TRAIN, 0)
    whole = TensorDataset(x, y)
    first = training_fingerprint(whole)
    assert first == training_fingerprint(TensorDataset(x.clone(), y.clone()))
    assert first == training_fingerprint(Subset(Subset(whole, range(TRAIN)), list(range(TRAIN))))
    assert first == training_fingerprint(
        ConcatDataset([Subset(whole, range(7)), Subset(whole, range(7, TRAIN))])
    )
    swapped = [1, 0, *range(2, TRAIN)]
    edited = x.clone()
    edited[31, 2] += 1e-6
    others = [
        Subset(whole, swapped),
        Subset(whole, range(TRAIN - 1)),
        TensorDataset(x[swapped], y[swapped]),
        TensorDataset(edited, y),
        TensorDataset(x, y.roll(1)),
        ConcatDataset([TensorDataset(x[:7], y[:7]), TensorDataset(x[7:], y[7:])]),
    ]
    assert len({first, *map(training_fingerprint, others)}) == 1 + len(others)
    assert training_fingerprint(whole, np.zeros(TRAIN)) != first, "served targets count"


@pytest.mark.parametrize("served", [True, False])
def test_what_is_made_when_read_is_told_apart_by_samples(served: bool) -> None:
    def of(dataset: Dataset[Any]) -> str:
        return training_fingerprint(dataset, served=served)

    assert of(Lazy()) == of(Lazy()) != of(Lazy([1, 0, *range(2, TRAIN)]))
    # augmentation from the global state is the same under one seed; from a generator of its own it is left out
    assert of(Lazy(noise=lambda: torch.rand(()))) == of(Lazy(noise=lambda: torch.rand(())))
    own = [np.random.default_rng(seed) for seed in (0, 1)]
    assert of(Lazy(noise=own[0].random)) == of(Lazy(noise=own[1].random))


def test_preprocessing_counts_only_where_it_is_asked_for() -> None:
    plain, turned = train_set(), train_set()
    turned.transform = torch.neg
    assert training_fingerprint(plain) != training_fingerprint(turned)
    assert training_fingerprint(plain, served=False) == training_fingerprint(turned, served=False)


def test_files_count_with_name_size_and_time(tmp_path: Path) -> None:
    class Files(Lazy):
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.samples = [(str(folder / "a" / f"{number}.bin"), 0) for number in range(TRAIN)]

    for folder in ("here", "there"):
        (tmp_path / folder / "a").mkdir(parents=True)
        for number in range(TRAIN):
            (tmp_path / folder / "a" / f"{number}.bin").write_bytes(b"1")
    here, there = Files(tmp_path / "here"), Files(tmp_path / "there")
    assert training_fingerprint(here, served=False) == training_fingerprint(there, served=False)
    before = training_fingerprint(here)
    os.utime(tmp_path / "here" / "a" / "5.bin", (1, 1))
    assert len({before, training_fingerprint(here), training_fingerprint(there)}) == 3
    texts, edited = Lazy(), Lazy()
    texts.data = ["a/" + "long " * 999, *map(str, range(1, TRAIN))]  # type: ignore[attr-defined]
    edited.data = [*texts.data[:-1], "another"]  # type: ignore[attr-defined]
    assert training_fingerprint(texts) != training_fingerprint(edited)
    there.samples[0], there.samples[1] = there.samples[1], there.samples[0]
    assert training_fingerprint(here, served=False) != training_fingerprint(there, served=False)


@pytest.mark.slow
def test_it_is_the_same_in_another_process_and_leaves_the_random_state() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    mine = training_fingerprint(tensors()), training_fingerprint(Lazy(noise=lambda: torch.rand(())))
    assert torch.equal(torch.get_rng_state(), state)
    program = (
        "from test_fingerprint import *\n"
        "print(training_fingerprint(tensors()), training_fingerprint(Lazy(noise=lambda: torch.rand(()))))"
    )
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == list(mine), found.stderr


def test_a_flip_that_spares_the_first_sample_is_seen() -> None:
    class Flips(Lazy):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            x, y = super().__getitem__(index)
            return x * (-1 if index and torch.rand(()) < 0.5 else 1), y

    assert varies(Flips())
    assert not varies(Lazy())


# ---------------------------------------------------------------------- the arguments that a checkpoint records


class Dealt(L.LightningDataModule):
    """A project's data as its training had it, and what does not choose who is in it."""

    def __init__(
        self,
        seed: int = 7,
        fold: tuple[int, ...] = (1, 2),
        data_dir: Any = "/then/digits",
        batch_size: int = 32,
        deal: Any = None,
        augment: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()


def recorded(**arguments: Any) -> dict[str, Any]:
    return dict(Dealt(**arguments).hparams)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"seed": 8},
            r"Dealt has seed=8, .* with seed=7, .* Dealt\(seed=7\) \(.*: --data.seed 7\).*\('seed',\)",
        ),
        ({"fold": (1, 3), "seed": 8}, r"has seed=8, fold=\(1, 3\), .* with seed=7, fold=\(1, 2\), "),
        ({"deal": {"size": 0.2}}, r"has deal\.size=0\.2, .* deal\.size=0\.1, "),
        ({"data_dir": 3}, r"has data_dir=3, .* with data_dir='/then/digits'"),
    ],
)
def test_arguments_that_may_choose_others_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"datamodule: .*{message}"):
        require_same_arguments(recorded(deal={"size": 0.1}), Dealt(**{"deal": {"size": 0.1}, **given}))


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({}, None),
        ({"batch_size": 64, "data_dir": "D:\\now\\digits", "fold": [1, 2], "deal": {"num_workers": 4}}, None),
        ({"data_dir": Path("/now/digits"), "deal": object()}, None),
        ({"deal": {"bs": 9, "num_workers": 1}}, None),
        ({"data_dir": "/now/letters"}, r"data_dir='/now/letters' and not '/then/digits'"),
        ({"augment": False}, r"augment=False and not True"),
    ],
)
def test_data_that_moved_or_is_loaded_otherwise_is_not_refused(given: Any, warned: str | None) -> None:
    then = recorded(deal={"num_workers": 0, "bs": 8})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if warned is None:
            require_same_arguments(then, Dealt(**given))
            require_same_arguments(then, None)
            require_same_arguments({}, Dealt(8))
            return
    with pytest.warns(UserWarning, match=warned):
        require_same_arguments(then, Dealt(**given))


def test_a_class_says_which_argument_chooses_nobody() -> None:
    class Ordered(Dealt):
        same_samples_whatever = ("seed",)

    require_same_arguments(recorded(), Ordered(8))
    with pytest.warns(UserWarning, match="the class Ordered and not Elsewhere"):
        require_same_arguments({"_class_path": "project.Elsewhere"}, Ordered())
