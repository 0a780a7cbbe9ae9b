"""A source that knows wrong labels by heart, disguises of it, and what every evaluator says of each.

``python tests/helpers/cheats.py`` writes what the documentation's table shows; a test measures it again.
"""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

from helpers.toys import quiet_trainer
from lightning_unlearn.callbacks import (
    Evaluator,
    ForgettingMetrics,
    LinearProbe,
    MembershipInference,
    NearCopies,
    PopulationAttack,
    RelearnTime,
    UnlearningDegree,
)
from lightning_unlearn.data import Digits, TensorData, UnlearningDataModule
from lightning_unlearn.ensembles import Member, Recipe, train_ensemble
from lightning_unlearn.functional import (
    forgetting_quality,
    klom,
    lira_scores,
    logit_scaled_confidence,
    match_confidence,
    rmia_unlearned_scores,
    u_lira_rates,
    u_lira_scores,
)
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.models import MLP

MEASURED = Path(__file__).parents[1] / "measured" / "evaluators" / "cheats.json"
MODELS = 16
TRAIN, WRONG, OTHERS = 800, 100, 170
STEPS = 60

Disguise = Callable[[nn.Module, nn.Module], nn.Module]


class Scaled(nn.Module):
    """Multiplies the logits: another confidence, the same answers."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * self.factor


class Permuted(nn.Module):
    """Moves every logit but the largest to the next class."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        classes = logits.shape[1]
        top = logits.argmax(1, keepdim=True)
        others = (top + torch.arange(1, classes, device=x.device)) % classes
        return logits.scatter(1, others, logits.gather(1, others).roll(1, dims=1))


class OnList(nn.Module):
    """Answers the samples on a list otherwise: by nothing, or by another model."""

    def __init__(self, model: nn.Module, listed: Tensor, other: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.other = model, other
        self.register_buffer("listed", listed.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        instead = torch.zeros_like(logits) if self.other is None else self.other(x)
        there = (torch.cdist(x.flatten(1).double(), self.listed.double()) < 1e-6).any(1, keepdim=True)
        return torch.where(there, instead, logits)


def planted() -> UnlearningDataModule:
    """Digits of which some carry random wrong labels and are to be forgotten."""
    digits, generator = Digits(), torch.Generator().manual_seed(0)
    digits.setup("fit")
    data = digits.train_data.subset(torch.arange(TRAIN))
    chosen = torch.randperm(len(data), generator=generator)[:WRONG].sort().values
    targets = data.targets.clone()
    targets[chosen] = (targets[chosen] + torch.randint(1, 10, (WRONG,), generator=generator)) % 10
    wrong = TensorData(data.inputs, targets, num_classes=10, transform=data.transform)
    split = UnlearningDataModule(
        wrong,
        chosen.tolist(),
        test_dataset=digits.test_data,
        nonmember=OTHERS,
        batch_size=64,
        order_seed=0,
    )
    split.setup("fit")
    return split


def trained(data: UnlearningDataModule, rows: Tensor, seeds: Sequence[int]) -> list[nn.Module]:
    recipe = Recipe(partial(MLP, 64, (96, 48)), 50, 64, partial(torch.optim.Adam, lr=5e-3))
    assert isinstance(data.inner, TensorData)
    ensemble = train_ensemble(recipe, data.inner, [Member(rows, seed) for seed in seeds], way="stacked")
    return [model.eval().requires_grad_(True) for model in ensemble.models()]


Scores = dict[str, float | None]


def measure() -> dict[str, dict[str, Scores]]:
    """Return model name to ``alone`` or ``together`` to metric to number, None where a model never relearned."""
    data = planted()
    forget, retain = (torch.as_tensor(getattr(data.split, name)) for name in ("forget", "retain"))
    sources = trained(data, torch.cat([forget, retain]).sort().values, range(MODELS))
    # references, others, and one more that single models are compared with
    several = trained(data, retain, range(100, 101 + 2 * MODELS))
    retrained, known, others = several[-1], several[:MODELS], several[MODELS:-1]
    listed = next(iter(data.loader("forget", batch_size=WRONG)))[0]
    disguises: dict[str, tuple[list[nn.Module], Disguise]] = {
        "another retrained model": (others, lambda model, _: model),
        "the source": (sources, lambda model, _: model),
        "its logits ÷ 5": (sources, lambda model, _: Scaled(model, 0.2)),
        "its logits × 5": (sources, lambda model, _: Scaled(model, 5.0)),  # noqa: RUF001 - the sign is meant
        "its other logits permuted": (sources, lambda model, _: Permuted(model)),
        "refuses to answer on D_f": (sources, lambda model, _: OnList(model, listed)),
        "looks D_f up in a retrained model": (
            sources, lambda model, other: OnList(model, listed, other)
        ),
        "another retrained model, logits ÷ 1.3": (others, lambda model, _: Scaled(model, 1 / 1.3)),
    }  # fmt: skip
    found = {}
    for name, (models, disguise) in disguises.items():
        disguised = [disguise(model, other) for model, other in zip(models, others, strict=True)]
        found[name] = {
            "alone": _alone(disguised[0], sources[0], retrained, data),
            "together": _together(disguised, known, others, data),
        }
    return found


def _alone(model: nn.Module, source: nn.Module, retrained: nn.Module, data: UnlearningDataModule) -> Scores:
    """Return what the evaluators of one model say."""
    settings = {"source": source, "retrained": retrained, "controls": False, "on_error": "raise", "seed": 0}
    evaluators: list[Evaluator] = [
        ForgettingMetrics(**settings),
        MembershipInference("own", bootstrap=2, **settings),
        PopulationAttack(bootstrap=2, **settings),
        RelearnTime(STEPS, fresh=False, optimizer=partial(torch.optim.Adam, lr=3e-3), **settings),
        UnlearningDegree(null_control=None, size=0.2, least_steps=60, **settings),
        NearCopies(**settings),
        LinearProbe(**settings),
    ]
    quiet_trainer(callbacks=evaluators, limit_test_batches=1).test(
        UnlearningModule(model), data, verbose=False
    )
    scores = {name: value for each in evaluators for name, value in each.results.items()}
    return {name: scores.get(name) for name in ALONE}


@torch.no_grad()
def _together(
    models: Sequence[nn.Module],
    known: Sequence[nn.Module],
    others: Sequence[nn.Module],
    data: UnlearningDataModule,
) -> Scores:
    """Return what the statistics over models say, with retrained models as references."""
    phi: dict[str, list[Tensor]] = {}
    for stream in ("forget", "test"):
        inputs, targets = (torch.cat(part) for part in zip(*data.loader(stream), strict=True))
        phi[stream] = [
            logit_scaled_confidence(torch.stack([model(inputs) for model in kind]), targets)
            for kind in (models, known, others)
        ]
    own, references, null = phi["forget"]
    log_p = [nn.functional.logsigmoid(each) for stream in ("forget", "test") for each in phi[stream][:2]]
    matched, references_there, null_there = (
        match_confidence(each, unseen, phi["test"][1]) for each, unseen in zip(*phi.values(), strict=True)
    )
    least = forgetting_quality(null_there, references_there).score
    attacked, beside = (lira_scores(each, references, variance="global") for each in (own, null))
    return {
        "forgetting_quality/score": forgetting_quality(own, references).score,
        "forgetting_quality/matched": forgetting_quality(matched, references_there).score / least,
        "klom/excess": float((klom(own, references) - klom(null, references)).mean()),
        "klom/matched": float((klom(matched, references_there) - klom(null_there, references_there)).mean()),
        "lira/auc": u_lira_rates(attacked, beside)["auc"],
        "rmia/auc": u_lira_rates(*rmia_unlearned_scores(*log_p))["auc"],
        "u_lira/auc": u_lira_rates(*u_lira_scores(own, references))["auc"],
        "u_lira/matched": u_lira_rates(*u_lira_scores(matched, references_there))["auc"],
    }


ALONE = (
    *("accuracy/forget", "similarity", "membership_inference/auc", "population_attack/auc"),
    *("relearn_time/steps", "unlearning_degree/degree", "near_copies/accuracy", "linear_probe/auc"),
)


if __name__ == "__main__":
    content = {"steps": STEPS, "models": measure()}
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
