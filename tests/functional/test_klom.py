"""KLOM against its definition with NumPy's histogram and SciPy's entropy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lightning_unlearn.functional import klom


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(u: np.ndarray, r: np.ndarray, bins: int, clip: float, floor: float) -> float:
    u, r = u.clip(-clip, clip), r.clip(-clip, clip)
    edges = np.linspace(min(u.min(), r.min()), max(u.max(), r.max()), bins + 1)
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (u, r))
    return float(stats.entropy(p, np.where(p > 0, np.maximum(q, floor), q)))


@pytest.mark.parametrize(("bins", "clip", "floor"), [(20, 100.0, 1e-5), (5, 1.0, 1e-3)])
def test_agrees_with_the_definition(bins: int, clip: float, floor: float) -> None:
    u, r = normal(40, 25) * 1.3 + 0.4, normal(60, 25, seed=1)
    expected = [by_hand(a, b, bins, clip, floor) for a, b in zip(u.T.numpy(), r.T.numpy(), strict=True)]
    np.testing.assert_allclose(klom(u, r, bins=bins, clip=clip, floor=floor), expected, atol=1e-12)


def test_equal_margins_are_at_no_distance_and_far_ones_at_the_floor() -> None:
    u = normal(50, 3)
    assert klom(u, u).tolist() == pytest.approx([0.0] * 3, abs=1e-15)
    assert klom(torch.ones(4, 2), torch.ones(4, 2)).tolist() == [0.0, 0.0]
    # nothing of the retrained is where the unlearned are: ln(p / floor) of each bin, 0.5 of u in each of two
    far = klom(torch.tensor([[0.0], [1.0]]), torch.tensor([[500.0], [500.0]]))
    assert float(far) == pytest.approx(math.log(1e5), abs=1e-4)


def test_shifted_models_are_farther_than_the_null() -> None:
    null = klom(normal(100, 200), normal(100, 200, seed=1)).mean()
    shifted = klom(normal(100, 200) + 1.0, normal(100, 200, seed=1)).mean()
    assert float(shifted) > 2 * float(null) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 1}, "bins"),
        ({"clip": 0.0}, "clip"),
        ({"floor": 0.0}, "floor"),
        ({"unlearned": torch.zeros(1, 2)}, "at least 2 of each"),
        ({"unlearned": torch.zeros(4)}, "shapes must be"),
        ({"unlearned": torch.zeros(4, 3)}, "shapes must be"),
        ({"retrained": torch.full((4, 2), math.nan)}, "NaN"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        klom(**{"unlearned": torch.zeros(4, 2), "retrained": torch.zeros(4, 2), **arguments})  # type: ignore[arg-type]
