"""SISA: train anew, without the forget set, the networks of those shards of the data in which it is."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch.cli import OptimizerCallable
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.engine.train import Loss, default_optimizer
from lightning_unlearn.ensembles import Runtime, isolated_rng, train_classifier
from lightning_unlearn.methods.base import Declared, OneShotModule, Range, Source
from lightning_unlearn.models import fresh_copy
from lightning_unlearn.models.sharded import Sharded


class SISA(OneShotModule):
    """Trains anew, without the forget set, the networks of those shards in which it is; exact by construction.

    Source: Bourtoule et al., "Machine Unlearning", 2021 (sharded and isolated; the slices within a shard, which save a
    part of its training, are left out). The source holds a :class:`~lightning_unlearn.models.sharded.Sharded`, trained
    by :func:`train_shards` with the same ``epochs``, ``optimizer`` and ``order_seed``: then the exported model is, to
    the bit, what training without the forget set gives. A network whose shard has none of it stays as it is, its
    running statistics too. A source without shards is one shard, and all of it is trained anew, with a warning.

    Args:
        source: The source model.
        epochs: Passes over a shard, >= 1.
        optimizer: Makes each network's optimizer; ``None`` for Adam with learning rate 1e-3.
        fresh: Builds one untrained network; ``None`` for :func:`~lightning_unlearn.models.fresh_copy`.
        **one_shot: Arguments of :class:`~lightning_unlearn.methods.base.one_shot.OneShotModule`.

    Raises:
        ValueError: If ``epochs`` is below 1; in ``fit``, if the networks were not trained apart, the shards are of
            another training set, or one is left without a sample.

    Example:
        >>> SISA(nn.Linear(4, 2), epochs=0)
        Traceback (most recent call last):
        ValueError: epochs must be at least 1, got 0; that of the source's training
    """

    keeps_source_tensors = True
    keeps_apart = True
    declared: ClassVar[Declared] = {
        "epochs": Range("[1, inf)", "; that of the source's training", whole=True)
    }

    def __init__(
        self,
        source: Source,
        epochs: int = 20,
        *,
        optimizer: OptimizerCallable | None = None,
        fresh: Callable[[], nn.Module] | None = None,
        **one_shot: Any,
    ) -> None:
        super().__init__(source, **one_shot)
        self.epochs = epochs
        self._trainer_of_shards = optimizer
        self._fresh = fresh

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Train the networks of the touched shards on what is left of these."""
        if not any(isinstance(part, Sharded) for part in self.model.modules()):
            rank_zero_warn(
                f"SISA: {type(self.source).__name__} has no Sharded network, so that it is one shard and all of it is "
                "trained anew; Retrain does the same by the source's own recipe"
            )
        train_shards(
            self.model,
            data,
            without=data.split.forget,
            epochs=self.epochs,
            optimizer=self._trainer_of_shards,
            fresh=self._fresh,
            runtime=runtime,
            adapter=self.adapter,
            loss=self.loss,
        )

    def estimate(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Leave the running statistics: each network has those of its own training, which saw nobody forgotten."""


def train_shards(
    model: nn.Module,
    data: UnlearningDataModule,
    *,
    without: np.ndarray[Any, Any] | None = None,
    epochs: int = 20,
    optimizer: OptimizerCallable | None = None,
    fresh: Callable[[], nn.Module] | None = None,
    runtime: Runtime | None = None,
    adapter: Adapter | None = None,
    loss: Loss | None = None,
) -> None:
    """Train each network of the model's shards, in place, from fresh weights, on the members of its shard.

    Args:
        model: A model with a :class:`~lightning_unlearn.models.sharded.Sharded` in it; any other is one shard.
        data: The split data, set up.
        without: Positions to leave out; only networks of shards with one of them are trained. ``None`` trains all.
        epochs: Passes over a shard.
        optimizer: Makes each network's optimizer; ``None`` for Adam with learning rate 1e-3.
        fresh: Builds one untrained network; ``None`` for :func:`~lightning_unlearn.models.fresh_copy`.
        runtime: Device, precision and ranks; ``None`` for this process and where the model is.
        adapter: How batches and outputs are taken apart; ``None`` for the usual layouts.
        loss: Loss of logits and targets; ``None`` for the cross-entropy.

    Raises:
        ValueError: If the shards are of a training set of another size, some are to be trained of networks that were
            not trained apart, or a shard is left without a sample.
    """
    runtime = runtime or Runtime()
    whole = next((part for part in model.modules() if isinstance(part, Sharded)), None)
    networks = [model] if whole is None else list(whole.networks)
    size = data.split.train_size
    shard_of = np.zeros(size, dtype=int) if whole is None else whole.shard_of.cpu().numpy()
    if len(shard_of) != size:
        raise ValueError(
            f"the shards are of {len(shard_of)} samples, and {data.data_name} has {size} to train on"
        )
    if without is not None and whole is not None and not bool(whole.isolated):
        raise ValueError(
            f"the networks of {type(model).__name__} were not trained apart, or another method unlearned from them "
            "since, so that each may know all samples; train the source by "
            "lightning_unlearn.methods.sisa.train_shards, or take Retrain"
        )
    left = np.setdiff1d(data.split.members, [] if without is None else without)
    touched = range(len(networks)) if without is None else np.unique(shard_of[without]).tolist()
    for shard in touched:
        positions = left[shard_of[left] == shard]
        if not len(positions):
            raise ValueError(f"of shard {shard} nobody is left to train on; take fewer and larger shards")
        rank_zero_info(f"SISA: trains shard {shard} of {len(networks)} on {len(positions)} samples")
        seed = derive_seed(data.order_seed, "shard", shard)
        with isolated_rng(seed):
            network = runtime.place(fresh_copy(networks[shard], fresh))
        train_classifier(
            network,
            data.loader("train", train=True, positions=positions, seed=seed),
            epochs=epochs,
            optimizer=optimizer or default_optimizer,
            runtime=runtime,
            loss=loss,
            adapter=adapter,
            seed=seed,
        )
        networks[shard].load_state_dict(network.state_dict())
    if whole is not None:
        whole.isolated.fill_(True)
