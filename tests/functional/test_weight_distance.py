"""Layer-wise weight distance against numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_unlearn.functional import weight_distance


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


def test_distance_of_each_layer_matches_numpy():
    model, reference = network(0), network(1)
    distances = weight_distance(dict(model.named_parameters()), dict(reference.named_parameters()))
    assert list(distances) == ["0", "1", "3"]
    for layer, distance in distances.items():
        w, r = (
            np.concatenate([p.detach().double().numpy().ravel() for p in m.get_submodule(layer).parameters()])
            for m in (model, reference)
        )
        assert distance.item() == pytest.approx(np.linalg.norm(w - r) / np.linalg.norm(r), rel=1e-5)
        assert not distance.requires_grad
    assert distances["1"].item() == 0.0  # batch normalisation starts alike whatever the seed


def test_whole_states_and_half_precision():
    state = network(0).state_dict()
    assert all(d.item() == 0.0 for d in weight_distance(state, state).values())
    halved = {
        name: (0.5 * value).bfloat16() if value.is_floating_point() else value
        for name, value in state.items()
    }
    for distance in weight_distance(halved, state).values():
        assert distance.dtype == torch.float32
        assert distance.item() == pytest.approx(0.5, rel=1e-2)
    assert weight_distance({"scale": torch.tensor(3.0)}, {"scale": torch.tensor(2.0)})[""].item() == 0.5


def test_arguments_are_checked():
    state = network(0).state_dict()
    with pytest.raises(ValueError, match=r"same names, but \['3.bias'\] \(of 1\)"):
        weight_distance({name: value for name, value in state.items() if name != "3.bias"}, state)
    with pytest.raises(
        ValueError, match=r"weights\['3.bias'\] and its reference have shapes \(5,\) and \(2,\)"
    ):
        weight_distance(state | {"3.bias": torch.zeros(5)}, state)
    with pytest.raises(ValueError, match="no floating-point tensor"):
        weight_distance({"n": torch.tensor(1)}, {"n": torch.tensor(1)})
    with pytest.raises(ValueError, match="layer '3' are 0"):
        weight_distance(state, state | {"3.weight": torch.zeros(2, 12), "3.bias": torch.zeros(2)})
