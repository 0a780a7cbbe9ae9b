"""Do one unlearning again, from another seed in a Trainer of its own."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import Any, NamedTuple, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.core.surroundings import quiet_lightning, seeded
from lightning_unlearn.data import Adapter, TensorData, TensorLoader, UnlearningDataModule
from lightning_unlearn.data.datamodule import batches_of
from lightning_unlearn.data.hooks import transfer_hooks
from lightning_unlearn.data.loading import BatchLoader
from lightning_unlearn.ensembles import Recipe, Runtime, isolated_rng
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.side_by_side import SideBySide
from lightning_unlearn.methods.retrain import Retrain
from lightning_unlearn.models import Annealed, Classifier, clone
from lightning_unlearn.models.statistics import running_layers

_LIMITS = ("max_epochs", "min_epochs", "max_steps", "min_steps", "limit_train_batches")
DECIDING = (*_LIMITS, "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
"""Of a Trainer's arguments those that decide what a fit gives."""
# where the Trainer of one repetition computes and what it shows is not the user's to say
_REPLACED = (
    "accelerator",
    "barebones",
    "default_root_dir",
    "devices",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "limit_val_batches",
    "logger",
    "num_nodes",
    "num_sanity_val_steps",
    "plugins",
    "precision",
    "strategy",
    "sync_batchnorm",
    "use_distributed_sampler",
)


@dataclass(frozen=True)
class Procedure:
    """How one model comes to be from a source model.

    Attributes:
        build: Makes what a Trainer fits; called anew for every repetition, under its seed.
        arguments: Makes the Trainer's arguments, such as ``max_epochs``; anew, because callbacks keep state.
        identity: What tells it apart from other procedures: plain values.
        data: What the Trainer is given; ``None`` for the split data.
        batch_size: Samples of a step of the split data; ``None`` for the data's.
    """

    build: Callable[[nn.Module], L.LightningModule]
    arguments: Callable[[], dict[str, Any]]
    identity: Any
    data: L.LightningDataModule | None = None
    batch_size: int | None = None


class TrainAnew(Retrain):
    """Trains a fresh model on all members, forget set included: how a source comes to be when no recipe is known."""

    streams = ("train",)
    epoch_stream = "train"

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy on the members."""
        return super().training_step({"retain": batch["train"]}, batch_idx)


def fit_alone(
    procedure: Procedure, source: nn.Module, data: L.LightningDataModule, *, seed: int, runtime: Runtime
) -> tuple[nn.Module, Runtime]:
    """Carry out a procedure in this process alone, whatever the ranks around it do.

    The Trainer of a repetition has one device, this process's, and the precision of the Trainer around it. It logs
    nothing and writes no file, and no random state is other than before.

    Args:
        procedure: What to do.
        source: The model to start from.
        data: The data; the datamodule itself is left as it is.
        seed: Seed of everything random.
        runtime: Device and precision.

    Returns:
        The model, on the CPU and in evaluation mode, and where it can be asked in this process alone.
    """
    with quiet_lightning(), _again(seed):
        module = procedure.build(source)
        served = data
        if isinstance(data, UnlearningDataModule):
            served = data.served_alone(seed)
        with batches_of(served, procedure.batch_size):
            trainer = _fit(module, served, procedure, runtime)
    model = module.model if isinstance(module, UnlearningModule) else module
    return model.cpu().eval(), Runtime(trainer)


def fit_side_by_side(
    procedure: Procedure,
    sources: Sequence[nn.Module],
    data: UnlearningDataModule,
    *,
    seeds: Sequence[int],
    runtime: Runtime,
) -> tuple[list[nn.Module], Runtime]:
    """Carry out the procedure of a method K times as one computation, as :func:`fit_alone` does it once.

    Args:
        procedure: What to do; :func:`ensemble_plan` says whether it can be done so.
        sources: The models to start from.
        data: The data; the datamodule itself is left as it is.
        seeds: Seed of everything random of each.
        runtime: Device and precision.

    Returns:
        The models, each but for the order of sums as :func:`fit_alone` gives it, and where they can be asked.
    """
    with quiet_lightning(), isolated_rng(0):
        runner, *methods = [procedure.build(source) for source in sources[:1]]
        for source, seed in zip(sources, seeds, strict=True):
            with _again(seed):
                methods.append(procedure.build(source))
        views = [data.served_alone(seed) for seed in seeds]
        for view in views:
            view.batch_size = procedure.batch_size or view.batch_size
        together = SideBySide(cast(UnlearningModule, runner), cast(list[UnlearningModule], methods), views)
        trainer = _fit(runner, together.data, procedure, runtime)
    return [model.cpu().eval() for model in together.unlearned()], Runtime(trainer)


def _again(seed: int) -> AbstractContextManager[None]:
    """Draw as a repetition with this seed does."""
    return seeded(derive_seed(seed, "repetition") % 2**32)


def _fit(
    module: L.LightningModule, data: L.LightningDataModule, procedure: Procedure, runtime: Runtime
) -> L.Trainer:
    """Fit a module on one device, this process's, and return the Trainer that did."""
    for metric in module.modules():
        if isinstance(metric, Metric):
            metric.sync_on_compute = False  # it would wait for the ranks around
    index = runtime.device.index
    trainer = L.Trainer(
        **{name: value for name, value in procedure.arguments().items() if name not in _REPLACED},
        accelerator="gpu" if runtime.device.type == "cuda" else runtime.device.type,
        devices=1 if index is None else [index],
        plugins=[copy.deepcopy(runtime.precision)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    around = data.trainer
    with _prepared(module), _prepared(data):
        trainer.fit(module, data)
    data.trainer = around
    return trainer


@contextmanager
def _prepared(subject: L.LightningModule | L.LightningDataModule) -> Iterator[None]:
    """Have a module or datamodule look as if it had nothing to prepare, which was done long ago.

    Lightning calls a ``prepare_data`` of one's own under a barrier of all ranks, and these do different numbers of
    fits: some would wait for ever.
    """
    base = L.LightningModule if isinstance(subject, L.LightningModule) else L.LightningDataModule
    subject.prepare_data = MethodType(base.prepare_data, subject)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del subject.prepare_data  # the class's own shows again


def without(data: UnlearningDataModule, left_out: np.ndarray[Any, Any]) -> UnlearningDataModule:
    """Return the same data with part of the forget set in no stream, as if it had been deleted before.

    What is trained on its members is trained on the retain set and the rest of the forget set.

    Args:
        data: The data, set up; it is left as it is.
        left_out: Training positions, some of the forget set's but not all.
    """
    split = data.split
    view = copy.copy(data)
    view._split = replace(
        split, forget=np.setdiff1d(split.forget, left_out), previous=np.union1d(split.previous, left_out)
    )
    return view


def repeated(module: L.LightningModule) -> Callable[[nn.Module], L.LightningModule]:
    """Return what makes untouched copies of a module that is about to be fitted.

    A method's copy takes the source it is given and draws its initial model again; any other module starts with the
    weights it has now.

    Args:
        module: The module, before its fit.
    """
    template = _copied(module)

    def build(source: nn.Module) -> L.LightningModule:
        fresh = _copied(template)
        if isinstance(fresh, UnlearningModule):
            fresh._source = [source]
            fresh.use_model(fresh.initial_model(source))
            fresh.train()
        return fresh

    return build


def _copied(module: L.LightningModule) -> L.LightningModule:
    if not isinstance(module, UnlearningModule):
        return clone(module)
    source, module._source = module._source, []  # never changed, and so shared
    try:
        duplicate = clone(module)
    finally:
        module._source = source
    duplicate._source = source
    return duplicate


def trainer_arguments(trainer: L.Trainer) -> dict[str, Any]:
    """Return the arguments that decide what a Trainer's fit gives, its callbacks left out."""
    return {name: getattr(trainer, name) for name in DECIDING}


# ---------------------------------------------------------------------- as one computation


def moved_as_served(data: UnlearningDataModule) -> bool:
    """Whether batches reach a model as the data serves them, with no transfer hook of the data or of what is fitted.

    A hook sees a batch at a time, and may draw or mix samples; side by side, models have one batch together.
    """
    return not (transfer_hooks(data) or transfer_hooks(data._module()))


# arguments of a Trainer that a recipe says as well, or that change nothing of what is trained
_SAID = {"max_epochs", "deterministic", "log_every_n_steps", *_REPLACED}
# those that count steps, and so hold for any number of models
_COUNTED = {*_LIMITS[1:], "accumulate_grad_batches"}


class Planned(NamedTuple):
    """How K models are made as one computation.

    Attributes:
        recipe: What all share; of a method, a training that is as large.
        samples: The samples.
        rows: Those that a model is trained on, of a method in one of its streams.
        in_trainer: Whether :func:`fit_side_by_side` makes them, and not
            :func:`~lightning_unlearn.ensembles.train_ensemble`.
    """

    recipe: Recipe
    samples: TensorData
    rows: Tensor
    in_trainer: bool


def ensemble_plan(procedure: Procedure, source: nn.Module, data: L.LightningDataModule) -> Planned | None:
    """Return how K models are made as one computation, if a procedure is as plain as that.

    It is where a model is trained on data that is held in memory, without callbacks or clipping: a
    :class:`~lightning_unlearn.models.Classifier`; :class:`Retrain` or :class:`TrainAnew` with an optimizer factory of
    their own or a Classifier's; or a method whose very class says ``side_by_side``, of a network without running
    statistics (which a method estimates anew when it ends).

    Args:
        procedure: The procedure.
        source: The model whose architecture is trained.
        data: The data.

    Returns:
        The plan; ``None`` if each has to be fitted by a Trainer of its own.
    """
    arguments = {name: value for name, value in procedure.arguments().items() if value is not None}
    if not isinstance(data, UnlearningDataModule) or transfer_hooks(data):
        return None
    with isolated_rng(0):
        module = procedure.build(source)
    anew = type(module) in (Classifier, Retrain, TrainAnew)
    method = module if isinstance(module, UnlearningModule) else None
    flagged = method is not None and vars(type(method)).get("side_by_side") and method.side_by_side
    model = _fitted(module)
    if not (anew or (flagged and not running_layers(model))):
        return None
    if not arguments.keys() <= (_SAID if anew else _SAID | _COUNTED) or "max_epochs" not in arguments:
        return None
    view = data.served_alone(data.order_seed)
    with batches_of(view, procedure.batch_size):
        served = (
            {"": view.loader("train", train=True)}
            if method is None
            else view.stream_loaders(method, method.phase(0))
        )
    loader = served["" if method is None else method.epoch_stream]
    factories = _factories(model, method, anew)
    if factories is None or not all(map(_in_memory, served.values())):
        return None
    if method is not None and method.step == "loss":
        loss = method.loss
    elif anew and type(model) is Classifier and model.class_weight is None:
        loss = model.criterion()
    else:
        return None  # whatever its own step does, it cannot be done side by side
    recipe = Recipe(
        build=lambda: _fitted(procedure.build(source)),
        epochs=max(1, arguments["max_epochs"]),
        batch_size=loader.batch_size * len(served),
        optimizer=factories[0],
        lr_scheduler=factories[1],
        loss=loss,
        adapter=Adapter() if method is None else method.adapter,
    )
    samples, rows = cast(TensorData, loader.dataset), cast(Tensor, loader.positions)
    return Planned(recipe, samples, rows, in_trainer=not anew)


def _fitted(module: L.LightningModule) -> nn.Module:
    """Return what is trained, with what a method freezes in it frozen."""
    if not isinstance(module, UnlearningModule):
        return module
    module.setup("fit")
    return module.model


def _in_memory(loader: BatchLoader) -> bool:
    return (
        isinstance(loader, TensorLoader) and loader.positions is not None and loader.sampler.weights is None
    )


def _factories(
    model: nn.Module, method: UnlearningModule | None, anew: bool
) -> tuple[OptimizerCallable, LRSchedulerCallable | None] | None:
    """Return what makes optimizer and schedule, where that can be known."""
    if transfer_hooks(model) or (anew and not all(p.requires_grad for p in model.parameters())):
        return None
    optimizer, schedule = (None, None) if method is None else (method._optimizer, method._lr_scheduler)
    if (
        optimizer is None
        and anew
        and isinstance(model, L.LightningModule)
        and is_overridden("configure_optimizers", model)
    ):
        if type(model) is not Classifier:
            return None
        optimizer, schedule = model.optimizer, model.lr_scheduler
    own = UnlearningModule if method is None else method
    made = optimizer or partial(own.default_optimizer, lr=own.default_lr)
    # one that watches a metric needs a Trainer that validates; an ensemble counts no steps
    alone = (ReduceLROnPlateau, Annealed) if anew else ReduceLROnPlateau
    if schedule is not None and isinstance(schedule(made([nn.Parameter(torch.zeros(1))])), alone):
        return None
    return made, schedule
