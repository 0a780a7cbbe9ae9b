"""Point 6: evaluators at the end of a fit, against retraining."""

import statistics
from collections.abc import Callable
from typing import Any

import lightning as L
from benchmarks.material import mnist_like, seeded_lenet
from benchmarks.measuring import Table, Turns
from torch import nn

from lightning_unlearn.callbacks import (
    Backdoor,
    Evaluator,
    ForgettingMetrics,
    MembershipInference,
    PopulationAttack,
    UnlearningDegree,
)
from lightning_unlearn.data import PatchTrigger, Poison, UnlearningDataModule
from lightning_unlearn.methods import ReferenceKL, Retrain

SAMPLES, TEST, FORGOTTEN, SHADOW = 60_000, 10_000, 600, 6_000
RETRAIN_EPOCHS = 10  # of configs/mnist; one is timed, for all are alike


def trainer(**arguments: Any) -> L.Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(accelerator="cpu", limit_val_batches=0, **dict.fromkeys(off, False), **arguments)


def test_evaluators_cost_a_share_of_retraining(interleave: Callable[..., Turns], table: Table) -> None:
    data = UnlearningDataModule(
        mnist_like(SAMPLES),
        FORGOTTEN / SAMPLES,
        test_dataset=mnist_like(TEST),
        shadow=SHADOW,
        backdoor=Poison(PatchTrigger()),
        batch_size=128,
    )
    source = seeded_lenet()
    unlearned = ReferenceKL(source, reference=source)
    for parameter in unlearned.model.parameters():  # against the source itself no generator would be trained
        nn.init.normal_(parameter, std=0.05)
    seconds: dict[str, list[float]] = {}

    def retrain() -> None:
        trainer(max_epochs=1).fit(Retrain(source), data)

    def evaluate(*kinds: type[Evaluator]) -> None:
        evaluators = [kind(on_error="raise") for kind in kinds]
        trainer(callbacks=evaluators, limit_test_batches=1).test(unlearned, data, verbose=False)
        for evaluator in evaluators:
            seconds.setdefault(evaluator.name, []).append(evaluator.details["seconds"])

    turns = interleave(
        {
            "retrain": retrain,
            "that train nothing": lambda: evaluate(ForgettingMetrics, Backdoor, PopulationAttack),
            "of the papers": lambda: evaluate(
                ForgettingMetrics, MembershipInference, Backdoor, UnlearningDegree
            ),
        },
        rounds=4,  # less than four minutes
        warmup=0,
    )
    assert all(value > 0 for values in seconds.values() for value in values), (
        "an evaluator did not report its time"
    )
    shares = ", ".join(f"{name} {statistics.median(values):.3g}" for name, values in seconds.items())
    met = [
        table.at_most(
            6,
            f"evaluators {arm}",
            turns.ratio(arm, "retrain") / RETRAIN_EPOCHS,
            limit,
            f"source control included, ÷ retraining for {RETRAIN_EPOCHS} epochs, CPU time: {turns.median(arm):.3g} / "
            f"{turns.median('retrain') * RETRAIN_EPOCHS:.3g} s; wall-clock seconds of each: {shares}",
        )
        for arm, limit in (("that train nothing", 0.10), ("of the papers", 0.31))
    ]
    assert all(met)
