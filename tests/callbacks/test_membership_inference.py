"""The membership inference attack: variants, rates and what it may look at."""

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers import toys
from helpers.toys import (
    CLASSES,
    FEATURES,
    TRAIN,
    Net,
    PlainModule,
    blobs,
    quiet_trainer,
    toy_data,
    toy_source,
    train_set,
)
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_unlearn.callbacks import MembershipInference
from lightning_unlearn.callbacks.base import shadow_models as room
from lightning_unlearn.data import Adapter, Classes, TensorData, UnlearningDataModule
from lightning_unlearn.ensembles import train_ensemble
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.models import Classifier


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
    assert forgot["membership_inference/hit_rate"] == pytest.approx(1 - forgot["membership_inference/fnr"])


class Answers(nn.Module):
    """Says of the sample of a number what the row of that number says."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x[:, 0].long()]


def with_trace(trace: str, labels: Tensor, members: Tensor) -> Tensor:
    """Make answers in which members differ from others in one respect."""
    order = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -3.0])  # of the label, and of those that follow it
    table = order + 0.2 * torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(0))
    seen = members.float()
    if trace == "sure":
        table[:, 0] += 2 * seen
    elif trace == "sure or unsure, by class":
        table[:, 0] += (1 - 2 * (labels % 2)) * (2 * seen - 1)
    else:  # the least likely class, less likely
        table[:, 5] -= 6 * seen
    return torch.stack([row.roll(int(label)) for row, label in zip(table, labels, strict=True)])


@pytest.mark.parametrize("features", ["sorted", "top_3", "per_class"])
@pytest.mark.parametrize(
    ("trace", "seen_by"),
    [
        ("sure", {"sorted", "top_3", "per_class"}),
        ("sure or unsure, by class", {"per_class"}),
        ("the least likely class", {"sorted", "per_class"}),
    ],
)
def test_each_kind_of_features_finds_what_lies_in_it(trace: str, seen_by: set[str], features: str) -> None:
    """As many retained as test samples of each class, so that scikit-learn has all that the attack learns from."""
    number, labels = torch.arange(310.0)[:, None], torch.arange(310) % 6
    inner, tests = TensorData(number[:120], labels[:120]), TensorData(number[120:], labels[120:])
    data = UnlearningDataModule(inner, 0.25, test_dataset=tests, nonmember=100)
    data.setup("fit")
    retain, test = data.split.retain, 120 + data.split.test
    for positions in (retain, test):
        labels[positions] = torch.arange(90) % 6
    members = torch.arange(310) < 120
    source = Answers(with_trace(trace, labels, members))
    found = audit(source, source, data, features=features)["membership_inference/auc"]
    assert found > 0.9 if features in seen_by else abs(found - 0.5) < 0.15
    scores = audit.last.details["samples"]["score"]  # type: ignore[attr-defined]
    known, group = log_softmax(source.table.detach().double().numpy(), axis=1), 0 * labels.numpy()
    if features == "per_class":
        group = labels.numpy()
    else:
        known = -np.sort(-known, axis=1)[:, : 3 if features == "top_3" else None]
    asked, expected = np.concatenate([data.split.forget, 120 + data.split.nonmember]), np.empty(130)
    for each in np.unique(group):
        attack = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10, max_iter=9999))
        learned = [rows[group[rows] == each] for rows in (retain, test)]
        attack.fit(known[np.concatenate(learned)], np.repeat([1, 0], len(learned[0])))
        expected[group[asked] == each] = attack.predict_proba(known[asked[group[asked] == each]])[:, 1]
    np.testing.assert_allclose(scores, expected, atol=1e-4)

    members[data.split.forget] = False
    forgot = audit(Answers(with_trace(trace, labels, members)), source, data, features=features)
    assert abs(forgot["membership_inference/auc"] - 0.5) < 0.15


def test_retained_samples_that_are_exposed_are_seen() -> None:
    """Two models that forgot D_f, of which one gives its retained samples away."""
    data, x = big_data(nonmember=100)
    source, key = Remembers(x), "membership_inference/retain_auc"
    exposed = audit(Remembers(x[data.split.retain]), source, data)
    assert exposed[key] > 0.95
    assert abs(exposed["membership_inference/auc"] - 0.5) < 0.1
    assert abs(audit(Remembers(torch.zeros(1, FEATURES)), source, data)[key] - 0.5) < 0.15


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


class OnlyItems(Dataset[tuple[Tensor, Tensor]]):
    """The training set, sample by sample and not as tensors."""

    def __len__(self) -> int:
        return TRAIN

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return train_set()[index]


class Moved(L.LightningDataModule):
    """A project whose datamodule changes batches on the way to the device."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*blobs(TRAIN, 0)), batch_size=8, shuffle=True)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*blobs(31, 1)), batch_size=8)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] / 2, batch[1]


def shadowed(inner: Any = None, **arguments: Any) -> UnlearningDataModule:
    given = {"nonmember": 10, "shadow": 24, "batch_size": 8, "order_seed": 1, **arguments}
    if not isinstance(inner, L.LightningDataModule):
        given["test_dataset"] = toys.test_set()
    return UnlearningDataModule(inner or train_set(), 0.2, **given)


def shadow_attack(
    data: UnlearningDataModule, module: L.LightningModule | None = None, trainer: Any = (), **arguments: Any
) -> MembershipInference:
    quick: dict[str, Any] = {"shadow_models": 3, "shadow_epochs": 2, "bootstrap": 10, "controls": False}
    attack = MembershipInference(**{**quick, "on_error": "raise", **arguments})
    run = quiet_trainer(callbacks=[attack], max_epochs=1, limit_train_batches=0, **dict(trainer))
    run.fit(module or toy_source(), data)
    attack.results = {name: float(value) for name, value in run.callback_metrics.items()}
    return attack


@pytest.mark.parametrize("inner", [None, OnlyItems(), Moved()], ids=["tensors", "items", "moved"])
def test_shadow_models_train_on_the_shadow_set_alone(inner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[list[int]] = []

    def ensemble(recipe: Any, samples: Any, members: Any, **named: Any) -> Any:
        trained.extend(member.indices.tolist() for member in members)
        return train_ensemble(recipe, samples, members, **named)

    monkeypatch.setattr(room, "train_ensemble", ensemble)
    data = shadowed(inner)
    shadow_attack(data)
    assert len(trained) == 3
    shadow = set(data.split.shadow.tolist())
    for positions in trained:
        assert len(positions) == 12
        assert set(positions) < shadow
    assert len({tuple(positions) for positions in trained}) == 3
    assert not shadow & set(data.split.members.tolist())


def posteriors(data: UnlearningDataModule, **arguments: Any) -> Tensor:
    """What the shadow models say, in one row, instead of scores that hardly change with it."""
    seen: list[Tensor] = []
    real = MembershipInference._shadow_features
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            MembershipInference, "_shadow_features", lambda *a: seen.extend(found := real(*a)) or found
        )
        shadow_attack(data, **arguments)
    return torch.cat(seen)


def test_data_in_memory_and_data_read_from_it_give_the_same_shadow_models() -> None:
    """One computation over three models, and a loop over them with ordinary loaders."""
    module = Classifier(nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES)))
    together, one_by_one = (posteriors(shadowed(inner), module=module) for inner in (None, OnlyItems()))
    assert together.shape == (2 * 3 * 12, CLASSES)
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=0)


def test_what_a_project_does_to_its_batches_is_done_to_the_shadow_models() -> None:
    plain, moved = posteriors(shadowed()), posteriors(shadowed(Moved()))
    assert float((plain - moved).abs().mean()) > 0.01


@pytest.mark.parametrize("inner", [None, OnlyItems(), Moved()], ids=["tensors", "items", "moved"])
def test_two_processes_train_the_shadow_models_of_one(inner: Any) -> None:
    one = shadow_attack(shadowed(inner)).results
    assert "membership_inference/auc" in one
    two = shadow_attack(shadowed(inner), trainer={"strategy": "ddp_fork", "devices": 2}).results
    assert two == pytest.approx(one, abs=1e-6)


def test_a_users_module_and_output_are_trained_as_shadow_models() -> None:
    class Field(PlainModule):
        def forward(self, x: Tensor) -> Any:
            return {"scores": super().forward(x), "other": x}

    class NoTraining(Field):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise AssertionError("shadow models are trained on the classification loss")

    attack = shadow_attack(shadowed(), NoTraining(), adapter=Adapter(logits="scores"))
    assert attack.details["variant"] == "shadow"


def test_shadow_models_are_kept_and_taken_by_another_attack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ways: list[str] = []

    def spy(*positional: Any, **named: Any) -> Any:
        ensemble = train_ensemble(*positional, **named)
        ways.append(ensemble.way)
        return ensemble

    monkeypatch.setattr(room, "train_ensemble", spy)
    first = shadow_attack(shadowed(), cache=tmp_path)
    assert len(list(tmp_path.glob("*.pt"))) == 3
    again = shadow_attack(shadowed(), cache=str(tmp_path), name="again")
    assert list(again.results.values()) == list(first.results.values())
    shadow_attack(shadowed(), cache=tmp_path, attack="boosting", name="third")
    assert ways[0] != "cache"
    assert ways[1:] == ["cache", "cache"]
    for change in ({"shadow_epochs": 3}, {"seed": 5}, {"shadow_optimizer": partial(torch.optim.SGD, lr=0.1)}):
        shadow_attack(shadowed(), cache=tmp_path, **change)
        assert ways[-1] != "cache", change
    shadow_attack(shadowed(), cache=tmp_path, shadow_models=4)
    assert len(list(tmp_path.glob("*.pt"))) == 3 + 3 * 3 + 1, "three of four were there"
    shadow_attack(shadowed(Moved()), cache=tmp_path)
    assert ways[-1] != "cache", "what a hook does is in no key"


def test_a_model_that_cannot_be_told_from_others_is_not_kept(tmp_path: Path) -> None:
    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.number = itertools.count()  # a C object: neither content nor attributes

    with pytest.warns(UserWarning, match="models are not kept in"):
        attack = shadow_attack(shadowed(), Classifier(Counting()), cache=tmp_path)
    assert attack.results
    assert not list(tmp_path.iterdir())


def test_a_shadow_model_that_diverges_is_described() -> None:
    diverging = partial(torch.optim.SGD, lr=1e30)
    with pytest.raises(FloatingPointError, match="the loss became"):
        shadow_attack(shadowed(OnlyItems()), shadow_optimizer=diverging, shadow_epochs=5)


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


def test_a_model_that_was_trained_further_is_attacked_anew() -> None:
    model, data, found = PlainModule(), toy_data(nonmember=10), {}
    kept = MembershipInference("own", data=data, on_error="raise")
    for epochs in (0, 40):
        quiet_trainer(max_epochs=epochs).fit(model, toys.PlainData())
        for evaluator in (kept, MembershipInference("own", data=data, on_error="raise")):
            (found[evaluator],) = quiet_trainer(callbacks=[evaluator]).test(model, data, verbose=False)
        assert found[kept] == found[evaluator]


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
    assert set(attack.results) == {f"membership_inference/{r}" for r in ("hit_rate", "auc", "fnr", "fpr", "balanced_accuracy", "tpr_at_1pct_fpr", "retain_auc")}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "white-box"}, "variant"),
        ({"attack": "svm"}, "attack"),
        ({"features": "top_5"}, "features"),
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


def test_a_class_that_an_attack_per_class_cannot_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_data(Classes(1), nonmember=10)
    attack = MembershipInference(features="per_class", on_error="raise")
    with pytest.raises(ValueError, match=r"none are left of \[1\]; take features='sorted'"):
        quiet_trainer(callbacks=[attack]).fit(toy_source(), data)
    inputs, targets = blobs(31, 1)
    data = toy_data(0.2, nonmember=10, test_dataset=TensorData(inputs, targets * 0, num_classes=CLASSES))
    source = toy_source()
    with pytest.raises(ValueError, match=r"no retained or no test samples of classes \[1, 2\] to learn from"):
        quiet_trainer(callbacks=[attack]).fit(source, data)
    assert source.trainer.global_step == 0
    # of which nothing is known before all are read
    monkeypatch.setattr("lightning_unlearn.callbacks.membership_inference.known_labels", lambda *_: None)
    with pytest.raises(ValueError, match=r"no members or no others of class [12] to learn from"):
        quiet_trainer(callbacks=[attack], max_epochs=1, limit_train_batches=0).fit(toy_source(), data)


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
