"""BadTeacher: its teachers, its loss by hand, and what the exported model has forgotten."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten
from torch import Tensor, nn

from lightning_unlearn.methods import BadTeacher

# an untrained network may give the very class that is to be forgotten
SETTINGS = {"BadTeacher": {"forgets": {"promised": False}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten(tmp_path: Path) -> None:
    # the source's answers on the retain set alone leave 97%
    check_wrong_labels_are_forgotten(BadTeacher, tmp_path, left=0.25, lost=0.01)


def test_its_loss_is_a_mean_over_samples_of_the_divergence_from_a_fresh_network_and_from_the_source() -> None:
    steps: list[tuple[dict[str, float], float]] = []
    sizes: list[tuple[int, int]] = []

    class Noted(BadTeacher):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            sizes.append((len(batch["forget"].index), len(batch["retain"].index)))
            expected = 0.0
            for name, logits in zip(("forget", "retain"), self.logits, strict=True):
                x = batch[name].batch[0]
                with torch.no_grad():
                    model = self.source if name == "retain" else self.fresh
                    target = model.eval()(x).softmax(1)
                terms = nn.functional.kl_div(logits.log_softmax(1), target, reduction="none").sum()
                expected += float(terms) / len(batch["retain"].index)
            steps.append((self.terms, expected))
            return loss

        def stream_logits(self, *batches: Any) -> list[tuple[Tensor, Tensor]]:
            answers = super().stream_logits(*batches)
            self.logits = [logits.detach() for logits, _ in answers]
            return answers

        def log_terms(self, **values: Tensor) -> None:
            self.terms = {name: float(value.detach()) for name, value in values.items()}

    other = toy_source(7)
    method = Noted(toy_source(), 0.5, fresh=lambda: other)
    method.__dict__["fresh"] = other
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(method, toy_data())
    assert sizes == [(4, 8)] * 6  # 12 of D_f beside 24 of D_r, an epoch
    for terms, expected in steps:
        assert terms["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_untrained_network_is_of_the_runs_seed_and_not_the_source() -> None:
    answers = []
    for seed in (0, 0, 1):
        method = BadTeacher(toy_source())
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, toy_data(order_seed=seed))
        answers.append(method._teachers["forget"].state()["answers"])
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    with torch.no_grad():
        x, _ = next(iter(method.data.loader("forget", batch_size=99)))
        assert not torch.allclose(toy_source().eval()(x), answers[2])


@pytest.mark.parametrize(("argument", "value"), [("retain_fraction", 0.0), ("temperature", 0.0)])
def test_arguments_outside_their_range_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        BadTeacher(toy_source(), **{argument: value})
