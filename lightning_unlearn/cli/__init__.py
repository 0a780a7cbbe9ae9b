"""The command and its subcommands beside LightningCLI's: one file each, imported when the command is given."""

from importlib import import_module

__all__ = ["COMMANDS", "LIGHTNING", "run"]

COMMANDS = {
    "demo": "show it at work in under a minute, without a download",
    "forget": "make a model forget what a request names, and answer whether it did",
    "compare": "compare methods with source and retrained model over seeds, in one table and page",
    "tune": "search a method's settings, and show the best on seeds it was not tuned on",
    "report": "print a comparison's table and write its page again, or merge several",
    "certificate": "write the page on a deletion request that somebody can sign",
    "ledger": "check a deletion ledger",
    "dashboard": "build a W&B workspace and report",
}
"""What each subcommand does, in the order of ``--help``; its module has ``run(arguments) -> exit status``."""

LIGHTNING = {
    "fit": "train a source, or unlearn from one",
    "validate": "validate a model",
    "test": "audit a model",
    "predict": "predict with a model",
}
"""What LightningCLI's subcommands do, each for one model at a time."""


def run(name: str, arguments: list[str] | None) -> int:
    """Run one of :data:`COMMANDS`, or ``lightning`` for those of LightningCLI.

    Args:
        name: Its name.
        arguments: What follows the name on the command line; for ``lightning``, all of it.

    Returns:
        The exit status.
    """
    command = import_module(f"{__name__}.{name}")
    if not hasattr(command, "EXAMPLE"):  # parses for itself
        return int(command.run(arguments))
    from lightning_unlearn.cli.parsing import Parser

    return int(command.run(**vars(Parser(command.run, command.EXAMPLE).parse_args(arguments))))
