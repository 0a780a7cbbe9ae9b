"""What every unlearning method shares: the trainable copy, preparation, optimizer, curves, times and export."""

import contextvars
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torchmetrics import MeanMetric

from lightning_unlearn.core.compat import AnyRunningNorm, batches_stepped, trainer_of
from lightning_unlearn.core.files import model_hash, positions_hash
from lightning_unlearn.core.ledger import require_forgotten_before
from lightning_unlearn.core.peak_memory import peak_memory
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.loading import TRANSFER_HOOKS, BatchLoader, Indexed
from lightning_unlearn.data.splits import Split
from lightning_unlearn.engine.own_steps import own_loss, require_own_step
from lightning_unlearn.engine.statistics import estimate_statistics
from lightning_unlearn.engine.telling import facts_of_fit, send_facts
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.ensembles import Runtime, restore_rng_state, rng_state
from lightning_unlearn.functional import annealed
from lightning_unlearn.methods.base.answers import batch_accuracies, require_logits
from lightning_unlearn.methods.base.checks import require_choice
from lightning_unlearn.methods.base.export import require_finite, unchanged_tensors, unkept_of, write_export
from lightning_unlearn.methods.base.limits import refuse_idle_averaging, refuse_impossible
from lightning_unlearn.methods.base.recording import record_fit
from lightning_unlearn.methods.base.resuming import require_own_checkpoint
from lightning_unlearn.methods.base.source import Source, load_source
from lightning_unlearn.methods.base.spreading import SpreadableModule
from lightning_unlearn.methods.base.trial import try_model, warn_of_another_loss, warn_of_guessing
from lightning_unlearn.models.freezing import frozen_tensors, hold_statistics, mark_frozen
from lightning_unlearn.models.hparams import save_primitive_hyperparameters
from lightning_unlearn.models.statistics import (
    by_noted_statistics,
    by_running_statistics,
    noted_statistics,
    other_buffers,
    running_layers,
)
from lightning_unlearn.models.surgery import class_state, clone, listed

__all__ = ["Step", "UnlearningModule"]

Step = Literal["loss", "source"]
_STATE_KEY = "lightning_unlearn"


class UnlearningModule(SpreadableModule):
    """Base of the unlearning methods; a method writes its loss in ``training_step`` and little else.

    ``self.model`` is the trainable copy of the source and :attr:`source` the source itself, which is no
    submodule: it is in no ``state_dict``, no optimizer and no export. A method names the streams it trains on
    and may override :meth:`prepare`, which runs once inside ``fit``, before the first step, on the trainer's
    device; a resumed run does not prepare again.

    Args:
        source: The trained model: a module, a :class:`~lightning_unlearn.methods.base.source.SourceCheckpoint`, or
            the path of a checkpoint written under LightningCLI.
        optimizer: Makes the optimizer from the trainable parameters; ``None`` for Adam with learning rate 1e-3.
        lr_scheduler: Makes a schedule that is stepped once an epoch; ``None`` for a constant rate.
        loss: Classification loss of logits ``(B, C)`` and targets ``(B,)``; ``None`` for the cross-entropy.
        step: What is minimised on the retain set: ``"loss"``, the argument ``loss``, or ``"source"``, what the
            source's own ``training_step`` returns for its batch (class weights, label smoothing, focal or auxiliary
            losses, mixing of samples). Where the forget set goes through the model with it, a step that calls
            ``self(inputs)`` gets the answers of that pass, and any other costs one more pass over the batch. A warning
            names both losses where they differ.
        adapter: How batches and outputs are taken apart; ``None`` for the usual layouts.
        frozen: Names of the parameters, or of the modules that hold them, that the source was not trained on
            (``["backbone"]``, ``["*.bias"]``): no method changes, perturbs or redraws them. ``None`` for those that
            do not require a gradient, ``[]`` for none.

    Raises:
        TypeError: If ``source`` is neither a module nor a checkpoint.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint does not load, the source has no parameters or is frozen as a whole,
            ``frozen`` names none of its parameters, or its own step is asked for and it has none or optimizes
            manually.
    """

    streams: tuple[str, ...] = ("forget", "retain")
    epoch_stream: str = "forget"
    indexed_streams: tuple[str, ...] = ()
    follows_source_recipe: ClassVar[bool] = False
    default_lr: ClassVar[float] = 1e-3  # of Adam, where no optimizer is given
    anneals: ClassVar[bool] = (
        False  # whether the rate warms up and falls to almost nothing, where no schedule is given
    )
    keeps_source_tensors: ClassVar[bool] = (
        False  # whether leaving some as they are is what the method is about
    )

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
        require_choice("step", step, ("loss", "source"))
        save_primitive_hyperparameters(self)
        # LightningCLI hands hyper-parameters to whatever module is built next; in an empty context a source that
        # is loaded here keeps its own
        loaded = contextvars.Context().run(load_source, source)
        if next(loaded.parameters(), None) is None:
            raise ValueError(
                f"source: {type(loaded).__name__} has no parameters, so there is nothing to unlearn"
            )
        loaded = mark_frozen(loaded, frozen)
        self._source = [loaded]  # in a list, so that it is not registered as a submodule
        self.model = self.initial_model(loaded).train()  # a source may come in evaluation mode
        hold_statistics(self.model)
        self.adapter = adapter or Adapter()
        self.loss: Loss = loss or nn.functional.cross_entropy
        self._given_loss = loss is not None
        self.step = step
        if step == "source":
            require_own_step(self.model)
        self._plain_answers = False
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._prepared = False
        self._to_prepare = False
        self._prepare_seconds = 0.0
        self._unlearn_seconds = 0.0
        self._request = ""
        self._clock = 0.0
        self._exported: Path | None = None
        self._losses: Tensor | None = None
        self._answered: list[tuple[Tensor, Tensor]] = []  # logits and targets of a step that is shown
        self._validated: list[str] = []
        self._moving: list[str] = []  # layers whose running statistics follow the training batches
        self._settled = True  # whether these hold nothing of the forget set
        self._looked_at: list[tuple[Tensor, Tensor]] = []  # statistics of a fit that is being looked at
        self._buffers_before: dict[str, Tensor] = {}  # others, as they were before the first step
        self._held: list[tuple[nn.Module, dict[str, Tensor]]] = []
        self.share = 1.0
        self._rng_states: list[Mapping[str, Any]] | None = None
        self._outputs_checked = False
        self._validation = nn.ModuleDict()
        for hook in TRANSFER_HOOKS:
            # Lightning asks whether a hook is overridden, so ours exists only where the source's does
            if isinstance(self.model, L.LightningModule) and is_overridden(hook, self.model):
                setattr(self, hook, partial(self._transfer, hook))

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
        """Do what a run that was prepared before must do again, because no checkpoint holds it.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.
        """

    def stream_positions(self, stream: str, split: Split) -> np.ndarray[Any, Any] | None:
        """Return which training positions to take for a stream; ``None`` for all of it."""
        return None

    # ------------------------------------------------------------------ the model

    @property
    def source(self) -> nn.Module:
        """The source model, never changed; evaluators use it as the control that forgot nothing."""
        return self._source[0]

    def train(self, mode: bool = True) -> "UnlearningModule":
        """Set the mode; running statistics of frozen layers do not follow the data."""
        super().train(mode)
        if mode:
            hold_statistics(self.model)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the unlearned model as the source is called."""
        return self.model(*args, **kwargs)

    def stream_logits(self, *batches: Any) -> list[tuple[Tensor, Tensor]]:
        """Return logits ``(B, C)`` and targets ``(B,)`` of several streams' batches.

        Where layers keep running statistics, the last batch (name the retain set there) goes through first, and
        the others are normalised by its statistics, as the exported model will normalise them by those of the
        retain set. Normalised by its own, a forget set would be forgotten in training mode only. Elsewhere inputs
        that are tensors of one shape go through together, which halves the fixed price of a step.

        A batch of one sample has no statistics of its own, and is normalised by the running ones.
        """
        parts = [self.adapter.split(b.batch if isinstance(b, Indexed) else b) for b in batches]
        inputs, sizes = [part[0] for part in parts], [len(part[1]) for part in parts]
        layers = [layer for layer in running_layers(self.model).values() if layer.training]
        if len(inputs) > 1 and layers:
            logits = self._normalised_alike(inputs, sizes, layers)
        elif all(isinstance(x, Tensor) and x.shape[1:] == inputs[0].shape[1:] for x in inputs):
            joint = self._answers(torch.cat(inputs) if len(inputs) > 1 else inputs[0], sum(sizes))
            logits = list(torch.split(joint, sizes))
        else:
            logits = [self._answers(x, size) for x, size in zip(inputs, sizes, strict=True)]
        if not self._outputs_checked:
            self._check_outputs(logits[0], torch.cat([targets for _, targets in parts]))
        answers = [(values, targets) for values, (_, targets) in zip(logits, parts, strict=True)]
        if trainer_of(self) is not None and self.trainer.training and self._is_shown_step:
            self._answered += [(values.detach(), targets) for values, targets in answers]
        return answers

    def _normalised_alike(
        self, inputs: list[Any], sizes: list[int], layers: list[AnyRunningNorm]
    ) -> list[Tensor]:
        """Return the logits of several batches, all normalised by the statistics of the last."""
        if sizes[-1] == 1:
            with by_running_statistics(layers):
                return [self.adapter.call(self.model, x) for x in inputs]
        with noted_statistics(layers) as noted:
            last = self.adapter.call(self.model, inputs[-1])
        logits = []
        for x in inputs[:-1]:
            with by_noted_statistics(noted):
                logits.append(self.adapter.call(self.model, x))
        return [*logits, last]

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
        with by_running_statistics(running_layers(self.model).values() if len(targets) == 1 else ()):
            return own_loss(cast(L.LightningModule, self.model), batch, batch_idx, known)

    def _answers(self, inputs: Any, size: int) -> Tensor:
        """Return the logits of one batch of ``size`` samples."""
        with by_running_statistics(running_layers(self.model).values() if size == 1 else ()):
            return self.adapter.call(self.model, inputs)

    # ------------------------------------------------------------------ running statistics

    def settle_statistics(self) -> None:
        """Estimate the running statistics anew on the retain set, so that they hold nothing of the forget set.

        What was forgotten went through normalisation layers in training. This is done when training ends; evaluators
        ask for it too, since a finished run that is resumed trains no more. A collective, like a forward pass.
        """
        if self._moving and not self._settled and self._has_data:
            estimate_statistics(self.model, self._moving, self.data, Runtime(self.trainer), self.adapter)
            self._settled = True

    def _name_moved_buffers(self) -> None:
        """Warn of buffers that followed the batches and are no statistics that could be estimated anew."""
        after = other_buffers(self.model) if self._buffers_before else {}
        moved = [
            name
            for name, value in self._buffers_before.items()
            if name in after and not torch.equal(value, after[name])
        ]
        self._buffers_before = {}
        if moved:
            rank_zero_warn(
                f"the buffers {listed(moved)} changed while the forget set went through, and may hold something of it; "
                "only batch and instance normalisations can be estimated anew. Reset them, or compute them on retained "
                "samples, before you export"
            )

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Have the model be as it would be exported, for a look at it in the middle of a fit."""
        self._begin_look()
        try:
            yield
        finally:
            self._end_look()

    def _begin_look(self) -> None:
        if not self._settled:
            layers = running_layers(self.model)
            buffers = [buffer for name in self._moving for buffer in layers[name].buffers(recurse=False)]
            self._looked_at = [(buffer, buffer.clone()) for buffer in buffers]
            self.settle_statistics()

    def _end_look(self) -> None:
        if self._looked_at:
            for buffer, value in self._looked_at:
                buffer.copy_(value)
            self._settled, self._looked_at = False, []

    # ------------------------------------------------------------------ Lightning's hooks

    def configure_callbacks(self) -> list[L.Callback]:
        """Refuse what the method cannot do; of all hooks the one before Lightning's checks, which name no method."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            refuse_impossible(self, self.trainer)
        return []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and schedule that were asked for, or the method's own."""
        model = self.model
        if (
            self._optimizer is None
            and self.follows_source_recipe
            and isinstance(model, L.LightningModule)
            and is_overridden("configure_optimizers", model)
        ):
            return model.configure_optimizers()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        make = self._optimizer or partial(torch.optim.Adam, lr=self.default_lr)
        optimizer = make(trainable)
        config: dict[str, Any] = {}
        if self._lr_scheduler is not None:
            config["scheduler"] = schedule = self._lr_scheduler(optimizer)
            if monitor := getattr(schedule, "monitor", None):
                config["monitor"] = monitor
        elif self.anneals:
            rate = partial(annealed, steps=self.total_steps)
            config = {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": config} if config else optimizer  # type: ignore[return-value]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole fit.

        Raises:
            ValueError: If the Trainer does not know, as with ``max_epochs=-1``.
        """
        trainer = self.trainer
        # not estimated_stepping_batches, which sets the loaders up before a resumed run knows where they stopped
        batches = len(self.data.train_dataloader()[self.epoch_stream])
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        steps = min(
            epochs * math.ceil(batches / trainer.accumulate_grad_batches),
            math.inf if trainer.max_steps == -1 else trainer.max_steps,
        )
        if math.isinf(steps):
            raise ValueError(
                f"{type(self).__name__} goes by the number of steps, which this Trainer does not know; give it "
                "max_epochs=... or max_steps=..."
            )
        return int(steps)

    def on_fit_start(self) -> None:
        """Check the source against the data, and prepare, once in the life of a run."""
        refuse_idle_averaging(self.trainer, planned=True)
        self._exported = None
        if kept := list(frozen_tensors(self.source)):
            rank_zero_info(
                f"{type(self).__name__}: {listed(kept)} are frozen in the source, so they were trained on nobody and "
                "stay as they are; if they were trained, give frozen=[]"
            )
        if isinstance(getattr(self.trainer, "datamodule", None), UnlearningDataModule):
            self._try_source()
            if self.data.ledger is not None:
                before = model_hash(class_state(self.source))
                require_forgotten_before(self.data.ledger, before, self.data.split.previous)
        # some strategies read a checkpoint only after this hook; whether it was prepared is then not known yet
        self._to_prepare = True
        if self.trainer.ckpt_path is None or not self.trainer.strategy.restore_checkpoint_after_setup:
            self._prepare_once()

    def _prepare_once(self) -> None:
        runtime = Runtime(self.trainer)
        self._to_prepare = False
        if self._prepared:
            self._require_same_request()
            if is_overridden("prepare_resumed", self, UnlearningModule):
                self.prepare_resumed(self.data, runtime)
            return
        start = self._now(runtime)
        if is_overridden("prepare", self, UnlearningModule):
            with self.whole_model(runtime):
                self.prepare(self.data, runtime)
        self._prepare_seconds += self._now(runtime) - start
        self._prepared = True
        data = getattr(self.trainer, "datamodule", None)
        self._request = (
            positions_hash(data.split.forget, b"request") if isinstance(data, UnlearningDataModule) else ""
        )

    @property
    def _has_data(self) -> bool:
        return isinstance(getattr(trainer_of(self), "datamodule", None), UnlearningDataModule)

    @property
    def data(self) -> UnlearningDataModule:
        """The split data of the running fit.

        Raises:
            TypeError: If the trainer was given plain loaders, which cannot say who is forgotten.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, UnlearningDataModule):
            raise TypeError(
                f"{type(self).__name__} needs to know who is forgotten: call trainer.fit(method, "
                f"UnlearningDataModule(your_datamodule, forget=...)), got {type(data).__name__}"
            )
        return data

    def on_train_start(self) -> None:
        """Put back the random state of a resumed run, and start the clock."""
        if self._to_prepare:
            self._prepare_once()
        self._buffers_before = other_buffers(self.model) if "forget" in self.streams else {}
        self._held = [
            (layer, {name: buffer.clone() for name, buffer in layer.named_buffers()})
            for layer in running_layers(self.model).values()
            if not layer.training
        ]
        if self._rng_states is not None:
            if len(self._rng_states) == self.trainer.world_size:
                restore_rng_state(self._rng_states[self.trainer.global_rank])
            self._rng_states = None
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, UnlearningDataModule) and self.trainer.loggers:
            facts = facts_of_fit(self, self.source, data)
            for logger in self.trainer.loggers:
                send_facts(logger, facts)
        self._clock = self._now(Runtime(self.trainer))

    def on_train_epoch_start(self) -> None:
        """Put back the running statistics that are not to move: StochasticWeightAveraging resets all there are."""
        for layer, buffers in self._held:
            for name, value in buffers.items():
                layer.get_buffer(name).copy_(value)
        if not self.follows_source_recipe:  # statistics that start afresh see nobody but whom they train on
            training = [name for name, layer in running_layers(self.model).items() if layer.training]
            self._moving = list(dict.fromkeys(self._moving + training))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the model's gradients, before they are clipped, at the trainer's logging interval only."""
        if not self._is_shown_step:
            return
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None and id(p) in stepped]
        if gradients:  # none where a method steps a model of its own, such as a critic
            norm = torch.nn.utils.get_total_norm(gradients)
            self.log("train/gradient_norm", norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note which part of the step's samples this process has, and that the statistics begin to follow it."""
        self._settled = not self._moving
        loaders = self.trainer.train_dataloader
        loader = loaders.get(self.epoch_stream) if isinstance(loaders, Mapping) else None
        self.share = loader.sampler.share(batch_idx) if isinstance(loader, BatchLoader) else 1.0

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Weigh the loss by this process's share of the samples, so that uneven shares count for what they are."""
        super().backward(loss if self.share == 1 else loss * self.share, *args, **kwargs)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the accuracies, and stop at a loss that is not finite, without waiting for the device at every step."""
        self._log_batch_accuracies(batch)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return
        if loss.device.type == "cpu":
            self._require_finite(loss)
            return
        self._losses = loss.detach() if self._losses is None else self._losses + loss.detach()
        if batch_idx % self._log_interval == 0:
            self._require_finite(self._losses)

    def on_train_end(self) -> None:
        """Stop the clock, refuse weights that a loss has spoilt, and hand the times to every callback."""
        refuse_idle_averaging(self.trainer, planned=False)
        if self._losses is not None:
            self._require_finite(self._losses)
            self._losses = None
        self.settle_statistics()
        self._name_moved_buffers()
        self._unlearn_seconds += self._now(Runtime(self.trainer)) - self._clock
        self._clock = 0.0
        for name, seconds in self.times.items():
            # callback_metrics alone come back from the processes of a spawning strategy
            self.trainer.callback_metrics[name] = torch.tensor(seconds, dtype=torch.float64)
        for logger in self.trainer.loggers:
            # the axis of all that Lightning logs; global_step counts the steps of a second optimizer too
            stepped = batches_stepped(self.trainer)
            logger.log_metrics({**self.times, **peak_memory(self.device)}, step=stepped)
        self.gather_model()
        require_finite(self.model, f"the model that {type(self).__name__} unlearned")

    def on_fit_end(self) -> None:
        """Put the request on record, where there is a ledger; the evaluators have measured by now."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, UnlearningDataModule) or data.ledger is None or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        record_fit(
            data.ledger,
            self.trainer,
            self,
            split=data.split,
            seed=data.order_seed,
            source=self.source,
            model=self.model,
            exported=self._exported,
        )

    def teardown(self, stage: str) -> None:
        """Leave the model whole, where training has not done so."""
        self.gather_model()

    @property
    def times(self) -> dict[str, float]:
        """Wall-clock seconds: ``time/prepare_s``, ``time/unlearn_s`` and their sum ``time/total_s``."""
        prepare, unlearn = self._prepare_seconds, self._unlearn_seconds
        return {"time/prepare_s": prepare, "time/unlearn_s": unlearn, "time/total_s": prepare + unlearn}

    def on_validation_start(self) -> None:
        """Make a mean for each stream that is validated, and stop the clock: to look is none of the method's time."""
        if self._clock:
            self._unlearn_seconds += self._now(Runtime(self.trainer)) - self._clock
            self._clock = 0.0
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._begin_look()
        else:
            self.settle_statistics()
        data = getattr(self.trainer, "datamodule", None)
        names = data.validation_streams if isinstance(data, UnlearningDataModule) else ["validation"]
        self._validated = names
        for name in names:
            if name not in self._validation:
                self._validation[name] = MeanMetric().to(self.device)

    def on_validation_end(self) -> None:
        """Go on with a running fit, and with its clock."""
        self._end_look()
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._clock = self._now(Runtime(self.trainer))

    def on_test_start(self) -> None:
        """Put the model together: evaluators look at it when the test ends."""
        self.gather_model()
        self.settle_statistics()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``accuracy/forget``, ``accuracy/retain`` and ``accuracy/test``, alike under any number of processes."""
        self._log_accuracy(self._validated[dataloader_idx], batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log ``accuracy/test``."""
        if "test" not in self._validation:
            self._validation["test"] = MeanMetric().to(self.device)
        self._log_accuracy("test", batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return posteriors, ``(B, C)``, of a batch with or without targets."""
        inputs = self.adapter.inputs_of(batch)
        return self.adapter.call(self.model, inputs).float().softmax(dim=-1)

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run must not do again."""
        checkpoint[_STATE_KEY] = {
            "method": type(self).__qualname__,
            "prepared": self._prepared,
            "request": self._request,
            "moving": self._moving,
            "settled": self._settled,
            "prepare_s": self._prepare_seconds,
            "unlearn_s": self._unlearn_seconds + (time.perf_counter() - self._clock if self._clock else 0.0),
            # of every rank: Lightning calls this hook on all of them, and rank 0 writes the file
            "rng": Runtime(self.trainer).gather_objects(rng_state()),
            **self.preparation_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the checkpoint stopped."""
        state = checkpoint.get(_STATE_KEY)
        if checkpoint.get("state_dict"):  # shards, which a strategy reads by itself, are not among it
            training = trainer_of(self) is not None and self.trainer.state.fn == TrainerFn.FITTING
            writer = None if state is None else state.get("method")
            require_own_checkpoint(checkpoint, self, writer, training=training)
        if state is None:
            return
        self._prepared = state["prepared"]
        self._request = state["request"]
        self._moving, self._settled = state["moving"], state["settled"]
        self._prepare_seconds = state["prepare_s"]
        self._unlearn_seconds = state["unlearn_s"]
        self._rng_states = state["rng"]
        if self._prepared:
            self.load_preparation_state(state)

    def preparation_state(self) -> dict[str, Any]:
        """Return what :meth:`prepare` made and a resumed run needs, as tensors and plain values."""
        return {}

    def load_preparation_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`preparation_state` returned."""

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
            ValueError: If the running statistics are those of training, which the forget set went through.
        """
        if not self._settled:
            raise ValueError(
                f"the running statistics of {self._moving[0]} and {len(self._moving) - 1} more layers are those of "
                "training, which the forget set went through: a checkpoint from the middle of a fit has no others. "
                "Run trainer.validate(method, datamodule) first, which estimates them anew on the retain set"
            )
        kept = unchanged_tensors(self.source, self.model, copies_only=self.keeps_source_tensors)
        if kept and self._prepared:
            rank_zero_warn(
                f"the export holds {len(kept)} tensors that are the source's, bit for bit: {', '.join(kept[:5])}"
                f"{', ...' if len(kept) > 5 else ''}. If they were trained on forgotten samples (a moving average of "
                "the weights, say), the model still remembers; reset or update them before exporting"
            )
        self._exported = write_export(self.model, path, weights_only=weights_only)
        if not weights_only and isinstance(self.model, L.LightningModule) and (lost := unkept_of(self.model)):
            kind, given = type(self.model).__name__, ", ".join(f"{name}=..." for name in lost)
            rank_zero_warn(
                f"the export cannot hold the arguments {', '.join(lost)} of {kind}, which are no plain values; load it "
                f"with {kind}.load_from_checkpoint(path, {given}), or write a state dict with "
                "export(path, weights_only=True)"
            )
        return self._exported

    # ------------------------------------------------------------------ within

    def log_terms(self, **terms: Tensor) -> None:
        """Log the terms of the loss, at the trainer's logging interval only.

        Lightning would throw away what is logged in between, after it has cost a quarter of a millisecond each;
        the counter is the one that its own interval counts. An epoch's last step is logged for callbacks that
        watch a loss.
        """
        stepped = batches_stepped(self.trainer) + 1
        if stepped % self._log_interval == 0 or self.trainer.is_last_batch:
            for name, value in terms.items():
                self.log(f"train/{name}", value.detach(), prog_bar=name == "loss")

    def _log_batch_accuracies(self, batch: Any) -> None:
        """Log the share of right answers in each stream's batch, of the answers that the loss was made of."""
        answered, self._answered = self._answered, []
        if answered and isinstance(batch, Mapping):
            for name, accuracy in batch_accuracies(answered, batch, self.adapter).items():
                self.log(f"train/accuracy_{name}", accuracy)

    @property
    def _is_shown_step(self) -> bool:
        """Whether there is a logger, and the running step is one that it is shown."""
        stepped = batches_stepped(self.trainer) + 1
        return bool(self.trainer.loggers) and stepped % self._log_interval == 0

    @property
    def _log_interval(self) -> int:
        return max(1, int(self.trainer.log_every_n_steps))  # type: ignore[attr-defined]

    def _log_accuracy(self, name: str, batch: Any) -> None:
        (logits, targets), *_ = self.stream_logits(batch)
        metric = cast(MeanMetric, self._validation[name])
        # with fewer samples than processes, the last of these are served repeated ones, which do not count
        data = getattr(self.trainer, "datamodule", None)
        own = not isinstance(data, UnlearningDataModule) or self.global_rank < data.stream_size(name)
        metric.update((logits.argmax(dim=-1) == targets).float(), float(own))
        self.log(f"accuracy/{name}", metric, on_epoch=True, on_step=False, add_dataloader_idx=False)

    def _try_source(self) -> None:
        """Look at the source's answers to one batch, and at its own loss, before hours are spent on preparing."""
        trial = try_model(self.source, self.data, Runtime(self.trainer), self.adapter, self.loss, step=True)
        known = self.data.known_targets()
        self._check_outputs(trial.logits, trial.targets if known is None else torch.as_tensor(known))
        self._plain_answers = trial.plain
        source, method = type(self.source).__name__, type(self).__name__
        if self.step == "loss" and not self._given_loss:
            warn_of_another_loss(trial, source, method)
        if not self.follows_source_recipe:  # which needs a source's architecture, and not what it has learned
            warn_of_guessing(trial, source)

    def _check_outputs(self, logits: Tensor, targets: Tensor) -> None:
        self._outputs_checked = True
        require_logits(logits, targets, type(self.model).__name__)

    def _require_same_request(self) -> None:
        """Refuse another forget set than the one that was prepared for: tables and weights belong to that one."""
        data = getattr(self.trainer, "datamodule", None)
        now = positions_hash(data.split.forget, b"request") if isinstance(data, UnlearningDataModule) else ""
        if now != self._request:
            raise ValueError(
                f"this {type(self).__name__} was prepared for another forget set than the datamodule's; for a new "
                f"request build a new one, {type(self).__name__}(method.model, ...), and give the datamodule "
                "previous='split.npz'"
            )

    def _require_finite(self, loss: Tensor) -> None:
        value = float(loss)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of {type(self).__name__} became {value} at step {self.trainer.global_step}; check the "
                "data for NaN or infinite values, or lower the learning rate"
            )

    def _transfer(self, hook: str, batch: Any, *args: Any) -> Any:
        """Apply the source's own transfer hook, to each stream where there are several."""
        own = getattr(self.model, hook)
        if not (isinstance(batch, dict) and tuple(batch) == tuple(self.streams)):
            return own(batch, *args)
        return {
            name: part._replace(batch=own(part.batch, *args))
            if isinstance(part, Indexed)
            else own(part, *args)
            for name, part in batch.items()
        }

    @staticmethod
    def _now(runtime: Runtime) -> float:
        runtime.synchronize()
        return time.perf_counter()
