"""Shadow models: fresh models of an architecture, each trained on its own half of the shadow set; asks them nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.loading import TensorLoader
from lightning_unlearn.ensembles import (
    Member,
    Recipe,
    Runtime,
    isolated_rng,
    train_classifier,
    train_ensemble,
)
from lightning_unlearn.ensembles.cache import usable_cache
from lightning_unlearn.ensembles.chunk import state_of
from lightning_unlearn.methods.base.again import moved_as_served
from lightning_unlearn.models.fresh import fresh_copy
from lightning_unlearn.models.surgery import clone

__all__ = ["shadow_models"]


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

    def build() -> nn.Module:
        return fresh_copy(template)

    loader = data.loader("shadow", train=True)
    recipe = Recipe(build, epochs=epochs, batch_size=loader.batch_size, optimizer=optimizer, adapter=adapter)
    members = [
        Member(torch.from_numpy(data.split.shadow_in_out(k)[0]), derive_seed(seed, "shadow", k))
        for k in range(number)
    ]
    if not isinstance(loader, TensorLoader) or loader.sampler.weights is not None:
        return _read_one_by_one(recipe, members, data, runtime)
    plain = moved_as_served(data)
    return train_ensemble(
        recipe,
        loader.dataset,
        members,
        runtime=runtime,
        way="auto" if plain else "sequential",
        cache=usable_cache(cache, recipe, loader.dataset, members[0], runtime) if plain else None,
    ).models()


def _read_one_by_one(
    recipe: Recipe, members: Sequence[Member], data: UnlearningDataModule, runtime: Runtime
) -> Iterator[nn.Module]:
    """Train on batches that only their own loader can make; each rank trains its share of the models alone."""
    single = runtime.alone()
    made: dict[int, dict[str, Tensor]] = {}
    with runtime.all_or_none("train its shadow models"):
        for k in range(runtime.rank, len(members), runtime.world_size):
            member = members[k]
            with isolated_rng(derive_seed(member.seed, "weights")):
                shadow = single.place(recipe.build())
            positions, order = member.indices.numpy(), member.seed
            train_classifier(
                shadow,
                data.loader("shadow", train=True, positions=positions, seed=order, rank=0, world_size=1),
                epochs=recipe.epochs,
                optimizer=recipe.optimizer,
                runtime=single,
                adapter=recipe.adapter,
                seed=member.seed,
            )
            made[k] = state_of(shadow)
    states = {k: state for part in runtime.gather_objects(made) for k, state in part.items()}
    for k in range(len(members)):
        shadow = recipe.build()
        shadow.load_state_dict(states[k])
        yield shadow
