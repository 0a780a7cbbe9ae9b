"""Relearn time: the source needs none, a retrained model some, an untrained one more."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import Net, assert_same_state, quiet_trainer, state, toy_data, toy_source
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_unlearn.callbacks import RelearnTime
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods import Retrain
from lightning_unlearn.models import Classifier


def data() -> UnlearningDataModule:
    return toy_data(nonmember=10, order_seed=4)


def trained_source() -> nn.Module:
    source = toy_source()
    trainer = quiet_trainer(max_epochs=15)
    trainer.fit(Classifier(source, optimizer=lambda p: torch.optim.Adam(p, lr=0.01)), data())
    return source


def relearn(model: nn.Module, source: nn.Module, tmp_path: Path, **arguments: object) -> dict[str, float]:
    evaluator = RelearnTime(
        source=source, on_error="raise", dirpath=tmp_path, controls=False, seed=3, **arguments
    )
    trainer = quiet_trainer(callbacks=[evaluator])
    trainer.test(Classifier(model), data(), verbose=False)
    return evaluator.results


def test_the_source_has_nothing_to_relearn(tmp_path: Path) -> None:
    source = trained_source()
    found = relearn(source, source, tmp_path, optimizer=partial(torch.optim.Adam, lr=0.02))
    assert found["relearn_time/steps"] == 0
    assert found["relearn_time/reached"] == 1
    assert found["relearn_time/fresh"] > 0


def test_it_asks_the_device_for_nothing_in_double_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apple's have none."""

    class Single(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            assert not (isinstance(made, torch.Tensor) and made.dtype == torch.float64), func
            return made

    def watched(evaluator: RelearnTime, *asked: Any) -> dict[str, float]:
        with Single():
            return evaluate(evaluator, *asked)

    evaluate = RelearnTime.evaluate
    monkeypatch.setattr(RelearnTime, "evaluate", watched)
    source = toy_source()
    assert relearn(source, source, tmp_path, max_steps=2, fresh=False) == {
        "relearn_time/reached": 1.0,
        "relearn_time/steps": 0.0,
    }


def test_the_steps_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    source = trained_source()
    other = Net()
    before = state(other)
    found = relearn(
        other, source, tmp_path, batch_size=1000, margin=0.5, optimizer=partial(torch.optim.Adam, lr=0.02)
    )
    assert_same_state(before, state(other))
    # with one batch holding all of D_f the order does not matter, and a plain loop must count the same
    forget = data()
    forget.setup("fit")
    batch = next(iter(forget.loader("forget", batch_size=1000)))
    inputs, targets = batch[0], batch[1]
    loss = nn.functional.cross_entropy
    target = 1.5 * float(loss(source.eval()(inputs), targets).detach())
    optimizer = torch.optim.Adam(other.eval().parameters(), lr=0.02)
    steps = 0
    while float(value := loss(other(inputs), targets)) > target:
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        steps += 1
    assert found["relearn_time/steps"] == steps
    curve = json.loads((tmp_path / "relearn_time.json").read_text())["details"]["losses"]
    assert len(curve) == steps + 1
    assert curve[-1] == pytest.approx(float(value), rel=1e-4)  # one float32 loop against another


def test_an_untrained_model_learns_the_forget_set_at_hand() -> None:
    source = trained_source()
    kept = RelearnTime(source=source, max_steps=3, on_error="raise")
    for forget in (0.1, 0.4):
        curves = []
        for evaluator in (kept, RelearnTime(source=source, max_steps=3, on_error="raise")):
            quiet_trainer(callbacks=[evaluator]).test(Classifier(source), toy_data(forget), verbose=False)
            curves.append(evaluator.details["losses_fresh"])
        assert curves[0] == curves[1]


def test_giving_up_is_said_and_no_number_of_steps(tmp_path: Path) -> None:
    source = trained_source()
    found = relearn(Net(), source, tmp_path, max_steps=1, fresh=False)
    assert found == {"relearn_time/reached": 0.0}, "steps that did not suffice are no relearn time"


def test_without_a_source_there_is_nothing_to_come_back_to(tmp_path: Path) -> None:
    evaluator = RelearnTime(on_error="raise")
    quiet_trainer(callbacks=[evaluator]).test(Classifier(Net()), data(), verbose=False)
    assert evaluator.results == {}


def test_a_retrained_model_has_something_to_relearn(tmp_path: Path) -> None:
    source = trained_source()
    method = Retrain(source, optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
    quiet_trainer(max_epochs=15).fit(method, data())
    found = relearn(method, source, tmp_path, optimizer=partial(torch.optim.Adam, lr=0.02))
    assert found["relearn_time/steps"] > 0
    assert found["relearn_time/steps"] <= found["relearn_time/fresh"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"max_steps": 0}, "max_steps"), ({"batch_size": 0}, "batch_size"), ({"margin": -1}, "margin")],
)
def test_arguments_outside_their_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelearnTime(**arguments)
