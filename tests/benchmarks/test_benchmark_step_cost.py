"""Point 1: an epoch of a method through Trainer.fit, against a bare loop, and a step with the switch ``fast``."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from benchmarks.bare import METHODS, beside
from benchmarks.material import linear, mnist_like, seeded_lenet
from benchmarks.measuring import AlternatingEpochs, Table, Turns
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_unlearn.comparison.fast import ChannelsLast
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.models import LeNet5, ResNet8, ResNet18

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


@pytest.mark.parametrize(
    ("network", "batch", "shape"),
    [(LeNet5, 128, (1, 28, 28)), (ResNet8, 64, (3, 32, 32)), (partial(ResNet18, width=16), 32, (3, 32, 32))],
    ids=["LeNet-5", "ResNet-8", "ResNet-18 of width 16"],
)
def test_a_step_with_the_switch_fast_takes_less_time(
    network: Callable[[], nn.Module],
    batch: int,
    shape: tuple[int, ...],
    interleave: Callable[..., Turns],
    table: Table,
    request: pytest.FixtureRequest,
) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(batch, *shape, generator=generator)
    targets = torch.randint(10, (batch,), generator=generator)

    def arm(last: bool, half: bool) -> Callable[[], None]:
        model = network().train()
        if last:
            ChannelsLast().setup(None, model, "fit")  # type: ignore[arg-type]  # it looks at layers alone
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

        def run() -> None:
            for _ in range(20):
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    loss = F.cross_entropy(model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return run

    ways = {
        "plain": (False, False),
        "channels_last": (True, False),
        "bf16": (False, True),
        "both": (True, True),
    }
    turns = interleave({name: arm(*way) for name, way in ways.items()})
    what = f"a step of {request.node.callspec.id}, batches of {batch} ÷ the same"
    for way in ("bf16", "both"):
        table.note(1, f"{what} in {way}, CPU time", turns.ratio("plain", way), turns.spread("plain", way))
    last = turns.ratio("plain", "channels_last"), 1.0, turns.spread("plain", "channels_last")
    assert table.at_least(1, f"{what} in channels_last, which fast chooses", *last)
