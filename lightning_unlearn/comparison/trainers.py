"""The Trainers of a comparison: their arguments, their loggers, and what they note of a run while it trains."""

import copy
import functools
import inspect
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from lightning_unlearn.comparison.folder import RunFolder
from lightning_unlearn.core.checks import nearest
from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.core.peak_memory import peak_memory, reset_peak_memory
from lightning_unlearn.core.processes import InStep

DEFAULTS: dict[str, Any] = {
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "log_every_n_steps": 10,  # short runs would be over before the 50 steps of Lightning
    "limit_val_batches": 0,  # the comparison measures at the end; validating every epoch would only cost time
}
"""Arguments of a Trainer that were not given."""


def has_end(arguments: Mapping[str, Any]) -> bool:
    """Whether a Trainer with these arguments stops before Lightning's 1000 epochs."""
    return not {"max_epochs", "max_steps", "max_time", "fast_dev_run"}.isdisjoint(arguments)


def require_known(where: str, arguments: Iterable[str]) -> None:
    """Refuse an argument that no Trainer has, which Lightning's own message would not correct.

    Args:
        where: What they were given as, for the message.
        arguments: Their names.

    Raises:
        ValueError: If there is one, with the nearest that a Trainer has.
    """
    known = inspect.signature(L.Trainer).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in known.values()):
        return  # of a wrapped one nobody knows them
    for name in arguments:
        if name not in known:
            raise ValueError(f"{where}: a Trainer has no argument {name!r}{nearest(name, known)}")


def require_trainer(label: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse arguments that no Trainer can be made of here, such as an accelerator that the machine has not.

    Args:
        label: Name of the run, for the message.
        shared: Arguments of every Trainer.
        own: Those of the run.

    Raises:
        ValueError: If no Trainer has an argument, nothing ends the training, a WandbLogger is among the run's own
            arguments, or, with its own message, Lightning refuses.
    """
    where, arguments = f"trainer of {label!r}", {**DEFAULTS, **shared, **own, "logger": False}
    require_known(where, arguments)
    if split_loggers(own.get("logger"))[0] is not None:
        raise ValueError(
            f"{where}: a WandbLogger belongs into the comparison's own trainer; it writes every run"
        )
    if not has_end(arguments):
        raise ValueError(
            f"{where}: give max_epochs (or max_steps, or max_time); without one Lightning would train for 1000 epochs"
        )
    try:
        L.Trainer(**built(arguments))
    except Exception as error:  # of many kinds, Lightning's and those of the classes that are named
        raise ValueError(f"{where}: {error}") from error


def make_trainer(
    arguments: Mapping[str, Any], name: str, seed: int, folder: RunFolder, *callbacks: L.Callback
) -> L.Trainer:
    """Make the Trainer of one run, with callbacks, loggers and plugins of its own, since they keep state.

    Args:
        arguments: Its arguments.
        name: Name of the model.
        seed: Its seed.
        folder: The run's folder, for the log and the facts.
        *callbacks: Callbacks of the comparison.
    """
    own = built({**DEFAULTS, **arguments, "logger": None})
    csv = CSVLogger(folder.path, name="log", version="")
    loggers = trainer_loggers(split_loggers(arguments.get("logger"))[1], csv, name, seed)
    # the comparison's see the weights last, as they are when all others are done
    given = [
        InStep(f"{name}, seed {seed}"),
        *(own.get("callbacks") or []),
        RunFacts(folder.facts),
        *callbacks,
    ]
    return L.Trainer(**{**own, "logger": loggers, "callbacks": given})


def keeper(folder: Path, every: int) -> ModelCheckpoint:
    """Return what keeps the weights of every so many epochs in a folder."""
    return ModelCheckpoint(
        folder,
        "{epoch}",
        save_top_k=-1,
        every_n_epochs=every,
        save_weights_only=True,
        save_on_train_epoch_end=True,
    )


def built(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a Trainer's arguments, and build what is described by class path, such as a callback.

    Args:
        arguments: The arguments; objects among them are copied, since callbacks and plugins keep state.

    Raises:
        jsonargparse.ArgumentError: If a class path names something of another type than the argument has, as under
            ``fit``. Nothing is called that is not of the type.
    """
    copied = copy.deepcopy(dict(arguments))
    described = {key: value for key, value in copied.items() if _names_a_class(value)}
    if described:
        parser = _parser()
        copied.update(vars(parser.instantiate(parser.parse_object(described, defaults=False))))
    return copied


@functools.cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(L.Trainer, fail_untyped=False)
    return parser


def _names_a_class(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "class_path" in value
    return isinstance(value, list | tuple) and any(map(_names_a_class, value))


def split_loggers(given: Any) -> tuple[WandbLogger | None, list[Any] | Literal[False]]:
    """Take W&B out of what was given as a Trainer's ``logger``.

    A live W&B run a Trainer would know nothing of the audit that follows, and the source would share its run with
    the methods; a comparison writes finished runs instead. CSV is left out too, as it is written in any case.

    Args:
        given: As for ``Trainer(logger=...)``: a logger, several, True, False or None; a logger may be described by
            a mapping with ``class_path`` and ``init_args``.

    Returns:
        The W&B logger, or None without one, and the others as they were given; False writes to none at all.

    Raises:
        ValueError: If there are several W&B loggers.
        TypeError: If something is no logger.
    """
    if given is False:
        return None, False
    several = list(given) if isinstance(given, list | tuple) else [] if given in (None, True) else [given]
    try:
        # given as it is, a logger is not copied: that would open a run of W&B
        made = [
            (one, one if isinstance(one, Logger) else built({"logger": one})["logger"]) for one in several
        ]
    except ArgumentError as error:
        raise TypeError(f"trainer.logger: {error}") from error
    if others := [logger for _, logger in made if not isinstance(logger, Logger)]:
        raise TypeError(
            f"trainer.logger: got {others[0]!r}; give a logger, or class_path and init_args of one, such as "
            "{class_path: lightning.pytorch.loggers.WandbLogger}"
        )
    wandb = [logger for _, logger in made if isinstance(logger, WandbLogger)]
    if len(wandb) > 1:
        raise ValueError("trainer.logger: names two WandbLoggers; a comparison writes to one W&B project")
    left = [one for one, logger in made if not isinstance(logger, WandbLogger | CSVLogger)]
    return (wandb[0] if wandb else None), left


def trainer_loggers(
    choice: list[Any] | Literal[False], csv: CSVLogger, name: str, seed: int
) -> list[Logger] | Literal[False]:
    """Return the loggers of one Trainer, new ones, since they keep state.

    Args:
        choice: As from :func:`split_loggers`.
        csv: The logger of the run's folder, the first of them.
        name: Name of the model.
        seed: Its seed; with the name it labels a TensorBoard run that has no version of its own.
    """
    if choice is False:
        return False
    return [csv, *(_built_anew(one, name=name, version=f"seed_{seed}") for one in choice)]


def _built_anew(one: Any, **labels: str) -> Logger:
    if isinstance(one, Mapping) and str(one["class_path"]).endswith("TensorBoardLogger"):
        arguments = one.get("init_args") or {}
        one = {**one, "init_args": arguments if arguments.get("version") else {**arguments, **labels}}
    logger: Logger = built({"logger": one})["logger"]
    return logger


class RunFacts(L.Callback):
    """Writes a module's ``parameters``, how it was trained (``steps`` and more), and ``peak_memory`` to a JSON file.

    A file, because nothing else comes back from the processes that a strategy may start.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the peak of what came before."""
        reset_peak_memory(trainer.strategy.root_device)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file, on the first rank."""
        if not trainer.is_global_zero:
            return
        parameters = list(pl_module.parameters())
        content = {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "steps": trainer.global_step,
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
            "device": trainer.strategy.root_device.type,
            "peak_memory": peak_memory(trainer.strategy.root_device),
        }
        write_json_atomic(self.path, content)


class Clock(L.Callback):
    """Times the training of the source, as the methods time theirs."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self.start = time.perf_counter(), time.process_time()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop when the device is done, and put the seconds among the metrics."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter(), time.process_time()
        for name, end, start in zip(("time/total_s", "time/cpu_s"), now, self.start, strict=True):
            trainer.callback_metrics[name] = torch.tensor(end - start, dtype=torch.float64)
