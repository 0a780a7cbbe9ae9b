"""The bound of a rewound model under noise, and what must hold for it: plain full-batch gradient descent."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import nn

from lightning_unlearn.core.compat import AnyDropout, batches_stepped
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.functional import gaussian_epsilon, rewind_sensitivity
from lightning_unlearn.methods.base.source import read_checkpoint
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models.freezing import trainable
from lightning_unlearn.models.statistics import running_layers

ASSUMED = (
    "that the source was trained by full-batch gradient descent at the same rate on the mean loss of all samples, from "
    "weights that no forgotten one decided; that the mean loss on D_r is {smoothness:g}-smooth; that no sample's "
    "gradient is longer than {gradient_bound:g}; and that nothing else of the training is given away"
)
"""What the bound takes for granted, with the method's own arguments to be put in."""

CERTIFIED: dict[str, DeclaredMetric] = {
    "certified/epsilon": DeclaredMetric(
        "Certified ε",
        "certified ε",
        "Bound on what tells the model from a retrained one, at the certified δ and as the method assumes.",
        direction="lower",
        digits=4,
    ),
    "certified/delta": DeclaredMetric("Certified δ", "certified δ", "Chance that the ε does not hold."),
}
"""What a certificate measures."""


_PLAIN = "the optimizer must be torch.optim.SGD at one rate for all weights, without momentum, weight decay or schedule"
_OFF = ("momentum", "weight_decay", "maximize")
_OWN = {"params", "lr", "momentum", "dampening", "weight_decay", "nesterov"}  # settings of every SGD,
_LATER = {"maximize", "foreach", "differentiable", "fused", "param_names"}  # and of newer ones


@dataclass(frozen=True)
class NoisyBound:
    """The certificate of a model that was trained on from a checkpoint and gets noise in the end.

    Attributes:
        checkpoint: The file.
        noise: Standard deviation of the noise.
        delta: δ.
        smoothness: L, which the user vouches for.
        gradient_bound: G, likewise.
    """

    checkpoint: Path
    noise: float
    delta: float
    smoothness: float
    gradient_bound: float

    def require(self, trainer: L.Trainer, model: nn.Module, data: UnlearningDataModule) -> float:
        """Refuse, before the first step, what no bound holds for, and return the rate.

        Raises:
            ValueError: If the training before or after the checkpoint is not as the bound has it.
        """
        content = read_checkpoint(self.checkpoint, objects=True)
        if (reason := next(_uncertifiable(trainer, model, data, content), None)) is not None:
            raise ValueError(f"Rewind(noise={self.noise}): {reason}")
        return float(trainer.optimizers[0].param_groups[0]["lr"])

    def require_step(self, trainer: L.Trainer, model: nn.Module, rate: float) -> None:
        """Refuse a step that the bound is not of: at a rate that a callback set, or with too long a gradient.

        A mean is no longer than the longest that it is of.

        Raises:
            ValueError: If it is either.
        """
        if _rate_of(trainer) != rate:
            raise ValueError(f"Rewind(noise={self.noise}): {_PLAIN}, lr={rate:g} in every step")
        norm = float(
            torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        )
        if norm > self.gradient_bound:
            raise ValueError(
                f"gradient_bound={self.gradient_bound} does not hold: the gradient is {norm:.4g} long at step "
                f"{trainer.global_step}"
            )

    def certify(self, trainer: L.Trainer, model: nn.Module, data: UnlearningDataModule, rate: float) -> None:
        """Add the noise, print and log what it certifies."""
        # with a known seed it could be taken off
        generator = torch.Generator().manual_seed(secrets.randbits(63))
        with torch.no_grad():
            for parameter in trainable(model).values():
                drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(drawn.to(parameter.device), alpha=self.noise)
        split = data.split
        before = int(read_checkpoint(self.checkpoint, objects=True)["global_step"])
        forgotten = len(split.forget) + len(split.previous)
        members = forgotten + len(split.retain)
        distance = rewind_sensitivity(
            smoothness=self.smoothness,
            gradient_bound=self.gradient_bound,
            lr=rate,
            forgotten=forgotten,
            members=members,
            before=before,
            after=trainer.global_step,
        )
        epsilon = gaussian_epsilon(distance / self.noise, self.delta)
        rank_zero_info(
            f"Rewind: ({epsilon:.4g}, {self.delta:g})-certified: noise of {self.noise:g} over a distance of at most "
            f"{distance:.4g} to a model retrained for {before} + {trainer.global_step} steps at lr={rate:g} on "
            f"{members} samples. Assumed is "
            f"{ASSUMED.format(smoothness=self.smoothness, gradient_bound=self.gradient_bound)}"
        )
        scores = {"certified/epsilon": epsilon, "certified/delta": self.delta}
        trainer.callback_metrics.update(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}
        )
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=batches_stepped(trainer))


def _uncertifiable(
    trainer: L.Trainer, model: nn.Module, data: UnlearningDataModule, checkpoint: Mapping[str, Any]
) -> Iterator[str]:
    """Yield why no bound holds: what of the training is not plain gradient descent on the whole retain set.

    Args:
        trainer: The Trainer, about to take the first step.
        model: The model.
        data: The split data.
        checkpoint: The content of the file that is gone back to.
    """
    if (rate := _rate_of(trainer)) is None:
        yield _PLAIN
    loaders = trainer.train_dataloader
    batches = len(loaders["retain"]) if isinstance(loaders, Mapping) else 0
    if (
        batches != 1
        or trainer.world_size != 1
        or data.loader("retain", train=True).sampler.weights is not None
    ):
        yield f"a step must be one pass over the retain set in one process; set batch_size={len(data.split.retain)}"
    if data.is_augmented("retain"):
        yield "samples must be the same in every pass, held as tensors and not augmented"
    if trainer.gradient_clip_val or trainer.precision not in ("32-true", "64-true"):
        yield "gradients must be neither clipped nor rounded; remove gradient_clip_val and precision"
    if running_layers(model) or any(isinstance(part, AnyDropout) and part.p for part in model.modules()):
        yield "a sample's loss must depend on the sample alone, and the model has batch normalisation or dropout"
    states = checkpoint.get("optimizer_states", [])
    # a schedule that holds objects is not read, and is then missing
    if len(states) != 1 or checkpoint.get("lr_schedulers") != [] or _plain_rate(states[0]) != rate:
        yield (
            f"the checkpoint must say that it was trained in the same way at the same rate, lr={rate}, by "
            "torch.optim.SGD without a schedule; keep it with its optimizer (save_weights_only=False)"
        )
    if checkpoint.get("global_step") not in (checkpoint.get("epoch"), checkpoint.get("epoch", 0) + 1):
        yield "the checkpoint must be of a training with one step an epoch, which is one on the whole training set"


def _rate_of(trainer: L.Trainer) -> float | None:
    """Return the rate of a Trainer's plain gradient descent; ``None`` where it is anything else."""
    (optimizer, *others) = trainer.optimizers
    if others or type(optimizer) is not torch.optim.SGD or trainer.lr_scheduler_configs:
        return None
    return _plain_rate(optimizer.state_dict())


def _plain_rate(optimizer: Mapping[str, Any]) -> float | None:
    """Return the one rate that an optimizer's state shows, or ``None`` where it shows more than gradient descent.

    Args:
        optimizer: Its ``state_dict``. With momentum it keeps tensors, and under a schedule ``initial_lr``.
    """
    groups, kept = optimizer["param_groups"], optimizer.get("state", {}).values()
    plain = all(
        _OWN <= group.keys() <= _OWN | _LATER and not any(group.get(name) for name in _OFF)
        for group in groups
    )
    rates = {float(group["lr"]) for group in groups}
    if not plain or len(rates) != 1 or any(value is not None for state in kept for value in state.values()):
        return None
    return rates.pop()
