"""How often each sample is asked of each model: once, by whoever validates, evaluates or audits, and the same numbers."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import CLASSES, FEATURES, Net, quiet_trainer, test_set, toy_data, toy_source, train_set
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn

from lightning_unlearn import MethodRun, SourceRun, compare
from lightning_unlearn.callbacks import ForgettingMetrics, PopulationAttack
from lightning_unlearn.callbacks.base import audit
from lightning_unlearn.core.files import model_hash
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods import FineTune, ReferenceKL, Retrain
from lightning_unlearn.models import Classifier

Asked = dict[str, Counter[bytes]]  # by a model's content, how often each sample was


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """Count what networks are asked in evaluation mode."""
    counts: Asked = {}

    def forward(net: nn.Sequential, inputs: Tensor) -> Tensor:
        if not net.training and not torch.is_grad_enabled():
            rows = counts.setdefault(model_hash(net.state_dict()), Counter())
            rows.update(row.numpy().tobytes() for row in inputs)
        return nn.Sequential.forward(net, inputs)

    monkeypatch.setattr(Net, "forward", forward)
    return counts


def times(counts: Asked, model: nn.Module, data: UnlearningDataModule) -> dict[str, list[int]]:
    """Return how often a model was asked about each sample, by stream, beginning with those of the first batch."""
    net, split = next(part for part in model.modules() if isinstance(part, Net)), data.split
    rows, found = counts.get(model_hash(net.state_dict()), Counter()), {}
    for stream in ("forget", "retain", "test", "nonmember"):
        known = train_set() if stream in ("forget", "retain") else test_set()
        found[stream] = [rows[known.inputs[place].numpy().tobytes()] for place in getattr(split, stream)]
    return found


class Pictures(Net):
    """Convolutions, whose answers in the layout that evaluators ask in differ by a rounding from those in another."""

    def __init__(self) -> None:
        nn.Sequential.__init__(
            self,
            nn.Unflatten(1, (1, 2, FEATURES // 2)),
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.Flatten(),
            nn.Linear(32 * FEATURES, CLASSES),
        )


def fitted(
    *callbacks: L.Callback,
    data: UnlearningDataModule | None = None,
    net: nn.Module | None = None,
    **trainer: Any,
) -> tuple[FineTune, dict[str, float], dict[str, Any]]:
    """Fine-tune, and return the method, what evaluators measured, and the posteriors that they noted."""
    torch.manual_seed(0)
    source = toy_source() if net is None else Classifier(net)
    method, forgetting = FineTune(source), ForgettingMetrics(on_error="raise")
    watching = [*callbacks, forgetting, PopulationAttack(bootstrap=10, on_error="raise")]
    used = quiet_trainer(callbacks=watching, **trainer)
    used.fit(method, data or toy_data(nonmember=10))
    kept = {name: float(value) for name, value in used.callback_metrics.items() if "time" not in name}
    return method, kept, forgetting.details["posteriors"]


@pytest.mark.parametrize("kind", [Net, Pictures])
def test_evaluators_take_what_validation_was_answered(kind: type[Net], asked: Asked) -> None:
    torch.manual_seed(0)
    data, net = toy_data(nonmember=10), kind()
    method, metrics, posteriors = fitted(data=data, net=net)
    counted = times(asked, method, data)
    assert data.batch_size == 8
    for stream, counts in counted.items():
        # the first batch is asked again, to see that it is answered alike
        assert counts == [2] * 8 + [1] * (len(counts) - 8), stream
    for stream, counts in times(asked, method.source, data).items():
        # before the fit, a batch of both sets shows what a model's answers are
        assert set(counts[8:]) == {1}, stream
    asked.clear()
    again, plain, others = fitted(limit_val_batches=0, net=net)  # where nothing is validated
    assert set(times(asked, again, data)["test"]) == {1}
    assert posteriors == others
    assert plain == {name: metrics[name] for name in plain}
    asked.clear()
    whole = quiet_trainer(callbacks=[ForgettingMetrics(on_error="raise")])
    (tested,) = whole.test(again, data, verbose=False)
    assert set(times(asked, again, data)["test"][8:]) == {1}, "a test passes over the test set, too"
    assert tested["accuracy/forget"] == metrics["accuracy/forget"]


def moved(trainer: L.Trainer, method: Any) -> None:
    method.model.net[4].bias.data[0] += 1.0  # which counts up no version


def followed(trainer: L.Trainer, method: Any) -> None:
    method.model.net[1].running_mean[0] += 1.0


def scaled(trainer: L.Trainer, method: Any) -> None:
    method.model.net[2].register_forward_hook(lambda module, inputs, output: 2 * output)


@pytest.mark.parametrize("change", [moved, followed, scaled])
def test_a_model_that_changed_after_it_was_validated_is_asked_anew(
    asked: Asked, change: Callable[..., None]
) -> None:
    last = LambdaCallback(on_fit_end=change)
    data = toy_data(nonmember=10)
    method, metrics, _ = fitted(last, data=data)
    if change is not scaled:  # which counts as the same model
        assert set(times(asked, method, data)["test"]) == {1}
    _, plain, _ = fitted(last, limit_val_batches=0)
    assert plain == {name: metrics[name] for name in plain}


@pytest.mark.parametrize("limit", [0.5, 2])
def test_answers_on_a_part_are_not_taken(limit: float) -> None:
    _, metrics, _ = fitted(limit_val_batches=limit)
    _, plain, _ = fitted(limit_val_batches=0)
    assert metrics["accuracy/test"] == plain["accuracy/test"]


def test_answers_that_are_not_finite_are_refused_as_ever() -> None:
    def spoil(trainer: L.Trainer, method: Any) -> None:
        method.model.net[4].bias.data[0] = torch.nan

    with pytest.raises(FloatingPointError):
        fitted(LambdaCallback(on_validation_start=spoil))


@pytest.mark.slow
def test_a_comparison_asks_source_and_retrained_model_about_the_forget_set_once_for_all_methods(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    controls: Counter[str] = Counter()

    def counted(model: nn.Module, data: Any, streams: Any, *others: Any) -> Any:
        controls.update((model_hash(model.state_dict()), stream) for stream in streams)
        return ask(model, data, streams, *others)

    ask = audit.ask
    monkeypatch.setattr(audit, "ask", counted)
    methods: list[Any] = [FineTune, partial(FineTune, step="loss"), partial(ReferenceKL, reference_epochs=1)]
    found = compare(
        SourceRun(lambda: Classifier(Net()), {"max_epochs": 2}),
        lambda: toy_data(nonmember=10),
        [MethodRun(make, f"method_{number}", {"max_epochs": 1}) for number, make in enumerate(methods)],
        seeds=1,
        retrain_2=False,
        short_retrainings=[],
        trainer={"accelerator": "cpu"},
        output_dir=tmp_path,
        quiet=True,
    )
    assert not found.failed, found.report["failures"]
    # as the audited model, and, as control of others, by a copy
    assert max(controls.values()) <= 2, controls


def test_a_retraining_that_is_a_method_of_its_own_is_a_control() -> None:
    retrained = Retrain(toy_source(), fresh=toy_source)
    quiet_trainer(max_epochs=1).fit(retrained, toy_data())
    used = quiet_trainer(max_epochs=1, callbacks=[ForgettingMetrics(retrained=retrained, on_error="raise")])
    used.fit(FineTune(toy_source()), toy_data())
    assert {"source/accuracy/test", "retrain/accuracy/forget"} <= used.callback_metrics.keys()


def test_what_a_control_answered_is_of_the_data_that_it_was_asked_about() -> None:
    source, shared = toy_source(), {}
    for data in (toy_data(forget=0.1), toy_data(forget=0.4)):
        audit_of, alone = (ForgettingMetrics(on_error="raise") for _ in range(2))
        audit_of.answered = shared
        scores = []
        for evaluator in (audit_of, alone):
            used = quiet_trainer(max_epochs=1, callbacks=[evaluator])
            used.fit(FineTune(source), data)
            scores.append(used.callback_metrics["source/accuracy/forget"])
        assert scores[0] == scores[1]
