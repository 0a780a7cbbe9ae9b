"""``gap/forget``: what it is, that a checkpoint callback rewinds by it, and where it says nothing."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import TRAIN, quiet_trainer, toy_data, toy_source, train_set
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_unlearn.data import Classes, ColumnTrigger, Poison
from lightning_unlearn.methods import FineTune


class Gaps(L.Callback):
    """Notes the gap of every epoch, as logged and as it is."""

    def __init__(self) -> None:
        self.logged: list[float] = []
        self.true: list[float] = []

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        accuracies = []
        for stream in ("forget", "nonmember"):
            batches = list(trainer.datamodule.loader(stream))  # type: ignore[attr-defined]
            hits = torch.cat([pl_module(x).argmax(1) == y for x, y in batches])
            accuracies.append(float(hits.float().mean()))
        self.true.append(abs(accuracies[0] - accuracies[1]))

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.logged.append(float(trainer.callback_metrics["gap/forget"]))


def test_a_checkpoint_of_the_smallest_gap_is_kept(tmp_path: Path) -> None:
    L.seed_everything(0, verbose=False)
    gaps, keeper = Gaps(), ModelCheckpoint(tmp_path, "{epoch}", monitor="gap/forget", mode="min")
    trainer = quiet_trainer(max_epochs=6, callbacks=[gaps, keeper], enable_checkpointing=True)
    trainer.fit(
        FineTune(toy_source(), optimizer=lambda p: torch.optim.SGD(p, 1.0)), toy_data(0.3, nonmember=15)
    )
    assert gaps.logged == pytest.approx(gaps.true, abs=1e-6)
    assert len(set(gaps.logged)) > 2
    assert Path(keeper.best_model_path).stem == f"epoch={int(np.argmin(gaps.logged))}"


def of_whole_class() -> list[int]:
    return torch.arange(TRAIN)[train_set().targets == 1].tolist()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"forget": Classes(1)}, "a class is forgotten whole"),
        ({"forget": of_whole_class()}, "a class is forgotten whole"),
        ({"nonmember": 0}, "there are no non-members"),
        ({"backdoor": Poison(ColumnTrigger([0], [3.0]), 0)}, "the forget set carries a backdoor"),
    ],
)
def test_where_it_says_nothing_it_is_not_logged_and_not_watched(
    arguments: dict[str, Any], reason: str
) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(FineTune(toy_source()), toy_data(**arguments))
    assert "gap/forget" not in trainer.callback_metrics
    watching = quiet_trainer(callbacks=[EarlyStopping("gap/forget")])
    with pytest.raises(
        ValueError, match=rf"EarlyStopping\(monitor='gap/forget'\): {reason}, .*accuracy/forget"
    ):
        watching.fit(FineTune(toy_source()), toy_data(**arguments))
