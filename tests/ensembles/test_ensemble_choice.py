"""One rule says how an ensemble is trained; what is impossible falls back, and the plan says why."""

from functools import partial
from typing import Any

import pytest
import torch

from lightning_unlearn.data import TensorData
from lightning_unlearn.ensembles import Member, Recipe, Runtime, train_ensemble
from lightning_unlearn.ensembles import plan as choice
from lightning_unlearn.ensembles.plan import Plan, decide, even_chunks
from lightning_unlearn.models import MLP, LeNet5

sgd = partial(torch.optim.SGD, lr=0.01)


def data(*shape: int) -> TensorData:
    generator = torch.Generator().manual_seed(0)
    return TensorData(torch.randn(200, *shape, generator=generator), torch.arange(200) % 10)


def members(k: int, size: int = 160) -> list[Member]:
    return [Member(torch.arange(size), seed) for seed in range(k)]


def mlp(epochs: int = 200, batch_size: int = 8) -> Recipe:
    return Recipe(partial(MLP, 16, [8]), epochs, batch_size, sgd)


def lenet(epochs: int = 200, batch_size: int = 8) -> Recipe:
    return Recipe(partial(LeNet5, image_size=8), epochs, batch_size, sgd)


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "available_cores", lambda: 2)


def plan(recipe: Recipe, k: int = 32, way: Any = "auto", chunk: int | None = None) -> Plan:
    shape = (16,) if isinstance(recipe.build(), MLP) else (1, 8, 8)
    return decide(recipe, data(*shape), members(k), Runtime(), way, chunk)


@pytest.mark.parametrize(
    ("recipe", "k", "expected"),
    [
        (mlp(epochs=1), 32, Plan("stacked", 64, 0, "by the rule")),
        (mlp(), 32, Plan("stacked", 64, 2, "by the rule")),
        (mlp(), 1, Plan("sequential", 1, 0, "by the rule")),
        (lenet(epochs=1), 4, Plan("stacked", 64, 0, "by the rule")),
        (lenet(epochs=1, batch_size=32), 4, Plan("sequential", 1, 0, "by the rule")),
        (lenet(batch_size=32), 4, Plan("sequential", 1, 2, "by the rule")),
    ],
)
def test_the_rule(recipe: Recipe, k: int, expected: Plan) -> None:
    assert plan(recipe, k) == expected


def test_what_is_asked_for_is_done() -> None:
    assert plan(mlp(), way="sequential") == Plan("sequential", 1, 0, "asked for")
    assert plan(lenet(batch_size=32), way="stacked", chunk=20) == Plan("stacked", 20, 0, "asked for")
    assert plan(mlp(epochs=1), way="workers") == Plan("stacked", 64, 2, "asked for")
    assert plan(mlp(epochs=1), chunk=1).trainer == "sequential"


def test_workers_need_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "available_cores", lambda: 1)
    alone = plan(mlp(), way="workers")
    assert alone.workers == 0
    assert "only one core" in alone.reason
    assert plan(mlp()) == Plan("stacked", 64, 0, "by the rule")


def test_planning_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    ensemble = train_ensemble(mlp(epochs=1), data(16), members(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert ensemble.way == "stacked"


def test_chunks_hold_members_of_equally_many_rows() -> None:
    mixed = [Member(torch.arange(size), 0) for size in (20, 40, 21, 40, 20, 40, 40)]
    assert even_chunks(mixed, 3) == [[1, 5], [3, 6], [2], [0, 4]]
    assert even_chunks(mixed, 100, workers=2) == [[1, 5], [3, 6], [2], [0], [4]]


def test_a_stack_fits_the_memory_meant_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_CPU_BYTES", 1.0)
    assert plan(mlp(epochs=1)).chunk == 1
    network = torch.nn.Sequential(torch.nn.Linear(16, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    weights = 4 * (17 * 100 + 101 * 10)
    outputs = 4 * 8 * (16 + 100 + 100 + 10)  # of a batch of 8, the input's share included
    monkeypatch.setattr(choice, "_CPU_BYTES", 10.0 * (5 * weights + 3 * outputs))
    recipe = Recipe(lambda: network, 1, 8, sgd)
    assert choice._models_that_fit(recipe, data(16), members(1)[0], network, Runtime(), False) == 10
