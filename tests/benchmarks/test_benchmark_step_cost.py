"""Point 1: an epoch of ReferenceKL through Trainer.fit, against a bare loop that does the same arithmetic."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from benchmarks.bare import reference_kl_epoch
from benchmarks.material import linear, mnist_like, seeded_lenet
from benchmarks.measuring import AlternatingEpochs, Table
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods import ReferenceKL

SAMPLES, FORGOTTEN, BATCH, LAMBDA, EPOCHS = 60_000, 6_000, 128, 0.01, 9


@pytest.mark.parametrize(
    ("network", "limit"), [(seeded_lenet, 1.10), (linear, 2.2)], ids=["LeNet-5", "one linear layer"]
)
def test_an_epoch_costs_little_more_than_a_bare_loop(
    network: Callable[[], nn.Module], limit: float, benchmark: Any, table: Table, tmp_path: Path, request: Any
) -> None:
    net = network()
    reference = copy.deepcopy(net)
    data = UnlearningDataModule(mnist_like(SAMPLES), FORGOTTEN / SAMPLES, batch_size=BATCH)
    data.setup("fit")
    alternating = AlternatingEpochs(
        {"bare": reference_kl_epoch(copy.deepcopy(net), reference, data, LAMBDA, BATCH)}
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=CSVLogger(tmp_path),  # progress bar and logging every 50 steps are Lightning's defaults
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[alternating],
    )
    method = ReferenceKL(net, LAMBDA, reference)
    benchmark.pedantic(trainer.fit, args=(method, data), rounds=1)
    turns = alternating.turns
    benchmark.extra_info.update(turns.seconds)
    steps = FORGOTTEN // BATCH
    detail = f"{turns.median('fit') / steps * 1e3:.3g} / {turns.median('bare') / steps * 1e3:.3g} ms a step"
    assert table.at_most(
        1,
        f"ReferenceKL's epoch on {request.node.callspec.id}, Trainer.fit ÷ bare loop, CPU time",
        turns.ratio("fit", "bare"),
        limit,
        f"{detail}; {turns.spread('fit', 'bare')}",
    )
