"""Fisher: the variance of each weight's noise, and what the exported model has forgotten."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.of_a_class import check_the_class_is_forgotten, remembered_and_kept
from helpers.of_a_class import digits_source as source_and_data
from helpers.toys import quiet_trainer, toy_data
from torch import nn

from lightning_unlearn.data import Classes
from lightning_unlearn.methods import Fisher, fisher


@pytest.mark.slow
def test_the_class_is_forgotten_by_its_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(Fisher, samples=100)
    check_the_class_is_forgotten(quick, tmp_path, left=0.0, lost=0.02)
    monkeypatch.setattr(fisher, "others", lambda rows, gone: rows[gone])  # its own row again
    source, _ = source_and_data()
    for alpha in (1e-6, 1e-5):  # the noise alone: the others fall first
        remembered, kept = remembered_and_kept(quick(source, alpha), tmp_path)
        assert remembered > 0.9
    assert kept < 0.9


def test_the_noise_is_of_each_class_s_gradient_weighted_by_its_probability() -> None:
    torch.manual_seed(0)
    source, data = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), toy_data(Classes(1))
    drawn = []
    for alpha in (0.04, 0.01):
        method = Fisher(source, alpha)
        quiet_trainer(max_epochs=0).fit(method, data)
        drawn.append({n: p.detach() - source.get_parameter(n) for n, p in method.model.named_parameters()})
    information = {n: torch.zeros_like(p) for n, p in source.named_parameters()}
    inputs, _ = next(iter(data.loader("retain", batch_size=99)))
    for x in inputs:
        for target in range(3):
            log = source(x).log_softmax(0)
            gradients = torch.autograd.grad(-log[target], [*source.parameters()])
            for name, gradient in zip(information, gradients, strict=True):
                information[name] += log[target].exp().detach() * gradient.square() / len(inputs)
    noise = torch.Generator().manual_seed(fisher.derive_seed(data.order_seed, "fisher"))
    for name, total in information.items():
        head = name.startswith("2")
        variance = 0.04 / total.clamp(min=1e-2 if head else 1e-3)
        if total.ndim == 2:
            variance = variance.mean(1, keepdim=True).expand(total.shape)
        expected = (variance * (10 if head or total.ndim == 1 else 1)).sqrt() * torch.randn(
            total.shape, generator=noise
        )
        rows = [0, 2] if head else slice(None)
        torch.testing.assert_close(drawn[0][name][rows], expected[rows], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(drawn[1][name][rows], expected[rows] / 2, rtol=1e-3, atol=1e-5)
        if head:  # the class's row is the mean of the others, and a little noise
            row = drawn[0][name][1] + source.get_parameter(name)[1]
            assert (row - source.get_parameter(name)[[0, 2]].mean(0)).abs().max() < 0.15


def test_random_samples_are_warned_of_and_a_head_without_rows_is_refused() -> None:
    with pytest.warns(UserWarning, match=r"Fisher is made for whole classes.* loses other samples as it"):
        quiet_trainer(max_epochs=0).fit(Fisher(nn.Linear(6, 3)), toy_data())
    headless = nn.Sequential(nn.Linear(6, 9), nn.Unflatten(1, (3, 3)), nn.Flatten(), nn.AdaptiveAvgPool1d(3))
    with pytest.raises(ValueError, match=r"last layer, and Linear of Sequential has no .* DELETE needs none"):
        quiet_trainer(max_epochs=0).fit(Fisher(headless), toy_data(Classes(1)))
