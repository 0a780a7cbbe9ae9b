"""Retrain: fresh weights, the retain set alone."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from toys import Net, assert_same_state, quiet_trainer, state, toy_data, toy_source

from lightning_unlearn.methods import Retrain
from lightning_unlearn.models import LeNet5, ResNet8


@pytest.mark.parametrize("build", [Net, lambda: ResNet8(width=4), LeNet5])
def test_no_parameter_or_buffer_survives(build: Callable[[], nn.Module]) -> None:
    source = build()
    with torch.no_grad():  # as after training: nothing is at its initial constant
        for tensor in (*source.parameters(), *source.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    fresh = Retrain(source).model
    old, new = source.state_dict(), fresh.state_dict()
    assert old.keys() == new.keys()
    for name in old:
        if old[name].is_floating_point():
            assert not torch.isin(new[name], old[name]).any(), f"values of {name} survive"
        else:
            assert (new[name] == 0).all(), f"{name} was not reset"


def test_the_result_does_not_depend_on_the_sources_weights() -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(0)
        method = Retrain(toy_source(seed))
        quiet_trainer().fit(method, toy_data())
        ends.append(state(method.model))
    assert_same_state(*ends)


def test_it_equals_plain_training_of_the_same_fresh_model_on_the_retain_set() -> None:
    torch.manual_seed(3)
    method = Retrain(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model.load_state_dict(method.model.state_dict())
    data = toy_data()
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(method, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = data.loader("retain", train=True)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert_same_state(state(method.model), state(model))


class Token(nn.Module):
    """Owns a parameter that no layer resets."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(6))
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x + self.token)


def test_a_model_that_cannot_be_reset_needs_a_builder() -> None:
    with pytest.raises(ValueError, match="fresh"):
        Retrain(Token())
    method = Retrain(Token(), fresh=Token)
    quiet_trainer(max_epochs=1).fit(method, toy_data())


def test_a_builder_of_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="fresh"):
        Retrain(Net(8), fresh=lambda: Net(9))
