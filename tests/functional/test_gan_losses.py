"""WGAN-GP losses: closed forms, and the penalty's second derivative against finite differences."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_unlearn.functional import (
    generator_loss,
    gradient_penalty,
    sort_posteriors,
    wasserstein_critic_loss,
)


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    real, fake = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64).softmax(-1)
    return sort_posteriors(real), sort_posteriors(fake)


def test_sort_posteriors_matches_numpy_and_routes_gradients():
    p = torch.randn(5, 7).softmax(-1).requires_grad_()
    ordered = sort_posteriors(p)
    assert_close(ordered.detach().numpy(), -np.sort(-p.detach().numpy(), axis=-1))
    ordered[:, 0].sum().backward()
    assert torch.equal(p.grad.argmax(-1), p.argmax(-1))
    assert p.grad.sum().item() == 5


def test_critic_loss_prefers_high_scores_on_real():
    real, fake = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([5.0, 7.0])
    assert wasserstein_critic_loss(real, fake).item() == 6.0 - 3.0
    half = torch.full((5000,), 3.0, dtype=torch.float16)  # its sum is not a float16
    assert wasserstein_critic_loss(half, half + 1).item() == 1.0


def test_generator_loss_is_eq_6():
    scores, ce = torch.tensor([1.0, 3.0]), torch.tensor(5.0)
    for alpha in (0.0, 0.25, 1.0):
        assert generator_loss(scores, ce, alpha).item() == pytest.approx(-alpha * 2.0 + (1 - alpha) * 5.0)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_penalty_of_a_linear_critic_is_closed_form(p):
    slope = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    real, fake = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = 7.0 * (np.linalg.norm(slope.numpy(), ord=p) - 1) ** 2
    assert gradient_penalty(lambda x: x @ slope, real, fake, weight=7.0, p=p).item() == pytest.approx(
        expected
    )


def test_penalty_interpolates_with_one_epsilon_a_sample():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum((1, 2))

    real, fake = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    epsilon = torch.tensor([0.0, 0.25, 1.0])
    penalty = gradient_penalty(critic, real, fake, epsilon=epsilon)
    mixed = torch.stack([fake[0], 0.25 * real[1] + 0.75 * fake[1], real[2]])
    assert_close(seen[0], mixed)
    norms = 2 * np.linalg.norm(mixed.numpy().reshape(3, -1), axis=1)
    assert penalty.item() == pytest.approx(10.0 * ((norms - 1) ** 2).mean())


def test_penalty_gradient_matches_finite_differences(critic, pair):
    epsilon = torch.rand(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def penalty() -> torch.Tensor:
        return gradient_penalty(critic, *pair, epsilon=epsilon)

    penalty().backward()
    step = 1e-6
    for name, parameter in critic.named_parameters():
        if name == "2.bias":  # a constant added to every score has no slope
            assert parameter.grad is None or parameter.grad.abs().max() == 0
            continue
        numeric = torch.empty_like(parameter)
        for i in range(parameter.numel()):
            flat = parameter.data.view(-1)
            value = flat[i].item()
            flat[i] = value + step
            above = penalty().item()
            flat[i] = value - step
            below = penalty().item()
            flat[i] = value
            numeric.view(-1)[i] = (above - below) / (2 * step)
        assert numeric.abs().max() > 1e-3
        assert_close(parameter.grad, numeric, rtol=1e-6, atol=1e-8)


def test_penalty_leaves_the_generator_alone(critic, pair):
    real, fake = (x.clone().requires_grad_() for x in pair)
    gradient_penalty(critic, real, fake).backward()
    assert real.grad is None
    assert fake.grad is None


def test_penalty_gradient_is_finite_for_a_flat_critic():
    slope = torch.zeros(4, requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ slope, torch.rand(3, 4), torch.rand(3, 4))
    penalty.backward()
    assert penalty.item() == 10.0
    assert slope.grad.isfinite().all()


def test_penalty_of_a_half_precision_critic_is_float32(critic, pair):
    real, fake = (x.bfloat16() for x in pair)
    penalty = gradient_penalty(critic.bfloat16(), real, fake, epsilon=torch.full((6,), 0.5))
    penalty.backward()
    assert penalty.dtype == torch.float32
    assert critic[0].weight.grad.isfinite().all()


def test_arguments_are_checked(critic, pair):
    real, fake = pair
    with pytest.raises(ValueError, match="real and fake must have one shape"):
        gradient_penalty(critic, real[:3], fake)
    with pytest.raises(ValueError, match="weight must be"):
        gradient_penalty(critic, real, fake, weight=0.0)
    with pytest.raises(ValueError, match="p must be at least 1"):
        gradient_penalty(critic, real, fake, p=0.5)
    with pytest.raises(ValueError, match="epsilon must hold one value a sample"):
        gradient_penalty(critic, real, fake, epsilon=torch.rand(2))
    with pytest.raises(ValueError, match="critic must return one score a sample"):
        gradient_penalty(lambda x: x, real, fake)
    with pytest.raises(ValueError, match="N > 0"):
        gradient_penalty(critic, real[:0], fake[:0])
    for alpha in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\]"):
            generator_loss(torch.ones(2), torch.tensor(1.0), alpha)
    with pytest.raises(ValueError, match="retain_ce must be a scalar"):
        generator_loss(torch.ones(2), torch.ones(2), 0.5)
    with pytest.raises(ValueError, match="fake_scores holds no sample"):
        generator_loss(torch.ones(0), torch.tensor(1.0), 0.5)
    with pytest.raises(ValueError, match="real_scores holds no sample"):
        wasserstein_critic_loss(torch.ones(0), torch.ones(2))
