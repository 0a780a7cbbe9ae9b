"""The command: its help, and from a command line to a subcommand and an exit status."""

import os
import signal
import sys
import warnings
from collections.abc import Sequence

from lightning_unlearn.__about__ import __version__
from lightning_unlearn.cli import COMMANDS, LIGHTNING, run
from lightning_unlearn.cli.arguments import own_arguments, with_rule
from lightning_unlearn.cli.parsing import Refused, explained
from lightning_unlearn.core.checks import nearest

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
    if not arguments or arguments[0] in ("-h", "--help", "--version"):
        print(f"lightning-unlearn {__version__}" if arguments == ["--version"] else _help())
        return 0
    if not arguments[0].startswith("-") and arguments[0] not in (known := {**COMMANDS, **LIGHTNING}):
        hint = nearest(arguments[0], known) or "; lightning-unlearn --help lists them"
        print(f"error: there is no command {arguments[0]}{hint}", file=sys.stderr)
        return 2
    return _run(arguments, as_given=args is None)


def _help() -> str:
    """Return the help: a line for each command. It needs no PyTorch, which takes seconds to import."""
    lines = [
        "example: lightning-unlearn demo\n\nMake a trained Lightning model forget chosen training samples, and measure "
        "that it did.\n",
        *(f"  {name:12} {does}" for name, does in COMMANDS.items()),
        "\nLightningCLI's, for one model at a time:\n",
        *(f"  {name:12} {does}" for name, does in LIGHTNING.items()),
        "\nlightning-unlearn COMMAND --help says more of each. --recipe NAME takes a configuration that comes with the "
        "package,\nsuch as digits/compare, in place of --config FILE; --forget class:3, 0.1, ids.csv or "
        "group:identity=0.02 says who is forgotten.",
    ]
    return "\n".join(lines)


def _run(arguments: list[str], *, as_given: bool) -> int:
    from lightning_unlearn.cli.recipes import with_recipes
    from lightning_unlearn.core.compat import options_of
    from lightning_unlearn.core.surroundings import stoppable

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
                if arguments[0] in ("compare", "tune", *LIGHTNING):
                    arguments = with_rule(arguments)
                if arguments[0] in COMMANDS:
                    return run(arguments[0], arguments[1:])
                return run("lightning", None if as_given and arguments == sys.argv[1:] else arguments)
        except Refused as refused:
            line = explained(refused.message, options_of(refused.parser), arguments)
            print(f"error: {line}", file=sys.stderr)
            raise
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except (ValueError, TypeError, OSError, FloatingPointError) as error:
            if os.environ.get(_TRACEBACK):
                raise
            print(f"error: {error}\n(set {_TRACEBACK}=1 to see where it was raised)", file=sys.stderr)
            return 2
