"""PruneRedraw: which weights it draws anew, and what the exported model has forgotten."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.toys import toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten, unlearned

from lightning_unlearn.methods import PruneRedraw

SETTINGS = {"PruneRedraw": {"forgets": {"promised": False}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten(tmp_path: Path) -> None:
    check_wrong_labels_are_forgotten(PruneRedraw, tmp_path)
    assert unlearned(partial(PruneRedraw, fraction=1e-4), tmp_path)[0] > 0.25


def test_the_smallest_weights_of_all_are_drawn_anew_and_no_other() -> None:
    source = toy_source(7)  # of another draw than the fresh one
    model = PruneRedraw(source, 0.4, frozen=["net.0"]).model
    before, after = source.get_parameter("net.4.weight"), model.get_parameter("net.4.weight")
    redrawn = before != after
    assert int(redrawn.sum()) == round(0.4 * before.numel())
    assert before[redrawn].abs().max() < before[~redrawn].abs().min()
    assert bool((after[redrawn] != 0).all())
    for name, value in source.named_parameters():
        if name != "net.4.weight":
            assert torch.equal(value, model.get_parameter(name)), name


def test_arguments_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fraction must .* got 0"):
        PruneRedraw(toy_source(), 0.0)
