"""The population attack: its scores and rates, and what it needs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toys import CLASSES, FEATURES, quiet_trainer, toy_data, toy_source
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from lightning_unlearn.callbacks import MembershipInference, PopulationAttack
from lightning_unlearn.data import ColumnTrigger, Poison, TensorData, UnlearningDataModule
from lightning_unlearn.methods import UnlearningModule


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
    # 150 against 200: the standard error of the area is 0.031
    assert forgot["population_attack/auc"] == pytest.approx(0.5, abs=0.095)
    assert forgot["population_attack/tpr_at_1pct_fpr"] < 0.1


def test_the_rates_are_those_of_the_loss_against_all_non_members(tmp_path: Path) -> None:
    data, inputs = many()
    model = Knows(inputs[data.split.forget[:40]])
    attack = attacked(model, data, tmp_path)
    details = json.loads((tmp_path / "population_attack.json").read_text())["details"]
    sets, scores = np.array(details["samples"]["set"]), np.array(details["samples"]["score"])
    assert (sets == "forget set").sum() == len(data.split.forget)
    assert (sets == "non-member set").sum() == 200
    targets = torch.arange(1000) % CLASSES
    losses = nn.functional.cross_entropy(model(inputs), targets, reduction="none").detach().numpy()
    own, others = losses[data.split.forget], losses[600 + data.split.nonmember]
    attacked_losses = np.concatenate([own, others])
    expected = [(others > loss).mean() + (others == loss).mean() / 2 for loss in attacked_losses]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    fpr, tpr, _ = roc_curve(sets == "forget set", -attacked_losses, drop_intermediate=False)
    rates = {
        "auc": roc_auc_score(sets == "forget set", -attacked_losses),
        "tpr_at_1pct_fpr": tpr[fpr <= 0.01].max(),
        "tpr_at_0.1pct_fpr": tpr[fpr <= 0.001].max(),
    }
    assert 0.1 < rates["tpr_at_0.1pct_fpr"] < rates["tpr_at_1pct_fpr"] < rates["auc"] < 0.9
    assert attack.results == pytest.approx({f"population_attack/{rate}": rates[rate] for rate in rates})
    for rate, (low, high) in details["ci95"].items():
        assert low <= attack.results[f"population_attack/{rate}"] <= high
    assert details["fpr"][0] == details["tpr"][0] == 0.0
    assert details["fpr"][-1] == details["tpr"][-1] == 1.0
    assert np.trapezoid(details["tpr"], details["fpr"]) == pytest.approx(rates["auc"], abs=0.01)


class Confidence(nn.Module):
    """Gives the right class, the first one, a logit that stands in the first feature."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] * nn.functional.one_hot(torch.tensor(0), CLASSES) + self.shift


@pytest.mark.parametrize(
    ("nonmember", "at_1pct", "at_tenth_pct"), [(99, 0, 0), (100, 1, 0), (999, 9, 0), (1000, 10, 1)]
)
def test_so_many_non_members_allow_so_many_false_positives(
    nonmember: int, at_1pct: int, at_tenth_pct: int
) -> None:
    """A forget set that cannot be told from the non-members: one sample below, between and above any of them."""
    confidence = torch.linspace(0, 4, 2 * nonmember + 1)
    inputs, tests = (torch.zeros(size, FEATURES) for size in (nonmember + 2, nonmember + 1))
    inputs[:-1, 0] = confidence[::2]
    data = UnlearningDataModule(
        TensorData(inputs, torch.zeros(len(inputs), dtype=torch.long)),
        list(range(nonmember + 1)),
        test_dataset=TensorData(tests, torch.zeros(len(tests), dtype=torch.long)),
        nonmember=nonmember,
    )
    data.setup("fit")
    tests[data.split.nonmember, 0] = confidence[1::2]
    results = attacked(Confidence(), data).results
    assert results["population_attack/auc"] == pytest.approx(0.5)
    assert results["population_attack/tpr_at_1pct_fpr"] == pytest.approx((at_1pct + 1) / (nonmember + 1))
    assert results["population_attack/tpr_at_0.1pct_fpr"] == pytest.approx(
        (at_tenth_pct + 1) / (nonmember + 1)
    )


MARKED = 9.0
MARK = ColumnTrigger(FEATURES - 1, MARKED)


class Backdoored(nn.Module):
    """Gives the target label, the second class, to whatever carries the mark; undecided but for some noise else."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        marked = (x[:, -1:] == MARKED).double()
        noise = 1000 * x[:, 1:2].sin() % 1
        return nn.functional.one_hot(torch.tensor(1), CLASSES) * (noise + 9 * marked) + self.shift


@pytest.mark.parametrize("attack", [PopulationAttack, MembershipInference])
def test_a_backdoor_is_no_sign_of_membership(
    attack: type[PopulationAttack] | type[MembershipInference],
) -> None:
    """The model knows the mark and no sample; against clean non-members the area would be 0 or 1."""
    clean, inputs = many()
    backdoor = Poison(MARK, target_label=1)
    assert isinstance(clean.inner, TensorData)
    data = UnlearningDataModule(
        clean.inner, 0.25, test_dataset=clean.test_dataset, nonmember=200, backdoor=backdoor
    )
    assert not (inputs[:, -1] == MARKED).any()
    evaluator = attack(controls=False, on_error="raise", bootstrap=10)
    quiet_trainer(callbacks=[evaluator]).test(UnlearningModule(Backdoored()), data, verbose=False)
    assert evaluator.results[f"{evaluator.name}/auc"] == pytest.approx(0.5, abs=0.095)


def test_what_guessing_gives_is_said_for_the_samples_at_hand(tmp_path: Path) -> None:
    data, inputs = many(nonmember=150)
    attack = attacked(Knows(inputs[:600]), data, tmp_path)
    told = json.loads((tmp_path / "population_attack.json").read_text())["details"]["guessing"]
    assert told == {"tpr_at_1pct_fpr": 2 / 151, "tpr_at_0.1pct_fpr": 1 / 151}
    name = "population_attack/tpr_at_1pct_fpr"
    assert attack.declared()[name].explanation.endswith("With the 150 at hand that is 1.3 %.")
    assert attack.declared()["population_attack/auc"] == PopulationAttack.metrics["population_attack/auc"]
    assert "at hand" not in PopulationAttack().declared()[name].explanation


def test_what_it_needs_is_said() -> None:
    with pytest.raises(ValueError, match="bootstrap must be at least 2"):
        PopulationAttack(bootstrap=1)
    attack = PopulationAttack(on_error="raise")
    with pytest.raises(ValueError, match="has no non-member set"):
        quiet_trainer(callbacks=[attack], max_epochs=1).fit(toy_source(), toy_data(nonmember=0))
