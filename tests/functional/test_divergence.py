"""Divergences against scipy and closed forms, at the edges of their range and in half precision."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from scipy.stats import entropy as scipy_entropy
from torch.testing import assert_close

from lightning_unlearn.functional import (
    activation_distance,
    confidence,
    entropy,
    js_divergence,
    js_from_logits,
    kl_divergence,
    kl_from_logits,
    posteriors,
    similarity,
)

POSTERIOR_FUNCTIONS = [
    lambda p: js_divergence(p, p),
    lambda p: kl_divergence(p, p),
    lambda p: similarity(p, p),
    lambda p: activation_distance(p, p),
    entropy,
    confidence,
]


def random_logits(seed: int, n: int = 64, classes: int = 7, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)


def test_js_matches_scipy():
    p, q = random_logits(0).softmax(-1), random_logits(1).softmax(-1)
    expected = jensenshannon(p.numpy(), q.numpy(), base=2, axis=-1) ** 2
    assert_close(js_divergence(p, q).numpy(), expected, rtol=1e-12, atol=1e-12)
    assert_close(js_from_logits(p.log(), q.log()).numpy(), expected, rtol=1e-12, atol=1e-12)
    assert_close(js_divergence(p.float(), q.float()).double().numpy(), expected, rtol=1e-5, atol=1e-6)
    natural = jensenshannon(p.numpy(), q.numpy(), axis=-1) ** 2
    assert_close(js_divergence(p, q, base=None).numpy(), natural, rtol=1e-12, atol=1e-12)


def test_js_follows_the_corrected_expansion_of_eq_9():
    p, q = random_logits(0).softmax(-1), random_logits(1).softmax(-1)
    expanded = math.log(2) + 0.5 * (p * p.log() + q * q.log() - (p + q) * (p + q).log()).sum(-1)
    assert_close(js_divergence(p, q, base=None), expanded)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_js_is_exact_on_one_hot_and_does_not_depend_on_the_number_of_classes(classes, dtype):
    p, q = torch.zeros(3, classes, dtype=dtype), torch.zeros(3, classes, dtype=dtype)
    p[:, 0] = 1
    q[0, 0], q[1, 1] = 1, 1  # the same, disjoint, half
    q[2, :2] = 0.5
    js = js_divergence(p, q)
    half = jensenshannon([1, 0], [0.5, 0.5], base=2) ** 2
    assert js.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert js[:2].tolist() == [0.0, 1.0]
    assert js[2].item() == pytest.approx(half, rel=1e-6)


@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_js_of_nearly_disjoint_posteriors(classes):
    logits = torch.zeros(2, classes)
    logits[0, 0], logits[1, 1] = 40.0, 40.0
    js = js_from_logits(logits[:1], logits[1:])
    assert js.item() == pytest.approx(1.0, abs=1e-6)
    assert js.item() <= 1.0


def test_js_stays_in_range_and_symmetric():
    generator = torch.Generator().manual_seed(0)
    p = (20 * torch.randn(2000, 10, generator=generator)).softmax(-1)
    q = (20 * torch.randn(2000, 10, generator=generator)).softmax(-1)
    p[:500] = q[:500] * (1 + 1e-7)  # equal but for rounding, where a naive sum goes below 0
    js = js_divergence(p, q)
    assert js.min() >= 0
    assert js.max() <= 1
    assert_close(js, js_divergence(q, p), rtol=0, atol=1e-6)


def test_js_survives_the_smallest_posterior_there_is():
    tiny = torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps
    p, q = torch.tensor([[tiny, 1.0]]), torch.tensor([[0.0, 1.0]])
    assert js_divergence(p, q).item() == pytest.approx(0.0, abs=1e-40)
    assert kl_divergence(q, p).item() == 0.0


def test_js_gradient_matches_finite_differences():
    p, q = random_logits(0, n=5), random_logits(1, n=5)
    p.requires_grad_()
    q.requires_grad_()
    assert torch.autograd.gradcheck(js_from_logits, (p, q))
    kl = lambda a, b: kl_from_logits(a, b, reduction="none")  # noqa: E731
    assert torch.autograd.gradcheck(kl, (p, q))


@pytest.mark.parametrize("function", [js_divergence, kl_divergence, activation_distance])
def test_gradients_are_finite_at_zero_posteriors(function):
    p = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], requires_grad=True)
    q = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.75, 0.0]], requires_grad=True)
    function(p, q).sum().backward()
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("function", [js_from_logits, kl_from_logits])
def test_rounding_to_zero_does_not_stop_the_gradient(function):
    p = random_logits(0, n=500).float()
    q = (p + 1e-4 * random_logits(1, n=500).float()).requires_grad_()
    function(p, q).sum().backward()  # a divergence of about 1e-9, less than the rounding of its terms
    assert (q.grad.abs().sum(-1) > 0).all()


def test_js_and_entropy_gradients_are_finite_at_disjoint_posteriors():
    p = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    q = torch.tensor([[0.0, 1.0, 0.0]], requires_grad=True)
    (js_divergence(p, q) + entropy(p)).sum().backward()
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()
    assert p.grad.abs().sum() > 0


def test_kl_matches_scipy():
    p, q = random_logits(0).softmax(-1), random_logits(1).softmax(-1)
    expected = rel_entr(p.numpy(), q.numpy()).sum(-1)
    assert_close(kl_divergence(p, q).numpy(), expected)
    assert_close(kl_divergence(p, q, base=2).numpy(), expected / np.log(2))
    assert_close(kl_divergence(p.T, q.T, dim=0).numpy(), expected)
    assert_close(kl_from_logits(p.log() + 5, q.log() - 3, reduction="none").numpy(), expected)
    assert kl_from_logits(p.log(), q.log()).item() == pytest.approx(expected.mean())
    assert kl_from_logits(p.log(), q.log(), reduction="sum").item() == pytest.approx(expected.sum())
    assert not np.allclose(expected, rel_entr(q.numpy(), p.numpy()).sum(-1))  # the order of arguments shows


def test_kl_at_zeros():
    one_hot, uniform = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    assert kl_divergence(one_hot, uniform).item() == pytest.approx(math.log(2))
    assert kl_divergence(uniform, one_hot).item() == math.inf
    assert kl_from_logits(one_hot.log(), uniform.log()).item() == pytest.approx(math.log(2))


def test_kl_from_logits_is_finite_where_posteriors_underflow():
    p, q = torch.tensor([[0.0, 0.0]]), torch.tensor([[500.0, -500.0]], requires_grad=True)
    kl = kl_from_logits(p, q)
    kl.backward()
    assert kl.item() == pytest.approx(500 - math.log(2))
    assert_close(q.grad, torch.tensor([[0.5, -0.5]]))  # softmax(q) - softmax(p)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", [kl_from_logits, js_from_logits])
def test_half_precision_logits_are_computed_in_float32(function, dtype):
    p, q = random_logits(0, classes=100).to(dtype), random_logits(1, classes=100).to(dtype)
    result = function(p, q)
    assert result.dtype == torch.float32
    assert_close(result, function(p.double(), q.double()).float(), rtol=1e-5, atol=1e-6)
    q.requires_grad_()
    function(p, q).sum().backward()
    assert q.grad.dtype == dtype
    assert q.grad.isfinite().all()
    assert q.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_posteriors_are_accepted(dtype):
    p, q = (
        random_logits(0, classes=100).softmax(-1).to(dtype),
        random_logits(1, classes=100).softmax(-1).to(dtype),
    )
    assert_close(js_divergence(p, q), js_divergence(p.double(), q.double()).float(), rtol=1e-4, atol=1e-5)
    assert posteriors(p).dtype == torch.float32
    assert entropy(p).dtype == torch.float32


def test_mixed_dtypes_are_promoted():
    p, q = random_logits(0), random_logits(1)
    assert js_from_logits(p.bfloat16(), q).dtype == torch.float64
    assert kl_from_logits(p.float(), q.half()).dtype == torch.float32


def test_from_logits_works_under_vmap():
    p, q = random_logits(0, n=6).view(3, 2, 7), random_logits(1, n=6).view(3, 2, 7)
    assert_close(torch.vmap(js_from_logits)(p, q), js_from_logits(p, q))
    assert_close(torch.vmap(kl_from_logits)(p, q), kl_from_logits(p, q, reduction="none").mean(-1))


def test_similarity_activation_distance_entropy_and_confidence():
    p, q = random_logits(0).softmax(-1), random_logits(1).softmax(-1)
    js = jensenshannon(p.numpy(), q.numpy(), base=2, axis=-1) ** 2
    assert similarity(p, q).item() == pytest.approx(1 - js.mean())
    distances = np.linalg.norm(p.numpy() - q.numpy(), axis=-1)
    assert_close(activation_distance(p, q, reduction="none").numpy(), distances)
    assert activation_distance(p, q).item() == pytest.approx(distances.mean())
    assert_close(entropy(p).numpy(), scipy_entropy(p.numpy(), axis=-1))
    assert_close(entropy(p, base=2).numpy(), scipy_entropy(p.numpy(), base=2, axis=-1))
    assert_close(confidence(p).numpy(), p.numpy().max(-1))


@pytest.mark.parametrize("function", POSTERIOR_FUNCTIONS)
@pytest.mark.parametrize(
    "bad", [torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 0.2]]), torch.tensor([[math.nan, 1.0]])]
)
def test_what_is_not_a_posterior_is_refused(function, bad):
    with pytest.raises(ValueError, match="p must hold posteriors"):
        function(bad)


@pytest.mark.parametrize("function", POSTERIOR_FUNCTIONS)
def test_integers_and_single_classes_are_refused(function):
    with pytest.raises(TypeError, match="p must be a floating-point tensor"):
        function(torch.tensor([[1, 0]]))
    with pytest.raises(ValueError, match="at least two classes"):
        function(torch.ones(3, 1))


@pytest.mark.parametrize("function", [js_divergence, kl_divergence, activation_distance, similarity])
def test_shapes_must_agree(function):
    with pytest.raises(ValueError, match=r"p and q must have the same shape, got \(2, 2\) and \(1, 2\)"):
        function(torch.full((2, 2), 0.5), torch.full((1, 2), 0.5))


def test_other_arguments_are_checked():
    p = torch.full((2, 2), 0.5)
    for base in (1.0, 0.5, -2.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="base must be"):
            js_divergence(p, p, base=base)
    with pytest.raises(ValueError, match="reduction must be"):
        kl_from_logits(p, p, reduction="average")
    with pytest.raises(ValueError, match="no sample"):
        kl_from_logits(p[:0], p[:0])
    with pytest.raises(TypeError, match=r"q must be a torch\.Tensor"):
        js_divergence(p, p.numpy())
