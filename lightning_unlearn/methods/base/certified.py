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

    def require(self, trainer: L.Trainer, model: nn.Module, data: UnlearningDataModule) -> None:
        """Refuse, before the first step, what no bound holds for.

        Raises:
            ValueError: If the training before or after the checkpoint is not as the bound has it.
        """
        content = read_checkpoint(self.checkpoint, objects=True)
        if (reason := next(_uncertifiable(trainer, model, data, content), None)) is not None:
            raise ValueError(f"Rewind(noise={self.noise}): {reason}")

    def require_gradient(self, model: nn.Module, step: int) -> None:
        """Refuse a gradient beyond what was vouched for; a mean is no longer than the longest that it is of.

        Raises:
            ValueError: If it is.
        """
        norm = float(
            torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        )
        if norm > self.gradient_bound:
            raise ValueError(
                f"gradient_bound={self.gradient_bound} does not hold: the gradient is {norm:.4g} long at step {step}"
            )

    def certify(self, trainer: L.Trainer, model: nn.Module, data: UnlearningDataModule) -> None:
        """Add the noise, print and log what it certifies."""
        generator = torch.Generator().manual_seed(
            secrets.randbits(63)
        )  # with a known seed it could be taken off
        with torch.no_grad():
            for parameter in trainable(model).values():
                drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(drawn.to(parameter.device), alpha=self.noise)
        split, lr = data.split, float(trainer.optimizers[0].param_groups[0]["lr"])
        before = int(read_checkpoint(self.checkpoint, objects=True)["global_step"])
        forgotten = len(split.forget) + len(split.previous)
        members = forgotten + len(split.retain)
        distance = rewind_sensitivity(
            smoothness=self.smoothness,
            gradient_bound=self.gradient_bound,
            lr=lr,
            forgotten=forgotten,
            members=members,
            before=before,
            after=trainer.global_step,
        )
        epsilon = gaussian_epsilon(distance / self.noise, self.delta)
        rank_zero_info(
            f"Rewind: ({epsilon:.4g}, {self.delta:g})-certified: noise of {self.noise:g} over a distance of at most "
            f"{distance:.4g} to a model retrained for {before} + {trainer.global_step} steps at lr={lr:g} on {members} "
            f"samples. Assumed is {ASSUMED.format(smoothness=self.smoothness, gradient_bound=self.gradient_bound)}"
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
    (group,) = trainer.optimizers[0].param_groups[:1]
    if (
        not _is_plain(group)
        or type(trainer.optimizers[0]) is not torch.optim.SGD
        or trainer.lr_scheduler_configs
    ):
        yield "the optimizer must be torch.optim.SGD without momentum, weight decay and schedule"
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
    groups = [group for state in checkpoint.get("optimizer_states", []) for group in state["param_groups"]]
    if len(groups) != 1 or not _is_plain(groups[0]) or groups[0]["lr"] != group["lr"]:
        yield (
            f"the checkpoint must say that it was trained in the same way at the same rate, lr={group['lr']}; keep it "
            "with its optimizer (save_weights_only=False)"
        )
    if checkpoint.get("global_step") not in (checkpoint.get("epoch"), checkpoint.get("epoch", 0) + 1):
        yield "the checkpoint must be of a training with one step an epoch, which is one on the whole training set"


def _is_plain(group: Mapping[str, Any]) -> bool:
    """Whether an optimizer's settings are those of gradient descent, and of no other method."""
    return "betas" not in group and not any(
        group.get(name) for name in ("momentum", "weight_decay", "maximize")
    )
