"""Convolutions are laid out for the CPU where a network can do with it, and left alone where it cannot."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn.models.surgery import lay_out_for_cpu


class Viewing(nn.Module):
    """Flattens by ``view``, as much code does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3)
        self.normalisation = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalisation(self.convolution(x))
        return self.linear(x.view(x.size(0), -1))


def flattening() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))


def volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6 * 6, 3))


@pytest.mark.parametrize(
    ("build", "shape", "changed"),
    [(Viewing, (2, 8, 8), False), (flattening, (2, 8, 8), True), (volumes, (1, 8, 8, 8), False)],
)
def test_a_network_answers_as_before(build: Any, shape: tuple[int, ...], changed: bool) -> None:
    module, inputs = build().train(), torch.randn(5, *shape)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()
    expected = module(inputs)
    module.train()
    random = torch.get_rng_state()
    lay_out_for_cpu(module, lambda network: network(inputs[:2]))
    assert torch.equal(torch.get_rng_state(), random)
    assert module.training
    assert next(module.parameters()).is_contiguous() != changed
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    module.eval()
    torch.testing.assert_close(module(inputs), expected)
    module(inputs).sum().backward()
