"""An ensemble's logits, models and state dicts; and ensembles of modules that train themselves."""

from functools import partial
from typing import Any

import pytest
import torch
from helpers.toys import PlainModule, blobs, quiet_trainer, state, train_set
from torch import nn

from lightning_unlearn.data import TensorData, TensorLoader
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.ensembles import (
    Ensemble,
    Member,
    Recipe,
    Runtime,
    answers,
    fit_each,
    predict_ensemble,
    train_ensemble,
)
from lightning_unlearn.models import LeNet5, ResNet8

resnet = partial(ResNet8, width=4)


def some_ensemble(build: Any = resnet, shape: tuple[int, ...] = (3, 8, 8)) -> Ensemble:
    generator = torch.Generator().manual_seed(0)
    data = TensorData(torch.randn(40, *shape, generator=generator), torch.arange(40) % 10)
    members = [Member(torch.arange(k, 30 + k), k) for k in range(5)]
    return train_ensemble(
        Recipe(build, 1, 8, partial(torch.optim.SGD, lr=0.05)), data, members, way="sequential"
    )


def test_logits_are_those_of_each_model() -> None:
    ensemble, inputs = some_ensemble(), torch.randn(23, 3, 8, 8)
    expected = torch.stack([model(inputs) for model in ensemble.models()]).detach()
    assert expected.shape == (5, 23, 10)
    for way in ("auto", "stacked", "grouped", "sequential"):
        for batch_size in (7, 100):
            found = ensemble.logits(inputs, batch_size, way=way)  # type: ignore[arg-type]
            # float32; grouped convolutions sum in another order
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not found.requires_grad


def test_the_fastest_way_to_ask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, inputs = some_ensemble(), torch.randn(50, 3, 8, 8)
    expected = ensemble.logits(inputs, way="sequential")
    asked: list[Any] = []

    def seconds(self: Any, forward: Any, *_: Any) -> float:
        asked.append(forward)
        return 0.1 if forward is answers.vmap_forward else 0.2

    monkeypatch.setattr(answers._Asker, "_seconds", seconds)
    torch.testing.assert_close(ensemble.logits(inputs, 2), expected, rtol=1e-4, atol=1e-4)
    assert set(asked) == {None, answers.vmap_forward, answers.grouped_forward}
    asked.clear()
    ensemble.logits(inputs[:4], 2)
    assert not asked, "two batches are not worth it"


def test_what_cannot_be_stacked_is_asked_one_by_one() -> None:
    class Branching(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    ensemble, inputs = some_ensemble(partial(Branching, 4, 10), (4,)), torch.randn(9, 4)
    expected = torch.stack([model(inputs) for model in ensemble.models()]).detach()
    for way in ("stacked", "grouped", "auto"):
        torch.testing.assert_close(ensemble.logits(inputs, way=way), expected)  # type: ignore[arg-type]


def test_evaluation_mode_precision_and_adapter() -> None:
    class Wrapped(nn.Sequential):
        def forward(self, x: torch.Tensor) -> Any:
            return {"scores": super().forward(x)}

    build = partial(Wrapped, nn.Linear(4, 3), nn.Dropout(0.5))
    states = {name: torch.stack([value, value + 1]) for name, value in build().state_dict().items()}
    inputs = torch.randn(6, 4)
    runtime, adapter = Runtime(quiet_trainer(precision="64-true")), Adapter(logits="scores")
    for way in ("stacked", "grouped", "sequential"):
        logits = predict_ensemble(build, states, inputs, runtime=runtime, adapter=adapter, way=way)  # type: ignore[arg-type]
        expected = torch.einsum("kcf,nf->knc", states["0.weight"].double(), inputs.double())
        torch.testing.assert_close(logits, expected + states["0.bias"].double()[:, None])


def test_states_and_models_are_the_members() -> None:
    ensemble = some_ensemble(partial(LeNet5, image_size=8), (1, 8, 8))
    models = list(ensemble.models(partial(LeNet5, image_size=8)))
    assert len(models) == len(ensemble) == 5
    for k, model in enumerate(models):
        assert not model.training
        for name, value in state(model).items():
            assert torch.equal(value, ensemble.state_dict(k)[name])
    with pytest.raises(IndexError, match=r"k must lie in \[0, 5\)"):
        ensemble.state_dict(5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"inputs": torch.zeros(0, 4)}, "inputs is empty"),
        ({"states": {"weight": torch.zeros(2, 3, 4), "bias": torch.zeros(1, 3)}}, "same number of models"),
        ({"states": {"weight": torch.zeros(2, 3, 4)}}, r"another architecture.*bias"),
    ],
)
def test_bad_questions_are_named(change: dict[str, Any], message: str) -> None:
    states = {"weight": torch.zeros(2, 3, 4), "bias": torch.zeros(2, 3)}
    arguments = {"build": partial(nn.Linear, 4, 3), "states": states, "inputs": torch.zeros(5, 4), **change}
    with pytest.raises(ValueError, match=message):
        predict_ensemble(**arguments)


@pytest.mark.parametrize("workers", [1, 2])
def test_modules_that_train_themselves_are_fitted_one_by_one(workers: int) -> None:
    data = [TensorLoader(train_set(), torch.arange(k, 40 + k), batch_size=8) for k in range(3)]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ensemble = fit_each(PlainModule, data, workers=workers, max_epochs=2, accelerator="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert ensemble.way == ("workers" if workers == 2 else "sequential")
    assert ensemble.losses.shape == (3, 2)
    assert (ensemble.losses[:, 1] < ensemble.losses[:, 0]).all()
    assert ensemble.logits(blobs(5)[0]).shape == (3, 5, 3)
    again = fit_each(PlainModule, data[1:2], seeds=[1], max_epochs=2, accelerator="cpu")
    for name, value in again.states.items():
        torch.testing.assert_close(value[0], ensemble.states[name][1], rtol=1e-5, atol=1e-6)
    for model in ensemble.models():
        assert isinstance(model, PlainModule)


def test_bad_fits_are_named() -> None:
    with pytest.raises(ValueError, match="data is empty"):
        fit_each(PlainModule, [])
    with pytest.raises(ValueError, match="seeds must have one entry for each of the 1"):
        fit_each(PlainModule, [None], seeds=[1, 2])
    with pytest.raises(ValueError, match="workers must be at least 1"):
        fit_each(PlainModule, [None], workers=0)
