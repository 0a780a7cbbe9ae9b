"""Point 6: all evaluators at the end of a fit, against retraining."""

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
    UnlearningDegree,
)
from lightning_unlearn.data import PatchTrigger, Poison, UnlearningDataModule
from lightning_unlearn.methods import ReferenceKL, Retrain

SAMPLES, TEST, FORGOTTEN, SHADOW = 60_000, 10_000, 600, 6_000
RETRAIN_EPOCHS = 10  # of configs/mnist; one is timed, for all are alike


def trainer(**arguments: Any) -> L.Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(accelerator="cpu", limit_val_batches=0, **dict.fromkeys(off, False), **arguments)


def test_all_evaluators_cost_less_than_a_quarter_of_retraining(
    interleave: Callable[..., Turns], table: Table
) -> None:
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

    def evaluate() -> None:
        evaluators: list[Evaluator] = [
            ForgettingMetrics(on_error="raise"),
            MembershipInference(on_error="raise"),
            Backdoor(on_error="raise"),
            UnlearningDegree(on_error="raise"),
        ]
        trainer(callbacks=evaluators, limit_test_batches=1).test(unlearned, data, verbose=False)
        for evaluator in evaluators:
            seconds.setdefault(evaluator.name, []).append(evaluator.details["seconds"])

    turns = interleave({"retrain": retrain, "evaluate": evaluate})
    assert all(value > 0 for values in seconds.values() for value in values), (
        "an evaluator did not report its time"
    )
    shares = ", ".join(
        f"{name} {sum(values) / sum(map(sum, seconds.values())):.0%}" for name, values in seconds.items()
    )
    assert table.at_most(
        6,
        f"all evaluators, source control and shadow model included ÷ retraining for {RETRAIN_EPOCHS} epochs, CPU time",
        turns.ratio("evaluate", "retrain") / RETRAIN_EPOCHS,
        0.25,
        f"{turns.median('evaluate'):.3g} / {turns.median('retrain') * RETRAIN_EPOCHS:.3g} s; of the evaluators' wall-clock "
        f"time {shares}",
    )
