"""NPO: its loss against the formula, its limit, and what the exported model has forgotten."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten
from torch import Tensor

from lightning_unlearn.functional import preference_loss
from lightning_unlearn.methods import NPO

SETTINGS = {"NPO": {"forgets": {"beta": 0.05}}}


@pytest.mark.slow
@pytest.mark.parametrize("simple", [False, True])
def test_wrong_labels_are_forgotten(simple: bool, tmp_path: Path) -> None:
    check_wrong_labels_are_forgotten(lambda source: NPO(source, simple=simple), tmp_path, epochs=40)


def test_the_loss_is_the_formula() -> None:
    p, q = torch.tensor([0.9, 0.2, 0.5]), torch.tensor([0.8, 0.6, 0.1])
    for beta in (0.1, 1.0, 3.0):
        expected = (2 / beta) * torch.log(1 + (p / q) ** beta).mean()
        assert preference_loss(p.log(), q.log(), beta=beta).item() == pytest.approx(expected.item(), rel=1e-5)
        simple = -(2 / beta) * torch.log(torch.sigmoid(-beta * p.log() - 0.3)).mean()
        assert preference_loss(p.log(), beta=beta, gamma=0.3).item() == pytest.approx(simple.item(), rel=1e-5)


def test_its_gradient_is_that_of_ascent_for_small_beta_and_fades_as_the_class_becomes_unlikely() -> None:
    def slope(log_p: float, beta: float) -> float:
        value = torch.tensor([log_p], requires_grad=True)
        preference_loss(value, torch.tensor([-0.1]), beta=beta).backward()
        assert value.grad is not None
        return float(value.grad)

    assert slope(-0.1, 1e-4) == pytest.approx(1.0, abs=1e-3)  # that of log p, which ascent minimises
    assert slope(-60.0, 0.5) < 1e-10


@pytest.mark.parametrize("simple", [False, True])
def test_the_step_has_both_terms(simple: bool) -> None:
    terms: list[dict[str, float]] = []

    class Noted(NPO):
        def log_terms(self, **values: Tensor) -> None:
            terms.append({name: float(value.detach()) for name, value in values.items()})

    method = Noted(toy_source(), 0.5, alpha=0.7, simple=simple)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, toy_data())
    assert terms
    for step in terms:
        assert step["loss"] == pytest.approx(step["push"] + 0.7 * step["ce"], rel=1e-5)
    if not simple:  # the model is the source at first, so that every ratio is 1
        assert terms[0]["push"] == pytest.approx(4 * 0.693147, abs=0.1)


@pytest.mark.parametrize(("argument", "value"), [("beta", 0.0), ("alpha", -0.1)])
def test_arguments_outside_their_range_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        NPO(toy_source(), **{argument: value})
