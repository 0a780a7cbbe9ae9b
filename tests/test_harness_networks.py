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
from helpers.networks import (
    FORGOTTEN,
    KINDS,
    AnswersByAverage,
    BatchNormalised,
    Constant,
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
from helpers.support import EVALUATORS, METHODS, quick, settings_of, trains_models
from helpers.toys import assert_same_state, quiet_trainer, state
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_unlearn.callbacks import Evaluator
from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.methods import (
    EUk,
    FineTune,
    Perturbation,
    ReferenceKL,
    Retrain,
    TopK,
    UnlearningModule,
)
from lightning_unlearn.models.fresh import fresh_copy


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


# These have a rate of their own, which is what they are about.
OWN_RATE = (Retrain, FineTune)

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def build(method: type[UnlearningModule], kind: type[Project], **arguments: Any) -> UnlearningModule:
    torch.manual_seed(0)
    return method(trained(kind), **{**arguments_of(method, kind), **arguments})


def arguments_of(method: type[UnlearningModule], kind: type[Project]) -> dict[str, Any]:
    """Return what makes a method forget a class within a second; Top-K and Random-k pull to one that never saw it."""
    settings = settings_of(method, "forgets", trained(kind))
    settings = {name: value for name, value in settings.items() if name not in ("epochs", "promised")}
    if method not in OWN_RATE:
        settings["optimizer"] = adam
    if issubclass(method, ReferenceKL):
        settings["reference_optimizer"] = adam
    if issubclass(method, Perturbation):
        settings["teacher"] = retrained(kind)
    if method.keeps_source_tensors:
        settings["k"] = kind.LAST
    return settings


def unlearn(
    method: UnlearningModule, path: Path, train: TensorData | None = None, **trainer: Any
) -> tuple[Project, list[str]]:
    """Fit, export, and return what the source's own class makes of the file, with the warnings of the export."""
    L.seed_everything(1, verbose=False)
    epochs = settings_of(type(method), "forgets").get("epochs", 20)
    settings = {"max_epochs": epochs, "limit_val_batches": 0, **trainer}
    quiet_trainer(**settings).fit(method, forget_a_class(train))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method.export(path)
    kind = type(method.source)
    assert issubclass(kind, Project)
    exported = kind.load_from_checkpoint(path, weights_only=True)
    return exported.eval(), [str(each.message) for each in caught]


def values(model: Project) -> dict[str, Tensor]:
    """Return a model's tensors by their names before anything was compiled."""
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state(model).items()}


def estimated(model: Project, names: list[str], data: TensorData) -> dict[str, Tensor]:
    """Return the running statistics of some layers on samples of the retained classes alone, as one batch."""
    model = copy.deepcopy(model).eval()
    modules = {name.replace("_orig_mod.", ""): part for name, part in model.named_modules()}
    layers = {name: modules[name] for name in names}
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


def assert_statistics(
    exported: Project, source: Project, method: UnlearningModule, train: TensorData
) -> None:
    """Those of trained layers are the retain set's under the exported weights; those of held ones the source's.

    The oracle's are what its training leaves, as the source's were: it begins afresh and meets the retain set alone.
    """
    if isinstance(method, Retrain):
        return
    held = held_layers(method)
    after, before = values(exported), values(source)
    trained = [name for name in exported.NORMALISATIONS if name not in held]
    for name, expected in estimated(exported, trained, train).items():
        torch.testing.assert_close(
            after[name], expected, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )
    for name in after:
        assert not name.startswith(tuple(f"{layer}." for layer in held) or ("\n",)) or torch.equal(
            after[name], before[name]
        )


def assert_forgotten(exported: Project, source: Project, method: type[UnlearningModule]) -> None:
    """The class that the source knew by heart is answered no better than by chance, the others as before."""
    promised = settings_of(method, "forgets").get("promised", True)
    assert accuracy(source, members(), FORGOTTEN) == 1
    assert accuracy(exported, others()) >= 0.8
    assert accuracy(exported, members(), FORGOTTEN) < 0.34 or not promised


def held_layers(method: UnlearningModule) -> list[str]:
    """Name the normalisations in front of the last tensors, where only those are trained."""
    if not method.keeps_source_tensors:
        return []
    kind = type(method.source)
    moving = [name for name, parameter in method.source.named_parameters() if parameter.requires_grad][
        -kind.LAST :
    ]
    return [
        name
        for name in kind.NORMALISATIONS
        if not any(each.endswith(name[3:] + ".weight") for each in moving)
    ]


def learned(module: Project) -> list[str]:
    """Name the tensors that training moved: all but what is frozen, and counters."""
    return [
        name
        for name, tensor in values(module).items()
        if tensor.is_floating_point() and not name.startswith(module.FROZEN or ("\n",))
    ]


@pytest.mark.slow
@pytest.mark.exhaustive(one_of=4)
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
    assert_statistics(exported, source, ours, members())
    if method is Retrain:
        before, after = values(source), values(exported)
        assert not [name for name in learned(source) if torch.equal(after[name], before[name])]
    elif exported.AVERAGES and not method.keeps_source_tensors:
        assert any(exported.AVERAGES[0] in text for text in said), said
    assert_forgotten(exported, source, method)


@pytest.mark.parametrize("method", [Retrain, TopK, EUk], ids=lambda method: method.__name__)
def test_answers_by_an_average_are_refused(method: type[UnlearningModule], tmp_path: Path) -> None:
    """Whatever is trained, such a model would answer as before."""
    with pytest.raises(
        ValueError, match="evaluation mode AnswersByAverage answers with none of the parameters"
    ):
        unlearn(build(method, AnswersByAverage), tmp_path / "export.ckpt")


@pytest.mark.parametrize("method", [Retrain, TopK, EUk], ids=lambda method: method.__name__)
def test_a_compiled_module(method: type[UnlearningModule], tmp_path: Path) -> None:
    """The wrapper that ``torch.compile`` makes of a whole module: its class is inside."""
    ours = method(torch.compile(trained(Constant), backend="eager"), **arguments_of(method, Constant))
    exported, _ = unlearn(ours, tmp_path / "export.ckpt", max_epochs=1)
    assert_kept(exported, trained(Constant))


# ---------------------------------------------------------------------- one network under kinds of Trainer

TRAINERS: dict[str, dict[str, Any]] = {
    # as sync_batchnorm=True does it
    "converted layers": {"strategy": "ddp_fork", "devices": 2, "plugins": [ConvertLayers()]},
    "bf16-mixed": {"precision": "bf16-mixed"},
}


@pytest.mark.slow
@pytest.mark.exhaustive(one_of=2)
@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
@every_method
def test_trainers(method: type[UnlearningModule], trainer: dict[str, Any], tmp_path: Path) -> None:
    ours = build(method, BatchNormalised)
    source = copy.deepcopy(ours.source)
    exported, _ = unlearn(ours, tmp_path / "export.ckpt", **trainer)
    if "precision" not in trainer:  # in which the layers in front give other numbers
        assert_statistics(exported, source, ours, members())
    assert_forgotten(exported, source, method)


# ---------------------------------------------------------------------- nothing of the forget set in statistics


@pytest.mark.slow
@pytest.mark.exhaustive(one_of=2)
@pytest.mark.parametrize("kind", [BatchNormalised, InstanceNormalised], ids=lambda kind: kind.__name__)
@every_method
def test_outliers(method: type[UnlearningModule], kind: type[Project], tmp_path: Path) -> None:
    """Inputs of the forget set are a thousand times larger than the others', which no statistic may show."""
    clean = members()
    scale = torch.where(clean.targets == FORGOTTEN, 1000.0, 1.0).view(-1, 1, 1, 1)
    ours = build(method, kind)
    data = TensorData(clean.inputs * scale, clean.targets)
    exported, _ = unlearn(ours, tmp_path / "export.ckpt", data, max_epochs=4)
    assert_statistics(exported, ours.source, ours, clean)
    largest = max(float(t.abs().max()) for n, t in values(exported).items() if ".running_" in n)
    assert largest < 100, largest


# ---------------------------------------------------------------------- evaluators that train models


def watched(kind: type[Project], callbacks: list[Evaluator]) -> tuple[Project, list[float], list[Any]]:
    """Train a source on, and return it with what is drawn next, and its modes."""
    L.seed_everything(1, verbose=False)
    module = trained(kind)
    data = UnlearningDataModule(
        members(), 0.2, test_dataset=others(), nonmember=20, shadow=20, batch_size=16, order_seed=3
    )
    quiet_trainer(callbacks=callbacks).fit(module, data)
    drawn = [torch.rand(1).item(), random.random(), np.random.rand()]  # noqa: NPY002
    modes = [part.training for part in module.modules()]
    return module, drawn, [*modes, *(parameter.requires_grad for parameter in module.parameters())]


@pytest.mark.slow
@every_kind
def test_evaluators(kind: type[Project], monkeypatch: pytest.MonkeyPatch) -> None:
    """They leave the run that they watch as it is; their models keep what is frozen and have nothing that was learned."""
    made: list[tuple[Project, dict[str, Tensor]]] = []

    def note(*args: Any, **arguments: Any) -> nn.Module:
        built = fresh_copy(*args, **arguments)
        assert isinstance(built, kind)
        made.append((built, values(built)))
        return built

    for name, module in list(sys.modules.items()):
        if name.startswith("lightning_unlearn.") and getattr(module, "fresh_copy", None) is fresh_copy:
            monkeypatch.setattr(module, "fresh_copy", note)
    evaluators = [
        evaluator(
            on_error="raise",
            source=trained(kind),
            **quick(evaluator, epochs=1, null_control="retrain", variant="shadow"),
        )
        for evaluator in EVALUATORS
        if trains_models(evaluator)
    ]
    plain, audited = watched(kind, []), watched(kind, list(evaluators))
    assert_same_state(state(plain[0]), state(audited[0]))
    assert plain[1:] == audited[1:]
    assert all(evaluator.results for evaluator in evaluators)
    assert len(made) >= 3 + 4  # a shadow model, a null control, and the populations
    for source in (trained(kind), audited[0]):
        known = values(source)
        for built, start in made:
            assert_kept(built, source)
            assert not [name for name in learned(source) if torch.equal(start[name], known[name])]


def test_fresh_models_are_drawn_by_their_class() -> None:
    """Weights of the six layers are spread as the class has it, and not as PyTorch's own draw."""
    scheme = OwnScheme()
    fresh = Retrain(trained(OwnScheme)).model
    for name, parameter in scheme.named_parameters():
        if name.endswith("weight"):
            spread = float(fresh.get_parameter(name).std() / parameter.std())
            assert 0.7 < spread < 1.4, (name, spread)
        else:
            assert not fresh.get_parameter(name).any()
