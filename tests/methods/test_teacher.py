"""The teacher: asked once where the forget set stays as it is, at every step where it does not, and then let go."""

import gc
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import FEATURES, PlainData, PlainModule, assert_same_state, quiet_trainer, state, toy_data
from torch import nn

from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.data.loading import Indexed
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods import ReferenceKL, TopK, UnlearningModule
from lightning_unlearn.methods.base.teacher import Teacher


class Counted(nn.Linear):
    """Counts its forward passes, those of its copies too."""

    calls = 0

    def __init__(self) -> None:
        super().__init__(FEATURES, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).calls += 1
        return super().forward(x)


def plain(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(FEATURES, 3)


def asked(model: nn.Module, data: UnlearningDataModule) -> Teacher:
    data.setup("fit")
    teacher = Teacher(model)
    teacher.ask(data, Runtime(), Adapter())
    return teacher


def augmented() -> UnlearningDataModule:
    data = toy_data()
    data.inner.augment = lambda x, generator: x + torch.rand(x.shape, generator=generator)  # type: ignore[union-attr]
    return data


@pytest.mark.parametrize("shuffled", [False, True])
def test_kept_answers_are_the_models_on_every_batch(shuffled: bool) -> None:
    model, data = plain(0), toy_data()
    teacher = asked(model, data)
    for batch in data.loader("forget", train=shuffled, indexed=True, batch_size=5):
        # batches of another size may sum in another order: one or two units in the last place
        torch.testing.assert_close(teacher.logits(batch), model(batch.batch[0]), rtol=1e-6, atol=1e-6)
    same = data.loader("forget", indexed=True)
    assert torch.equal(
        torch.cat([teacher.logits(b) for b in same]), torch.cat([model(b.batch[0]) for b in same])
    )


def test_each_rank_finds_its_own_samples() -> None:
    model, data = plain(0), toy_data()
    teacher = asked(model, data)
    for rank in range(3):
        for batch in data.loader("forget", train=True, indexed=True, batch_size=2, rank=rank, world_size=3):
            torch.testing.assert_close(teacher.logits(batch), model(batch.batch[0]), rtol=1e-6, atol=1e-6)


def test_without_augmentation_no_second_forward_pass_and_no_second_model() -> None:
    Counted.calls = 0
    data = toy_data()
    teacher = asked(Counted(), data)
    batches = len(data.loader("forget"))
    assert Counted.calls == batches
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Counted], "a model is still held"
    for batch in data.loader("forget", indexed=True):
        teacher.logits(batch)
    teacher.ask(data, Runtime(), Adapter())
    assert Counted.calls == batches


def test_with_augmentation_every_batch_is_asked_as_it_is() -> None:
    model, data = plain(0), augmented()
    teacher = asked(model, data)
    for batch in data.loader("forget", train=True, indexed=True):
        assert torch.equal(teacher.logits(batch), model(batch.batch[0]))


class Jitter(PlainData):
    """A project that augments on the device, where its hook is not seen to by the dataset."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return (x + torch.rand_like(x) if self.trainer and self.trainer.training else x), y


class JitterModule(PlainModule):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return (x + torch.rand_like(x) if self._trainer and self.trainer.training else x), y


@pytest.mark.parametrize("owner", ["datamodule", "module"])
def test_a_transfer_hook_may_augment_too(owner: str) -> None:
    reference = plain(1)
    data = UnlearningDataModule(Jitter() if owner == "datamodule" else PlainData(), 0.2)
    differences = []

    class Spied(ReferenceKL):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
            assert self._reference is not None
            forget = batch["forget"]
            assert isinstance(forget, Indexed)
            differences.append(self._reference.logits(forget) - reference(forget.batch[0]).detach())
            return super().training_step(batch, batch_idx)

    source = PlainModule() if owner == "datamodule" else JitterModule()
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(Spied(source, reference=reference), data)
    assert differences
    assert all(float(d.abs().max()) < 1e-5 for d in differences)


class HalfWay(L.Callback):
    """Saves a checkpoint after two epochs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("kind", ["plain", "augmented"])
@pytest.mark.parametrize(
    "build",
    [
        lambda: ReferenceKL(plain(0), 0.5, plain(1)),
        lambda: ReferenceKL(plain(0), 0.5, nn.Sequential(plain(1), nn.ReLU(), nn.Linear(3, 3))),
        lambda: TopK(plain(0), k=3),
    ],
)
def test_a_resumed_run_ends_like_one_that_was_not_stopped(build: Any, kind: str, tmp_path: Any) -> None:
    def fit(method: UnlearningModule, *callbacks: L.Callback, path: Any = None) -> None:
        data = toy_data() if kind == "plain" else augmented()
        trainer = quiet_trainer(max_epochs=4, limit_val_batches=0, callbacks=list(callbacks))
        trainer.fit(method, data, ckpt_path=path)

    whole = build()
    fit(whole, HalfWay(tmp_path / "half.ckpt"))
    resumed = build()
    fit(resumed, path=tmp_path / "half.ckpt")
    assert_same_state(state(resumed.model), state(whole.model))


def test_a_resumed_run_asks_nothing_again(tmp_path: Any) -> None:
    method = ReferenceKL(plain(0), 0.5, Counted())
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(method, toy_data())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    Counted.calls = 0
    resumed = ReferenceKL(plain(0), 0.5, Counted())
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(resumed, toy_data(), ckpt_path=tmp_path / "run.ckpt")
    assert Counted.calls == 0
