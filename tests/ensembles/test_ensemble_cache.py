"""Finished models are found again by what determines them, and by nothing else."""

import threading
from dataclasses import replace
from functools import partial, singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_unlearn.data import TensorData
from lightning_unlearn.data.transforms import RandomCropFlip
from lightning_unlearn.ensembles import Member, Recipe, Runtime, train_ensemble
from lightning_unlearn.ensembles import chunk as chunks
from lightning_unlearn.ensembles.cache import keys_of
from lightning_unlearn.ensembles.fingerprint import fingerprint
from lightning_unlearn.models import MLP

sgd = partial(torch.optim.SGD, lr=0.1)
halving = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)


def some_data(**arguments: Any) -> TensorData:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 1, 4, 4, generator=generator)
    return TensorData(inputs, torch.arange(40) % 3, num_classes=3, **arguments)


RECIPE = Recipe(partial(MLP, 16, [6], 3), 2, 8, sgd)
MEMBERS = [Member(torch.arange(k, 30 + k), k) for k in range(4)]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(a.states[name], b.states[name]) for name in a.states)


@pytest.mark.parametrize("way", ["stacked", "sequential", "workers"])
def test_finished_models_are_taken_in_any_order_and_way(tmp_path: Path, way: Any) -> None:
    first = train_ensemble(RECIPE, some_data(), MEMBERS, way=way, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    again = train_ensemble(RECIPE, some_data(), MEMBERS, way="stacked", cache=tmp_path)
    assert again.way == "cache"
    assert same(first, again)
    assert torch.equal(first.losses, again.losses)
    turned = train_ensemble(RECIPE, some_data(), MEMBERS[::-1], cache=tmp_path)
    assert torch.equal(turned.states["layers.0.weight"], first.states["layers.0.weight"].flip(0))


def test_only_what_is_missing_is_trained(tmp_path: Path) -> None:
    train_ensemble(RECIPE, some_data(), MEMBERS[1:3], way="sequential", cache=tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    whole = train_ensemble(RECIPE, some_data(), MEMBERS, way="sequential", cache=tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 2
    assert len(after) == 4
    assert before.items() <= after.items(), "a finished model was trained again"
    assert same(whole, train_ensemble(RECIPE, some_data(), MEMBERS, way="sequential"))


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = 0
    original = chunks.train_classifier

    def interrupted(*arguments: Any, **more: Any) -> Any:
        nonlocal trained
        trained += 1
        if trained == 3:
            raise KeyboardInterrupt
        return original(*arguments, **more)

    monkeypatch.setattr(chunks, "train_classifier", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(RECIPE, some_data(), MEMBERS, way="sequential", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    train_ensemble(RECIPE, some_data(), MEMBERS, way="sequential", cache=tmp_path)
    assert trained == 5, "a finished model was trained again, or one was left out"


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    first = train_ensemble(RECIPE, some_data(), MEMBERS, way="stacked", cache=tmp_path)
    path = sorted(tmp_path.iterdir())[0]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    second = train_ensemble(RECIPE, some_data(), MEMBERS, way="stacked", cache=tmp_path)
    assert second.way == "stacked"
    assert path.stat().st_size == size
    # one model trained by itself, and with others at its side
    torch.testing.assert_close(second.states, first.states, rtol=1e-4, atol=1e-5)


def test_files_hold_one_model_each(tmp_path: Path) -> None:
    train_ensemble(RECIPE, some_data(), MEMBERS, way="stacked", cache=tmp_path)
    parameters = sum(p.nbytes for p in RECIPE.build().parameters())
    for path in tmp_path.iterdir():
        content = torch.load(path, weights_only=True)
        assert sum(value.untyped_storage().nbytes() for value in content["state"].values()) == parameters


class Scaled(nn.Module):
    """An attribute that no ``repr`` shows."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.layer = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) * self.scale


def key(recipe: Recipe = RECIPE, data: TensorData | None = None, member: Member = MEMBERS[0]) -> str:
    return keys_of(recipe, data or some_data(), [member], Runtime())[0]


def test_the_key_changes_with_all_that_determines_a_model_and_with_nothing_else() -> None:
    other_data, other_target = some_data(), some_data()
    other_data.inputs[5] += 1
    other_target.targets[5] += 1
    keys = {
        "as it is": key(),
        "rows": key(member=replace(MEMBERS[0], indices=torch.arange(29))),
        "order of rows": key(member=replace(MEMBERS[0], indices=torch.arange(30).flip(0))),
        "seed": key(member=replace(MEMBERS[0], seed=9)),
        "data": key(data=other_data),
        "targets": key(data=other_target),
        "transform": key(data=some_data(transform=lambda x: x * 2)),
        "another transform": key(data=some_data(transform=lambda x: x * 3)),
        "augment": key(data=some_data(augment=RandomCropFlip(1))),
        "augment more": key(data=some_data(augment=RandomCropFlip(2))),
        "epochs": key(replace(RECIPE, epochs=3)),
        "batch_size": key(replace(RECIPE, batch_size=9)),
        "learning rate": key(replace(RECIPE, optimizer=partial(torch.optim.SGD, lr=0.2))),
        "optimizer": key(replace(RECIPE, optimizer=partial(torch.optim.Adam, lr=0.1))),
        "schedule": key(replace(RECIPE, lr_scheduler=partial(halving, step_size=1))),
        "loss": key(replace(RECIPE, loss=partial(nn.functional.cross_entropy, label_smoothing=0.1))),
        "loss of one's own": key(replace(RECIPE, loss=lambda z, y: nn.functional.cross_entropy(z, y) * 2)),
        "architecture": key(replace(RECIPE, build=partial(MLP, 16, [6], 3, "tanh"))),
        "attribute": key(replace(RECIPE, build=partial(Scaled, 1.0))),
        "another attribute": key(replace(RECIPE, build=partial(Scaled, 2.0))),
    }
    assert len(set(keys.values())) == len(keys)
    same_content = {
        key(),
        key(replace(RECIPE, build=lambda: MLP(16, [6], 3))),
        key(replace(RECIPE, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=True))),
        key(member=replace(MEMBERS[0], indices=MEMBERS[0].indices.clone())),
    }
    assert same_content == {key()}


def test_what_cannot_be_hashed_is_named() -> None:
    with pytest.raises(TypeError, match=r"a _thread\.lock, which has neither"):
        fingerprint([1, {"attribute": threading.Lock()}])


def test_fingerprints_look_at_content() -> None:
    def function(scale: float) -> Any:
        return lambda x: x * scale

    ring: list[Any] = [1]
    ring.append(ring)
    distinct = [
        None,
        0,
        False,
        "0",
        [0],
        {"a": 0},
        {"a": 1},
        {0},
        torch.zeros(2),
        torch.zeros(1, 2),
        torch.zeros(2, dtype=torch.float64),
        np.zeros(2),
        function(1.0),
        function(2.0),
        partial(sgd, lr=1),
        partial(sgd, lr=2),
        torch.relu,
        torch.tanh,
        nn.Linear,
        nn.ReLU(),
        nn.Tanh(),
        "a".join,
        ring,
    ]
    marks = [fingerprint(value) for value in distinct]
    assert len(set(marks)) == len(marks)
    assert fingerprint(function(1.0)) == fingerprint(function(1.0))
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({1, 2, 3}) == fingerprint({3, 2, 1})
    assert fingerprint(torch.zeros(4, 4).t()) == fingerprint(torch.zeros(4, 4))
    assert fingerprint(torch.ones(2, dtype=torch.bfloat16)) == fingerprint(
        torch.ones(2, dtype=torch.bfloat16)
    )


class Damped(torch.optim.SGD):
    """An optimizer with a setting outside its groups, as wrappers have them."""

    def __init__(self, parameters: Any, lr: float, factor: float) -> None:
        super().__init__(parameters, lr)
        self.factor = factor


def test_an_optimizers_setting_outside_its_groups_counts() -> None:
    keys = {
        key
        for factor in (1.0, 0.5, 0.5)
        for key in keys_of(
            replace(RECIPE, optimizer=partial(Damped, lr=0.1, factor=factor)),
            some_data(),
            MEMBERS[:1],
            Runtime(),
        )
    }
    assert len(keys) == 2


def test_what_a_dispatched_function_remembers_of_its_calls_does_not_count() -> None:
    @singledispatch
    def shown(value: Any) -> str:
        return "anything"

    before = fingerprint(shown)
    shown(3)
    shown.register(int, lambda value: "a number")
    assert fingerprint(shown) == before
