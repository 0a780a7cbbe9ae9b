"""MSG: which weights it draws anew, how far the others move, and what the exported model has forgotten."""

from pathlib import Path

import pytest
import torch
from helpers.toys import CLASSES, quiet_trainer, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten
from torch import Tensor, nn

from lightning_unlearn.methods import MSG
from lightning_unlearn.models import MLP

SETTINGS = {"MSG": {"forgets": {"fraction": 0.8, "kept_step": 1.0}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten(tmp_path: Path) -> None:
    check_wrong_labels_are_forgotten(MSG, tmp_path, epochs=4)  # with next to nothing drawn anew all are left


def images() -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 6, 2), nn.Flatten(), nn.Linear(12, CLASSES))


def mean_gradient(source: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    loss = nn.functional.cross_entropy(source.eval()(inputs), targets)
    names, weights = zip(*source.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


def test_the_weights_of_smallest_gradient_are_drawn_anew_in_kernels_alone() -> None:
    source, fresh, data = images(), images(), toy_data(0.5)  # as many are retained as forgotten
    method = MSG(source, 0.25, fresh=lambda: fresh, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, data)
    whole = [[torch.cat(part) for part in zip(*data.loader(s), strict=True)] for s in ("forget", "retain")]
    forget, retain = (mean_gradient(source, *each) for each in whole)
    size = (retain["1.weight"] - forget["1.weight"]).abs().flatten()
    expected = torch.zeros(24, dtype=torch.bool)
    expected[size.argsort()[:6]] = True
    assert {name: mask.flatten().tolist() for name, mask in method.redrawn.items()} == {
        "1.weight": expected.tolist()
    }
    for name, weight in method.model.named_parameters():
        mask = method.redrawn.get(name, torch.tensor(False))
        assert torch.equal(weight, torch.where(mask, fresh.get_parameter(name), source.get_parameter(name)))


@pytest.mark.parametrize("kept_step", [0.0, 0.1])
def test_kept_weights_move_by_their_share_under_weight_decay_and_momentum(kept_step: float) -> None:
    def trained(kept_step: float) -> MSG:
        torch.manual_seed(0)
        sgd = lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5)  # noqa: E731
        method = MSG(toy_source(), kept_step=kept_step, optimizer=sgd)
        trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
        trainer.fit(method, toy_data())
        return method

    method, free = trained(kept_step), trained(1.0)
    assert list(method.redrawn) == ["net.0.weight", "net.4.weight"]  # of a network without convolutions
    for name, redrawn in method.redrawn.items():
        before = method.source.get_parameter(name)
        after, moved = method.model.get_parameter(name), free.model.get_parameter(name)
        assert torch.equal(after[redrawn], moved[redrawn])
        torch.testing.assert_close(after[~redrawn], (before + kept_step * (moved - before))[~redrawn])
        if kept_step == 0:
            assert torch.equal(after[~redrawn], before[~redrawn])


@pytest.mark.parametrize(("argument", "value"), [("fraction", 0.0), ("fraction", 1.0), ("kept_step", 1.5)])
def test_arguments_outside_their_range_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        MSG(MLP(4, (3,), 2), **{argument: value})


def test_a_network_without_a_matrix_is_refused() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(CLASSES))

    with pytest.raises(ValueError, match="Scale has no kernel or matrix to draw anew"):
        MSG(Scale())
