"""The datamodule that splits any project's data for unlearning and serves it as streams."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.utils.data import Dataset, Subset

from lightning_unlearn.core.checks import in_range, one_of
from lightning_unlearn.core.ledger import Ledger, as_ledger
from lightning_unlearn.core.seeds import default_seed, derive_seed
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.columns import attribute_names, attribute_of, origin_of
from lightning_unlearn.data.fingerprint import require_same, training_fingerprint, varies
from lightning_unlearn.data.groups import group_column, share_known
from lightning_unlearn.data.hooks import adopt_transfer_hooks, of_each_stream, transfer_hooks
from lightning_unlearn.data.loading import BatchLoader, DatasetLoader, TensorLoader
from lightning_unlearn.data.poisoning import Poison, poison, triggered_loader
from lightning_unlearn.data.project import Project
from lightning_unlearn.data.project_loaders import (
    Part,
    known_labels,
    mixes_samples,
    part_of_dataset,
    require_apart,
    require_no_copies,
    served_labels,
)
from lightning_unlearn.data.recorded import require_same_arguments
from lightning_unlearn.data.selection import Classes, ForgetRule, as_rule
from lightning_unlearn.data.selection_data import INNERMOST, SelectionData
from lightning_unlearn.data.splits import Split, make_split, some_of
from lightning_unlearn.data.streaming import Stream, StreamLoader, counted
from lightning_unlearn.data.tensors import TensorData, column_of

Forget = float | str | Path | Sequence[int] | np.ndarray[Any, Any] | ForgetRule | Callable[..., Any]

_FEW = 0.1  # share of the forget set up to which it may hold samples beside whole classes, or the reverse
_KNOWN = 0.1  # share of non-members of groups that stay in training, beyond which they tell nothing of others
_STREAMS = ("forget", "retain", "train", "nonmember", "shadow", "test", "previous")
ONE_REQUEST = (
    "{}, a stream, takes one request, since its samples cannot be named by position; start from the source that no "
    "request has touched, with a rule that names all that is to be forgotten, and another ledger"
)
"""Why a stream is refused a further request, and what to do; takes the name of the data."""

_WEIGHTED = ("train", "retain", "shadow")  # of what is forgotten every sample must be seen


@runtime_checkable
class StreamConsumer(Protocol):
    """What a module says to be served several streams a step instead of plain training batches.

    One whose epochs differ has a method ``phase(epoch)`` that returns a :class:`Phase`, and reloads its loaders.

    Attributes:
        streams: Names of the streams; every training batch is a dict with these keys.
        epoch_stream: The stream whose length is the epoch's.
        indexed_streams: Streams whose batches come as :class:`~lightning_unlearn.data.loading.Indexed`.
    """

    streams: tuple[str, ...]
    epoch_stream: str
    indexed_streams: tuple[str, ...]

    def stream_positions(self, stream: str, split: Split) -> np.ndarray[Any, Any] | None:
        """Return which training positions to take for a stream, or None for all of it."""


class Phase(NamedTuple):
    """What the steps of an epoch are served.

    Attributes:
        streams: Names of the streams; every training batch is a dict with these keys.
        epoch_stream: The one whose length is the epoch's.
        once: Those that the epoch passes over once, spread evenly over its steps; of any other a step has as many
            samples as of ``epoch_stream``.
        rate: By what the learning rate of the schedule is multiplied in the epoch's steps.
    """

    streams: tuple[str, ...]
    epoch_stream: str
    once: tuple[str, ...] = ()
    rate: float = 1.0


class UnlearningDataModule(L.LightningDataModule):
    """Wraps a project's data, draws the forget set, and serves the streams that an unlearning method asks for.

    A module that names its streams (every method of this package) gets one dict batch a step; any other
    LightningModule gets the members (forget and retain set together) as its own batches, so the source model
    is trained through the same object. Validation and test loaders follow the same split.

    Args:
        datamodule: The project's own LightningDataModule, whose loaders give the datasets, batch size,
            collate function and workers; or a map-style training dataset. A ``WeightedRandomSampler`` is kept
            wherever members or retained samples are trained on, with their own weights; what is forgotten is served
            whole, each sample once a pass.
        forget: What to forget: a fraction in (0, 1), a list of positions in the training set, the path of a
            .csv, .json or .txt file with them, a rule of :mod:`lightning_unlearn.data.selection`, or a
            function of :class:`~lightning_unlearn.data.selection.SelectionData`; of a stream (an ``IterableDataset``) a
            :class:`~lightning_unlearn.data.streaming.StreamRule`. Positions count in the training loader's dataset,
            here and in the split; samples that the loader's sampler never draws are in no stream.
        test_dataset: The test set; ``None`` takes that of the project's datamodule (its validation set, if it has
            no test loader).
        evaluation_dataset: The training set without random augmentation, used wherever nothing is trained;
            ``None`` when the training set has none.
        nonmember: Size of the non-member set, as a number or a fraction of where it comes from; ``None`` takes
            as many as there are forgotten, from the test set at least 100 and at most half of it.
        nonmember_from: ``"test"`` takes them out of the test set, ``"train"`` holds them out of training (the
            source must then have been trained without them).
        shadow: Size of the set held out for shadow models, as a number or a fraction; 0 for none.
        shadow_from: Where the shadow set comes from.
        attributes: Per-sample columns of the training set (identity, age, customer id, ...) for rules by group
            or id; ``None`` uses the dataset's own ``attributes``, its fields, or the keys of its samples, of that name.
        previous: Split files of earlier deletion requests; what they forgot is in no stream.
        split_path: Where the split is kept: read if the file exists, written otherwise. Beside that, each run
            with a logger that has a folder of its own keeps its split there as ``split.npz``.
        batch_size: Samples a process takes each step; ``None`` for the project's own.
        seed: Seed of the split. It is not the run's, so that a run with another seed forgets the same samples.
        order_seed: Seed of order and augmentation; ``None`` for the one of ``seed_everything``, or 0.
        adapter: Where a batch keeps its targets, needed only for rules by class on datasets with no targets and
            for a backdoor.
        backdoor: Trigger and label to poison the forget set with, wherever it is served: the source is then to be
            trained through this object. Evaluators are served the non-members with both as well. ``None`` leaves all
            clean.
        wrong_labels: Whether the labels of the forget set are wrong or poisoned: a model that forgot them gives others.
        ledger: Deletion ledger, a path or a :class:`~lightning_unlearn.core.ledger.Ledger`: every unlearning method
            that is fitted with this data appends a line when it is done, and refuses a source that the ledger
            knows to have forgotten samples which ``previous`` would put back. ``None`` keeps no record.

    Raises:
        TypeError: If the data cannot be indexed by position, and ``forget`` is no StreamRule.
        ValueError: If an argument does not fit the data; the message names it. On setup also if the training set is
            dealt anew in every run, as by ``random_split`` without a generator, or is known to differ between
            processes, from ``previous`` splits, or from what the source's checkpoint was trained on.

    Example:
        >>> from lightning_unlearn.data import Digits
        >>> data = UnlearningDataModule(Digits(), forget=0.1)
        >>> data.setup("fit")
        >>> len(data.split.forget), len(data.split.retain)
        (144, 1294)
    """

    def __init__(
        self,
        datamodule: L.LightningDataModule | Dataset[Any],
        forget: Forget,
        *,
        test_dataset: Dataset[Any] | None = None,
        evaluation_dataset: Dataset[Any] | None = None,
        nonmember: int | float | None = None,
        nonmember_from: Literal["train", "test"] = "test",
        shadow: int | float = 0,
        shadow_from: Literal["train", "test"] = "train",
        attributes: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]] | None = None,
        previous: str | Path | Sequence[str | Path] = (),
        split_path: str | Path | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        order_seed: int | None = None,
        adapter: Adapter | None = None,
        backdoor: Poison | None = None,
        wrong_labels: bool = False,
        ledger: str | Path | Ledger | None = None,
    ) -> None:
        super().__init__()
        self.project = Project(datamodule)
        in_range("batch_size", batch_size, "[1, inf)", whole=True, none=True)
        self.rule = as_rule(forget)
        self.test_dataset = test_dataset
        self.evaluation_dataset = evaluation_dataset
        self.held_out: dict[str, Any] = {
            "nonmember": nonmember,
            "nonmember_from": nonmember_from,
            "shadow": shadow,
            "shadow_from": shadow_from,
        }
        self.attributes = attributes
        self.previous = _split_files(previous)
        self.split_path = split_path
        self.batch_size = batch_size
        self.seed = seed
        self._order_seed = order_seed
        self.adapter = adapter or Adapter()
        self.backdoor = backdoor
        self.wrong_labels = wrong_labels
        self.ledger = as_ledger(ledger)
        self._split: Split | None = None
        self._train: Part | None = None
        self._test: Part | None = None
        self._evaluation: Dataset[Any] | None = evaluation_dataset
        self._labels: np.ndarray[Any, Any] | None = None
        self._known_groups = ""
        self.mixes = False  # whether its own collate function mixes samples, which is for training alone
        self._alone = False
        adopt_transfer_hooks(self, datamodule, self._transfer)

    # ------------------------------------------------------------------ what there is

    @property
    def split(self) -> Split:
        """Who is forgotten, retained and held out; available after :meth:`setup`."""
        if self._split is None:
            raise RuntimeError("the data is not split yet: call setup() first, or ask inside Trainer.fit")
        return self._split

    @property
    def order_seed(self) -> int:
        """Seed of order, augmentation and whatever a method or evaluator draws."""
        return default_seed() if self._order_seed is None else self._order_seed

    @order_seed.setter
    def order_seed(self, seed: int | None) -> None:
        self._order_seed = seed

    @property
    def inner(self) -> L.LightningDataModule | Dataset[Any]:
        """The project's datamodule or training dataset."""
        return self.project.inner

    @property
    def data_name(self) -> str:
        """Name of the wrapped data, for reports."""
        return self.project.name

    @property
    def is_stream(self) -> bool:
        """Whether the training set is a stream, whose samples have no positions."""
        return self._train is not None and isinstance(self._train.dataset, Stream)

    @property
    def earlier(self) -> list[np.ndarray[Any, Any]]:
        """Training positions that earlier requests forgot: all together, and all until each split of ``previous``."""
        splits = [Split.load(file) for file in self.previous]
        return [self.split.previous, *(np.union1d(each.forget, each.previous) for each in splits)]

    def stream_size(self, stream: str) -> int:
        """Return how many samples a stream has."""
        return len(self._positions(stream))

    def known_targets(self) -> np.ndarray[Any, Any] | None:
        """Return the class of every training sample as served, ``(N,)``, or None where only reading them all tells.

        It is -1 for samples that the training loader's sampler never draws.
        """
        return self._labels

    @property
    def given(self) -> tuple[Part | None, Part | None, Dataset[Any] | None]:
        """The project's training and test set, and the training set as ``evaluation_dataset`` shows it."""
        return self._train, self._test, self.evaluation_dataset

    def looked_at(self, stream: str) -> np.ndarray[Any, Any]:
        """Return the positions of at most 2,000 samples of a stream, on which a model in training is looked at."""
        return some_of(self._positions(stream), derive_seed(self.seed, "validated", stream))

    @property
    def validation_streams(self) -> list[str]:
        """Streams a method is validated on, in the order of the validation loaders."""
        compared = () if self.unlike_nonmembers else ("nonmember",)
        return [stream for stream in ("forget", "retain", "test", *compared) if self.stream_size(stream)]

    @property
    def unlike_nonmembers(self) -> str:
        """Why a model that never saw the forget set would not answer it as it answers non-members; empty if it would.

        That samples carry wrong labels, nobody can know who is only told their positions: ``wrong_labels`` says so.
        """
        if not self.stream_size("nonmember"):
            return "there are no non-members"
        if self.backdoor is not None:
            return "the forget set carries a backdoor"
        if self.wrong_labels:
            return "the labels of the forget set are wrong"
        if self._share_of_classes > _FEW:
            return "a class is forgotten whole"
        return self.unlike_groups

    @property
    def unlike_groups(self) -> str:
        """Why whole groups, say people, are forgotten that non-members tell nothing of; empty where they do.

        Who was never trained on is answered worse than new samples of those who stay in training.
        """
        name = self._known_groups
        return f"non-members are of values of {name!r} that stay in training" if name else ""

    @property
    def forgets_a_class(self) -> bool:
        """Whether what is forgotten is whole classes: all of it but a few samples is of :attr:`forgotten_classes`."""
        return self._share_of_classes >= 1 - _FEW

    @property
    def _share_of_classes(self) -> float:
        """Share of the forget set that is of classes forgotten whole, of which a rare one may have a sample or two."""
        gone, known = self.forgotten_classes, self.known_targets()
        if not gone or known is None or not self.stream_size("forget"):
            return float(bool(gone))
        return float(np.isin(known[self.split.forget], gone).mean())

    @property
    def forgotten_classes(self) -> list[int]:
        """The classes that are forgotten whole: those the rule names, and those of the forget set nowhere retained."""
        named = np.atleast_1d(self.rule.classes).tolist() if isinstance(self.rule, Classes) else []
        known, split = self.known_targets(), self.split
        gone = [] if known is None else np.setdiff1d(known[split.forget], known[split.retain]).tolist()
        return sorted({*named, *gone})

    # ------------------------------------------------------------------ Lightning's hooks

    def prepare_data(self) -> None:
        """Let the project's datamodule download or prepare."""
        self.project.prepare()

    def setup(self, stage: str = "fit") -> None:
        """Set up the project's data and draw the split; later calls keep both."""
        if self._alone:
            return
        if stage == "fit" and self.ledger is not None:
            self.ledger.prepare()
        anew = self._split is None or self.project.torn_down
        self.project.set_up("fit" if stage in ("fit", "validate") else stage, self.trainer)
        if anew:
            self._setup_parts()
        self.require_source(getattr(self._module(), "source", None))
        self._save_with_run()

    def require_source(self, source: object) -> None:
        """Refuse a source whose checkpoint says that it was trained on another training set than this one.

        Args:
            source: The source model; of one that was not loaded from a checkpoint here nothing is known.

        Raises:
            ValueError: If the training set has another fingerprint than it recorded, or the project's datamodule other
                arguments that may choose other samples, or it would be trained again on what it was made to forget.
        """
        recorded = getattr(source, "training_fingerprint", "")
        require_same(recorded, self.split.fingerprint, "source: the checkpoint")
        require_same_arguments(getattr(source, "training_arguments", {}), self.project.module)
        if (file := getattr(source, "forgotten_by", None)) is not None:
            self._require_kept_out(file)

    def _require_kept_out(self, file: Path) -> None:
        """Refuse to put back what an earlier request forgot, by the split that it left."""
        earlier, split = Split.load(file), self.split
        gone = np.union1d(earlier.forget, earlier.previous)
        if self.is_stream:
            what = f"source: the request in {file.parent} made it forget {len(gone)} samples, and "
            raise ValueError(what + ONE_REQUEST.format(self.data_name))
        if (earlier.train_size, earlier.fingerprint) != (split.train_size, split.fingerprint):
            rank_zero_warn(
                f"source: {file.parent} made it forget {len(gone)} samples of another training set than this one, "
                "where nobody can tell whether they are in it; make sure that they are not"
            )
        elif not np.isin(gone, split.previous).all():
            raise ValueError(
                f"previous: the source is what the request in {file.parent} left, which made it forget {len(gone)} "
                f"samples, and it would be trained on them again; give previous='{file}' (forget takes "
                f"the folder too: previous='{file.parent}', on the command line --previous {file.parent})"
            )

    def _setup_parts(self) -> None:
        """Take the project's datasets, draw the split unless it is drawn, and poison what is to be."""
        self.project.set_up("fit", self.trainer)
        if self.test_dataset is None and is_overridden("test_dataloader", self.inner, L.LightningDataModule):
            # before the training set is asked for: a setup that heeds no stage makes that anew as well
            self.project.set_up("test", self.trainer)
        self._train = counted(self.project.training_part(self.batch_size), self.rule, self.adapter)
        if self.test_dataset is None:
            self._test = self.project.test_part()
        else:
            self._test = part_of_dataset(self.test_dataset, self.batch_size, "test_dataset")
        self._evaluation = self.evaluation_dataset
        if self._test is not None:
            self._test = counted(self._test, None, self.adapter)
            require_apart(self._train.narrowed.owner, self._test.owner)
            if isinstance(self._test.dataset, Stream):
                _require_fixed(type(self._test.dataset.stream).__name__, self._test.dataset, "test_dataset")
        if isinstance(self._train.dataset, Stream):
            self._evaluation = evaluated = self._checked_stream(self._train, self._train.dataset)
            self._train, self._labels = replace(self._train, owner=evaluated), evaluated.targets
        else:
            self._labels = known_labels(self._train, self.adapter)
        self.mixes = mixes_samples(self._train, self.adapter)
        fingerprint = self._checked_fingerprint()
        if self._evaluation is not None and (n := len(self._evaluation)) != len(self._train):  # type: ignore[arg-type]
            wanted = (
                f"the same {len(self._train)} in the same order as the training set, without augmentation"
            )
            raise ValueError(f"evaluation_dataset has {n} samples; it must have {wanted}")
        split = self._obtain_split(fingerprint) if self._split is None else self._split
        require_same(split.fingerprint, fingerprint, "datamodule: the split of an earlier setup")
        require_no_copies(self._train.owner, split.forget, np.union1d(split.previous, split.undrawn))
        if self._evaluation is None and varies(self._train.narrowed.dataset):
            rank_zero_warn(
                f"the training set of {self.data_name} gives another sample each time it is read (augmentation), and "
                "evaluators would measure that too; pass UnlearningDataModule(evaluation_dataset=...), the same "
                "samples without augmentation"
            )
        if self.backdoor is not None:
            self._poison(self.backdoor, split.forget)
        self._split = split

    def _checked_stream(self, part: Part, train: Stream) -> Stream:
        """Return the stream that evaluators are served, and refuse what cannot be done on streams."""
        name = type(train.stream).__name__
        if self.previous:
            raise ValueError(f"previous: {ONE_REQUEST.format(name)}")
        if self.backdoor is not None:
            raise ValueError(
                f"backdoor: the samples of {name}, a stream, cannot be named by position; leave it out"
            )
        if self.evaluation_dataset is None:
            evaluated = train
        else:
            evaluated = counted(
                replace(part, dataset=self.evaluation_dataset), self.rule, self.adapter
            ).dataset  # type: ignore[assignment]
        _require_fixed(name, evaluated, "evaluation_dataset")
        chosen = [int(sum(stream.attributes.values()).sum()) for stream in (train, evaluated)]  # type: ignore[union-attr]
        if chosen[0] != chosen[1]:
            raise ValueError(
                f"evaluation_dataset: forget's predicate chooses {chosen[1]} of its samples and {chosen[0]} of {name}; "
                "both must hold the same samples, and the predicate must not depend on augmentation"
            )
        return evaluated

    def teardown(self, stage: str) -> None:
        """Let the project's datamodule clean up."""
        if not self._alone:
            self.project.tear_down(stage)

    def state_dict(self) -> dict[str, Any]:
        """Return the fingerprint of the training set, which every checkpoint of a run with this data then holds."""
        return {} if self._split is None else {"training_fingerprint": self._split.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with another training set than the checkpoint's."""
        require_same(
            state_dict.get("training_fingerprint", ""), self.split.fingerprint, "ckpt_path: the checkpoint"
        )

    def train_dataloader(self) -> Any:
        """Return one loader a stream for a module that names streams, or one loader over the members."""
        module = self._module()
        if not isinstance(module, StreamConsumer):
            return self.loader("train", train=True)
        phase = getattr(module, "phase", None)
        if not callable(phase):
            return self.stream_loaders(module, Phase(module.streams, module.epoch_stream))
        assert self.trainer is not None
        return self.stream_loaders(module, phase(self.trainer.current_epoch))

    def stream_loaders(self, module: StreamConsumer, phase: Phase) -> dict[str, BatchLoader]:
        """Return a loader for each stream of an epoch.

        Args:
            module: What is fitted.
            phase: What the epoch is served.
        """
        epoch = self._stream_loader(module, phase.epoch_stream)
        steps = {"steps": len(epoch)}
        length = steps if isinstance(epoch, StreamLoader) else {"num_samples": epoch.sampler.num_samples}
        return {
            stream: self._stream_loader(module, stream, **(steps if stream in phase.once else length))
            for stream in phase.streams
        }

    def _stream_loader(self, module: StreamConsumer, stream: str, **order: Any) -> BatchLoader:
        return self.loader(
            stream,
            train=True,
            positions=module.stream_positions(stream, self.split),
            batch_size=self.batch_size or self._part("train").batch_size,
            indexed=stream in module.indexed_streams,
            least=1,
            **order,
        )

    def val_dataloader(self) -> Any:
        """Return a loader for each of :attr:`validation_streams`, or the project's own for any other module.

        Where the training data is a plain dataset, the test set serves any other module for validation.
        """
        if isinstance(self._module(), StreamConsumer):
            return [
                self.loader(stream, positions=self._validated(stream)) for stream in self.validation_streams
            ]
        if self.project.module is None:
            return self.test_dataloader()
        return [] if (loader := self.project.loader("val_dataloader")) is None else loader

    def test_dataloader(self) -> Any:
        """Return a loader over what the non-member set left of the test set."""
        return self.loader("test") if len(self.split.test) else []

    def predict_dataloader(self) -> Any:
        """Return the project's own loader."""
        return [] if (loader := self.project.loader("predict_dataloader")) is None else loader

    # ------------------------------------------------------------------ streams

    def served_alone(self, order_seed: int) -> "UnlearningDataModule":
        """Return the same split data, set up already, that serves this process everything, in an order of its own.

        It is in no ledger: what is fitted on it is a repetition, and no deletion.

        Args:
            order_seed: Seed of order, augmentation and whatever a method draws.
        """
        view = copy.copy(self)
        view.trainer = view.ledger = None
        view.order_seed = order_seed
        view._alone = True
        adopt_transfer_hooks(view, view.inner, view._transfer)
        return view

    def loader(
        self,
        stream: str,
        *,
        train: bool = False,
        positions: np.ndarray[Any, Any] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        **order: Any,
    ) -> BatchLoader:
        """Return a loader over a stream, in memory and batched where the data allows it.

        Args:
            stream: ``forget``, ``retain``, ``train`` (both), ``nonmember``, ``shadow``, ``test`` or ``previous``, which
                is never trained on.
            train: Whether to shuffle and augment.
            positions: A subset of the stream, as positions in its dataset; ``None`` for all of it.
            batch_size: Samples a process takes each step; ``None`` for this datamodule's.
            seed: Seed of the order; ``None`` derives one for the stream.
            **order: ``indexed``, ``num_samples``, ``rank``, ``world_size``, ``least`` and ``steps`` of
                :class:`~lightning_unlearn.data.loading.BatchLoader`.
        """
        part = self._part(stream)
        chosen = self._positions(stream) if positions is None else positions
        order["batch_size"] = batch_size or self.batch_size or part.batch_size
        order["shuffle"] = train
        order["seed"] = derive_seed(self.order_seed, "loader", stream) if seed is None else seed
        if self._alone:
            order.update(rank=0, world_size=1)
        if train and part.weights is not None and stream in _WEIGHTED:
            order["weights"] = part.weights[torch.as_tensor(chosen)]
        dataset = part.dataset
        if not train and self._evaluation is not None and part is self._train:
            dataset = self._evaluation
        if isinstance(dataset, Stream):
            kept = (
                None
                if dataset.fixed
                else self._kept(stream, named=positions is not None or order.get("indexed"))
            )
            return StreamLoader(dataset, chosen, part, kept=kept, **order)
        if isinstance(dataset, TensorData) and part.collate_fn is None:
            return TensorLoader(dataset, chosen, augment=train, device=self._device(), **order)
        collate = None if self.mixes and part is self._train and not train else part.collate_fn
        return DatasetLoader(dataset, chosen, collate_fn=collate, **part.workers, **order)

    def evaluated(self, stream: str, **order: Any) -> BatchLoader:
        """Return a loader over a stream as an evaluator asks a model about it: in order, not augmented.

        With a backdoor the non-members carry the trigger and its label, as the forget set does: an attack that set
        marked members against clean non-members would see the mark.

        Args:
            stream: As for :meth:`loader`.
            **order: Arguments of :meth:`loader`; batches are indexed unless they say otherwise.
        """
        loader = self.loader(stream, **{"indexed": True, **order})
        if stream != "nonmember" or self.backdoor is None:
            return loader
        return triggered_loader(loader, self.backdoor.trigger, self.adapter, self.backdoor.target_label)

    def is_augmented(self, stream: str) -> bool:
        """Whether training batches of a stream may differ from one epoch to the next.

        Only data held as tensors can be known not to; a project's own dataset or transfer hook may draw anything.
        """
        part, module = self._part(stream), self._module()
        return (
            not isinstance(part.dataset, TensorData)
            or part.collate_fn is not None
            or part.dataset.augment is not None
            or bool(transfer_hooks(self) or transfer_hooks(module))
        )

    # ------------------------------------------------------------------ within

    def _part(self, stream: str) -> Part:
        split = self.split
        origin = {"nonmember": split.nonmember_from, "shadow": split.shadow_from, "test": "test"}
        part = self._train if origin.get(stream, "train") == "train" else self._test
        if part is None:
            raise ValueError(f"the {stream!r} stream needs a test set, and {self.data_name} has none")
        return part

    def _positions(self, stream: str) -> np.ndarray[Any, Any]:
        split = self.split
        if stream == "train":
            return split.members
        one_of("stream", stream, *_STREAMS)
        positions: np.ndarray[Any, Any] = getattr(split, stream)
        return positions

    def _kept(self, stream: str, *, named: bool | None) -> str | None:
        """Return by which name the predicate serves a stream whose order changes."""
        if stream not in ("forget", "retain", "train"):
            return None
        if named or len(self.split.members) < self.split.train_size:
            raise ValueError(
                f"datamodule: {self.data_name} gives its samples in another order each time, and what is asked for "
                "needs to know each sample; give the stream without shuffling, and no nonmember or shadow of 'train'"
            )
        return stream

    def _validated(self, stream: str) -> np.ndarray[Any, Any] | None:
        """Return which positions are validated, None for all: of the retain set a part, or it would cost too much."""
        return self.looked_at(stream) if stream == "retain" else None

    def _module(self) -> object:
        """Return what is being fitted, which need not be a method."""
        return None if self.trainer is None else self.trainer.lightning_module

    def _device(self) -> torch.device | None:
        return None if self.trainer is None else self.trainer.strategy.root_device

    def _obtain_split(self, fingerprint: str) -> Split:
        assert self._train is not None
        train_size, test_size = len(self._train), 0 if self._test is None else len(self._test)
        held_out = self.held_out
        if held_out["nonmember"] is None and held_out["nonmember_from"] == "test" and test_size == 0:
            held_out = {**held_out, "nonmember": 0}  # there is nothing to take them from
        path = None if self.split_path is None else Path(self.split_path)
        stored = Split.load(path) if path is not None and path.exists() else None
        known = SelectionData(
            train_size,
            targets=self._targets,
            attributes=self._attribute,
            attribute_names=partial(attribute_names, self._train.owner)
            if self.attributes is None
            else self.attributes,
            undrawn=self._train.undrawn,
        )
        drawn = make_split(
            train_size,
            test_size,
            self.rule,
            known,
            seed=self.seed,
            **held_out,
            previous=[Split.load(path) for path in self.previous],
            fingerprint=fingerprint,
        )
        if stored is not None:
            require_same(stored.fingerprint, fingerprint, f"split_path: {path}")
            if not stored.same_as(drawn):
                asked = "another split than forget, nonmember, shadow, previous and seed ask for"
                raise ValueError(f"split_path: {path} holds {asked}; give its own arguments, or another path")
        elif path is not None and (self.trainer is None or self.trainer.is_global_zero):
            drawn.save(path)
        self._known_groups = self._groups_of_both(known, drawn)
        return drawn

    def _groups_of_both(self, known: SelectionData, split: Split) -> str:
        """Return the column by which groups are forgotten whole, where non-members are of groups that stay."""
        name = group_column(self.rule)
        if name is None or self.wrong_labels or self.backdoor is not None or not len(split.nonmember):
            return ""
        column = known.attribute(name)
        if split.nonmember_from == "train":
            unseen = column[split.nonmember]
        else:
            assert self._test is not None  # which they were drawn from
            try:
                drawn = Subset(self._test.owner, split.nonmember.tolist())  # of which alone samples are read
                unseen = column_of(name, attribute_of(drawn, name), len(drawn))
            except (KeyError, TypeError, ValueError, IndexError):  # it has no such column, or is a stream
                if share_known(column, column):
                    rank_zero_warn(
                        f"forget: the test set has no {name!r}, so nobody can tell whether non-members are of values "
                        "that stay in training; if they are, a model that never saw what is forgotten knows it less "
                        "than them, and no measure against them tells whether it was forgotten; give the test set that "
                        "column"
                    )
                return ""
        return name if share_known(column[split.retain], unseen) > _KNOWN else ""

    def _poison(self, backdoor: Poison, positions: np.ndarray[Any, Any]) -> None:
        assert self._train is not None
        train = poison(self._train.dataset, positions, backdoor, self.adapter)
        if self.evaluation_dataset is not None:
            self._evaluation = poison(self.evaluation_dataset, positions, backdoor, self.adapter)
        self._train = replace(self._train, dataset=train)

    def _save_with_run(self) -> None:
        """Write the split into the run's own folder, where the trainer's logger has one."""
        trainer = self.trainer
        if trainer is None or trainer.fast_dev_run or getattr(trainer.logger, "log_dir", None) is None:  # type: ignore[attr-defined]
            return
        folder = trainer.log_dir  # every rank must ask: the answer is broadcast
        if folder is not None and trainer.is_global_zero:
            self.split.save(Path(folder) / "split.npz")

    def _targets(self) -> np.ndarray[Any, Any]:
        assert self._train is not None
        if self._labels is None:
            self._labels = served_labels(self._train, self.adapter)
        return self._labels

    def _attribute(self, name: str) -> Any:
        assert self._train is not None
        if name == INNERMOST:
            origin = origin_of(self._train.owner)
            if len(origin.bases) > 1:
                found = f"the training set draws from {len(origin.bases)} datasets"
                raise ValueError(f"innermost=True: {found}; give positions in the order of the training set")
            return origin.position
        return attribute_of(self._train.owner, name) if self.attributes is None else self.attributes[name]

    def _checked_fingerprint(self) -> str:
        """Return the fingerprint of the training set, the same in every process."""
        assert self._train is not None
        own = training_fingerprint(self._train.owner, self._labels, served=False, drawn=self._train.drawn)
        if self.trainer is not None:
            strategy = self.trainer.strategy
            if not strategy.reduce_boolean_decision(strategy.broadcast(own) == own, all=True):
                raise ValueError(
                    f"datamodule: {self.data_name} gives the processes different training sets, so each would forget "
                    "other samples; give random_split, or whatever deals or shuffles it, a generator with a seed"
                )
        return own

    def _transfer(self, hook: str, batch: Any, *args: Any) -> Any:
        """Apply the project's transfer hook, to each stream where there are several."""
        assert self.project.module is not None  # only a datamodule has hooks
        self.project.module.trainer = self.trainer
        inner = getattr(self.project.module, hook)
        module = self._module()
        streams = module.streams if isinstance(module, StreamConsumer) else ()
        return of_each_stream(batch, streams, lambda part: inner(part, *args))


@contextmanager
def batches_of(data: L.LightningDataModule, size: int | None) -> Iterator[None]:
    """Have split data serve batches of another size for a while; any other data stays as it is.

    Args:
        data: The data.
        size: Samples a process takes each step, >= 1; ``None`` leaves it as it is.
    """
    if size is None or not isinstance(data, UnlearningDataModule):
        yield
        return
    before, data.batch_size = data.batch_size, size
    try:
        yield
    finally:
        data.batch_size = before


def _split_files(previous: Any) -> list[str | Path]:
    files = [previous] if isinstance(previous, str | Path) else previous
    if not isinstance(files, list | tuple) or not all(isinstance(file, str | Path) for file in files):
        raise TypeError(f"previous must be a split file or a list of split files, got {previous!r}")
    return list(files)


def _require_fixed(name: str, evaluated: Any, argument: str) -> None:
    """Refuse to measure on a stream whose samples have other places in each pass."""
    if not isinstance(evaluated, Stream) or not evaluated.fixed:
        raise ValueError(
            f"datamodule: {name} gives other samples each time it is read (shuffled or augmented), so that models "
            f"cannot be compared on them; pass UnlearningDataModule({argument}=...), the same stream "
            "without shuffling and augmentation (training shuffles it anyhow)"
        )
