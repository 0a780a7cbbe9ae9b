"""Every private name of another library that this package uses, each with the reason why no public name will do.

The names may change with any release of their libraries, so ``pyproject.toml`` bounds those libraries from above, and
``tests/test_compat.py`` tries each name with the installed releases. No other file of the package uses one.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_leaves as tree_leaves
from torchmetrics import Metric

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

# ---------------------------------------------------------------------------------------------------------- PyTorch

# The common bases of layers of one, two and three dimensions. Lists of the public classes would miss the lazy and
# synchronised ones, and those that people derive from the bases.
AnyBatchNorm = _BatchNorm
AnyConvolution = _ConvNd
AnyDropout = _DropoutNd
AnyInstanceNorm = _InstanceNorm
AnyRunningNorm = _NormBase

RESET_METHODS = ("reset_parameters", "_reset_parameters")
"""Methods that draw a module's weights; the second is that of ``nn.Transformer`` and ``nn.MultiheadAttention``."""

COMPILED = "_orig_mod"
"""Under which name ``torch.compile`` keeps the network that it wraps, in ``state_dict`` as well."""

# ``tree_leaves``, imported above, lists what nested containers hold, of any type: no public function does.


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module or a part of it is compiled, by torch or by Lightning's own unwrapping."""
    return any(
        COMPILED in part._modules
        or part._compiled_call_impl is not None
        or getattr(part, "_compiler_ctx", None) is not None
        for part in module.modules()
    )


def unsaved_buffers(module: nn.Module) -> set[str]:
    """Return the names of a module's own buffers that its ``state_dict`` leaves out.

    ``state_dict`` itself would copy, and call the hooks of, everything to tell as much.
    """
    return module._non_persistent_buffers_set


# --------------------------------------------------------------------------------------------------------- Lightning

INSTANTIATOR = "_instantiator"
"""Key of hyper-parameters that LightningCLI parsed: names the function that builds a module from them."""

CLASS_PATH = "_class_path"
"""Key of hyper-parameters that LightningCLI parsed: names the module's class."""


def batches_stepped(trainer: L.Trainer) -> int:
    """Return the step that Lightning logs against.

    The public ``global_step`` counts the steps of every optimizer, so curves of methods with two of them would not
    lie on the axis of what Lightning logs.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def end_epoch(checkpoint: Mapping[str, Any]) -> None:
    """Have a checkpoint of an epoch's last batch begin the next one with its first.

    Lightning compares the batches of the epoch that was saved with the length of the next, which here may differ.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    batches = loops.get("epoch_loop.batch_progress", {"is_last_batch": False})
    if batches["is_last_batch"]:
        batches["current"]["completed"] = sys.maxsize


def trainer_of(module: L.LightningModule) -> L.Trainer | None:
    """Return the Trainer that a module is attached to; the public property raises where there is none."""
    return module._trainer


def owners_of(module: L.LightningModule) -> list[Any]:
    """Return the Trainer and the Fabric that a module refers to, which a copy of it must not follow."""
    return [owner for owner in (module._trainer, module._fabric) if owner is not None]


def detach_copy(module: L.LightningModule) -> None:
    """Take from a deep copy what refers to the parts of its original; nothing public clears it."""
    module._metric_attributes = None  # keyed by the identity of the original's metrics
    module._param_requires_grad_state = {}  # and of its parameters
    module._fabric_optimizers = []
    # What Module.compile() left would go on calling the original; only a LightningModule hands it to its copies.
    module.__dict__.pop("_compiled_call_impl", None)


def hparams_name(module: nn.Module) -> str | None:
    """Return the name of the one argument that a class saved whole as its hyper-parameters, such as a namespace.

    ``load_from_checkpoint`` needs it in a checkpoint, and no public attribute has it.
    """
    return getattr(module, "_hparams_name", None)


def given_hyperparameters() -> Mapping[str, Any] | None:
    """Return the parsed configuration of the module that LightningCLI is about to build, if it is.

    Nothing public tells whether arguments are part of a configuration that can rebuild them, and
    ``save_hyperparameters`` follows the variable even where it belongs to another module.
    """
    given: Mapping[str, Any] | None = _given_hyperparameters.get()
    return given


@contextmanager
def giving_hyperparameters(config: Mapping[str, Any]) -> Iterator[None]:
    """Build a module inside as LightningCLI would; only the CLI itself does so in public."""
    token = _given_hyperparameters.set({**config, INSTANTIATOR: "lightning.pytorch.cli.instantiate_module"})
    try:
        yield
    finally:
        _given_hyperparameters.reset(token)


class WandbArguments(NamedTuple):
    """What a ``WandbLogger`` was told: arguments of ``wandb.init``, and its own."""

    init: dict[str, Any]
    prefix: str | None
    experiment: Any
    log_model: bool
    offline: bool


def wandb_arguments(logger: "WandbLogger") -> WandbArguments:
    """Return a logger's arguments; the logger shows them only through a run that it opens."""
    return WandbArguments(
        {key: value for key, value in logger._wandb_init.items() if value is not None},
        logger._prefix,
        logger._experiment,
        bool(logger._log_model),
        bool(logger._offline),
    )


def joins_a_run(logger: "WandbLogger") -> bool:
    """Return whether a logger joins a run of the process above, which goes on there; no public attribute says so."""
    return getattr(logger, "_attach_id", None) is not None


# ------------------------------------------------------------------------------------------- torchmetrics and W&B


class AtLeastFloat32(Metric):
    """A metric whose floating-point states stay in float32 or better when it is converted to a shorter type.

    The public ``set_dtype`` does not keep a module that holds the metric from converting it: ``_apply`` does that.

    Args:
        **kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    def _apply(self, fn: Any, exclude_state: Sequence[str] = "") -> nn.Module:
        module = super()._apply(fn, exclude_state)
        for name, default in self._defaults.items():
            if isinstance(default, Tensor) and default.is_floating_point():
                setattr(self, name, _widened(getattr(self, name)))
                self._defaults[name] = _widened(default)
        return module


def _widened(state: Tensor) -> Tensor:
    return state.to(torch.promote_types(state.dtype, torch.float32))


def workspace_json(built: Any) -> str:
    """Return a workspace or report of ``wandb-workspaces`` as JSON; ``save`` alone is public, and sends it."""
    text: str = built._to_model().model_dump_json()
    return text


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return all options of a parser and of its subcommands' parsers, such as ``--seeds``."""
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            found += [option for below in (action.choices or {}).values() for option in options_of(below)]
    return list(dict.fromkeys(found))


@contextmanager
def subclasses_found_once() -> Iterator[None]:
    """Have jsonargparse find the subclasses of a type once for a while, and not for each class that is named.

    There are hundreds of ``nn.Module``, and walking through them is more than half of what reading a file costs.
    """
    hints: Any = sys.modules.get("jsonargparse._typehints")
    if hints is None:
        yield
        return
    look, found = hints.get_all_subclass_paths, dict[Any, list[str]]()

    def once(*args: Any, **kwargs: Any) -> list[str]:
        key = (*args, *sorted(kwargs.items()), len(sys.modules))  # an import brings more
        if key not in found:
            found[key] = look(*args, **kwargs)
        return list(found[key])

    hints.get_all_subclass_paths = once
    try:
        yield
    finally:
        hints.get_all_subclass_paths = look


@contextmanager
def hidden_options(parser: argparse.ArgumentParser, prefix: str) -> Iterator[None]:
    """Leave the options of a prefix out of a parser's help for a while."""
    told = [(action, action.help) for action in parser._actions if action.dest.startswith(prefix)]
    for action, _ in told:
        action.help = argparse.SUPPRESS
    try:
        yield
    finally:
        for action, text in told:
            action.help = text
