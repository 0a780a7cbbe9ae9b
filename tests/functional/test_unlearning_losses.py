"""Unlearning losses against numpy formulas, their gradients and their range checks."""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from lightning_unlearn.functional import wrong_labels


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
