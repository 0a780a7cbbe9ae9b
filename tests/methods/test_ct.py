"""CT: which kernels it transposes, what it refuses, and what the exported model has forgotten."""

from pathlib import Path

import pytest
import torch
from helpers.toys import toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten
from torch import nn

from lightning_unlearn.methods import CT, FineTune


@pytest.mark.slow
def test_wrong_labels_are_forgotten(tmp_path: Path) -> None:
    check_wrong_labels_are_forgotten(CT, tmp_path, epochs=3)  # without transposing 24% are left


def test_square_kernels_are_transposed_and_nothing_else() -> None:
    source = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, (3, 1)), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )
    model = CT(source, frozen=["3"]).model
    changed = [
        name
        for name, weight in source.named_parameters()
        if not torch.equal(model.get_parameter(name), weight)
    ]
    assert changed == ["0.weight"]
    assert torch.equal(model[0].weight, source[0].weight.transpose(-1, -2))


def test_it_is_fine_tuning_but_for_its_first_weights() -> None:
    """So what FineTune does under every Trainer, whose networks have no convolution, holds for it."""
    assert {name for name in vars(CT) if callable(getattr(CT, name))} == {"initial_model"}
    assert CT.__bases__ == (FineTune,)


@pytest.mark.parametrize(
    "source", [toy_source(), nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv1d(1, 2, 3))], ids=["linear", "flat"]
)
def test_a_network_without_a_kernel_to_transpose_is_refused(source: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"source: .* has no convolution with a square kernel"):
        CT(source)


def test_frozen_convolutions_alone_are_refused() -> None:
    source = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="CT would transpose nothing"):
        CT(source, frozen=["0"])
