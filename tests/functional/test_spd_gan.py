"""The SPD-GAN's loss against NumPy and finite differences, its score against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch.testing import assert_close

from lightning_unlearn.functional import spd_gan_loss, unlearning_degree


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    source, model = torch.randn(2, 50, 4, generator=generator, dtype=torch.float64)
    return source, model, torch.arange(50) % 4


@pytest.mark.parametrize("eta", [0.0, 0.03, 1.0])
def test_the_loss_is_eq_13(answers, eta):
    source, model, targets = answers
    first, second = (log_loss(targets.numpy(), logits.softmax(-1).numpy()) for logits in (source, model))
    assert spd_gan_loss(source, model, targets, eta).item() == pytest.approx(first - eta * second)


def test_the_loss_falls_as_the_source_succeeds_and_the_model_fails(answers):
    source, model, targets = (part.clone() for part in answers)
    source.requires_grad_()
    model.requires_grad_()
    spd_gan_loss(source, model, targets).backward()
    rows = torch.arange(len(targets))
    assert (source.grad[rows, targets] < 0).all()
    assert (model.grad[rows, targets] > 0).all()
    wanted = (model.softmax(-1) - torch.nn.functional.one_hot(targets, 4)) / len(targets)
    assert_close(model.grad, -0.03 * wanted.detach()), "0.03 is the paper's weight and the default"


def test_the_degree_is_the_difference_of_accuracies(answers):
    source, model, targets = answers
    source = source + 2 * torch.nn.functional.one_hot(targets, 4)
    first, second = (accuracy_score(targets, logits.argmax(-1)) for logits in (source, model))
    assert first > second
    assert unlearning_degree(source, model, targets) == pytest.approx(first - second)
    assert unlearning_degree(model, source, targets) == pytest.approx(second - first)
    assert unlearning_degree(model, model, targets) == 0
    assert unlearning_degree(source.half(), model.half(), targets) == pytest.approx(first - second)


@pytest.mark.parametrize(
    ("rows", "labels", "eta", "message"),
    [
        ((3, 2), 3, -0.1, "eta must be at least 0"),
        ((3, 2), 3, np.nan, "eta must be at least 0"),
        ((2, 2), 3, 0.1, "shapes must be"),
        ((3, 2), 2, 0.1, "shapes must be"),
        ((0, 2), 0, 0.1, "shapes must be"),
    ],
)
def test_bad_arguments_are_refused(rows, labels, eta, message):
    other = torch.zeros(3 if rows[0] else 0, 2)
    with pytest.raises(ValueError, match=message):
        spd_gan_loss(torch.zeros(rows), other, torch.zeros(labels, dtype=torch.int64), eta)


@pytest.mark.parametrize(
    ("source", "targets", "message"),
    [
        (torch.full((2, 3), torch.nan), torch.zeros(2, dtype=torch.int64), "source_logits holds NaN"),
        (torch.zeros(2, 3), torch.zeros(2), "targets must be integer class indices"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "shapes must be"),
    ],
)
def test_the_degree_of_what_is_no_answer_is_refused(
    source: torch.Tensor, targets: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        unlearning_degree(source, torch.zeros(len(source), 3), targets)
