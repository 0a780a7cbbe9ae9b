"""Try recipes on a deletion request, measure what the models answer before and after, and keep the best."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.callbacks import CollapseGuard
from lightning_unlearn.core.compat import batches_stepped
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.engine.answering import Answered, Measured, answered, measure_of
from lightning_unlearn.ensembles import Runtime, ask
from lightning_unlearn.methods import NegGradPlus, Retrain, Rewind, UnlearningModule
from lightning_unlearn.methods.base.maker import Method
from lightning_unlearn.methods.base.trial import COLLAPSED, GuessingWarning
from lightning_unlearn.models.surgery import clone

_QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "devices": 1,
}
_EPOCHS = 2  # where a method of one's own says nothing else
_STREAMS = ("forget", "nonmember", "test")


def recipes_for(data: UnlearningDataModule, *, rewinds: bool) -> list[tuple[Method, dict[str, Any]]]:
    """Return what ``auto`` tries, in this order, with arguments of the Trainer."""
    step = "loss" if "loss" in data.adapter.kind.offers else "source"

    def made(
        method: Callable[..., UnlearningModule], epochs: int, **own: Any
    ) -> tuple[Method, dict[str, Any]]:
        return partial(method, adapter=data.adapter, step=step, **own), {"max_epochs": epochs}

    def adam(rate: float) -> Callable[..., torch.optim.Optimizer]:
        return partial(torch.optim.Adam, lr=rate)

    back = [made(Rewind, 2), made(Rewind, 2, ascent=0.0)] if rewinds else []
    return [
        *back,
        made(NegGradPlus, 4, optimizer=adam(5e-3)),
        made(NegGradPlus, 3, optimizer=adam(5e-3), alpha=0.6, ascent_share=0.4),
        made(NegGradPlus, 3, optimizer=adam(1e-2)),
    ]


class Judging(L.Callback):
    """Says what the answer needs, so that it is refused before the first step."""

    of_streams = True

    def __init__(self, data: UnlearningDataModule) -> None:
        wrong = data.wrong_labels or data.backdoor is not None
        self.who = "wrong_labels=True (or a backdoor)" if wrong else "forget"
        self.needs = ("labels",) if wrong else ()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how many epochs there are where steps were asked for: Lightning's bar would show "/-2"."""
        if trainer.max_epochs == -1 and trainer.max_steps > 0:
            batches = trainer.max_steps * trainer.accumulate_grad_batches
            trainer.fit_loop.max_epochs = max(1, math.ceil(batches / max(1, trainer.num_training_batches)))


class Attempts:
    """Trains recipes on one request, and keeps what source, retrained and best model answer.

    Args:
        source: The source model.
        data: The split data, set up.
        trainer: What was asked for of the Trainer.
    """

    def __init__(self, source: nn.Module, data: UnlearningDataModule, trainer: dict[str, Any]) -> None:
        self.source = source
        self.data = data
        self.trainer = trainer
        self.oracle: nn.Module | None = None
        self.answers: dict[str, Measured] = {}
        self.tried = 0
        self.room: float | None = None
        self.seconds, self.steps = 0.0, 0
        order = np.random.default_rng(derive_seed(data.seed, "choose")).permutation(
            data.stream_size("nonmember")
        )
        self._choosing = torch.from_numpy(order < len(order) // 2)

    def fit(self, make: Method, **arguments: Any) -> UnlearningModule:
        """Fit a method, by default for two epochs; one that could destroy the model is guarded."""
        method = make(self.source)
        if not isinstance(method, UnlearningModule):
            raise TypeError(
                f"method must make an unlearning method of the source; {getattr(make, '__name__', make)} made "
                f"{type(method).__name__}"
            )
        if method.adapter == Adapter():
            method.adapter = self.data.adapter
        given = dict(self.trainer)
        if "max_steps" in arguments:
            given = {key: value for key, value in given.items() if not key.startswith("max_")}
        else:
            arguments = {"max_epochs": 0 if method.one_shot else _EPOCHS, **arguments}
            if (
                given.get("max_steps", -1) != -1 and not method.one_shot
            ):  # which the recipe's epochs would cut short
                arguments["max_epochs"] = -1
        guarded = isinstance(method, NegGradPlus)
        if not guarded and not isinstance(method, Retrain):  # whose schedule may watch an accuracy
            arguments["limit_val_batches"] = 0
        trainer = L.Trainer(**{**_QUIET, **arguments, **given})
        trainer.callbacks.append(Judging(self.data))  # type: ignore[attr-defined]
        if trainer.world_size > 1:
            raise ValueError(
                f"trainer: forget works in one process, and this Trainer has {trainer.world_size}; leave out devices "
                "and num_nodes, or fit a method yourself, which ends with the same answer"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error", GuessingWarning)
            try:
                self._train(method, trainer, guarded=guarded)
            except GuessingWarning as error:
                raise ValueError(
                    f"source: {error}, and whether the data is that of its training (if so, a larger batch_size of the "
                    "data tells it from guessing)"
                ) from None
        return method

    def _train(self, method: UnlearningModule, trainer: L.Trainer, *, guarded: bool) -> None:
        if guarded and trainer.limit_val_batches:
            trainer.validate(method, self.data, verbose=False)
            right = trainer.callback_metrics.get("accuracy/retain")  # which not every task has
            if right is not None:
                trainer.callbacks.append(CollapseGuard(COLLAPSED * float(right), below=1.0))  # type: ignore[attr-defined]
        trainer.fit(method, self.data)

    def measure(self, method: UnlearningModule, model: nn.Module, name: str) -> Measured:
        """Ask a model, where and as the method's Trainer computes."""
        runtime = Runtime(method.trainer)
        placed = runtime.place(clone(model).eval())
        streams = [stream for stream in _STREAMS if self.data.stream_size(stream)]
        found = ask(placed, self.data, streams, runtime, method.adapter)
        if any(outputs.loss.isnan().any() for outputs in found.values()):
            raise FloatingPointError(
                f"losses of the {name} model are NaN; check the samples, or lower the rate"
            )
        self.answers[name] = found
        return found

    def best(self, recipes: Sequence[tuple[Method, Mapping[str, Any]]], budget: float) -> UnlearningModule:
        """Fit one method, or, within a budget, several, and return the nearest to what it should be.

        Args:
            recipes: What to try, in this order.
            budget: Steps of the source's training that all may cost together; the first is always tried.
        """
        kept: tuple[float, UnlearningModule, Measured] | None = None
        spent = 0.0
        for number, (make, arguments) in enumerate(recipes, 1):
            try:
                method = self.fit(make, **arguments)
                if "source" not in self.answers:
                    self.measure(method, self.source, "source")
                    if self.oracle is not None:
                        self.measure(method, self.oracle, "retrain")
                answers = self.measure(method, method.model, "unlearned")
            except (RuntimeError, FloatingPointError) as error:  # of the guard, say, or a loss that is NaN
                if not budget or (number == len(recipes) and kept is None):
                    raise
                rank_zero_warn(f"forget: a recipe failed and is passed over: {error}")
                continue
            self.tried += 1
            seconds = method.times["time/total_s"]
            distance = self._distance()
            if kept is None or distance < kept[0]:
                kept = distance, method, answers
                self.seconds, self.steps = seconds, batches_stepped(method.trainer)
            step = seconds / max(1, method.trainer.global_step) / len(method.streams)
            spent += seconds
            if spent + seconds > budget * step:
                more = budget and self.tried == 1 and number < len(recipes)
                self.room = (spent + seconds) / step if more else None
                break
        assert kept is not None  # or the last has raised
        self.answers["unlearned"] = kept[2]
        return kept[1]

    def answered(self, *, choosing: bool = False) -> Answered:
        """Return the answer for the best, on other non-members than it was chosen on.

        Args:
            choosing: Whether to take those that it is chosen on.
        """
        found = answered(
            self.answers["source"],
            self.answers["unlearned"],
            measure_of(self.data, self.answers["source"]["forget"].task),
            retrained=self.answers.get("retrain"),
            chosen=self._choosing if choosing else ~self._choosing if self.tried > 1 else None,
            seconds=self.seconds,
            tried=self.tried,
            unlike=self.data.unlike_groups,
            steps=self.steps,
        )
        assert found is not None  # all was measured, and has a meaning
        return found

    def _distance(self) -> float:
        """Return how far the last one is from the target, and from the source's accuracy on unseen samples."""
        found = self.answered(choosing=True).answer
        beyond = (found.after.value - found.target) * math.copysign(1.0, found.before.value - found.target)
        task = self.answers["source"]["forget"].task
        unseen = [self.answers[name].get("nonmember") for name in ("source", "unlearned")]
        right = [
            float(each.subset(self._choosing).accuracy)
            for each in unseen
            if each is not None and "correct" in each.task.offers
        ]
        lost = max(0.0, right[0] - right[1]) if right else 0.0
        return (abs(beyond) if measure_of(self.data, task) == "membership" else max(0.0, beyond)) + lost

    @property
    def scores(self) -> dict[str, Tensor]:
        """Accuracies by stream, of the controls under ``source/`` and ``retrain/``."""
        return {
            f"{'' if model == 'unlearned' else f'{model}/'}accuracy/{stream}": torch.tensor(outputs.accuracy)
            for model, answers in self.answers.items()
            for stream, outputs in answers.items()
            if "correct" in outputs.task.offers
        }
