"""ShrinkPerturb: the step, what stays out of it, and what the exported model has forgotten."""

from pathlib import Path

import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten

from lightning_unlearn.methods import ShrinkPerturb
from lightning_unlearn.models import MLP

SETTINGS = {"ShrinkPerturb": {"forgets": {"ascent": 1.0}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten(tmp_path: Path) -> None:
    check_wrong_labels_are_forgotten(lambda source: ShrinkPerturb(source, ascent=0.3), tmp_path)


def test_the_weights_lie_between_the_source_and_a_fresh_model() -> None:
    source, fresh = (
        MLP(in_features=4, hidden=(3,), num_classes=2),
        MLP(in_features=4, hidden=(3,), num_classes=2),
    )
    method = ShrinkPerturb(source, 0.6, 0.2, fresh=lambda: fresh)
    for name, weight in method.model.named_parameters():
        expected = 0.6 * source.get_parameter(name) + 0.2 * fresh.get_parameter(name)
        assert torch.allclose(weight, expected)


def test_what_is_frozen_stays() -> None:
    source = MLP(in_features=4, hidden=(3,), num_classes=2)
    method = ShrinkPerturb(source, frozen=["layers.0"])
    assert torch.equal(method.model.layers[0].weight, source.layers[0].weight)
    assert not torch.equal(method.model.layers[2].weight, source.layers[2].weight)


def test_without_ascent_the_forget_set_is_not_read() -> None:
    assert ShrinkPerturb(toy_source()).streams == ("retain",)
    data = toy_data()
    method = ShrinkPerturb(toy_source(), ascent=0.5)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, data)
    assert set(data.train_dataloader()) == {"forget", "retain"}


@pytest.mark.parametrize(("argument", "value"), [("shrink", 1.5), ("perturb", -0.1), ("ascent", -1.0)])
def test_arguments_outside_their_range_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        ShrinkPerturb(toy_source(), **{argument: value})
