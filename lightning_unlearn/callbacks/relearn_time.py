"""Relearn time: how many steps on the forget set bring back what was forgotten?"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.evaluator import Evaluator
from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.engine.train import default_optimizer
from lightning_unlearn.ensembles import isolated_rng
from lightning_unlearn.functional import relearn_target, relearn_time
from lightning_unlearn.metrics.declared import MATCH, DeclaredMetric
from lightning_unlearn.models.freezing import mark_frozen, share_frozen, trainable
from lightning_unlearn.models.fresh import fresh_copy
from lightning_unlearn.models.surgery import clone, frozen


class RelearnTime(Evaluator):
    """Trains a copy of the model on D_f alone until its loss is the source model's again, and counts the steps.

    A model that hid D_f rather than forgot it learns it again at once; one that never saw it needs as long as the
    retrained model. Golatkar et al., "Eternal sunshine of the spotless net", 2020, section 6.

    - ``<name>/steps``: the steps, 0 for the source itself; absent if ``max_steps`` did not suffice.
    - ``<name>/reached``: 1 if they sufficed, 0 if not.
    - ``<name>/fresh``: the steps of an untrained model of the same architecture, which has to learn everything; absent
      if ``max_steps`` did not suffice.

    The results' file also holds the loss on D_f before the first step and after each. Without a known source model
    there is no loss to come back to: no metric is reported. The copy stays in evaluation mode, so that dropout and
    the samples that share a batch do not count. All ranks train the same copy on the same batches, so the number of
    processes does not change the number of steps.

    Args:
        max_steps: When to give up.
        margin: How far above the source model's loss still counts as learned, as a fraction of it.
        batch_size: Samples of a step.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 1e-3. Use the source's.
        fresh: Whether to train the untrained model too; a callable builds it.
        **evaluator: Arguments of :class:`~lightning_unlearn.callbacks.base.evaluator.Evaluator`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    default_name: ClassVar[str] = "relearn_time"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "relearn_time/steps": DeclaredMetric(
            "Relearn time",
            "relearn steps",
            "Training steps on the forget set alone until its loss is the source model's again; a model that never got "
            "there has none.",
            direction=MATCH,
            digits=1,
            absent="never",
        ),
        "relearn_time/reached": DeclaredMetric(
            "Relearned within the steps",
            "relearned",
            "Whether the model learned the forget set again within the steps tried; where not, it has no relearn time.",
            unit="%",
        ),
        "relearn_time/fresh": DeclaredMetric(
            "Relearn time of an untrained model",
            "relearn, fresh",
            "The same for a model that never learned anything.",
            digits=1,
            absent="never",
        ),
    }
    copies_model: ClassVar[bool] = True

    def __init__(
        self,
        max_steps: int = 200,
        *,
        margin: float = 0.1,
        batch_size: int = 64,
        optimizer: OptimizerCallable | None = None,
        fresh: bool | Callable[[], nn.Module] = True,
        **evaluator: Any,
    ) -> None:
        in_range("max_steps", max_steps, "[1, inf)", whole=True)
        in_range("batch_size", batch_size, "[1, inf)", whole=True)
        relearn_target(0.0, margin)  # checks the margin
        super().__init__(fresh=fresh if callable(fresh) else None, **evaluator)
        self.max_steps = max_steps
        self.margin = margin
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.trains_fresh = bool(fresh)

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Train a copy, and an untrained model once a source."""
        if audit.source is None:
            return {}
        target = relearn_target(self._loss(frozen(audit.source).float(), audit), self.margin)
        losses = self._curve(clone(model), target, audit)
        steps = relearn_time(losses, target)
        metrics = {f"{self.name}/reached": float(steps is not None)}
        if steps is not None:
            metrics[f"{self.name}/steps"] = float(steps)
        audit.details.update({"target": target, "losses": losses, "max_steps": self.max_steps})
        if self.trains_fresh:
            fresh = self._fresh_curve(audit, target)
            if (learned := relearn_time(fresh, target)) is not None:
                metrics[f"{self.name}/fresh"] = float(learned)
            audit.details["losses_fresh"] = fresh
        return metrics

    def _fresh_curve(self, audit: Audit, target: float) -> list[float]:
        assert audit.source is not None  # evaluate() asked
        source = audit.source

        def train() -> list[float]:
            with isolated_rng(derive_seed(audit.seed, "fresh")):
                untrained = fresh_copy(source)
            return self._curve(untrained, target, audit)

        key = audit.seed, audit.adapter, target
        return self.once(key, [audit.data, audit.original(source)], train)

    def _curve(self, model: nn.Module, target: float, audit: Audit) -> list[float]:
        """Return the loss on D_f before the first step and after each, up to the target or ``max_steps``."""
        runtime = audit.runtime
        # in float32 whatever the trainer's precision: a loss near 0 has no digits in half precision
        model = model.float().to(runtime.device).eval()
        assert audit.source is not None  # evaluate() asked
        share_frozen(model, mark_frozen(audit.source))
        optimizer = (self.optimizer or default_optimizer)(list(trainable(model).values()))
        losses = [self._loss(model, audit)]
        with isolated_rng(derive_seed(audit.seed, "relearning")):
            for inputs, targets in self._endless(audit):
                if losses[-1] <= target or len(losses) > self.max_steps:
                    return losses
                loss = audit.adapter.kind.batch_loss(audit.adapter.call(model, inputs), targets)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                runtime.average_gradients(model)  # equal but for rounding, which must not add up
                optimizer.step()
                losses.append(self._loss(model, audit))
                runtime.require_finite(
                    losses[-1],
                    f"the loss on the forget set became {{}} after {len(losses) - 1} steps of relearning; check the "
                    "data for NaN or infinite values, or give an optimizer with a lower learning rate",
                )
        raise AssertionError("the batches never end")

    def _loss(self, model: nn.Module, audit: Audit) -> float:
        """Return the mean cross-entropy on D_f, summed in double precision off the device; one wait for it."""
        totals, count = [], 0
        with torch.no_grad():
            for inputs, targets in self._batches(audit):
                logits = audit.adapter.call(model, inputs)
                totals.append(audit.adapter.kind.loss(logits, targets).sum())
                count += len(targets)
        return float(sum(torch.stack(totals).tolist())) / count

    def _endless(self, audit: Audit) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 0
        while True:
            yield from self._batches(audit, epoch)
            epoch += 1

    def _batches(self, audit: Audit, epoch: int | None = None) -> Iterator[tuple[Any, Tensor]]:
        """Yield all of D_f on every rank, never augmented; shuffled for an epoch of training."""
        for inputs, targets in audit.batches("forget", self.batch_size, epoch=epoch):
            yield apply_to_collection(inputs, Tensor, _single), targets


def _single(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
