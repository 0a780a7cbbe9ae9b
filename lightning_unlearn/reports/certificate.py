"""The certificate: what a ledger's line says of a deletion request, on one page for somebody to sign."""

import importlib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_unlearn.core.files import write_text_atomic
from lightning_unlearn.core.remembering import Remembering, summary, without_names
from lightning_unlearn.reports.glossary import describe, format_number
from lightning_unlearn.reports.page import environment

_OURS = "lightning_unlearn."
_SHOWN = ("accuracy/forget", "accuracy/test", "membership_inference/auc")  # where no answer is on record
_MOST_FILES = 6  # more would not fit on the page
_MEANING = {
    "shown": "Before the request the model gave away that it had seen these samples. After it, the measure lies "
    "within half of the gap between that and what a model gives that never saw them; up to that much may be left.",
    "not shown": "After the request the measure still lies apart from what a model gives that never saw the samples. "
    "This page does not certify that they were forgotten.",
    "cannot tell": "The measure is too uncertain to decide, or showed no trace of the samples even before the request. "
    "This page certifies neither that they were forgotten nor that they were not.",
}


def write_certificate(
    line: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    remembering: Sequence[Remembering] | None = None,
) -> Path:
    """Write the certificate of a deletion request as one HTML file that prints on one page, A4 or Letter.

    It names nobody: all that it says of the samples is their number and their keyed hash. The chain that the line
    belongs to is the caller's to verify, as :func:`~lightning_unlearn.core.ledger.read` does.

    Args:
        line: A line of a deletion ledger. Its ``answer``, if there is one, says whether the samples were forgotten.
        path: The file; it is written whole or not at all.
        remembering: Files that still remember, of the folders that were looked through; ``None`` if none was.

    Returns:
        The path.
    """
    metrics, answer = line["metrics"], line.get("answer")
    kind = _method(line["method"]["class"])
    files = [] if remembering is None else summary(remembering)
    page = (
        environment()
        .get_template("certificate.html.j2")
        .render(
            line=line,
            request=without_names(line["request"], below="ids"),
            date=line["time"][:10],
            method=line["method"]["class"].rpartition(".")[2],
            sentence=_first_sentence(kind),
            answer=answer,
            meaning=_MEANING.get(answer["outcome"], "") if answer else "",
            scores=[_row(name, metrics[name]) for name in _SHOWN if name in metrics],
            retrained=any("retrain" in found for found in metrics.values()),
            bound=_bound(kind, line),
            looked=remembering is not None,
            files=files[:_MOST_FILES],
            more=len(files[_MOST_FILES:]),
        )
    )
    return write_text_atomic(path, page)


def _method(name: str) -> type | None:
    """Return the class of a method; nothing is imported that is not ours, since a ledger may come from anybody."""
    module, _, kind = name.rpartition(".")
    if not module.startswith(_OURS):
        return None
    try:
        found = getattr(importlib.import_module(module), kind, None)
    except ModuleNotFoundError:  # of another version
        return None
    return found if isinstance(found, type) else None


def _first_sentence(kind: type | None) -> str:
    """Return the first sentence of a class's docstring, without markup; nothing of a class that is not known."""
    paragraph = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ") if kind else ""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]+)`", r"\1", paragraph).replace("`", "")


def _row(name: str, found: Mapping[str, Any]) -> list[str]:
    """Return a metric's heading and what was measured before, after, and on the retrained model."""
    metric = describe(name)
    values = (found.get("source"), found["value"], found.get("retrain"))
    # the ledger has a number that JSON cannot hold as a word
    said = ["-" if v is None else v if isinstance(v, str) else format_number(metric, v) for v in values]
    return [f"{metric.label} [{metric.unit}]" if metric.unit else metric.label, *said]


def _bound(kind: type | None, line: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the certified ε and δ, and what they assume."""
    found = line["metrics"]
    if "certified/epsilon" not in found:
        return None
    assumed = str(getattr(kind, "assumed", "what the method's description says")).format(
        **line["method"]["arguments"]
    )
    epsilon, delta = (f"{float(found[f'certified/{name}']['value']):.4g}" for name in ("epsilon", "delta"))
    return {"epsilon": epsilon, "delta": delta, "assumed": assumed}
