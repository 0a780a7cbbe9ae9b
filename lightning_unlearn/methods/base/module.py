"""The base of the unlearning methods: what a method may override, and what Lightning's hooks do for all of them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_unlearn.core.checks import Choice, Declared, check_arguments
from lightning_unlearn.core.compat import batches_stepped, end_epoch, trainer_of
from lightning_unlearn.core.files import model_hash, positions_hash
from lightning_unlearn.core.ledger import require_forgotten_before
from lightning_unlearn.core.peak_memory import peak_memory
from lightning_unlearn.data import Adapter, Indexed, Phase, Split, UnlearningDataModule
from lightning_unlearn.data.hooks import adopt_transfer_hooks, of_each_stream
from lightning_unlearn.data.loading import BatchLoader, OrderSampler
from lightning_unlearn.engine.gradients import gradient_statistics
from lightning_unlearn.engine.own_steps import own_loss, require_own_step
from lightning_unlearn.engine.predict import ask_few
from lightning_unlearn.engine.telling import facts_of_fit, send_facts
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.ensembles import Outputs, Runtime, predict, restore_rng_state, rng_state
from lightning_unlearn.functional import Task
from lightning_unlearn.functional.gradients import Statistic
from lightning_unlearn.methods.base.clock import Clock
from lightning_unlearn.methods.base.curves import GAP, Curves
from lightning_unlearn.methods.base.export import export_unlearned, require_finite
from lightning_unlearn.methods.base.limits import (
    accumulated_in,
    refuse_idle_averaging,
    refuse_impossible,
    refuse_no_gap,
    refuse_without_a_class,
)
from lightning_unlearn.methods.base.looking import Looking
from lightning_unlearn.methods.base.recording import record_fit
from lightning_unlearn.methods.base.resuming import STATE_KEY, resumable_state
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.methods.base.source import Source, load_source
from lightning_unlearn.methods.base.spreading import SpreadableModule
from lightning_unlearn.methods.base.statistics import MovingStatistics, alike, normalised_alike
from lightning_unlearn.methods.base.trial import (
    require_logits,
    require_of,
    try_model,
    warn_of_another_loss,
    warn_of_collapse,
    warn_of_guessing,
)
from lightning_unlearn.methods.base.validated import Validated
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models import Annealed, clone, save_primitive_hyperparameters
from lightning_unlearn.models.freezing import frozen_tensors, hold_statistics, mark_frozen
from lightning_unlearn.models.hparams import constructor_frames
from lightning_unlearn.models.schedules import scheduled
from lightning_unlearn.models.sharded import mark_mixed
from lightning_unlearn.models.statistics import by_running_statistics, running_layers
from lightning_unlearn.models.surgery import answering_fast, class_state, listed

Step = Literal["loss", "source"]


class UnlearningModule(SpreadableModule):
    """Base of the unlearning methods; a method writes its loss in ``training_step`` and little else.

    ``self.model`` is the trainable copy of the source and :attr:`source` the source itself, which is no
    submodule: it is in no ``state_dict``, no optimizer and no export. A method names the streams it trains on
    and may override :meth:`prepare`, which runs once inside ``fit``, before the first step, on the trainer's
    device; a resumed run does not prepare again.

    A method with arguments of its own takes these and ``**method``, which it passes on. What its class declares in
    ``declared`` they must be, and anything else is refused here.

    Args:
        source: The trained model: a module, a :class:`~lightning_unlearn.methods.base.source.SourceCheckpoint`, or
            the path of a checkpoint written under LightningCLI.
        optimizer: Makes the optimizer from the trainable parameters; ``None`` for the method's own: Adam, with learning
            rate 1e-3 unless the method's description names another.
        lr_scheduler: Makes a schedule that is stepped once an epoch, an :class:`~lightning_unlearn.models.Annealed` one
            at each step; ``None`` for a constant rate, or the method's own schedule.
        loss: Loss of outputs and targets, logits ``(B, C)`` and classes ``(B,)`` of a classifier; ``None`` for that of
            the task, the cross-entropy there.
        step: What is minimised on the retain set: ``"loss"``, the argument ``loss``, or ``"source"``, what the
            source's own ``training_step`` returns for its batch (class weights, label smoothing, focal or auxiliary
            losses, mixing of samples). Where the forget set goes through the model with it, a step that calls
            ``self(inputs)`` gets the answers of that pass, and any other costs one more pass over the batch. A warning
            names both losses where they differ.
        adapter: How batches and outputs are taken apart, and what they mean; ``None`` for the usual layouts.
        frozen: Names of the parameters, or of the modules that hold them, that the source was not trained on
            (``["backbone"]``, ``["*.bias"]``): no method changes, perturbs or redraws them. ``None`` for those that
            do not require a gradient, ``[]`` for none.

    Raises:
        TypeError: If ``source`` is neither a module nor a checkpoint.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint does not load, the source has no parameters or is frozen as a whole,
            ``frozen`` names none of its parameters, or its own step is asked for and it has none or optimizes
            manually.

    Attributes:
        measured: What preparing gave that is to be known, by the names in ``metrics``.
    """

    streams: tuple[str, ...] = ("forget", "retain")
    epoch_stream: str = "forget"
    indexed_streams: tuple[str, ...] = ()
    retain_fraction: float = 1.0  # the share of the retain set that is served
    once: tuple[str, ...] = ()  # streams that an epoch passes over once, spread over its steps
    # what `tune` tries; a method adds its own to those of its bases
    searched: ClassVar[SearchSpace] = {
        "lr": Search(3e-4, 2e-2, log=True),
        "max_epochs": Search(1, 8, whole=True),
        "warm_up": (None, 0.0, 0.2, 0.5),
        "batch_size": (None, 16, 32, 64, 128),
    }
    declared: ClassVar[Declared] = {"step": Choice(("loss", "source"))}  # what arguments may be
    follows_source_recipe: ClassVar[bool] = False
    default_optimizer: ClassVar[Any] = torch.optim.Adam  # where none is given,
    default_lr: ClassVar[float] = 1e-3  # with this rate
    counted_a_batch: int = 1  # by how much a batch raises the trainer's global_step
    anneals: bool = False  # whether, without a schedule, the rate warms up and falls to almost nothing
    keeps_source_tensors: ClassVar[bool] = False  # whether leaving some as they are is what it is about
    needs: tuple[str, ...] = ("loss",)  # what of a task it speaks of
    classes_only: ClassVar[bool] = False  # whether it can forget whole classes and nothing else
    # of each class by itself: whether K may be stepped at once, by torch.func.vmap over training_step
    side_by_side: bool = False
    saved: ClassVar[tuple[str, ...]] = ()  # attributes that prepare() sets and a checkpoint must hold
    prepares_again: ClassVar[bool] = False  # whether a resumed run prepares too, as no checkpoint holds it
    one_shot: ClassVar[bool] = False  # whether prepare() edits the weights, and nothing is trained
    keeps_apart: ClassVar[bool] = False  # whether each network of a Sharded still knows its shard alone
    may_collapse: ClassVar[bool] = False  # whether it impairs the model in some epochs and repairs it later
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {}  # what it measures itself, beside its times

    def __init__(
        self,
        source: Source,
        *,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: Loss | None = None,
        step: Step = "loss",
        adapter: Adapter | None = None,
        frozen: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        for frame in constructor_frames(self):
            check_arguments(self.declared, frame.f_locals)
        save_primitive_hyperparameters(self)
        loaded = mark_frozen(load_source(source), frozen)
        self._source = [loaded]  # in a list, so that it is not registered as a submodule
        self.model = self.initial_model(loaded).train()  # a source may come in evaluation mode
        hold_statistics(self.model)
        if step == "source":
            require_own_step(self.model)
        self.adapter = adapter or Adapter()
        self.loss: Loss = loss or self.task.batch_loss
        self.step = step
        self.share = 1.0
        self._batch_idx = 0  # of the running step
        self._given_loss = loss is not None
        self._plain_answers = False
        self.source_accuracy: float | None = None  # of a batch of the retain set, for a warning at the end
        self._outputs_checked = False
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._prepared = False
        self._to_prepare = False
        self._reload = 0
        self.example = torch.empty(0)  # an answer of the source, from on_fit_start on
        self._steps: int | None = None  # of the running fit, once they are counted
        self._request = ""
        self._rng_states: list[Mapping[str, Any]] | None = None
        self._exported: Path | None = None
        self.ended_itself = False  # by a rule of its own, before the Trainer's
        self.answer: dict[str, Any] | None = None  # whether it forgot, as the evaluators found out
        self.measured: dict[str, float] = {}
        self._clock = Clock()
        self._curves = Curves()
        self._looking = Looking()
        self._statistics = MovingStatistics()
        self.validated = Validated()
        self._validated: list[str] = []
        self._validation = nn.ModuleDict()
        adopt_transfer_hooks(self, self.model, self._transfer)

    def __init_subclass__(cls, **options: Any) -> None:
        """Have a class declare what its bases do, too."""
        super().__init_subclass__(**options)
        cls.declared = {
            k: v for base in reversed(cls.__mro__) for k, v in vars(base).get("declared", {}).items()
        }

    # ------------------------------------------------------------------ what a method may override

    def initial_model(self, source: nn.Module) -> nn.Module:
        """Return the model that training starts from: a copy of the source that shares no tensor with it."""
        return clone(source)

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Do what must be done once before the first step; counted in ``time/prepare_s``.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.
        """

    def prepare_resumed(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Do again what a prepared run must, because no checkpoint holds it: all, where ``prepares_again`` is set.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.
        """
        if self.prepares_again:
            self.prepare(data, runtime)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss on the retain set, and log it; a method that forgets by another loss writes its own.

        Args:
            batch: The batches of the streams, by their names.
            batch_idx: Their number.
        """
        loss = self.retain_loss(batch["retain"], batch_idx)
        self.log_terms(loss=loss)
        return loss

    def given(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return what the loss takes from elsewhere, by name, first dimension ``B``: drawn labels, a teacher's answers.

        A method of which K are stepped at once asks for it in ``training_step``, and for nothing else that differs
        between the K and is no weight.

        Args:
            batch: The batches of the streams, by their names.
        """
        return {}

    def phase(self, epoch: int) -> Phase:
        """Return what the steps of an epoch are served, at which rate; a method whose epochs differ says so here.

        ``streams`` then names all that there may be, and ``training_step`` finds in its batch those of its epoch.

        Args:
            epoch: The epoch, from 0.
        """
        return Phase(self.streams, self.epoch_stream, self.once)

    def stream_positions(self, stream: str, split: Split) -> np.ndarray[Any, Any] | None:
        """Return which training positions to take for a stream; ``None`` for all of it.

        Of the retain set it is the reference subset D_s, where a method takes a share of it.
        """
        if stream != "retain" or self.retain_fraction == 1:
            return None
        return split.draw_reference(self.retain_fraction)

    def preparation_state(self) -> dict[str, Any]:
        """Return what :meth:`prepare` made and a resumed run needs: the attributes in ``saved``."""
        return {name: getattr(self, name) for name in self.saved}

    def load_preparation_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`preparation_state` returned."""
        vars(self).update({name: state[name] for name in self.saved})

    # ------------------------------------------------------------------ what a method may ask

    @property
    def source(self) -> nn.Module:
        """The source model, never changed; evaluators use it as the control that forgot nothing."""
        return self._source[0]

    @property
    def task(self) -> Task:
        """What outputs and targets mean; known from ``on_fit_start`` on, single labels before."""
        return self.adapter.kind

    @property
    def data(self) -> UnlearningDataModule:
        """The split data of the running fit.

        Raises:
            TypeError: If the trainer was given plain loaders, which cannot say who is forgotten.
        """
        data = self._split_data
        if data is None:
            given = type(getattr(self.trainer, "datamodule", None)).__name__
            raise TypeError(
                f"{type(self).__name__} needs to know who is forgotten: call trainer.fit(method, "
                f"UnlearningDataModule(your_datamodule, forget=...)), got {given}"
            )
        return data

    @property
    def _split_data(self) -> UnlearningDataModule | None:
        data = getattr(trainer_of(self), "datamodule", None)
        return data if isinstance(data, UnlearningDataModule) else None

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole fit.

        Raises:
            ValueError: If the Trainer does not know, as with ``max_epochs=-1``.
        """
        if self._steps is None:
            self._steps = self._count_steps()
        return self._steps

    @property
    def known_epochs(self) -> int:
        """Epochs of the fit, for a method that ends with one of a kind.

        Raises:
            ValueError: If the Trainer has no ``max_epochs``.
        """
        epochs = self.trainer.max_epochs
        if epochs in (None, -1):
            raise ValueError(
                f"{type(self).__name__} ends on the retain set, and has to know when: give max_epochs, got {epochs}"
            )
        return epochs

    def _count_steps(self) -> int:
        trainer, data = self.trainer, self.data
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        most = math.inf if trainer.max_steps == -1 else math.ceil(trainer.max_steps / self.counted_a_batch)

        @cache
        def steps_of(phase: Phase, accumulated: int) -> int:
            # not estimated_stepping_batches, which sets the loaders up before a resumed run knows where they stopped
            batches = len(data.stream_loaders(self, phase)[phase.epoch_stream])
            limit = trainer.limit_train_batches
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
            return math.ceil(batches / accumulated)

        if not math.isinf(epochs):
            numbers = (
                steps_of(self.phase(epoch), accumulated_in(trainer, epoch)) for epoch in range(int(epochs))
            )
            most = min(most, sum(numbers))
        if math.isinf(most):
            raise ValueError(
                f"{type(self).__name__} goes by the number of steps, which this Trainer does not know; give it "
                "max_epochs=... or max_steps=..."
            )
        return int(most)

    @property
    def times(self) -> dict[str, float]:
        """Wall-clock seconds ``time/prepare_s``, ``time/unlearn_s``, their sum ``time/total_s``; ``time/cpu_s``."""
        return self._clock.times

    def train(self, mode: bool = True) -> "UnlearningModule":
        """Set the mode; running statistics of frozen layers do not follow the data."""
        super().train(mode)
        if mode:
            hold_statistics(self.model)
        return self

    def end_fit(self) -> None:
        """End the fit after this epoch, by a rule of the method's own."""
        self.trainer.should_stop = self.ended_itself = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the unlearned model as the source is called."""
        return self.model(*args, **kwargs)

    def stream_logits(self, *batches: Any) -> list[tuple[Tensor, Tensor]]:
        """Return logits ``(B, C)`` and targets ``(B,)`` of several streams' batches.

        Where layers keep running statistics, all batches are normalised by those of the last one (name the retain set
        there), as the exported model will normalise them by those of the retain set. Normalised by its own, a forget
        set would be forgotten in training mode only. Inputs that are tensors of one shape go through together, which
        halves the fixed price of a step.

        A batch of one sample has no statistics of its own, and is normalised by the running ones.
        """
        return self.logits_of(
            *(self.adapter.split(b.batch if isinstance(b, Indexed) else b) for b in batches)
        )

    def logits_of(self, *parts: tuple[Any, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return what :meth:`stream_logits` does, of inputs and targets that no batch holds, such as learned noise.

        Args:
            parts: The inputs and targets, as the adapter takes batches apart.
        """
        inputs, sizes = [part[0] for part in parts], [len(part[1]) for part in parts]
        running = running_layers(self.model).values() if len(inputs) > 1 else ()
        if layers := [layer for layer in running if layer.training]:
            logits = normalised_alike(self.model, self.adapter, inputs, layers, single=sizes[-1] == 1)
        elif len(inputs) > 1 and alike(inputs):
            logits = list(torch.split(self._answers(torch.cat(inputs), sum(sizes)), sizes))
        else:
            logits = [self._answers(x, size) for x, size in zip(inputs, sizes, strict=True)]
        if not self._outputs_checked:
            for values, (_, targets) in zip(logits, parts, strict=True):
                self._check_outputs(values, targets)
        answers = [(values, targets) for values, (_, targets) in zip(logits, parts, strict=True)]
        if trainer_of(self) is not None and self.trainer.training and self._is_shown_step:
            self._curves.answered += [(values.detach(), targets) for values, targets in answers]
        return answers

    def retain_loss(
        self, batch: Any, batch_idx: int, answered: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return the loss on a batch of the retain set: the argument ``loss``, or that of the source's own step.

        Args:
            batch: The batch.
            batch_idx: Its number.
            answered: Logits and targets, where :meth:`stream_logits` has been asked.
        """
        if self.step == "loss":
            logits, targets = answered or self.stream_logits(batch)[0]
            return self.loss(logits, targets)
        batch = batch.batch if isinstance(batch, Indexed) else batch
        inputs, targets = self.adapter.split(batch)
        known = (inputs, answered[0]) if answered is not None and self._plain_answers else None
        with self._normalising(len(targets)):
            return own_loss(cast(L.LightningModule, self.model), batch, batch_idx, known)

    @property
    def forget_alone(self) -> tuple[str, ...]:
        """Streams of a step that trains on the forget set alone: the retain set too where it has to normalise it."""
        return ("forget", "retain") if running_layers(self.model) else ("forget",)

    def samples_beside(self, stream: str) -> float:
        """Return how many samples of a stream this step has for each of ``epoch_stream``.

        By that weigh the mean loss on a stream that an epoch passes over once, so that every sample counts alike.

        Args:
            stream: Name of the stream.
        """
        own, epoch = (
            self.own_samples(name) for name in (stream, self.phase(self.current_epoch).epoch_stream)
        )
        return own / epoch if own is not None and epoch else 1.0

    def own_samples(self, stream: str) -> int | None:
        """Return how many samples of a stream this step has that are this process's; ``None`` where nobody knows.

        Args:
            stream: Name of the stream.
        """
        sampler = self._samplers.get(stream)
        return None if sampler is None else sampler.own(self._batch_idx)

    @property
    def _samplers(self) -> dict[str, OrderSampler]:
        loaders = getattr(trainer_of(self), "train_dataloader", None)
        named = loaders.items() if isinstance(loaders, Mapping) else ()
        return {name: loader.sampler for name, loader in named if isinstance(loader, BatchLoader)}

    def log_terms(self, **terms: Tensor) -> None:
        """Log the terms of the loss, at the trainer's logging interval and at an epoch's last step."""
        self._curves.log_terms(self, terms)

    def forget_answers(self) -> Outputs:
        """Return what the model, as it would be exported, answers on the whole forget set, in its order."""
        loader = self.data.loader("forget", indexed=True)
        with self.looked_at():
            return predict(self.model, loader, Runtime(self.trainer), self.adapter)

    def gradients(
        self, statistic: Statistic, stream: str, data: UnlearningDataModule, runtime: Runtime, **asked: Any
    ) -> dict[str, Tensor]:
        """Return a statistic of the gradients of single samples, of the method's own loss unless another is asked for.

        See :func:`~lightning_unlearn.engine.gradients.gradient_statistics`, whose other arguments may be given.
        """
        asked = {"loss": self.loss, "adapter": self.adapter, "runtime": runtime, **asked}
        return gradient_statistics(self.model, data, stream, [statistic], **asked)[statistic]

    def settle_statistics(self) -> None:
        """Estimate the running statistics anew on the retain set, so that they hold nothing of the forget set.

        What was forgotten went through normalisation layers in training. This is done when training ends; evaluators
        ask for it too, since a finished run that is resumed trains no more. A collective, like a forward pass.
        """
        if (data := self._split_data) is not None:
            self._statistics.settle(self.model, data, Runtime(self.trainer), self.adapter)

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Have the model be as it would be exported, for a look at it in the middle of a fit."""
        self._statistics.keep(self.model)
        self.settle_statistics()
        try:
            yield
        finally:
            self._statistics.put_back()

    def export(self, path: str | Path, *, weights_only: bool = False) -> Path:
        """Write the unlearned weights as a checkpoint of the source's own class.

        The file holds the weights and the constructor arguments that the class itself saves; nothing of the
        source, of the forgotten data, or of the optimizer is in it. It is written whole or not at all, and the same
        model gives the same bytes. Arguments that are objects cannot be kept; a warning names them.

        Args:
            path: Where to write; an existing file is replaced.
            weights_only: Write the bare ``state_dict``, for ``model.load_state_dict(torch.load(path))``.

        Returns:
            The path.

        Raises:
            FloatingPointError: If weights are NaN or infinite.
            ValueError: If no step was made and the weights are the source's, or the running statistics are those of
                training, which the forget set went through.
        """
        self._require_unlearned()
        self._statistics.require_settled()
        self._exported = export_unlearned(
            self.model, path, self.source, copies_only=self.keeps_source_tensors, weights_only=weights_only
        )
        return self._exported

    def _require_unlearned(self) -> None:
        """Refuse the source's own weights where no step was made; what did its work in preparing need make none."""
        # after a fit in processes that Lightning started, this one knows the new weights alone
        worked = self._prepared and (self.one_shot or self._clock.so_far["unlearn_s"] > 0)
        if not worked and model_hash(class_state(self.source)) == model_hash(class_state(self.model)):
            name = type(self).__name__
            raise ValueError(
                f"{name} has made no step, so nothing is unlearned yet; call trainer.fit(method, data) first, with "
                "max_epochs or max_steps above 0"
            )

    # ------------------------------------------------------------------ before the first step

    def configure_callbacks(self) -> list[L.Callback]:
        """Refuse what the method cannot do; of all hooks the one before Lightning's checks, which name no method."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            refuse_impossible(self, self.trainer)
            self._steps = None
            self._reload = self.trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
            if is_overridden("phase", self, UnlearningModule):
                self.trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        return []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and schedule that were asked for, or the method's own."""
        model, given = self.model, self._optimizer
        own = isinstance(model, L.LightningModule) and is_overridden("configure_optimizers", model)
        if given is None and self.follows_source_recipe and own:
            return cast(L.LightningModule, model).configure_optimizers()
        make = given or partial(self.default_optimizer, lr=self.default_lr)
        optimizer = make([parameter for parameter in model.parameters() if parameter.requires_grad])
        schedule = self._lr_scheduler or (Annealed if self.anneals else None)
        return scheduled(optimizer, schedule, lambda: self.total_steps)

    def on_fit_start(self) -> None:
        """Check the source against the data, and prepare, once in the life of a run."""
        refuse_idle_averaging(self.trainer, planned=True)
        self._exported, self.answer, self.ended_itself = None, None, False
        if kept := list(frozen_tensors(self.source)):
            rank_zero_info(
                f"{type(self).__name__}: {listed(kept)} are frozen in the source, so they were trained on nobody and "
                "stay as they are; if they were trained, give frozen=[]"
            )
        if (data := self._split_data) is not None:
            refuse_no_gap(self.trainer, data.unlike_nonmembers)
            self._try_source(data)
            if self.classes_only:
                refuse_without_a_class(self, forgets_a_class=data.forgets_a_class)
            if data.ledger is not None:
                before = model_hash(class_state(self.source))
                require_forgotten_before(data.ledger, before, data.earlier)
        # some strategies read a checkpoint only after this hook; whether it was prepared is then not known yet
        self._to_prepare = True
        if self.trainer.ckpt_path is None or not self.trainer.strategy.restore_checkpoint_after_setup:
            self._prepare_once()

    def _prepare_once(self) -> None:
        runtime, data = Runtime(self.trainer), self._split_data
        request = "" if data is None else positions_hash(data.split.forget, b"request")
        self._to_prepare = False
        if self._prepared:
            self._require_same_request(request)
            if self.prepares_again or is_overridden("prepare_resumed", self, UnlearningModule):
                self.prepare_resumed(self.data, runtime)
            return
        with self._clock.preparing(runtime):
            if is_overridden("prepare", self, UnlearningModule):
                with self.whole_model(runtime):
                    self.prepare(self.data, runtime)
        if not self.keeps_apart:
            mark_mixed(self.model)
        self._prepared, self._request = True, request

    def on_train_start(self) -> None:
        """Put back the random state of a resumed run, and start the clock."""
        if self._to_prepare:
            self._prepare_once()
        self._statistics.begin(self.model, forget="forget" in self.streams)
        if self._rng_states is not None:
            if len(self._rng_states) == self.trainer.world_size:
                restore_rng_state(self._rng_states[self.trainer.global_rank])
            self._rng_states = None
        self._tell_facts()
        self._looking.begin(self.trainer)
        self._clock.start(Runtime(self.trainer))

    def _tell_facts(self) -> None:
        data = self._split_data
        if data is not None and self.trainer.loggers:
            facts = facts_of_fit(self, self.source, data)
            for logger in self.trainer.loggers:
                send_facts(logger, facts)

    # ------------------------------------------------------------------ a step

    def on_train_epoch_start(self) -> None:
        """Put back the running statistics that are not to move, and note which begin to follow the batches."""
        self._looking.put_back(self.trainer)
        self._statistics.begin_epoch(self.model, fresh=self.follows_source_recipe)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note which part of the step's samples this process has, and that the statistics begin to follow it."""
        self._statistics.settled = not self._statistics.moving
        self._batch_idx = batch_idx
        if self.trainer.world_size > 1:
            epoch = self._samplers.get(self.phase(self.current_epoch).epoch_stream)
            self.share = 1.0 if epoch is None else epoch.share(batch_idx)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Weigh the loss by this process's share of the samples, so that uneven shares count for what they are."""
        super().backward(loss if self.share == 1 else loss * self.share, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the model's gradients, before they are clipped, at the trainer's logging interval only."""
        if self._is_shown_step:
            self._curves.log_gradients(self, self.model, optimizer)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Step at the epoch's share of the rate; the schedule goes by the whole one."""
        groups, share = optimizer.param_groups, self.phase(epoch).rate
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * share
        try:
            super().optimizer_step(epoch, batch_idx, optimizer, *args, **kwargs)
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the accuracies, and stop at a loss that is not finite, without waiting for the device at every step."""
        self._curves.log_accuracies(self, batch, self.adapter)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._curves.watch(self, loss, batch_idx)
        self._looking.end_step(self.trainer)

    @property
    def _is_shown_step(self) -> bool:
        return bool(self.trainer.loggers) and self._curves.shows(self.trainer)

    def _answers(self, inputs: Any, size: int) -> Tensor:
        """Return the logits of one batch of ``size`` samples."""
        with self._normalising(size):
            return self.adapter.call(self.model, inputs)

    def _normalising(self, size: int) -> AbstractContextManager[None]:
        """Normalise a batch of one sample by the running statistics."""
        return by_running_statistics(running_layers(self.model).values()) if size == 1 else nullcontext()

    # ------------------------------------------------------------------ after the last step

    def on_train_end(self) -> None:
        """Stop the clock, refuse weights that a loss has spoilt, and hand times and accuracies to every callback."""
        refuse_idle_averaging(self.trainer, planned=False)
        self._curves.require_finite(self)
        self.settle_statistics()
        self._statistics.end(self.model)
        self._clock.stop(Runtime(self.trainer))
        self._validate_at_last()
        self._tell_times()
        self.gather_model()
        require_finite(self.model, f"the model that {type(self).__name__} unlearned")
        ended = self.trainer.callback_metrics.get(f"{self.task.measured}/retain")
        warn_of_collapse(self.source_accuracy, None if ended is None else float(ended), type(self).__name__)

    def _validate_at_last(self) -> None:
        """Have the accuracies be those of the model as it is now, or take them away."""
        if not self._looking.end(self.trainer, self.model):
            for name in (GAP, *(f"{self.task.measured}/{stream}" for stream in self._validated)):
                self.trainer.callback_metrics.pop(name, None)
        self._clock.stop(Runtime(self.trainer))  # the end of a validation starts it

    def _tell_times(self) -> None:
        told = {**self.times, **self.measured}
        for name, value in told.items():
            # callback_metrics alone come back from the processes of a spawning strategy
            self.trainer.callback_metrics[name] = torch.tensor(value, dtype=torch.float64)
        for logger in self.trainer.loggers:
            # the axis of all that Lightning logs; global_step counts the steps of a second optimizer too
            measured = {**told, **peak_memory(self.trainer.strategy.root_device)}
            logger.log_metrics(measured, step=batches_stepped(self.trainer))

    def on_fit_end(self) -> None:
        """Put the request on record, where there is a ledger; the evaluators have measured by now."""
        if (
            "time/total_s" not in self.trainer.callback_metrics
        ):  # nothing was trained, so no training has ended
            self._tell_facts()
            self._tell_times()
        if (data := self._split_data) is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            record_fit(
                self, data, source=self.source, model=self.model, exported=self._exported, answer=self.answer
            )

    def teardown(self, stage: str) -> None:
        """Leave the model whole, where training has not done so, and the Trainer as it was."""
        self.gather_model()
        self.validated = Validated()
        if stage == "fit":
            self._looking.let_go(self.trainer)
            self.trainer.reload_dataloaders_every_n_epochs = self._reload  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ looking at the model

    def on_validation_start(self) -> None:
        """Make a mean for each stream that is validated, and stop the clock: to look is none of the method's time."""
        self._clock.stop(Runtime(self.trainer))
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._statistics.keep(self.model)
        self.settle_statistics()
        data = self._split_data
        self._know_task(data)
        self._validated = ["validation"] if data is None else data.validation_streams
        self.validated.begin(self.trainer)
        for name in self._validated:
            self._add_mean(name)

    def on_validation_epoch_start(self) -> None:
        """Note which weights are looked at: by now a callback that averages weights has put the average in."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._looking.look(self.model)

    def on_validation_end(self) -> None:
        """Go on with a running fit, and with its clock."""
        self._statistics.put_back()
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._clock.start(Runtime(self.trainer))

    def on_test_start(self) -> None:
        """Put the model together: evaluators look at it when the test ends."""
        self.gather_model()
        self.settle_statistics()
        self._know_task(self._split_data)
        self.validated.begin(self.trainer)
        self._add_mean("test")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``accuracy/forget``, ``accuracy/retain`` and ``accuracy/test``, alike under any number of processes.

        Where non-members are like the forget set, ``accuracy/nonmember`` and ``gap/forget`` too.
        """
        self._log_accuracy(self._validated[dataloader_idx], batch)

    def on_validation_epoch_end(self) -> None:
        """Log how far forget set and non-members lie apart, where that says anything."""
        if "nonmember" in self._validated and "loss" in self.task.offers:
            means = self._validation
            self._curves.log_gap(
                self, cast(MeanMetric, means["forget"]), cast(MeanMetric, means["nonmember"])
            )

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log ``accuracy/test``."""
        self._log_accuracy("test", batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return posteriors, ``(B, C)``, of a batch with or without targets; outputs where the task has none."""
        inputs = self.adapter.inputs_of(batch)
        outputs = self.adapter.call(self.model, inputs).float()
        return self.task.posteriors(outputs) if "posteriors" in self.task.offers else outputs

    def _add_mean(self, name: str) -> None:
        if name not in self._validation:
            self._validation[name] = MeanMetric().to(self.device)
        # tensors that Trainer.validate left were made in inference mode, and a fit could not add to them
        cast(MeanMetric, self._validation[name]).reset()

    def _log_accuracy(self, name: str, batch: Any) -> None:
        def few(module: nn.Module) -> Tensor:
            return ask_few(self.adapter, self.adapter.split(batch)[0], module)

        with answering_fast(self.model) as answer:  # as evaluators do, which take the same answers
            (logits, targets), *_ = answer(lambda: self.stream_logits(batch), few)
        self.validated.add(name, self.model, logits, targets)
        if "loss" not in self.task.offers:  # nothing that could be measured of a sample
            return
        metric = cast(MeanMetric, self._validation[name])
        # with fewer samples than processes, the last of these are served repeated ones, which do not count
        data = self._split_data
        own = data is None or self.global_rank < data.stream_size(name)
        metric.update(self.task.measure(logits, targets), float(own))
        self.log(
            f"{self.task.measured}/{name}", metric, on_epoch=True, on_step=False, add_dataloader_idx=False
        )

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run must not do again."""
        checkpoint[STATE_KEY] = {
            "method": type(self).__qualname__,
            "prepared": self._prepared,
            "request": self._request,
            "moving": self._statistics.moving,
            "settled": self._statistics.settled,
            "measured": self.measured,
            **self._clock.so_far,
            # of every rank: Lightning calls this hook on all of them, and rank 0 writes the file
            "rng": Runtime(self.trainer).gather_objects(rng_state()),
            **self.preparation_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the checkpoint stopped."""
        training = trainer_of(self) is not None and self.trainer.state.fn == TrainerFn.FITTING
        state = resumable_state(checkpoint, self, training=training)
        if state is None:
            return
        if is_overridden("phase", self, UnlearningModule):
            end_epoch(checkpoint)
        self._prepared, self._request = state["prepared"], state["request"]
        self._statistics.moving, self._statistics.settled = state["moving"], state["settled"]
        vars(self._clock).update({name: state[name] for name in self._clock.so_far})
        self._rng_states, self.measured = state["rng"], dict(state.get("measured", {}))
        if self._prepared:
            self.load_preparation_state(state)

    # ------------------------------------------------------------------ checks

    def _try_source(self, data: UnlearningDataModule) -> None:
        """Look at the source's answers to one batch, and at its own loss, before hours are spent on preparing."""
        given = self.loss if self._given_loss else None
        trial = try_model(self.source, data, Runtime(self.trainer), self.adapter, given, step=True)
        self._use(trial.adapter)
        self.example = trial.logits[:1]
        known = data.known_targets() if "classes" in self.task.offers else None
        served = trial.targets if known is None else torch.as_tensor(np.delete(known, data.split.undrawn))
        self._check_outputs(trial.logits, served)
        self.source_accuracy = trial.right
        self.require_task()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            require_of(callback, self.task, data)
        self._plain_answers = trial.plain
        source, method = type(self.source).__name__, type(self).__name__
        if self.step == "loss" and not self._given_loss:
            warn_of_another_loss(trial, self.source, data, Runtime(self.trainer), method)
        if not self.follows_source_recipe:  # which needs a source's architecture, and not what it has learned
            warn_of_guessing(trial, source)

    def require_task(self) -> None:
        """Refuse a task that lacks what the method needs."""
        own = self._given_loss or self.step == "source"
        needs = tuple(need for need in self.needs if need != "loss" or not own)
        self.task.require(type(self).__name__, needs)

    def _know_task(self, data: UnlearningDataModule | None) -> None:
        """Find the task out, where no fit has."""
        if self.adapter.task is None and data is not None:
            with torch.inference_mode(False):
                trial = try_model(self.model, data, Runtime(self.trainer), self.adapter, step=False)
            self._use(trial.adapter)

    def _use(self, adapter: Adapter) -> None:
        self.adapter = adapter
        if not self._given_loss:
            self.loss = self.task.batch_loss

    def _check_outputs(self, logits: Tensor, targets: Tensor) -> None:
        self._outputs_checked = True
        require_logits(logits, targets, type(self.model).__name__, self.task)

    def _require_same_request(self, request: str) -> None:
        """Refuse another forget set than the one that was prepared for: tables and weights belong to that one."""
        if request != self._request:
            name = type(self).__name__
            raise ValueError(
                f"this {name} was prepared for another forget set than the datamodule's; for a new request build a "
                f"new one, {name}(method.model, ...), and give the datamodule previous='split.npz'"
            )

    def _transfer(self, hook: str, batch: Any, *args: Any) -> Any:
        """Apply the source's own transfer hook, to each stream where there are several."""
        own = getattr(self.model, hook)
        return of_each_stream(batch, self.streams, lambda part: own(part, *args))
