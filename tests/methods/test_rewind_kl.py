"""RewindKL: what the exported model has forgotten and kept, by which answers, and what a checkpoint had memorised."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.overfitted import Module, overlapping
from helpers.support import earlier_checkpoint
from helpers.toys import quiet_trainer, toy_data
from helpers.wrong_labels import (
    check_a_class_is_forgotten,
    check_wrong_labels_are_forgotten,
    known_by_heart,
    knows_a_class,
    train_and_keep,
    unlearned,
)
from scipy.optimize import brentq
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn

from lightning_unlearn.data import Classes, UnlearningDataModule
from lightning_unlearn.functional import auc, memory_of_labels
from lightning_unlearn.methods import RewindKL

SETTINGS = {"RewindKL": {"forgets": {"lambda_": 0.9}}}


# ---------------------------------------------------------------------- what is forgotten


@pytest.mark.slow
def test_wrong_labels_are_forgotten_in_sixteen_steps(tmp_path: Path) -> None:
    check_wrong_labels_are_forgotten(RewindKL, tmp_path, epochs=8, lost=0.0)


@pytest.mark.slow
def test_wrong_labels_that_nobody_named_follow_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not know them by heart; the source as its own checkpoint does, and nothing is forgotten."""
    monkeypatch.setattr(known_by_heart()[1], "wrong_labels", False)
    gives, loses = unlearned(RewindKL, tmp_path, epochs=8)
    assert gives <= 0.15
    assert loses <= 0.0

    def still(source: nn.Module) -> RewindKL:
        torch.save({"state_dict": source.state_dict()}, tmp_path / "itself.ckpt")
        return RewindKL(source, tmp_path / "itself.ckpt")

    with pytest.warns(UserWarning, match="holds the source's own weights, so nothing is rewound"):
        gives, _ = unlearned(still, tmp_path, epochs=8)
    assert gives >= 0.9


@pytest.mark.slow
def test_a_class_is_forgotten(tmp_path: Path) -> None:
    source, _ = knows_a_class()
    method = partial(RewindKL, checkpoint=earlier_checkpoint(source))
    check_a_class_is_forgotten(method, tmp_path, epochs=12, left=0.01, lost=0.03)


@pytest.mark.slow
def test_random_members_are_forgotten_and_the_others_still_known_by_heart(tmp_path: Path) -> None:
    """A retrained model is right about 62% of them, told at an AUC of 0.53, and knows the others by heart."""
    torch.manual_seed(0)
    data = UnlearningDataModule(
        overlapping(1200, 0), 0.1, test_dataset=overlapping(1200, 1), nonmember=800, batch_size=60
    )
    data.setup("fit")
    source = Module()
    train_and_keep(source, data, epochs=20, every=1)
    for lambda_, forgets in ((0.5, True), (0.0, False)):
        method = RewindKL(source.eval(), lambda_=lambda_)
        quiet_trainer(max_epochs=12, limit_val_batches=0).fit(method, data)
        model = Module.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), strict=True).eval()
        losses, right = {}, {}
        for stream in ("forget", "nonmember", "retain"):
            x, y = (torch.cat(part) for part in zip(*data.loader(stream), strict=True))
            with torch.no_grad():
                logits = model(x)
            losses[stream] = nn.functional.cross_entropy(logits, y, reduction="none")
            right[stream] = float((logits.argmax(1) == y).float().mean())
        told = auc(-losses["forget"], -losses["nonmember"])
        assert right["retain"] >= 0.97
        if forgets:
            assert 0.5 < right["forget"] < 0.74
            assert 0.45 < told < 0.58
        else:
            assert right["forget"] > 0.95
            assert told > 0.75


# ---------------------------------------------------------------------- by which answers


def test_the_loss_and_the_answers_are_those_of_the_equation() -> None:
    terms: list[tuple[float, dict[str, float]]] = []

    class Noted(RewindKL):
        def log_terms(self, **values: Tensor) -> None:
            terms.append((self.now, {name: float(value.detach()) for name, value in values.items()}))

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            x, y = batch["forget"].batch
            z = (earlier(x) - delta * nn.functional.one_hot(y, 3)).detach().double().numpy()
            with torch.no_grad():
                ours = self.model(x).double().numpy()
            self.now = rel_entr(softmax(z, 1), softmax(ours, 1)).sum(1).mean()
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    source = nn.Linear(6, 3)
    data = toy_data(nonmember=10)
    data.setup("fit")
    forget, unseen = (
        tuple(torch.cat(part) for part in zip(*data.loader(stream), strict=True))
        for stream in ("forget", "nonmember")
    )
    with torch.no_grad():  # so that it is better on D_f than on non-members
        source.weight += torch.linalg.lstsq(forget[0], 4.0 * nn.functional.one_hot(forget[1], 3)).solution.T
    file = earlier_checkpoint(source)
    earlier = nn.Linear(6, 3)
    earlier.load_state_dict(torch.load(file, weights_only=True)["state_dict"])

    def loss(samples: tuple[Tensor, ...], delta: float) -> float:
        logits = earlier(samples[0]).detach().double().numpy()
        rows = np.arange(len(logits)), samples[1].numpy()
        logits[rows] -= delta
        return float(-log_softmax(logits, 1)[rows].mean())

    delta = brentq(lambda value: loss(forget, value) - loss(unseen, 0.0), 0.0, 50.0)
    assert delta > 0.1
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(Noted(source, file, lambda_=0.7), data)
    assert len(terms) >= 2
    for expected, found in terms:
        assert found["kl"] == pytest.approx(expected, rel=1e-3)
        assert found["loss"] == pytest.approx(0.7 * found["kl"] + 0.3 * found["ce"], rel=1e-5)


@pytest.mark.parametrize("loss", [0.0, 0.5, 3.0, 40.0])
def test_what_was_memorised_is_what_the_losses_say(loss: float) -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(50, 4)), generator.integers(0, 4, 50)
    rows = np.arange(50), labels

    def after(delta: float) -> float:
        moved = logits.copy()
        moved[rows] -= delta
        return float(-log_softmax(moved, 1)[rows].mean())

    expected = 0.0 if after(0.0) >= loss else brentq(lambda value: after(value) - loss, 0.0, 100.0)
    found = memory_of_labels(torch.from_numpy(logits), torch.from_numpy(labels), loss)
    assert found == pytest.approx(expected, abs=1e-9)


def test_without_non_members_nothing_is_taken_off_and_that_is_said() -> None:
    source = nn.Linear(6, 3)
    method = RewindKL(source, earlier_checkpoint(source))
    with pytest.warns(UserWarning, match=r"RewindKL: there are no non-members, .*nonmember="):
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, toy_data(nonmember=0))
    assert method._memorised == 0
    method = RewindKL(source, earlier_checkpoint(source))  # a class needs none
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, toy_data(Classes(1), nonmember=0))
    assert method._memorised == math.inf
