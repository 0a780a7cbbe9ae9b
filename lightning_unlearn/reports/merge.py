"""Reports made again from what comparisons left, one at a time or several as one."""

import copy
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightning_unlearn.reports.details import RunDetails, read_details
from lightning_unlearn.reports.figures import draw_figures
from lightning_unlearn.reports.glossary import clean, is_control
from lightning_unlearn.reports.page import write_page, write_side_by_side
from lightning_unlearn.reports.schema import SCHEMA_VERSION, Report, Value, read_json, validate
from lightning_unlearn.reports.writer import write_all

T = TypeVar("T")

_SAME = 1e-6
"""Difference up to which two numbers are one number that went through another rounding."""
_SECONDS = "seconds"
_MERGED = "merged_from"
_BY = "forget_compared_by"
_HASHES = ("forget_hmac", "forget_sha256")
_TIMED = "other_times"
_OWN_FACTS = (_SECONDS, _MERGED, _BY, _TIMED)
"""Facts that are kept with the data and belong to a run or a merge: they may differ."""


def merge(reports: Sequence[Report], names: Sequence[str]) -> Report:
    """Put several comparisons over the same data into one report.

    The controls must be the same runs: the same forget set, the same seeds, and source and retrained model with
    the same numbers wherever two reports measured both. Otherwise a method of one report would be judged
    against the retrained model of another. Times may differ, as two runs of one thing do; the controls keep
    those of the first report, and each method's ``acceleration`` stays that of its own comparison.

    Args:
        reports: The reports, at least one; the models keep this order.
        names: What each report is called in messages and in the merged report, such as its folder's name; all
            different.

    Returns:
        A new report. With several, ``config`` holds each configuration under ``comparisons``, ``data`` names
        the reports under ``merged_from`` and says under ``forget_compared_by`` if the sizes of the forget sets
        alone were compared, for want of a hash in both, where versions differ each is named with its report, and
        the lines of the ledgers come one after the other, one that is in several once.

    Raises:
        ValueError: No report; names that are missing or repeated; a report that breaks its contract; or reports
            that cannot be merged: another forget set, other seeds, other facts of the data, controls with
            other numbers or none in common, or a method's name in two reports.
    """
    if not reports:
        raise ValueError("reports must hold at least one report")
    if len(names) != len(reports) or len(set(names)) != len(names):
        raise ValueError(
            f"names must hold a different name for each of {len(reports)} reports, got {list(names)}"
        )
    for report, name in zip(reports, names, strict=True):
        validate(report, name)
    first = copy.deepcopy(reports[0])
    if len(reports) == 1:
        return first
    data, models = first["data"], first["models"]
    by_hash = True
    for index, report in enumerate(reports[1:], start=1):
        pair = f"cannot merge {names[index]} with {', '.join(names[:index])}"
        by_hash &= _check_data(data, report["data"], pair)
        if report["seeds"] != first["seeds"]:
            raise ValueError(
                f"{pair}: seeds differ ({report['seeds']}, {first['seeds']}); run both over the same seeds in the "
                "same order (a comparison that is started again does only what is missing)"
            )
        _add_models(models, report, pair)
        seconds = [facts[_SECONDS] for facts in (data, report["data"]) if _SECONDS in facts]
        timed = _once([name for facts in (data, report["data"]) for name in facts.get(_TIMED, ())])
        data = {**report["data"], **data, **({_SECONDS: sum(seconds)} if seconds else {})}
        data |= {_TIMED: timed} if timed else {}
    data.pop("forget_sha256", None)  # the hash without a key is not passed on
    merged = Report(
        schema_version=SCHEMA_VERSION,
        versions=_joined({name: report["versions"] for report, name in zip(reports, names, strict=True)}),
        config={"comparisons": {name: report["config"] for report, name in zip(reports, names, strict=True)}},
        seeds=first["seeds"],
        data={**data, **({} if by_hash else {_BY: "counts only"}), _MERGED: list(names)},
        models=models,
        failures=_once([failure for report in reports for failure in report["failures"]]),
    )
    declared: dict[str, dict[str, Any]] = {}
    for report in reports:
        declared = {**report.get("metrics", {}), **declared}
    if declared:
        merged["metrics"] = declared
    if ledger := _once([entry for report in reports for entry in report.get("ledger", [])]):
        merged["ledger"] = ledger
    validate(merged)
    return copy.deepcopy(merged)


def _once(items: list[T]) -> list[T]:
    """Return the items in their order, one that occurs several times once."""
    return [item for place, item in enumerate(items) if item not in items[:place]]


def _add_models(models: dict[str, dict[str, Value]], report: Report, pair: str) -> None:
    """Take up a report's models, after a look at whether its controls are the same runs."""
    compared = 0
    for model, metrics in report["models"].items():
        if is_control(model):
            ours = models.get(model, {})
            compared += _check_control(model, ours, metrics, report["seeds"], pair)
            models[model] = {**metrics, **ours}
        elif model in models:
            raise ValueError(
                f"{pair}: both hold a method called {model!r}; give one of them another name in its "
                "configuration (methods: - name: ...) and run that comparison again"
            )
        else:
            models[model] = dict(metrics)
    if not compared:
        raise ValueError(
            f"{pair}: no metric of a control was measured in both, so nothing shows that source and "
            "retrained model are the same runs; run the methods in one comparison"
        )


def _check_data(ours: Mapping[str, Any], theirs: Mapping[str, Any], pair: str) -> bool:
    """Refuse reports over other samples; return whether hashes showed that these are the same."""
    for fact in ours.keys() & theirs.keys() - set(_OWN_FACTS):
        if ours[fact] != theirs[fact]:
            raise ValueError(
                f"{pair}: data.{fact} differs ({theirs[fact]!r}, {ours[fact]!r}); only comparisons over the same "
                "data and forget set can stand in one report (comparisons to be merged share one forget_key)"
            )
    if any(fact in ours and fact in theirs for fact in _HASHES):
        return True
    warnings.warn(
        f"{pair}: there is no hash of the forget set in both, so only its size was compared, not who is in it; "
        "give both comparisons the same forget_key to have it shown",
        stacklevel=3,
    )
    return False


def _check_control(
    model: str, ours: Mapping[str, Value], theirs: Mapping[str, Value], seeds: Sequence[int], pair: str
) -> int:
    """Refuse controls that are not the same runs, times aside; return how many numbers were compared."""
    compared = 0
    for metric in ours.keys() & theirs.keys():
        if metric.startswith(("time/", "acceleration")):
            continue
        for seed, left, right in zip(seeds, ours[metric]["values"], theirs[metric]["values"], strict=True):
            if left is None or right is None:
                continue
            compared += 1
            if abs(left - right) > _SAME * max(1.0, abs(left)):
                raise ValueError(
                    f"{pair}: the control {model!r} is not the same model, {metric} of seed {seed} is "
                    f"{right:.6g} and {left:.6g}; put the methods into one configuration and run it in one "
                    "output_dir, which keeps what is finished"
                )
    return compared


def _joined(versions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the versions; where the reports differ, each value with the names of those that have it."""
    joined: dict[str, Any] = {}
    for key in dict.fromkeys(key for entry in versions.values() for key in entry):
        holders: dict[str, list[str]] = {}
        values = {}
        for name, entry in versions.items():
            if key in entry:
                told = entry[key] if isinstance(entry[key], str) else json.dumps(entry[key])
                holders.setdefault(told, []).append(name)
                values[told] = entry[key]
        each = [f"{told} ({', '.join(names)})" for told, names in holders.items()]
        joined[key] = "; ".join(each) if len(each) > 1 else next(iter(values.values()))
    return joined


def beside(folders: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]) -> Path:
    """Write a page that shows the answers of several comparisons next to each other, whatever they are about.

    Args:
        folders: Output folders of comparisons, each with its ``report.json``.
        path: The page.

    Raises:
        FileNotFoundError: A folder holds no report.json.
        ValueError: A folder twice, or a report that cannot be read.
    """
    roots, names = _named(folders)
    reports = {name: read_json(root / "report.json") for name, root in zip(names, roots, strict=True)}
    return write_side_by_side(reports, path)


def _named(folders: Sequence[str | os.PathLike[str]]) -> tuple[list[Path], list[str]]:
    """Return the folders and what they are called: their own name where that tells them apart."""
    roots = [Path(folder) for folder in folders]
    if not roots:
        raise ValueError("folders must name at least one output folder of a comparison")
    resolved = [root.resolve() for root in roots]
    if len(set(resolved)) != len(resolved):
        raise ValueError(f"folders must differ from each other, got {[str(root) for root in roots]}")
    short = [clean(root.name) for root in resolved]
    return roots, short if len(set(short)) == len(short) else [clean(str(root)) for root in resolved]


def rebuild(folders: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> list[Path]:
    """Make page and figures again from the report of one comparison, or of several as one.

    Args:
        folders: Output folders of comparisons, each with its ``report.json``.
        output: Where page and figures go. For a single comparison this may be its own folder: its report.json
            stays as it is. Otherwise ``report.json`` is written too.

    Returns:
        The files that were written, in the order of writing.

    Raises:
        FileNotFoundError: A folder holds no report.json.
        ValueError: No folder, a folder twice, a report that cannot be read or merged (see :func:`merge`), or
            ``output`` holds a comparison whose report this one would replace.
    """
    roots, names = _named(folders)
    target = Path(output)
    own = target.resolve() in [root.resolve() for root in roots]
    if (len(roots) > 1 and own) or (not own and (target / "comparison.json").exists()):
        raise ValueError(
            f"output: {target} holds a comparison whose report would be replaced; choose another folder"
        )
    reports = [read_json(root / "report.json") for root in roots]
    report = merge(reports, names)
    details: dict[str, Mapping[int, RunDetails]] = {}
    for root, each, name in zip(roots, reports, names, strict=True):
        # A control that two comparisons share keeps the details of the first, as it does its times.
        prefix = f"{name}/" if len(roots) > 1 else ""
        details = {**read_details(root, each, prefix=prefix), **details}
    if not own:
        return write_all(report, target, details)
    figures = draw_figures(report, target / "figures", details)
    return [*figures, write_page(report, target / "report.html", details)]
