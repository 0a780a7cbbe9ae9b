"""Train shadow models: fresh models of an architecture, each on its own half of the shadow set."""

from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.loading import BatchLoader, TensorLoader
from lightning_unlearn.ensembles import Member, Recipe, Runtime, train_ensemble
from lightning_unlearn.ensembles.cache import usable_cache
from lightning_unlearn.methods.base.again import moved_as_served
from lightning_unlearn.models.fresh import fresh_copy
from lightning_unlearn.models.surgery import clone


def shadow_models(
    architecture: nn.Module,
    data: UnlearningDataModule,
    number: int,
    *,
    epochs: int,
    optimizer: OptimizerCallable,
    seed: int,
    runtime: Runtime,
    adapter: Adapter,
    cache: Path | None = None,
) -> Iterator[nn.Module]:
    """Train shadow models, model k on the first half that ``Split.shadow_in_out(k)`` gives.

    Data held in memory is trained on as one computation, :func:`~lightning_unlearn.ensembles.train_ensemble`; where
    transfer hooks change its batches, one model after another. Any other data is read by its own loader, one model
    after another. The models are shared out over the ranks, and the same for any number of them.

    Args:
        architecture: Any model; only its architecture is used.
        data: The data, set up, with a shadow set.
        number: K, the number of models.
        epochs: Passes over a half.
        optimizer: Makes the optimizer.
        seed: Seed of everything random.
        runtime: Device, precision and ranks.
        adapter: How batches and outputs are taken apart.
        cache: Folder in which finished models are kept and looked for, as far as it can be told what determines
            them: where the data lies in memory and no transfer hook changes it. ``None`` keeps nothing.

    Returns:
        The models, one by one, on every rank all of them.
    """
    template = clone(architecture).cpu()  # which numbers are drawn for weights depends on the device
    loader = data.loader("shadow", train=True)
    recipe = Recipe(
        lambda: fresh_copy(template),
        epochs=epochs,
        batch_size=loader.batch_size,
        optimizer=optimizer,
        loss=adapter.kind.batch_loss,
        adapter=adapter,
    )
    members = [
        Member(torch.from_numpy(data.split.shadow_in_out(k)[0]), derive_seed(seed, "shadow", k))
        for k in range(number)
    ]
    if isinstance(loader, TensorLoader) and loader.sampler.weights is None:
        if moved_as_served(data):
            folder = usable_cache(cache, recipe, loader.dataset, members[0], runtime)
            return train_ensemble(recipe, loader.dataset, members, runtime=runtime, cache=folder).models()
        return train_ensemble(recipe, loader.dataset, members, runtime=runtime, way="sequential").models()

    def read(member: Member) -> BatchLoader:
        rows, order = member.indices.numpy(), member.seed
        return data.loader("shadow", train=True, positions=rows, seed=order, rank=0, world_size=1)

    return train_ensemble(recipe, read, members, runtime=runtime).models()
