"""TaskNegation: the step, what stays out of it, and what the exported model has forgotten."""

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.of_a_class import check_the_class_is_forgotten, instead
from helpers.toys import quiet_trainer, state, toy_data, toy_source
from torch import nn

from lightning_unlearn.data import Classes
from lightning_unlearn.methods import SSD, TaskNegation
from lightning_unlearn.methods.base import OneShotModule

SETTINGS = {"TaskNegation": {"quick": {"epochs": 1}}}


@pytest.mark.slow
def test_the_class_is_forgotten(tmp_path: Path) -> None:
    check_the_class_is_forgotten(TaskNegation, tmp_path)
    with pytest.raises(AssertionError, match=r"it still knows 100"):  # as far away from the others' training
        check_the_class_is_forgotten(instead(TaskNegation, forget="retain"), tmp_path)


def test_it_goes_the_other_way_than_a_step_on_the_forget_set() -> None:
    source = nn.Sequential(nn.Linear(6, 3))
    data = toy_data(batch_size=60)
    method = TaskNegation(source, scale=2.0, epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    quiet_trainer(max_epochs=0).fit(method, data)
    inputs, targets = next(iter(data.loader("forget")))
    nn.functional.cross_entropy(source(inputs), targets).backward()
    for name, weight in source.named_parameters():
        torch.testing.assert_close(method.model.get_parameter(name), weight + 2.0 * 0.1 * weight.grad)


def test_what_is_frozen_stays_and_the_fine_tuned_copy_leaves_nothing() -> None:
    source = toy_source()
    method = TaskNegation(source, frozen=["net.0"])
    quiet_trainer(max_epochs=0).fit(method, toy_data())
    now, before = state(method.model), state(source)
    assert torch.equal(now["net.0.weight"], before["net.0.weight"])
    assert not torch.equal(now["net.4.weight"], before["net.4.weight"])
    inputs = torch.cat([x for x, _ in toy_data_set_up().loader("retain")])
    with torch.no_grad():
        mean = method.model.net[0](inputs).mean(0)
    torch.testing.assert_close(now["net.1.running_mean"], mean, rtol=0.1, atol=0.1)


def toy_data_set_up():  # type: ignore[no-untyped-def]
    data = toy_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("method", [SSD, TaskNegation])
def test_random_samples_are_warned_of_and_a_class_is_not(method: type[OneShotModule]) -> None:
    with pytest.warns(
        UserWarning, match=f"{method.__name__} is made for whole classes.*Rewind or ReferenceKL"
    ):
        quiet_trainer(max_epochs=0).fit(method(toy_source()), toy_data())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*whole classes")
        quiet_trainer(max_epochs=0).fit(method(toy_source()), toy_data(Classes([1])))


@pytest.mark.parametrize(("argument", "value"), [("scale", 0.0), ("epochs", 0)])
def test_arguments_outside_their_range_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        TaskNegation(toy_source(), **{argument: value})
