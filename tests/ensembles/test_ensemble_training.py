"""K models trained as one computation equal those trained alone, in every way and for every kind of network."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers.toys import FEATURES, blobs, quiet_trainer
from torch import Tensor, nn

from lightning_unlearn.data import Adapter, TensorData, TensorLoader
from lightning_unlearn.data.transforms import Normalize, RandomCropFlip
from lightning_unlearn.ensembles import (
    Member,
    Recipe,
    Runtime,
    train_classifier,
    train_ensemble,
    workers,
)
from lightning_unlearn.ensembles import plan as choice
from lightning_unlearn.ensembles.recipe import first_module
from lightning_unlearn.models import MLP, LeNet5, ResNet8, SVHNConv8, WideResNet

WAYS = ("stacked", "workers")
adam = partial(torch.optim.Adam, lr=0.01)
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
halving = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)

NETWORKS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "mlp": (partial(MLP, 12, [8]), (12,), adam),
    "lenet": (partial(LeNet5, image_size=8), (1, 8, 8), sgd),
    "resnet": (partial(ResNet8, width=4), (3, 8, 8), sgd),
}
# 41 = 5·8 + 1 ends with a batch of 9, 34 with a batch of 2; those of equally many rows are trained side by side
SIZES = (41, 34, 41, 34)


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers on a machine with one core too."""
    monkeypatch.setattr(choice, "available_cores", lambda: 2)


def images(
    shape: tuple[int, ...], n: int = 60, dtype: torch.dtype = torch.float64, **arguments: Any
) -> TensorData:
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(10, (n,), generator=generator)
    inputs = (
        torch.randn(n, *shape, generator=generator, dtype=dtype) + targets.view(-1, *[1] * len(shape)) / 5
    )
    return TensorData(inputs, targets, num_classes=10, **arguments)


def some_members(n: int = 60, sizes: tuple[int, ...] = SIZES) -> list[Member]:
    generator = torch.Generator().manual_seed(7)
    return [Member(torch.randperm(n, generator=generator)[:size], seed) for seed, size in enumerate(sizes)]


def recipe_of(name: str, **arguments: Any) -> Recipe:
    build, _, optimizer = NETWORKS[name]
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 8, "optimizer": optimizer, "lr_scheduler": halving}
    return Recipe(**{"build": lambda: build().double(), **settings, **arguments})


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_model_equals_the_one_trained_alone(name: str, way: Any) -> None:
    recipe, data, members = recipe_of(name), images(NETWORKS[name][1]), some_members()
    ensemble = train_ensemble(recipe, data, members, way=way)
    assert ensemble.way == way, ensemble.reason
    for k, member in enumerate(members):
        alone = train_ensemble(recipe, data, [member], way="sequential")
        # float64 after 12 to 15 steps: sums in another order, no more
        assert furthest(ensemble.state_dict(k), alone.state_dict(0)) < 1e-8
        torch.testing.assert_close(ensemble.losses[k], alone.losses[0], rtol=1e-6, atol=1e-6)
    assert ensemble.losses.shape == (4, 3)
    assert (ensemble.losses[:, -1] < ensemble.losses[:, 0]).all(), "nothing was learned"


def test_alone_equals_a_hand_written_loop() -> None:
    recipe, data = recipe_of("resnet"), images((3, 8, 8))
    member = some_members()[0]
    net = first_module(recipe, member)
    optimizer = sgd(net.parameters())
    schedule = halving(optimizer)
    loader = TensorLoader(data, member.indices, batch_size=8, shuffle=True, seed=member.seed)
    curve = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        losses = []
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        schedule.step()
        curve.append(torch.stack(losses).mean())
    for way in ("sequential", *WAYS):
        # two members, so that there is something to stack
        both = train_ensemble(recipe, data, [member, member], way=way)  # type: ignore[arg-type]
        for k in (0, 1):
            assert furthest(both.state_dict(k), net.state_dict()) < 1e-8
            torch.testing.assert_close(both.losses[k].double(), torch.stack(curve), rtol=1e-6, atol=1e-6)


def test_float32_stays_as_close_as_two_plain_runs() -> None:
    # Ten steps at learning rate 0.05; ReLUs that flip at zero move two plain float32 runs with another number
    # of threads apart by 5e-3 too.
    build = partial(ResNet8, width=8)
    recipe = Recipe(build, 2, 8, partial(torch.optim.SGD, lr=0.05))
    data, members = images((3, 8, 8), dtype=torch.float32), some_members(sizes=(40, 40, 40))
    ensemble = train_ensemble(recipe, data, members, way="stacked")
    alone = train_ensemble(recipe, data, members, way="sequential")
    assert furthest(ensemble.states, alone.states) < 5e-3


@pytest.mark.parametrize("way", WAYS)
def test_augmentation_and_transform_are_each_models_own(way: Any) -> None:
    plain_data, data = (
        images((3, 8, 8), augment=augment, transform=Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
        for augment in (None, RandomCropFlip(2))
    )
    # Normalize gives float32; seven steps keep it apart from flips of ReLUs by far
    recipe = Recipe(partial(LeNet5, in_channels=3, image_size=8), 1, 6, sgd)
    members = some_members()
    ensemble = train_ensemble(recipe, data, members, way=way)
    alone = train_ensemble(recipe, data, members, way="sequential")
    plain = train_ensemble(recipe, plain_data, members, way=way)
    assert ensemble.way == way
    assert furthest(ensemble.states, alone.states) < 1e-4
    assert furthest(ensemble.states, plain.states) > 1e-3, "nothing was augmented"


def test_states_and_models_are_the_members() -> None:
    members = some_members()
    ensemble = train_ensemble(recipe_of("lenet"), images((1, 8, 8)), members, way="sequential")
    models = list(ensemble.models())
    assert len(models) == len(ensemble) == len(members)
    for k, model in enumerate(models):
        assert not model.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, ensemble.state_dict(k)[name])
    with pytest.raises(IndexError, match=r"k must lie in \[0, 4\)"):
        ensemble.state_dict(4)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_change_nothing(chunk: int) -> None:
    recipe, data, members = recipe_of("mlp"), images((12,)), some_members(sizes=(30, 30, 41, 30, 30, 24, 30))
    ensemble = train_ensemble(recipe, data, members, way="stacked", chunk=chunk)
    alone = train_ensemble(recipe, data, members, way="sequential")
    assert furthest(ensemble.states, alone.states) < 1e-8


def test_other_losses_optimizers_and_schedules() -> None:
    smooth = partial(nn.functional.cross_entropy, label_smoothing=0.2)
    data, members = images((12,)), some_members()
    results = []
    for optimizer in (
        torch.optim.AdamW,
        partial(torch.optim.RMSprop, lr=1e-3),
        partial(torch.optim.SGD, lr=0.1),
    ):
        recipe = recipe_of(
            "mlp",
            optimizer=optimizer,
            loss=smooth,
            lr_scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=3),
        )
        ensemble = train_ensemble(recipe, data, members, way="stacked")
        assert ensemble.way == "stacked", ensemble.reason
        assert (
            furthest(ensemble.states, train_ensemble(recipe, data, members, way="sequential").states) < 1e-8
        )
        results.append(ensemble.states)
    assert furthest(results[0], results[1]) > 1e-4


class Tied(nn.Module):
    """Tied weights, a frozen layer, a constant buffer, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.head = nn.Linear(12, 10).requires_grad_(False)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("scale", torch.full((12,), 0.5))
        self.register_buffer("hidden", torch.rand(12), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(torch.tanh(self.first(x))) * self.scale + self.hidden)


def test_tied_frozen_and_unused_parameters() -> None:
    recipe, data, members = recipe_of("mlp", build=lambda: Tied().double()), images((12,)), some_members()
    recipe = Recipe(recipe.build, 3, 8, partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1))
    ensemble = train_ensemble(recipe, data, members, way="stacked")
    alone = train_ensemble(recipe, data, members, way="sequential")
    assert ensemble.way == "stacked", ensemble.reason
    assert furthest(ensemble.states, alone.states) < 1e-8
    assert torch.equal(ensemble.states["first.weight"], ensemble.states["second.weight"])
    assert "hidden" not in ensemble.states
    # weight decay moves only what has a gradient, so what is unused stays as it was drawn
    assert furthest(ensemble.states, alone.states) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(
    ("build", "shape"),
    [(partial(SVHNConv8, width=2), (3, 8, 8)), (partial(WideResNet, depth=10, widen_factor=1), (3, 8, 8))],
)
def test_deeper_networks_can_be_stacked(build: Any, shape: tuple[int, ...]) -> None:
    recipe = Recipe(lambda: build().double(), 1, 8, sgd)
    members = some_members(sizes=(24, 24))
    ensemble = train_ensemble(recipe, images(shape), members, way="stacked")
    assert ensemble.way == "stacked", ensemble.reason
    alone = train_ensemble(recipe, images(shape), members, way="sequential")
    assert furthest(ensemble.states, alone.states) < 1e-8


def test_models_of_another_task_are_stacked_with_its_loss() -> None:
    targets = torch.randint(0, 2, (60,), generator=torch.Generator().manual_seed(1))
    data = TensorData(images((12,)).inputs, targets)
    recipe = Recipe(lambda: MLP(12, [8], 1).double(), 2, 8, sgd, adapter=Adapter(task="binary"))
    stacked = train_ensemble(recipe, data, some_members(), way="stacked")
    alone = train_ensemble(recipe, data, some_members(), way="sequential")
    assert stacked.way == "stacked", stacked.reason
    assert furthest(stacked.states, alone.states) < 1e-8
    by_hand = train_ensemble(replace(recipe, adapter=Adapter()), data, some_members(), way="stacked")
    assert by_hand.way == "stacked", "the recipe keeps its loss"
    assert torch.equal(by_hand.losses, stacked.losses)


class Random(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 10))


class Replaced(nn.Module):
    """Sets a buffer anew instead of updating it, which no stack sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 10)
        self.register_buffer("seen", torch.zeros(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = 0.9 * self.seen + x.detach().mean(0)
        return self.layer(x - self.seen)


class Branching(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class NormedSGD(torch.optim.SGD):
    """Divides by the norm of each tensor, as LARS does."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad /= parameter.grad.norm()
        super().step()


def by_dimensions(parameters: Any) -> torch.optim.Optimizer:
    """Decays matrices and not vectors, as is common; on a stack, vectors have two dimensions too."""
    parameters = list(parameters)
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim < 2]
    return torch.optim.SGD([{"params": decayed, "weight_decay": 0.1}, {"params": others}], lr=0.1)


@pytest.mark.parametrize("way", ["auto", "stacked"])
@pytest.mark.parametrize(
    ("build", "optimizer", "why"),
    [
        (Random, adam, "random"),
        (Replaced, adam, "buffer|not known"),
        (partial(Branching, 12, 10), adam, "data-dependent|not known|sum|unsupported"),
        (partial(MLP, 12, [8]), partial(NormedSGD, lr=0.1), "NormedSGD steps a stack otherwise"),
        (partial(MLP, 12, [8]), by_dimensions, "number of dimensions"),
        (partial(MLP, 12, [8]), torch.optim.Adafactor, "Adafactor steps a stack otherwise"),
    ],
)
def test_what_cannot_be_stacked_is_trained_one_by_one(build: Any, optimizer: Any, why: str, way: Any) -> None:
    recipe = Recipe(lambda: build().double(), 2, 8, optimizer)
    data, members = images((12,)), some_members()
    ensemble = train_ensemble(recipe, data, members, way=way)
    alone = train_ensemble(recipe, data, members, way="sequential")
    assert ensemble.way == "sequential"
    assert re.search(why, ensemble.reason), ensemble.reason
    assert furthest(ensemble.states, alone.states) == 0


def test_a_transform_that_looks_at_the_batch_is_noticed() -> None:
    data = images((12,), transform=lambda x: x - x.mean(0))
    ensemble = train_ensemble(recipe_of("mlp"), data, some_members(), way="stacked")
    assert ensemble.way == "sequential"
    assert "another loss" in ensemble.reason or "another gradient" in ensemble.reason


def test_dropout_of_nothing_is_no_obstacle() -> None:
    build = lambda: nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.0), nn.Linear(8, 10)).double()  # noqa: E731
    ensemble = train_ensemble(Recipe(build, 1, 8, sgd), images((12,)), some_members(), way="stacked")
    assert ensemble.way == "stacked", ensemble.reason


def test_a_loss_that_is_not_finite_names_the_model() -> None:
    data = images((12,))
    data.inputs[3] = float("inf")
    clean, dirty = torch.arange(10, 50), torch.arange(40)
    for way in ("sequential", "stacked", "workers"):
        with pytest.raises(FloatingPointError, match="seed 8"):
            train_ensemble(recipe_of("mlp"), data, [Member(clean, 4), Member(dirty, 8)], way=way)  # type: ignore[arg-type]


def test_it_leaves_the_random_state_and_does_not_depend_on_it() -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        ends.append(train_ensemble(recipe_of("mlp"), images((12,)), some_members()).states)
        assert torch.equal(torch.get_rng_state(), before)
    assert furthest(*ends) == 0


def test_bf16_autocast_reaches_the_stack() -> None:
    runtime = Runtime(quiet_trainer(precision="bf16-mixed"))
    recipe = Recipe(partial(MLP, 12, [8]), 2, 8, partial(torch.optim.SGD, lr=0.05))
    data, members = images((12,), dtype=torch.float32), some_members()
    exact = train_ensemble(recipe, data, members, way="sequential")
    ensemble = train_ensemble(recipe, data, members, runtime=runtime, way="stacked")
    alone = train_ensemble(recipe, data, members, runtime=runtime, way="sequential")
    assert ensemble.way == "stacked", ensemble.reason
    assert furthest(ensemble.states, exact.states) > 1e-5, "it was computed in float32"
    # a bfloat16 has 8 bits; ten steps of 0.05
    assert furthest(ensemble.states, alone.states) < 1e-2


def test_double_precision_of_a_trainer() -> None:
    runtime = Runtime(quiet_trainer(precision="64-true"))
    recipe = Recipe(partial(MLP, 12, [8]), 2, 8, adam)
    data, members = images((12,), dtype=torch.float32), some_members()
    ensemble = train_ensemble(recipe, data, members, runtime=runtime, way="stacked")
    assert ensemble.states["layers.0.weight"].dtype == torch.float64
    alone = train_ensemble(recipe, data, members, runtime=runtime, way="sequential")
    assert furthest(ensemble.states, alone.states) < 1e-8


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"members": []}, ValueError, "members is empty"),
        ({"members": [Member(torch.tensor([0, 60]), 0)]}, ValueError, r"must lie in \[0, 60\)"),
        ({"members": [Member(torch.tensor([1, 2, 1]), 0)]}, ValueError, "holds a row twice"),
        ({"members": [Member(torch.tensor([], dtype=torch.int64), 0)]}, ValueError, "is empty"),
        ({"members": [Member(torch.ones(60, dtype=torch.bool), 0)]}, TypeError, "mask.nonzero"),
        ({"members": [Member(torch.tensor([1]), -1)]}, ValueError, r"members\[0\].seed must be at least 0"),
        ({"way": "parallel"}, ValueError, "way must be one of"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: Any, message: str) -> None:
    arguments = {"members": some_members(), "way": "stacked", **change}
    with pytest.raises(error, match=message):
        train_ensemble(recipe_of("mlp"), images((12,)), arguments.pop("members"), **arguments)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        recipe_of("mlp", epochs=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        recipe_of("mlp", batch_size=0)


def test_train_classifier_returns_its_loss_curve() -> None:
    torch.manual_seed(0)
    x, y = blobs(24)
    net, loader = nn.Linear(FEATURES, 3), TensorLoader(TensorData(x, y), batch_size=24)
    expected = float(nn.functional.cross_entropy(net(x), y).detach())
    curve = train_classifier(net, loader, epochs=2, optimizer=sgd, runtime=Runtime())
    assert curve[0] == pytest.approx(expected, rel=1e-6)
    assert curve[1] < curve[0]


def test_workers_are_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.sys, "platform", "darwin")
    ensemble = train_ensemble(recipe_of("mlp"), images((12,)), some_members(), way="workers")
    assert ensemble.way != "workers"
    assert "darwin" in ensemble.reason


class Viewing(nn.Module):
    """Flattens by ``view``, which a tensor in channels_last refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3)
        self.linear = nn.Linear(3 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convolution(x).view(x.size(0), -1))


def test_a_network_that_views_its_activations_is_trained_as_it_is() -> None:
    data = TensorData(torch.randn(12, 2, 4, 4), torch.arange(12) % 2, num_classes=2)
    recipe = Recipe(Viewing, 2, 4, partial(torch.optim.SGD, lr=0.1))
    members = [Member(torch.arange(12), seed) for seed in range(2)]
    ensemble = train_ensemble(recipe, data, members, way="sequential")
    assert ensemble.losses.isfinite().all()
