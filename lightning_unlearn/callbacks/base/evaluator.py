"""Decide when an evaluator fires, and leave everything as it was found."""

import math
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_unlearn.callbacks.base.audit import Audit, Controls, forget_answers, try_answers
from lightning_unlearn.callbacks.base.watching import Watcher
from lightning_unlearn.core.checks import one_of
from lightning_unlearn.core.compat import batches_stepped
from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.core.terminal import boxed, say
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import StreamConsumer, UnlearningDataModule
from lightning_unlearn.engine.answering import answered, measure_of
from lightning_unlearn.engine.telling import Results, facts_of_fit, send_facts, send_results
from lightning_unlearn.ensembles import Runtime, isolated_rng
from lightning_unlearn.methods.base import UnlearningModule
from lightning_unlearn.methods.base.source import require_other
from lightning_unlearn.methods.base.trial import require_of
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models.fresh import built_by
from lightning_unlearn.models.sharding import is_sharded
from lightning_unlearn.models.surgery import content_of, evaluating, uncompiled

T = TypeVar("T")


class Evaluator(L.Callback):
    """Base of the evaluators: measures once when ``fit`` ends, and at the end of ``Trainer.test``.

    The scores go to ``trainer.callback_metrics``, to every logger and, where there is a folder for them, to
    ``<name>.json``; beside each is the same score of the source model and of the retrained model when those
    are known, as ``source/...`` and ``retrain/...``. Weights, random state, training modes, gradients and device
    of the run are afterwards as they were before.

    Args:
        data: The split data; ``None`` takes the trainer's, if that is an
            :class:`~lightning_unlearn.data.UnlearningDataModule`. A project that is not about unlearning
            passes its own data wrapped in one here.
        source: The source model, the control that forgot nothing; ``None`` takes the unlearning method's.
        retrained: The retrained model, the control that forgot everything.
        adapter: How batches and outputs are taken apart; ``None`` for the unlearning method's, or the usual.
        fresh: Builds an untrained model, for evaluators that train models of their own; ``None`` draws as
            :func:`~lightning_unlearn.models.fresh_copy` says.
        name: Name of the scores' file, and of the evaluator in messages; needed when a trainer has two of a kind.
        dirpath: Folder of the results' file; ``None`` for the logger's, and none without a logger.
        seed: Seed of whatever is drawn; ``None`` for the data's.
        on_error: ``"report"`` warns and lets the run and the other evaluators finish, ``"raise"`` stops. With
            several processes an error always stops all of them.
        controls: Whether to measure the known controls too.

    Attributes:
        metrics: What the evaluator measures: each metric's name, with :attr:`default_name` where it begins with the
            evaluator's, and how it is labelled, read and judged on the page, in the table and in figures.
    """

    default_name: ClassVar[str]
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {}
    needs: tuple[str, ...] = ("losses",)  # what of a task it speaks of
    of_streams: bool = (
        False  # whether it asks by :meth:`Audit.outputs` alone, so that embeddings can be judged
    )
    copies_model: ClassVar[bool] = False  # whether the audited model is copied, which no sharded model can be
    keeps: ClassVar[str | None] = None  # a comparison's folder for what is used again, given as ``cache``
    cache: Path | None = None
    # of controls on the forget set, where a comparison audits many models beside the same ones
    answered: Controls | None = None

    def __init__(
        self,
        *,
        data: UnlearningDataModule | None = None,
        source: nn.Module | None = None,
        retrained: nn.Module | None = None,
        adapter: Adapter | None = None,
        fresh: Callable[[], nn.Module] | None = None,
        name: str | None = None,
        dirpath: str | Path | None = None,
        seed: int | None = None,
        on_error: Literal["report", "raise"] = "report",
        controls: bool = True,
    ) -> None:
        if data is not None and not isinstance(data, UnlearningDataModule):
            raise TypeError(
                f"data must be an UnlearningDataModule, got {type(data).__name__}; write "
                "UnlearningDataModule(your_datamodule, forget=...)"
            )
        one_of("on_error", on_error, "report", "raise")
        self.data = data
        self.source = None if source is None else uncompiled(source)
        self.retrained = None if retrained is None else uncompiled(retrained)
        self.adapter = adapter
        self.fresh = fresh
        self.name = name or self.default_name
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.seed = seed
        self.on_error = on_error
        self.controls = controls
        self.results: dict[str, float] = {}
        self.details: dict[str, Any] = {}
        self.error: str | None = None
        self._known: Adapter | None = None  # the adapter, once the task was found out
        self._made: tuple[Any, list[weakref.ref[Any]], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what :meth:`once` made, whose weak references cannot go to another process."""
        return {**self.__dict__, "_made": None}

    # ------------------------------------------------------------------ what an evaluator writes

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Measure one model.

        Args:
            model: The model under audit, or a control; on the device and in evaluation mode.
            audit: Data, controls and shared answers; plain values for the results' file go into its ``details``.

        Returns:
            Metric names and values. A metric that cannot be measured is left out.
        """
        raise NotImplementedError

    def declared(self) -> dict[str, DeclaredMetric]:
        """Return :attr:`metrics` under the names that this evaluator gives them, one of another name marked by it."""
        if self.name == self.default_name:
            return dict(self.metrics)
        own, renamed = f"{self.default_name}/", {}
        for name, metric in self.metrics.items():
            if name.startswith(own):
                name = f"{self.name}/{name.removeprefix(own)}"
                marked = f"{metric.label} ({self.name})", f"{metric.short} ({self.name})"
                metric = replace(metric, label=marked[0], short=marked[1])
            renamed[name] = metric
        return renamed

    def require(self, data: UnlearningDataModule) -> None:
        """Refuse data that lack what this evaluator needs, before anything is trained.

        Args:
            data: The split data, set up.

        Raises:
            ValueError: If something is missing.
        """

    def watching(self) -> Watcher | None:
        """Return a new callback for the Trainer that fits a method, where the course of training is to be shown.

        A comparison audits finished models and would see no course. What the callback records is added to the
        details of this evaluator for the model that was fitted.

        Returns:
            The watcher of one fit; ``None``, as here, where the finished model says it all.
        """
        return None

    def once(self, key: Any, subjects: Sequence[Any], make: Callable[[], T]) -> T:
        """Make something that takes long, or return what was made for the same objects the last time.

        Args:
            key: What it depends on beside the objects, such as a seed.
            subjects: The objects it depends on, each by itself, and a model by its weights too.
            make: Makes it.
        """
        models = [subject for subject in subjects if isinstance(subject, nn.Module)]
        # a part of a model may be the same where another process's has changed, so no sharded one is known again
        key = key, [object() if is_sharded(model) else content_of(model) for model in models]
        if self._made is not None:
            known, references, made = self._made
            # weak references: an id alone could belong to a new object after the old one is gone
            if known == key and [reference() for reference in references] == list(subjects):
                return made  # type: ignore[no-any-return]
        made = make()
        self._made = key, [weakref.ref(subject) for subject in subjects], made
        return made

    def file_for(self, model: nn.Module, audit: Audit, ending: str) -> Path | None:
        """Return where this process may write a file beside the results' file; ``None`` for a control."""
        trainer = audit.runtime.trainer
        folder = None if trainer is None else self._folder(trainer)  # every rank must ask
        control = model is audit.source or model is audit.retrained
        return None if folder is None or control or audit.runtime.rank else folder / f"{self.name}{ending}"

    def data_of(self, trainer: L.Trainer) -> UnlearningDataModule:
        """Return the split data: the evaluator's own, or the trainer's."""
        data: UnlearningDataModule = self.data or trainer.datamodule  # type: ignore[attr-defined]
        return data

    def adapter_for(self, pl_module: L.LightningModule) -> Adapter:
        """Return how batches are taken apart; a module that is no method may call anything its "adapter"."""
        theirs = _adapter_of(pl_module)
        adapter = self._known or self.adapter or theirs
        return adapter if adapter.task else adapter.of_task(theirs.kind)

    # ------------------------------------------------------------------ when it fires

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check early, before hours of training, that there is something to evaluate on."""
        if stage not in ("fit", "test"):
            return
        forget_answers(trainer)
        self._known = None
        twins = [c for c in trainer.callbacks if isinstance(c, Evaluator) and c.name == self.name]  # type: ignore[attr-defined]
        if len(twins) > 1:
            raise ValueError(
                f"two evaluators are called {self.name!r}, so one's scores would replace the other's; give one "
                f"of them another name, as in {type(self).__name__}(name='{self.name}_2')"
            )
        if self.data is not None:
            if trainer.is_global_zero:
                self.data.prepare_data()
            trainer.strategy.barrier()
            self.data.setup("fit")
        elif not isinstance(trainer.datamodule, UnlearningDataModule):  # type: ignore[attr-defined]
            raise TypeError(
                f"{type(self).__name__} needs to know who is forgotten: pass {type(self).__name__}(data="
                "UnlearningDataModule(your_datamodule, forget=...)), or fit with such a datamodule"
            )
        self.require(self.data_of(trainer))
        if isinstance(pl_module, UnlearningModule):
            pl_module.validated.wanted = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a model that could not be evaluated, as soon as that is known; a method looks for itself."""
        self._refuse_sharded(pl_module)
        if isinstance(pl_module, UnlearningModule) and self.retrained is not None:
            require_other(pl_module.source, self.retrained)
        if not isinstance(pl_module, StreamConsumer):
            self._try_answers(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a model that could not be evaluated."""
        self._refuse_sharded(pl_module)
        self._try_answers(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the model that was fitted."""
        metrics = self._fire(trainer, pl_module)
        trainer.callback_metrics.update({k: torch.tensor(v, dtype=torch.float64) for k, v in metrics.items()})
        if trainer.loggers:
            facts, results = self._for_loggers(trainer, pl_module)
            for logger in trainer.loggers:
                send_facts(logger, facts)
                send_results(logger, results)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the model that is tested; the scores are among those that ``Trainer.test`` returns."""
        # MPS lacks float64
        precise = torch.float32 if pl_module.device.type == "mps" else torch.float64
        for name, value in self._fire(trainer, pl_module).items():
            pl_module.log(name, torch.tensor(value, dtype=precise))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of the shared answers."""
        forget_answers(trainer)

    # ------------------------------------------------------------------ within

    def _fire(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        data = self.data_of(trainer)
        # only of a method of ours: another module may call anything of its own "source"
        ours = isinstance(pl_module, StreamConsumer)
        source = getattr(pl_module, "source", None) if self.source is None and ours else self.source
        seed = derive_seed(data.order_seed if self.seed is None else self.seed, "evaluate", self.default_name)
        start = time.perf_counter()
        folder = self._folder(trainer)
        self.results, self.details, self.error = {}, {}, None
        try:
            with (
                isolated_rng(seed),
                torch.inference_mode(False),  # Trainer.test runs in it, and nothing could be trained there
                torch.enable_grad(),
                _attached(data, trainer),
                _ready(pl_module, Runtime(trainer)),
            ):
                if ours:
                    # a finished run that is resumed trains no more, and its checkpoint is from before the end
                    getattr(pl_module, "settle_statistics", lambda: None)()
                adapter = self.adapter_for(pl_module)
                audit = Audit(trainer, data, adapter, source, self.retrained, seed, self.answered)
                if self.fresh is not None:
                    built_by(audit.source or pl_module, self.fresh)
                for prefix, control in (("source", audit.source), ("retrain", audit.retrained)):
                    if self.controls and control is not None:
                        scores = self.evaluate(control, audit)
                        self.results.update({f"{prefix}/{name}": value for name, value in scores.items()})
                audit.details = {}
                scores = self.evaluate(pl_module, audit)
                self.results.update(scores)
                self.details = {**audit.details, "seconds": time.perf_counter() - start}
                _require_finite(self.results, "")
                _require_finite(self.details, "details")
                self._answer(trainer, pl_module, audit)
        except Exception as error:  # an evaluator of anybody's must not lose the trained model
            if self.on_error == "raise" or trainer.world_size > 1:
                raise  # with several processes the others may wait in this evaluator; none could go on alone
            self.results, self.details, self.error = {}, {}, f"{type(error).__name__}: {error}"
            rank_zero_warn(
                f"the evaluator {self.name!r} failed; the model and the other evaluators are not affected.\n"
                f"{traceback.format_exc()}"
            )
        if folder is not None and trainer.is_global_zero:
            content = {"metrics": self.results, "details": self.details, "error": self.error}
            write_json_atomic(folder / f"{self.name}.json", content)
        return self.results

    def _answer(self, trainer: L.Trainer, method: L.LightningModule, audit: Audit) -> None:
        """Say, as the last evaluator of a fit, whether it forgot what it was to forget; the ledger notes it."""
        last = [each for each in trainer.callbacks if isinstance(each, Evaluator)][-1] is self  # type: ignore[attr-defined]
        own = audit.data is trainer.datamodule and not trainer.fast_dev_run  # type: ignore[attr-defined]
        fitted = trainer.state.fn == TrainerFn.FITTING and isinstance(method, UnlearningModule)
        if not (last and own and fitted) or audit.source is None:
            return
        assert isinstance(method, UnlearningModule)
        found = answered(
            audit.known(audit.source),
            audit.known(method),
            measure_of(audit.data, audit.adapter.kind.judged_as),
            retrained=None if audit.retrained is None else audit.known(audit.retrained),
            seconds=method.times.get("time/total_s"),
            unlike=audit.data.unlike_groups,
            steps=batches_stepped(trainer),
        )
        if found is not None:
            method.answer = found.record()
            if trainer.is_global_zero:
                say(boxed(found.text))

    def _for_loggers(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> tuple[dict[str, Any], Results]:
        """Return what a dashboard's reader asks about a run, and what loggers may show of it."""
        data = self.data_of(trainer)
        folder = self._folder(trainer)
        picture = None if folder is None else folder / f"{self.name}.png"
        source = getattr(pl_module, "source", None) if isinstance(pl_module, StreamConsumer) else None
        results = Results(
            self.name,
            self.results,
            self.details,
            model=type(pl_module).__name__,
            seed=data.order_seed if self.seed is None else self.seed,
            step=batches_stepped(trainer),  # the axis of all that Lightning logs
            pictures=[picture] if picture is not None and picture.is_file() and not self.error else [],
            folder=folder,
        )
        return facts_of_fit(pl_module, source, data), results

    def _try_answers(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = self.data_of(trainer)
        model = getattr(pl_module, "model", pl_module) if isinstance(pl_module, StreamConsumer) else pl_module
        with torch.inference_mode(False), _attached(data, trainer):
            self._known = try_answers(trainer, model, data, self.adapter or _adapter_of(pl_module))
        require_of(self, self._known.kind, data)

    def _refuse_sharded(self, pl_module: L.LightningModule) -> None:
        # a method of ours is whole again when it is evaluated
        if self.copies_model and not isinstance(pl_module, StreamConsumer) and is_sharded(pl_module):
            raise ValueError(
                f"{type(self).__name__} copies the model, and {type(pl_module).__name__} is spread over processes; "
                "save it with ModelParallelStrategy(save_distributed_checkpoint=False) and audit the file with "
                "Trainer(devices=1).test(...)"
            )

    def _folder(self, trainer: L.Trainer) -> Path | None:
        if self.dirpath is not None or not trainer.loggers:
            return self.dirpath
        log_dir = trainer.log_dir  # every rank must ask: the answer is broadcast
        if log_dir is None:
            return None
        first = trainer.loggers[0]
        if not isinstance(first, TensorBoardLogger | CSVLogger):
            # others have one folder for all runs: below it, where Lightning keeps a run's checkpoints too
            run = [str(first.name), str(first.version)] if trainer.is_global_zero else []
            log_dir = trainer.strategy.broadcast(str(Path(log_dir, *run)))
        return Path(log_dir) / "evaluation"


def _adapter_of(module: nn.Module) -> Adapter:
    found = getattr(module, "adapter", None)
    return found if isinstance(found, Adapter) else Adapter()


def _require_finite(value: Any, name: str) -> None:
    """Refuse numbers that are none; what could not be measured is to be left out."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_finite(item, f"{name}/{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            _require_finite(item, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise FloatingPointError(
            f"{name} is {value}; an evaluator must leave out what it cannot measure, or else the data or the model "
            "holds such values"
        )


@contextmanager
def _attached(data: UnlearningDataModule, trainer: L.Trainer) -> Iterator[None]:
    before = data.trainer
    data.trainer = trainer
    try:
        yield
    finally:
        data.trainer = before


@contextmanager
def _ready(module: nn.Module, runtime: Runtime) -> Iterator[None]:
    """Put a module on the device, in evaluation mode, and undo it, gradients and their switches included."""
    parameters = list(module.parameters())
    device = parameters[0].device if parameters else runtime.device
    gradients: list[tuple[nn.Parameter, bool, Any]] = [(p, p.requires_grad, p.grad) for p in parameters]
    with evaluating(module):
        try:
            if device != runtime.device:
                module.to(runtime.device)
            yield
        finally:
            if device != runtime.device:
                module.to(device)
            for parameter, wanted, gradient in gradients:
                if parameter.requires_grad != wanted:
                    parameter.requires_grad_(wanted)
                parameter.grad = gradient
