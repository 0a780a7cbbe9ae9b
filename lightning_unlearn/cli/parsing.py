"""Our parsers: help that begins with an example, and errors of one line that say where, and name the nearest."""

import argparse
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import docstring_parser

from lightning_unlearn.core.checks import nearest

_ROOMS = (  # of classes that can be named without their path
    *(f"lightning_unlearn.{room}" for room in ("data", "models", "methods", "callbacks")),
    *("lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torch.optim"),
)
_BASE = r"\s+lightning_unlearn\.(?:methods\.base\.[\w.]+|comparison\.[\w.]+|UnlearningModule)"
_NOISE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Given value type: .*|"
    r"- Expected an? <class 'NoneType'>|Expected a path but .*|Namespace\(.*|NestedArg\(.*"
)


class Refused(SystemExit):
    """A command line that does not fit; whoever catches it says so in a line."""

    def __init__(self, message: str, parser: argparse.ArgumentParser) -> None:
        super().__init__(2)
        self.message = message
        self.parser = parser


class OneLine(argparse.ArgumentParser):
    """A parser that begins its help with an example and dumps no usage at an error."""

    example = ""

    def format_help(self) -> str:
        """Return the help, the example first, without the classes that only others are made from."""
        text = re.sub(rf"{_BASE},|,{_BASE}(?=\))", "", super().format_help())
        return f"example: {self.example}\n\n{text}" if self.example else text

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse as ever, only faster where the parser is jsonargparse's."""
        if "jsonargparse" not in sys.modules:  # a command that goes without the imports
            return super().parse_args(*args, **kwargs)
        from lightning_unlearn.core.compat import subclasses_found_once

        with subclasses_found_once():
            return super().parse_args(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the command line."""
        if not self.exit_on_error:  # a parser within another: that one speaks
            super().error(message)
        raise Refused(message, getattr(ex, "subcommand_parser", None) or self)


class Parser(OneLine):
    """The parser of one of our commands, as the signature and the docstring of its function tell.

    Keyword-only arguments are options, the others positional.

    Args:
        command: The function, in a module of the command's name.
        example: What follows the command in the example.
    """

    def __init__(self, command: Callable[..., Any], example: str) -> None:
        told = docstring_parser.parse(inspect.getdoc(command) or "")
        name = command.__module__.rpartition(".")[2]
        super().__init__(prog=f"lightning-unlearn {name}", description=told.description)
        self.example = f"{self.prog} {example}"
        helps = {each.arg_name: each.description for each in told.params}
        for key, each in inspect.signature(command).parameters.items():
            option, needed = each.kind is each.KEYWORD_ONLY, each.default is each.empty
            given: dict[str, Any] = {"help": helps[key], **_taken(each.annotation, option=option)}
            if option:
                given |= {"required": True} if needed else {"default": each.default}
            self.add_argument(f"--{key}" if option else key, **given)


def _taken(kind: Any, *, option: bool) -> dict[str, Any]:
    """Return how an argument of a type is read: a switch, one of some words, several (as JSON in an option), or one."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    if kind is bool:
        return {"action": "store_true"}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is list:
        return {"type": json.loads} if option else {"nargs": "+", "type": get_args(kind)[0]}
    return {"type": kind}


def explained(message: str, options: Sequence[str], arguments: Sequence[str]) -> str:
    r"""Return one line for a parser's message, with the file and line where it came from a file.

    Args:
        message: What argparse or jsonargparse says.
        options: The parser's options, such as ``--seeds``.
        arguments: The command line.

    Example:
        >>> explained("unrecognized arguments: --seedz=3", ["--seeds"], ["--seedz=3"])
        'there is no option --seedz; did you mean --seeds?'
        >>> explained("Parser key \"seeds\":\n  Expected a <class 'int'>. Got value: many", [], ["--seeds=many"])
        "seeds: expected int, got 'many'"
    """
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        name, _, _ = found[1].partition("=")
        what = "option " if name.startswith("-") else "argument "
        return f"there is no {what}{name}{nearest(name, options)}"
    if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
        known = re.findall(r"[\w./-]+", found[2])
        return f"there is no {found[1]!r} among {', '.join(known)}{nearest(found[1], known)}"
    if found := re.search(r"(?:Option|accept option) '([^']+)'", message):
        key, kind = _place(message, found.start())
        name = found[1].rpartition(".")[2]
        known = _arguments_of(kind) if kind else [option.lstrip("-") for option in options]
        owner = f"{key}: {kind.rpartition('.')[2]}" if kind else "the command"
        return f"{owner} has no {found[1]!r}{nearest(name, known)}{_from_file(arguments, name)}"
    if found := re.search(r"the following arguments are required: (.*)", message):
        key, kind = _place(message, found.start())
        missing = found[1].partition(". Got value")[0]
        missing = missing if kind else re.sub(r"[\w.]+", lambda name: _as_option(name[0], options), missing)
        return f"{key}: {kind.rpartition('.')[2]} needs {missing}" if kind else f"this needs {missing}"
    unknown = (
        r"Expected a dot import path string: (\S+)|"
        r"class_path '(.+)':\s+(?:No module named|module .* has no attr|cannot import name)"
    )
    if found := re.search(unknown, message):
        key, _ = _place(message, found.start())
        given = found[1] or found[2]
        if misfit := _misfit(given, arguments):
            return f"{key}: {misfit}"
        return f"{key}: {_not_found(given)}{_from_file(arguments, None, given)}"
    if found := re.search(r"(?:Got|Given) value: (.*)", message):
        key, _ = _place(message, found.start(), within=True)
        inner = message[message.rfind("Parser key") :]
        kinds = re.findall(
            r"Expected an? (?:<class '(?:\w+\.)*(\w+)'>|(.+?)(?:\. Got|$))", inner, re.MULTILINE
        )
        if kinds and len(found[1]) < 80:
            said = " or ".join(dict.fromkeys((a or b).replace("NoneType", "null") for a, b in kinds))
            said = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", said)
            place = _from_file(arguments, key.rpartition(".")[2], found[1])
            return f"{key}: expected {said}, got {found[1]!r}{place}"
    for file in _files(arguments):
        if place := _unreadable(file):
            return place
    return " ".join(_NOISE.sub("", message).split())


def _as_option(name: str, options: Sequence[str]) -> str:
    return f"--{name}" if f"--{name}" in options else name


def _misfit(given: str, arguments: Sequence[str]) -> str:
    """Say which argument a class does not take that is there, named without its path; nothing if there is none."""
    homes = [room for room in _ROOMS if given in import_module(room).__all__]
    if not homes:
        return ""
    known = _arguments_of(f"{homes[0]}.{given}")
    for key in _given_to(given, arguments):
        if key not in known:
            place = _from_file(arguments, key)
            return (
                f"{given} has no argument {key!r}{nearest(key, known)}{place} (it takes {', '.join(known)})"
            )
    return f"the arguments of {given} do not fit; it takes {', '.join(known)}"


def _given_to(name: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments that configuration files give to a class."""
    import yaml  # type: ignore[import-untyped]

    found: list[str] = []
    left = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in _files(arguments)]
    while left:
        entry = left.pop()
        if isinstance(entry, dict):
            if entry.get("class_path") == name:
                found += entry.get("init_args") or {}
            left += entry.values()
        elif isinstance(entry, list):
            left += entry
    return found


def _not_found(given: str) -> str:
    """Say what of a class's path cannot be found: the class, its module, or what that module imports."""
    home, _, name = given.rpartition(".")
    if not home:
        known = [name for room in _ROOMS for name in import_module(room).__all__]
        return f"there is no class {name}{nearest(name, known)}"
    try:
        module = import_module(home)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{home}.".startswith(f"{error.name}."):
            return (
                f"there is no module {error.name}{nearest(home, (file.stem for file in Path().glob('*.py')))}"
            )
        place = extract_tb(error.__traceback__)[-1]
        return f"{home} cannot be imported: {error} ({place.filename}, line {place.lineno})"
    known = [
        *getattr(module, "__all__", ()),
        *(key for key, kind in vars(module).items() if isinstance(kind, type)),
    ]
    return f"there is no class {name} in {home}{nearest(name, known)}"


def _place(message: str, end: int, *, within: bool = False) -> tuple[str, str]:
    """Return the keys and the innermost class that a place in a message is indented under."""
    keys: list[tuple[int, str]] = []
    kinds: list[tuple[int, str]] = []
    for line in filter(str.strip, message[:end].splitlines()):
        depth = len(line) - len(line.lstrip(" -"))
        if not within:
            keys, kinds = ([each for each in known if each[0] < depth] for known in (keys, kinds))
        keys += [(depth, key) for key in re.findall(r'Parser key "([^"]+)"', line)]
        kinds += [(depth, kind) for kind in re.findall(r"given class_path '([^']+)'", line)]
    if inner := re.match(r".*?class_path='([^']+)'", message[end:], re.DOTALL):
        kinds.append((0, inner[1]))
    return ".".join(key for _, key in keys), kinds[-1][1] if kinds else ""


def _arguments_of(path: str) -> list[str]:
    """Return the names of a class's arguments, those of its bases too."""
    kind: Any = pkgutil.resolve_name(path)
    bases = kind.__mro__ if isinstance(kind, type) else [kind]
    return [name for base in bases if base is not object for name in inspect.signature(base).parameters]


def _files(arguments: Sequence[str]) -> Iterator[Path]:
    """Yield the configurations of a command line, the last first."""
    for argument in reversed(arguments):
        file = Path(argument.partition("=")[2] or argument.removeprefix("-c"))
        if file.suffix in (".yaml", ".yml") and file.is_file():
            yield file


def _from_file(arguments: Sequence[str], key: str | None, value: str | None = None) -> str:
    """Return `` (FILE, line N)`` where a key, a value or both are in a file and not on the command line."""
    sought = [part for part in (key, value) if part]
    if any(all(part in argument for part in sought) for argument in arguments):
        return ""
    for file in _files(arguments):
        for line, (found_key, found) in _entries(file):
            if key in (None, found_key) and value in (None, found):
                return f" ({file}, line {line})"
    return ""


def _entries(file: Path) -> Iterator[tuple[int, tuple[str, str | None]]]:
    """Yield the line, key and plain value of everything in a file."""
    import yaml

    left = [("", yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader))]
    while left:
        key, node = left.pop(0)
        if isinstance(node, yaml.MappingNode):
            for name, below in node.value:
                if not isinstance(below, yaml.ScalarNode):
                    yield name.start_mark.line + 1, (name.value, None)
                left.append((name.value, below))
        elif isinstance(node, yaml.SequenceNode):
            left += [(key, below) for below in node.value]
        elif node is not None:
            yield node.start_mark.line + 1, (key, node.value)


def _unreadable(file: Path) -> str:
    """Return where a file is no YAML, or nothing."""
    import yaml

    try:
        yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        return f"{file}, line {(error.problem_mark.line if error.problem_mark else 0) + 1}: {error.problem}"
    return ""
