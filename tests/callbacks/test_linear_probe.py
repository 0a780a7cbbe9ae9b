"""The linear probe: what outputs hide and features keep, and which part gives the logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import CLASSES, FEATURES, quiet_trainer, toy_data, toy_source
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_unlearn.callbacks import LinearProbe, PopulationAttack
from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.models.surgery import head_of


class Features(nn.Module):
    """Features around the centre of a sample's class, nearer to it where the sample is known."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", known)

    def forward(self, x: Tensor) -> Tensor:
        seen = (x[:, None] == self.known[None]).all(-1).any(1, keepdim=True)
        centres = 20 * nn.functional.one_hot(x[:, 0].long(), CLASSES)
        return centres + torch.where(seen, 0.2, 1.0) * x[:, 1:4]


class Silent(nn.Linear):
    """A last layer that says the same of all samples."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(0 * features)


def data() -> tuple[UnlearningDataModule, Tensor]:
    """Samples whose class stands in the first feature."""
    inputs = torch.randn(1600, FEATURES, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(1600) % CLASSES
    inputs[:, 0] = targets
    split = UnlearningDataModule(
        TensorData(inputs[:1000], targets[:1000]),
        0.25,
        test_dataset=TensorData(inputs[1000:], targets[1000:]),
        nonmember=250,
    )
    split.setup("fit")
    return split, inputs


def probed(model: nn.Module, split: UnlearningDataModule, folder: Path | None = None) -> dict[str, float]:
    settings: dict[str, Any] = {"controls": False, "on_error": "raise", "seed": 1}
    evaluators = [LinearProbe(dirpath=folder, **settings), PopulationAttack(bootstrap=2, **settings)]
    trainer = quiet_trainer(callbacks=evaluators, limit_test_batches=1)
    trainer.test(UnlearningModule(model), split, verbose=False)
    return {name: value for each in evaluators for name, value in each.results.items()}


def test_what_the_outputs_hide_the_features_give_away(tmp_path: Path) -> None:
    split, inputs = data()
    knows = nn.Sequential(Features(inputs[:1000]), Silent(3, CLASSES))
    found = probed(knows, split, tmp_path)
    assert abs(found["population_attack/auc"] - 0.5) < 0.1, "the losses of a class are equal"
    assert found["linear_probe/auc"] > 0.95
    told = json.loads((tmp_path / "linear_probe.json").read_text())["details"]
    assert sum(told["folds"]) / 5 == pytest.approx(found["linear_probe/auc"])
    assert (told["features"], told["head"]) == (3, "Silent")
    forgot = probed(nn.Sequential(Features(inputs[split.split.retain]), Silent(3, CLASSES)), split)
    assert abs(forgot["linear_probe/auc"] - 0.5) < 0.1


class TwoHeads(nn.Module):
    """An auxiliary head that is registered last and called first, and a temperature of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.body = nn.Linear(3, 2)
        self.head = weight_norm(nn.Linear(2, 2, bias=False))
        self.auxiliary = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).relu()
        self.auxiliary(features)
        return self.head(features) / self.temperature


def test_the_head_is_what_is_called_last() -> None:
    model = TwoHeads()
    assert head_of(model, lambda: model(torch.zeros(1, 3))) is model.head
    assert not any(part._forward_hooks for part in model.modules()), "hooks were left"
    silent = nn.Identity()
    assert head_of(silent, lambda: silent(torch.zeros(1))) is silent


class Positions(nn.Sequential):
    """A convolution whose logits are averaged over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, None, None].expand(-1, -1, 2, 2)).mean(dim=(2, 3))


def test_positions_of_a_sample_are_averaged_and_other_layouts_refused() -> None:
    split, _ = data()
    convolution = Positions(nn.Conv2d(FEATURES, 4, 1), nn.ReLU(), nn.Conv2d(4, CLASSES, 1))
    evaluator = LinearProbe(controls=False, on_error="raise")
    trainer = quiet_trainer(callbacks=[evaluator], limit_test_batches=1)
    trainer.test(UnlearningModule(convolution), split, verbose=False)
    assert evaluator.details["features"] == 4

    class Unbatched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.view(len(x), 3, 2).flatten(0, 1)).view(len(x), 3, CLASSES).mean(dim=1)

    with pytest.raises(ValueError, match="was called with 2250 rows for 750 samples"):
        trainer.test(UnlearningModule(Unbatched()), split, verbose=False)


def test_what_it_needs_is_said() -> None:
    for forget, nonmember, message in (([0], 10, "got 1; forget more"), (0.2, 0, "never trained on")):
        with pytest.raises(ValueError, match=message):
            quiet_trainer(callbacks=[LinearProbe()]).fit(toy_source(), toy_data(forget, nonmember=nonmember))
