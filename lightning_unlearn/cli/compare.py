"""``lightning-unlearn compare``: from a YAML file to :func:`lightning_unlearn.compare`, and its table."""

import json
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]
from torch import nn

from lightning_unlearn.__about__ import __version__
from lightning_unlearn.callbacks import Evaluator
from lightning_unlearn.cli.parsing import OneLine
from lightning_unlearn.cli.recipes import recipe_file
from lightning_unlearn.comparison.api import Comparison, compare
from lightning_unlearn.comparison.folder import require_local, require_names
from lightning_unlearn.comparison.runs import MethodRun, SourceRun, name_of
from lightning_unlearn.core.checks import nearest
from lightning_unlearn.core.compat import CLASS_PATH, hidden_options
from lightning_unlearn.core.remembering import summary, without_names
from lightning_unlearn.core.terminal import columns, say
from lightning_unlearn.ensembles.identity import canonical
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.models.hparams import recorded_hyperparameters
from lightning_unlearn.reports import Report, render_text
from lightning_unlearn.reports.paper import PaperFormat, paper_table, paper_tables
from lightning_unlearn.reports.scenarios import require_scenarios, write_scenarios
from lightning_unlearn.reports.schema import read_json

# what decides no result, and what does
_SETTINGS = {"output_dir", "overwrite", "quiet", "threads", "ledger", "clean", "forget_key", "page"}
_SETTINGS |= {"launcher", "ray_address", "resources", "after"}  # the models that it names decide
_DECIDING = {"seeds", "vary", "retrain_2", "short_retrainings", "margins", "fast"}
_OVER_ALL = {"table", "scenarios", "full_scenarios", "full"}
_FULL = "--full"
_BEHIND = re.compile(r"^(?:--config=|-c=?)(.+)", re.DOTALL)  # a file behind its option, as one word


class _Parser(OneLine, ArgumentParser):
    """jsonargparse's parser, with our help and errors."""

    example = "lightning-unlearn compare --recipe digits/compare --seeds 5"

    def format_help(self) -> str:  # type: ignore[override]
        """Return the help without the Trainer's options, which would be the greater part."""
        with hidden_options(self, "trainer"):
            return super().format_help()


def run(args: list[str]) -> int:
    """Parse the arguments, compare and print the table; the status is 1 if a part failed."""
    if scenarios := scenarios_in(args):
        return _run_scenarios(args, scenarios)
    comparison, table = compared(args)
    print_result(comparison, table)
    return 1 if comparison.failed else 0


def compared(args: list[str]) -> tuple[Comparison, PaperFormat | None]:
    """Parse the arguments and compare; return the comparison and the form of table that is asked for."""
    parser, config = parsed(args)
    return compare(**arguments(parser, config)), config.table


def parsed(args: list[str]) -> tuple[ArgumentParser, Namespace]:
    """Return the parser of :func:`compare`'s arguments, and what it makes of them."""
    parser = _Parser(
        prog="lightning-unlearn compare",
        description="Compare unlearning methods with the source and the retrained model. --forget class:3, 0.1, "
        "ids.csv or group:identity=0.02 says who is forgotten. All arguments of Lightning's Trainer can be given as "
        "well, as lightning-unlearn fit --help lists them.",
        version=__version__,
    )
    parser.add_argument(
        "-c",
        "--config",
        action=ActionConfigFile,
        help="YAML file; several compose, the later wins. --recipe NAME takes one that comes with the package.",
    )
    parser.add_function_arguments(compare, skip={"trainer", "observers", "config"}, fail_untyped=False)
    # as under LightningCLI, so that one file with a logger or an accelerator serves both
    parser.add_class_arguments(L.Trainer, "trainer", instantiate=False, fail_untyped=False)
    parser.add_argument(
        "--table",
        type=PaperFormat | None,
        help="Print the columns of papers too (UA, RA, TA, MIA, run time, average gap, ToW), in this form.",
    )
    parser.add_argument(
        "--scenarios",
        type=dict[str, Any] | None,
        help="In a file: what each scenario, by its name, changes of the files' settings, or a recipe's name, which "
        "may have scenarios itself. Each is compared in a subfolder of output_dir, and one page and one table are over "
        "all; several files' add up.",
    )
    parser.add_argument(
        "--full_scenarios",
        type=dict[str, Any] | None,
        help="More of them, which only --full runs, after the others.",
    )
    parser.add_argument(_FULL, action="store_true", help="Run the full_scenarios of the files as well.")
    return parser, parser.parse_args(args)


def scenarios_in(args: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the scenarios of all configuration files, each with its changes, of which the later win.

    Raises:
        ValueError: If one is no mapping, or sets what all share.
    """
    if given := {word.partition("=")[0] for word in args} & {"--scenarios", "--full_scenarios"}:
        raise ValueError(f"{min(given)}: only a configuration file names scenarios; put them into one")
    found, more = (_changes(_in_files(args, key)) for key in ("scenarios", "full_scenarios"))
    full = _FULL in args or any(settings.get("full") for settings in _settings_of_files(args))
    if both := found.keys() & more.keys():
        raise ValueError(f"full_scenarios: {min(both)!r} is in scenarios too; give one of them another name")
    if full and not more:
        raise ValueError("--full: no configuration file names full_scenarios; leave it out")
    if more and not found and not full:
        raise ValueError("full_scenarios: without scenarios there is nothing to run; give --full")
    require_names([*found, *more])
    return found | more if full else found


def _changes(scenarios: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return what each scenario changes, where it may be a recipe's name, and those of a recipe for that recipe."""
    known: dict[str, list[dict[str, Any]]] = {}
    for name, given in ((str(name), given) for name, given in scenarios.items()):  # YAML reads 1 as a number
        changes, within = given, {}
        if isinstance(given, str):
            changes = _content(recipe_file(given))
            changes.pop("output_dir", None)
            within = _changes(changes.pop("scenarios", {}))
        if not isinstance(changes, dict) or (_OVER_ALL | {"output_dir"}) & changes.keys():
            raise ValueError(
                f"scenarios: {name!r} must be the name of a recipe, or hold settings of compare, such as data and "
                "methods, and not output_dir, table or scenarios, which all share"
            )
        if changes.get("after") is not None:
            changes = {**changes, "after": str(changes["after"])}
        found = {inner: [changes, *more] for inner, more in within.items()} or {name: [changes]}
        if both := known.keys() & found.keys():
            raise ValueError(
                f"scenarios: {name!r} has {min(both)!r}, which is there already; rename one of them"
            )
        known |= found
    return known


def _in_files(args: list[str], key: str) -> dict[str, Any]:
    """Return a mapping that configuration files add up to under a key."""
    found: dict[str, Any] = {}
    for settings in _settings_of_files(args):
        given = settings.get(key) or {}
        if not isinstance(given, dict):
            raise ValueError(
                f"{key}: must be a mapping from a scenario's name to what it changes, got {given!r}"
            )
        found |= given
    return found


def _settings_of_files(args: list[str]) -> list[dict[str, Any]]:
    contents = [_content(Path(_BEHIND.sub(r"\1", args[place]))) for place in files_in(args)]
    return [each for each in contents if isinstance(each, dict)]


def _content(file: Path) -> Any:
    """Return what a YAML file holds; nothing if it is none, which the parser will say."""
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    except yaml.YAMLError:
        return None


def files_in(args: list[str]) -> list[int]:
    """Return the places of the arguments that name a configuration file, alone or behind their option."""
    alone = [n + 1 for n, word in enumerate(args[:-1]) if word in ("-c", "--config")]
    behind = [n for n, word in enumerate(args) if n not in alone and _BEHIND.fullmatch(word)]
    return sorted(alone + behind)


def _run_scenarios(args: list[str], scenarios: dict[str, list[dict[str, Any]]]) -> int:
    """Compare in each scenario, and write what is over all; one whose data is not there is named and passed over.

    Raises:
        FileNotFoundError: If the data of none are there.
    """
    _require_sequence(args, scenarios)
    # all of them before the first one runs: that takes hours, and a wrong word in the last one would end it
    understood = {name: parsed(_with(args, changes)) for name, changes in scenarios.items()}
    shared = next(iter(understood.values()))[1]
    root = require_local(Path(shared.output_dir))
    require_scenarios(root, _inputs([config for _, config in understood.values()]))
    done, absent = dict[str, Comparison](), dict[str, FileNotFoundError]()
    for name, (parser, config) in understood.items():
        print(f"scenario {name}", file=sys.stderr)
        config.output_dir = root / name
        if str(config.after) in {*done, *absent}:
            config.after = root / config.after
        try:
            done[name] = compare(**arguments(parser, config))
        except FileNotFoundError as error:
            absent[name] = error
    if not done:
        raise next(iter(absent.values()))
    not_run = {name: str(error) for name, error in absent.items()}
    others = _changes(_in_files(args, "full_scenarios"))
    earlier = [n for n, more in others.items() if n not in scenarios and _was_run(root / n, args, more)]
    page, *_ = write_scenarios(root, [*done, *earlier], not_run)
    for name, comparison in done.items():
        say(f"\n== {name} ==\n")
        print_result(comparison, None)
    say("\n".join(f"NOT RUN  {name}: {why}" for name, why in not_run.items()))
    if shared.table is not None:
        say(paper_tables({name: comparison.report for name, comparison in done.items()}, shared.table))
    say(f"All scenarios: {page}")
    return 1 if any(comparison.failed for comparison in done.values()) else 0


def _inputs(value: Any) -> set[str]:
    """Return the absolute paths that texts in settings may stand for, and of the key beside a ledger."""
    value = plain(value)
    if isinstance(value, dict | list):
        return set().union(*map(_inputs, value.values() if isinstance(value, dict) else value))
    return {os.path.abspath(f"{value}{end}") for end in ("", ".key")}


def _require_sequence(args: list[str], scenarios: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse a scenario that comes after none, or one not before it, or one whose files are to be cleaned away."""
    names = list(scenarios)
    named = {
        name: next((each["after"] for each in reversed(changes) if "after" in each), None)
        for name, changes in scenarios.items()
    }
    following = {name: after for name, after in named.items() if after in names}
    for name, after in named.items():
        if after is not None and after not in names and not Path(after).is_dir():
            raise ValueError(
                f"after: {name!r} comes after {after!r}, which is neither a scenario before it nor a folder that is "
                f"there{nearest(Path(after).name, names[: names.index(name)])}"
            )
    for name, after in following.items():
        if names.index(after) >= names.index(name):
            raise ValueError(f"after: {name!r} comes after {after!r}; put that before it among the scenarios")
    if following:
        name, after = next(iter(following.items()))
        if parsed(_with(args, scenarios[name]))[1].clean:
            raise ValueError(
                f"clean: {name!r} goes on from the models of {after!r}, which clean would remove; leave it out, and "
                "remove the folder when all is read"
            )


def _with(args: list[str], changes: list[dict[str, Any]]) -> list[str]:
    """Return the arguments with what a scenario changes after the files."""
    last = files_in(args)[-1] + 1
    return [*args[:last], *(f"--config={json.dumps(each)}" for each in changes), *args[last:]]


def _was_run(folder: Path, args: list[str], changes: list[dict[str, Any]]) -> bool:
    """Say whether an earlier start with --full ran a scenario by today's settings, so that it stays on the page."""
    if not (folder / "report.json").is_file():
        return False
    try:
        today = without_names(arguments(*parsed(_with(args, changes)))["config"])
        same = bool(canonical(read_json(folder / "report.json")["config"]) == canonical(today))
    # whatever is wrong with what is not to run, the page must not be lost for it
    except (Exception, SystemExit):
        same = False
    if not same:
        print(
            f"scenario {folder.name}: ran by other settings, so the page leaves it out; --full runs it",
            file=sys.stderr,
        )
    return same


def say_failures(report: Report) -> None:
    """Name the parts of a comparison that failed."""
    for failure in report["failures"]:
        print(f"FAILED  {failure['model']}, seed {failure['seed']}: {failure['error']}", file=sys.stderr)


def arguments(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return the arguments of :func:`compare`, whose factories build every object anew at each call.

    jsonargparse builds the parts nested in a factory once and shares them between its calls, so a second seed
    would go on training the network of the first.
    """
    given, defaults = plain(config.trainer), plain(parser.get_defaults().trainer)
    # the others are the comparison's to choose
    trainer = {key: value for key, value in given.items() if value != defaults[key]}

    def fresh() -> Any:
        copy = config.clone()
        for each in (copy.source, copy.retrain, *copy.methods):
            if each is not None:  # of no type to jsonargparse, which would call whatever is named in there
                each.trainer = {}
        return parser.instantiate(copy)

    def source() -> L.LightningModule:
        model = config.source.model.as_dict()
        recorded = {CLASS_PATH: model["class_path"], **model.get("init_args", {})}
        build = fresh().source.model
        with recorded_hyperparameters(recorded):  # remembers its configuration, as under LightningCLI
            built: L.LightningModule = build()
        return built

    def method(key: str, number: int | None = None) -> MethodRun:
        def pick(built: Any) -> Any:
            return built[key] if number is None else built[key][number]

        parsed = pick(config)
        class_path = parsed.method["class_path"]
        name = parsed.name or name_of(class_path)

        def build(source: nn.Module) -> UnlearningModule:
            method: UnlearningModule = pick(fresh()).method(source)
            return method

        build.__dict__["func"] = pkgutil.resolve_name(class_path)  # whose it is, as a partial says
        return MethodRun(build, name, plain(parsed.trainer or {}), parsed.batch_size)

    def evaluator(number: int) -> Callable[[], Evaluator]:
        return lambda: fresh().evaluators[number]()

    own_trainer = plain(config.source.trainer or {})
    # without the logger: a finished comparison can be sent elsewhere later
    shown = {key: value for key, value in trainer.items() if key != "logger"}
    decides = {
        key: value for key, value in plain(config).items() if key not in _SETTINGS | _OVER_ALL | {"config"}
    }
    return {
        "source": SourceRun(source, own_trainer, config.source.checkpoint, config.source.keep_every),
        "data": lambda: fresh().data(),
        "methods": [method("methods", number) for number in range(len(config.methods))],
        "evaluators": [evaluator(number) for number in range(len(config.evaluators))],
        "retrain": None if config.retrain is None else method("retrain"),
        "trainer": trainer,
        "adapter": fresh().adapter,
        "config": {**decides, "trainer": shown or None},
        **{name: config[name] for name in (*_SETTINGS, *_DECIDING)},
    }


def plain(value: Any) -> Any:
    """Return a parsed value without namespaces, tuples and paths, as a file would have it."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_result(comparison: Comparison, table: PaperFormat | None) -> None:
    """Print the table of a comparison, that of papers where it is asked for, what failed and where all is."""
    say(render_text(comparison.report, columns(), encoding=sys.stdout.encoding))
    if table is not None:
        say(paper_table(comparison.report, table))
    say_failures(comparison.report)
    lines = [f"Report: {comparison.output_dir / 'report.html'}"]
    if comparison.removed:
        lines.append(f"Removed, {len(comparison.removed)} files that remembered what was forgotten:")
        lines += [f"  {line}" for line in summary(comparison.removed)]
    if comparison.remembering:
        named = comparison.output_dir / "remembering.json"
        cleaned = json.loads(named.read_text(encoding="utf-8"))["removed"]
        advice = "they are not the comparison's own, so --clean left them" if cleaned else ""
        lines += [
            "These files still remember what was forgotten "
            f"({advice or '--clean=true removes them when all is done'}).",
            f"All are named in {named}:",
            *(f"  {line}" for line in summary(comparison.remembering)),
        ]
    say("\n".join(lines))
