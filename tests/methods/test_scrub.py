"""SCRUB: its order of passes, its losses by hand, its rewind, and what the exported model has forgotten."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import assert_same_state, quiet_trainer, state, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_unlearn.data import Classes
from lightning_unlearn.functional.tasks import SINGLE_LABEL
from lightning_unlearn.methods import SCRUB
from lightning_unlearn.models import clone

# the toy's forget set is one batch, so that a pass is one step, and which way it leaves the source is chance
SETTINGS = {"SCRUB": {"forgets": {"msteps": 9, "promised": False}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten(tmp_path: Path) -> None:
    # three passes over the retain set alone leave 28%
    check_wrong_labels_are_forgotten(SCRUB, tmp_path, epochs=5, left=0.14, lost=0.01)


def test_the_divergence_sums_over_classes_and_is_a_mean_over_samples() -> None:
    teacher, student, temperature = torch.randn(5, 4), torch.randn(5, 4), 3.0
    p, q = (logits / temperature for logits in (teacher, student))
    expected = 9.0 * nn.functional.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean")
    found = SINGLE_LABEL.distillation(teacher, student, temperature)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("epochs", "order"), [(1, "r"), (2, "fr"), (3, "rfr"), (4, "rfrr"), (5, "rfrfr"), (7, "rfrfrrr")]
)
def test_it_reads_the_forget_set_and_ends_on_the_retain_set(epochs: int, order: str) -> None:
    served: dict[int, str] = {}

    class Noted(SCRUB):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            served[self.current_epoch] = next(iter(batch))[0]
            return super().training_step(batch, batch_idx)

    quiet_trainer(max_epochs=epochs, limit_val_batches=0).fit(Noted(toy_source()), toy_data())
    assert "".join(served.values()) == order


def test_the_teacher_is_not_aliased_and_answers_in_evaluation_mode() -> None:
    terms: list[dict[str, float]] = []

    class Noted(SCRUB):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            name, part = next(iter(batch.items()))
            with torch.no_grad():
                expected = self.source.eval()(part.batch[0])
            torch.testing.assert_close(self._teachers[name].logits(part), expected)
            return super().training_step(batch, batch_idx)

        def log_terms(self, **values: Tensor) -> None:
            terms.append({name: float(value.detach()) for name, value in values.items()})

    method = Noted(toy_source(), alpha=0.3, gamma=0.7)
    quiet_trainer(max_epochs=3, limit_val_batches=0).fit(method, toy_data())
    descent, ascent = [t for t in terms if "ce" in t], [t for t in terms if "forget_kl" in t]
    for step in descent:
        assert step["loss"] == pytest.approx(0.7 * step["ce"] + 0.3 * step["kl"], rel=1e-5)
    for step in ascent:
        assert step["loss"] == pytest.approx(-step["forget_kl"], rel=1e-5)
        assert step["forget_kl"] > 0


def test_it_rewinds_to_the_weights_that_are_nearest_and_so_does_a_resumed_run(tmp_path: Path) -> None:
    found: list[tuple[float, dict[str, Tensor]]] = []

    class Noted(SCRUB):
        def on_train_epoch_end(self) -> None:
            super().on_train_epoch_end()
            if self.current_epoch in (1, 3):  # the forget set's
                return
            with self.looked_at():
                model = clone(self.model).eval()
            batches = [next(iter(self.data.loader(s, batch_size=99))) for s in ("forget", "nonmember")]
            known, unknown = ((model(x).argmax(1) == y).float().mean() for x, y in batches)
            found.append((float((known - unknown).abs()), state(model)))

    def run(**resumed: Any) -> SCRUB:
        L.seed_everything(1, verbose=False)
        method = Noted(toy_source(), rewind=True, optimizer=lambda p: torch.optim.Adam(p, lr=0.05))
        data = toy_data(nonmember=12, nonmember_from="train")
        quiet_trainer(max_epochs=9, limit_val_batches=0, **resumed.pop("trainer", {})).fit(
            method, data, **resumed
        )
        return method

    keeper = ModelCheckpoint(tmp_path, every_n_epochs=7, save_top_k=-1)
    whole = run(trainer={"callbacks": [keeper], "enable_checkpointing": True})
    best = min(range(len(found)), key=lambda at: found[at][0])
    assert best < len(found) - 2, "the last weights would be no rewind"
    assert_same_state(state(whole.model), found[best][1])
    (path,) = tmp_path.glob("*.ckpt")
    assert_same_state(state(run(ckpt_path=path, weights_only=True).model), state(whole.model))


def test_after_a_rewind_the_accuracies_are_those_of_the_weights_that_were_kept() -> None:
    L.seed_everything(1, verbose=False)
    method = SCRUB(toy_source(), rewind=True, optimizer=lambda p: torch.optim.Adam(p, lr=0.05))
    data = toy_data(nonmember=12, nonmember_from="train")
    fit, quiet = quiet_trainer(max_epochs=9), quiet_trainer()
    fit.fit(method, data)
    quiet.validate(method, data, verbose=False)
    streams = ("forget", "retain", "test", "nonmember")
    names = [f"accuracy/{stream}" for stream in streams] + ["gap/forget"]
    assert {name: fit.callback_metrics[name] for name in names} == {
        name: quiet.callback_metrics[name] for name in names
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"nonmember": 0}, "there are no non-members"),
        ({"forget": Classes([1])}, "a class is forgotten whole"),
    ],
)
def test_a_rewind_with_nothing_to_go_by_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"rewind=True .* {words}"):
        quiet_trainer().fit(SCRUB(toy_source(), rewind=True), toy_data(**arguments))


def test_too_few_epochs_are_named_and_unknown_ones_refused() -> None:
    with pytest.warns(UserWarning, match="max_epochs=2 is too few; give at least 3, better 5"):
        quiet_trainer(max_epochs=2, limit_val_batches=0).fit(SCRUB(toy_source()), toy_data())
    with pytest.raises(ValueError, match="give max_epochs, got -1"):
        L.Trainer(
            max_steps=3, max_epochs=-1, logger=False, enable_checkpointing=False, accelerator="cpu"
        ).fit(SCRUB(toy_source()), toy_data())


@pytest.mark.parametrize(
    ("argument", "value"),
    [("msteps", 0), ("alpha", -1.0), ("gamma", -1.0), ("temperature", 0.0), ("clamp", 0.0)],
)
def test_arguments_outside_their_range_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        SCRUB(toy_source(), **{argument: value})
