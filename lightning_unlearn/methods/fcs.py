"""FCS: answer the forget set uniformly, then contrast it with the retain set and train on that, in turn."""

from typing import Any, ClassVar

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_unlearn.data import Phase
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import contrast_loss
from lightning_unlearn.methods.base import Declared, Range, Source, UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace

_LEAST_EPOCHS = 3


class FCS(UnlearningModule):
    r"""Answers the forget set uniformly, then contrasts it with the retain set and trains on that, in turn.

    .. math:: L_{forget} = KL(U \| P)(D_f), \quad L_{contrast} = -\frac{1}{|B_f| |B_r|} \sum_{f, r}
        \log \frac{e^{z_f z_r / T}}{\sum_{r'} e^{z_f z_{r'} / T}}, \quad L_{strengthen} = CE(D_r)

    Source: "forget, contrast, strengthen", the first of the NeurIPS 2023 unlearning competition, as described by Cadet
    et al., "Deep Unlearn", 2024. U is the uniform distribution, z are logits, those of the retain set without a
    gradient. The contrast is least where a forgotten sample's logits are as near to those of any retained sample.

    An epoch of the Trainer is one pass over one of the sets: the forget set to be forgotten, then, in turn, the forget
    set to be contrasted and the retain set, with which training ends. Public code has an optimizer for each loss, with
    momenta of its own; here is one, at the rate of the retain set times ``forget_rate`` or ``contrast_rate``, and no
    pass begins with the moments of the one before. The competition has eight rounds, which are 17 epochs, at a small
    rate; here two rounds at a larger one, warmed up and annealed, do.

    Args:
        source: The source model.
        forget_rate: Share of the learning rate in the first pass over the forget set, > 0.
        contrast_rate: Share of the learning rate in the contrasting passes, > 0.
        temperature: Temperature T of the contrast, > 0.
        optimizer: Makes the optimizer; ``None`` for SGD with learning rate 0.3 and no momentum. Adam's steps do not
            grow with the loss, and forget less in passes as short as those over D_f.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range; in ``fit``, if the Trainer has no ``max_epochs``.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> FCS(MLP(in_features=4, hidden=(3,), num_classes=2), temperature=0.0)
        Traceback (most recent call last):
        ValueError: temperature must be above 0, got 0.0; 1.15 is the competition's
    """

    epoch_stream = "retain"
    needs = ("loss", "distribution")
    default_optimizer = torch.optim.SGD
    default_lr = 0.3
    anneals = True
    may_collapse = True
    searched: ClassVar[SearchSpace] = {
        "lr": Search(0.03, 1.0, log=True),
        "max_epochs": (3, 5, 7, 9),
        "forget_rate": Search(0.1, 10.0, log=True),
        "contrast_rate": Search(0.01, 1.0, log=True),
    }
    declared: ClassVar[Declared] = {
        "forget_rate": Range("(0, inf)", "; 1.25 is the competition's"),
        "contrast_rate": Range("(0, inf)", "; 0.075 is the competition's"),
        "temperature": Range("(0, inf)", "; 1.15 is the competition's"),
    }

    def __init__(
        self,
        source: Source,
        *,
        forget_rate: float = 1.25,
        contrast_rate: float = 0.075,
        temperature: float = 1.15,
        **method: Any,
    ) -> None:
        super().__init__(source, **method)
        self.forget_rate = forget_rate
        self.contrast_rate = contrast_rate
        self.temperature = temperature

    def phase(self, epoch: int) -> Phase:
        """Return which set an epoch passes over, and at which share of the rate."""
        if epoch == self.known_epochs - 1 or (epoch and epoch % 2 == 0):
            return Phase(("retain",), "retain")
        if epoch:
            return Phase(("forget", "retain"), "forget", rate=self.contrast_rate)
        return Phase(self.forget_alone, "forget", rate=self.forget_rate)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Forget, contrast or strengthen, as the epoch is."""
        (logits, targets), *others = self.stream_logits(*batch.values())
        if "forget" not in batch:
            loss = self.retain_loss(batch["retain"], batch_idx, (logits, targets))
            self.log_terms(loss=loss, ce=loss)
        elif self.current_epoch:
            # what a process repeats because it has no sample of its own is no neighbour
            retained = others[0][0].detach()[: self.own_samples("retain")]
            loss = contrast_loss(logits, Runtime(self.trainer).gather(retained), self.temperature)
            self.log_terms(loss=loss, contrast=loss)
        else:
            loss = self.task.kl(torch.zeros_like(logits), logits, targets).mean()
            self.log_terms(loss=loss, uniform_kl=loss)
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Begin a pass without the moments of the last one, which were another loss's, at another rate."""
        super().on_train_batch_start(batch, batch_idx)
        if batch_idx == 0:
            self.trainer.optimizers[0].state.clear()

    def on_fit_start(self) -> None:
        """Say if not all three losses are minimised."""
        super().on_fit_start()
        epochs = self.known_epochs
        if epochs < _LEAST_EPOCHS and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_warn(
                f"FCS forgets, contrasts and strengthens, an epoch each, and max_epochs={epochs} is too few; give 3, "
                "and 2 more for each further round"
            )
