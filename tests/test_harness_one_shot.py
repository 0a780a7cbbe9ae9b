"""One harness over every exported method that edits the weights once and takes no step."""

import pickle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.support import ONE_SHOT, every_one_shot, settings_of
from helpers.toys import Net, assert_same_state, quiet_trainer, state, toy_data, toy_source
from lightning.pytorch.loggers import CSVLogger
from test_compare import toy_compare
from test_does_not_remember import marked_data, require_forgotten, small_net
from test_harness_methods import (
    PRECISIONS,
    Compiled,
    Images,
    PlainModule,
    assert_unlearned,
    blobs,
    seeded,
    smooth_source,
)

from lightning_unlearn import MethodRun, SourceRun
from lightning_unlearn.callbacks import ForgettingMetrics
from lightning_unlearn.data import Classes, TensorData, UnlearningDataModule
from lightning_unlearn.methods import SSD, UnlearningModule
from lightning_unlearn.models import Classifier


@pytest.fixture(autouse=True)
def _known_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that certifies is drawn from the system, and never twice alike."""
    monkeypatch.setattr("secrets.randbits", lambda _: 0)


every_method = pytest.mark.parametrize("method", ONE_SHOT, ids=lambda method: method.__name__)


def requested(method: type[UnlearningModule], **arguments: Any) -> UnlearningDataModule:
    return toy_data(Classes(1) if method.classes_only else 0.2, **{"nonmember": 10, **arguments})


def fitted(method: type[UnlearningModule], source: Any = None, data: Any = None, **arguments: Any) -> Any:
    L.seed_everything(1, verbose=False)
    ours = method(toy_source() if source is None else source, **settings_of(method))
    trainer = quiet_trainer(**{"max_epochs": 0, **arguments})
    trainer.fit(ours, requested(method) if data is None else data)
    ours.found = dict(trainer.callback_metrics)
    return ours


@every_one_shot("one process")
def test_one_process(method: type[UnlearningModule], tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    ours = fitted(method, callbacks=[ForgettingMetrics()], logger=logger)
    assert_unlearned(ours)
    assert_same_state(state(ours.source), state(toy_source()))
    found = ours.found
    assert {"time/total_s", "accuracy/forget", "accuracy/test", *method.metrics} <= set(found)
    assert float(found["time/total_s"]) == float(found["time/prepare_s"]) > 0
    assert "time/total_s" in (Path(logger.log_dir) / "metrics.csv").read_text()
    assert_same_state(state(fitted(method).model), state(ours.model))
    assert_unlearned(fitted(method, Net()))  # a plain module, inside no LightningModule
    again = pickle.loads(pickle.dumps(method(toy_source(), **settings_of(method))))
    quiet_trainer(max_epochs=0).fit(again, requested(method))


@every_method
@pytest.mark.parametrize(
    "limit", [{"max_epochs": 10}, {"max_steps": 5, "max_epochs": None}, {"fast_dev_run": True}]
)
def test_epochs_are_refused_before_anything_happens(
    method: type[UnlearningModule], limit: dict[str, Any]
) -> None:
    ours, data = method(toy_source(), **settings_of(method)), toy_data()
    before = state(ours.model)
    with pytest.raises(
        ValueError, match=rf"{method.__name__}: .* trains nothing.* write Trainer\(max_epochs=0\)"
    ):
        quiet_trainer(**limit).fit(ours, data)
    assert_same_state(state(ours.model), before)
    with pytest.raises(RuntimeError):
        _ = data.split  # nothing was set up


def smooth(method: type[UnlearningModule], processes: int = 1, **arguments: Any) -> Any:
    data = requested(method, batch_size=8 // processes, order_seed=2)
    return fitted(method, smooth_source(), data, devices=processes, **arguments)


@every_method
def test_a_method_for_classes_alone_refuses_another_request(method: type[UnlearningModule]) -> None:
    if method.classes_only:
        with pytest.raises(
            ValueError, match=rf"{method.__name__} edits .* forgets none whole; .* NegGradPlus"
        ):
            fitted(method, data=toy_data())


@pytest.mark.slow
@every_one_shot("ddp_fork")
def test_two_processes(method: type[UnlearningModule]) -> None:
    one, two = smooth(method), smooth(method, 2, strategy="ddp_fork")
    for name, value in state(one.model).items():
        torch.testing.assert_close(state(two.model)[name], value, atol=2e-4, rtol=2e-4)
    assert float(two.found["time/total_s"]) > 0


@pytest.mark.slow
@every_one_shot("bf16-mixed")
def test_bf16_mixed(method: type[UnlearningModule]) -> None:
    assert_unlearned(fitted(method, **PRECISIONS["bf16-mixed"]))


@pytest.mark.slow
@every_one_shot("16-mixed")
def test_16_mixed(method: type[UnlearningModule]) -> None:
    assert_unlearned(fitted(method, **PRECISIONS["16-mixed"]))


@pytest.mark.slow
@every_one_shot("bf16-true")
def test_bf16_true(method: type[UnlearningModule]) -> None:
    ours = fitted(method, **PRECISIONS["bf16-true"])
    assert_unlearned(ours)
    assert {parameter.dtype for parameter in ours.model.parameters()} == {torch.bfloat16}


@pytest.mark.slow
@every_one_shot("compile")
def test_compiled_sources(method: type[UnlearningModule], tmp_path: Path) -> None:
    plain = state(fitted(method, seeded(PlainModule)).model)
    assert_same_state(state(fitted(method, torch.compile(seeded(PlainModule), backend="eager")).model), plain)
    ours = fitted(method, seeded(Compiled))
    assert_same_state({n.replace("_orig_mod.", ""): v for n, v in state(ours.model).items()}, plain)
    loaded = Compiled.load_from_checkpoint(ours.export(tmp_path / "export.ckpt"), weights_only=True)
    assert_same_state(state(loaded), state(ours.model))


@pytest.mark.slow
@every_one_shot("channels_last")
def test_channels_last(method: type[UnlearningModule]) -> None:
    vectors, targets = blobs(60)
    images = vectors.repeat(1, 8).view(60, 3, 4, 4)
    ends = []
    for memory_format in (torch.channels_last, torch.contiguous_format):
        source = seeded(Images).to(memory_format=memory_format)  # type: ignore[call-overload]
        forget = Classes(1) if method.classes_only else 0.2
        data = UnlearningDataModule(TensorData(images, targets), forget, nonmember=10, nonmember_from="train")
        ends.append(fitted(method, source, data))
    assert_unlearned(ends[0])
    assert not ends[0].model[0].weight.is_contiguous()
    for name, value in state(ends[1].model).items():
        torch.testing.assert_close(state(ends[0].model)[name], value, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@every_one_shot("export")
def test_the_export_does_not_remember(method: type[UnlearningModule], tmp_path: Path) -> None:
    asked = {"forget": Classes(1)} if method.classes_only else {}
    source, data = Classifier(small_net()), marked_data(**asked)
    quiet_trainer(max_epochs=1).fit(source, marked_data(**asked))
    ours = fitted(method, source, data)
    path = ours.export(tmp_path / "unlearned.ckpt")
    now, old = ours.model.state_dict(), source.state_dict()
    kept = (
        {name for name in old if torch.equal(now[name], old[name])} if method.keeps_source_tensors else set()
    )
    assert not [name for name in kept if "running" in name], "they held something of the forget set"
    require_forgotten(path, data, source, kept)
    loaded = Classifier.load_from_checkpoint(path, net=small_net(), weights_only=True)
    assert_same_state(state(loaded), state(ours.model))


# ---------------------------------------------------------------------- in a comparison


def trained_nothing(folder: Path, **arguments: Any) -> Any:
    run = MethodRun(SSD, trainer=arguments)
    source = SourceRun(lambda: Classifier(Net()), {"max_epochs": 3})
    return toy_compare(
        folder, source=source, methods=[run], seeds=1, trainer={"accelerator": "cpu", "max_epochs": 3}
    )


@pytest.mark.slow
def test_a_comparison_reports_time_and_what_was_measured(tmp_path: Path) -> None:
    """The epochs that all share are not its own; the curve has one point, and what is finished stays."""
    first = trained_nothing(tmp_path)
    assert not first.failed, first.report["failures"]
    ours = first.report["models"]["ssd"]
    assert {"time/total_s", "acceleration", "ssd/dampened", "accuracy/forget"} <= set(ours)
    assert ours["acceleration"]["mean"] > 0
    folder = tmp_path / "ssd" / "seed_0"
    assert "accuracy/retain" in (folder / "log" / "metrics.csv").read_text()
    assert (folder / "facts.json").is_file()
    written = (folder / "model.ckpt").stat().st_mtime_ns
    assert trained_nothing(tmp_path).report["models"]["ssd"] == ours
    assert (folder / "model.ckpt").stat().st_mtime_ns == written


def test_epochs_of_its_own_are_refused_before_the_source_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer of 'ssd': .* trains nothing; write max_epochs: 0, not 10"):
        trained_nothing(tmp_path / "new", max_epochs=10)
    assert not (tmp_path / "new").exists()
