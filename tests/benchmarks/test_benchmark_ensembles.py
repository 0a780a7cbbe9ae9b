"""Point 9: the same models trained one after another in a plain loop, against an ensemble.

The plain loop indexes tensors in memory, uses fused optimizers, and has as many threads as suit it best: one, or one
a core. Wall-clock time, since an ensemble may use all cores.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from benchmarks.measuring import Table, Turns
from torch import nn

from lightning_unlearn.data import TensorData
from lightning_unlearn.ensembles import Ensemble, Member, Recipe, train_ensemble
from lightning_unlearn.ensembles.recipe import first_module
from lightning_unlearn.ensembles.workers import available_cores
from lightning_unlearn.models import MLP, LeNet5, ResNet8

SAMPLES = 6000

adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True)


@dataclass(frozen=True)
class Case:
    """An ensemble to train, and how many times faster than a plain loop it has to be."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    models: int
    batch_size: int
    steps: int
    epochs: int
    optimizer: Any
    at_least: float


MLP_64_128_10 = partial(MLP, 64, [128], 10)
CASES = {
    "MLP, Adam, K=64, batch 32": Case(MLP_64_128_10, (64,), 64, 32, 25, 8, adam, 3.0),
    "MLP, Adam, K=64, batch 128": Case(MLP_64_128_10, (64,), 64, 128, 25, 8, adam, 3.0),
    "LeNet-5, SGD, K=16, batch 128": Case(LeNet5, (1, 28, 28), 16, 128, 10, 4, sgd, 1.0),
    "LeNet-5, SGD, K=32, batch 8": Case(LeNet5, (1, 28, 28), 32, 8, 50, 3, sgd, 1.0),
    "ResNet-8, SGD, K=8, batch 32": Case(ResNet8, (3, 32, 32), 8, 32, 8, 3, sgd, 0.95),
    "ResNet-8, SGD, K=8, batch 128": Case(ResNet8, (3, 32, 32), 8, 128, 3, 3, sgd, 0.95),
}


def plain_loop(recipe: Recipe, data: TensorData, members: list[Member], threads: int) -> None:
    torch.set_num_threads(threads)
    for member in members:
        network = first_module(recipe, member)
        optimizer = recipe.optimizer(network.parameters())
        generator = torch.Generator().manual_seed(member.seed)
        inputs, targets = data.inputs[member.indices], data.targets[member.indices]
        for _ in range(recipe.epochs):
            for rows in torch.randperm(len(inputs), generator=generator).split(recipe.batch_size):
                optimizer.zero_grad()
                recipe.loss(network(inputs[rows]), targets[rows]).backward()
                optimizer.step()


def ensemble(recipe: Recipe, data: TensorData, members: list[Member], threads: int) -> Ensemble:
    torch.set_num_threads(threads)
    return train_ensemble(recipe, data, members)


@pytest.mark.parametrize("name", CASES)
def test_an_ensemble_is_not_slower_than_a_plain_loop(
    name: str, interleave: Callable[..., Turns], table: Table
) -> None:
    case, cores, threads = CASES[name], available_cores(), torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    data = TensorData(
        torch.randn(SAMPLES, *case.shape, generator=generator),
        torch.randint(10, (SAMPLES,), generator=generator),
        num_classes=10,
    )
    size = case.steps * case.batch_size
    members = [
        Member(torch.randperm(SAMPLES, generator=generator)[:size], seed) for seed in range(case.models)
    ]
    recipe = Recipe(case.build, case.epochs, case.batch_size, case.optimizer)
    plain_loop(recipe, data, members[:1], 1)
    way = ensemble(recipe, data, members, cores).way
    arms = {
        "one thread": partial(plain_loop, recipe, data, members, 1),
        "a thread a core": partial(plain_loop, recipe, data, members, cores),
        "ensemble": partial(ensemble, recipe, data, members, cores),
    }
    try:
        turns = interleave(arms, warmup=0, clock=time.perf_counter)
    finally:
        torch.set_num_threads(threads)
    plain = min((arm for arm in arms if arm != "ensemble"), key=turns.median)
    assert table.at_least(
        9,
        f"{name}: one after another in a plain loop ÷ train_ensemble, {cores} cores, wall-clock time",
        turns.ratio(plain, "ensemble"),
        case.at_least,
        f"{turns.median(plain):.3g} / {turns.median('ensemble'):.3g} s, {plain}, against {way}; "
        f"{turns.spread(plain, 'ensemble')}",
    )
