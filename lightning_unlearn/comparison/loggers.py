"""Which loggers the Trainers of a comparison write to: CSV always, others beside it, W&B by a run of its own."""

from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from typing import Any, Literal, cast

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

__all__ = ["LoggerChoice", "split_loggers", "trainer_loggers"]

LoggerChoice = list[Any] | Literal[False]
"""Loggers, or their descriptions by class path, to write to beside CSV; False writes to none at all."""


def split_loggers(given: Any) -> tuple[WandbLogger | None, LoggerChoice]:
    """Take W&B out of what was given as a Trainer's ``logger``.

    A live W&B run a Trainer would know nothing of the audit that follows, and the source would share its run with
    the methods; a comparison writes finished runs instead.

    Args:
        given: As for ``Trainer(logger=...)``: a logger, several, True, False or None; a logger may be described by
            a mapping with ``class_path`` and ``init_args``.

    Returns:
        The W&B logger, or None without one, and the others.

    Raises:
        ValueError: If there are several W&B loggers.
        TypeError: If something is no logger.
    """
    if given is False:
        return None, False
    several = given if isinstance(given, list | tuple) else [] if given in (None, True) else [given]
    kinds = [_kind(one) for one in several]
    wandb = [one for one, kind in zip(several, kinds, strict=True) if issubclass(kind, WandbLogger)]
    # CSV is written in any case, in the run's folder
    left_out = (WandbLogger, CSVLogger)
    others = [one for one, kind in zip(several, kinds, strict=True) if not issubclass(kind, left_out)]
    if len(wandb) > 1:
        raise ValueError("trainer.logger: names two WandbLoggers; a comparison writes to one W&B project")
    return (cast(WandbLogger, _build(wandb[0])) if wandb else None), others


def trainer_loggers(
    choice: LoggerChoice, csv: CSVLogger, name: str, seed: int
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
    return [csv, *(_build(deepcopy(one), name=name, version=f"seed_{seed}") for one in choice)]


def _kind(one: Any) -> type[Logger]:
    if isinstance(one, Logger):
        return type(one)
    if not isinstance(one, Mapping) or "class_path" not in one:
        raise TypeError(
            f"trainer.logger: got {one!r}; give a logger, or class_path and init_args of one, such as "
            "{class_path: lightning.pytorch.loggers.WandbLogger}"
        )
    module, _, name = str(one["class_path"]).rpartition(".")
    kind = getattr(import_module(module or "lightning.pytorch.loggers"), name)
    if not isinstance(kind, type) or not issubclass(kind, Logger):
        raise TypeError(f"trainer.logger: {one['class_path']} is no logger of Lightning")
    return kind


def _build(one: Any, **labels: str) -> Logger:
    if isinstance(one, Logger):
        return one
    kind, arguments = _kind(one), dict(one.get("init_args") or {})
    if labels and issubclass(kind, TensorBoardLogger) and arguments.get("version") is None:
        arguments.update(labels)
    return kind(**arguments)
