"""The membership inference attack: variants, rates and what it may look at."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from toys import CLASSES, FEATURES, TRAIN, quiet_trainer, toy_data, toy_source

from lightning_unlearn.callbacks import MembershipInference
from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.methods import UnlearningModule


class Remembers(nn.Module):
    """Is sure about the samples it was given, and undecided about all others."""

    def __init__(self, known: Tensor, sharpness: float = 5.0) -> None:
        super().__init__()
        self.register_buffer("known", known)
        self.scale = nn.Parameter(torch.tensor(sharpness))

    def forward(self, x: Tensor) -> Tensor:
        seen = (x[:, None] == self.known[None]).all(-1).any(1).float()
        noise = (x * torch.linspace(1, 2, x.shape[1])).sum(1, keepdim=True).sin() * 0.3
        return (1 + seen[:, None] * self.scale) * nn.functional.one_hot(
            x[:, 0].long() % CLASSES, CLASSES
        ) + noise * torch.arange(CLASSES)


def audit(
    model: nn.Module, source: nn.Module, data: UnlearningDataModule, **arguments: Any
) -> dict[str, float]:
    attack = MembershipInference(source=source, controls=False, on_error="raise", bootstrap=50, **arguments)
    quiet_trainer(callbacks=[attack], limit_test_batches=1).test(UnlearningModule(model), data, verbose=False)
    audit.last = attack  # type: ignore[attr-defined]
    return attack.results


def big_data(**arguments: Any) -> tuple[UnlearningDataModule, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, tests = (
        torch.randn(400, FEATURES, generator=generator),
        torch.randn(300, FEATURES, generator=generator),
    )
    y, test_y = torch.arange(400) % CLASSES, torch.arange(300) % CLASSES
    data = UnlearningDataModule(TensorData(x, y), 0.25, test_dataset=TensorData(tests, test_y), **arguments)
    data.setup("fit")
    return data, x


@pytest.mark.parametrize("attack", ["boosting", "logistic"])
def test_a_model_that_remembers_is_caught_and_one_that_forgot_is_not(attack: str) -> None:
    data, x = big_data(nonmember=100)
    source = Remembers(x)
    caught = audit(source, source, data, attack=attack)
    assert caught["membership_inference/auc"] > 0.95
    assert caught["membership_inference/fnr"] < 0.05
    if (
        attack == "logistic"
    ):  # trees give many samples one score, and a single false alarm among them costs all
        assert caught["membership_inference/tpr_at_1pct_fpr"] > 0.8
    forgot = audit(Remembers(x[data.split.retain]), source, data, attack=attack)
    assert abs(forgot["membership_inference/auc"] - 0.5) < 0.1
    assert forgot["membership_inference/fnr"] > 0.9
    assert forgot["membership_inference/accuracy"] == pytest.approx(1 - forgot["membership_inference/fnr"])


def test_rates_are_those_of_the_saved_scores(tmp_path: Path) -> None:
    data, x = big_data(nonmember=80)
    source = Remembers(x, sharpness=0.3)
    results = audit(source, source, data, dirpath=tmp_path)
    details = json.loads((tmp_path / "membership_inference.json").read_text())["details"]
    (tp, fn), (fp, tn) = details["confusion"]
    assert tp + fn == len(data.split.forget)
    assert fp + tn == 80
    assert results["membership_inference/fnr"] == pytest.approx(fn / (tp + fn)), "eq. 7"
    assert results["membership_inference/fpr"] == pytest.approx(fp / (fp + tn))
    assert results["membership_inference/balanced_accuracy"] == pytest.approx(
        (tp / (tp + fn) + tn / (fp + tn)) / 2
    )
    for rate, (low, high) in details["ci95"].items():
        assert low <= results[f"membership_inference/{rate}"] <= high
    assert details["fpr"][0] == details["tpr"][0] == 0.0
    assert details["fpr"][-1] == details["tpr"][-1] == 1.0
    area = np.trapezoid(details["tpr"], details["fpr"])
    assert area == pytest.approx(results["membership_inference/auc"], abs=0.02)
    members = [name == "forget set" for name in details["samples"]["set"]]
    assert sum(members) == len(data.split.forget)
    exact = roc_auc_score(members, details["samples"]["score"])
    assert exact == pytest.approx(results["membership_inference/auc"], abs=1e-3)  # scores have six decimals
    assert roc_auc_score([1, 1, 0, 0], [0.9, 0.4, 0.4, 0.1]) == 0.875  # ties count one half here too


@pytest.mark.parametrize(
    ("shadow", "asked", "used"),
    [
        (0, "auto", "source"),
        (20, "auto", "shadow"),
        (20, "source", "source"),
        (20, "shadow", "shadow"),
        (20, "own", "own"),
    ],
)
def test_the_variant_is_the_one_that_the_data_allows(
    tmp_path: Path, shadow: int, asked: Any, used: str
) -> None:
    attack = MembershipInference(asked, dirpath=tmp_path, shadow_epochs=1, bootstrap=10, on_error="raise")
    quiet_trainer(callbacks=[attack], max_epochs=1).fit(toy_source(), toy_data(nonmember=10, shadow=shadow))
    assert json.loads((tmp_path / "membership_inference.json").read_text())["details"]["variant"] == used


def test_shadow_models_train_on_the_shadow_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning_unlearn.callbacks.membership_inference as room

    trained: list[Any] = []
    real = room.train_classifier

    def spy(module: nn.Module, loader: Any, **arguments: Any) -> None:
        trained.append(loader.positions.tolist())
        real(module, loader, **arguments)

    monkeypatch.setattr(room, "train_classifier", spy)
    data = toy_data(nonmember=10, shadow=24)
    attack = MembershipInference(
        shadow_models=3, shadow_epochs=1, bootstrap=10, on_error="raise", controls=False
    )
    quiet_trainer(callbacks=[attack], max_epochs=1).fit(toy_source(), data)
    assert len(trained) == 3
    shadow = set(data.split.shadow.tolist())
    for positions in trained:
        assert len(positions) == 12
        assert set(positions) < shadow
    assert len({tuple(positions) for positions in trained}) == 3
    assert not shadow & set(data.split.members.tolist())


def test_the_attack_is_trained_once_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning_unlearn.callbacks.membership_inference as room

    calls = []
    real = room._train_attack
    monkeypatch.setattr(room, "_train_attack", lambda *a: calls.append(1) or real(*a))
    data, x = big_data(nonmember=50)
    source = Remembers(x)
    attack = MembershipInference(source=source, controls=False, bootstrap=10, on_error="raise")
    for model in (source, Remembers(x[:200]), Remembers(x[:100])):
        quiet_trainer(callbacks=[attack], limit_test_batches=1).test(
            UnlearningModule(model), data, verbose=False
        )
    assert len(calls) == 1
    attack.source = Remembers(x[:300])
    quiet_trainer(callbacks=[attack], limit_test_batches=1).test(
        UnlearningModule(source), data, verbose=False
    )
    assert len(calls) == 2, "another source needs another attack"


def test_an_attack_on_the_models_own_posteriors_is_not_fooled_by_confidence() -> None:
    """Two models that remember nobody, one of them twice as confident."""

    class Confident(Remembers):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    data, x = big_data(nonmember=100)
    source, nobody = Remembers(x, sharpness=1.0), torch.zeros(1, FEATURES)
    fooled = audit(Confident(nobody), source, data, variant="source")
    own = audit(Confident(nobody), source, data, variant="own")
    key = "membership_inference/fpr"
    assert abs(fooled[key] - audit(Remembers(nobody), source, data, variant="source")[key]) > 0.5
    assert own[key] == audit(Remembers(nobody), source, data, variant="own")[key]


def test_without_a_source_the_models_own_members_are_learnt() -> None:
    data, _x = big_data(nonmember=100)
    attack = MembershipInference(on_error="raise", bootstrap=10)
    quiet_trainer(callbacks=[attack], max_epochs=1, limit_train_batches=0).fit(toy_source(), data)
    assert set(attack.results) == {f"membership_inference/{r}" for r in ("accuracy", "auc", "fnr", "fpr", "balanced_accuracy", "tpr_at_1pct_fpr")}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "white-box"}, "variant"),
        ({"attack": "svm"}, "attack"),
        ({"shadow_models": 0}, "shadow_models"),
        ({"shadow_epochs": 0}, "shadow_epochs"),
        ({"bootstrap": 1}, "bootstrap"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} must be"):
        MembershipInference(**arguments)


@pytest.mark.parametrize(
    ("data", "variant", "message"),
    [
        ({"nonmember": 10}, "shadow", "needs a shadow set"),
        ({"nonmember": 0}, "auto", "no non-member set"),
        ({"test_dataset": None, "nonmember": 10, "nonmember_from": "train"}, "source", "never saw beside"),
    ],
)
def test_data_that_does_not_allow_the_attack_is_described(
    data: dict[str, Any], variant: Any, message: str
) -> None:
    attack = MembershipInference(variant, on_error="raise")
    with pytest.raises(ValueError, match=message):
        quiet_trainer(callbacks=[attack], max_epochs=1).fit(toy_source(), toy_data(**data))


def test_the_forget_set_never_trains_the_attack() -> None:
    """Scores of the non-members stay as they are when only forgotten samples change."""
    scores = []
    for offset in (0.0, 3.0):
        data = toy_data([0, 1, 2, 3, 4, 5], nonmember=10, order_seed=1)
        data.inner.inputs[:6] += offset  # type: ignore[union-attr]
        attack = MembershipInference(on_error="raise", bootstrap=10, attack="logistic")
        quiet_trainer(callbacks=[attack], max_epochs=1, limit_train_batches=0).fit(toy_source(), data)
        scores.append(attack.results["membership_inference/fpr"])
    assert scores[0] == scores[1]
    assert TRAIN > 6
