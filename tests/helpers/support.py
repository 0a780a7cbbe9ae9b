"""What every method and every evaluator does under which Trainer; the harnesses run it, the documentation shows it.

The axes are in ``docs/support.yml``, each with its line of the table; one test of the harnesses runs it over everything
that is exported. What the head of a class's page names as ``refused`` must be refused by a message that holds these
words and the class's name; all else must work. So nothing is claimed that the harnesses do not run.
"""

import ast
import functools
import inspect
import re
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import doc_tables
import pytest
import torch
from torch import nn

import lightning_unlearn.callbacks
import lightning_unlearn.methods
from lightning_unlearn.callbacks import Evaluator
from lightning_unlearn.methods import Perturbation, UnlearningModule
from lightning_unlearn.models.freezing import trainable
from lightning_unlearn.models.surgery import class_state

# What differs from another method in nothing that a Trainer sees, and needs networks that the toys are not.
LIKE: dict[str, str] = doc_tables.support_axes("like")
EXPORTED: list[type[UnlearningModule]] = [
    method
    for name in lightning_unlearn.methods.__all__
    if inspect.isclass(method := getattr(lightning_unlearn.methods, name))
    and issubclass(method, UnlearningModule)
    and method not in (UnlearningModule, Perturbation)  # the bases, which train nothing
]
METHODS = [method for method in EXPORTED if not method.one_shot and method.__name__ not in LIKE]
ONE_SHOT = [method for method in EXPORTED if method.one_shot]  # they edit the weights, and take no step
EVALUATORS: list[type[Evaluator]] = [
    evaluator
    for name in lightning_unlearn.callbacks.__all__
    if inspect.isclass(evaluator := getattr(lightning_unlearn.callbacks, name))
    and issubclass(evaluator, Evaluator)
    and hasattr(evaluator, "default_name")  # the bases, which measure nothing, have none
]


def _read_settings() -> dict[str, dict[str, dict[str, Any]]]:
    """Read ``SETTINGS`` of the methods' own test files, which are literals, so that no test file is imported."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in sorted((Path(__file__).parents[1] / "methods").glob("test_*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SETTINGS":
                found.update(ast.literal_eval(node.value))
    return found


_SETTINGS = _read_settings()


def settings_of(
    method: type[UnlearningModule], purpose: str = "quick", source: nn.Module | None = None
) -> dict[str, Any]:
    """Return the arguments that a method's own test file gives for a purpose of the harnesses; none is its defaults.

    Args:
        method: The method.
        purpose: ``"quick"`` for a toy; ``"forgets"`` for what makes it forget a class within a second.
        source: The source; a method that asks for a ``checkpoint`` of its training gets one.
    """
    settings = dict(_SETTINGS.get(method.__name__, {}).get(purpose, {}))
    if source is not None and "checkpoint" in doc_tables.parameters_of(method):
        settings["checkpoint"] = str(earlier_checkpoint(source))
    return settings


@functools.cache
def _checkpoints() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()  # gone when the process ends


def earlier_checkpoint(source: nn.Module) -> Path:
    """Write what may be a checkpoint from earlier in a source's training: its weights, moved a little."""
    generator, state = torch.Generator().manual_seed(0), class_state(source)
    for name in trainable(source):
        name = name if name in state else name.replace("_orig_mod.", "")
        noise = torch.randn(state[name].shape, generator=generator)
        state[name] = state[name] + 0.1 * state[name].abs().mean() * noise
    file = Path(_checkpoints().name) / f"{uuid.uuid4().hex}.ckpt"
    torch.save({"state_dict": state, "global_step": 1}, file)
    return file


METHOD_AXES: dict[str, str] = doc_tables.support_axes("methods")
ONE_SHOT_AXES: dict[str, str] = doc_tables.support_axes("one_shot")
EVALUATOR_AXES: dict[str, str] = doc_tables.support_axes("evaluators")
REFUSED: dict[str, dict[str, str]] = {
    name: head["refused"]
    for kind in ("methods", "evaluators")
    for name, head in doc_tables.pages(kind).items()
    if "refused" in head
}
NOT_RUN: dict[str, set[str]] = {
    axis: {method.__name__ for method in METHODS} - set(run)
    for axis, run in doc_tables.support_axes("only").items()
}

# What makes an evaluator quick, by the names that arguments of this meaning have everywhere.
_QUICK: dict[str, Any] = {
    "attack": "logistic",
    "bootstrap": 20,
    "epochs": 2,
    "least_steps": 0,
    "max_steps": 5,
    "models": 4,
    "null_control": "continue",
    "null_epochs": 1,
    "retrain_epochs": 2,
    "shadow_epochs": 2,
}


def quick(evaluator: type[Evaluator], **arguments: Any) -> dict[str, Any]:
    """Return what makes an evaluator quick and, of more arguments, those that it has."""
    names = doc_tables.parameters_of(evaluator)
    return {name: value for name, value in {**_QUICK, **arguments}.items() if name in names}


def trains_models(evaluator: type[Evaluator]) -> bool:
    """Whether an evaluator trains models of its own."""
    return bool(quick(evaluator).keys() - {"bootstrap"})


covered: dict[str, set[str]] = {"methods": set(), "one_shot": set(), "evaluators": set()}


def every_method(axis: str) -> pytest.MarkDecorator:
    """Run a test for every method, and note that it stands for an axis."""
    return _every("methods", METHODS, METHOD_AXES, axis, "method")


def every_one_shot(axis: str) -> pytest.MarkDecorator:
    """Run a test for every method that edits the weights once, and note that it stands for an axis."""
    return _every("one_shot", ONE_SHOT, ONE_SHOT_AXES, axis, "method")


def every_evaluator(axis: str) -> pytest.MarkDecorator:
    """Run a test for every evaluator, and note that it stands for an axis."""
    return _every("evaluators", EVALUATORS, EVALUATOR_AXES, axis, "evaluator")


def claims(kind: str, *axes: str) -> None:
    """Note that a test of another form stands for these axes."""
    covered[kind].update(axes)


def works_or_is_refused(subject: type, axis: str, run: Callable[[], Any]) -> Any:
    """Run something that must work, or be refused as :data:`REFUSED` says.

    Returns:
        What ``run`` returns, or None where it was refused.
    """
    reason = REFUSED.get(subject.__name__, {}).get(axis)
    if reason is None:
        return run()
    with pytest.raises(Exception, match=re.escape(reason)) as caught:
        run()
    assert subject.__name__ in str(caught.value)
    return None


def is_refused(subject: type, axis: str) -> bool:
    return axis in REFUSED.get(subject.__name__, {})


def _every(
    kind: str, subjects: list[Any], axes: dict[str, str], axis: str, argument: str
) -> pytest.MarkDecorator:
    assert axis in axes, f"{axis!r} is no axis of the {kind}' table"
    covered[kind].add(axis)
    chosen = [subject for subject in subjects if subject.__name__ not in NOT_RUN.get(axis, ())]
    return pytest.mark.parametrize(argument, chosen, ids=lambda subject: subject.__name__)
