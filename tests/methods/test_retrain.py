"""Retrain: fresh weights, the retain set alone."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import (
    CLASSES,
    Net,
    PlainData,
    PlainModule,
    assert_same_state,
    quiet_trainer,
    state,
    toy_data,
    toy_source,
)
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods import ReferenceKL, Retrain
from lightning_unlearn.models import MLP, Classifier, LeNet5, ResNet8
from lightning_unlearn.models.fresh import built_by


@pytest.mark.parametrize("build", [Net, lambda: ResNet8(width=4), LeNet5])
def test_no_parameter_or_buffer_survives(build: Callable[[], nn.Module]) -> None:
    source = build()
    with torch.no_grad():  # as after training: nothing is at its initial constant
        for tensor in (*source.parameters(), *source.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    fresh = Retrain(source).model
    old, new = source.state_dict(), fresh.state_dict()
    assert old.keys() == new.keys()
    for name in old:
        if old[name].is_floating_point():
            assert not torch.isin(new[name], old[name]).any(), f"values of {name} survive"
        else:
            assert (new[name] == 0).all(), f"{name} was not reset"


def test_the_result_does_not_depend_on_the_sources_weights() -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(0)
        method = Retrain(toy_source(seed))
        quiet_trainer().fit(method, toy_data())
        ends.append(state(method.model))
    assert_same_state(*ends)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_it_equals_plain_training_of_the_same_fresh_model_on_the_retain_set(share: float) -> None:
    torch.manual_seed(3)
    method = Retrain(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), retain_fraction=share)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model.load_state_dict(method.model.state_dict())
    data = toy_data()
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(method, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    some = None if share == 1 else data.split.draw_reference(round(share * len(data.split.retain)))
    loader = data.loader("retain", train=True, positions=some)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert_same_state(state(method.model), state(model))


def test_balanced_classes_are_counted_in_what_is_trained_on() -> None:
    """As in a comparison, whose source is loaded and whose fresh models a factory builds."""

    def build() -> Classifier:
        return Classifier(MLP(6, (5,), 3), class_weight="balanced")

    data = toy_data()
    source = build()
    quiet_trainer(limit_val_batches=0).fit(source, data)
    built_by(source, build)
    targets = torch.as_tensor(data.known_targets())
    methods = Retrain(source, step="source"), ReferenceKL(source, step="source", reference_epochs=1)
    for method in methods:
        quiet_trainer().fit(method, data)
    counts = torch.bincount(targets[torch.from_numpy(data.split.retain)], minlength=3)
    assert methods[0].model.class_weight == pytest.approx((counts.sum() / (3 * counts)).tolist())
    assert methods[1].model.class_weight == source.class_weight


def test_a_builder_of_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="fresh"):
        Retrain(Net(8), fresh=lambda: Net(9))


class Watching(PlainModule):
    """A module whose schedule watches what its own validation logs."""

    def __init__(self, monitor: str = "val_loss") -> None:
        super().__init__()
        self.monitor = monitor
        self.val_accuracy = MulticlassAccuracy(CLASSES, average="micro")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(batch[0])
        self.val_accuracy(logits, batch[1])
        self.log_dict(
            {"val_loss": nn.functional.cross_entropy(logits, batch[1]), "val_acc": self.val_accuracy}
        )

    def on_validation_epoch_end(self) -> None:
        self.log("val_epochs", 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        # a threshold that no loss reaches: the rate is cut after each epoch but the first
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=0, threshold=0.99
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": self.monitor}}


@pytest.mark.parametrize("monitor", ["val_loss", "val_acc", "val_epochs"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_schedule_that_watches_the_sources_own_validation(monitor: str, processes: int) -> None:
    method = Retrain(Watching(monitor))
    two = {"strategy": "ddp_fork", "devices": 2} if processes == 2 else {}
    trainer = quiet_trainer(max_epochs=3, **two)
    trainer.fit(method, UnlearningDataModule(PlainData(), 0.2))
    module, batches = method.model.eval(), list(PlainData().val_dataloader())
    logits, targets = torch.cat([module(x) for x, _ in batches]), torch.cat([y for _, y in batches])
    expected = {
        "val_loss": nn.functional.cross_entropy(logits, targets),
        "val_acc": (logits.argmax(dim=1) == targets).float().mean(),
        "val_epochs": torch.tensor(1.0),
    }[monitor]
    torch.testing.assert_close(trainer.callback_metrics[monitor].cpu(), expected, atol=1e-6, rtol=1e-6)
    if processes == 1 and monitor == "val_epochs":
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**2)


def test_a_schedule_that_watches_what_nobody_logs_is_refused_before_training() -> None:
    method = Retrain(Watching())
    before = state(method.model)
    with pytest.raises(
        ValueError, match="watches val_loss, and TensorData has not the one validation loader"
    ):
        quiet_trainer().fit(method, toy_data())
    assert_same_state(state(method.model), before)
    with pytest.raises(ValueError, match=r"watches nothing_of_that_name, .* logs \['val_acc'"):
        quiet_trainer().fit(Retrain(Watching("nothing_of_that_name")), UnlearningDataModule(PlainData(), 0.2))


class Smoothed(PlainModule):
    """A module that is trained with another loss than the plain cross-entropy."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.5)
        self.log("loss", loss)
        return {"loss": loss}


def test_the_sources_own_step() -> None:
    """It gives the weights that its loss gives, and that one would be trained with otherwise is said."""

    def run(**arguments: Any) -> Any:
        L.seed_everything(1, verbose=False)
        method = Retrain(Smoothed(), **arguments)
        quiet_trainer().fit(method, toy_data())
        return state(method.model)

    smooth = partial(nn.functional.cross_entropy, label_smoothing=0.5)
    assert_same_state(run(step="source"), run(loss=smooth))
    with pytest.warns(UserWarning, match=r"training_step of Smoothed gives .* Retrain\(step='source'\)"):
        run()


def test_a_source_that_is_trained_by_the_cross_entropy_is_no_reason_to_warn() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*step='source'.*")
        quiet_trainer().fit(Retrain(PlainModule()), toy_data())


def test_steps_that_cannot_be_followed_are_refused() -> None:
    class Manual(PlainModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(ValueError, match="manual optimization"):
        Retrain(Manual())
    Retrain(Manual(), optimizer=torch.optim.Adam)
    with pytest.raises(ValueError, match="needs a source with a training_step"):
        Retrain(Net(), step="source")
    with pytest.raises(ValueError, match="step must be one of"):
        Retrain(Net(), step="own")  # type: ignore[arg-type]

    class Silent(PlainModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    with pytest.raises(TypeError, match="training_step of Silent returned NoneType"):
        quiet_trainer().fit(Retrain(Silent(), step="source"), toy_data())
