"""Selections and perturbations of scalars against brute force."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.testing import assert_close

from lightning_unlearn.functional import (
    perturb_mixed,
    perturb_scaled,
    select_random,
    select_random_top_k,
    select_top_k,
    select_top_k_tensors,
)

SHAPES = {"conv.weight": (4, 3, 3, 3), "empty": (0, 5), "conv.bias": (4,), "scale": (), "fc.weight": (10, 16)}
TOTAL = 108 + 4 + 1 + 160


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sensitivities(seed: int, distinct: int | None = None) -> dict[str, torch.Tensor]:
    """Random ones; of few distinct values where ties are wanted."""
    g = generator(seed)
    if distinct is None:
        return {n: torch.rand(s, generator=g) for n, s in SHAPES.items()}
    return {n: torch.randint(distinct, s, generator=g).float() for n, s in SHAPES.items()}


def brute_force_top_k(values: dict[str, torch.Tensor], k: int) -> dict[str, list[int]]:
    entries = [
        (-value, order, position)
        for order, tensor in enumerate(values.values())
        for position, value in enumerate(tensor.reshape(-1).tolist())
    ]
    chosen = sorted(entries)[:k]
    return {n: sorted(p for _, o, p in chosen if o == order) for order, n in enumerate(values)}


def as_lists(selection: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    assert all(p.dtype == torch.int64 and p.ndim == 1 for p in selection.values())
    return {name: positions.tolist() for name, positions in selection.items()}


def count(selection: dict[str, torch.Tensor]) -> int:
    return sum(p.numel() for p in selection.values())


@pytest.mark.parametrize("k", [1, 2, 45, 112, TOTAL - 1, TOTAL])
@pytest.mark.parametrize("distinct", [None, 1, 2, 5])
def test_top_k_matches_sorting_everything(k, distinct):
    values = sensitivities(k, distinct)
    assert as_lists(select_top_k(values, k)) == brute_force_top_k(values, k)


def test_top_k_of_any_memory_format_and_dtype():
    values = sensitivities(0, distinct=50)
    expected = brute_force_top_k(values, 30)
    values["conv.weight"] = values["conv.weight"].to(memory_format=torch.channels_last)
    values["fc.weight"] = values["fc.weight"].bfloat16()
    values["conv.bias"] = values["conv.bias"].double()
    assert as_lists(select_top_k(values, 30)) == expected


def test_whole_tensors_are_chosen_by_their_sensitivity():
    parameters = {n: torch.empty(s) for n, s in SHAPES.items()}
    values = {n: torch.tensor(float(i)) for i, n in enumerate(SHAPES)}
    chosen = as_lists(select_top_k_tensors(values, parameters, 2))
    assert chosen == {
        "conv.weight": [],
        "empty": [],
        "conv.bias": [],
        "scale": [0],
        "fc.weight": list(range(160)),
    }
    with pytest.raises(ValueError, match=r"k must lie in \[1, 5\]"):
        select_top_k_tensors(values, parameters, 6)


@pytest.mark.parametrize("fraction", [0.004, 0.05, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("as_tensors", [True, False])
def test_random_choice_has_the_exact_count_without_repetition(fraction, as_tensors):
    shapes = {n: torch.empty(s) for n, s in SHAPES.items()} if as_tensors else SHAPES
    selection = select_random(shapes, fraction, generator())
    assert list(selection) == list(SHAPES)
    assert count(selection) == round(fraction * TOTAL)
    for name, positions in as_lists(selection).items():
        assert positions == sorted(set(positions))
        assert all(0 <= p < math.prod(SHAPES[name]) for p in positions)


def test_random_choice_follows_the_generator():
    first, again, other = (as_lists(select_random(SHAPES, 0.2, generator(s))) for s in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("fraction", [0.3, 0.7])
def test_random_choice_is_uniform_over_all_subsets(fraction):
    g = generator()
    shapes = {"a": (2,), "b": (3,)}
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(4000):
        chosen = select_random(shapes, fraction, g)
        key = tuple(chosen["a"].tolist() + [2 + p for p in chosen["b"].tolist()])
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == math.comb(5, round(5 * fraction))
    assert chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize(("fraction", "k"), [(0.1, 1), (0.1, 20), (0.1, 27), (0.6, 45), (1.0, 5)])
def test_random_top_k_holds_the_top_k_and_the_count_of_random_k(fraction, k):
    values = sensitivities(0)
    selection = select_random_top_k(values, fraction, k, generator(3))
    assert count(selection) == round(fraction * TOTAL)
    top, random = select_top_k(values, k), select_random(SHAPES, fraction, generator(3))
    for name, positions in as_lists(selection).items():
        assert positions == sorted(set(positions))
        assert set(top[name].tolist()) <= set(positions)
        # All that is not Top-K comes from Random-k's own choice.
        assert set(positions) - set(top[name].tolist()) <= set(random[name].tolist())


def test_random_top_k_drops_members_of_the_choice_uniformly():
    values = {"w": torch.arange(12.0)}
    dropped = np.zeros(12)
    for seed in range(600):
        random = set(select_random({"w": (12,)}, 0.5, generator(seed))["w"].tolist())
        kept = set(select_random_top_k(values, 0.5, 2, generator(seed))["w"].tolist())
        for position in random - kept:
            dropped[position] += 1
    assert dropped[10:].sum() == 0  # the Top-K stay
    assert chisquare(dropped[:10]).pvalue > 1e-3


def test_large_models_are_cheap_in_memory():
    selection = select_random({"w": (1_000_000, 1_000_000)}, 1e-9, generator())
    assert count(selection) == 1000


@pytest.mark.parametrize("channels_last", [False, True])
def test_perturb_scaled_matches_numpy(channels_last):
    parameter = torch.nn.Parameter(torch.randn(4, 3, 2, 2))
    if channels_last:
        parameter.data = parameter.data.to(memory_format=torch.channels_last)
    expected = parameter.detach().clone().contiguous().numpy().reshape(-1).copy()
    positions = torch.tensor([5, 0, 47, 13])
    expected[positions.numpy()] *= np.float32(1.3)
    perturb_scaled(parameter, positions, epsilon=0.3)
    assert_close(parameter.detach().contiguous().reshape(-1).numpy(), expected)
    assert parameter.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert parameter.requires_grad
    assert parameter.grad_fn is None


def test_perturb_scaled_of_scalars_nothing_and_half_precision():
    scalar = torch.tensor(2.0)
    perturb_scaled(scalar, torch.tensor([], dtype=torch.int64), 0.5)
    assert scalar.item() == 2.0
    perturb_scaled(scalar, torch.tensor([0]), 0.5)
    assert scalar.item() == 3.0
    half = torch.full((4,), 3.0, dtype=torch.bfloat16)
    perturb_scaled(half, torch.tensor([1]), 0.01)
    assert half.tolist() == [3.0, torch.tensor(3.03, dtype=torch.bfloat16).item(), 3.0, 3.0]


def test_perturb_mixed_uses_the_values_before_any_was_written():
    epsilon = 0.25
    parameters = {n: torch.randn(s, dtype=torch.float64) for n, s in SHAPES.items()}
    parameters["conv.weight"] = parameters["conv.weight"].to(memory_format=torch.channels_last)
    before = {n: p.clone() for n, p in parameters.items()}
    selection = select_random(SHAPES, 0.3, generator(1))
    perturb_mixed(parameters, selection, epsilon, generator(2))

    old = torch.cat([before[n].reshape(-1)[p] for n, p in selection.items()])
    new = torch.cat([parameters[n].reshape(-1)[p] for n, p in selection.items()])
    partners = (new - (1 - epsilon) * old) / epsilon
    source = (partners.unsqueeze(1) - old).abs().argmin(1)
    assert_close(partners, old[source])  # every partner is a selected weight, as it was before
    assert sorted(source.tolist()) == list(range(len(old)))  # each exactly once
    assert not (source == torch.arange(len(old))).any()  # and never itself
    for name, positions in selection.items():
        untouched = torch.ones(parameters[name].numel(), dtype=torch.bool)
        untouched[positions] = False
        assert torch.equal(parameters[name].reshape(-1)[untouched], before[name].reshape(-1)[untouched])


def test_perturb_mixed_follows_the_generator():
    def perturbed(seed):
        weight = torch.arange(50.0)
        perturb_mixed({"w": weight}, {"w": torch.arange(50)}, 0.5, generator(seed))
        return weight.tolist()

    assert perturbed(0) == perturbed(0) != perturbed(1)


def test_perturbations_run_in_deterministic_mode():
    torch.use_deterministic_algorithms(True)
    try:
        weight = torch.ones(3, 3)
        perturb_scaled(weight, torch.tensor([4]), 1.0)
        perturb_mixed({"w": weight}, {"w": torch.tensor([0, 4])}, 1.0, generator())
    finally:
        torch.use_deterministic_algorithms(False)
    assert weight[0, 0] == 2
    assert weight[1, 1] == 1


def test_selection_arguments_are_checked():
    values = sensitivities(0)
    for k in (0, -1, TOTAL + 1):
        with pytest.raises(ValueError, match=r"k must lie in \[1, "):
            select_top_k(values, k)
    for k in (1.0, True):
        with pytest.raises(TypeError, match="k must be an integer"):
            select_top_k(values, k)
    with pytest.raises(ValueError, match=r"k must lie in \[1, 27\]"):
        select_random_top_k(values, 0.1, 28, generator())
    for fraction in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\]"):
            select_random(SHAPES, fraction, generator())
    with pytest.raises(ValueError, match="chooses none"):
        select_random(SHAPES, 0.001, generator())
    with pytest.raises(ValueError, match="no scalar to choose from"):
        select_random({}, 0.5, generator())
    for bad in (-1.0, math.nan, math.inf):
        values["conv.bias"][2] = bad
        with pytest.raises(ValueError, match=r"sensitivities\['conv.bias'\]"):
            select_top_k(values, 3)


def test_perturbation_arguments_are_checked():
    weight = torch.zeros(2, 2)
    for epsilon in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="epsilon must be finite and not 0"):
            perturb_scaled(weight, torch.tensor([0]), epsilon)
    for positions, message in [
        (torch.tensor([4]), "positions outside 0 to 3"),
        (torch.tensor([-1]), "positions outside 0 to 3"),
        (torch.tensor([1, 1]), "repeated positions"),
        (torch.tensor([1.0]), "one-dimensional int64"),
        (torch.tensor([[1]]), "one-dimensional int64"),
    ]:
        with pytest.raises(ValueError, match=message):
            perturb_scaled(weight, positions, 0.1)
    for epsilon in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"epsilon must lie in \(0, 1\]"):
            perturb_mixed({"w": weight}, {"w": torch.tensor([0, 1])}, epsilon, generator())
    with pytest.raises(ValueError, match="at least two"):
        perturb_mixed({"w": weight}, {"w": torch.tensor([0])}, 0.5, generator())
    with pytest.raises(KeyError, match="selection names 'v'"):
        perturb_mixed({"w": weight}, {"v": torch.tensor([0, 1])}, 0.5, generator())
