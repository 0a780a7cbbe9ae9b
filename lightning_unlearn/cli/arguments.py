"""The command's arguments, and what W&B and the list of processes may see of them."""

import json
import os
import sys
import warnings
from collections.abc import Sequence

_TRUE = "LIGHTNING_UNLEARN_ARGUMENTS"


def own_arguments() -> list[str]:
    """Return the process's arguments; whoever records them, as W&B does, finds ``N ids`` in place of ids.

    Processes that Lightning starts are given what is shown, and find the true ones in the environment.
    """
    given, told = sys.argv[1:], json.loads(os.environ.get(_TRUE, "[]"))
    if told and shown_arguments(told) == given:
        return list(told)
    shown = shown_arguments(given)
    if shown != given:
        warnings.warn(
            "forget: ids on the command line stay in the shell's history and in the list of processes (W&B's record of "
            "the command gets their number alone); give the path of a file with them",
            stacklevel=3,
        )
        os.environ[_TRUE] = json.dumps(given)
        sys.argv[1:] = shown
    return given


def shown_arguments(arguments: Sequence[str]) -> list[str]:
    """Return arguments without what names somebody under ``forget``.

    Example:
        >>> shown_arguments(["fit", "--data.forget=[3, 4]", "--data.previous", "a.npz"])
        ['fit', '--data.forget=2 ids', '--data.previous', 'a.npz']
        >>> shown_arguments(["--data.forget=Classes", "--data.forget.classes", "[3, 4]"])
        ['--data.forget=Classes', '--data.forget.classes', '[3, 4]']
    """
    pairs, key = [], ""  # what comes before the value, the value, and the option that it belongs to
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument.startswith("--") and equals:
            pairs.append((option + equals, value, option))
        else:
            pairs.append(("", argument, key))
        key = argument if argument.startswith("--") and not equals else ""
    rules = [value for _, value, option in pairs if option.endswith((".forget", ".forget.class_path"))]
    return [before + _shown(option, value, rules[-1] if rules else "") for before, value, option in pairs]


def with_rule(arguments: Sequence[str]) -> list[str]:
    """Put ``--data.forget=RULE``, after all files, in place of ``--forget RULE``.

    Example:
        >>> with_rule(["compare", "--forget", "class:3", "--config=a.yaml"])
        ['compare', '--config=a.yaml', '--data.forget=class:3']
    """
    if "--forget" in arguments[:-1]:
        place = arguments.index("--forget")
        arguments = [*arguments[:place], f"--forget={arguments[place + 1]}", *arguments[place + 2 :]]
    rules = [argument for argument in arguments if argument.startswith("--forget=")]
    others = [argument for argument in arguments if argument not in rules]
    return others + [f"--data.{rule.removeprefix('--')}" for rule in rules]


def _shown(option: str, text: str, rule: str) -> str:
    if "forget" not in option + text or not option:
        return text
    import yaml  # type: ignore[import-untyped]

    from lightning_unlearn.core.remembering import without_names  # and PyTorch with it

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    *above, last = option.removeprefix("--").removesuffix("+").split(".")
    if last == "forget":
        shown = without_names([value] if option.endswith("+") else value, below=last)
    elif "forget" in above and last != "class_path":
        kind = "Ids" if last == "ids" else rule
        shown = without_names({"class_path": kind, last: value}, below="forget")[last]
    else:
        shown = without_names(value, below=last)
    if shown in (value, [value]):
        return text
    return shown if isinstance(shown, str) else json.dumps(shown)
