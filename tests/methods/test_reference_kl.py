"""ReferenceKL: the loss of eq. 3, the reference model, and when it stops."""

import time
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import (
    FEATURES,
    Net,
    assert_same_state,
    quiet_trainer,
    state,
    test_set,
    toy_data,
    toy_source,
    train_set,
)
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn

from lightning_unlearn.data import Indexed
from lightning_unlearn.ensembles import predict
from lightning_unlearn.methods import ReferenceKL
from lightning_unlearn.methods.base.teacher import Teacher

# what the harnesses run it with, by purpose; see settings_of() in helpers/support.py
SETTINGS = {
    "ReferenceKL": {
        "quick": {"reference_epochs": 2, "lambda_": 0.3},
        "forgets": {"lambda_": 0.5, "reference_fraction": 0.5},
    }
}


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(FEATURES, 3)


class Losses(L.Callback):
    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.models: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)
        self.models.append(state(module.model))

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))


@pytest.mark.parametrize("lambda_", [0.0, 0.01, 0.7, 1.0])
def test_the_loss_is_equation_3(lambda_: float) -> None:
    source, reference = linear(0), linear(1)
    spy = Losses()
    method = ReferenceKL(source, lambda_, reference)
    quiet_trainer(callbacks=[spy], limit_val_batches=0).fit(method, toy_data())
    assert len(spy.losses) == 4
    for batch, loss, weights in zip(spy.batches, spy.losses, spy.models, strict=True):

        def logits(x: torch.Tensor, w: dict[str, torch.Tensor]) -> np.ndarray:
            return x.double().numpy() @ w["weight"].double().numpy().T + w["bias"].double().numpy()

        assert isinstance(batch["forget"], Indexed)
        forget, (retain, targets) = batch["forget"].batch[0], batch["retain"]
        p_reference = softmax(logits(forget, reference.state_dict()), axis=1)
        kl = rel_entr(p_reference, softmax(logits(forget, weights), axis=1)).sum(1).mean()
        ce = -log_softmax(logits(retain, weights), axis=1)[np.arange(len(targets)), targets].mean()
        assert loss == pytest.approx(lambda_ * kl + (1 - lambda_) * ce, rel=1e-5, abs=1e-7)


def test_asking_the_reference_once_or_at_every_step_is_the_same() -> None:
    ends = []
    for augmented in (False, True):
        data = toy_data()
        if (
            augmented
        ):  # an augmentation that does nothing: the reference must be asked at every step all the same
            data.inner.augment = lambda x, generator: x  # type: ignore[union-attr]
        method = ReferenceKL(linear(0), 0.5, linear(1))
        quiet_trainer(limit_val_batches=0).fit(method, data)
        ends.append(state(method.model))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name])


def test_with_lambda_1_the_forget_set_gets_the_references_posteriors() -> None:
    reference = linear(1)
    method = ReferenceKL(linear(0), 1.0, reference, optimizer=lambda p: torch.optim.Adam(p, lr=0.05))
    data = toy_data()
    quiet_trainer(max_epochs=150, limit_val_batches=0).fit(method, data)
    for x, _ in data.loader("forget"):
        torch.testing.assert_close(method(x).softmax(1), reference(x).softmax(1), atol=0.02, rtol=0)


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Weights of every reference model, which a method lets go of once it has its answers."""
    noted: list[dict[str, torch.Tensor]] = []

    class Noted(Teacher):
        def __init__(self, model: nn.Module) -> None:
            super().__init__(model)
            noted.append(state(model))

    monkeypatch.setattr("lightning_unlearn.methods.reference_kl.Teacher", Noted)
    return noted


def test_the_reference_never_sees_the_forget_set(references: list[dict[str, torch.Tensor]]) -> None:
    """A forget set moved far away must leave the reference model as it is."""
    for offset in (0.0, 1000.0):
        data = toy_data([0, 1, 2, 3])
        data.inner.inputs[:4] += offset  # type: ignore[union-attr]
        method = ReferenceKL(toy_source(), reference_epochs=3)
        quiet_trainer(max_epochs=1).fit(method, data)
    first, second = references
    assert_same_state(first, second)


def test_the_reference_is_a_fresh_model_trained_on_its_share(
    references: list[dict[str, torch.Tensor]],
) -> None:
    source = toy_source()
    method = ReferenceKL(source, reference_fraction=0.5, reference_epochs=40)
    data = toy_data()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(method, data)
    reference = toy_source()
    reference.load_state_dict(references[0])
    reference.eval()
    assert not any(
        torch.equal(a, b) for a, b in zip(reference.parameters(), source.parameters(), strict=True)
    )
    share = data.split.draw_reference(0.5)
    assert len(share) == round(0.5 * len(data.split.retain))
    known = {"train": train_set(), "forget": train_set(), "test": test_set()}
    positions = {"train": share, "forget": data.split.forget, "test": data.split.test}
    shares = {}
    for part, rows in positions.items():
        x, y = known[part].batch(torch.from_numpy(rows))
        shares[f"reference/accuracy_{part}"] = float((reference(x).argmax(1) == y).double().mean())
    assert shares["reference/accuracy_train"] > 0.8
    told = {name: float(value) for name, value in trainer.callback_metrics.items() if name in method.metrics}
    assert 0 < told.pop("time/reference_s") < float(trainer.callback_metrics["time/prepare_s"])
    assert told == pytest.approx(shares)


def test_asking_how_right_the_reference_is_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def slow(model: Any, loader: Any, *others: Any) -> Any:
        asked.append(len(loader.positions))
        time.sleep(0.1)
        return predict(model, loader, *others)

    monkeypatch.setattr("lightning_unlearn.methods.reference_kl.predict", slow)
    monkeypatch.setattr("lightning_unlearn.data.splits._ENOUGH", 5)
    method = ReferenceKL(toy_source(), reference_epochs=1)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, toy_data())
    assert asked == [5, 5, 5], "some of D_s, test and forget set"
    assert method.times["time/prepare_s"] - method.measured["time/reference_s"] > 0.3


def test_a_given_reference_is_copied_and_left_alone() -> None:
    reference = Net().train()
    before = state(reference)
    method = ReferenceKL(toy_source(), reference=reference)
    quiet_trainer().fit(method, toy_data())
    assert_same_state(state(reference), before)
    assert reference.training
    assert all(p.requires_grad for p in reference.parameters())


def test_it_stops_when_the_distributions_agree() -> None:
    source = linear(0)
    same = ReferenceKL(source, 0.5, source, kl_tolerance=1e-3, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    trainer = quiet_trainer(max_epochs=10)
    trainer.fit(same, toy_data())
    assert trainer.current_epoch == 1
    other = ReferenceKL(
        source, 0.5, linear(1), kl_tolerance=1e-3, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
    )
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(other, toy_data())
    assert trainer.current_epoch == 3


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lambda_", -0.1),
        ("lambda_", 1.1),
        ("reference_fraction", 0.0),
        ("reference_fraction", 1.5),
        ("reference_epochs", 0),
        ("kl_tolerance", 0.0),
    ],
)
def test_arguments_outside_their_range_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        ReferenceKL(Net(), **{argument: value})
