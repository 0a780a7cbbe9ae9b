"""One harness over every exported method: strategies, precisions, options, callbacks, resume, export.

Which method must do what stands in :mod:`support`; strategies that launch whole programs in :mod:`test_launched`.
"""

import io
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.support import METHODS, every_method, is_refused, settings_of, works_or_is_refused
from helpers.toys import (
    CLASSES,
    FEATURES,
    TRAIN,
    Net,
    PlainModule,
    assert_same_state,
    blobs,
    quiet_trainer,
    state,
    toy_data,
    toy_source,
)
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.methods import CFk, RandomK, ReferenceKL, Retrain, UnlearningModule
from lightning_unlearn.models import MLP, Classifier

# Sums are taken in another order by several processes, which Adam's first steps amplify.
ROUNDING = 2e-4


def build(method: type[UnlearningModule], source: Any = None) -> UnlearningModule:
    source = toy_source() if source is None else source
    return method(source, **settings_of(method, source=source))


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


def smooth_source() -> Classifier:
    """A source in which no sample of a batch touches another, so that the number of processes cannot matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(MLP(FEATURES, (8, 8), CLASSES))


def smooth_run(method: type[UnlearningModule], processes: int = 1, **arguments: Any) -> UnlearningModule:
    return smooth_fit(method, processes, **arguments)[0]


def smooth_fit(
    method: type[UnlearningModule],
    processes: int = 1,
    ckpt_path: Path | None = None,
    forget: Any = 0.2,
    **arguments: Any,
) -> tuple[UnlearningModule, L.Trainer]:
    """Fit with the same samples in every step, however many processes share them."""
    L.seed_everything(1, verbose=False)
    ours = build(method, smooth_source())
    trainer = quiet_trainer(limit_val_batches=0, devices=processes, **arguments)
    data = toy_data(forget, nonmember=10, batch_size=8 // processes, order_seed=2)
    trainer.fit(ours, data, ckpt_path=ckpt_path)
    return ours, trainer


def assert_like_one_process(
    method: type[UnlearningModule], weights: dict[str, Tensor], **arguments: Any
) -> None:
    expected = state(smooth_run(method, **arguments).model)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=ROUNDING, rtol=ROUNDING)


# ---------------------------------------------------------------------- strategies and precision


@every_method("one process")
def test_one_process(method: type[UnlearningModule]) -> None:
    ours = build(method)
    source_before = state(ours.source)
    trainer = fit(ours, limit_val_batches=1.0)
    assert_unlearned(ours)
    assert_same_state(state(ours.source), source_before)
    assert {"time/total_s", "accuracy/forget", "accuracy/test"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
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


@pytest.mark.slow
@every_method("ddp_fork")
def test_two_processes(method: type[UnlearningModule]) -> None:
    ours = build(method)
    trainer = fit(ours, strategy="ddp_fork", devices=2, callbacks=[Spread()], limit_val_batches=1.0)
    assert_unlearned(ours)
    assert float(trainer.callback_metrics["spread"]) == 0.0
    assert 0 <= float(trainer.callback_metrics["accuracy/forget"]) <= 1
    assert float(trainer.callback_metrics["time/total_s"]) > 0
    assert_like_one_process(method, state(smooth_run(method, 2, strategy="ddp_fork").model))


@pytest.mark.slow
@pytest.mark.exhaustive(one_of=2)
@pytest.mark.parametrize("forget", [[5], list(range(7))], ids=["59 retained", "53 retained"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_two_processes_with_uneven_shares(method: type[UnlearningModule], forget: list[int]) -> None:
    """One has a sample more than the other in a last step, or the only sample there is."""
    two = smooth_run(method, 2, forget=forget, strategy="ddp_fork")
    assert_like_one_process(method, state(two.model), forget=forget)


PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16-mixed": {"precision": "bf16-mixed"},
    "16-mixed": {
        "plugins": [MixedPrecision("16-mixed", "cpu")]
    },  # scales; the plain name is bfloat16 on a CPU
    "bf16-true": {"precision": "bf16-true"},
}


def in_precision(method: type[UnlearningModule], precision: str) -> None:
    ours = build(method)
    fit(ours, **PRECISIONS[precision])
    assert_unlearned(ours)
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert all(parameter.dtype == expected for parameter in ours.model.parameters())


@every_method("bf16-mixed")
def test_bf16_mixed(method: type[UnlearningModule]) -> None:
    in_precision(method, "bf16-mixed")


@every_method("16-mixed")
def test_16_mixed(method: type[UnlearningModule]) -> None:
    in_precision(method, "16-mixed")


@every_method("bf16-true")
def test_bf16_true(method: type[UnlearningModule]) -> None:
    in_precision(method, "bf16-true")


# ---------------------------------------------------------------------- options of the Trainer


class Count(L.Callback):
    """Counts batches, each of which takes two milliseconds at least, and steps of the optimizer."""

    def __init__(self) -> None:
        self.batches = 0
        self.steps = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1
        time.sleep(2e-3)

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.steps += 1


@every_method("accumulate_grad_batches")
def test_accumulated_gradients(method: type[UnlearningModule]) -> None:
    count, ours = Count(), build(method)

    def run() -> None:
        fit(ours, accumulate_grad_batches=2, callbacks=[count])
        assert_unlearned(ours)
        assert count.steps == count.batches // 2

    works_or_is_refused(method, "accumulate_grad_batches", run)
    assert bool(count.batches) != is_refused(method, "accumulate_grad_batches")


class Norms(L.Callback):
    """Notes the norm of the gradients after clipping."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, _: Any) -> None:
        found = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        self.norms += [float(torch.stack(found).norm())] if found else []


@every_method("gradient_clip_val")
def test_clipped_gradients(method: type[UnlearningModule]) -> None:
    norms = Norms()

    def run() -> None:
        fit(build(method), gradient_clip_val=0.01, callbacks=[norms])
        assert norms.norms
        assert max(norms.norms) <= 0.01 * (1 + 1e-4)

    works_or_is_refused(method, "gradient_clip_val", run)
    assert bool(norms.norms) != is_refused(method, "gradient_clip_val")


@pytest.mark.slow
@every_method("limits")
def test_limits(method: type[UnlearningModule]) -> None:
    for limit, batches in (
        ({"fast_dev_run": True}, 1),
        ({"max_steps": 1}, 1),
        ({"max_time": timedelta(milliseconds=1)}, 1),
        ({"limit_train_batches": 1, "limit_val_batches": 1}, 2),
        ({"max_epochs": 0}, 0),
    ):
        count, ours = Count(), build(method)
        trainer = fit(ours, callbacks=[count], **limit)
        assert count.batches == batches, limit
        trainer.test(ours, toy_data(nonmember=10), verbose=False)


class Compiled(PlainModule):
    """A module whose author compiles its network, so that its weights' names say so."""

    def __init__(self, hidden: int = 8, lr: float = 0.05, compiled: bool = True) -> None:
        super().__init__(hidden, lr)
        self.save_hyperparameters()
        if compiled:
            self.net = torch.compile(self.net, backend="eager")


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


@pytest.mark.slow
@every_method("compile")
def test_compiled_sources(method: type[UnlearningModule], tmp_path: Path) -> None:
    """Compiled as a whole, in place, or by its own class: the same weights, exported under the class's own names."""

    def run(source: Any) -> UnlearningModule:
        L.seed_everything(1, verbose=False)
        ours = build(method, source)
        fit(ours)
        return ours

    plain = state(run(seeded(PlainModule)).model)
    in_place = seeded(PlainModule)
    in_place.compile(backend="eager")
    for source in (torch.compile(seeded(PlainModule), backend="eager"), in_place):
        ours = run(source)
        assert_same_state(state(ours.model), plain)
        loaded = PlainModule.load_from_checkpoint(ours.export(tmp_path / "export.ckpt"), weights_only=True)
        assert_same_state(state(loaded), plain)
    ours = run(seeded(Compiled))
    assert_same_state({n.replace("_orig_mod.", ""): v for n, v in state(ours.model).items()}, plain)
    loaded = Compiled.load_from_checkpoint(ours.export(tmp_path / "export.ckpt"), weights_only=True)
    assert_same_state(state(loaded), state(ours.model))


class Images(nn.Sequential):
    """A convolutional network, whose weights have a memory format."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 4, CLASSES),
        )


@every_method("channels_last")
def test_channels_last(method: type[UnlearningModule]) -> None:
    vectors, targets = blobs(TRAIN)
    images = vectors.repeat(1, 8).view(TRAIN, 3, 4, 4)

    def run(memory_format: torch.memory_format) -> UnlearningModule:
        L.seed_everything(1, verbose=False)
        ours = build(method, seeded(Images).to(memory_format=memory_format))  # type: ignore[call-overload]
        data = UnlearningDataModule(
            TensorData(images, targets), 0.2, nonmember=10, nonmember_from="train", batch_size=8
        )
        quiet_trainer(limit_val_batches=0).fit(ours, data)
        return ours

    ours, other = run(torch.channels_last), run(torch.contiguous_format)
    assert_unlearned(ours)
    kernels = ours.model[0].weight  # type: ignore[index]
    assert kernels.is_contiguous(memory_format=torch.channels_last)
    assert not kernels.is_contiguous()
    for name, value in state(other.model).items():
        torch.testing.assert_close(state(ours.model)[name], value, atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------------- callbacks of Lightning


@every_method("ModelCheckpoint")
def test_model_checkpoint(method: type[UnlearningModule], tmp_path: Path) -> None:
    keeper = ModelCheckpoint(tmp_path, monitor="accuracy/forget", save_top_k=1, save_last=True)
    fit(build(method), limit_val_batches=1.0, callbacks=[keeper], enable_checkpointing=True)
    assert keeper.best_model_score is not None
    for path in (keeper.best_model_path, keeper.last_model_path):
        assert torch.load(path, weights_only=True)["state_dict"]


@every_method("EarlyStopping")
def test_early_stopping(method: type[UnlearningModule]) -> None:
    enough = EarlyStopping("accuracy/forget", mode="min", stopping_threshold=1.1)
    trainer = fit(build(method), limit_val_batches=1.0, max_epochs=5, callbacks=[enough])
    assert trainer.current_epoch == 1


def lived_source() -> Classifier:
    """A source whose running statistics are not those of a new layer."""
    source = toy_source()
    layer = source.net[1]  # type: ignore[index]
    layer.running_mean.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, operator]
    layer.running_var.fill_(2.5)  # type: ignore[union-attr, operator]
    layer.num_batches_tracked.fill_(7)  # type: ignore[union-attr, operator]
    return source


@every_method("StochasticWeightAveraging")
def test_stochastic_weight_averaging(method: type[UnlearningModule]) -> None:
    """The average of the weights, with running statistics of the retain set alone."""
    averaging = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)
    ours = build(method, lived_source())
    seen: list[Tensor] = []

    def run() -> None:
        layer = ours.model.net[1]  # type: ignore[union-attr, index]

        def note(layer: Any, inputs: tuple[Tensor]) -> None:
            if layer.training and layer.track_running_stats and layer.momentum is None:
                seen.append(inputs[0].detach().mean(dim=0))

        layer.register_forward_pre_hook(note)
        trainer = fit(ours, max_epochs=3, callbacks=[averaging])
        assert_unlearned(ours)
        assert averaging.n_averaged == 3
        expected = torch.stack(seen).mean(dim=0)  # the oracle's, in Lightning's own pass
        if method is not Retrain:  # estimated anew, of the averaged weights
            retained = trainer.datamodule.split.retain  # type: ignore[attr-defined]
            with torch.no_grad():
                expected = ours.model.net[0](blobs(TRAIN)[0][retained]).mean(dim=0)  # type: ignore[union-attr, index, operator]
        torch.testing.assert_close(layer.running_mean, expected)
        assert int(layer.num_batches_tracked) == len(seen)

    works_or_is_refused(method, "StochasticWeightAveraging", run)
    assert is_refused(method, "StochasticWeightAveraging") or averaging.n_averaged == 3


@pytest.mark.parametrize(
    "held", [CFk(lived_source(), k=2), RandomK(lived_source(), update="selected")], ids=["CFk", "RandomK"]
)
def test_averaged_weights_leave_still_statistics_alone(held: UnlearningModule) -> None:
    trainer = fit(held, callbacks=[StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)])
    assert trainer.current_epoch == 3  # Lightning's own pass for the running statistics
    before = dict(held.source.named_buffers())
    assert_same_state(dict(held.model.named_buffers()), before)


@every_method("LearningRateMonitor")
def test_learning_rate_monitor(method: type[UnlearningModule], tmp_path: Path) -> None:
    monitor = LearningRateMonitor()
    fit(build(method), callbacks=[monitor], logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert monitor.lrs
    assert all(rate > 0 for rates in monitor.lrs.values() for rate in rates)


@every_method("Timer")
def test_timer(method: type[UnlearningModule]) -> None:
    trainer = fit(build(method), callbacks=[Timer(duration={"hours": 1})])
    assert trainer.current_epoch == 2
    assert float(trainer.callback_metrics["time/unlearn_s"]) > 0


# ---------------------------------------------------------------------- checkpoints


class Interrupt(L.Callback):
    """Saves a checkpoint and stops, at a place in the run."""

    def __init__(self, place: str | int, path: Path) -> None:
        self.place = place
        self.path = path

    def _stop(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        raise InterruptedError

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.place == "before the first step":
            self._stop(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.place:
            self._stop(trainer)


def resumable_run(method: type[UnlearningModule], resume: Path | None = None, **arguments: Any) -> Any:
    L.seed_everything(1, verbose=False)
    ours = build(method)
    if resume is not None:
        torch.manual_seed(99)  # a resumed process does not begin with the random state of the old one
    trainer = quiet_trainer(**{"max_epochs": 3, "limit_val_batches": 0, **arguments})
    trainer.fit(ours, toy_data(nonmember=10), ckpt_path=resume, weights_only=True)
    return ours


@pytest.mark.slow
@every_method("resume")
def test_resumed_and_uninterrupted_runs_end_in_the_same_weights(
    method: type[UnlearningModule], tmp_path: Path
) -> None:
    """Stopped after preparing and before the first step, or after a step in the middle or at the end of an epoch."""
    whole = resumable_run(method)
    for place in ("before the first step", 1, 2, 3):
        path = tmp_path / "mid.ckpt"
        with pytest.raises(InterruptedError):
            resumable_run(method, callbacks=[Interrupt(place, path)])
        torch.load(path, weights_only=True)
        assert_same_state(state(resumable_run(method, path).model), state(whole.model))


def test_resume_in_two_processes(tmp_path: Path) -> None:
    """The random states of all ranks, which draw other numbers, are put back."""

    class Differ(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, *_: Any) -> None:
            torch.manual_seed(10 + trainer.global_rank)

    two = {"strategy": "ddp_fork", "devices": 2}
    for method in (ReferenceKL, Retrain):
        path = tmp_path / f"{method.__name__}.ckpt"
        whole = resumable_run(method, callbacks=[Differ()], **two)
        with pytest.raises(Exception, match="InterruptedError"):
            resumable_run(method, callbacks=[Differ(), Interrupt(1, path)], **two)
        assert_same_state(state(resumable_run(method, path, **two).model), state(whole.model))


class SuddenError(BaseException):
    """What stops a run in the tests; nobody who tries something out may catch it."""


@pytest.mark.slow
@every_method("resume preparation")
def test_a_run_that_was_stopped_while_preparing(
    method: type[UnlearningModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked of a model, or trained, before the first step may be the last thing that happens."""
    whole = resumable_run(method)
    forwards = 0

    def count(limit: int | None) -> Callable[..., None]:
        def hook(module: nn.Module, *_: Any) -> None:
            nonlocal forwards
            forwards += isinstance(module, Net)
            if limit is not None and forwards > limit:
                raise SuddenError

        return hook

    class AtFirstStep(L.Callback):
        def on_train_start(self, *_: Any) -> None:
            raise SuddenError

    handle = nn.modules.module.register_module_forward_pre_hook(count(None))
    with pytest.raises(SuddenError):
        resumable_run(method, callbacks=[AtFirstStep()])
    handle.remove()
    for limit in {0, forwards // 2, forwards - 1}:
        forwards = 0
        keeper = OnExceptionCheckpoint(tmp_path)
        handle = nn.modules.module.register_module_forward_pre_hook(count(limit))
        try:
            with pytest.raises(SuddenError):
                resumable_run(method, callbacks=[keeper], enable_checkpointing=True)
        finally:
            handle.remove()
        resumed = resumable_run(method, Path(keeper.ckpt_path))
        assert_same_state(state(resumed.model), state(whole.model))


@every_method("export")
def test_checkpoint_and_export_round_trip(method: type[UnlearningModule], tmp_path: Path) -> None:
    ours = build(method)
    trainer = fit(ours)
    trainer.save_checkpoint(tmp_path / "resume.ckpt")
    again = method.load_from_checkpoint(
        tmp_path / "resume.ckpt", weights_only=True, source=toy_source(), **settings_of(method)
    )
    assert_same_state(state(again.model), state(ours.model))
    exported = ours.export(tmp_path / "export.ckpt")
    loaded = Classifier.load_from_checkpoint(exported, net=Net(), weights_only=True)
    assert_same_state(state(loaded), state(ours.model))
    content = torch.load(exported, weights_only=True)
    assert not {"optimizer_states", "lr_schedulers", "callbacks", "lightning_unlearn"} & set(content)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_pickling(method: type[UnlearningModule]) -> None:
    ours = build(method)
    again = pickle.load(io.BytesIO(pickle.dumps(ours)))
    assert_same_state(state(again), state(ours))
    fit(again)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_any_network_shape(method: type[UnlearningModule]) -> None:
    """A plain module, inside no LightningModule."""
    fit(build(method, Net()))
