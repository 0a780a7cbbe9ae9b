"""Keep finished models on disk, and find them again by what determines them."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_unlearn.__about__ import __version__
from lightning_unlearn.core.files import atomic_path
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.ensembles.chunk import Chunk
from lightning_unlearn.ensembles.fingerprint import fingerprint
from lightning_unlearn.ensembles.recipe import Member, Recipe, first_module


def keys_of(recipe: Recipe, data: TensorData, members: Sequence[Member], runtime: Runtime) -> list[str]:
    """Return a key for each member: a hash of everything that determines its weights but for rounding.

    That is: the network's code, settings and initial weights; the data's content, transform and augmentation;
    the member's rows and seed; epochs, batch size, the optimizer and its settings in every epoch, the loss; the
    precision; and the versions of PyTorch and of this package. Not the device, the number of ranks or the way
    of training: those change the order of sums alone, so a model trained in one way is used for another.

    Args:
        recipe: What all share.
        data: The samples.
        members: The members.
        runtime: Device and precision.

    Raises:
        TypeError: If something in them cannot be hashed; see :func:`fingerprint`.
    """
    shared = fingerprint(
        [data.inputs, data.targets, data.transform, data.augment],
        [recipe.epochs, recipe.batch_size, recipe.loss, recipe.adapter],
        [type(runtime.precision), runtime.precision.precision],
        [torch.__version__, __version__],
    )
    keys = []
    for number, member in enumerate(members):
        network = first_module(recipe, member)
        if number == 0:
            shared = fingerprint(shared, _optimization(recipe, network))
        keys.append(fingerprint(shared, network, member.indices, member.seed))
    return keys


def usable_cache(
    cache: Path | None, recipe: Recipe, data: TensorData, member: Member, runtime: Runtime
) -> Path | None:
    """Return the folder if it can be told what determines a model, and else warn: no audit is lost over a cache.

    Args:
        cache: The folder, or ``None``.
        recipe: What all members share.
        data: The samples.
        member: Any of the members.
        runtime: Device and precision.
    """
    if cache is None:
        return None
    try:  # one sample stands for all: tensors can always be hashed
        one = Member(torch.zeros(1, dtype=torch.int64), member.seed)
        keys_of(recipe, data.subset(member.indices[:1]), [one], runtime)
    except TypeError as error:
        rank_zero_warn(
            f"models are not kept in {cache}: {error}; keep it out of the recipe, the data and the network"
        )
        return None
    return cache


def read_model(folder: Path, key: str) -> Chunk | None:
    """Return the model of a key as a chunk of one, or ``None`` if there is none that can be read."""
    path = folder / f"{key}.pt"
    if not path.is_file():
        return None
    with suppress(Exception):  # a damaged file is as good as none, and is replaced
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Chunk({name: value[None] for name, value in content["state"].items()}, content["losses"][None])
    return None


def write_model(folder: Path, key: str, model: Chunk) -> None:
    """Write a chunk of one model, whole or not at all."""
    # A view would be saved with the whole stack it looks into.
    state = {name: value[0].clone() for name, value in model.states.items()}
    with atomic_path(folder / f"{key}.pt") as path:
        torch.save({"state": state, "losses": model.losses[0].clone()}, path)


def _optimization(recipe: Recipe, network: torch.nn.Module) -> list[Any]:
    """Describe the optimizer by what it is and by its settings in every epoch, whoever made it."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimizer = recipe.optimizer(trainable)
    places = {id(parameter): place for place, parameter in enumerate(trainable)}
    groups = [[places[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    # settings outside the groups, as wrappers have them; taken before a schedule leaves its own here
    own = {
        name: value
        for name, value in vars(optimizer).items()
        if not name.startswith("_") and name not in ("param_groups", "state", "defaults")
    }
    schedule: Any = None if recipe.lr_scheduler is None else recipe.lr_scheduler(optimizer)
    settings = []
    for _ in range(recipe.epochs):
        # how a step is computed does not belong to what is computed
        settings.append(
            [
                {name: value for name, value in group.items() if name not in ("params", "fused", "foreach")}
                for group in optimizer.param_groups
            ]
        )
        if schedule is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # no step of the optimizer came before
                schedule.step()
    return [type(optimizer), groups, fingerprint(own), fingerprint(settings)]
