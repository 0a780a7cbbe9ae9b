"""Compares under ``ddp``, with a method and an evaluator that fail in one of two processes: ``python failing_compare.py FOLDER``."""

import sys
from pathlib import Path
from typing import Any

import torch
from test_compare import CPU, reference_kl, toy_compare
from torch import Tensor, nn

import lightning_unlearn.reports.writer
from lightning_unlearn import MethodRun, ReferenceKL
from lightning_unlearn.callbacks import Audit, Evaluator, MembershipInference

FAILING = 1


class Bad(ReferenceKL):
    """A method with a fault in one process, while the other waits for its gradients."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_rank == FAILING:
            raise RuntimeError("a fault of one process")
        return super().training_step(batch, batch_idx)


class Faulty(Evaluator):
    """An evaluator with a fault in one process, while the other waits for its rows."""

    default_name = "faulty"

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        if audit.runtime.rank == FAILING:
            raise RuntimeError("a fault of one evaluator")
        audit.runtime.gather(torch.ones(2))
        return {"faulty/score": 1.0}


if __name__ == "__main__":
    lightning_unlearn.reports.writer.draw_figures = lambda *_: []  # type: ignore[assignment]  # the slowest part by far
    bad = MethodRun(lambda source: Bad(source, reference_epochs=1), "bad", {"max_epochs": 1})
    comparison = toy_compare(
        Path(sys.argv[1]),
        seeds=1,
        trainer={**CPU, "strategy": "ddp", "devices": 2},
        methods=[bad, MethodRun(reference_kl, "good", {"max_epochs": 1})],
        evaluators=[Faulty, lambda: MembershipInference(bootstrap=10, attack="logistic")],
    )
    sys.exit(comparison.failed)
