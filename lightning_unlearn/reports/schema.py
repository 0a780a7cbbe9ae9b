"""The contract of report.json: its types, how it is built, checked, written and read."""

import enum
import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.core.versions import installed_versions
from lightning_unlearn.functional.statistics import confidence_interval
from lightning_unlearn.metrics.declared import DeclaredMetric

SCHEMA_VERSION: Literal[2] = 2
"""The version of the contract that this package writes; it reads version 1 too, which had ``forget_sha256``, a hash
without a key."""


_ALIASES = {"membership_inference/accuracy": "membership_inference/hit_rate"}
"""What metrics were called before, with their names: a file has both, and either is read as the latter."""


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Value(TypedDict):
    """One metric of one model over all seeds.

    Attributes:
        mean: Mean over the seeds that measured it.
        std: Sample standard deviation (n - 1) over them; None with one.
        ci95: Ends of the two-sided 95% Student t interval of the mean; None with one.
        values: One number a seed, in the order of the report's ``seeds``; None where one did not measure it.
    """

    mean: _Finite
    std: Annotated[_Finite, Field(ge=0)] | None
    ci95: Annotated[list[_Finite], Field(min_length=2, max_length=2)] | None
    values: list[_Finite | None]


class Failure(TypedDict):
    """One run, or one of its scores, that gave no number: the model, the seed and what went wrong."""

    model: str
    seed: int
    error: str


def _consistent(value: Value) -> Value:
    """Refuse a value whose mean and interval do not belong to its numbers."""
    numbers = [number for number in value["values"] if number is not None]
    if not numbers:
        raise ValueError("values must hold at least one number")
    mean, std, ci95 = value["mean"], value["std"], value["ci95"]
    # A report may have gone through another tool's rounding; a mean of other values is what this is to catch.
    tolerance = 1e-6 * max(1.0, *map(abs, numbers))
    if abs(mean - statistics.fmean(numbers)) > tolerance:
        raise ValueError(f"mean is {mean}, the values have the mean {statistics.fmean(numbers)}")
    if (std is None or ci95 is None) != (len(numbers) == 1) or (std is None) != (ci95 is None):
        raise ValueError(f"std and ci95 must be null with one number and only then, got {std} and {ci95}")
    if ci95 is not None and not ci95[0] - tolerance <= mean <= ci95[1] + tolerance:
        raise ValueError(f"ci95 is {ci95}, which does not hold the mean {mean}")
    return value


def _declares(entry: dict[str, Any]) -> dict[str, Any]:
    try:
        DeclaredMetric.read(entry)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return entry


class Report(TypedDict):
    """The content of report.json.

    Attributes:
        schema_version: :data:`SCHEMA_VERSION`.
        versions: Software and machine, see :func:`versions`.
        config: The configuration of the comparison.
        seeds: The seeds, one full repetition each.
        data: Name and counts of the data (``name``, ``n_forget``, ``n_retain``, ``n_test``, ``n_nonmember``,
            ``forget_hmac``, absent without a key) and any further facts.
        models: Model name to metric name to :class:`Value`. A metric that was not measured is absent.
        failures: What went wrong, run by run.
        metrics: What was declared of the metrics above, each a :class:`~lightning_unlearn.metrics.DeclaredMetric` as an
            object; absent in older files, for which this package's own declarations are taken.
        paper: Model name to the columns that papers print, see :func:`~lightning_unlearn.reports.paper.paper_columns`;
            added when the report is written.
        ledger: The lines that the deletion ledger holds of this comparison, one object each; absent where none is
            kept.
    """

    schema_version: Literal[1, 2]
    versions: dict[str, Any]
    config: dict[str, Any]
    seeds: Annotated[list[int], Field(min_length=1)]
    data: dict[str, Any]
    models: dict[str, dict[str, Annotated[Value, AfterValidator(_consistent)]]]
    failures: list[Failure]
    metrics: NotRequired[dict[str, Annotated[dict[str, Any], AfterValidator(_declares)]]]
    ledger: NotRequired[list[dict[str, Any]]]
    paper: NotRequired[dict[str, dict[str, list[float | None]]]]


def summarise(values: Sequence[float | None]) -> Value:
    """Summarise one metric over the seeds: mean, sample standard deviation and 95% Student t interval.

    Args:
        values: One finite number a seed, None where the seed did not measure it; at least one number.

    Returns:
        The summary; ``std`` and ``ci95`` are None with fewer than two numbers.

    Raises:
        ValueError: No number is given, or one is NaN or infinite.

    Example:
        >>> summary = summarise([0.1, 0.2, None, 0.3])
        >>> round(summary["mean"], 6), round(summary["std"], 6), [round(end, 4) for end in summary["ci95"]]
        (0.2, 0.1, [-0.0484, 0.4484])
    """
    numbers = [float(value) for value in values if value is not None]
    if not numbers:
        raise ValueError(
            f"values must hold at least one number, got {list(values)}; leave out an unmeasured metric"
        )
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"values must be finite, got {numbers}; give None for a seed that has no number")
    # Exact arithmetic: three times 0.1 has the mean 0.1, not a neighbour of it.
    mean = statistics.mean(numbers)
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    interval = confidence_interval(numbers, level=0.95)
    return Value(
        mean=mean,
        std=std,
        ci95=None if interval is None else list(interval),
        values=[None if value is None else float(value) for value in values],
    )


def build_report(
    runs: Mapping[str, Mapping[int, Mapping[str, float]]],
    *,
    seeds: Sequence[int],
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    failures: Sequence[Failure] = (),
    environment: Mapping[str, Any] | None = None,
    metrics: Mapping[str, DeclaredMetric] | None = None,
) -> Report:
    """Assemble the report from the flat metrics of every run.

    A metric that a seed did not measure is None in ``values`` and left out of mean and interval; one that no
    seed measured is absent, and so is a model without any. A NaN or an infinity is no measurement: it becomes
    None too, and a line in ``failures`` says so.

    Args:
        runs: Model name to seed to metric name to number (anything that ``float`` accepts).
        seeds: All seeds of the comparison, in order; ``values`` follow it.
        config: The configuration; paths, tuples, sets, enums and NumPy or torch scalars become plain values.
        data: The facts of the data, treated likewise.
        failures: The runs that failed.
        environment: What :func:`versions` returned where the runs took place; None calls it here.
        metrics: What was declared of the metrics, in the order of presentation, such as
            :meth:`~lightning_unlearn.callbacks.Evaluator.declared` returns; what no model has is left out. None
            leaves it to this package's own declarations.

    Returns:
        A report that :func:`validate` accepts.

    Raises:
        ValueError: ``seeds`` is empty or has repetitions, or ``runs`` holds a seed that is not among them.
        TypeError: ``config`` or ``data`` holds something that has no plain form.

    Example:
        >>> report = build_report(
        ...     {"source": {0: {"accuracy/test": 0.9}}, "retrain": {0: {"accuracy/test": 0.8}}},
        ...     seeds=[0], config={}, data={"name": "digits"}, environment={})
        >>> report["models"]["retrain"]["accuracy/test"]["mean"]
        0.8
    """
    models: dict[str, dict[str, Value]] = {}
    lost: list[Failure] = []
    for model, by_seed in runs.items():
        unknown = sorted(set(by_seed) - set(seeds))
        if unknown:
            raise ValueError(
                f"runs[{model!r}] holds the seeds {unknown}, which are not among seeds={list(seeds)}"
            )
        summaries: dict[str, Value] = {}
        for name in dict.fromkeys(name for metrics in by_seed.values() for name in metrics):
            values: list[float | None] = []
            for seed in seeds:
                number = float(by_seed[seed][name]) if name in by_seed.get(seed, {}) else None
                if number is not None and not math.isfinite(number):
                    lost.append(Failure(model=model, seed=seed, error=f"{name} came out as {number}"))
                    number = None
                values.append(number)
            if any(value is not None for value in values):
                summaries[name] = summarise(values)
        if summaries:
            models[model] = summaries
    report = Report(
        schema_version=SCHEMA_VERSION,
        versions=_plain(versions() if environment is None else environment, "environment"),
        config=_plain(config, "config"),
        seeds=[int(seed) for seed in seeds],
        data=_plain(data, "data"),
        models=models,
        failures=[*failures, *lost],
    )
    if metrics is not None:
        measured = {name for values in models.values() for name in values}
        report["metrics"] = {name: asdict(metric) for name, metric in metrics.items() if name in measured}
    validate(report)
    return report


def _plain(value: Any, where: str) -> Any:
    """Turn a configuration value into what JSON can say; NaN and infinities become YAML's words for them."""
    if isinstance(value, enum.Enum):
        return _plain(value.value, where)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return _plain(value.tolist(), where)
    if isinstance(value, float):
        return value if math.isfinite(value) else ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return _plain(sorted(value, key=str), where)
    if isinstance(value, (list, tuple, range)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(
        f"{where} is a {type(value).__name__}, which report.json cannot hold; give a number, a string, "
        "a list or a dict"
    )


def versions() -> dict[str, Any]:
    """Return the versions of the software and the names of the machine's parts, but no path or user name.

    Asking for the GPU's name initialises CUDA in this process, so call it after the runs, not before a fork.

    Returns:
        ``lightning_unlearn``, ``python``, ``torch`` and other packages, ``platform``, ``cpu``, ``cpu_cores``, ``gpu``
        (a list, empty without one) and ``cuda`` (None without it).
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    return {
        **installed_versions("torch", "lightning", "torchvision"),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "gpu": [torch.cuda.get_device_name(index) for index in gpus],
        "cuda": torch.version.cuda,
    }


def _cpu_name() -> str:
    """Return the processor's model name, which ``platform.processor()`` does not know on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def validate(report: Mapping[str, Any], name: str | None = None) -> None:
    """Check a report against the contract; keys that the contract does not know are left alone.

    Args:
        report: The report as a dict, from :func:`build_report` or from a file.
        name: What the message calls it.

    Raises:
        ValueError: Something is missing, of another type, or contradicts itself; the message names the place.
    """
    where = "" if name is None else f"{name}: "
    try:
        _contract().validate_python(report, strict=True)
        seeds = report["seeds"]
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds must differ from each other, got {seeds}")
        for model, metrics in report["models"].items():
            for metric, value in metrics.items():
                if len(value["values"]) != len(seeds):
                    raise ValueError(
                        f"models.{model}.{metric}.values must hold one entry for each of {len(seeds)} seeds"
                    )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        got = "" if isinstance(fault["input"], dict) else f", got {fault['input']!r}"
        message = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}{got}"
        raise ValueError(f"{where}not a valid report: {message}") from error
    except ValueError as error:
        raise ValueError(f"{where}not a valid report: {error}") from error


@cache
def _contract() -> "TypeAdapter[Report]":
    return TypeAdapter(Report)


def write_json(report: Report, path: str | os.PathLike[str]) -> Path:
    """Check the report and write it as strict JSON, whole or not at all; metrics also under their earlier names.

    Args:
        report: The report.
        path: The file, by convention ``report.json``.

    Returns:
        The path.

    Raises:
        ValueError: The report breaks the contract, see :func:`validate`.
    """
    validate(report)
    models = {
        model: {**values, **{old: values[name] for old, name in _ALIASES.items() if name in values}}
        for model, values in report["models"].items()
    }
    return write_json_atomic(path, {**report, "models": models})


def read_json(path: str | os.PathLike[str]) -> Report:
    """Read a report and check it; metrics under earlier names get those of today.

    Args:
        path: A ``report.json``.

    Returns:
        The report.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no JSON, or no report; the message names file and place.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"path: no report at {file}; run `lightning-unlearn compare` to make one")
    try:
        report: Report = json.loads(file.read_text(encoding="utf-8"))
        validate(report)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for model, values in report["models"].items():
        report["models"][model] = {_ALIASES.get(name, name): value for name, value in values.items()}
    if "metrics" in report:
        report["metrics"] = {name: told for name, told in report["metrics"].items() if name not in _ALIASES}
    return report
