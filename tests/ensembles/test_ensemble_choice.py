"""The fastest way is measured and taken; what was measured is remembered."""

from functools import partial
from typing import Any

import pytest
import torch

from lightning_unlearn.data import TensorData
from lightning_unlearn.ensembles import Member, Recipe, Runtime, timing, train_ensemble
from lightning_unlearn.ensembles import plan as choice
from lightning_unlearn.ensembles.memory import activation_bytes, models_that_fit
from lightning_unlearn.ensembles.plan import Plan, decide, even_chunks
from lightning_unlearn.ensembles.timing import seconds_per_step
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
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_REMEMBERED", {})
    monkeypatch.setattr(choice, "available_cores", lambda: 2)


def plan(recipe: Recipe, k: int = 32, way: Any = "auto", chunk: int | None = None) -> Plan:
    shape = (16,) if isinstance(recipe.build(), MLP) else (1, 8, 8)
    return decide(recipe, data(*shape), members(k), Runtime(), way, chunk)


def pretend(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], calls: list[str] | None = None
) -> None:
    """Have ways take as long as is said, by the trainer's name and the models side by side."""

    def measured(trainer: Any, recipe: Any, data: Any, members: Any, runtime: Any, **_: Any) -> float:
        (name,) = (name for name, known in choice.TRAINERS.items() if known is trainer)
        if calls is not None:
            calls.append(f"{name} {len(members)}")
        return seconds[name] if name in seconds else seconds[f"{name} {len(members)}"]

    monkeypatch.setattr(choice, "seconds_per_step", measured)


def test_the_fastest_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"sequential": 1e-6, "grouped": 2e-6})
    assert plan(mlp()).trainer == "sequential"
    choice._REMEMBERED.clear()
    pretend(monkeypatch, {"sequential": 2e-6, "grouped": 1e-6})
    assert plan(lenet()) == Plan(
        "grouped", 4, 0, "estimated: grouped by 4 0.13 s, grouped by 16 0.13 s, sequential 0.26 s"
    )
    assert plan(mlp()) == Plan("grouped", 32, 0, "estimated: grouped by 16 0.13 s, sequential 0.26 s")


def test_a_larger_stack_is_taken_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"sequential": 4e-6, "grouped 4": 2e-6, "grouped 16": 1e-6})
    assert plan(lenet()).chunk == 32
    assert plan(lenet(), k=200).chunk == 64
    assert plan(lenet(), k=200, chunk=20).chunk == 20
    choice._REMEMBERED.clear()
    pretend(monkeypatch, {"sequential": 4e-6, "grouped 4": 1e-6, "grouped 16": 2e-6})
    assert plan(lenet()).chunk == 4


def test_workers_are_taken_where_starting_them_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    # 32 members · 200 epochs · 20 steps
    pretend(monkeypatch, {"sequential": 1e-4, "grouped": 1e-3})
    long = plan(mlp())
    assert (long.trainer, long.workers, long.way) == ("sequential", 2, "workers")
    assert "sequential in 2 workers" in long.reason
    choice._REMEMBERED.clear()
    pretend(monkeypatch, {"sequential": 1e-6, "grouped": 1e-5})
    assert plan(mlp()).workers == 0
    assert plan(mlp(), way="workers").workers == 2
    monkeypatch.setattr(choice, "available_cores", lambda: 1)
    alone = plan(mlp(), way="workers")
    assert alone.workers == 0
    assert "only one core" in alone.reason


def test_measurements_are_remembered_for_the_same_kind_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    pretend(monkeypatch, {"sequential": 1e-6, "grouped": 1e-6}, calls)
    plan(lenet())
    assert calls == ["sequential 1", "sequential 1", "grouped 4", "grouped 16"]
    plan(lenet(), k=40)
    assert len(calls) == 4
    plan(lenet(batch_size=16))
    assert len(calls) == 8


def test_a_hopeless_stack_is_not_measured_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    pretend(monkeypatch, {"sequential": 1e-6, "grouped": 3e-6}, calls)
    plan(lenet())
    assert "grouped 4" in calls
    assert "grouped 16" not in calls


def test_little_work_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    pretend(monkeypatch, {}, calls)
    few = plan(mlp(epochs=1), k=2)
    assert (few.trainer, few.chunk, few.reason) == ("grouped", 2, "too few steps to measure")
    assert plan(lenet(epochs=1), k=2).trainer == "sequential"
    assert plan(mlp(), k=1).trainer == "sequential"
    assert calls == []
    pretend(monkeypatch, {"sequential": 1e-6}, calls)
    some = plan(mlp(epochs=1))  # 640 steps: enough to measure one model, and not sixteen
    assert (some.trainer, some.chunk) == ("grouped", 32)
    assert calls == ["sequential 1", "sequential 1"]


def test_measured_seconds_are_those_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock)
    epochs = 0

    def trainer(recipe: Recipe, data: TensorData, chosen: Any, runtime: Runtime, on_epoch: Any) -> Any:
        nonlocal clock, epochs
        clock += 100.0  # setting up does not count
        for _ in range(recipe.epochs):
            clock += 0.2 * (len(chosen[0].indices) // recipe.batch_size) * len(chosen)
            epochs += 1
            on_epoch(len(chosen))

    seconds = seconds_per_step(trainer, mlp(), data(16), members(5), Runtime(), steps=10, seconds=25.0)
    # an epoch is 0.2 s · 10 steps · 5 members; the first one sets up, and three more last 25 s
    assert seconds == pytest.approx(0.2)
    assert epochs == 4


def test_measuring_trains_nothing_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = mlp(epochs=10)
    monkeypatch.setattr(choice, "_WORKERS_FROM_SECONDS", 0.0)
    before = torch.get_rng_state()
    ensemble = train_ensemble(recipe, data(16), members(8))
    assert torch.equal(torch.get_rng_state(), before)
    assert ensemble.reason.startswith("estimated: ")
    assert "in 2 workers" in ensemble.reason
    alone = train_ensemble(recipe, data(16), members(8), way="sequential")
    for name, value in alone.states.items():
        # 200 steps of float32
        torch.testing.assert_close(ensemble.states[name], value, rtol=1e-2, atol=1e-3)


def test_chunks_hold_members_of_equally_many_steps() -> None:
    mixed = [Member(torch.arange(size), 0) for size in (20, 40, 21, 40, 20, 17, 40, 40, 9)]
    # steps of 8: 20 → 3, 40 → 5, 21 → 3, 17 = 2·8 + 1 → 2, 9 = 8 + 1 → 1
    assert even_chunks(mlp(), data(16), mixed, 3) == [[1, 6], [3, 7], [0, 2, 4], [5], [8]]
    assert even_chunks(mlp(), data(16), mixed, 100, workers=2) == [[1, 6], [3, 7], [0, 4], [2], [5], [8]]


def test_the_memory_of_a_layer_is_counted() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(16, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    assert activation_bytes(network, torch.zeros(2, 16)) == (4 * (16 + 100 + 100 + 10), 400)
    assert models_that_fit(1e12, torch.device("cpu")) == 1
    assert models_that_fit(1e6, torch.device("cpu")) == 350
