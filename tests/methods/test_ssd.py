"""SSD: what is dampened by how much, per sample, and what the exported model has forgotten."""

from pathlib import Path

import pytest
import torch
from helpers.of_a_class import check_the_class_is_forgotten, instead
from helpers.toys import quiet_trainer, state, toy_data, toy_source
from torch import nn

from lightning_unlearn.functional import dampening
from lightning_unlearn.methods import SSD

SETTINGS = {"SSD": {"quick": {"alpha": 1.2}}}


@pytest.mark.slow
@pytest.mark.parametrize("labels", [True, False])
def test_the_class_is_forgotten(labels: bool, tmp_path: Path) -> None:
    check_the_class_is_forgotten(lambda source: SSD(source, labels=labels), tmp_path)
    of_others = instead(SSD, forget="retain")  # whose importance is the retain set's alone
    with (
        pytest.warns(UserWarning, match="nothing is forgotten"),
        pytest.raises(AssertionError, match=r"it still knows 9\d"),
    ):
        check_the_class_is_forgotten(lambda source: of_others(source, labels=labels), tmp_path)


def test_importance_is_of_each_sample_s_own_gradient_whatever_the_batch_size() -> None:
    """Squared after the mean over a batch, as public code has it, it would go with the batch size."""
    source = toy_source().eval()
    names = [name for name, _ in source.named_parameters()]
    squares: dict[str, dict[str, torch.Tensor]] = {}
    data = toy_data()
    data.setup("fit")
    for stream in ("forget", "train"):
        squares[stream] = {name: torch.zeros_like(source.get_parameter(name)) for name in names}
        inputs, targets = (torch.cat(part) for part in zip(*data.loader(stream), strict=True))
        for x, y in zip(inputs, targets, strict=True):
            loss = nn.functional.cross_entropy(source(x[None]), y[None])
            for name, gradient in zip(
                names, torch.autograd.grad(loss, list(source.parameters())), strict=True
            ):
                squares[stream][name] += gradient.square() / len(inputs)
    for batch_size in (3, 60):
        method = SSD(toy_source(), alpha=1.2, lambda_=0.5)
        quiet_trainer(max_epochs=0).fit(method, toy_data(batch_size=batch_size))
        dampened = 0
        for name in names:
            factors = dampening(squares["forget"][name], squares["train"][name], 1.2, 0.5)
            dampened += int((factors < 1).sum())
            expected = factors * source.get_parameter(name)
            torch.testing.assert_close(method.model.get_parameter(name), expected, rtol=1e-4, atol=1e-6)
        assert dampened > 0
        assert method.measured["ssd/dampened"] == pytest.approx(
            dampened / sum(p.numel() for p in source.parameters())
        )


def test_what_is_frozen_stays() -> None:
    source = toy_source()
    method = SSD(source, alpha=1.2, frozen=["net.0"])
    quiet_trainer(max_epochs=0).fit(method, toy_data())
    now, before = state(method.model), state(source)
    assert torch.equal(now["net.0.weight"], before["net.0.weight"])
    assert not torch.equal(now["net.4.weight"], before["net.4.weight"])


def test_a_dampening_of_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"alpha=10 dampens nothing: 12 of 60 .* more than 5 times"):
        quiet_trainer(max_epochs=0).fit(SSD(toy_source(), alpha=10), toy_data())
    with pytest.warns(
        UserWarning, match=r"no weight matters 4.99 times .* nothing is forgotten; lower alpha"
    ):
        quiet_trainer(max_epochs=0).fit(SSD(toy_source(), alpha=4.99), toy_data())
