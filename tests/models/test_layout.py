"""Convolutions are laid out for the CPU where a network can do with it, and left alone where it cannot."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn.models.surgery import lay_out_for_cpu, unsafe_for_cpu


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


def narrow() -> nn.Module:
    """Gradients of its second layer would be written beyond their memory."""
    convolutions = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1, stride=2)
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(4 * 4 * 4, 3))


@pytest.mark.parametrize(
    ("layer", "unsafe"),
    [
        (nn.Conv2d(15, 32, 1, stride=2), True),
        (nn.Conv2d(16, 8, 1, stride=2), False),
        (nn.Conv2d(8, 8, 3, stride=2), False),
        (nn.Conv2d(8, 8, 1), False),
        (nn.Conv2d(32, 64, 1, stride=2, groups=4), False),
        (nn.ConvTranspose2d(32, 8, 1, stride=2), True),
        (nn.ConvTranspose2d(8, 32, 1, stride=2), False),
    ],
)
def test_what_a_cpu_cannot_compute_channels_last_is_known(layer: nn.Module, unsafe: bool) -> None:
    """As the issue of oneDNN says; with torch 2.14, 8 channels of either kind were seen to end the process."""
    assert (unsafe_for_cpu(nn.Sequential(nn.ReLU(), layer)) == "1") == unsafe


def volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6 * 6, 3))


@pytest.mark.parametrize(
    ("build", "shape", "changed"),
    [
        (Viewing, (2, 8, 8), False),
        (flattening, (2, 8, 8), True),
        (narrow, (2, 8, 8), False),
        (volumes, (1, 8, 8, 8), False),
    ],
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
