"""What every method and every evaluator does under which Trainer; the harnesses run it, the README shows it.

Each axis stands in one test of the harnesses, which runs it over everything that is exported. What is named in
``REFUSED`` must be refused by a message that holds these words and the method's name; what is named in ``NOT_RUN``
is left out; all else must work. :mod:`support_table` makes the README's table of it, so nothing is claimed there
that the harnesses do not run.
"""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lightning_unlearn.callbacks
import lightning_unlearn.methods
from lightning_unlearn.callbacks import Evaluator
from lightning_unlearn.methods import Perturbation, UnlearningModule

METHODS: list[type[UnlearningModule]] = [
    method
    for name in lightning_unlearn.methods.__all__
    if inspect.isclass(method := getattr(lightning_unlearn.methods, name))
    and issubclass(method, UnlearningModule)
    and method not in (UnlearningModule, Perturbation)  # the bases, which train nothing
]
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


def settings_of(method: type[UnlearningModule], purpose: str = "quick") -> dict[str, Any]:
    """Return the arguments that a method's own test file gives for a purpose of the harnesses; none is its defaults.

    Args:
        method: The method.
        purpose: ``"quick"`` for a toy; ``"forgets"`` for what makes it forget a class within a second.
    """
    return dict(_SETTINGS.get(method.__name__, {}).get(purpose, {}))


STRATEGIES = {
    "one process": "one process",
    "ddp_fork": "`ddp_fork`, two processes",
    "ddp": "`ddp`, two processes",
    "ddp_spawn": "`ddp_spawn`, two processes",
    "fsdp2": "`ModelParallelStrategy` (FSDP2), two processes",
}
PRECISIONS = {
    "bf16-mixed": "`bf16-mixed`",
    "16-mixed": "`16-mixed` with its gradient scaler",
    "bf16-true": "`bf16-true`",
}
METHOD_AXES: dict[str, str] = {
    **STRATEGIES,
    **PRECISIONS,
    "accumulate_grad_batches": "`accumulate_grad_batches`",
    "gradient_clip_val": "`gradient_clip_val`",
    "limits": "`limit_*_batches`, `fast_dev_run`, `max_steps`, `max_time`",
    "compile": "`torch.compile`d source",
    "channels_last": "`channels_last` source",
    "resume": "resume at any step, same weights",
    "resume preparation": "resume after a stop while preparing, same weights",
    "resume fsdp2": "resume under FSDP2, same weights",
    "ModelCheckpoint": "`ModelCheckpoint` on a forgetting metric",
    "EarlyStopping": "`EarlyStopping` on a forgetting metric",
    "StochasticWeightAveraging": "`StochasticWeightAveraging`",
    "LearningRateMonitor": "`LearningRateMonitor`",
    "Timer": "`Timer`",
    "export": "export into the source's own class",
}
EVALUATOR_AXES: dict[str, str] = {
    **STRATEGIES,
    "fsdp2 own module": "the same, on a module of one's own that is sharded",
    **PRECISIONS,
    "limits": "`limit_*_batches`, `fast_dev_run`, `max_steps`, `max_time`",
    "compile": "`torch.compile`d model",
    "channels_last": "`channels_last` model",
    "test": "`Trainer.test`, same scores",
    "undisturbed": "training is bit-identical with and without it",
}

_MANUAL = "manual optimization"
REFUSED: dict[str, dict[str, str]] = {
    "WGAN": {
        "accumulate_grad_batches": _MANUAL,
        "gradient_clip_val": _MANUAL,
        "StochasticWeightAveraging": _MANUAL,
        "resume fsdp2": "second optimizer",
    },
    "RelearnTime": {"fsdp2 own module": "copies the model"},
    "UnlearningDegree": {"fsdp2 own module": "copies the model"},
}
# A process that is spawned costs six seconds: one method, with all evaluators, stands for all.
NOT_RUN: dict[str, set[str]] = {"ddp_spawn": {method.__name__ for method in METHODS} - {"ReferenceKL"}}

covered: dict[str, set[str]] = {"methods": set(), "evaluators": set()}


def every_method(axis: str) -> pytest.MarkDecorator:
    """Run a test for every method, and note that it stands for an axis."""
    return _every("methods", METHODS, METHOD_AXES, axis, "method")


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
