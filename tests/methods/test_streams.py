"""What the steps of an epoch are served: streams passed over once, and epochs that differ."""

import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from torch import Tensor, nn

from lightning_unlearn.data import Phase, TensorData, UnlearningDataModule
from lightning_unlearn.data.loading import Indexed, OrderSampler
from lightning_unlearn.methods import FineTune, NegGradPlus, RandomLabel, UnlearningModule


class Seen(L.Callback):
    """Notes which samples of which streams an epoch was served, step by step."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[dict[str, list[int]]]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        step = {name: part.index.tolist() for name, part in batch.items() if isinstance(part, Indexed)}
        self.epochs.setdefault(trainer.current_epoch, []).append(step)


class InTurn(UnlearningModule):
    """Trains on the retain set and on the forget set, an epoch each; with dropout, so that random states matter."""

    indexed_streams = ("forget", "retain")
    anneals = True

    def phase(self, epoch: int) -> Phase:
        stream = ("retain", "forget")[epoch % 2]
        return Phase((stream,), stream)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        ((logits, targets),) = self.stream_logits(*batch.values())
        return self.loss(logits, targets)


@pytest.mark.parametrize("steps", [3, 4, 7, 12, 30])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_spread_stream_is_passed_over_once_in_even_steps(steps: int, world: int) -> None:
    ranks = [
        OrderSampler(12, 5, shuffle=True, seed=1, rank=r, world_size=world, steps=steps) for r in range(world)
    ]
    own: list[int] = []
    sizes = [0] * steps
    for sampler in ranks:
        batches = list(sampler)
        assert len(batches) == len(sampler) == steps
        for step, batch in enumerate(batches):
            assert len(batch) == max(1, sampler.own(step))  # one that does not count, where there is none
            sizes[step] += sampler.own(step)
            own += batch[: sampler.own(step)].tolist()
    assert sorted(own) == list(range(12))
    assert max(sizes) - min(sizes) <= 1


def test_an_epoch_passes_once_over_a_stream_and_in_another_order_in_the_next() -> None:
    seen, method = Seen(), RandomLabel(toy_source())
    quiet_trainer(max_epochs=3, limit_val_batches=0, callbacks=[seen]).fit(method, toy_data())
    orders = [tuple(i for step in steps for i in step["forget"]) for steps in seen.epochs.values()]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len(set(orders)) == 3, "the order was frozen"


def test_a_stream_that_is_passed_over_again_is_shuffled_and_augmented_anew() -> None:
    """``itertools.cycle`` over a loader keeps the first pass."""
    orders: list[list[int]] = []
    shifts: list[Tensor] = []
    inputs = torch.arange(64.0)[:, None]

    class Noted(NegGradPlus):
        indexed_streams = ("forget",)

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            x = batch["forget"].batch[0]
            orders.append(x.floor().flatten().tolist())
            shifts.append((x - x.floor())[x.flatten().argsort()])
            return super().training_step(batch, batch_idx)

    def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + 0.9 * torch.rand(len(x), 1, generator=generator)

    samples = TensorData(inputs, torch.arange(64) % 2, augment=shifted)
    data = UnlearningDataModule(
        samples, list(range(8)), test_dataset=TensorData(inputs, torch.arange(64) % 2), batch_size=8
    )
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(Noted(nn.Linear(1, 2), ascent_share=1.0), data)
    assert all(sorted(order) == list(range(8)) for order in orders), "each step is a pass"
    assert len({tuple(order) for order in orders}) == len(orders) == 7
    assert len(torch.stack(shifts).unique()) == 7 * 8


def test_the_page_on_traps_names_tests_that_there_are() -> None:
    root = Path(__file__).parents[2]
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (root / "docs/methods/traps.md").read_text())
    assert len(named) == 11
    for file, test in named:
        assert f"def {test}(" in (root / file).read_text(), test


def test_a_sample_of_the_forget_set_weighs_what_one_of_the_retain_set_does() -> None:
    weights: list[float] = []

    class Noted(RandomLabel):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            weights.append(self.samples_beside("forget") * len(batch["retain"][1]))
            return super().training_step(batch, batch_idx)

    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(Noted(toy_source()), toy_data([3, 7]))
    assert sum(weights) == pytest.approx(2)
    assert set(weights) == {0, 1}  # nothing where the step has no sample of its own


def test_epochs_differ_as_the_method_says_and_the_trainer_is_left_as_it_was() -> None:
    seen, method = Seen(), InTurn(toy_source())
    trainer = quiet_trainer(max_epochs=4, callbacks=[seen])
    trainer.fit(method, toy_data(nonmember=10))
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert [{name for step in steps for name in step} for steps in seen.epochs.values()] == [
        {"retain"},
        {"forget"},
    ] * 2
    assert [len(steps) for steps in seen.epochs.values()] == [6, 2, 6, 2]
    assert method.total_steps == trainer.global_step == 16
    assert rates[0] == pytest.approx(1e-3 / 50, rel=0.2), "the schedule ends with the last step"
    for epoch, size in ((0, 48), (1, 12), (2, 48), (3, 12)):
        served = [index for step in seen.epochs[epoch] for part in step.values() for index in part]
        assert sorted(served) == list(range(size))
    assert seen.epochs[1] != seen.epochs[3], "the order was frozen"
    assert trainer.reload_dataloaders_every_n_epochs == 0  # type: ignore[attr-defined]


class Stop(L.Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise InterruptedError

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == -self.step:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


@pytest.mark.parametrize("step", [2, 6, -6, 7, 8, -8, 11])
def test_a_run_resumed_in_any_epoch_ends_in_the_same_weights(step: int, tmp_path: Path) -> None:
    """In the middle of an epoch, at its last step, and at its end: the next one is another stream's, from its start."""

    def run(path: Path | None = None, **trainer: Any) -> nn.Module:
        L.seed_everything(1, verbose=False)
        method = InTurn(toy_source())
        if path is not None:
            torch.manual_seed(9)
        quiet_trainer(max_epochs=4, limit_val_batches=0, **trainer).fit(
            method, toy_data(), ckpt_path=path, weights_only=True
        )
        return method.model

    with pytest.raises(InterruptedError):
        run(callbacks=[Stop(step, tmp_path / "mid.ckpt")])
    expected, resumed = run().state_dict(), run(tmp_path / "mid.ckpt").state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_epochs_alike_are_not_served_anew() -> None:
    trainer = quiet_trainer(max_epochs=3, limit_val_batches=0)
    loaders = set()

    class Loaders(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            loaders.add(id(trainer.train_dataloader["retain"]))

    trainer.callbacks.append(Loaders())  # type: ignore[attr-defined]
    trainer.fit(FineTune(toy_source()), toy_data())
    assert len(loaders) == 1
