"""Statistics over populations tell memory from confidence: temperatures of sources and of retrained models."""

from functools import partial
from typing import Any, cast

import pytest
import torch
from helpers.toys import quiet_trainer
from torch import Tensor, nn

from lightning_unlearn.callbacks import KLOM, RMIA, ForgettingQuality, LiRA, ManyModels, ULiRA
from lightning_unlearn.callbacks.base.populations import Kinds, Population, Populations
from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.ensembles import Member, Recipe, Runtime, train_ensemble
from lightning_unlearn.functional import logit_scaled_confidence, match_confidence
from lightning_unlearn.models import Classifier

MODELS, FORGOTTEN, TRAINED, UNSEEN = 16, 40, 240, 60


class Planted(Populations):
    """Gives populations that were made elsewhere."""

    def __init__(self, rows: list[Population]) -> None:
        super().__init__()
        self.now, *self.others = rows

    def audited(self, *_: Any) -> Population:
        return self.now

    def retrained(self, *_: Any, second: bool = False) -> Population:
        return self.others[int(second)]


def digits() -> tuple[Tensor, Tensor]:
    """Digits whose first samples, to be forgotten, have a wrong label in one case of five."""
    from sklearn.datasets import load_digits

    bunch, number = load_digits(), TRAINED + 2 * UNSEEN
    labels = torch.from_numpy(bunch.target[:number]).clone()
    wrong = torch.arange(0, FORGOTTEN, 5)
    labels[wrong] = (labels[wrong] + 1 + wrong % 9) % 10
    return torch.from_numpy(bunch.data[:number]).float() / 16, labels


def logits_of(rows: Tensor, first_seed: int) -> Tensor:
    """Train models on some samples and return their logits on all, ``(K, n, 10)``."""
    inputs, labels = digits()
    recipe = Recipe(
        lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        epochs=25,
        batch_size=40,
        optimizer=partial(torch.optim.Adam, lr=0.02),
    )
    members = [Member(rows, first_seed + k) for k in range(MODELS)]
    models = train_ensemble(recipe, TensorData(inputs, labels), members, runtime=Runtime()).models()
    with torch.no_grad():
        return torch.stack([model.eval()(inputs) for model in models])


def population(logits: Tensor, temperature: float = 1.0) -> Population:
    phi = logit_scaled_confidence(logits / temperature, digits()[1])
    parts = phi.split([FORGOTTEN, TRAINED - FORGOTTEN, UNSEEN, UNSEEN], dim=1)
    return Population({"forget": parts[0], "nonmember": parts[2], "test": parts[3]}, {})


def audit(rows: list[Population]) -> dict[str, float]:
    """Return what all evaluators say of a population, with references and null."""
    many: tuple[ManyModels, ...] = (
        ForgettingQuality(MODELS, bootstrap=2),
        ULiRA(MODELS, bootstrap=2),
        KLOM(MODELS),
        LiRA(MODELS, mode="offline", bootstrap=2),
        RMIA(MODELS, bootstrap=2),
    )
    planted = Planted(rows)
    for evaluator in many:
        evaluator.shared, evaluator.on_error = planted, "raise"
        evaluator.kinds = cast(Kinds, object())  # who is audited is planted
    inputs, labels = digits()
    seen, unseen = (
        TensorData(inputs[:TRAINED], labels[:TRAINED]),
        TensorData(inputs[TRAINED:], labels[TRAINED:]),
    )
    data = UnlearningDataModule(seen, list(range(FORGOTTEN)), test_dataset=unseen, nonmember=UNSEEN)
    model = Classifier(nn.Sequential(nn.Linear(64, 10)))
    quiet_trainer(callbacks=list(many)).test(model, data, verbose=False)
    return {name: value for evaluator in many for name, value in evaluator.results.items()}


@pytest.mark.slow
def test_a_temperature_is_no_memory_and_hides_none() -> None:
    """Published scores say that models which forgot everything and are less sure remember more than the source."""
    retain, everything = torch.arange(FORGOTTEN, TRAINED), torch.arange(TRAINED)
    first, second, third = (logits_of(retain, seed) for seed in (100, 200, 300))
    source, others = logits_of(everything, 400), [population(first), population(second)]
    scores = {
        name: audit([population(logits, temperature), *others])
        for name, logits, temperature in (
            ("source", source, 1.0),
            ("retrained", third, 1.0),
            ("retrained, cooled", third, 1.5),
            ("source, cooled", source, 2.0),
        )
    }
    cooled, known, hidden = scores["retrained, cooled"], scores["source"], scores["source, cooled"]
    # the effect: as published, who forgot everything looks worse than who forgot nothing
    assert cooled["forgetting_quality/relative"] < known["forgetting_quality/relative"]
    assert cooled["u_lira/auc"] > known["u_lira/auc"]
    assert cooled["klom/excess"] > known["klom/excess"]
    # on non-members it looks so too, and the difference is smaller than the source's
    for name in ("forgetting_quality", "u_lira", "klom", "lira"):
        assert abs(cooled[f"{name}/difference"]) < abs(known[f"{name}/difference"]), name
    # but a difference of two scores that are as large as they can be is small for a source too: it must not decide
    for name in ("forgetting_quality", "u_lira", "klom"):
        assert abs(hidden[f"{name}/difference"]) < 0.6 * abs(known[f"{name}/difference"]), name
    # matched, it is what it is without the temperature, a perfect unlearner, and the source is not, whatever its own
    ends = {
        "forgetting_quality/matched": (1.0, 0.25),
        "u_lira/matched": (0.5, 0.05),
        "klom/matched": (0.0, 0.6),
        "lira/matched": (0.5, 0.1),
        "rmia/matched": (0.5, 0.05),
    }
    for name, (perfect, width) in ends.items():
        for row in ("retrained", "retrained, cooled"):
            assert scores[row][name] == pytest.approx(perfect, abs=width), (row, name)
        for score in (known[name], hidden[name]):
            assert abs(score - perfect) > 2 * width, name


def test_matching_takes_off_shift_and_scale_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    own, unseen, references = (torch.randn(size, generator=generator) for size in ((4, 9), (4, 30), (6, 30)))
    matched = match_confidence(own, unseen, references)
    moved = match_confidence(own * 0.3 + 5, unseen * 0.3 + 5, references)
    torch.testing.assert_close(moved, matched, atol=1e-5, rtol=0)
    level = match_confidence(unseen, unseen, references)
    torch.testing.assert_close(level.mean(1), references.double().mean().expand(4))
    torch.testing.assert_close(level.std(1), references.double().std(1).mean().expand(4))
    assert torch.corrcoef(torch.stack([matched[0], own[0].double()]))[0, 1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"scores \(N, n\)"):
        match_confidence(own[:3], unseen, references)
    with pytest.raises(ValueError, match="one has no spread"):
        match_confidence(own, unseen[:, :1], references[:, :1])


def test_a_model_that_answers_all_alike_is_matched_to_finite_numbers() -> None:
    flat = torch.full((3, 5), -2.0)
    assert match_confidence(flat, flat, torch.randn(3, 5)).isfinite().all()
