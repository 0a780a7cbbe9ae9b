"""LinearFiltration: the mean logits before and after, and what the exported model has forgotten."""

from pathlib import Path

import pytest
import torch
from helpers.of_a_class import check_the_class_is_forgotten
from helpers.toys import quiet_trainer, toy_data
from torch import Tensor, nn

from lightning_unlearn.data import Classes
from lightning_unlearn.methods import LinearFiltration, linear_filtration


@pytest.mark.slow
def test_the_class_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_the_class_is_forgotten(LinearFiltration, tmp_path, left=0.0, lost=0.01)
    monkeypatch.setattr(linear_filtration, "filtration", lambda means, gone: torch.eye(10).double())
    with pytest.raises(AssertionError, match=r"it still knows 9\d"):
        check_the_class_is_forgotten(LinearFiltration, tmp_path)


def mean_logits(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([model(inputs[targets == each]).mean(0) for each in range(3)])


@pytest.mark.parametrize("bias", [True, False])
def test_mean_logits_of_the_others_stay_and_the_class_never_wins(bias: bool) -> None:
    torch.manual_seed(0)
    source, data = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3, bias)), toy_data(Classes(1))
    method = LinearFiltration(source)
    quiet_trainer(max_epochs=0).fit(method, data)
    inputs, targets = (torch.cat(part) for part in zip(*data.loader("train"), strict=True))
    before, after = (mean_logits(model, inputs, targets)[:, [0, 2]] for model in (source, method.model))
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=1e-3, atol=1e-4)
    shifted = before[1] - before[1].mean() + before[[0, 2]].mean()
    torch.testing.assert_close(after[1], shifted, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        logits = method.model(inputs)
    torch.testing.assert_close(logits[:, 1], logits[:, [0, 2]].mean(1), rtol=1e-3, atol=1e-4)
    assert type(method.model[2]) is nn.Linear


def test_mean_logits_that_have_no_inverse_are_refused() -> None:
    source = nn.Linear(6, 3)
    with torch.no_grad():  # rows that sum to 0, as after weight decay
        source.weight -= source.weight.mean(0)
        source.bias -= source.bias.mean()
    with pytest.raises(ValueError, match=r"nearly dependent \(condition .*\); take DELETE"):
        quiet_trainer(max_epochs=0).fit(LinearFiltration(source), toy_data(Classes(1)))
    with pytest.raises(ValueError, match=r"of all 3 classes, two of which stay, .* 2 are forgotten; take"):
        quiet_trainer(max_epochs=0).fit(LinearFiltration(nn.Linear(6, 3)), toy_data(Classes([0, 1])))
