"""UNSIR: impair by noise that maximises the loss of a forgotten class, then repair on the retain set."""

from typing import Any, ClassVar

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base import Declared, Range, Source, UnlearningModule
from lightning_unlearn.methods.base.limits import warn_without_a_class
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import frozen


class UNSIR(UnlearningModule):
    r"""Trains on error-maximising noise labelled with a forgotten class beside the retain set, then on that alone.

    .. math:: N = \arg\min_N -CE(P_{source}(N), c) + 0.1 \, \|N\|^2, \quad
        L_{impair} = CE(D_r) + CE(N, c), \quad L_{repair} = CE(D_r)

    Source: Tarun, Chundawat, Mandal & Kankanhalli, "Fast Yet Effective Machine Unlearning", 2021. The first half of the
    epochs impairs, the rest repairs; of the forget set only the classes are read. Each pass is over all
    of the retain set, where the paper has a part, and the noise is normalised with the retain batch. Made for whole
    classes: of other samples it forgets nothing, with a warning.

    Args:
        source: The source model.
        noise: Samples of noise for each class that is forgotten.
        noise_steps: Steps of Adam, at rate 0.1, for which the noise is learned.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 5e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range.
        TypeError: In ``fit``, if the inputs are no tensor of floats.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> UNSIR(MLP(in_features=4, hidden=(3,), num_classes=2), noise=0)
        Traceback (most recent call last):
        ValueError: noise must be at least 1, got 0; 16 is usual
    """

    streams = ("retain",)
    epoch_stream = "retain"
    needs = ("loss", "classes")
    default_lr = 5e-3
    anneals = True
    may_collapse = True
    saved = ("_noise",)
    searched: ClassVar[SearchSpace] = {
        "max_epochs": Search(2, 8, whole=True),
        "noise": Search(4, 64, log=True, whole=True),
        "noise_steps": Search(20, 200, log=True, whole=True),
    }
    declared: ClassVar[Declared] = {
        "noise": Range("[1, inf)", "; 16 is usual", whole=True),
        "noise_steps": Range("[1, inf)", "; 100 is usual", whole=True),
    }

    def __init__(self, source: Source, noise: int = 16, *, noise_steps: int = 100, **method: Any) -> None:
        super().__init__(source, **method)
        self.noise = noise
        self.noise_steps = noise_steps
        self._noise: tuple[Tensor, Tensor] | None = None

    def _impairs(self, epoch: int) -> bool:
        return 2 * epoch < self.known_epochs

    def on_fit_start(self) -> None:
        """Say if nothing is repaired."""
        super().on_fit_start()
        if self.known_epochs < 2 and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_warn(
                "UNSIR impairs and repairs, an epoch each or more, and max_epochs=1 repairs nothing; give 2"
            )

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Learn the noise against the frozen source."""
        does = "learns noise for the classes of the forget set, which the retain set has as well, and forgets nothing"
        warn_without_a_class(self, forgets_a_class=data.forgets_a_class, does=does)
        loader = data.loader("forget", rank=0, world_size=1)
        with runtime.not_training():  # as the network sees them
            batches = (self.adapter.split(runtime.to_device(batch)) for batch in loader)
            inputs, first = next(batches)
            forgotten = torch.cat([first.cpu(), *(targets.cpu() for _, targets in batches)])
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            found = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(
                f"UNSIR learns noise as inputs, which must be a tensor of floats, got {found}; take DELETE"
            )
        model = runtime.place(frozen(self.source)).float()
        # of a class that stays, the noise would impair the retained samples
        impaired = data.forgotten_classes or np.unique(forgotten).tolist()
        labels = torch.tensor(impaired).repeat_interleave(self.noise).to(runtime.device)
        generator = torch.Generator().manual_seed(derive_seed(data.order_seed, "noise"))
        drawn = torch.randn(len(labels), *inputs.shape[1:], generator=generator)
        noise = drawn.to(runtime.device).requires_grad_()
        optimizer = torch.optim.Adam([noise], lr=0.1)
        with torch.enable_grad():
            for _ in range(self.noise_steps):
                ce = self.task.batch_loss(self.adapter.call(model, noise), labels)
                loss = 0.1 * noise.square().flatten(1).sum(1).mean() - ce
                (noise.grad,) = torch.autograd.grad(loss, noise)
                optimizer.step()
        self._noise = noise.detach(), labels

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Impair in the first half of the epochs, repair in the rest."""
        assert self._noise is not None  # prepare() learned it
        if not self._impairs(self.current_epoch):
            (answered,) = self.stream_logits(batch["retain"])
            loss = self.retain_loss(batch["retain"], batch_idx, answered)
            self.log_terms(loss=loss, ce=loss)
            return loss
        retain = self.adapter.split(batch["retain"])
        noise = self._noise[0].to(retain[0]), self._noise[1].to(retain[0].device)
        (logits, labels), answered = self.logits_of(noise, retain)
        ce = self.retain_loss(batch["retain"], batch_idx, answered)
        push = self.task.batch_loss(logits, labels)
        self.log_terms(loss=push + ce, push=push, ce=ce)
        return push + ce
