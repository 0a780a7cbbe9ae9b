"""RandomLabel: the labels it draws, the loss it steps, and what the exported model has forgotten."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten
from torch import Tensor

from lightning_unlearn.methods import RandomLabel

SETTINGS = {"RandomLabel": {"forgets": {"weight": 1.0}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten(tmp_path: Path) -> None:
    # as often as the labels are drawn again, in one of nine cases and more; the retain set alone leaves 46%
    check_wrong_labels_are_forgotten(RandomLabel, tmp_path, left=0.25, lost=0.02)


def test_labels_are_wrong_and_of_one_draw_a_pass() -> None:
    found: list[tuple[int, Tensor, Tensor, Tensor]] = []

    class Noted(RandomLabel):
        def wrong_labels(self, index: Tensor, labels: Tensor, classes: int) -> Tensor:
            drawn = super().wrong_labels(index, labels, classes)
            assert torch.equal(drawn, super().wrong_labels(index, labels, classes)), (
                "a resumed run draws the same"
            )
            found.append((self.current_epoch, index, labels, drawn))
            return drawn

    method = Noted(toy_source())
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(method, toy_data())
    assert not any(bool((labels == drawn).any()) for *_, labels, drawn in found)
    index, drawn = (
        [torch.cat([part[k] for part in found if part[0] == epoch]) for epoch in (0, 1)] for k in (1, 3)
    )
    orders = [places.argsort() for places in index]
    assert not torch.equal(drawn[0][orders[0]], drawn[1][orders[1]])


def test_the_step_has_both_terms() -> None:
    terms: list[dict[str, float]] = []

    class Noted(RandomLabel):
        def log_terms(self, **values: Tensor) -> None:
            terms.append({name: float(value.detach()) for name, value in values.items()})

    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(Noted(toy_source(), 0.4), toy_data())
    assert terms
    for step in terms:  # 12 samples of D_f, spread over 6 steps of 8 of D_r
        assert step["loss"] == pytest.approx(step["ce"] + 0.4 * 2 / 8 * step["wrong"], rel=1e-5)


@pytest.mark.parametrize("value", [-1.0, float("inf")])
def test_arguments_outside_their_range_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=f"weight must .* got {value}"):
        RandomLabel(toy_source(), value)
