"""DELETE, BoundaryShrink and BoundaryExpand, for whole classes: their targets by hand, and what the exported model has forgotten."""

import math
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.support import earlier_checkpoint
from helpers.toys import FEATURES, quiet_trainer, test_set, toy_data, toy_source, train_set
from helpers.wrong_labels import check_a_class_is_forgotten
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn.data import Classes, TensorData, UnlearningDataModule
from lightning_unlearn.methods import (
    DELETE,
    SCRUB,
    UNSIR,
    BoundaryExpand,
    BoundaryShrink,
    LinearFiltration,
    RewindKL,
    UnlearningModule,
)

METHODS = [DELETE, BoundaryShrink, BoundaryExpand]
each = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


@pytest.mark.slow
@each
def test_a_class_is_forgotten(method: type[UnlearningModule], tmp_path: Path) -> None:
    # without the retain set's batches to normalise by, the exported model is right about 99%
    check_a_class_is_forgotten(method, tmp_path, epochs=10, left=0.02, lost=0.03)


@pytest.mark.slow
def test_without_the_class_that_is_added_nothing_is_forgotten(tmp_path: Path) -> None:
    class Off(BoundaryExpand):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            (logits, labels), *_ = self.stream_logits(*batch.values())
            return self.task.batch_loss(logits, labels)

    with pytest.raises(AssertionError, match=r"it is still right about 100\.0% of the class"):
        check_a_class_is_forgotten(Off, tmp_path, epochs=10)


@each
def test_a_forget_set_that_is_no_class_is_warned_of(method: type[UnlearningModule]) -> None:
    with pytest.warns(
        UserWarning, match=f"{method.__name__} is made for whole classes.*NegGradPlus, Rewind or"
    ):
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method(toy_source()), toy_data())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*whole classes")
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method(toy_source()), toy_data(Classes([1])))


@each
def test_the_retain_set_is_read_where_it_has_to_normalise(method: type[UnlearningModule]) -> None:
    assert method(toy_source()).streams == ("forget", "retain")
    assert method(nn.Linear(FEATURES, 3)).streams == ("forget",)


def test_the_target_of_delete_is_the_source_without_the_true_class() -> None:
    found: list[tuple[float, float]] = []

    class Noted(DELETE):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            x, y = batch["forget"].batch
            with torch.no_grad():
                target, answers = self.source(x).softmax(1), self.model(x).log_softmax(1)
            total = 0.0
            for sample, label in enumerate(y.tolist()):
                others = [c for c in range(3) if c != label]
                left = target[sample, others] / target[sample, others].sum()
                total += float((left * (left.log() - answers[sample, others])).sum())
            found.append((float(loss), total / len(y)))
            return loss

    source = nn.Linear(FEATURES, 3)
    quiet_trainer(max_epochs=3, limit_val_batches=0).fit(Noted(source), toy_data(Classes([1])))
    for loss, expected in found:
        assert loss == pytest.approx(expected, rel=1e-4)


def test_the_added_class_is_the_mean_of_all_and_none_is_added_to_the_model() -> None:
    source, found = nn.Linear(FEATURES, 3), []

    class Noted(BoundaryExpand):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            logits = self.model(batch["forget"][0]).detach().double()
            total = logits.exp().sum(1) + logits.mean(1).exp()
            found.append((float(loss), float((total.log() - logits.mean(1)).mean())))
            return loss

    method = Noted(source)
    quiet_trainer(max_epochs=3, limit_val_batches=0).fit(method, toy_data(Classes([1])))
    for loss, expected in found:
        assert loss == pytest.approx(expected, rel=1e-5)
    assert method.model.weight.shape == source.weight.shape


def test_the_nearest_class_is_that_past_the_boundary_and_never_the_label() -> None:
    torch.manual_seed(0)
    source = nn.Linear(FEATURES, 3)
    for bound in (1e-6, 0.5):
        method = BoundaryShrink(source, bound)
        data = toy_data(Classes([1]))
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, data)
        x, y = next(iter(data.loader("forget", batch_size=99)))
        low, high = x.min(), x.max()
        posterior = source(x).softmax(1).detach()
        posterior[torch.arange(len(y)), y] -= 1
        gradient = posterior @ source.weight.detach()  # of the cross-entropy, by the inputs
        answers = source((x + bound * (high - low) * gradient.sign()).clamp(low, high)).detach()
        answers[torch.arange(len(y)), y] = -torch.inf
        assert torch.equal(method._labels, answers.argmax(1))
        assert not bool((method._labels == y).any())


def test_inputs_in_which_no_step_can_be_taken_are_refused() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.table(x).mean(1)

    data = TensorData(torch.randint(0, 9, (30, 4)), torch.arange(30) % 3)
    split = UnlearningDataModule(data, Classes([1]), batch_size=8)
    with pytest.raises(ValueError, match="one floating-point tensor; DELETE takes none"):
        quiet_trainer().fit(BoundaryShrink(Words()), split)


def test_arguments_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bound must .* got 0"):
        BoundaryShrink(toy_source(), 0.0)


def with_a_rare_class() -> UnlearningDataModule:
    """Of twelve samples that are forgotten, one is the only one of its class."""
    rows = train_set()
    targets = rows.targets.clamp(max=1)
    targets[5] = 2
    return UnlearningDataModule(
        TensorData(rows.inputs, targets), list(range(12)), test_dataset=test_set(), nonmember=10, batch_size=8
    )


def test_the_only_sample_of_a_rare_class_makes_no_class_of_a_request() -> None:
    data, source = with_a_rare_class(), toy_source()
    data.setup("fit")
    assert data.forgotten_classes == [2]
    assert not data.forgets_a_class
    assert data.unlike_nonmembers == ""
    for kind in (DELETE, UNSIR):
        with pytest.warns(UserWarning, match="is made for whole classes"):
            quiet_trainer(limit_val_batches=0).fit(kind(source), with_a_rare_class())
    with pytest.raises(ValueError, match="the request forgets none whole"):
        quiet_trainer(max_epochs=0).fit(LinearFiltration(source), with_a_rare_class())
    quiet_trainer(max_epochs=2).fit(SCRUB(source, rewind=True), with_a_rare_class())
    method = RewindKL(source, earlier_checkpoint(source))
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, with_a_rare_class())
    assert method._memorised < math.inf
    batch = {"forget": next(iter(method.data.loader("forget", indexed=True)))}
    labels = batch["forget"].batch[1]
    lowered = method.given(batch)["earlier"].gather(1, labels[:, None])[:, 0]
    assert (lowered == -math.inf).tolist() == (labels == 2).tolist(), "no retrained model knows that class"


def test_most_of_a_class_and_a_few_others_is_a_class() -> None:
    data = toy_data([*range(1, 60, 3), 0])
    data.setup("fit")
    assert data.forgets_a_class
    assert data.forgotten_classes == [1]


class Normalises(L.LightningDataModule):
    """Normalises bytes on the device, as a project's hook does."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(as_bytes(train_set()), batch_size=8, shuffle=True)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(as_bytes(test_set()), batch_size=8)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return (batch[0].float() - 100) / 20, batch[1]


def as_bytes(rows: TensorData) -> TensorDataset:
    return TensorDataset((rows.inputs * 20 + 100).clamp(0, 255).byte(), rows.targets)


def test_inputs_are_taken_as_the_projects_hooks_make_them() -> None:
    ranges: list[tuple[float, float]] = []

    class Noted(BoundaryShrink):
        def _nearest(
            self, model: nn.Module, inputs: Tensor, labels: Tensor, low: float, high: float
        ) -> Tensor:
            ranges.append((low, high))
            return super()._nearest(model, inputs, labels, low, high)

    for kind in (Noted, UNSIR):
        data = UnlearningDataModule(Normalises(), Classes([1]), order_seed=0)
        quiet_trainer(limit_val_batches=0).fit(kind(toy_source()), data)
    x = as_bytes(train_set()).tensors[0][train_set().targets == 1].float()
    (found,) = set(ranges)
    assert found == pytest.approx((float(x.min() - 100) / 20, float(x.max() - 100) / 20))
