"""Point 1: an epoch of a method through Trainer.fit, against a bare loop that does the same arithmetic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from benchmarks.bare import METHODS, beside
from benchmarks.material import linear, mnist_like, seeded_lenet
from benchmarks.measuring import AlternatingEpochs, Table
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_unlearn.data import UnlearningDataModule

SAMPLES, FORGOTTEN, BATCH, WARMUP, ROUNDS = 12_000, 6_000, 128, 2, 9
EPOCHS = WARMUP + ROUNDS + 1


@pytest.mark.parametrize(
    ("method", "network", "limit"),
    [*((name, seeded_lenet, 1.10) for name in METHODS), ("ReferenceKL", linear, 2.2)],
)
def test_an_epoch_costs_little_more_than_a_bare_loop(
    method: str, network: Callable[[], nn.Module], limit: float, benchmark: Any, table: Table, tmp_path: Path
) -> None:
    data = UnlearningDataModule(mnist_like(SAMPLES), FORGOTTEN / SAMPLES, batch_size=BATCH)
    data.setup("fit")
    ours, bare = beside(method, network(), data, BATCH, EPOCHS)
    alternating = AlternatingEpochs({"bare": bare}, warmup=WARMUP)  # SCRUB's next epochs all pass over D_r
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=CSVLogger(tmp_path),  # every 50 steps, Lightning's default
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[alternating],
    )
    benchmark.pedantic(trainer.fit, args=(ours, data), rounds=1)
    turns = alternating.turns
    benchmark.extra_info.update(turns.seconds)
    steps = FORGOTTEN // BATCH
    detail = f"{turns.median('fit') / steps * 1e3:.3g} / {turns.median('bare') / steps * 1e3:.3g} ms a step"
    where = "one linear layer" if network is linear else "LeNet-5"
    assert table.at_most(
        1,
        f"{method}'s epoch on {where}, Trainer.fit ÷ bare loop, CPU time",
        turns.ratio("fit", "bare"),
        limit,
        f"{detail}; {turns.spread('fit', 'bare')}",
    )
