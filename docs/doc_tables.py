"""Make the tables of the documentation from the package, the heads of the pages, and measured reports.

A page has a table where it has the line ``<!-- table: NAME ARGUMENT -->``; NAME is a function of this file. What no
signature or docstring says of a method or an evaluator (its paper, what a step minimises, what it refuses) is in the
head of its page, so that a new page is all that a new class needs. ``python docs/doc_tables.py README.md`` writes the
README's tables, which GitHub shows as they are; ``python docs/doc_tables.py runs/mnist runs/benchmark/all/*/`` keeps
what comparisons measured. It writes ``lightning_unlearn/methods/__init__.py`` and ``callbacks/__init__.py`` as well,
when one of them is named: what a room exports follows from its files.
"""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

REPO = Path(__file__).resolve().parents[1]
MEASURED = REPO / "tests" / "measured"
ROOMS = {"methods": "methods", "evaluators": "callbacks"}
_MARKER = re.compile(r"^<!-- table: (\w+) ?(.*?) -->$", re.MULTILINE)
_IN_README = re.compile(r"^(<!-- table: (\w+) -->\n).*?^(<!-- end of table -->)$", re.MULTILINE | re.DOTALL)
_SHORT = (
    *("accuracy/test", "accuracy/retain", "accuracy/forget", "backdoor/success_rate_forget"),
    *("membership_inference/hit_rate", "similarity", "acceleration", "acceleration/cpu"),
)
_LONG = (
    *(*_SHORT, "time/total_s", "time/cpu_s", "membership_inference/auc", "population_attack/auc"),
    *("forgetting_rate", "memory_retention_rate"),
    *("unlearning_degree/degree", "unlearning_degree/null", "unlearning_degree/calibrated"),
)


def insert(text: str) -> str:
    """Return a page's Markdown with its tables put in."""
    return _MARKER.sub(lambda found: globals()[found[1]](*found[2].split()), text)


# ---------------------------------------------------------------------- what there is


def exported(room: str) -> dict[str, Any]:
    """Return what a room of the package exports, by name."""
    module = importlib.import_module(f"lightning_unlearn.{room}")
    return {name: getattr(module, name) for name in module.__all__}


@cache
def pages(kind: str) -> dict[str, dict[str, Any]]:
    """Return the heads of the pages on ``methods`` or ``evaluators`` by class, each with its file's name."""
    heads = {}
    for file in sorted((REPO / "docs" / kind).glob("*.md")):
        text = file.read_text()
        if file.name != "index.md" and text.startswith("---\n"):
            head = yaml.safe_load(text.split("---\n")[1])
            heads[head["class"]] = {**head, "file": file.name}
    return heads


def subject(name: str) -> Any:
    """Return the method or evaluator of a name."""
    return next(found[name] for room in ROOMS.values() if name in (found := exported(room)))


# ---------------------------------------------------------------------- methods and evaluators


def methods(folder: str = "") -> str:
    """Return the table of all methods."""
    rows = [
        [
            _page(name, folder, head),
            first_sentence(subject(name)),
            head["minimises"],
            "-" if subject(name).one_shot else subject(name).epoch_stream,
            head["paper"],
        ]
        for name, head in pages("methods").items()
    ]
    return table(["method", "what it does", "what a step minimises", "an epoch is", "paper"], rows)


def evaluators(folder: str = "") -> str:
    """Return the table of all evaluators."""
    rows = [
        [_page(name, folder, head), first_sentence(subject(name)), head.get("control", "-"), head["paper"]]
        for name, head in pages("evaluators").items()
    ]
    return table(["evaluator", "what it measures", "control beside source and retrained", "paper"], rows)


def short(kind: str) -> str:
    """Return the README's table of one kind: name and what it does."""
    rows = [
        [_page(name, f"docs/{kind}/", head), first_sentence(subject(name))]
        for name, head in pages(kind).items()
    ]
    return table([kind.removesuffix("s"), "what it does" if kind == "methods" else "what it measures"], rows)


def facts(name: str) -> str:
    """Return what a method is served and takes, for its page."""
    method, head = subject(name), pages("methods")[name]
    shared = parameters_of(exported("methods")["UnlearningModule"])
    own = [name for name in parameters_of(method) if name not in shared]
    refused = ", ".join(f"`{axis}`" for axis in head.get("refused", {})) or "nothing"
    rows = [
        ["class", f"[`{name}`][lightning_unlearn.methods.{name}]"],
        ["paper", head["paper"]],
        ["a step minimises", head["minimises"]],
        ["served", ", ".join(f"`{stream}`" for stream in method.streams)],
        [
            "an epoch is one pass over",
            "no epochs: `max_epochs=0`" if method.one_shot else f"`{method.epoch_stream}`",
        ],
        ["parameters of its own", defaults(method, own)],
        ["refuses", refused],
    ]
    return table(rows[0], rows[1:])


def metrics(name: str) -> str:
    """Return what an evaluator declares of its metrics, for its page."""
    rows = [
        [
            f"`{metric}`",
            declared.explanation.replace("|", r"\|"),
            declared.unit or "-",
            declared.direction or "read beside others",
            declared.decides or "-",
        ]
        for metric, declared in subject(name).metrics.items()
    ]
    return table(["metric", "what it is", "unit", "better is", "decides"], rows)


def support(kind: str) -> str:
    """Return what of one kind the tests run, option by option."""
    axes, only = support_axes(kind), support_axes("only") if kind == "methods" else {}
    names = sorted(pages(kind).keys() - support_axes("like").keys())

    def cell(name: str, axis: str) -> str:
        if axis in pages(kind)[name].get("refused", {}):
            return "refused"
        if getattr(subject(name), "one_shot", False):
            return "yes" if axis in support_axes("one_shot") else "-"
        return "yes" if name in only.get(axis, names) else "not run"

    rows = [[label, *(cell(name, axis) for name in names)] for axis, label in axes.items()]
    return table(["", *(f"`{name}`" for name in names)], rows, align=":-:")


def tasks() -> str:
    """Return the kinds of task, and what is refused for each; a source's own step may stand for a loss."""
    kinds = {type(task) for task in importlib.import_module("lightning_unlearn.functional.tasks").TASKS}

    def refused(kind: str, task: Any) -> str:
        lacking = (
            name for name in sorted(pages(kind)) if not {*subject(name).needs} <= task.offers | {"loss"}
        )
        return ", ".join(f"`{name}`" for name in lacking) or "-"

    rows = [
        [f"`{task.name}`", first_sentence(task), *(refused(kind, task) for kind in ROOMS)]
        for task in sorted(kinds, key=lambda task: str(task.name))
    ]
    return table(["task", "what it is", "methods refused", "evaluators refused"], rows)


@cache
def support_axes(kind: str) -> dict[str, Any]:
    """Return one part of ``support.yml``."""
    return dict(yaml.safe_load((REPO / "docs" / "support.yml").read_text())[kind])


# ---------------------------------------------------------------------- data, networks, configurations


def datamodules() -> str:
    """Return the table of the data sets that come with the package."""
    import lightning as L

    rows = [
        [f"`{name}`", first_sentence(data), own_defaults(data), used_in(f"data.{name}")]
        for name, data in exported("data").items()
        if inspect.isclass(data)
        and issubclass(data, L.LightningDataModule)
        and name != "UnlearningDataModule"
    ]
    return table(["datamodule", "what it holds", "parameters", "used in"], rows)


def rules(base: str) -> str:
    """Return the table of the forget rules or of the triggers."""
    data = exported("data")
    rows = [
        [f"`{name}`", first_sentence(rule), own_defaults(rule)]
        for name, rule in data.items()
        if inspect.isclass(rule) and issubclass(rule, data[base]) and name != base
    ]
    return table(["rule" if base == "ForgetRule" else "trigger", "what it does", "parameters"], rows)


def networks() -> str:
    """Return the table of the networks, with the number of their weights."""
    import torch
    from torch import nn

    from lightning_unlearn.models import count_parameters

    rows = []
    for name, model in exported("models").items():
        if not (inspect.isclass(model) and issubclass(model, nn.Module)):
            continue
        needed = [
            p for p in inspect.signature(model).parameters.values() if p.default is p.empty and p.kind < 2
        ]
        with torch.device("meta"):  # sizes without memory
            count = "-" if needed or name == "Network" else f"{count_parameters(model()):,}"
        rows.append(
            [f"`{name}`", first_sentence(model), own_defaults(model), count, used_in(f"models.{name}")]
        )
    return table(["model", "what it is", "parameters", "weights", "used in"], rows)


def configurations() -> str:
    """Return every configuration of the repository, each under a heading."""
    parts = []
    for file in sorted((REPO / "configs").rglob("*.yaml")):
        name = file.relative_to(REPO)
        parts.append(f"## {name} {{ #{anchor(str(name))} }}\n\n```yaml\n{file.read_text().rstrip()}\n```")
    return "\n\n".join(parts)


def anchor(name: str) -> str:
    """Return the anchor of a configuration on its page."""
    return name.removeprefix("configs/").removesuffix(".yaml").replace("/", "-")


@cache
def papers() -> dict[str, list[str]]:
    """Return where each name of the page on papers is used, such as ``Chen et al. 2024, table 1``."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in (REPO / "docs" / "papers.md").read_text().splitlines():
        if line.startswith("## "):
            title = line[3:].partition(":")[0]
        elif line.startswith("| ") and len(cells := [cell.strip() for cell in line.split("|")[1:-1]]) == 3:
            for name in re.findall(r"`([\w.]+)`", cells[2]):
                found.setdefault(name, []).append(f"{title}, {cells[0]}")
    return found


def used_in(name: str) -> str:
    """Return the places in papers where something is used."""
    return "; ".join(papers().get(name, ())) or "-"


# ---------------------------------------------------------------------- measured reports


def measured(name: str) -> str:
    """Return a measured report's models down and metrics across, mean ± standard deviation, controls first."""
    report = json.loads((MEASURED / f"{name}.json").read_text())
    models = report["models"]
    columns = [metric for metric in _LONG if any(metric in values for values in models.values())]
    return _caption(report) + "\n\n" + _measured_rows(report, ordered(report), columns)


_AS_THE_SLICE = [
    ("accuracy/test", "loses", 0.01),
    ("accuracy/forget", "within", 0.04),
    ("population_attack/auc", "within", 0.03),
    ("similarity", "comes within", 0.02),
    ("acceleration/cpu", "at least", 8),
]
BOUNDS: dict[str, list[tuple[str, str, float]]] = {
    "mislabelled": [
        ("accuracy/forget", "at most", 0.02),
        ("accuracy/test", "loses", 0.01),
        ("acceleration/cpu", "at least", 10),
    ],
    "backdoor": [
        ("backdoor/success_rate_forget", "at most", 0.05),
        ("accuracy/test", "loses", 0.005),
        ("acceleration/cpu", "at least", 40),
    ],
    "class_mnist": [
        ("accuracy/forget", "at most", 0.01),
        ("accuracy/test_retained_classes", "loses", 0.01),
        ("acceleration/cpu", "at least", 15),
    ],
    "slice": _AS_THE_SLICE,
    "slice_resnet18": _AS_THE_SLICE,
    "cifar10": _AS_THE_SLICE,
    "cifar10_resnet18": [*_AS_THE_SLICE[:-1], ("acceleration", "at least", 8)],  # a GPU's time is the clock's
    "class_slice": [
        ("accuracy/forget", "at most", 0.01),
        ("accuracy/test_retained_classes", "loses", 0.01),
        ("acceleration/cpu", "at least", 15),
    ],
    "identity": [
        ("accuracy/test", "loses", 0.01),
        ("accuracy/forget", "within", 0.04),
        ("population_attack/auc", "within", 0.03),
        ("acceleration/cpu", "at least", 8),
    ],
    "location30": [
        ("accuracy/test", "loses", 0.01),
        ("accuracy/forget", "within", 0.03),
        ("population_attack/auc", "within", 0.03),
        ("acceleration", "at least", 20),
        ("acceleration/cpu", "at least", 30),
    ],
}
"""What a method is to reach in each scenario of the benchmark, on the mean, alone or beside the retrained model."""
SUFFIXES = {
    "loses": " at most",
    "within": " of the retrained model",
    "comes within": " of a second retrained model's",
}


def benchmark(name: str) -> str:
    """Return a scenario's leaderboard: what is to be reached, then every model with its verdict and numbers."""
    from lightning_unlearn.reports import describe, judge_all
    from lightning_unlearn.reports.floor import same_cost
    from lightning_unlearn.reports.glossary import all_models, format_number

    report = json.loads((MEASURED / "benchmark" / f"{name}.json").read_text())
    models, bounds = report["models"], BOUNDS[name]
    verdicts, floors = judge_all(report, margins(name)), same_cost(report)
    asked_of = [metric for metric, *_ in bounds if not metric.startswith("acceleration")]
    others = ("acceleration/cpu", "acceleration", "similarity", "accuracy/retain")
    columns = list(dict.fromkeys([*asked_of, *others]))
    rows = []
    for model in all_models(report):
        missed = missed_bounds(report, name, model) if model in verdicts else []
        told = (
            [", ".join(missed) or "all reached", verdicts[model].headline]
            if model in verdicts
            else ["-", "-"]
        )
        place = floors[model].place if model in floors else "-"
        rows.append(
            [f"`{model}`", *told, place, *(spread(metric, models[model].get(metric)) for metric in columns)]
        )
    asked = "; ".join(
        f"{describe(metric, report).short} {kind} {format_number(describe(metric, report), bound)}"
        f"{' ' + describe(metric, report).unit if describe(metric, report).unit else ''}"
        + SUFFIXES.get(kind, "")
        for metric, kind, bound in bounds
    )
    header = [
        "model",
        "missed bounds",
        "verdict",
        "same cost",
        *(describe(c, report).short_heading for c in columns),
    ]
    return f"To be reached: {asked}.\n\n{_caption(report)}\n\n{table(header, rows, align='--:')}"


def margins(name: str) -> dict[str, float]:
    """Return the margins of a scenario of a class or of given labels, as `compare` sets them since it was measured."""
    from lightning_unlearn.engine.answering import GIVEN_LABELS, MOST_LEFT

    left = any(metric in GIVEN_LABELS and kind == "at most" for metric, kind, _ in BOUNDS[name])
    return dict.fromkeys(GIVEN_LABELS, MOST_LEFT) if left else {}


def missed_bounds(report: Any, name: str, model: str) -> list[str]:
    """Return the metrics of a scenario's bounds that a model misses on its mean, in short."""
    from lightning_unlearn.reports import describe

    def misses(metric: str, kind: str, bound: float) -> bool:
        controls = (model, "retrain", "retrain_2")
        own, retrained, second = (report["models"].get(m, {}).get(metric, {}).get("mean") for m in controls)
        if own is None:
            return True
        return {
            "at most": own > bound,
            "at least": own < bound,
            "loses": retrained is not None and own < retrained - bound,
            "within": retrained is not None and abs(own - retrained) > bound,
            "comes within": second is not None and own < second - bound,
        }[kind]

    return [
        describe(metric, report).short for metric, kind, bound in BOUNDS[name] if misses(metric, kind, bound)
    ]


SHARES = ("forget_05", "forget_10", "forget_15", "forget_20")
"""Scenarios of ``benchmark/forget_share``."""


def forget_share() -> str:
    """Return what each model comes to over the share that is forgotten, models down and shares across."""
    from lightning_unlearn.reports import describe
    from lightning_unlearn.reports.floor import same_cost

    reports = [json.loads((MEASURED / "benchmark" / f"{name}.json").read_text()) for name in SHARES]
    floors = [same_cost(report) for report in reports]
    named = [f"{100 * (d := r['data'])['n_forget'] / (d['n_forget'] + d['n_retain']):.0f}%" for r in reports]
    shown = [model for model in ordered(reports[0]) if not model.startswith("retrain_")]
    rows = [
        [
            f"`{model}`",
            share,
            *(spread(metric, report["models"][model].get(metric)) for metric in _OF_SHARES),
            floor[model].place if model in floor else "-",
        ]
        for model in shown
        for share, report, floor in zip(named, reports, floors, strict=True)
    ]
    header = ["model", "forgotten", *(describe(metric).short_heading for metric in _OF_SHARES), "same cost"]
    every = {**reports[0], "data": {}}
    return f"{_caption(every)}\n\n{table(header, rows, align='--:')}"


_OF_SHARES = (
    *("accuracy/test", "accuracy/forget", "accuracy/retain", "population_attack/auc", "similarity"),
    "acceleration/cpu",
)


def sequential() -> str:
    """Return what ten requests, one after another, leave of each model, beside retraining after each of them."""
    reports = [json.loads((MEASURED / "benchmark" / f"{name}.json").read_text()) for name in REQUESTS]
    told = {name: chain(reports, name) for name in ordered(reports[0]) if name != "source"}
    rows = []
    for name, found in told.items():
        missed = [
            *(["drift"] if found["drift"][-1].mean() < -0.01 else []),
            *(["earlier requests"] if found["accuracy/previous"][-1].mean() > _STILL_GIVEN else []),
        ]
        test, drift = found["accuracy/test"], found["drift"].mean(axis=1)
        rows.append(
            [
                f"`{name}`",
                "-" if name.startswith("retrain") else ", ".join(missed) or "all reached",
                *(f"{100 * each.mean():.1f} ± {100 * each.std(ddof=1):.1f}" for each in (test[0], test[-1])),
                *("-" if name == "retrain" else f"{100 * each:+.1f}" for each in (drift[-1], drift.min())),
                *(
                    f"{100 * each.mean():.1f} ± {100 * each.std(ddof=1):.1f}"
                    for each in (found["accuracy/forget"].mean(axis=0), found["accuracy/previous"][-1])
                ),
                f"{(told['retrain']['time/cpu_s'].sum(axis=0) / found['time/cpu_s'].sum(axis=0)).mean():.3g}",
            ]
        )
    header = ["model", "missed bounds", "test after 1 [%]", "test after 10 [%]", "drift [points]"]
    header += ["worst drift", "newest still given [%]", "earlier still given [%]", "acceleration, CPU [×]"]  # noqa: RUF001
    asked = "drift at most 1 point down after the tenth; earlier wrong labels still given at most "
    asked += f"{100 * _STILL_GIVEN:.0f}%"
    caption = _caption({**reports[-1], "data": {}})
    return f"To be reached: {asked}.\n\n{caption}\n\n{table(header, rows, align='--:')}"


def chain(reports: Sequence[Any], name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return a model's values by metric, a request a row and a seed a column, and its distance in test accuracy."""
    asked = ("accuracy/test", "accuracy/forget", "accuracy/previous", "time/cpu_s")
    found = {
        metric: np.array(
            [r["models"][name][metric]["values"] for r in reports if metric in r["models"][name]]
        )
        for metric in asked
    }
    retrained = np.array([report["models"]["retrain"]["accuracy/test"]["values"] for report in reports])
    return {**found, "drift": found["accuracy/test"] - retrained}


REQUESTS = tuple(f"request_{number:02}" for number in range(1, 11))
"""Scenarios of ``benchmark/sequential``."""
_STILL_GIVEN = 0.02
"""How many wrong labels of earlier requests a model may still give, after the last."""


def measured_method(name: str) -> str:
    """Return what was measured of one method beside its controls, from every report that has it."""
    parts = []
    for file in sorted(MEASURED.glob("*.json")):
        report = json.loads(file.read_text())
        found = next((m for m in report["models"] if m.replace("_", "") == name.lower()), None)
        if found is not None:
            models = list(dict.fromkeys(["source", "retrain", found]))
            columns = [metric for metric in _SHORT if metric in report["models"][found]]
            parts.append(f"**{titles()[file.stem]}**\n\n{_measured_rows(report, models, columns)}")
    return "\n\n".join(parts) or "Not measured yet."


@cache
def titles() -> dict[str, str]:
    """Return the headings of the page on what was measured, by the report under each."""
    text = (REPO / "docs" / "measured.md").read_text()
    return {
        name: title
        for title, name in re.findall(
            r"^## ([^\n]+)\n(?:(?!^## ).)*?table: measured (\w+)", text, re.M | re.S
        )
    }


def ordered(report: Any) -> list[str]:
    """Return a report's models, controls first."""
    from lightning_unlearn.reports import CONTROLS

    return [m for m in CONTROLS if m in report["models"]] + [m for m in report["models"] if m not in CONTROLS]


FORGETFUL = ("another retrained model", "another retrained model, logits ÷ 1.3")
"""Rows of :func:`cheats` that never saw the forget set; all others remember it."""


def cheats(part: str) -> str:
    """Return what evaluators say of models that hide what they know; bold where they are fooled."""
    from lightning_unlearn.reports import describe
    from lightning_unlearn.reports.glossary import format_number

    stored = json.loads((MEASURED / "evaluators" / "cheats.json").read_text())
    names = list(stored["models"]["the source"][part])
    wrong = fooled(stored)
    rows = []
    for model, scores in stored["models"].items():
        cells = [
            metric.absent if (value := scores[part][name]) is None else format_number(metric, value)
            for name in names
            for metric in [describe(name)]
        ]
        marked = [
            f"**{cell}**" if (model, name) in wrong else cell for name, cell in zip(names, cells, strict=True)
        ]
        rows.append([model, *marked])
    return table(["model", *(describe(name).short_heading for name in names)], rows, align="--:")


def fooled(stored: Any) -> set[tuple[str, str]]:
    """Return models with the metrics that are wrong about them: on the other side of the middle of the gap.

    The gap is that between the source, which remembers, and another retrained model.
    """
    models, wrong = stored["models"], set()
    flat = {
        model: {
            name: stored["steps"] if value is None else value
            for part in parts.values()
            for name, value in part.items()
        }
        for model, parts in models.items()
    }
    for name, remembers in flat["the source"].items():
        forgot = flat[FORGETFUL[0]][name]
        for model, scores in flat.items():
            near = abs(scores[name] - forgot) < abs(remembers - forgot) / 2
            if near != (model in FORGETFUL):
                wrong.add((model, name))
    return wrong


def _measured_rows(report: Any, models: Sequence[str], columns: Sequence[str]) -> str:
    from lightning_unlearn.reports import describe

    entries = [describe(metric) for metric in columns]
    header = ["model", *(entry.short_heading for entry in entries)]
    rows = [
        [f"`{m}`", *(spread(metric, report["models"][m].get(metric)) for metric in columns)] for m in models
    ]
    return table(header, rows, align="--:")


def spread(metric: str, value: Any) -> str:
    """Return a metric's mean ± standard deviation as the report prints it."""
    from lightning_unlearn.reports import describe
    from lightning_unlearn.reports.glossary import decimals, format_number

    if value is None:
        return "-"
    entry = describe(metric)
    digits = decimals(entry, value)
    mean = format_number(entry, value["mean"], digits)
    return mean if value["std"] is None else f"{mean} ± {format_number(entry, value['std'], digits)}"


def _caption(report: Any) -> str:
    seeds = len(report["seeds"])
    parts = [f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"]
    data, versions = report.get("data", {}), report.get("versions", {})
    if {"n_forget", "n_retain"} <= set(data):
        parts.append(f"{data['n_forget']:,} of {data['n_forget'] + data['n_retain']:,} samples forgotten")
    parts += versions.get("gpu") or [versions[key] for key in ("cpu",) if key in versions]
    parts += [f"{name} {versions[name]}" for name in ("python", "torch", "lightning") if name in versions]
    return "; ".join(parts) + "."


# ---------------------------------------------------------------------- Markdown


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "---") -> str:
    """Return a Markdown table; ``align`` is the ruler of all columns but the first."""
    ruler = ["---", *(align for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ruler, *rows))


def first_sentence(subject: Any) -> str:
    """Return the first sentence of a docstring, its markup turned from reStructuredText into Markdown."""
    paragraph = (inspect.getdoc(subject) or "").split("\n\n")[0].replace("\n", " ")
    text = re.sub(r":math:`([^`]+)`", lambda found: f"${found[1]}$".replace(r"\|", r"\Vert{}"), paragraph)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    return re.split(r"(?<=[^.][.]) (?=[A-Z])", text)[0].removesuffix(".").replace("|", r"\|")


def parameters_of(kind: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class, with those that it hands up to its bases by ``**kwargs``."""
    found: dict[str, inspect.Parameter] = {}
    said: set[str] = set()
    for base in kind.__mro__:
        if "__init__" in vars(base):
            own = inspect.signature(base).parameters
            found = {**found, **{name: each for name, each in own.items() if name not in {*found, *said}}}
            said |= _given_up(base)
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
                break
    return {name: each for name, each in found.items() if each.kind is not each.VAR_KEYWORD}


def _given_up(kind: type) -> set[str]:
    """Return the arguments that a class says to its base itself, as in ``super().__init__(source, ascent=1)``."""
    written = vars(kind)["__init__"]
    if not inspect.isfunction(written) or not Path(written.__code__.co_filename).is_file():
        return set()  # made by dataclass, or not in Python
    tree = ast.parse(textwrap.dedent(inspect.getsource(written)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        keyword.arg
        for call in calls
        if ast.unparse(call.func) == "super().__init__"
        for keyword in call.keywords
        if keyword.arg is not None
    }


def defaults(subject: Any, names: Iterable[str]) -> str:
    """Return parameters with their defaults, as code; those without a default by name."""
    parameters = parameters_of(subject)
    cells = [
        name if (default := parameters[name].default) is inspect.Parameter.empty else f"{name}={default!r}"
        for name in names
    ]
    return ", ".join(f"`{cell}`".replace("|", r"\|") for cell in cells) or "-"


def own_defaults(subject: Any) -> str:
    """Return the parameters that say what a class is like; those that all have are left out."""
    common = {"seed", "batch_size", "val_fraction", "root", "download", "args", "kwargs"}
    return defaults(subject, [name for name in parameters_of(subject) if name not in common])


def _page(name: str, folder: str, head: dict[str, Any]) -> str:
    return f"[`{name}`]({folder}{head['file']})"


def readme(text: str) -> str:
    """Return the README with its tables up to date."""
    return _IN_README.sub(lambda found: f"{found[1]}\n{short(found[2])}\n\n{found[3]}", text)


def exports(file: Path) -> str:
    """Return a room's ``__init__.py``: what it has of ``base``, and every file's first public class."""
    text = file.read_text()
    docstring = text[: text.index("from ")]
    room = f"lightning_unlearn.{file.parent.name}"
    imports = re.findall(rf"^from {room}\.base\..*$", text, re.MULTILINE)
    for module in sorted(file.parent.glob("[!_]*.py")):
        first = re.search(r"^class ([A-Z]\w*)", module.read_text(), re.MULTILINE)
        assert first, f"{module} has no public class"
        imports.append(f"from {room}.{module.stem} import {first[1]}")
    names = [line.rpartition(" ")[2] for line in imports]
    content = docstring + "\n".join([*imports, f"__all__ = {names}"])
    for command in (["check", "--fix", "--quiet", "--select=I,RUF022"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, f"--stdin-filename={file}", "-"]
        content = subprocess.run(ruff, input=content, capture_output=True, text=True, check=True).stdout
    return content


def store(folder: Path) -> Path:
    """Keep a report's numbers, under the name of its folder, for :func:`measured` or :func:`benchmark`."""
    report = json.loads((folder / "report.json").read_text())
    kept = {key: report[key] for key in ("schema_version", "seeds", "data", "versions", "models")}
    kept["data"].pop("seconds", None)
    file = MEASURED / ("" if folder.parent.name == "runs" else "benchmark") / f"{folder.name}.json"
    file.parent.mkdir(exist_ok=True)
    rounded = json.loads(json.dumps(kept), parse_float=lambda number: float(f"{float(number):.6g}"))
    file.write_text(json.dumps(rounded, indent=0, sort_keys=True) + "\n")
    return file


if __name__ == "__main__":
    for argument in map(Path, sys.argv[1:]):
        if argument.is_dir():
            store(argument)
        elif argument.name == "__init__.py":
            argument.write_text(exports(argument))
        else:
            argument.write_text(readme(argument.read_text()))
