"""The command and its subcommands beside LightningCLI's: one file each, imported when the command is given."""

from importlib import import_module

__all__ = ["COMMANDS", "run"]

COMMANDS = ("compare", "dashboard", "demo", "ledger", "report")
"""Names of the subcommands; the module of that name has ``run(arguments) -> exit status``."""


def run(name: str, arguments: list[str]) -> int:
    """Run one of :data:`COMMANDS`.

    Args:
        name: Its name.
        arguments: What follows the name on the command line.

    Returns:
        The exit status.
    """
    status: int = import_module(f"{__name__}.{name}").run(arguments)
    return status
