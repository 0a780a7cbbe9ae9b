"""One harness over kinds of network: what is exported has forgotten, and keeps what is not anybody's.

Judged is the exported file alone, loaded strictly into its own class, in evaluation mode. The other axis, kinds of
Trainer, stands in :mod:`test_harness_methods` and :mod:`test_harness_evaluators`.
"""

import copy
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from networks import (
    FORGOTTEN,
    KINDS,
    BatchNormalised,
    ConvertLayers,
    InstanceNormalised,
    OwnScheme,
    Project,
    accuracy,
    forget_a_class,
    members,
    others,
    retrained,
    trained,
)
from support import EVALUATORS, METHODS
from test_harness_evaluators import QUICK as QUICK_EVALUATORS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from toys import assert_same_state, quiet_trainer, state

from lightning_unlearn.data import TensorData
from lightning_unlearn.methods import Perturbation, Retrain, UnlearningModule


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


# What makes a method forget a class within a second. Top-K and Random-k pull to a teacher that never saw it; WGAN to
# what the source answers to samples of the other classes.
PERTURB = {"lambda_": 2.0, "optimizer": adam}
SETTINGS: dict[str, dict[str, Any]] = {
    "ReferenceKL": {
        "lambda_": 0.5,
        "reference_fraction": 0.5,
        "reference_optimizer": adam,
        "optimizer": adam,
    },
    "TopK": {"k": 20, **PERTURB},
    "RandomK": PERTURB,
    "RandomTopK": {"k": 20, **PERTURB},
    "EUk": {"optimizer": adam},
    "CFk": {"optimizer": adam},
    "WGAN": {"alpha": 0.4, "sort": False, "retain_fraction": 1.0, "critic_steps": 3, "optimizer": adam},
}
EPOCHS = {"EUk": 30, "WGAN": 30}
# CF-k trains its last layers on samples of other classes and does nothing to what it is to forget.
PROMISES_NOTHING = {"CFk"}
LAST_TENSORS = {"CFk", "EUk"}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def build(method: type[UnlearningModule], kind: type[Project], **arguments: Any) -> UnlearningModule:
    settings = dict(SETTINGS.get(method.__name__, {}))
    if issubclass(method, Perturbation):
        settings["teacher"] = retrained(kind)
    if method.__name__ in LAST_TENSORS:
        settings["k"] = kind.LAST
    return method(trained(kind), **{**settings, **arguments})


def unlearn(
    method: UnlearningModule, path: Path, train: TensorData | None = None, **trainer: Any
) -> tuple[Project, list[str]]:
    """Fit, export, and return what the source's own class makes of the file, with the warnings of the export."""
    L.seed_everything(1, verbose=False)
    settings = {"max_epochs": EPOCHS.get(type(method).__name__, 20), "limit_val_batches": 0, **trainer}
    quiet_trainer(**settings).fit(method, forget_a_class(train))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method.export(path)
    kind = type(method.source)
    assert issubclass(kind, Project)
    exported = kind.load_from_checkpoint(path, weights_only=True)
    return exported.eval(), [str(each.message) for each in caught]


def values(model: Project) -> dict[str, Tensor]:
    """Return a model's tensors by the names that its class gives them."""
    return state(model)


def estimated(model: Project, data: TensorData) -> dict[str, Tensor]:
    """Return the running statistics of trained layers on samples of the retained classes alone, as one batch."""
    model = copy.deepcopy(model).eval()
    layers = {name: model.get_submodule(name) for name in model.NORMALISATIONS}
    for layer in layers.values():
        assert isinstance(layer, _NormBase)
        layer.train()
        layer.momentum = 1.0
    with torch.no_grad():
        model(data.inputs[data.targets != FORGOTTEN])
    return {
        f"{name}.{part}": layer.get_buffer(part)
        for name, layer in layers.items()
        for part in ("running_mean", "running_var")
    }


def assert_kept(exported: Project, source: Project) -> None:
    """Frozen parameters, constants and the statistics of frozen layers are the source's, bit for bit; ties hold."""
    after, before = values(exported), values(source)
    kept = [name for name in before if name.startswith(exported.FROZEN or ("\n",))]
    assert bool(kept) == bool(exported.FROZEN)
    assert not [name for name in kept if not torch.equal(after[name], before[name])]
    for one, other in exported.TIED:
        assert exported.get_parameter(one) is exported.get_parameter(other)
        assert torch.equal(after[one], after[other])


def assert_fresh_statistics(exported: Project, train: TensorData) -> None:
    """The statistics of trained layers are those of the retain set under the exported weights."""
    after = values(exported)
    for name, expected in estimated(exported, train).items():
        torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def learned(module: Project) -> list[str]:
    """Name the tensors that training moved: all but what is frozen, and counters."""
    return [
        name
        for name, tensor in values(module).items()
        if tensor.is_floating_point() and not name.startswith(module.FROZEN or ("\n",))
    ]


@every_kind
@every_method
def test_networks(method: type[UnlearningModule], kind: type[Project], tmp_path: Path) -> None:
    ours = build(method, kind)
    source = copy.deepcopy(ours.source)
    exported, said = unlearn(ours, tmp_path / "export.ckpt")
    assert_same_state(state(ours.source), state(source))
    with torch.no_grad():
        asked = others().inputs
        ours.eval()
        torch.testing.assert_close(exported(asked), ours.model(asked))
    assert_kept(exported, source)
    if method.__name__ in LAST_TENSORS:  # what stands before the last tensors is held, statistics included
        held = {name: values(source)[name] for name in estimated(exported, members())}
        assert not [name for name, value in held.items() if not torch.equal(values(exported)[name], value)]
    else:
        assert_fresh_statistics(exported, members())
    if method is Retrain:
        before, after = values(source), values(exported)
        assert not [name for name in learned(source) if torch.equal(after[name], before[name])]
    elif exported.AVERAGES and method.__name__ not in LAST_TENSORS:
        assert any(exported.AVERAGES[0] in text for text in said), said
    assert accuracy(exported, others()) >= 0.9
    forgotten = accuracy(exported, members(), FORGOTTEN)
    assert accuracy(source, members(), FORGOTTEN) == 1
    assert forgotten <= 0.25 or method.__name__ in PROMISES_NOTHING, forgotten
