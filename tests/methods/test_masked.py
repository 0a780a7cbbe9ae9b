"""The masked update: what it holds, and what it lets move by a share of each step."""

from typing import Any

import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from torch import Tensor

from lightning_unlearn.methods.base.masked import MaskedModule

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5),
}


class Scaled(MaskedModule):
    streams = ("retain",)
    epoch_stream = "retain"

    def step_scales(self) -> dict[str, Tensor]:
        weights = dict(self.model.named_parameters())
        mask = torch.arange(weights["net.0.weight"].numel()).view_as(weights["net.0.weight"]) % 2 == 0
        return {"net.0.weight": mask, "net.4.weight": torch.full_like(weights["net.4.weight"], 0.1)}


class Free(Scaled):
    def step_scales(self) -> dict[str, Tensor]:
        return {}


def trained(kind: type[Scaled], optimizer: str, **arguments: Any) -> tuple[Scaled, Any]:
    torch.manual_seed(0)
    method = kind(toy_source(), optimizer=OPTIMIZERS[optimizer])
    quiet_trainer(limit_val_batches=0, **arguments).fit(method, toy_data())
    return method, dict(method.source.named_parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masked_weights_stay_bit_identical_under_weight_decay_and_momentum(optimizer: str) -> None:
    method, before = trained(Scaled, optimizer, max_epochs=3)
    for name, weight in method.model.named_parameters():
        changed = weight != before[name]
        if name == "net.0.weight":
            assert torch.equal(changed, method.step_scales()[name])
        else:
            assert bool(changed.any()), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_share_of_the_step_is_taken_whatever_the_optimizer(optimizer: str) -> None:
    one_step = {"max_epochs": 1, "limit_train_batches": 1}
    method, before = trained(Scaled, optimizer, **one_step)
    free, _ = trained(Free, optimizer, **one_step)
    for name, weight in method.model.named_parameters():
        scale = method.step_scales().get(name, torch.tensor(1.0))
        expected = before[name] + scale * (free.model.get_parameter(name) - before[name])
        torch.testing.assert_close(weight, expected)
