"""Renders the README's tables from the code: ``PYTHONPATH=tests python -m helpers.docs_tables --write README.md``.

A table stands between the lines ``<!-- generated: NAME -->`` and ``<!-- end: NAME -->``; without ``--write`` all of
them are printed, with these lines. What signatures and docstrings do not say is in ``docs_sources.py``.
"""

import argparse
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from helpers import docs_sources as sources

REPO = Path(__file__).resolve().parents[2]
MEASURED = REPO / "tests" / "measured"
COMMAND = "PYTHONPATH=tests python -m helpers.docs_tables --write README.md"
_NOTHING = "-"  # a cell without content


def render_all(measured: Path = MEASURED) -> dict[str, str]:
    """Return every table by its name, in Markdown; measured ones only where their report is in ``measured``."""
    tables = {
        "methods": _methods(),
        "evaluators": _evaluators(),
        "parts": _parts(),
        "metrics": _metrics(),
        "functional": _functional(),
        "datamodules": _datamodules(),
        "forget_rules": _forget_rules(),
        "models": _models(),
        "papers": _papers(),
    }
    for name in sources.MEASURED:
        if (file := measured / f"{name}.json").is_file():
            tables[f"measured_{name}"] = measured_table(json.loads(file.read_text()), name)
    return tables


def exported(room: str) -> dict[str, Any]:
    """Return what a room of the package exports, by name."""
    module = importlib.import_module(f"lightning_unlearn.{room}")
    return {name: getattr(module, name) for name in module.__all__}


def parameters_of(kind: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class, with those that it hands up to its bases by ``**kwargs``."""
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            own = inspect.signature(base).parameters
            found = {**own, **found}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
                break
    return {name: each for name, each in found.items() if each.kind is not each.VAR_KEYWORD}


# ---------------------------------------------------------------------- tables of the code


def _methods() -> str:
    shared = parameters_of(exported("methods")["UnlearningModule"])
    rows = []
    for name, entry in sources.METHODS.items():
        method = exported("methods")[name]
        if unknown := set(entry.parameters) - (parameters_of(method).keys() - shared.keys()):
            raise ValueError(f"METHODS[{name!r}] names parameters that {name} has not: {sorted(unknown)}")
        rows.append(
            [
                f"`{name}`",
                first_sentence(method),
                entry.loss,
                f"{method.epoch_stream} set",
                defaults(method, entry.parameters),
                entry.source,
                _measured_row(name),
            ]
        )
    header = ["method", "what it does", "what a step minimises", "epoch", "main parameters", "source"]
    return table(
        [*header, "MNIST with a backdoor: test accuracy, backdoor success on D_f, acceleration"], rows
    )


def _measured_row(method: str) -> str:
    """Return the headline of a method's measured row; the whole row stands in the table of its report."""
    file = MEASURED / f"{sources.MEASURED_HEADLINE}.json"
    if not file.exists():
        return _NOTHING
    models = {name.replace("_", ""): model for name, model in json.loads(file.read_text())["models"].items()}
    model = models.get(method.lower())
    if model is None:
        return _NOTHING
    return ", ".join(
        _spread(metric, model[metric]) + unit for metric, unit in sources.MEASURED_HEADLINE_METRICS.items()
    )


def _evaluators() -> str:
    rows = []
    for name, entry in sources.EVALUATORS.items():
        evaluator = exported("callbacks")[name]
        prefix, scores = _scores(evaluator, entry)
        controls = "; ".join(filter(None, ("source, retrained", entry.control)))
        rows.append([f"`{name}`", first_sentence(evaluator), _braced(prefix, scores), controls, entry.source])
    return table(["evaluator", "what it measures", "metrics", "controls", "source"], rows)


def _scores(evaluator: Any, entry: sources.Evaluator) -> tuple[str, Sequence[str]]:
    """Return the common beginning and the rest of an evaluator's metric names, as the report's glossary has them."""
    from lightning_unlearn.reports import METRICS

    prefix = f"{evaluator.default_name}/"
    own = [metric.removeprefix(prefix) for metric in METRICS if metric.startswith(prefix)]
    return (prefix, own) if own else ("", entry.metrics)


def _braced(prefix: str, names: Sequence[str]) -> str:
    return f"`{prefix}{{{','.join(names)}}}`" if prefix else ", ".join(f"`{name}`" for name in names)


def _parts() -> str:
    rows = [
        [f"`{name}`", f"`{room}`", first_sentence(exported(room)[name])]
        for room, names in sources.PARTS.items()
        for name in names
    ]
    return table(["part", "from", "what it is"], rows)


def _metrics() -> str:
    rows = [
        [f"`{name}`", first_sentence(exported("metrics")[name]), f"`{function}`", paper]
        for name, (function, paper) in sources.METRICS.items()
    ]
    return table(["metric", "what it measures", "function", "source"], rows)


def _functional() -> str:
    rows = [
        [f"`{name}`", first_sentence(function)]
        for name, function in exported("functional").items()
        if not inspect.isclass(function)
    ]
    return table(["function", "what it returns or does"], rows)


def _datamodules() -> str:
    rows = [
        [f"`{name}`", first_sentence(exported("data")[name]), own_defaults(exported("data")[name]), source]
        for name, source in sources.DATAMODULES.items()
    ]
    return table(["datamodule", "what it holds", "parameters", "used in"], rows)


def _forget_rules() -> str:
    data = exported("data")
    kinds = (("ForgetRule", "`forget=`"), ("Trigger", "`backdoor=Poison(...)`"))
    rows = [
        [f"`{name}`", argument, first_sentence(rule), own_defaults(rule)]
        for base, argument in kinds
        for name, rule in data.items()
        if inspect.isclass(rule) and issubclass(rule, data[base]) and name != base
    ]
    return table(["rule or trigger", "argument", "what it chooses or marks", "parameters"], rows)


def _models() -> str:
    import torch

    from lightning_unlearn.models import count_parameters

    rows = []
    for name, source in sources.MODELS.items():
        model, count = exported("models")[name], _NOTHING
        arguments = sources.NEEDED_ARGUMENTS.get(name, {})
        if arguments is not None:
            with torch.device("meta"):  # sizes without memory
                count = f"{count_parameters(model(**arguments)):,}"
        rows.append([f"`{name}`", first_sentence(model), own_defaults(model), count, source])
    return table(["model", "what it is", "parameters", "weights", "used in"], rows)


def _papers() -> str:
    parts = []
    for title, rows in sources.PAPERS.items():
        cells = [
            [place, what, ", ".join(map(link, names)) or "no configuration"] for place, what, names in rows
        ]
        parts.append(f"**{title}**\n\n{table(['there', 'what', 'here'], cells)}")
    return "\n\n".join(parts)


def link(name: str) -> str:
    """Return a name of :data:`docs_sources.PAPERS` in Markdown: files of the repository as links."""
    return f"[`{name}`]({name})" if name.startswith(("configs/", "notebooks/")) else f"`{name}`"


def resolve(name: str) -> object:
    """Return what a name of :data:`docs_sources.PAPERS` stands for.

    Raises:
        LookupError: If there is no such file, figure or attribute.
    """
    if name.startswith(("configs/", "notebooks/")):
        if not (REPO / name).is_file():
            raise LookupError(f"{name} is no file of the repository")
        return REPO / name
    if name.startswith("figures/"):
        from lightning_unlearn.reports import FIGURES

        return {f"figures/{figure.filename}": figure for figure in FIGURES}[name]
    room, *attributes = name.split(".")
    found: object = importlib.import_module(f"lightning_unlearn.{room}")
    for attribute in attributes:
        if not hasattr(found, attribute):
            raise LookupError(f"lightning_unlearn.{name} does not exist")
        found = getattr(found, attribute)
    return found


# ---------------------------------------------------------------------- tables of measured reports


def measured_table(report: Any, name: str) -> str:
    """Return a report's models down and metrics across, mean ± standard deviation over the seeds, controls first.

    Args:
        report: The content of a report.json, or an extract with ``models`` and ``seeds``.
        name: Its entry in :data:`docs_sources.MEASURED`.
    """
    from lightning_unlearn.reports import CONTROLS, describe

    models = report["models"]
    ordered = [model for model in CONTROLS if model in models] + [m for m in models if m not in CONTROLS]
    metrics = [m for m in sources.MEASURED_METRICS if any(m in values for values in models.values())]
    header = ["model", *(_unit_heading(describe(metric)) for metric in metrics)]
    rows = [
        [f"`{model}`", *(_spread(metric, models[model].get(metric)) for metric in metrics)]
        for model in ordered
    ]
    seeds = len(report["seeds"])
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    command = f"`lightning-unlearn compare --config {sources.MEASURED[name]}`"
    return "\n\n".join([f"{command}; {spread}{_circumstances(report)}.", table(header, rows, numbers=True)])


def _unit_heading(metric: Any) -> str:
    return f"{metric.short} [{metric.unit}]" if metric.unit else metric.short


def _spread(metric: str, value: Any) -> str:
    from lightning_unlearn.reports import describe
    from lightning_unlearn.reports.glossary import decimals, format_number

    if value is None:
        return _NOTHING
    entry = describe(metric)
    digits = decimals(entry, value)
    mean = format_number(entry, value["mean"], digits)
    return mean if value["std"] is None else f"{mean} ± {format_number(entry, value['std'], digits)}"


def _circumstances(report: Any) -> str:
    """Return what else a reader needs, as far as the report has it: who was forgotten, and on what machine."""
    data, versions = report.get("data", {}), report.get("versions", {})
    parts = []
    if {"n_forget", "n_retain"} <= set(data):
        parts.append(f"{data['n_forget']:,} of {data['n_forget'] + data['n_retain']:,} samples forgotten")
    machine = [*versions.get("gpu", [])] or [versions["cpu"]] if "cpu" in versions else []
    parts += [", ".join(machine)] if machine else []
    if "torch" in versions:
        parts.append(f"torch {versions['torch']}")
    return "".join(f"; {part}" for part in parts)


# ---------------------------------------------------------------------- Markdown


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """Return a Markdown table; all columns but the first are set to the right where they hold numbers."""
    ruler = ["---", *(("--:" if numbers else "---") for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ruler, *rows))


def first_sentence(subject: Any) -> str:
    """Return the first sentence of a docstring, its markup turned from reStructuredText into Markdown."""
    paragraph = (inspect.getdoc(subject) or "").split("\n\n")[0].replace("\n", " ")
    text = re.sub(r":math:`([^`]+)`", lambda found: f"${found[1]}$".replace(r"\|", r"\Vert{}"), paragraph)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    return re.split(r"(?<=[^.][.]) (?=[A-Z])", text)[0].removesuffix(".").replace("|", r"\|")


def defaults(subject: Any, names: Iterable[str]) -> str:
    """Return parameters with their defaults, as code; those without a default by name."""
    parameters = parameters_of(subject) if inspect.isclass(subject) else inspect.signature(subject).parameters
    cells = [
        name
        if parameters[name].default is inspect.Parameter.empty
        else f"{name}={parameters[name].default!r}"
        for name in names
    ]
    return ", ".join(f"`{cell}`".replace("|", r"\|") for cell in cells) or _NOTHING


def own_defaults(subject: Any) -> str:
    """Return the parameters that say what a class is like, with their defaults; those that all have are left out."""
    common = {"seed", "batch_size", "val_fraction", "root", "download", "args", "kwargs"}
    names = [name for name in inspect.signature(subject).parameters if name not in common]
    return defaults(subject, sources.MAIN_PARAMETERS.get(subject.__name__, names))


# ---------------------------------------------------------------------- the README


def markers(name: str) -> tuple[str, str]:
    """Return the lines between which a table stands."""
    return f"<!-- generated: {name} -->", f"<!-- end: {name} -->"


def shown(text: str) -> dict[str, str]:
    """Return the tables that a text holds, by name."""
    pattern = r"^<!-- generated: (\w+) -->\n(.*?)\n?^<!-- end: \1 -->$"
    return {name: content.strip() for name, content in re.findall(pattern, text, re.MULTILINE | re.DOTALL)}


def replaced(text: str, tables: dict[str, str]) -> str:
    """Return a text with its tables exchanged for those given; what has no marker in it is left out."""
    for name in shown(text):
        if name in tables:
            start, end = markers(name)
            before, _, rest = text.partition(start)
            text = f"{before}{start}\n\n{tables[name]}\n\n{end}{rest.partition(end)[2]}"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all tables, or write them into a file; the status is 1 if the file has no place for one of them."""
    parser = argparse.ArgumentParser(description="Renders the README's tables from the code.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="exchange the tables of this file")
    file = parser.parse_args(arguments).write
    tables = render_all()
    if file is None:
        print(
            "\n\n".join("\n\n".join((markers(n)[0], content, markers(n)[1])) for n, content in tables.items())
        )
        return 0
    text = file.read_text()
    file.write_text(replaced(text, tables))
    missing = [name for name in tables if name not in shown(text)]
    for name in missing:
        print(f"{file} has no lines {markers(name)[0]} and {markers(name)[1]}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
