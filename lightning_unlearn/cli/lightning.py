"""LightningCLI's subcommands as they are, for one model at a time."""

from pkgutil import resolve_name
from typing import Any

import lightning as L
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import lightning_unlearn.callbacks
import lightning_unlearn.data
import lightning_unlearn.methods
import lightning_unlearn.models  # noqa: F401  an imported class can be named without its path
from lightning_unlearn.__about__ import __version__
from lightning_unlearn.callbacks import CollapseGuard
from lightning_unlearn.cli.parsing import OneLine
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.methods.base.resuming import require_readable


class _Parser(OneLine, LightningArgumentParser):  # type: ignore[misc]
    """LightningCLI's parser, with errors of one line."""


class _Command(LightningCLI):
    """LightningCLI that guards a method, and says of a checkpoint that it cannot resume from why."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return the parser that LightningCLI makes, as ours."""
        parser = super().init_parser(**kwargs)
        parser.__class__ = _Parser  # LightningCLI names its own where it makes one
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path:
            require_readable(path)

    def before_instantiate_classes(self) -> None:
        """Have a datamodule within ours save its own arguments: LightningCLI would hand it ours in their place."""
        data = self.config[self.config.subcommand].get("data")
        if data is not None and issubclass(resolve_name(data.class_path), UnlearningDataModule):
            self.parser.add_instantiator(_built, L.LightningDataModule, subclasses=True, prepend=True)

    def before_fit(self) -> None:
        """Guard a method that validates, unless a guard is given; before checkpoints, which hold what it put back."""
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if (
            isinstance(self.model, UnlearningModule)
            and self.trainer.limit_val_batches
            and not any(isinstance(callback, CollapseGuard) for callback in callbacks)
        ):
            callbacks.insert(0, CollapseGuard(below=1.0))


def _built(kind: type[L.LightningDataModule], *args: Any, **kwargs: Any) -> L.LightningDataModule:
    return kind(*args, **kwargs)


def run(args: list[str] | None) -> int:
    """Run one of LightningCLI's subcommands; ``None`` takes the arguments of the process."""
    _Command(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        # methods with no, one or two optimizers all configure their own
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "lightning-unlearn", "version": __version__},
        args=args,
    )
    return 0
