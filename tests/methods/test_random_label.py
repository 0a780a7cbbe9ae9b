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


def test_labels_are_wrong_spread_over_all_others_and_of_one_draw_a_pass() -> None:
    found: list[tuple[int, Tensor, Tensor, Tensor]] = []

    class Noted(RandomLabel):
        def wrong_labels(self, index: Tensor, labels: Tensor, classes: int) -> Tensor:
            drawn = super().wrong_labels(index, labels, classes)
            assert torch.equal(drawn, super().wrong_labels(index, labels, classes)), (
                "a resumed run draws the same"
            )
            many = super().wrong_labels(index.repeat(1), torch.zeros_like(labels), 7)
            found.append((self.current_epoch, labels, drawn, many))
            return drawn

    method = Noted(toy_source())
    quiet_trainer(max_epochs=30, limit_val_batches=0).fit(method, toy_data())
    assert found
    for _, labels, drawn, _ in found:
        assert not bool((labels == drawn).any())
    counts = torch.cat([many for *_, many in found]).bincount(minlength=7)
    assert int(counts[0]) == 0
    expected = counts.sum() / 6
    assert bool(((counts[1:] - expected).abs() < 4 * expected.sqrt()).all())
    first = [drawn for epoch, _, drawn, _ in found if epoch == 0]
    assert any(not torch.equal(drawn, first[0]) for epoch, _, drawn, _ in found if epoch == 1)


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
