"""Rewind: go back to an earlier checkpoint of the source's own training, and train on from there on the retain set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from lightning_unlearn.data import Split, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base import AscendingModule, Declared, Range, Source
from lightning_unlearn.methods.base.ascent import ASCENT_SEARCH
from lightning_unlearn.methods.base.certified import ASSUMED, CERTIFIED, NoisyBound
from lightning_unlearn.methods.base.checkpoints import (
    checkpoints_in,
    content_of,
    kept_of,
    state_gone_back_to,
    steps_of,
)
from lightning_unlearn.methods.base.searched import SearchSpace
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models.surgery import load_state


class Rewind(AscendingModule):
    r"""Goes back to an earlier checkpoint of the source's own training, then trains on the retain set from there.

    What a network knows of single samples it learns late, while the learning rate falls. So a checkpoint from
    before, trained on the retain set for a few passes, comes nearer to a retrained model than anything that starts
    from the source. Source: Mu & Klabjan, "Rewind-to-Delete: Certified Machine Unlearning for Nonconvex Functions",
    NeurIPS 2025, arXiv 2409.09778, algorithm 1: gradient descent on D_r from an earlier checkpoint. Ours are the
    annealed rate, the bounded ascent beside the first part of the steps, and the choice of the checkpoint. The
    checkpoint saw the forget set, so this is approximate; one from before D_f was first seen makes it exact.

    After an earlier request (the data's ``previous``) the checkpoint has seen both: both are ascended on, and neither
    is trained on. What is frozen in the source stays. Running statistics come with the checkpoint, follow the retain
    set, and are estimated anew on it at the end.

    Args:
        source: The source model.
        checkpoint: A checkpoint file; a folder of them, as ``ModelCheckpoint(save_top_k=-1)`` leaves it; ``"auto"``,
            the folder of the source's own checkpoint (in a comparison, what the source's ``keep_every`` kept); or the
            name of a file in that one, such as ``epoch=2.ckpt``. Of a folder the latest is taken whose gap on D_f
            (between its accuracy there and on non-members) is at most half the source's, found by halving, since the
            gap grows with training. For a class or a backdoor, and where D_f is answered far worse than non-members
            (wrong labels), its accuracy on D_f is at most half the source's. Where none is, a warning says so and the
            earliest is taken. Another training's files are passed over, where weights or constructor arguments tell.
        ascent: Weight of a bounded ascent on the forget set beside the training, >= 0. From the checkpoint of a folder
            more than a little goes too far: the model is then worse on D_f than one that never saw it.
        noise: Standard deviation of Gaussian noise that is added to the trained weights at the end; above 0 the
            certified form. Then (ε, δ) is printed and logged as ``certified/epsilon`` and ``certified/delta``: nobody
            who sees the weights can tell them from retrained ones with the same noise any better. It holds for plain
            full-batch gradient descent at one rate in both trainings (refused otherwise, where that can be known),
            without ascent and from one named checkpoint. The noise is of the operating system's randomness, so no seed
            repeats it. For networks ε is beyond use; it grows with the exponential of rate, smoothness and steps.
        delta: δ of the certificate, in (0, 1).
        smoothness: A Lipschitz constant of the gradient of the mean loss on D_r, which you vouch for.
        gradient_bound: At least the norm of the gradient of any sample's loss, which you vouch for.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **ascending: Arguments of :class:`~lightning_unlearn.methods.base.ascent.AscendingModule`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If an argument is outside its range or no folder is known. When preparing, if a checkpoint is of
            another architecture, training set or training, is later than the source, or cannot be read without
            executing something. If a folder has several of one step, and nothing tells which is the source's.
    """

    side_by_side = True
    streams = ("forget", "retain")
    searched: ClassVar[SearchSpace] = ASCENT_SEARCH
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = CERTIFIED  # with noise
    assumed: ClassVar[str] = ASSUMED
    declared: ClassVar[Declared] = {
        "noise": Range("[0, inf)", "; 0 adds none and certifies nothing"),
        "delta": Range("(0, 1)", "; 1e-5 is usual"),
        "smoothness": Range("(0, inf)", "; None without noise", none=True),
        "gradient_bound": Range("(0, inf)", "; None without noise", none=True),
    }

    def __init__(
        self,
        source: Source,
        checkpoint: str | Path = "auto",
        *,
        ascent: float = 0.05,
        noise: float = 0.0,
        delta: float = 1e-5,
        smoothness: float | None = None,
        gradient_bound: float | None = None,
        **ascending: Any,
    ) -> None:
        super().__init__(source, ascent=ascent, **ascending)
        self.checkpoint = kept_of(source, checkpoint)
        self._files = checkpoints_in(self.checkpoint, steps_of(source), self.source)
        self._contents = list(map(content_of, self._files))  # by which a comparison tells other files
        self._bound: NoisyBound | None = None
        self._rate = 0.0  # of the running fit, with noise
        if noise:
            if ascent or self.step != "loss" or not Path(self.checkpoint).is_file():
                raise ValueError(
                    f"noise={noise} certifies plain training from a named checkpoint; set ascent=0 and step='loss', "
                    "and name a file (what the forget set chooses tells of it)"
                )
            if smoothness is None or gradient_bound is None:
                raise ValueError(
                    f"noise={noise} asks for smoothness=... and gradient_bound=..., to bound with"
                )
            self._bound = NoisyBound(self._files[0], noise, delta, smoothness, gradient_bound)
            self.anneals = self.side_by_side = False  # the bound is of one rate, and asks each step

    def stream_positions(self, stream: str, split: Split) -> np.ndarray[Any, Any] | None:
        """Ascend on earlier requests too: the checkpoint saw them."""
        return np.union1d(split.forget, split.previous) if stream == "forget" else None

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Choose the checkpoint, and go on from its weights."""
        state = state_gone_back_to(self.checkpoint, self._files, self.source, data, runtime, self.adapter)
        load_state(self.model, state)  # last: a run that is stopped before has not gone back

    def on_train_start(self) -> None:
        """Refuse, before the first step, what no bound holds for."""
        super().on_train_start()
        if self._bound is not None:
            self._rate = self._bound.require(self.trainer, self.model, self.data)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse another rate than at first, and a gradient beyond the bound that was vouched for."""
        super().on_before_optimizer_step(optimizer)
        if self._bound is not None:
            self._bound.require_step(self.trainer, self.model, self._rate)

    def on_train_end(self) -> None:
        """Add the noise and say what it certifies."""
        if self._bound is not None:
            self._bound.certify(self.trainer, self.model, self.data, self._rate)
        super().on_train_end()
