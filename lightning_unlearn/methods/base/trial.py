"""Ask one batch whether a model and its data fit together, before hours are spent on them."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.data.adapter import TARGET_KEYS
from lightning_unlearn.data.project_loaders import known_labels
from lightning_unlearn.data.streaming import Stream
from lightning_unlearn.engine.own_steps import own_loss
from lightning_unlearn.engine.predict import ask_few
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.ensembles import Runtime, isolated_rng
from lightning_unlearn.functional.tasks import SINGLE_LABEL, Embedding, Task, tasks_of
from lightning_unlearn.methods.base.disturbed import losses_apart
from lightning_unlearn.models import clone, evaluating
from lightning_unlearn.models.freezing import trainable
from lightning_unlearn.models.surgery import answers_alike

# Losses of one batch that differ by less are taken for the same, computed in another order or precision.
_SAME_LOSS = 1e-2
_SURELY_SAME = 1e-3  # two columns of labels give an untrained model nearly the same loss
_FEWEST = 16  # samples of which a share says anything
_SLACK, _HALF_SLACK = 1e-3, 3e-2  # how far from 1 posteriors may sum; bfloat16 has three digits
COLLAPSED = 0.5  # share of the source's accuracy on the retain set below which a model is destroyed
_BY_CHANCE = 1.64  # standard errors that 19 of 20 models that guess stay below

_OWN_ADAPTER = """write down how it is called, and pass adapter=MyAdapter():
class MyAdapter(lightning_unlearn.data.Adapter):
    def split(self, batch): return (batch[0], batch[1]), batch[2]  # what call() is given, targets (B,)
    def call(self, module, inputs): return module(*inputs)  # logits (B, C)"""


class GuessingWarning(UserWarning):
    """A model is right no more often than one that guesses."""


class Trial(NamedTuple):
    """What a model answered to one batch of the retain set.

    Attributes:
        logits: ``(B, C)``.
        targets: ``(B,)``.
        loss: Of these, as the method has it.
        own: What the model's own ``training_step`` returned for the batch; ``None`` where it was not asked or failed.
        plain: Whether the model's output is the tensor of logits itself.
        adapter: How the batch was taken apart, with the task that outputs and targets are of.
    """

    logits: Tensor
    targets: Tensor
    loss: float
    own: float | None
    plain: bool
    adapter: Adapter

    @property
    def task(self) -> Task:
        """What outputs and targets mean."""
        return self.adapter.kind

    @property
    def right(self) -> float | None:
        """Share of right answers, where the task has any."""
        known = "correct" in self.task.offers
        return float(self.task.correct(self.logits, self.targets).double().mean()) if known else None


class _Try(NamedTuple):
    """One way to take a batch apart, and what the model answers then."""

    adapter: Adapter
    inputs: Any
    targets: Tensor
    logits: Tensor
    output: Any
    tasks: list[Task]


def try_model(
    model: nn.Module,
    data: UnlearningDataModule,
    runtime: Runtime,
    adapter: Adapter,
    loss: Loss | None = None,
    *,
    step: bool,
) -> Trial:
    """Ask a model about one batch, the same on every rank, and refuse what can be understood in two ways.

    Nothing is changed by it, in the model, its mode or the random state. The model's own ``training_step``, which may
    keep all sorts of things, is run on a copy.

    Args:
        model: The model; without ``step`` it must be on the runtime's device.
        data: The split data.
        runtime: Device, precision and ranks.
        adapter: How batches and outputs are taken apart.
        loss: Loss of logits and targets; ``None`` for that of the task.
        step: Whether to ask a copy of the model, and its own step too, and not only where that decides what is meant.

    Raises:
        ValueError: If the model cannot be called so, answers in evaluation mode with none of what is trained, outputs
            and targets are of no task, or there are several tasks, logits or targets to choose from and its own loss
            does not say which is meant, or that the first are.
    """
    asked = _copied(model, runtime) if step else model
    with isolated_rng(), runtime.asking(asked), runtime.forward_context():
        batch = runtime.to_device(next(iter(data.loader("retain", train=data.mixes, rank=0, world_size=1))))
        name = type(model).__name__
        tries = _tries(asked, batch, adapter, name, gradient=step)
        own = None
        if step or len(tries) > 1 or tries[0].adapter != adapter:
            own = _own_loss(model, asked if step else None, batch, runtime)
        adapter, inputs, targets, logits, output, tasks = _meant(tries, adapter, own, name)
        single = tasks == [SINGLE_LABEL]
        answers = _logits_in(output, logits, targets, adapter) if single else {}
        columns = _targets_in(batch, targets, logits.shape[1], adapter) if single else {}
        others = {} if single else _alike(batch, targets, adapter)
        if own is None and (answers or columns or others or len(tasks) > 1):
            own = _own_loss(model, asked if step else None, batch, runtime)
        _require_no_other(others, logits, targets, own, name)
        task = _chosen(tasks, logits, targets, own, name)
        answers_alike(asked, partial(ask_few, adapter, inputs))  # later its samples are asked once
        given, loss = loss is not None, loss or task.batch_loss
        if answers or columns:
            _require_one(answers, columns, (logits, targets), loss, own, name)
        in_range = not single or (bool((targets >= 0).all()) and int(targets.max()) < logits.shape[1])
        known = in_range and (given or "loss" in task.offers)
        ours = float(loss(logits, targets)) if step and known else math.nan
        if step and not logits.requires_grad:
            _require_trained_answers(asked, logits, adapter.call(_zeroed(asked), inputs))
    return Trial(logits.detach(), targets, ours, own, output is logits, adapter.of_task(task))


def _tries(model: nn.Module, batch: Any, adapter: Adapter, name: str, *, gradient: bool) -> list[_Try]:
    """Return the ways in which a batch can be taken apart and understood; at least one."""
    tries: list[_Try] = []
    refused: list[ValueError] = []
    outputs: list[Any] = []
    with model.register_forward_hook(lambda *call: outputs.append(call[-1])):
        for way in adapter.layouts(batch):
            try:
                inputs, targets = way.split(batch)
                with torch.set_grad_enabled(gradient):
                    logits = way.call(model, inputs)
                tasks = tasks_of(logits, targets) if way.task is None else [way.kind]
                if not any(task.fits(logits, targets) for task in tasks):
                    raise ValueError(_unfitting(name, logits, targets, way))
                tries.append(_Try(way, inputs, targets, logits, outputs[-1] if outputs else None, tasks))
            except ValueError as error:  # noqa: PERF203  two ways at most
                refused.append(error)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:  # given another layout than its own, a forward may raise anything
                refused.append(
                    ValueError(f"{name} cannot be called on the inputs of a batch ({error}); {_OWN_ADAPTER}")
                )
    if not tries:
        raise refused[0]
    return tries


def _meant(tries: Sequence[_Try], adapter: Adapter, own: float | None, model: str) -> _Try:
    """Return the way whose loss is the model's own, or the usual one where none is; another is only a guess."""
    for each in tries if len(tries) > 1 or tries[0].adapter != adapter else ():
        losses = [
            float(task.batch_loss(each.logits, each.targets)) for task in each.tasks if _countable(each, task)
        ]
        if any(_surely(loss, own) for loss in losses):
            return each
    usual = tries[0].adapter
    if usual == adapter:
        return tries[0]
    told = "has none to tell by" if own is None else f"gives another loss, {own:.4g}"
    inputs = list(usual.inputs) if isinstance(usual.inputs, tuple) else usual.inputs
    found = f"inputs={inputs!r}, targets={usual.targets}"
    raise ValueError(
        f"adapter: {model} can be called with {found} of a batch, but its own training_step {told}; if that is "
        f"meant, pass adapter=Adapter({found})"
    )


def _countable(way: _Try, task: Task) -> bool:
    """Whether the targets are of classes there are, without which there is no cross-entropy."""
    targets = way.targets
    return task != SINGLE_LABEL or bool((targets >= 0).all() and targets.max() < way.logits.shape[1])


def _own_loss(model: nn.Module, copied: nn.Module | None, batch: Any, runtime: Runtime) -> float | None:
    stepper = _copied(model, runtime) if copied is None else copied
    with evaluating(stepper):
        return _loss_of_own_step(stepper, batch)


def _unfitting(model: str, logits: Tensor, targets: Tensor, adapter: Adapter) -> str:
    """Say that what a model gives and what the data hold are of no task, or not of the one that was named."""
    found = ", ".join(f"{tuple(x.shape)} {x.dtype}".replace("torch.", "") for x in (logits, targets))
    meant = "any task" if adapter.task is None else f"the task {adapter.kind.name!r}"
    return (
        f"the forward of {model} must give logits that fit the targets, and {found} are not of {meant}; say where they "
        f"are with Adapter(logits=..., targets=...), or what they mean with Adapter(task=...). If the model takes "
        f"several inputs, {_OWN_ADAPTER}"
    )


def _chosen(tasks: Sequence[Task], logits: Tensor, targets: Tensor, own: float | None, model: str) -> Task:
    """Return the only task there is, or that whose loss is the model's own."""
    if len(tasks) == 1:
        return tasks[0]
    losses = {task: float(task.batch_loss(logits, targets)) for task in tasks}
    if alike := [task for task, loss in losses.items() if _surely(loss, own)]:
        return alike[0]
    if len({task.name for task in tasks}) == 1:  # but for what it ignores
        return tasks[0]
    listed = ", ".join(f"{loss:.4g} of {task.name!r}" for task, loss in losses.items())
    told = "has none to tell by" if own is None else f"gives {own:.4g}"
    raise ValueError(
        f"adapter: outputs and targets of {model} may be of several tasks; the loss is {listed}, and its own "
        f"training_step {told}. Name the one that is meant, as in adapter=Adapter(task={tasks[0].name!r})"
    )


def _zeroed(model: nn.Module) -> nn.Module:
    for parameter in trainable(model).values():
        parameter.zero_()
    return model


def _require_trained_answers(model: nn.Module, logits: Tensor, without: Tensor) -> None:
    """Refuse a model whose answers in evaluation mode are the same without its trained parameters."""
    if torch.equal(logits, without):
        name = type(model).__name__
        raise ValueError(
            f"source: in evaluation mode {name} answers with none of the parameters that are trained (with a moving "
            "average of them, say), so the exported model would answer as before, whatever a method trains; copy the "
            "average into the trained parameters, and give a source whose forward uses these in evaluation mode too"
        )


def require_logits(logits: Tensor, targets: Tensor, model: str, task: Task | None = None) -> None:
    """Refuse posteriors in place of logits, and targets outside the classes.

    Args:
        logits: What a model answered, ``(B, C)``.
        targets: Classes that occur in the data, int64.
        model: The model's class, for the message.
        task: What they mean; of other tasks than single labels nothing is refused.

    Raises:
        ValueError: If rows are posteriors, or a target is below 0 or at least C.
    """
    if task not in (None, SINGLE_LABEL):
        return
    rows = logits.detach().float()
    slack = _SLACK if logits.dtype in (torch.float32, torch.float64) else _HALF_SLACK
    if bool((rows >= 0).all()) and torch.allclose(rows.sum(dim=-1), rows.new_ones(len(rows)), atol=slack):
        raise ValueError(
            f"the forward of {model} gives probabilities (rows are >= 0 and sum to 1); unlearning needs "
            "logits, so return the values before the softmax (or their logarithm, in an Adapter's call())"
        )
    classes = logits.shape[-1]
    if int(targets.max()) >= classes or int(targets.min()) < 0:
        raise ValueError(
            f"{model} has {classes} classes, but the data has targets from {int(targets.min())} to "
            f"{int(targets.max())}; use the model that was trained on this data, or say where logits and targets are "
            "with Adapter(logits=..., targets=...)"
        )


def require_of(callback: L.Callback, task: Task, data: UnlearningDataModule) -> None:
    """Refuse a task that lacks what a callback says it ``needs``, and embeddings of classes that are not retained.

    Raises:
        ValueError: If it does, or these are.
    """
    of_streams, who = (
        getattr(callback, "of_streams", False),
        getattr(callback, "who", type(callback).__name__),
    )
    (task.judged_as if of_streams else task).require(who, getattr(callback, "needs", ()))
    if of_streams and isinstance(task, Embedding) and (gone := _unretained(data)):
        raise ValueError(
            f"{who} judges embeddings by the distances from the means of retained classes, and of the classes {gone} "
            f"of the forget or test set nothing is retained; fit a method without {who} for such data"
        )


def _unretained(data: UnlearningDataModule) -> list[int]:
    known, test = data.known_targets(), data.given[1]
    if known is None:
        return []
    listed = None if test is None or isinstance(test.dataset, Stream) else test  # which no place is read of
    of_test = None if listed is None else known_labels(listed, data.adapter)
    asked = known[data.split.forget] if of_test is None else np.append(known[data.split.forget], of_test)
    gone: list[int] = np.setdiff1d(asked, known[data.split.retain]).tolist()
    return gone


def warn_of_another_loss(
    trial: Trial, model: nn.Module, data: UnlearningDataModule, runtime: Runtime, method: str
) -> None:
    """Warn if a model is trained to minimise something else than a method does on the retain set.

    Args:
        trial: One batch's losses. Where they are the same, others are compared with disturbed weights, by which no loss
            is about 0.
        model: The model.
        data: The split data.
        runtime: Device, precision and ranks.
        method: The method's class.
    """
    if trial.own is None or math.isnan(trial.loss):
        return
    ours, own, disturbed = trial.loss, trial.own, ""
    if abs(ours - own) <= _SAME_LOSS * max(1.0, abs(ours)):
        apart = losses_apart(_copied(model, runtime), data, runtime, trial.adapter)
        if apart is None:
            return
        ours, own = apart
        disturbed = " (of a batch, with the weights disturbed)"
    also = ", 'embedding' if its outputs are vectors and no logits" if trial.task == SINGLE_LABEL else ""
    rank_zero_warn(
        f"the training_step of {type(model).__name__} gives a loss of {own:.4g} where {method}'s on the retain set is "
        f"{ours:.4g}{disturbed}, so it would not go on as the source was trained (class or sample weights, label "
        f"smoothing, another loss?); use {method}(step='source'), give its loss=..., or name another task than "
        f"{trial.task.name!r} with Adapter(task=...)" + also
    )


def warn_of_guessing(trial: Trial, model: str) -> None:
    """Warn if a model is right about the retain set no more often than one that guesses may well be.

    Args:
        trial: One batch's answers.
        model: The model's class.
    """
    accuracy = trial.right
    if accuracy is None or "classes" not in trial.task.offers:
        return
    classes, size = trial.logits.shape[1], len(trial.targets)
    if size >= _FEWEST and accuracy <= (1 + _BY_CHANCE * math.sqrt((classes - 1) / size)) / classes:
        rank_zero_warn(
            f"{model} is right about {accuracy:.0%} of {size} retained samples, and guessing about {1 / classes:.0%}; "
            "if it was trained, look whether its weights were loaded, inputs are prepared as in its training, and "
            "Adapter(targets=..., logits=...) names the right places",
            category=GuessingWarning,
        )


def warn_of_collapse(began: float | None, ended: float | None, method: str) -> None:
    """Warn if a fit ends with a model that is right about the retain set less than half as often as its source.

    Args:
        began: How often the source was right about a batch of it; ``None`` where the task has no right answers.
        ended: The accuracy on it at the last validation; ``None`` where nothing was validated.
        method: The method's class.
    """
    if began is not None and ended is not None and ended < COLLAPSED * began:
        rank_zero_warn(
            f"{method} destroyed the model: it ends with {ended:.0%} of the retain set right, the source with "
            f"{began:.0%} of a batch; lower the learning rate or the ascent, train longer, or end the fit before that "
            "with the callback CollapseGuard"
        )


def _copied(model: nn.Module, runtime: Runtime) -> nn.Module:
    copy = clone(model)
    if isinstance(copy, L.LightningModule) and runtime.trainer is not None:
        copy.trainer = runtime.trainer
    return runtime.place(copy)


def _loss_of_own_step(model: nn.Module, batch: Any) -> float | None:
    if not isinstance(model, L.LightningModule) or not is_overridden("training_step", model):
        return None
    try:
        return float(own_loss(model, batch, 0))
    except Exception:  # a step may need anything of its own loop, and is not needed here
        return None


def _logits_in(output: Any, logits: Tensor, targets: Tensor, adapter: Adapter) -> dict[int, Tensor]:
    """Return by place the tensors that may be the logits, where an output has several and nobody said which."""
    if adapter.logits is not None or not isinstance(output, Sequence) or hasattr(output, "logits"):
        return {}
    classes = int(targets.max()) + 1
    found = {
        place: part
        for place, part in enumerate(output)
        if isinstance(part, Tensor)
        and part.is_floating_point()
        and part.ndim == 2
        and len(part) == len(logits)
        and part.shape[1] >= max(2, classes)
    }
    return found if output[0] is logits and found.keys() - {0} else {}


def _targets_in(batch: Any, targets: Tensor, classes: int, adapter: Adapter) -> dict[int | str, Tensor]:
    """Return by place the columns that may be the targets, where a batch has several and nobody said which."""
    found = {
        place: part
        for place, part in _alike(batch, targets, adapter).items()
        if not part.is_floating_point() and int(part.min()) >= 0 and int(part.max()) < classes
    }
    return found if len(found) > 1 else {}


def _alike(batch: Any, targets: Tensor, adapter: Adapter) -> dict[int | str, Tensor]:
    """Return by place the targets and what has their shape, where something else has and nobody said which."""
    places: dict[int | str, Any] = {}
    if isinstance(batch, Mapping):
        places = {key: batch[key] for key in TARGET_KEYS if key in batch}
    elif isinstance(batch, Sequence):
        places = dict(enumerate(batch))
    found = {
        place: part
        for place, part in places.items()
        if isinstance(part, Tensor) and part.shape == targets.shape
    }
    unsaid = adapter.targets is None and any(part is targets for part in places.values())
    return found if unsaid and len(found) > 1 else {}


def _require_no_other(
    columns: Mapping[int | str, Tensor], logits: Tensor, targets: Tensor, own: float | None, model: str
) -> None:
    """Refuse targets by which no loss is the model's own, where it is with others."""
    right = [
        place
        for place, column in columns.items()
        if any(_surely(float(task.batch_loss(logits, column)), own) for task in tasks_of(logits, column))
    ]
    if right and all(columns[place] is not targets for place in right):
        raise ValueError(
            f"adapter: the training_step of {model} gives the loss of other targets than the usual ones; pass "
            f"adapter=Adapter(targets={right[0]!r})"
        )


def _surely(loss: float, own: float | None) -> bool:
    return own is not None and abs(loss - own) <= _SURELY_SAME * max(1.0, abs(own))


def _require_one(
    answers: Mapping[int, Tensor],
    columns: Mapping[int | str, Tensor],
    taken: tuple[Tensor, Tensor],
    loss: Loss,
    own: float | None,
    model: str,
) -> None:
    losses: dict[str, float] = {}
    meant = ""
    for (place, logits), (column, targets) in product(
        answers.items() or [(None, taken[0])], columns.items() or [(None, taken[1])]
    ):
        named = [f"{name}={at!r}" for name, at in (("logits", place), ("targets", column)) if at is not None]
        adapter = f"Adapter({', '.join(named)})"
        if int(targets.max()) < logits.shape[1]:
            losses[adapter] = float(loss(logits, targets.long()))
        if logits is taken[0] and targets is taken[1]:
            meant = adapter
    what = [name for name, found in (("logits", answers), ("targets", columns)) if found]
    distances = {} if own is None else {name: abs(value - own) for name, value in losses.items()}
    closest = min(distances, key=distances.__getitem__, default="")
    sure = closest and _surely(losses[closest], own)
    if sure and closest == meant:
        return
    listed = ", ".join(f"{value:.4g} with {name}" for name, value in losses.items())
    told = "has none to tell by" if own is None else f"gives {own:.4g}"
    raise ValueError(
        f"adapter: {model} and its data have several tensors that may be the {' and the '.join(what)}; the loss is "
        f"{listed}, and its own training_step {told}. "
        f"Pass adapter={closest if sure else 'the one of these that is meant'}"
    )
