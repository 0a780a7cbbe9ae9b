"""CollapseGuard: what is left of a model that an unbounded ascent destroys, with it and without."""

import functools
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import TRAIN, Net, PlainModule, blobs, quiet_trainer, toy_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn.callbacks import CollapseGuard
from lightning_unlearn.comparison.attempts import Attempts
from lightning_unlearn.data import Classes
from lightning_unlearn.methods import FineTune, NegGradPlus
from lightning_unlearn.models import Classifier


@functools.cache
def source() -> Classifier:
    L.seed_everything(0, verbose=False)
    model = Classifier(Net(), optimizer=lambda p: torch.optim.Adam(p, 0.01))
    quiet_trainer(max_epochs=15, limit_val_batches=0).fit(model, toy_data())
    return model.eval()


def ascending(known: Classifier, rate: float = 0.02) -> NegGradPlus:
    """Return an ascent on the forget set without end."""
    return NegGradPlus(
        known,
        0.1,
        clamp=1e6,
        ascent_share=1.0,
        optimizer=lambda p: torch.optim.SGD(p, rate),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
    )


def destroyed(*callbacks: L.Callback, forget: Any = 0.3, rate: float = 0.02) -> NegGradPlus:
    known = source()
    L.seed_everything(0, verbose=False)
    method = ascending(known, rate)
    quiet_trainer(max_epochs=8, callbacks=list(callbacks)).fit(method, toy_data(forget, nonmember=15))
    return method


@torch.no_grad()
def right(model: Any, positions: Any) -> float:
    inputs, targets = blobs(TRAIN)
    return float((model.eval()(inputs[positions]).argmax(1) == targets[positions]).float().mean())


class States(L.Callback):
    """Notes the weights and accuracies of every validation."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.retain: list[float] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.weights.append({name: p.detach().clone() for name, p in pl_module.model.named_parameters()})
        self.retain.append(float(trainer.callback_metrics["accuracy/retain"]))


@pytest.mark.parametrize(
    ("guard", "rate", "good", "message"),
    [
        (
            CollapseGuard(0.75, below=1.0),
            0.04,
            0,
            r"accuracy on the retain set fell to .*, below retain=0.75",
        ),
        (CollapseGuard(0.0, below=0.01), 0.01, 0, r"accuracy on the forget set fell to .* below=0.01 under"),
    ],
    ids=["retain", "forget"],
)
def test_the_last_good_weights_are_exported(
    guard: CollapseGuard, rate: float, good: int, message: str, tmp_path: Path
) -> None:
    seen = States()
    with pytest.warns(UserWarning, match=message) as told:
        method = destroyed(seen, guard, rate=rate)
    assert guard.stopped
    assert not [each for each in told if "destroyed" in str(each.message)], (
        "the weights are the good ones again"
    )
    assert len(seen.weights) == good + 3, (
        "it goes no further than the collapse, and looks at what it put back"
    )
    for name, parameter in method.model.named_parameters():
        assert torch.equal(parameter, seen.weights[good][name]), name
    ended = float(method.trainer.callback_metrics["accuracy/retain"])
    assert ended == pytest.approx(right(method.model, method.data.split.retain)), "and so is their accuracy"
    loaded = Classifier.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), net=Net(), weights_only=True)
    right_before = pytest.approx(seen.retain[good], abs=0.06)  # statistics are estimated anew
    assert right(loaded, method.data.split.retain) == right_before


def test_without_it_the_fit_says_that_nothing_is_left() -> None:
    with pytest.warns(
        UserWarning, match=r"NegGradPlus destroyed the model: it ends with \d+% of the retain set"
    ):
        method = destroyed(rate=0.04)
    assert right(method.model, method.data.split.retain) < 0.5


def test_by_default_half_of_the_sources_accuracy_is_the_floor() -> None:
    guard = CollapseGuard(below=1.0)
    with pytest.warns(
        UserWarning, match=r"accuracy on the retain set fell to .*, below half of the source's"
    ):
        method = destroyed(guard, rate=0.04)
    assert guard.stopped
    assert right(method.model, method.data.split.retain) > 0.5


def test_by_default_what_begins_below_the_floor_or_is_to_pass_below_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = CollapseGuard(below=1.0)
    with pytest.warns(UserWarning, match="destroyed the model"):
        assert right((method := destroyed(guard, rate=1.0)).model, method.data.split.retain) < 0.5
    assert not guard.stopped
    assert method.trainer.current_epoch == 8
    monkeypatch.setattr(NegGradPlus, "may_collapse", True)
    with pytest.warns(UserWarning, match="destroyed the model"):
        assert right((method := destroyed(guard, rate=0.04)).model, method.data.split.retain) < 0.5
    assert not guard.stopped


def test_by_default_it_asks_for_no_validation_more_and_keeps_what_moves_alone() -> None:
    looks: list[set[str]] = []
    guard = CollapseGuard(below=1.0)

    class Kept(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            looks.append(set(guard._good))

    known = source()
    first = next(iter(known.net.parameters()))
    method = FineTune(known, frozen=["net.0"])
    trainer = quiet_trainer(max_epochs=8, callbacks=[guard, Kept()])
    validated = []
    method.on_validation_start = lambda real=method.on_validation_start: (validated.append(1), real())  # type: ignore[method-assign]
    trainer.fit(method, toy_data())
    assert first.requires_grad
    assert len(validated) == 3, "in the first epoch, the fourth and the last"
    assert looks[-1]
    assert not [name for name in looks[-1] if name.startswith("net.0.")]
    assert not guard._good, "and nothing once the fit is over"


def test_a_deletion_request_is_guarded() -> None:
    data = toy_data(0.3, nonmember=15)
    data.setup("fit")
    L.seed_everything(0, verbose=False)
    request = Attempts(source(), data, {"accelerator": "cpu", "max_epochs": 8})
    with pytest.warns(
        UserWarning, match=r"CollapseGuard: the accuracy on the retain set fell to .*; training ends"
    ):
        method = request.fit(functools.partial(ascending, rate=0.04))
    assert right(method.model, data.split.retain) > 0.5


class Drops(L.Callback):
    """Ends a fit after its second epoch, whose validation is left out, with weights that answer nothing."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch == 1

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        with torch.no_grad():
            for parameter in pl_module.model.parameters():
                parameter.mul_(-1)


def test_a_model_that_collapses_after_the_last_step_is_given_back_its_good_weights_too() -> None:
    guard = CollapseGuard(below=1.0)
    trainer = quiet_trainer(max_epochs=8, callbacks=[Drops(), guard])
    method = FineTune(source())
    with pytest.warns(UserWarning, match="training ends with the weights of the validation before") as told:
        trainer.fit(method, toy_data())
    assert guard.stopped
    assert not [each for each in told if "destroyed" in str(each.message)]
    ended = float(trainer.callback_metrics["accuracy/retain"])
    assert ended == pytest.approx(right(method.model, method.data.split.retain))
    assert ended > 0.5


@pytest.mark.parametrize("look", ["validate", "test"])
def test_it_guards_a_fit_and_nothing_else(look: str) -> None:
    method = FineTune(Classifier(Net()))
    getattr(quiet_trainer(callbacks=[CollapseGuard(retain=0.9)]), look)(method, toy_data(), verbose=False)


@pytest.mark.slow
def test_of_a_class_nothing_is_to_be_left() -> None:
    guard = CollapseGuard(0.5, below=0.0)
    method = destroyed(guard, forget=Classes(1))
    assert not guard.stopped
    assert right(method.model, method.data.split.forget) == 0


def test_what_cannot_be_guarded_is_refused() -> None:
    with pytest.raises(
        RuntimeError, match=r"forget set fell to .* at the first validation, .* lower the learning"
    ):
        destroyed(CollapseGuard(0.0, below=0.1), rate=0.05)
    with pytest.raises(ValueError, match="CollapseGuard looks at every validation, and limit_val_batches=0"):
        quiet_trainer(limit_val_batches=0, callbacks=[CollapseGuard(0.5)]).fit(FineTune(source()), toy_data())
    with pytest.raises(TypeError, match="CollapseGuard guards an unlearning method, got PlainModule"):
        quiet_trainer(callbacks=[CollapseGuard(0.5)]).fit(PlainModule(), train_loader())
    for arguments, name in (({"retain": 1.5}, "retain"), ({"retain": 0.5, "below": -0.1}, "below")):
        with pytest.raises(ValueError, match=f"{name} must .*: it is"):
            CollapseGuard(**arguments)


def train_loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*blobs(TRAIN)), batch_size=8)


class Counts(nn.Module):
    """Counts its forward passes in a buffer, validations included."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.passes += 1
        return self.net(x)


def test_a_counter_that_validating_moves_makes_no_other_model() -> None:
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(FineTune(Classifier(Counts())), toy_data(nonmember=10))
    assert "accuracy/forget" in trainer.callback_metrics
