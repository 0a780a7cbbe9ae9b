"""SalUn: the weights that it lets move, those that it holds, and what the exported model has forgotten."""

from pathlib import Path

import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten, unlearned
from torch import nn

from lightning_unlearn.methods import RandomLabel, SalUn

SETTINGS = {"SalUn": {"forgets": {"weight": 1.0}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten(tmp_path: Path) -> None:
    # as often as the labels are drawn again, in one of nine cases and more
    check_wrong_labels_are_forgotten(SalUn, tmp_path, left=0.25, lost=0.02)
    given, _ = unlearned(lambda source: SalUn(source, weight=0.0), tmp_path)
    assert given > 0.5, "the retain set alone must not do"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_the_share_of_largest_mean_gradient_moves_and_no_other_weight(
    optimizer: type[torch.optim.Optimizer],
) -> None:
    """The magnitude of the mean, not the mean of magnitudes; held under weight decay, and momentum too."""
    more = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    method, data = (
        SalUn(toy_source(), 0.3, optimizer=lambda p: optimizer(p, lr=0.05, weight_decay=0.5, **more)),
        toy_data(),
    )
    quiet_trainer(max_epochs=3, limit_val_batches=0).fit(method, data)
    source = method.source.eval()
    inputs, labels = (torch.cat(part) for part in zip(*data.loader("forget"), strict=True))
    weights = list(source.parameters())
    gradients = torch.autograd.grad(nn.functional.cross_entropy(source(inputs), labels), weights)
    flat = torch.cat([gradient.flatten() for gradient in gradients]).abs()
    expected = torch.zeros(99, dtype=torch.bool)
    expected[flat.argsort(descending=True)[:30]] = True
    moved = [
        (method.model.get_parameter(name) != weight).flatten() for name, weight in source.named_parameters()
    ]
    assert torch.equal(torch.cat(moved), expected)


def test_with_all_weights_it_is_random_label() -> None:
    ends = []
    for build in (lambda source: SalUn(source, 1.0, weight=0.4), lambda source: RandomLabel(source, 0.4)):
        torch.manual_seed(0)
        method = build(toy_source())
        quiet_trainer(limit_val_batches=0).fit(method, toy_data())
        ends.append(torch.cat([weight.flatten() for weight in method.model.parameters()]))
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize(
    ("fraction", "message"),
    [(0.0, "fraction must .* got 0.0"), (0.001, "fraction=0.001 of 99 weights moves none")],
)
def test_arguments_outside_their_range_are_refused(fraction: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SalUn(toy_source(), fraction)
