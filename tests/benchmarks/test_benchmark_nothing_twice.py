"""Point 2: a frozen model is asked once, and evaluators share the answers."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from benchmarks.material import mnist_like, seeded_lenet
from benchmarks.measuring import AlternatingEpochs, Table
from torch import Tensor, nn

from lightning_unlearn.callbacks import ForgettingMetrics, MembershipInference
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.engine import predict as asking
from lightning_unlearn.methods import ReferenceKL

SAMPLES, FORGOTTEN, EPOCHS = 12_000, 3_000, 8


def same(inputs: Tensor, generator: Any) -> Tensor:
    """An augmentation that changes nothing, of which the library cannot know that."""
    return inputs


def quiet(**arguments: Any) -> L.Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(accelerator="cpu", limit_val_batches=0, **dict.fromkeys(off, False), **arguments)


def test_keeping_the_references_answers_saves_its_forward_passes(benchmark: Any, table: Table) -> None:
    net = seeded_lenet()
    asked = Counter[str]()
    epochs = {}
    for how, augment in (("kept", None), ("asked", same)):
        train = mnist_like(SAMPLES)
        train.augment = augment
        data = UnlearningDataModule(train, FORGOTTEN / SAMPLES, batch_size=128)
        reference = copy.deepcopy(net)

        def count(module: nn.Module, inputs: Any, output: Any, how: str = how) -> None:
            asked[how] += len(output)

        reference.register_forward_hook(count)  # a copy keeps its hooks
        timed = AlternatingEpochs({})
        trainer = quiet(max_epochs=EPOCHS, callbacks=[timed])
        if how == "kept":
            benchmark.pedantic(trainer.fit, args=(ReferenceKL(net, 0.01, reference), data), rounds=1)
        else:
            trainer.fit(ReferenceKL(net, 0.01, reference), data)
        epochs[how] = timed.turns.median("fit")
    table.note(
        2,
        "ReferenceKL's epoch, reference asked at every step ÷ answers kept, CPU time",
        epochs["asked"] / epochs["kept"],
    )
    assert table.at_most(
        2,
        f"samples the reference answers in {EPOCHS} epochs ÷ |D_f|",
        asked["kept"] / FORGOTTEN,
        1,
        f"{asked['asked'] / FORGOTTEN:g} with augmentation",
    )


def test_evaluators_share_the_answers(monkeypatch: pytest.MonkeyPatch, table: Table, tmp_path: Path) -> None:
    asked = Counter[tuple[str, int]]()

    def counting(model: nn.Module, loader: Any, *arguments: Any) -> Any:
        asked[(type(model).__name__ + str(id(model)), id(loader.positions) and len(loader.positions))] += 1
        return predict(model, loader, *arguments)

    predict = asking.predict
    monkeypatch.setattr(asking, "predict", counting)
    data = UnlearningDataModule(
        mnist_like(3_000), 0.1, test_dataset=mnist_like(700), batch_size=128, shadow=0.2, nonmember=150
    )
    source = seeded_lenet()
    evaluators = [
        ForgettingMetrics(),
        MembershipInference(shadow_epochs=1),
        MembershipInference("source", name="again"),
    ]
    quiet(max_epochs=1, callbacks=evaluators, default_root_dir=tmp_path).fit(
        ReferenceKL(source, reference=source), data
    )
    assert not any(e.error for e in evaluators)
    assert table.at_most(
        2,
        "times three evaluators ask a model about one set",
        max(asked.values()),
        1,
        f"{len(asked)} pairs of a model and a set",
    )
