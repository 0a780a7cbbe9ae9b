"""L1Sparse: the penalty over the steps, the weights it drives to zero, and what the exported model has forgotten."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten, unlearned
from torch import Tensor, nn

from lightning_unlearn.methods import L1Sparse

SETTINGS = {"L1Sparse": {"forgets": {"promised": False}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten_by_the_penalty(tmp_path: Path) -> None:
    """At a rate that is too low to forget by itself."""

    def sparse(gamma: float) -> Callable[[nn.Module], L1Sparse]:
        return lambda source: L1Sparse(source, gamma, optimizer=lambda p: torch.optim.Adam(p, lr=2e-3))

    check_wrong_labels_are_forgotten(sparse(3e-3), tmp_path, epochs=6)
    given, _ = unlearned(sparse(0.0), tmp_path, epochs=6)
    assert given > 0.3


@pytest.mark.parametrize(
    ("schedule", "share"),
    [("decrease", lambda t: 2 * (1 - t)), ("constant", lambda t: 1.0), ("increase", lambda t: 2 * t)],
)
def test_the_loss_is_cross_entropy_and_the_scheduled_norm(schedule: Any, share: Any) -> None:
    terms: list[dict[str, float]] = []

    class Noted(L1Sparse):
        def log_terms(self, **values: Tensor) -> None:
            weights = [w for w in self.model.parameters() if w.ndim > 1]
            terms.append({name: float(value.detach()) for name, value in values.items()})
            terms[-1]["expected"] = float(sum(w.detach().abs().sum() for w in weights))

    trainer = quiet_trainer(max_epochs=2, limit_val_batches=0)
    trainer.fit(Noted(toy_source(), 0.01, schedule=schedule), toy_data())
    for step, found in enumerate(terms):
        expected = 0.01 * share(step / trainer.global_step) * found["expected"]
        assert found["l1"] == pytest.approx(expected, rel=1e-5)
        assert found["loss"] == pytest.approx(found["ce"] + found["l1"], rel=1e-5)


def test_a_large_penalty_leaves_small_weights() -> None:
    def small(gamma: float) -> float:
        method = L1Sparse(toy_source(), gamma, schedule="constant")
        quiet_trainer(max_epochs=5, limit_val_batches=0).fit(method, toy_data())
        return float(sum(w.detach().abs().sum() for w in method.model.parameters() if w.ndim > 1))

    assert small(0.1) < small(0.0)


@pytest.mark.parametrize(("argument", "value"), [("gamma", -0.1), ("schedule", "later")])
def test_arguments_outside_their_range_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got .*{value}"):
        L1Sparse(toy_source(), **{argument: value})
