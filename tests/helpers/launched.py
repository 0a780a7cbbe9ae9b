"""Fits every method and asks every evaluator in two processes, as a program that Lightning launches twice.

``python launched.py STRATEGY FOLDER`` with ``ddp`` or ``fsdp2`` writes weights and ``outcomes.json`` into the folder;
:mod:`test_launched` compares them with one process.
"""

import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from test_harness_evaluators import build as build_evaluator
from test_harness_evaluators import data, plain_scores
from test_harness_methods import assert_same_state, smooth_run, state
from torch.distributed.fsdp import fully_shard

from helpers.support import EVALUATORS, METHODS
from helpers.toys import PlainModule, quiet_trainer, toy_source
from lightning_unlearn.callbacks import Evaluator
from lightning_unlearn.methods import Retrain, UnlearningModule


class Sharded(PlainModule):
    """A module whose author spreads it over processes."""

    def configure_model(self) -> None:
        fully_shard(self, mesh=self.device_mesh["data_parallel"], reshard_after_forward=True)  # type: ignore[index]


class SaveOnce(L.Callback):
    """Saves a checkpoint after the second batch, which is in the middle of every method's epoch but one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == 3:
            trainer.save_checkpoint(self.path)


def method_scores(evaluator: type[Evaluator], **arguments: Any) -> dict[str, float]:
    """Audit a method's model that is as good as its source, without training it."""
    L.seed_everything(1, verbose=False)
    ours = build_evaluator(evaluator)
    quiet_trainer(callbacks=[ours], **arguments).test(Retrain(toy_source()), data(shadow=0), verbose=False)
    return ours.results


def resume(method: type[UnlearningModule], folder: Path, strategy: Callable[..., Strategy]) -> None:
    for whole_file in (False, True):
        path = folder / f"{method.__name__}-{whole_file}.ckpt"
        arguments = {"max_epochs": 2, "enable_checkpointing": True}

        def spread(whole_file: bool = whole_file) -> Strategy:
            return strategy(save_distributed_checkpoint=not whole_file)

        keeper = L.pytorch.callbacks.ModelCheckpoint(folder / "kept", save_top_k=0)
        whole = smooth_run(method, 2, strategy=spread(), callbacks=[SaveOnce(path), keeper], **arguments)
        resumed = smooth_run(method, 2, strategy=spread(), callbacks=[keeper], ckpt_path=path, **arguments)
        assert_same_state(state(resumed.model), state(whole.model))


def main(name: str, folder: Path) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    def strategy(**arguments: Any) -> Strategy:
        if name == "ddp":
            return DDPStrategy(process_group_backend="gloo")
        return ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo", **arguments
        )

    outcomes: dict[str, dict[str, Any]] = {}

    def note(axis: str, subject: type, run: Callable[[], Any]) -> None:
        try:
            outcome: dict[str, Any] = {"result": run()}
        except Exception as error:  # told to the test, which knows what must be refused
            outcome = {"error": f"{type(error).__name__}: {error}"}
        outcomes.setdefault(axis, {})[subject.__name__] = outcome

    def export(method: type[UnlearningModule]) -> None:
        smooth_run(method, 2, strategy=strategy()).export(folder / f"{method.__name__}.ckpt")

    for method in METHODS:
        note(name, method, lambda method=method: export(method))
        if name == "fsdp2":
            note("resume fsdp2", method, lambda method=method: resume(method, folder, strategy))
    for evaluator in EVALUATORS:
        two: dict[str, Any] = {"strategy": strategy(), "devices": 2}
        note(name, evaluator, lambda evaluator=evaluator, two=two: method_scores(evaluator, **two))
        if name == "fsdp2":
            two = {"strategy": strategy(), "devices": 2}
            run = lambda evaluator=evaluator, two=two: plain_scores(evaluator, Sharded, PlainModule, **two)  # noqa: E731
            note("fsdp2 own module", evaluator, run)
    if torch.distributed.get_rank() == 0:
        (folder / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
