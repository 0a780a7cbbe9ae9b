"""What a Trainer with several processes is owed: the metrics of one, an end when a process fails, clear refusals."""

import time
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from helpers.toys import quiet_trainer, toy_data, toy_source
from lightning.pytorch.callbacks import BatchSizeFinder, EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_unlearn.callbacks import Evaluator
from lightning_unlearn.methods import WGAN, CFk, ReferenceKL, Retrain
from lightning_unlearn.methods.base.limits import refuse_impossible, require_data_parallel

# ---------------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("forget", "batch_size", "processes"),
    [(0.2, 8, 2), ([4, 7, 30], 2, 2), ([7], 8, 2), ([4, 8], 8, 3), (0.5, 7, 3)],
)
def test_metrics_are_those_of_one_process(forget: Any, batch_size: int, processes: int) -> None:
    """Batches of unequal size, ranks with unequal numbers of samples, and fewer samples than ranks."""

    def metrics(**arguments: Any) -> tuple[dict[str, float], dict[str, float]]:
        data = toy_data(forget, nonmember=10, batch_size=batch_size)
        (validated,) = _merged(
            quiet_trainer(**arguments).validate(Retrain(toy_source()), data, verbose=False)
        )
        (tested,) = quiet_trainer(**arguments).test(Retrain(toy_source()), data, verbose=False)
        return validated, tested

    def _merged(results: list[Any]) -> list[dict[str, float]]:
        return [{name: value for result in results for name, value in result.items()}]

    L.seed_everything(1, verbose=False)
    one = metrics()
    L.seed_everything(1, verbose=False)
    assert metrics(strategy="ddp_fork", devices=processes) == one
    accuracies = {f"accuracy/{stream}" for stream in ("forget", "retain", "test", "nonmember")}
    assert accuracies | {"gap/forget"} == set(one[0])
    # else a sample counted twice might not show
    assert 0 < one[0]["accuracy/forget"] < 1 or forget == [7]


# ---------------------------------------------------------------------- a process that fails


class FailsInPrepare(ReferenceKL):
    """One process cannot prepare."""

    failing = 0

    def prepare(self, data: Any, runtime: Any) -> None:
        if runtime.rank == self.failing:
            raise RuntimeError("a fault of this process alone")
        super().prepare(data, runtime)


class FailsInAStep(ReferenceKL):
    """One process cannot take its second step."""

    failing = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_rank == self.failing and self.trainer.global_step == 1:
            raise RuntimeError("a fault of this process alone")
        return super().training_step(batch, batch_idx)


class FailsInAnEvaluator(Evaluator):
    """One process cannot evaluate; the others wait for its answers."""

    default_name = "failing"
    failing = 0

    def evaluate(self, model: Any, audit: Any) -> dict[str, float]:
        if audit.runtime.rank == self.failing:
            raise RuntimeError("a fault of this process alone")
        return {"accuracy": audit.outputs(model, "forget").accuracy}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("where", [FailsInPrepare, FailsInAStep, FailsInAnEvaluator])
def test_no_process_waits_for_one_that_failed(where: Any, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, "failing", rank)
    audits = [where()] if where is FailsInAnEvaluator else []
    method = ReferenceKL(toy_source()) if audits else where(toy_source())
    trainer = quiet_trainer(strategy="ddp_fork", devices=2, callbacks=audits, limit_val_batches=0)
    start = time.monotonic()
    with pytest.raises(Exception, match=r"a fault of this process alone|terminated with exit code"):
        trainer.fit(method, toy_data())
    assert time.monotonic() - start < 60  # a process that waits would wait for half an hour


# ---------------------------------------------------------------------- what is refused before anything runs


def trainer_with(strategy: Any, **arguments: Any) -> Any:
    """Stand in for a Trainer whose strategy needs hardware that tests do not have."""
    defaults = {"callbacks": [], "checkpoint_callbacks": [], "gradient_clip_val": None, "overfit_batches": 0}
    return SimpleNamespace(strategy=strategy, **{"accumulate_grad_batches": 1, **defaults, **arguments})


@pytest.mark.parametrize("method", [ReferenceKL, WGAN])
def test_strategies_that_hide_the_parameters_are_refused(method: Any) -> None:
    with pytest.raises(ValueError, match=f"{method.__name__}: strategy FSDPStrategy .*ModelParallelStrategy"):
        refuse_impossible(method(toy_source()), trainer_with(FSDPStrategy()))


def test_averaging_of_a_spread_model_is_refused() -> None:
    averaging = trainer_with(ModelParallelStrategy(), callbacks=[StochasticWeightAveraging(1e-3)])
    with pytest.raises(ValueError, match="ReferenceKL: StochasticWeightAveraging cannot"):
        refuse_impossible(ReferenceKL(toy_source()), averaging)


def test_options_that_break_the_streams_are_refused() -> None:
    for arguments, message in (
        ({"overfit_batches": 2}, "CFk: overfit_batches=2 .*limit_train_batches"),
        (
            {"callbacks": [BatchSizeFinder()]},
            r"CFk: BatchSizeFinder .*UnlearningDataModule\(batch_size=...\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            quiet_trainer(**arguments).fit(CFk(toy_source()), toy_data())


def test_an_average_that_never_starts_is_refused() -> None:
    """The model would end as the source was: before the first step where that is known, else when training ends."""
    fired: list[str] = []

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            fired.append("step")
            trainer.should_stop = True

    def run(start: int, method: Any = CFk) -> Any:
        ours = method(toy_source())
        averaging = EMAWeightAveraging(decay=0.5, update_starting_at_step=start)
        quiet_trainer(callbacks=[Stop(), averaging], limit_val_batches=0).fit(ours, toy_data())
        return ours

    with pytest.raises(
        ValueError, match="EMAWeightAveraging updates its average in none of 12 steps and 2 epochs"
    ):
        run(12)
    assert not fired
    with pytest.raises(
        ValueError, match="EMAWeightAveraging updates its average in none of 1 steps and 1 epochs"
    ):
        run(9)
    ours = run(0)
    kept = [n for n, p in ours.model.named_parameters() if p.equal(ours.source.get_parameter(n))]
    assert kept == ["net.0.weight"], "the last five tensors are trained, as without the average"
    with pytest.raises(ValueError, match="EMAWeightAveraging follows the one optimizer"):
        run(0, WGAN)


def test_what_can_be_done_is_not_refused() -> None:
    for strategy in (DDPStrategy(), ModelParallelStrategy()):
        refuse_impossible(WGAN(toy_source()), trainer_with(strategy))
        refuse_impossible(
            ReferenceKL(toy_source()),
            trainer_with(strategy, gradient_clip_val=1.0, accumulate_grad_batches=2),
        )


def test_tensor_parallelism_is_refused() -> None:
    require_data_parallel(ReferenceKL(toy_source()), 4, 4)
    with pytest.raises(ValueError, match=r"ReferenceKL: .*data_parallel_size=4, tensor_parallel_size=1"):
        require_data_parallel(ReferenceKL(toy_source()), 4, 2)


def test_refusals_come_before_anything_is_trained_or_prepared() -> None:
    fired: list[str] = []

    class Watch(L.Callback):
        def setup(self, *_: Any) -> None:
            fired.append("setup")

    with pytest.raises(ValueError, match=r"gradient_clip_val .* WGAN"):
        quiet_trainer(gradient_clip_val=1.0, callbacks=[Watch()]).fit(WGAN(toy_source()), toy_data())
    assert not fired
