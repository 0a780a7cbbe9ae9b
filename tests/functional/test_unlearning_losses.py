"""Unlearning losses against numpy formulas, their gradients and their range checks."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax
from scipy.stats import chisquare
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional import perturbation_loss, reference_kl_loss, wrong_labels


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    rand = lambda n: torch.randn(n, 5, generator=generator, dtype=torch.float64)  # noqa: E731
    return rand(6), rand(6), rand(9), torch.randint(5, (9,), generator=generator)


def numpy_ce(logits, targets):
    return -log_softmax(logits.numpy(), axis=-1)[np.arange(len(targets)), targets.numpy()].mean()


def test_reference_kl_loss_matches_numpy(batch):
    unlearned, reference, retain, targets = batch
    p = softmax(reference.numpy(), axis=-1)
    kl = (p * (np.log(p) - log_softmax(unlearned.numpy(), axis=-1))).sum(-1).mean()
    ce = numpy_ce(retain, targets)
    for lambda_ in (0.0, 0.01, 0.3, 1.0):
        loss, kl_part, ce_part = reference_kl_loss(unlearned, reference, retain, targets, lambda_)
        assert loss.item() == pytest.approx(lambda_ * kl + (1 - lambda_) * ce)
        assert kl_part.item() == pytest.approx(kl)
        assert ce_part.item() == pytest.approx(ce)
    from_posteriors = reference_kl_loss(
        unlearned, reference.softmax(-1), retain, targets, 0.3, reference_kind="posteriors"
    )
    assert_close(from_posteriors, reference_kl_loss(unlearned, reference, retain, targets, 0.3))


def test_one_hot_reference_posteriors_give_cross_entropy(batch):
    unlearned, _, retain, targets = batch
    labels = torch.arange(6) % 5
    _, kl, _ = reference_kl_loss(
        unlearned, F.one_hot(labels, 5).double(), retain, targets, 0.5, reference_kind="posteriors"
    )
    assert kl.item() == pytest.approx(numpy_ce(unlearned, labels))


def test_perturbation_loss_matches_numpy_with_the_sign_of_cross_entropy_restored(batch):
    unlearned, source, retain, targets = batch
    js = jensenshannon(softmax(unlearned.numpy(), axis=-1), softmax(source.numpy(), axis=-1), base=2, axis=-1)
    js, ce = (js**2).mean(), numpy_ce(retain, targets)
    loss, js_part, ce_part = perturbation_loss(unlearned, source, retain, targets, lambda_=0.1)
    assert ce > 0
    assert loss.item() == pytest.approx(ce + 0.1 * js)
    assert js_part.item() == pytest.approx(js)
    assert ce_part.item() == pytest.approx(ce)


@pytest.mark.parametrize("function", [reference_kl_loss, perturbation_loss])
def test_gradient_reaches_the_unlearned_model_only(function, batch):
    unlearned, other, retain, targets = batch
    for tensor in (unlearned, other, retain):
        tensor.requires_grad_()
    function(unlearned, other, retain, targets, 0.5)[0].backward()
    assert unlearned.grad.abs().sum() > 0
    assert retain.grad.abs().sum() > 0
    assert other.grad is None
    assert torch.autograd.gradcheck(
        lambda u, r: function(u, other, r, targets, 0.5)[0], (unlearned.detach().requires_grad_(), retain)
    )


@pytest.mark.parametrize("function", [reference_kl_loss, perturbation_loss])
def test_loss_on_the_retain_set_can_be_replaced(function, batch):
    unlearned, other, retain, targets = batch
    _, _, ce = function(unlearned, other, retain, targets, 0.5, loss=F.multi_margin_loss)
    assert_close(ce, F.multi_margin_loss(retain, targets))
    with pytest.raises(ValueError, match="loss must return a scalar"):
        function(
            unlearned, other, retain, targets, 0.5, loss=lambda x, y: F.cross_entropy(x, y, reduction="none")
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", [reference_kl_loss, perturbation_loss])
def test_half_precision(function, batch, dtype):
    unlearned, other, retain, targets = (x.to(dtype) if x.is_floating_point() else x for x in batch)
    loss, distance, _ = function(unlearned, other, retain, targets, 0.5)
    assert distance.dtype == torch.float32
    exact = function(unlearned.double(), other.double(), retain.double(), targets, 0.5)
    assert distance.item() == pytest.approx(exact[1].item(), rel=1e-5)
    assert loss.item() == pytest.approx(
        exact[0].item(), rel=1e-2
    )  # the user's own loss ran in half precision


@pytest.mark.parametrize("lambda_", [-0.1, 1.1, math.nan])
def test_lambda_of_the_reference_loss_lies_in_the_unit_interval(batch, lambda_):
    with pytest.raises(ValueError, match=r"lambda_ must lie in \[0, 1\]"):
        reference_kl_loss(*batch, lambda_)


@pytest.mark.parametrize("lambda_", [-0.1, math.inf, math.nan])
def test_lambda_of_the_perturbation_loss_is_finite_and_not_negative(batch, lambda_):
    with pytest.raises(ValueError, match="lambda_ must be at least 0"):
        perturbation_loss(*batch, lambda_)
    assert perturbation_loss(*batch, 7.0)[0].isfinite()


def test_bad_batches_are_refused(batch):
    unlearned, other, retain, targets = batch
    with pytest.raises(ValueError, match="reference and unlearned_logits must have the same shape"):
        reference_kl_loss(unlearned, other[:3], retain, targets, 0.5)
    with pytest.raises(ValueError, match="unlearned_logits and source_logits must have the same shape"):
        perturbation_loss(unlearned, other[:, :3], retain, targets, 0.5)
    with pytest.raises(ValueError, match="no sample"):
        reference_kl_loss(unlearned[:0], other[:0], retain, targets, 0.5)
    with pytest.raises(ValueError, match="no sample"):
        perturbation_loss(unlearned[:0], other[:0], retain, targets, 0.5)
    with pytest.raises(ValueError, match="reference_kind must be"):
        reference_kl_loss(unlearned, other, retain, targets, 0.5, reference_kind="probabilities")


@pytest.mark.parametrize("classes", [3, 10])
def test_wrong_labels_are_never_the_true_one_and_uniform_over_the_others(classes: int) -> None:
    count = 9000
    labels = torch.arange(count) % classes
    drawn = wrong_labels(labels, torch.arange(count), count=count, classes=classes, seed=1)
    assert not bool((drawn == labels).any())
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < classes
    observed = ((drawn - labels) % classes).bincount(minlength=classes)[1:].numpy()
    assert chisquare(observed).pvalue > 1e-3


def test_a_wrong_label_belongs_to_the_sample_and_the_seed() -> None:
    labels, order = torch.randint(0, 5, (50,)), torch.randperm(50)

    def drawn(index: Tensor, seed: int) -> Tensor:
        return wrong_labels(labels[index], index, count=50, classes=5, seed=seed)

    assert torch.equal(drawn(order, 3), drawn(torch.arange(50), 3)[order])
    assert torch.equal(drawn(order[:7], 3), drawn(order, 3)[:7])
    assert not torch.equal(drawn(order, 3), drawn(order, 4))
    with pytest.raises(ValueError, match="classes must be at least 2, got 1"):
        wrong_labels(labels, order, count=50, classes=1, seed=0)
