"""The population attack: its scores and rates, and what it needs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from toys import CLASSES, FEATURES, quiet_trainer, toy_data, toy_source

from lightning_unlearn.callbacks import PopulationAttack
from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.seeding import derive_seed


class Knows(nn.Module):
    """Gives the right class of the samples it was given a large logit, and of all others a random one."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", known)
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        seen = (x[:, None] == self.known[None]).all(-1).any(1).double()
        targets, noise = x[:, 0].long(), 1000 * x[:, 1:2].sin() % 1
        return nn.functional.one_hot(targets, CLASSES) * (noise + 2 * seen[:, None]) + self.shift


def many(nonmember: int = 200) -> tuple[UnlearningDataModule, Tensor]:
    """600 samples to train on and 400 others, the class standing in the first feature."""
    inputs = torch.randn(1000, FEATURES, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(1000) % CLASSES
    inputs[:, 0] = targets
    data = UnlearningDataModule(
        TensorData(inputs[:600], targets[:600]),
        0.25,
        test_dataset=TensorData(inputs[600:], targets[600:]),
        nonmember=nonmember,
    )
    data.setup("fit")
    return data, inputs


def attacked(model: nn.Module, data: UnlearningDataModule, folder: Path | None = None) -> PopulationAttack:
    attack = PopulationAttack(controls=False, on_error="raise", bootstrap=50, dirpath=folder)
    trainer = quiet_trainer(callbacks=[attack], limit_test_batches=1)
    trainer.test(UnlearningModule(model), data, verbose=False)
    return attack


def test_a_model_that_knows_the_forget_set_is_found_out_and_one_that_does_not_is_not() -> None:
    data, inputs = many()
    known = attacked(Knows(inputs[:600]), data).results
    assert known == {
        f"population_attack/{rate}": 1.0 for rate in ("auc", "tpr_at_1pct_fpr", "tpr_at_0.1pct_fpr")
    }
    forgot = attacked(Knows(inputs[data.split.retain]), data).results
    # 150 against 100: the standard error of the area is 0.037
    assert forgot["population_attack/auc"] == pytest.approx(0.5, abs=0.11)
    assert forgot["population_attack/tpr_at_1pct_fpr"] < 0.1


def test_scores_are_shares_of_half_of_the_non_members(tmp_path: Path) -> None:
    data, inputs = many(41)
    model = Knows(inputs[data.split.retain[:1]])
    attack = attacked(model, data, tmp_path)
    details = json.loads((tmp_path / "population_attack.json").read_text())["details"]
    assert details["population"] == 20
    sets, scores = np.array(details["samples"]["set"]), np.array(details["samples"]["score"])
    assert (sets == "forget set").sum() == len(data.split.forget)
    assert (sets == "non-member set").sum() == 21
    targets = torch.arange(1000) % CLASSES
    losses = nn.functional.cross_entropy(model(inputs), targets, reduction="none").detach().numpy()
    others = losses[600 + data.split.nonmember]
    seed = derive_seed(data.order_seed, "evaluate", "population_attack")
    order = torch.randperm(41, generator=torch.Generator().manual_seed(seed)).numpy()
    population = others[order[:20]]
    for name, own in (
        ("forget set", losses[data.split.forget]),
        ("non-member set", others[np.sort(order[20:])]),
    ):
        expected = [(population > loss).mean() + (population == loss).mean() / 2 for loss in own]
        np.testing.assert_allclose(scores[sets == name], expected, atol=1e-6)
    exact = roc_auc_score(sets == "forget set", scores)
    assert attack.results["population_attack/auc"] == pytest.approx(exact)
    for rate, (low, high) in details["ci95"].items():
        assert low <= attack.results[f"population_attack/{rate}"] <= high
    assert np.trapezoid(details["tpr"], details["fpr"]) == pytest.approx(exact)


def test_what_it_needs_is_said() -> None:
    with pytest.raises(ValueError, match="bootstrap must be at least 2"):
        PopulationAttack(bootstrap=1)
    attack = PopulationAttack(on_error="raise")
    with pytest.raises(ValueError, match="the non-member set has 1;"):
        quiet_trainer(callbacks=[attack], max_epochs=1).fit(toy_source(), toy_data(nonmember=1))
