"""The command: LightningCLI's subcommands as they are, with ours beside them."""

import os
import signal
import sys
import warnings
from collections.abc import Sequence

import lightning as L
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import lightning_unlearn.callbacks
import lightning_unlearn.data
import lightning_unlearn.methods
import lightning_unlearn.models  # noqa: F401  an imported class can be named without its path
from lightning_unlearn.__about__ import __version__
from lightning_unlearn.cli import COMMANDS, run
from lightning_unlearn.cli.arguments import own_arguments
from lightning_unlearn.cli.recipes import with_recipes
from lightning_unlearn.core.surroundings import stoppable
from lightning_unlearn.methods.base.resuming import require_readable

__all__ = ["main"]

_DESCRIPTION = """Make a trained Lightning model forget chosen training samples, and measure that it did.

demo shows it at work in under a minute, without a download (lightning-unlearn demo). compare is the main job: source,
retrained model and every method, over several seeds, in one table and report (lightning-unlearn compare --help). report
writes its page again, or merges several (lightning-unlearn report --help). ledger verify checks a deletion ledger. The
others are LightningCLI's, for one model at a time. --recipe NAME takes a configuration that comes with the package,
such as digits/compare, in place of --config FILE."""

_TRACEBACK = "LIGHTNING_UNLEARN_TRACEBACK"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Arguments without the program's name; ``None`` takes those of the process.

    Returns:
        The exit status: 0; 1 if a part of a comparison failed; 2 if the input does not fit, after one message; 130
        after Ctrl-C.

    Raises:
        SystemExit: With status 143, at SIGTERM.
    """
    arguments = own_arguments() if args is None else list(args)
    if args is None and (here := os.getcwd()) not in sys.path:
        # for classes of one's own, as with python -m; last, so that nothing installed is hidden
        sys.path.append(here)
    with warnings.catch_warnings():
        # LightningCLI still calls jsonargparse by its old names: https://github.com/Lightning-AI/pytorch-lightning
        warnings.filterwarnings(
            "ignore", category=DeprecationWarning, message=r"[\s\S]*(Jsonargparse|in v4\.)"
        )
        # https://github.com/pytorch/pytorch/pull/160843: Lightning still asks in the old way
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        # what the process was given is not what it shows, if that names somebody
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        try:
            with stoppable(lambda: "stopped before the end"):
                arguments = with_recipes(arguments)
                if arguments and arguments[0] in COMMANDS:
                    return run(arguments[0], arguments[1:])
                _run_lightning(None if args is None and arguments == sys.argv[1:] else arguments)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except (ValueError, TypeError, OSError, FloatingPointError) as error:
            if os.environ.get(_TRACEBACK):
                raise
            print(f"error: {error}\n(set {_TRACEBACK}=1 to see where it was raised)", file=sys.stderr)
            return 2
    return 0


class _Command(LightningCLI):
    """LightningCLI that says of a checkpoint which it cannot resume from why, instead of failing inside torch."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path:
            require_readable(path)


def _run_lightning(args: list[str] | None) -> None:
    _Command(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        # methods with no, one or two optimizers all configure their own
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "lightning-unlearn", "description": _DESCRIPTION, "version": __version__},
        args=args,
    )
