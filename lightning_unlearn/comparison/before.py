"""The comparison of the request before, from whose models and splits this one goes on."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_unlearn.comparison.folder import RunFolder, noted
from lightning_unlearn.comparison.runs import SOURCE
from lightning_unlearn.data import Split
from lightning_unlearn.ensembles.identity import canonical
from lightning_unlearn.methods.base.again import DECIDING
from lightning_unlearn.methods.base.source import read_checkpoint
from lightning_unlearn.models.hparams import plain_values

_DECIDING = ("max_time", *DECIDING)


@dataclass(frozen=True)
class Before:
    """The folder of a comparison whose request came before.

    Args:
        folder: Its output folder.
    """

    folder: Path

    def run(self, name: str, seed: int) -> RunFolder:
        """Return the folder of a model; of the source it is the one that no request has touched."""
        return RunFolder(self.folder / name / f"seed_{seed}")

    @property
    def one_split(self) -> Path | None:
        """The split that all of its seeds share; ``None`` where each drew its own."""
        file = self.folder / "split.npz"
        return file if file.is_file() else None

    def split(self, seed: int) -> Path:
        """Return the split of a seed, which holds what still earlier requests forgot too."""
        return self.one_split or self.run(SOURCE, seed).split

    def require(self, seeds: Sequence[int], folder: Path, checkpoint: str | None, methods: list[str]) -> None:
        """Refuse a folder that lacks what a seed goes on from, and name the methods that lack their model.

        Args:
            seeds: The seeds.
            folder: Where the comparison that goes on writes to.
            checkpoint: Of the source, which must not be given.
            methods: Names of the methods.

        Raises:
            FileNotFoundError: Naming the file that is missing.
            ValueError: If it is the folder that is written to, a backdoor was to be forgotten in it, or only some
                of its seeds come after an earlier request.
        """
        if checkpoint is not None:
            raise ValueError(
                f"after: the source is the one of {self.folder}; leave the source's checkpoint={checkpoint} out"
            )
        if self.folder.resolve() == folder.resolve():
            raise ValueError(
                f"after: {self.folder} is output_dir itself; write this request to another folder"
            )
        for seed in seeds:
            for file in (self.run(SOURCE, seed).checkpoint, self.split(seed)):
                if not file.is_file():
                    raise FileNotFoundError(
                        f"after: there is no {file}; give the output_dir of a comparison of the request before, a "
                        f"folder of this machine with seed {seed}, whose files were not cleaned away"
                    )
        if noted(self.folder, "backdoor"):
            raise ValueError(
                f"after: {self.folder} forgot a backdoor, which is planted in one forget set before the source is "
                "trained; a later request has none to forget, and what it would measure of the earlier one is not it"
            )
        first = [seed for seed in seeds if not len(Split.load(self.split(seed)).previous)]
        if 0 < len(first) < len(seeds):
            raise ValueError(
                f"after: in {self.folder} seeds {first} know of no earlier request and the others do, so that they are "
                "of two comparisons; run it again with its own after and overwrite, or leave these seeds out"
            )
        runs = [self.run(method, seed) for method in methods for seed in seeds]
        if lacking := [str(run.checkpoint) for run in runs if not run.checkpoint.is_file()]:
            rank_zero_warn(
                f"after: there is no {', '.join(lacking)}, so that the runs that go on from it fail"
            )

    def require_as_trained(self, trained: Mapping[str, Any]) -> None:
        """Refuse to retrain otherwise than the source was trained.

        Args:
            trained: What :func:`trained_with` says of this comparison's source, which the retraining follows.

        Raises:
            ValueError: If that comparison noted something else.
        """
        before = noted(self.folder, "trained_with")
        if before is None:
            return
        before.setdefault("data.batch_size", trained["data.batch_size"])  # not noted at first
        if found := _differing(before, trained, {**before, **trained}):
            raise ValueError(
                f"after: in {self.folder} the source was trained with {found[0]}, and here the retraining would follow "
                f"{found[1]}; describe the source as there, or give a retrain of your own"
            )

    def require_as_built(self, seed: int, model: L.LightningModule) -> None:
        """Refuse a source that is built with other arguments than its checkpoint records, as far as both are known.

        Raises:
            ValueError: If one differs.
        """
        content = read_checkpoint(self.run(SOURCE, seed).checkpoint, mapped=True, objects=True)
        before = canonical(content.get(model.CHECKPOINT_HYPER_PARAMS_KEY) or {})
        now = canonical(plain_values(model.hparams))
        if found := _differing(before, now, before.keys() & now.keys()):
            raise ValueError(
                f"after: the source of {self.folder} was built with {found[0]}, and source.model builds one with "
                f"{found[1]}; build it as there"
            )

    def require_followed(self, seed: int, split: Split) -> None:
        """Refuse a split that puts back what was forgotten, or holds out what the source was trained on.

        Raises:
            ValueError: If it does.
        """
        before = Split.load(self.split(seed))
        if not np.isin(np.union1d(before.previous, before.forget), split.previous).all():
            raise ValueError(
                "after: the data was split already, with what the earlier request forgot among the others; build a new "
                "UnlearningDataModule each time, and set none up"
            )
        parts = ((split.nonmember, split.nonmember_from), (split.shadow, split.shadow_from))
        held = np.concatenate(
            [positions for positions, origin in parts if origin == "train"] or [split.forget[:0]]
        )
        if np.isin(held, np.concatenate([before.members, before.previous])).any():
            raise ValueError(
                f"after: nonmember or shadow of 'train' would hold out samples that the source of {self.folder} was "
                "trained on; hold out what that comparison did, or take them from 'test'"
            )

    def take_earlier(self, seed: int, into: Path) -> None:
        """Put the weights that the source had earlier in its training into a folder, by links where that can be."""
        earlier = self.run(SOURCE, seed).earlier
        if earlier.is_dir():
            shutil.copytree(earlier, into, copy_function=_linked)


def trained_with(
    trainer: Mapping[str, Any], config: Mapping[str, Any] | None, batch_size: int | None
) -> dict[str, Any]:
    """Return what decides how a source is trained, by dotted names.

    Args:
        trainer: Arguments of its Trainer.
        config: Of the comparison; only a file's says what the model is.
        batch_size: That of the data.

    Example:
        >>> trained_with({"max_epochs": 3, "accelerator": "cpu"}, {"source": {"model": {"init_args": {"lr": 0.1}}}}, 8)
        {'data.batch_size': 8, 'model.init_args.lr': 0.1, 'trainer.max_epochs': 3}
    """
    found: dict[str, Any] = {"data.batch_size": batch_size}
    found |= {f"trainer.{name}": trainer[name] for name in _DECIDING if trainer.get(name) is not None}
    model = ((config or {}).get("source") or {}).get("model")
    return canonical(found | _flat("model", model))  # type: ignore[no-any-return]


def _differing(
    before: Mapping[str, Any], now: Mapping[str, Any], among: Iterable[str]
) -> tuple[str, str] | None:
    """Return what differs as it was and as it is, in words; ``None`` where nothing does."""
    names = sorted(name for name in among if before.get(name) != now.get(name))
    there, here = (", ".join(f"{name}={each.get(name)}" for name in names) for each in (before, now))
    return (there, here) if names else None


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {} if value is None else {name: value}
    return {key: each for inner in value for key, each in _flat(f"{name}.{inner}", value[inner]).items()}


def _linked(file: str, into: str) -> None:
    try:
        os.link(file, into)
    except OSError:  # on another disk
        shutil.copy2(file, into)
