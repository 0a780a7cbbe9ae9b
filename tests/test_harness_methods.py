"""One harness over every exported method: strategies, precisions, resume, checkpoints, pickling."""

import inspect
import io
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from toys import Net, assert_same_state, quiet_trainer, state, toy_data, toy_source

import lightning_unlearn.methods
from lightning_unlearn.methods import Perturbation, UnlearningModule
from lightning_unlearn.models import Classifier

# Settings that make a method quick on 60 samples; a method that is not named here runs with its defaults.
QUICK: dict[str, dict[str, Any]] = {
    "ReferenceKL": {"reference_epochs": 2, "lambda_": 0.3},
    "TopK": {"k": 9},
    "RandomTopK": {"k": 5},
    "WGAN": {"alpha": 0.5, "critic_steps": 2, "retain_fraction": 0.2},
}
METHODS = [
    method
    for name in lightning_unlearn.methods.__all__
    if inspect.isclass(method := getattr(lightning_unlearn.methods, name))
    and issubclass(method, UnlearningModule)
    and method not in (UnlearningModule, Perturbation)  # the bases, which train nothing
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
PRECISIONS: dict[str, Any] = {
    "bf16-mixed": {"precision": "bf16-mixed"},
    "16-mixed with scaler": {"plugins": [MixedPrecision("16-mixed", "cpu")]},
    "bf16-true": {"precision": "bf16-true"},
}


def build(method: type[UnlearningModule], source: Any = None) -> UnlearningModule:
    return method(source or toy_source(), **QUICK.get(method.__name__, {}))


def fit(method: UnlearningModule, **arguments: Any) -> L.Trainer:
    trainer = quiet_trainer(**{"limit_val_batches": 0, **arguments})
    trainer.fit(method, toy_data(nonmember=10))
    return trainer


def assert_unlearned(method: UnlearningModule) -> None:
    after, before = state(method.model), state(method.source)
    assert all(torch.isfinite(v).all() for v in after.values())
    assert any(not torch.equal(after[k], before[k].to(after[k].dtype)) for k in after), (
        "no weight was changed"
    )


@every_method
def test_one_process(method: type[UnlearningModule]) -> None:
    ours = build(method)
    source_before = state(ours.source)
    trainer = fit(ours, limit_val_batches=1.0)
    assert_unlearned(ours)
    assert_same_state(state(ours.source), source_before)
    assert {"time/total_s", "accuracy/forget", "accuracy/test"} <= set(trainer.callback_metrics)


@every_method
def test_two_runs_of_one_seed_are_the_same(method: type[UnlearningModule]) -> None:
    ends = []
    for _ in range(2):
        L.seed_everything(3, verbose=False)
        ours = build(method)
        fit(ours)
        ends.append(state(ours.model))
    assert_same_state(*ends)


class Spread(L.Callback):
    """Measures how far the ranks' weights are apart when training ends."""

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        flat = torch.cat([p.detach().flatten() for p in pl_module.model.parameters()])
        low, high = flat.clone(), flat.clone()
        torch.distributed.all_reduce(low, torch.distributed.ReduceOp.MIN)
        torch.distributed.all_reduce(high, torch.distributed.ReduceOp.MAX)
        trainer.callback_metrics["spread"] = (high - low).abs().max()


@every_method
def test_two_processes(method: type[UnlearningModule]) -> None:
    ours = build(method)
    trainer = fit(ours, strategy="ddp_fork", devices=2, callbacks=[Spread()], limit_val_batches=1.0)
    assert_unlearned(ours)
    assert float(trainer.callback_metrics["spread"]) == 0.0
    assert 0 <= float(trainer.callback_metrics["accuracy/forget"]) <= 1
    assert float(trainer.callback_metrics["time/total_s"]) > 0


@every_method
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions(method: type[UnlearningModule], precision: str) -> None:
    ours = build(method)
    fit(ours, **PRECISIONS[precision])
    assert_unlearned(ours)


@every_method
def test_accumulated_gradients_or_a_clear_refusal(method: type[UnlearningModule]) -> None:
    ours = build(method)
    arguments: dict[str, Any] = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    if ours.automatic_optimization:
        fit(ours, **arguments)
        assert_unlearned(ours)
    else:
        with pytest.raises(Exception, match="manual optimization"):
            fit(ours, **arguments)


@every_method
@pytest.mark.parametrize("limit", [{"fast_dev_run": True}, {"max_steps": 1}, {"limit_train_batches": 1}])
def test_limits(method: type[UnlearningModule], limit: dict[str, Any]) -> None:
    fit(build(method), **limit)


@every_method
@pytest.mark.parametrize("after_steps", [1, 2, 3])
def test_resumed_and_uninterrupted_runs_end_in_the_same_weights(
    method: type[UnlearningModule], after_steps: int, tmp_path: Path
) -> None:
    def run(**arguments: Any) -> UnlearningModule:
        L.seed_everything(1, verbose=False)
        ours = build(method)
        trainer = quiet_trainer(max_epochs=3, limit_val_batches=0, enable_checkpointing=True, **arguments)
        trainer.fit(ours, toy_data(nonmember=10), ckpt_path=run.resume)  # type: ignore[attr-defined]
        return ours

    class Interrupt(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.fit_loop.total_batch_idx + 1 == after_steps:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")
                trainer.should_stop = True
                raise InterruptedError

    run.resume = None  # type: ignore[attr-defined]
    whole = run(callbacks=[ModelCheckpoint(tmp_path / "whole")])
    with pytest.raises(InterruptedError):
        run(callbacks=[Interrupt(), ModelCheckpoint(tmp_path / "part")])
    torch.load(tmp_path / "mid.ckpt", weights_only=True)
    run.resume = tmp_path / "mid.ckpt"  # type: ignore[attr-defined]
    torch.manual_seed(99)  # a resumed process does not begin with the random state of the old one
    resumed = run(callbacks=[ModelCheckpoint(tmp_path / "rest")])
    assert_same_state(state(resumed.model), state(whole.model))


@every_method
def test_checkpoint_and_export_round_trip(method: type[UnlearningModule], tmp_path: Path) -> None:
    ours = build(method)
    trainer = fit(ours)
    trainer.save_checkpoint(tmp_path / "resume.ckpt")
    again = method.load_from_checkpoint(
        tmp_path / "resume.ckpt", weights_only=True, source=toy_source(), **QUICK.get(method.__name__, {})
    )
    assert_same_state(state(again.model), state(ours.model))
    exported = ours.export(tmp_path / "export.ckpt")
    loaded = Classifier.load_from_checkpoint(exported, net=Net(), weights_only=True)
    assert_same_state(state(loaded), state(ours.model))
    content = torch.load(exported, weights_only=True)
    assert not {"optimizer_states", "lr_schedulers", "callbacks", "lightning_unlearn"} & set(content)


@every_method
def test_pickling(method: type[UnlearningModule]) -> None:
    ours = build(method)
    again = pickle.load(io.BytesIO(pickle.dumps(ours)))
    assert_same_state(state(again), state(ours))
    fit(again)


@every_method
def test_any_network_shape(method: type[UnlearningModule]) -> None:
    """A plain module, inside no LightningModule, compiled or not."""
    fit(build(method, Net()))
