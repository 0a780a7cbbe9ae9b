"""FineTune and NegGradPlus: the wrong labels that they forget, the loss they step, and the rate they step it with."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten, unlearned
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.cli import LRSchedulerCallable
from torch import Tensor

from lightning_unlearn.functional import annealed
from lightning_unlearn.methods import (
    MSG,
    CFk,
    EUk,
    FineTune,
    L1Sparse,
    NegGradPlus,
    RandomK,
    Retrain,
    ShrinkPerturb,
    UnlearningModule,
)
from lightning_unlearn.methods.base import AscendingModule
from lightning_unlearn.models import Annealed, Classifier

# what the harnesses run it with, by purpose; see settings_of() in helpers/support.py
SETTINGS = {"NegGradPlus": {"forgets": {"alpha": 0.5}}, "FineTune": {"forgets": {"promised": False}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten_in_two_passes(tmp_path: Path) -> None:
    check_wrong_labels_are_forgotten(NegGradPlus, tmp_path)  # without ascent 46% are left


class OnAll(FineTune):
    """Trains on the forget set too: what FineTune is about is that it does not."""

    streams = ("train",)
    epoch_stream = "train"

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return super().training_step({"retain": batch["train"]}, batch_idx)


@pytest.mark.slow
def test_fine_tuning_forgets_what_it_leaves_out_if_the_rate_is_high_enough(tmp_path: Path) -> None:
    def tuned(kind: type[FineTune], lr: float) -> Any:
        return lambda source: kind(source, optimizer=lambda p: torch.optim.Adam(p, lr=lr))

    check_wrong_labels_are_forgotten(tuned(FineTune, 1e-2), tmp_path, epochs=4)
    assert unlearned(tuned(OnAll, 1e-2), tmp_path, epochs=4)[0] > 0.5
    assert unlearned(tuned(FineTune, 1e-3), tmp_path, epochs=2)[0] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("kind", [L1Sparse, CFk])
def test_ascent_beside_a_method_of_the_retain_set_alone_forgets(
    kind: type[AscendingModule], tmp_path: Path
) -> None:
    def method(ascent: float) -> Any:
        own: dict[str, Any] = {"k": 20} if kind is CFk else {}
        optimizer = partial(torch.optim.Adam, lr=3e-3)
        return lambda source: kind(source, ascent=ascent, optimizer=optimizer, **own)

    check_wrong_labels_are_forgotten(method(0.3), tmp_path, left=0.05)
    assert unlearned(method(0.0), tmp_path)[0] > 0.25


@pytest.mark.parametrize("kind", [CFk, EUk, FineTune, L1Sparse, MSG, ShrinkPerturb])
def test_every_method_of_the_retain_set_alone_takes_an_ascent(kind: type[AscendingModule]) -> None:
    terms: list[dict[str, float]] = []

    def log_terms(self: AscendingModule, **values: Tensor) -> None:
        terms.append({name: float(value.detach()) for name, value in values.items()})

    method = type(kind.__name__, (kind,), {"log_terms": log_terms})(toy_source(), ascent=0.4, clamp=0.5)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, toy_data())
    first, last = terms[0], terms[-1]
    ascended = 0.4 * min(first["forget_ce"], 0.5)
    assert first["loss"] == pytest.approx(first["ce"] + first.get("l1", 0) - ascended, abs=1e-5)
    assert last["loss"] == pytest.approx(last["ce"] + last.get("l1", 0), abs=1e-5)
    assert kind(toy_source()).streams == ("retain",)


def test_the_bound_and_the_end_of_the_ascent() -> None:
    terms: list[dict[str, float]] = []

    class Noted(NegGradPlus):
        def log_terms(self, **values: Tensor) -> None:
            terms.append({name: float(value.detach()) for name, value in values.items()})

    method = Noted(toy_source(), 0.4, clamp=0.5, ascent_share=0.5)
    trainer = quiet_trainer(max_epochs=2, limit_val_batches=0)
    trainer.fit(method, toy_data())
    steps = trainer.global_step
    assert ["forget_ce" in step for step in terms] == [True] * (steps // 2) + [False] * (steps - steps // 2)
    for step in terms[: steps // 2]:
        assert step["loss"] == pytest.approx(0.4 * step["ce"] - 0.6 * min(step["forget_ce"], 0.5), abs=1e-5)
    assert any(step.get("forget_ce", 0) > 0.5 for step in terms), "the bound was met"


@pytest.mark.parametrize("kind", [FineTune, RandomK])
def test_the_rate_rises_and_falls_to_almost_nothing(kind: type[UnlearningModule]) -> None:
    rates: list[float] = []

    class Noted(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=[Noted()])
    trainer.fit(kind(toy_source()), toy_data())
    peak = kind.default_lr
    assert rates == pytest.approx([peak * annealed(step, len(rates)) for step in range(len(rates))])
    assert max(rates) == pytest.approx(peak)
    assert rates[-1] == pytest.approx(0.02 * peak)
    constant = kind(toy_source(), lr_scheduler=lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0))
    rates.clear()
    quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[Noted()]).fit(constant, toy_data())
    assert set(rates) == {peak}


@pytest.mark.parametrize("kind", [CFk, Retrain, Classifier])
def test_a_schedule_in_one_line_goes_by_shares_of_the_steps(
    kind: Callable[..., L.LightningModule],
) -> None:
    """On the command line or in YAML; of a method whose own rate is constant, too."""
    parser = ArgumentParser()
    parser.add_argument("--lr_scheduler", type=LRSchedulerCallable)
    given = "{class_path: lightning_unlearn.models.Annealed, init_args: {warm_up: 0.5, end: 0.1}}"
    parsed = parser.instantiate_classes(parser.parse_args([f"--lr_scheduler={given}"]))
    rates: list[float] = []

    class Noted(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = kind(toy_source(), optimizer=partial(torch.optim.SGD, lr=0.1), lr_scheduler=parsed.lr_scheduler)
    quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=[Noted()]).fit(module, toy_data())
    steps = len(rates)
    assert rates == pytest.approx([0.1 * annealed(s, steps, warm_up=0.5, end=0.1) for s in range(steps)])
    assert rates.index(max(rates)) == round(0.5 * steps) - 1


def test_a_schedule_whose_steps_nobody_counts_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = Annealed(optimizer)
    optimizer.step()
    with pytest.raises(ValueError, match="Annealed goes by a fit's steps"):
        schedule.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 997])
def test_annealed_stays_between_its_end_and_one(steps: int) -> None:
    values = [annealed(step, steps) for step in range(steps)]
    assert all(0 < value <= 1 for value in values)
    assert max(values) == 1
    assert math.isclose(values[-1], 0.02) or steps == 1


def test_an_unknown_number_of_steps_is_refused() -> None:
    trainer = quiet_trainer(max_epochs=-1, max_time={"seconds": 1})
    with pytest.raises(ValueError, match=r"NegGradPlus goes by the number of steps, .* max_epochs="):
        trainer.fit(NegGradPlus(toy_source()), toy_data())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("alpha", -0.1),
        ("alpha", 1.1),
        ("clamp", 0.0),
        ("clamp", math.inf),
        ("ascent_share", 0.0),
        ("ascent_share", 1.5),
    ],
)
def test_arguments_outside_their_range_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        NegGradPlus(toy_source(), **{argument: value})


class Course(L.Callback):
    """Notes the rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_steps_are_counted_where_a_callback_accumulates_differently_in_each_epoch() -> None:
    method, course = NegGradPlus(toy_source()), Course()
    accumulates = GradientAccumulationScheduler({0: 4, 1: 1, 3: 2})
    trainer = quiet_trainer(max_epochs=4, limit_val_batches=0, callbacks=[accumulates, course])
    trainer.fit(method, toy_data())
    assert method.total_steps == trainer.global_step == 2 + 6 + 6 + 3
    assert course.rates[-1] < 0.1 * max(course.rates), "the schedule ends with the last step"


def test_a_run_that_goes_on_for_longer_anneals_over_all_of_its_steps(tmp_path: Path) -> None:
    path, rates = tmp_path / "two.ckpt", {}
    short = quiet_trainer(max_epochs=2, limit_val_batches=0)
    short.fit(NegGradPlus(toy_source()), toy_data())
    short.save_checkpoint(path)
    for name, resume in (("whole", None), ("resumed", path)):
        course = Course()
        trainer = quiet_trainer(max_epochs=6, limit_val_batches=0, callbacks=[course])
        trainer.fit(NegGradPlus(toy_source()), toy_data(), ckpt_path=resume, weights_only=True)
        rates[name] = course.rates
    assert rates["resumed"] == pytest.approx(rates["whole"][12:])
