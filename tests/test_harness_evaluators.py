"""One harness over every exported evaluator: it measures alike everywhere and changes nothing.

Which evaluator must do what stands in :mod:`support`; strategies that launch whole programs in :mod:`test_launched`.
"""

import json
import pickle
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.support import EVALUATORS, claims, quick
from helpers.support import every_evaluator as stands_for
from helpers.toys import (
    CLASSES,
    FEATURES,
    TEST,
    TRAIN,
    PlainData,
    PlainModule,
    assert_same_state,
    blobs,
    quiet_trainer,
    state,
    toy_data,
    toy_source,
)
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader

from lightning_unlearn.callbacks import Audit, Evaluator
from lightning_unlearn.data import BlendTrigger, ColumnTrigger, Poison, TensorData, UnlearningDataModule
from lightning_unlearn.methods import Retrain

POISON = Poison(ColumnTrigger((0, 1), 6.0))
every_evaluator = pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda evaluator: evaluator.__name__)


def build(evaluator: type[Evaluator], **arguments: Any) -> Evaluator:
    return evaluator(**{"on_error": "raise", **quick(evaluator), **arguments})


def data(**arguments: Any) -> UnlearningDataModule:
    return toy_data(**{"nonmember": 10, "shadow": 12, "order_seed": 4, "backdoor": POISON, **arguments})


def plain_data() -> UnlearningDataModule:
    return UnlearningDataModule(PlainData(), 0.2, nonmember=10, order_seed=4, backdoor=POISON)


def scores(trainer: L.Trainer, evaluator: Evaluator) -> dict[str, float]:
    found = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return {key: found[key] for key in evaluator.results} if evaluator.results else found


@stands_for("one process")
def test_scores_reach_metrics_logger_and_file(evaluator: type[Evaluator], tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    ours, logger = build(evaluator), CSVLogger(tmp_path)
    trainer = quiet_trainer(callbacks=[ours], logger=logger, log_every_n_steps=1)
    trainer.fit(Retrain(toy_source()), data())
    assert ours.results
    assert all(np.isfinite(value) for value in ours.results.values())
    assert ours.results == pytest.approx(scores(trainer, ours))
    written = json.loads((Path(logger.log_dir) / "evaluation" / f"{ours.name}.json").read_text())
    assert written["metrics"] == pytest.approx(ours.results)
    assert written["details"]["seconds"] > 0
    assert written["error"] is None
    assert set(ours.results) <= set(
        (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    )


@every_evaluator
def test_controls_stand_beside_the_scores(evaluator: type[Evaluator]) -> None:
    ours = build(evaluator, retrained=toy_source(5))
    quiet_trainer(callbacks=[ours]).fit(Retrain(toy_source()), data())
    own = {key for key in ours.results if not key.startswith(("source/", "retrain/"))}
    assert own
    for control in ("source", "retrain"):
        assert {f"{control}/{key}" for key in own} <= set(ours.results)


@every_evaluator
def test_the_source_scores_as_itself(evaluator: type[Evaluator]) -> None:
    """Auditing an untouched copy of the source gives the source's own scores."""
    source = toy_source()
    ours = build(evaluator, source=source)
    (tested,) = quiet_trainer(callbacks=[ours]).test(source, data(), verbose=False)
    assert {key: tested[key] for key in ours.results} == ours.results, "scores were rounded"
    own = {key: value for key, value in ours.results.items() if not key.startswith("source/")}
    assert own == pytest.approx({key: ours.results[f"source/{key}"] for key in own})


@pytest.mark.slow
@stands_for("undisturbed")
def test_a_run_is_bit_identical_with_and_without_it(evaluator: type[Evaluator]) -> None:
    ends, draws, modes = [], [], []
    for callbacks in ([], [build(evaluator, data=plain_data())]):
        L.seed_everything(1, verbose=False)
        module = PlainModule()
        module.net[0].weight.requires_grad_(False)
        module.net[1].eval()
        trainer = quiet_trainer(callbacks=callbacks)
        trainer.fit(module, PlainData())
        trainer.fit_loop.max_epochs = 4
        trainer.fit(module, PlainData())
        ends.append(state(module))
        draws.append((torch.rand(1).item(), random.random(), np.random.rand()))  # noqa: NPY002
        modes.append(
            (
                [m.training for m in module.modules()],
                [p.requires_grad for p in module.parameters()],
                module.device,
            )
        )
    assert_same_state(*ends)
    assert draws[0] == draws[1]
    assert modes[0] == modes[1]


def plain_scores(
    evaluator: type[Evaluator],
    make: Callable[[], nn.Module] = PlainModule,
    control: Callable[[], nn.Module] | None = None,
    **arguments: Any,
) -> dict[str, float]:
    L.seed_everything(1, verbose=False)
    module, control = make(), control or make
    audit = build(evaluator, data=plain_data(), source=control(), retrained=control())
    trainer = quiet_trainer(callbacks=[audit], max_epochs=1, limit_train_batches=0, **arguments)
    trainer.fit(module, PlainData())
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


claims("evaluators", "ddp_fork", "test")


@pytest.mark.slow
@every_evaluator
def test_one_process_two_processes_and_trainer_test_agree(evaluator: type[Evaluator]) -> None:
    one = plain_scores(evaluator)
    assert one
    two = plain_scores(evaluator, strategy="ddp_fork", devices=2)
    # sums are taken in another order, which shows in the last bits of what is trained
    assert two == pytest.approx(one, abs=tolerance(evaluator))
    L.seed_everything(1, verbose=False)
    module = PlainModule()
    audit = build(evaluator, data=plain_data(), source=PlainModule(), retrained=PlainModule())
    trainer = quiet_trainer(callbacks=[audit])
    (tested,) = trainer.test(module, PlainData(), verbose=False)
    assert {key: tested[key] for key in one} == pytest.approx(one, abs=1e-6)
    (tested,) = quiet_trainer(callbacks=[audit], strategy="ddp_fork", devices=2).test(
        module, PlainData(), verbose=False
    )
    assert {key: tested[key] for key in two} == pytest.approx(two, abs=1e-6)


# Evaluators whose scores come from a model they train on the ranks, which depends on how batches are split.
TRAINS_MODELS = {"UnlearningDegree"}


def tolerance(evaluator: type[Evaluator]) -> float:
    """How far the scores of two ways to compute the same may be apart."""
    return 0.15 if evaluator.__name__ in TRAINS_MODELS else 1e-6


claims("evaluators", "bf16-mixed", "16-mixed", "bf16-true")


@pytest.mark.slow
@pytest.mark.exhaustive(one_of=2)
@every_evaluator
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "scaler"])
def test_precisions(evaluator: type[Evaluator], precision: str) -> None:
    arguments: dict[str, Any] = (
        {"plugins": [MixedPrecision("16-mixed", "cpu")]}
        if precision == "scaler"
        else {"precision": precision}
    )
    source = toy_source()
    before = state(source)
    ours = build(evaluator, source=source)
    quiet_trainer(callbacks=[ours], **arguments).fit(toy_source(1), data())
    assert ours.results
    assert_same_state(state(source), before)


@pytest.mark.slow
@stands_for("limits")
def test_limits_of_the_trainer_do_not_shorten_what_is_measured(evaluator: type[Evaluator]) -> None:
    """They cut training and testing short; the evaluator goes over all of every stream."""

    def scores_under(**limits: Any) -> dict[str, float]:
        module, ours = toy_source(3), build(evaluator, source=toy_source())
        quiet_trainer(callbacks=[ours], **limits).test(module, data(), verbose=False)
        return ours.results

    assert scores_under(limit_test_batches=1) == pytest.approx(scores_under(), abs=1e-6)
    for limit in (
        {"fast_dev_run": True},
        {"max_steps": 1},
        {"max_time": timedelta(milliseconds=1)},
        {"limit_train_batches": 1, "limit_val_batches": 1},
        {"max_epochs": 0},
    ):
        ours = build(evaluator)
        quiet_trainer(callbacks=[ours], **limit).fit(Retrain(toy_source()), data())
        assert ours.results, limit


class Compiled(PlainModule):
    """A module whose author compiles its network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


@pytest.mark.slow
@stands_for("compile")
def test_compiled_models(evaluator: type[Evaluator]) -> None:
    expected = pytest.approx(plain_scores(evaluator), abs=tolerance(evaluator))
    assert plain_scores(evaluator, Compiled) == expected
    assert plain_scores(evaluator, lambda: torch.compile(PlainModule(), backend="eager")) == expected


class ImageModule(PlainModule):
    """A convolutional network, whose weights have a memory format."""

    def __init__(self, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, CLASSES)
        )
        self.to(memory_format=memory_format)  # type: ignore[call-overload]


@stands_for("channels_last")
def test_channels_last(evaluator: type[Evaluator]) -> None:
    def images(size: int, seed: int) -> TensorData:
        vectors, targets = blobs(size, seed)
        return TensorData(vectors.repeat(1, 8).view(size, 3, 4, 4), targets)

    def scores_of(memory_format: torch.memory_format) -> dict[str, float]:
        L.seed_everything(1, verbose=False)
        module = ImageModule(memory_format)
        data = UnlearningDataModule(
            images(TRAIN, 0),
            0.2,
            test_dataset=images(TEST, 1),
            nonmember=10,
            shadow=12,
            order_seed=4,
            backdoor=Poison(BlendTrigger()),
        )
        ours = build(evaluator, source=ImageModule(memory_format))
        quiet_trainer(callbacks=[ours]).test(module, data, verbose=False)
        kernels = module.net[0].weight
        assert kernels.is_contiguous(memory_format=torch.channels_last) == (
            memory_format == torch.channels_last
        )
        return ours.results

    found, expected = scores_of(torch.channels_last), scores_of(torch.contiguous_format)
    # the convolution adds up in another order
    assert found == pytest.approx(expected, abs=max(1e-4, tolerance(evaluator)))


@every_evaluator
def test_two_instances_need_two_names(evaluator: type[Evaluator]) -> None:
    with pytest.raises(ValueError, match="give one"):
        quiet_trainer(callbacks=[build(evaluator), build(evaluator)]).fit(toy_source(), data())
    first, second = build(evaluator), build(evaluator, name="second")
    quiet_trainer(callbacks=[first, second]).fit(toy_source(), data())
    assert list(first.results.values()) == list(second.results.values())
    assert first.results.keys() != second.results.keys() or not any(
        "/" in k and k.startswith(first.name) for k in first.results
    )


@every_evaluator
def test_data_that_names_nobody_is_refused_before_training(evaluator: type[Evaluator]) -> None:
    class Count(L.Callback):
        batches = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.batches += 1

    count = Count()
    with pytest.raises(TypeError, match="UnlearningDataModule"):
        quiet_trainer(callbacks=[build(evaluator), count]).fit(PlainModule(), PlainData())
    assert count.batches == 0
    with pytest.raises(TypeError, match="UnlearningDataModule"):
        build(evaluator, data=PlainData())


@every_evaluator
def test_pickling(evaluator: type[Evaluator]) -> None:
    ours = build(evaluator)
    quiet_trainer(callbacks=[ours]).fit(toy_source(), data())
    again = pickle.loads(pickle.dumps(ours))
    assert again.results == ours.results


class Failing(Evaluator):
    """An evaluator with a fault."""

    default_name = "failing"

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        torch.rand(3)
        raise RuntimeError("a fault in the evaluator")


def test_a_failing_evaluator_loses_nothing(tmp_path: Path) -> None:
    from lightning_unlearn.callbacks import ForgettingMetrics

    failing, good = Failing(dirpath=tmp_path), ForgettingMetrics(dirpath=tmp_path)
    trainer = quiet_trainer(callbacks=[failing, good])
    module = toy_source()
    state_before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="a fault in the evaluator"):
        trainer.fit(module, data())
    assert not torch.equal(torch.get_rng_state(), state_before), "dropout drew in training"
    assert good.results
    assert failing.error == "RuntimeError: a fault in the evaluator"
    assert json.loads((tmp_path / "failing.json").read_text())["error"] == failing.error
    with pytest.raises(RuntimeError, match="a fault"):
        quiet_trainer(callbacks=[Failing(on_error="raise")]).fit(toy_source(), data())


def test_evaluators_share_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_unlearn.callbacks import ForgettingMetrics

    first, second = ForgettingMetrics(controls=False), ForgettingMetrics(name="again", controls=False)
    module = toy_source()
    batches = []
    module.net.register_forward_hook(
        lambda net, args, out: batches.append(len(out)) if not net.training else None
    )
    trainer = quiet_trainer(callbacks=[first, second], limit_val_batches=0, max_epochs=1)
    trainer.fit(module, data())
    split = trainer.datamodule.split  # type: ignore[attr-defined]
    tried = 8  # one batch before training, for both
    streams = len(split.forget) + len(split.retain) + len(split.test) + len(split.nonmember)
    assert sum(batches) == tried + streams
    assert first.results == second.results


@pytest.mark.parametrize(("argument", "value"), [("on_error", "ignore"), ("data", "digits.csv")])
def test_bad_arguments_are_refused(argument: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=argument):
        Failing(**{argument: value})


def test_a_foreign_modules_own_attributes_are_not_taken_for_ours() -> None:
    from lightning_unlearn.callbacks import ForgettingMetrics

    class Lora(PlainModule):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = nn.Linear(2, 2)
            self.source = "imagenet"

    evaluator = ForgettingMetrics(data=plain_data(), on_error="raise")
    quiet_trainer(callbacks=[evaluator], max_epochs=1).fit(Lora(), PlainData())
    assert set(evaluator.results) == {"accuracy/forget", "accuracy/retain", "accuracy/test"}


def test_an_error_with_several_processes_stops_all_of_them() -> None:
    with pytest.raises(Exception, match="a fault in the evaluator"):
        quiet_trainer(callbacks=[Failing()], strategy="ddp_fork", devices=2).fit(toy_source(), data())


def test_prediction_asks_for_no_split() -> None:
    quiet_trainer(callbacks=[Failing()]).predict(PlainModule(), DataLoader(torch.zeros(4, FEATURES)))
