"""WGAN unlearning of Chen, Huang & Wang, 2021: a critic on sorted posteriors teaches the model how sure to be."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

from lightning_unlearn.core.compat import AnyBatchNorm
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, isolated_rng
from lightning_unlearn.functional import (
    generator_loss,
    gradient_penalty,
    sort_posteriors,
    wasserstein_critic_loss,
)
from lightning_unlearn.methods.base import Declared, Range, Source, Teacher, UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import MLP, clone, evaluating
from lightning_unlearn.models.schedules import scheduled

_CRITIC_WIDTHS = (128, 128)


class WGAN(UnlearningModule):
    r"""Makes the model as unsure about the forget set as the source is about samples it never saw.

    The model is the generator of a Wasserstein GAN with gradient penalty. "Real" are the source's posteriors on
    non-members, "fake" the model's on the forget set, both sorted in descending order, so that the critic D
    cannot see the class and the model goes on answering as it did, less surely. With P the sorted posteriors,
    the critic minimises

    .. math:: E[D(P(D_f))] - E[D(P_{source}(D_{nonmember}))] + w\, E[(\|\nabla D(\hat x)\|_p - 1)^2]

    and the model :math:`-\alpha\, E[D(P(D_f))] + (1 - \alpha)\, CE(D_s)`, with D_s a small subset of the retain
    set. Source: Chen, Huang & Wang, "Machine unlearning via GAN", 2021, eq. 5, eq. 6 and section 2.4. The paper
    gives no network or learning rate for the critic and no number of critic steps; those here are common ones.

    One epoch is one pass over the forget set. Each batch trains the critic ``critic_steps`` times and then the
    model once. All these critic steps see the same batch, with other points :math:`\hat x` between real and fake:
    the model does not change in between, so its posteriors are computed once and a critic step costs nothing but
    the small critic.

    The critic computes in float32 in any precision, for the penalty is a second derivative. It is saved with the
    checkpoints of the run and is in no export. Optimization is manual: a trainer with ``gradient_clip_val`` or
    ``accumulate_grad_batches`` is refused, and ``trainer.global_step`` counts the steps of both optimizers,
    ``critic_steps + 1`` a batch.

    Args:
        source: The source model.
        alpha: Weight of forgetting against the loss on D_s, in [0, 1].
        critic: Scores sorted posteriors ``(B, C)`` with one number each, ``(B,)`` or ``(B, 1)``; its weights are
            the start, the module itself stays as it is. ``None`` for a network with two hidden layers.
        critic_steps: Steps of the critic before each step of the model, at least 1.
        penalty_weight: Weight w of the gradient penalty, above 0.
        penalty_p: Order p of the norm in it, at least 1.
        sort: Whether to sort posteriors; without, the model is also taught the classes of the non-members.
        retain_fraction: Size of D_s, as a fraction of the retain set in (0, 1]; the paper uses 1/100.
        wasserstein_tolerance: Stop when the critic's estimate of the Wasserstein distance, averaged over an epoch,
            stays below this, in absolute value, for ``patience`` epochs on end. Epochs before it first was above do
            not count: an untrained critic tells nothing apart. ``None`` trains for the trainer's ``max_epochs``.
        patience: Number of those epochs, at least 1.
        optimizer: Makes the model's optimizer; ``None`` for Adam with learning rate 1e-4, as larger steps undo what
            the source learned before the critic has learned what to ask for.
        critic_optimizer: Makes the critic's optimizer; ``None`` for Adam with learning rate 1e-3 and the betas 0.5
            and 0.9 that are usual for such critics.
        critic_lr_scheduler: Makes the schedule of the critic's optimizer; ``None`` for a constant rate.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range, or the critic looks across samples.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> WGAN(MLP(in_features=4, hidden=(3,), num_classes=2), alpha=1.5)
        Traceback (most recent call last):
        ValueError: alpha must lie in [0, 1], got 1.5: it weighs forgetting against the loss on the retain set
    """

    streams = ("forget", "nonmember", "retain")
    epoch_stream = "forget"
    indexed_streams = ("nonmember",)
    prepares_again = True
    needs = ("loss", "distribution")
    default_lr = 1e-4
    searched: ClassVar[SearchSpace] = {
        "lr": Search(1e-5, 1e-3, log=True),
        "alpha": Search(0.2, 0.95),
        "retain_fraction": Search(0.01, 0.3, log=True),
    }
    declared: ClassVar[Declared] = {
        "alpha": Range("[0, 1]", ": it weighs forgetting against the loss on the retain set"),
        "critic_steps": Range("[1, inf)", whole=True),
        "penalty_weight": Range("(0, inf)", "; the usual weight is 10"),
        "penalty_p": Range("[1, inf]", "; the usual norm is 2"),
        "retain_fraction": Range("(0, 1]"),
        "wasserstein_tolerance": Range("(0, inf)", "; None never stops early", none=True),
        "patience": Range("[1, inf)", whole=True),
    }

    def __init__(
        self,
        source: Source,
        alpha: float = 0.6,
        critic: nn.Module | None = None,
        *,
        critic_steps: int = 5,
        penalty_weight: float = 10.0,
        penalty_p: float = 2.0,
        sort: bool = True,
        retain_fraction: float = 0.01,
        wasserstein_tolerance: float | None = None,
        patience: int = 5,
        critic_optimizer: OptimizerCallable | None = None,
        critic_lr_scheduler: LRSchedulerCallable | None = None,
        **method: Any,
    ) -> None:
        if critic is not None and any(isinstance(part, AnyBatchNorm) for part in critic.modules()):
            raise ValueError(
                "critic must score each sample by itself, and its batch normalisation mixes them; use "
                "torch.nn.LayerNorm instead"
            )
        super().__init__(source, **method)
        self.automatic_optimization = False
        self.counted_a_batch = critic_steps + 1
        self.alpha = alpha
        self.critic_steps = critic_steps
        self.penalty_weight = penalty_weight
        self.penalty_p = penalty_p
        self.sort = sort
        self.retain_fraction = retain_fraction
        self.wasserstein_tolerance = wasserstein_tolerance
        self.patience = patience
        self._critic_optimizer = critic_optimizer
        self._critic_lr_scheduler = critic_lr_scheduler
        # In a list, so that it is no submodule: not in the exported or wrapped model, and DistributedDataParallel does
        # not wait for its gradients in the model's backward pass.
        self._critic = [] if critic is None else [clone(critic)]
        self._critic_state: Mapping[str, Any] | None = None
        self._teacher: Teacher | None = None
        self._estimate = MeanMetric(nan_strategy="disable")  # to look for NaN would wait for the device
        self._was_above = False
        self._epochs_below = 0

    # ------------------------------------------------------------------ before the first step

    @property
    def critic(self) -> nn.Module:
        """The critic; a default one is built inside ``fit``, where the number of classes is known."""
        if not self._critic:
            raise RuntimeError("the critic is not built yet: fit the method first, or pass critic=...")
        return self._critic[0]

    def configure_optimizers(self) -> Any:
        """Build the critic, and an optimizer and schedule for the model and one for the critic."""
        ours = self._optimizer or partial(torch.optim.Adam, lr=self.default_lr)
        critics = self._critic_optimizer or partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9))
        configs: list[dict[str, Any]] = []
        for module, make, schedule in (
            (self.model, ours, self._lr_scheduler),
            (self._place_critic(), critics, self._critic_lr_scheduler),
        ):
            optimizer = make([parameter for parameter in module.parameters() if parameter.requires_grad])
            made: Any = scheduled(optimizer, schedule, lambda: self.total_steps)
            configs.append(made if isinstance(made, dict) else {"optimizer": made})
            configs[-1].get("lr_scheduler", {}).pop("monitor", None)  # _step_schedule() reads it itself
        return configs

    def _place_critic(self) -> nn.Module:
        runtime = Runtime(self.trainer)
        self._know_task(self.data)
        self.require_task()
        classes = self._count_classes(runtime)
        if not self._critic:
            with isolated_rng(derive_seed(self.data.order_seed, "critic")):
                self._critic = [MLP(classes, _CRITIC_WIDTHS, num_classes=1)]
        critic = self._critic[0].to(runtime.device, torch.float32)
        if self._critic_state is not None:
            critic.load_state_dict(self._critic_state)
            self._critic_state = None
        if runtime.world_size > 1:
            for tensor in critic.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        _check_critic(critic, classes, runtime.device)
        critic.train()
        return critic

    def _count_classes(self, runtime: Runtime) -> int:
        batch = runtime.to_device(next(iter(self.data.loader("forget", batch_size=1))))
        with evaluating(self.model), torch.no_grad(), runtime.forward_context():
            return self.task.posteriors(self.adapter.call(self.model, self.adapter.split(batch)[0])).shape[-1]

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Ask the source about the non-members, once for all where they are not augmented."""
        if not data.stream_size("nonmember"):
            raise ValueError(
                "nonmember: WGAN unlearning needs samples that the source never saw, and there are none; give "
                "UnlearningDataModule a test set, or nonmember=... with nonmember_from='train' and a source "
                "trained without them"
            )
        if reason := data.unlike_groups:
            rank_zero_warn(
                f"WGAN answers the forget set as surely as non-members, and {reason}, whom the source knows better "
                "than somebody it never saw, so that too little would be forgotten; test on other values, or take "
                "NegGradPlus"
            )
        self._teacher = Teacher(self.source, "nonmember")
        self._teacher.ask(data, runtime, self.adapter)

    # ------------------------------------------------------------------ the loss

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Eq. 5 for the critic, ``critic_steps`` times, then eq. 6 for the model."""
        (forget, _), (retain, targets) = self.stream_logits(batch["forget"], batch["retain"])
        ce = self.retain_loss(batch["retain"], batch_idx, (retain, targets))
        assert self._teacher is not None  # prepare() made it
        real, fake = self._ordered(self._teacher.logits(batch["nonmember"])), self._ordered(forget)
        # neither the critic's second derivative nor a scaled gradient survives half precision
        with torch.autocast(self.device.type, enabled=False):
            wasserstein, penalty = self._train_critic(real, fake.detach())
            loss = self._train_model(fake, ce)
        if self.wasserstein_tolerance is not None:
            self._estimate.update(wasserstein, len(fake))
        self._step_schedules("step")
        self.log_terms(loss=loss, wasserstein=wasserstein, penalty=penalty, ce=ce)
        return loss.detach()

    def _train_critic(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Step the critic and return its last Wasserstein estimate and penalty."""
        runtime = Runtime(self.trainer)
        _, optimizer = self._steppers()
        for epsilon in self._epsilon(len(fake), runtime):
            distance = wasserstein_critic_loss(self.critic(real), self.critic(fake))
            penalty = gradient_penalty(
                self.critic, real, fake, self.penalty_weight, self.penalty_p, epsilon=epsilon
            )
            optimizer.zero_grad()
            critic_loss = (distance + penalty) * self.share
            # Scaled like any loss, but not through manual_backward, which announces a backward pass of the model to
            # DistributedDataParallel.
            self.trainer.precision_plugin.pre_backward(critic_loss, self).backward()  # type: ignore[no-untyped-call]
            runtime.average_gradients(self.critic)
            optimizer.step()
        return -distance.detach(), penalty.detach()

    def _train_model(self, fake: Tensor, ce: Tensor) -> Tensor:
        """Step the model against a critic that is kept as it is, and return the loss."""
        optimizer, _ = self._steppers()
        with self.toggled_optimizer(optimizer):
            loss = generator_loss(self.critic(fake), ce, self.alpha)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def _steppers(self) -> list[LightningOptimizer]:
        """Return the optimizers of the model and of the critic."""
        return self.optimizers()  # type: ignore[return-value]

    def _epsilon(self, size: int, runtime: Runtime) -> Tensor:
        """Draw where between real and fake the critic steps look, ``(critic_steps, size)`` in [0, 1).

        Seeded by the step, so a resumed run draws the same; and drawn for all ranks, as the loader deals samples,
        so that several processes see what one would.
        """
        seed = derive_seed(self.data.order_seed, "epsilon", self.trainer.global_step)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(
            size * runtime.world_size, self.critic_steps, generator=generator, dtype=torch.float32
        )
        return drawn[runtime.rank :: runtime.world_size].T.to(runtime.device)

    def _ordered(self, logits: Tensor) -> Tensor:
        posteriors = self.task.posteriors(logits.float())
        return sort_posteriors(posteriors) if self.sort else posteriors

    # ------------------------------------------------------------------ between epochs

    def on_train_epoch_end(self) -> None:
        """Step the schedules, and stop when the critic can no longer tell forget set and non-members apart."""
        self._step_schedules("epoch")
        if (tolerance := self.wasserstein_tolerance) is None:
            return
        estimate = float(self._estimate.compute())
        self._estimate.reset()
        # not the absolute value: an untrained critic has the wrong sign as often as not
        self._was_above |= estimate >= tolerance
        below = abs(estimate) < tolerance and self._was_above
        self._epochs_below = self._epochs_below + 1 if below else 0
        if self._epochs_below >= self.patience:
            self.end_fit()

    def _step_schedules(self, interval: str) -> None:
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == interval:
                self._step_schedule(config.scheduler)

    def _step_schedule(self, schedule: Any) -> None:
        if not isinstance(schedule, ReduceLROnPlateau):
            schedule.step()
            return
        monitor = getattr(schedule, "monitor", None)
        measured = self.trainer.callback_metrics
        if monitor not in measured:
            raise ValueError(
                f"lr_scheduler: ReduceLROnPlateau watches {monitor!r}, which was not logged; use "
                f"lightning.pytorch.cli.ReduceLROnPlateau with monitor set to one of {sorted(measured)}"
            )
        schedule.step(measured[monitor])

    # ------------------------------------------------------------------ checkpoints

    def preparation_state(self) -> dict[str, Any]:
        """Return the critic's weights and how near the run is to stopping."""
        if not self._critic:
            return {}
        return {
            "critic": self._critic[0].state_dict(),
            "estimate": [float(self._estimate.mean_value), float(self._estimate.weight)],
            "was_above": self._was_above,
            "epochs_below": self._epochs_below,
        }

    def load_preparation_state(self, state: Mapping[str, Any]) -> None:
        """Take these back; a critic that is not there yet is built with the optimizers."""
        if self._critic:
            self._critic[0].load_state_dict(state["critic"])
        else:
            self._critic_state = state["critic"]
        for tensor, value in zip(
            (self._estimate.mean_value, self._estimate.weight), state["estimate"], strict=True
        ):
            tensor.fill_(value)
        self._was_above, self._epochs_below = state["was_above"], state["epochs_below"]


def _check_critic(critic: nn.Module, classes: int, device: torch.device) -> None:
    try:
        with evaluating(critic), torch.no_grad():
            shape = tuple(critic(torch.full((2, classes), 1 / classes, device=device)).shape)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"critic must take posteriors of shape (B, {classes}), one column a class; "
            f"{type(critic).__name__} failed on them: {error}"
        ) from error
    if shape not in ((2,), (2, 1)):
        raise ValueError(
            f"critic must give one score a sample, shape (B,) or (B, 1); {type(critic).__name__} gave {shape} for "
            "a batch of 2"
        )
