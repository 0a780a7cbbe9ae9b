"""A comparison takes a finished part for its own only where nothing has changed that decides it."""

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.toys import FEATURES, Net, blobs, test_set, toy_data, train_set
from test_compare import toy_compare
from torch import Tensor, nn

from lightning_unlearn import MethodRun, ReferenceKL, SourceRun
from lightning_unlearn.callbacks import Audit, Evaluator
from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.ensembles.fingerprint import fingerprint
from lightning_unlearn.ensembles.identity import data_identity, evaluator_settings
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models import Classifier


def run(folder: Path, **arguments: Any) -> set[str]:
    """Compare, and return which models were trained (again)."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("model.ckpt")}
    method = MethodRun(lambda s: ReferenceKL(s, reference_epochs=1), "kl", {"max_epochs": 1})
    source = SourceRun(lambda: Classifier(Net()), {"max_epochs": 1})
    settings = {"source": source, "methods": [method], "seeds": 1, "evaluators": [], **arguments}
    assert not toy_compare(folder, **settings).failed
    return {
        path.parts[-3] for path in folder.rglob("model.ckpt") if before.get(path) != path.stat().st_mtime_ns
    }


EVERYTHING = {"source", "retrain", "kl"}


def another(change: Callable[[Any], None]) -> Callable[[], UnlearningDataModule]:
    def build() -> UnlearningDataModule:
        data = toy_data(nonmember=10)
        change(data)
        return data

    return build


def moved(data: Any) -> None:
    data.inner.inputs[7, 0] += 1


def test_moved(data: Any) -> None:
    data.test_dataset.inputs[3, 0] += 1


test_moved.__test__ = False  # type: ignore[attr-defined]


def transformed(data: Any) -> None:
    data.inner.transform = lambda inputs: inputs * 2


def in_larger_batches(data: Any) -> None:
    data.batch_size = 16


@pytest.mark.slow
@pytest.mark.parametrize("change", [moved, test_moved, transformed, in_larger_batches])
def test_other_data_is_trained_on_again(change: Callable[[Any], None], tmp_path: Path) -> None:
    assert run(tmp_path) == EVERYTHING
    assert run(tmp_path) == set()
    with pytest.warns(UserWarning, match="trained anew") as told:
        assert run(tmp_path, data=another(change)) == EVERYTHING
    said = {str(each.message) for each in told if "trained anew" in str(each.message)}
    source = "" if change is test_moved else "the source model, "
    assert said == {
        "source, seed 0: trained anew; what changed: the data",
        f"retrain, seed 0: trained anew; what changed: {source}the data",
        f"kl, seed 0: trained anew; what changed: {source}the data",
    }


def test_another_key_alone_is_named(tmp_path: Path) -> None:
    assert run(tmp_path, clean=True) == {"retrain", "kl"}, "the source is removed"
    with pytest.warns(UserWarning, match="trained anew") as told:
        assert run(tmp_path) == EVERYTHING
    said = {str(each.message).partition(": ")[2] for each in told if "trained anew" in str(each.message)}
    assert said == {"trained anew; what changed: the comparison's key, which clean removes"}


def test_another_file_under_the_same_path_is_other_data(tmp_path: Path) -> None:
    def data() -> UnlearningDataModule:
        arrays = np.load(tmp_path / "data.npz")
        train = TensorData(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]))
        return UnlearningDataModule(train, 0.2, test_dataset=test_set(), batch_size=8, nonmember=10)

    identities = []
    for seed in (0, 0, 1):
        x, y = blobs(60, seed)
        np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
        built = data()
        built.setup("fit")
        identities.append(data_identity(built))
    assert identities[0] == identities[1] != identities[2]


def with_rate(rate: float, bias: float = 0.0) -> dict[str, Any]:
    return {
        "methods": [
            MethodRun(
                lambda s: ReferenceKL(
                    s, reference_epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=rate + bias)
                ),
                "kl",
                {"max_epochs": 1},
            )
        ]
    }


def small_source(rate: float) -> SourceRun:
    return SourceRun(
        lambda: Classifier(Net(), optimizer=partial(torch.optim.SGD, lr=rate)), {"max_epochs": 1}
    )


@pytest.mark.slow
def test_another_setting_in_a_function_is_trained_again(tmp_path: Path) -> None:
    assert run(tmp_path, **with_rate(0.01)) == EVERYTHING
    assert run(tmp_path, **with_rate(0.01)) == set()
    with pytest.warns(
        UserWarning, match="^kl, seed 0: trained anew; what changed: the network or method as it is built$"
    ):
        assert run(tmp_path, **with_rate(0.5)) == {"kl"}
    assert run(tmp_path, **with_rate(0.5), source=small_source(0.1)) == EVERYTHING
    assert run(tmp_path, **with_rate(0.5), source=small_source(0.1)) == set()
    assert run(tmp_path, **with_rate(0.5), source=small_source(0.2)) == EVERYTHING


RATE = 0.1


def read_rate() -> float:
    return RATE


class Scaled(nn.Module):
    """A loss that reads a setting of its module."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits * read_rate()


def test_what_a_function_reads_around_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes() -> list[str]:
        return [fingerprint(lambda: RATE + 1), fingerprint(lambda: read_rate()), fingerprint(Scaled())]

    before = hashes()
    assert hashes() == before
    monkeypatch.setattr(f"{__name__}.RATE", 0.2)
    assert all(a != b for a, b in zip(before, hashes(), strict=True))


class Base(nn.Module):
    def half(self) -> float:
        return 0.5


class Derived(Base):
    pass


def test_the_source_of_a_base_class_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_unlearn.ensembles import fingerprint as room

    before = fingerprint(Derived())
    real = room._source  # type: ignore[attr-defined]
    monkeypatch.setattr(room, "_source", lambda kind: real(kind) + " edited" * (kind is Base))
    assert fingerprint(Derived()) != before


class Weighed(Evaluator):
    """An evaluator with a setting that is no plain value."""

    default_name = "weighed"

    def __init__(self, weights: Tensor, **more: Any) -> None:
        super().__init__(**more)
        self.weights = weights

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        return {"weighed/sum": float(self.weights.sum())}


def test_an_evaluators_settings_count_and_train_nothing(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        run(tmp_path, evaluators=[lambda value=value: Weighed(torch.full((3,), value))])
        report = toy_compare(
            tmp_path,
            source=SourceRun(lambda: Classifier(Net()), {"max_epochs": 1}),
            methods=[MethodRun(lambda s: ReferenceKL(s, reference_epochs=1), "kl", {"max_epochs": 1})],
            seeds=1,
            evaluators=[lambda value=value: Weighed(torch.full((3,), value))],
        ).report
        assert report["models"]["kl"]["weighed/sum"]["mean"] == 3 * value


def test_what_cannot_be_told_is_not_reused_and_said(tmp_path: Path) -> None:
    import threading

    class Locked(ReferenceKL):
        def __init__(self, source: nn.Module) -> None:
            super().__init__(source, reference_epochs=1)
            self.lock = threading.Lock()

        def __getstate__(self) -> dict[str, Any]:
            return {**self.__dict__, "lock": None}

    methods = [MethodRun(Locked, "kl", {"max_epochs": 1})]
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"kl, seed 0: done anew .* _thread\.lock"):
            done = run(tmp_path, methods=methods)
        assert "kl" in done
    assert done == {"kl"}


def test_the_whole_split_and_the_features_count() -> None:
    def identity(**arguments: Any) -> str:
        data = toy_data(**arguments)
        data.setup("fit")
        return data_identity(data)

    assert identity() == identity()
    assert len({identity(), identity(nonmember=5), identity(shadow=5), identity(seed=1)}) == 4
    assert train_set().inputs.shape[1] == FEATURES


def test_an_audit_that_lacks_a_metric_is_not_finished() -> None:
    """As one of an earlier release does, whose evaluator measured less."""

    class Measures(Evaluator):
        default_name = "own"
        metrics: ClassVar[dict[str, DeclaredMetric]] = {"own/score": DeclaredMetric("Score")}

    before = fingerprint(evaluator_settings(evaluator := Measures()))
    assert fingerprint(evaluator_settings(evaluator)) == before
    Measures.metrics = {**Measures.metrics, "own/other": DeclaredMetric("Other")}
    assert fingerprint(evaluator_settings(evaluator)) != before


@pytest.mark.parametrize(
    ("imported", "called"),
    [
        ("from lu_losses import mine", "mine(x)"),
        ("import lu_losses", "lu_losses.mine(x)"),
        ("from lu_losses import Mine", "Mine()(x)"),
        ("import lu_losses as ours", "ours.Mine()(x)"),
    ],
)
def test_a_changed_function_of_another_file_of_the_project_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: str, called: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lu_model.py").write_text(
        f"{imported}\n\n\nclass Model:\n    def training_step(self, x):\n        return {called}\n"
    )
    marks = []
    for sign in ("+", "-", "+"):
        text = f"def mine(x):\n    return {sign}x\n\n\nclass Mine:\n    def __call__(self, x):\n        return {sign}x\n"
        (tmp_path / "lu_losses.py").write_text(text)
        os.utime(tmp_path / "lu_losses.py", (len(marks), len(marks)))  # or the compiled file is taken for it
        for name in ("lu_losses", "lu_model"):
            sys.modules.pop(name, None)
        marks.append(fingerprint(importlib.import_module("lu_model").Model()))
    assert marks[0] == marks[2] != marks[1]
    for name in ("lu_losses", "lu_model"):
        sys.modules.pop(name)


def test_what_other_files_hold_without_content_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentinels, locks and loggers: code that is followed says enough."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lu_helpers.py").write_text(
        "import json, logging, threading\n"
        "MISSING = object()\n"
        "def locked(f):\n"
        "    lock = threading.Lock()\n"
        "    def inner(x):\n        with lock:\n            return f(x)\n"
        "    return inner\n"
        "def scale(x, by=MISSING, log=logging.getLogger('a')):\n    return x\n"
        "@locked\ndef guarded(x):\n    return scale(x)\n"
        "class Encoder(json.JSONEncoder):\n    pass\n"
        "def outer():\n    def inner(x):\n        return late(x)\n    if False:\n        late = inner\n    return inner\n"
        "unfilled = outer()\n"
    )
    (tmp_path / "lu_user.py").write_text(
        "from lu_helpers import Encoder, guarded, scale, unfilled\n\n\n"
        "class Model:\n    def step(self, x):\n        return scale(guarded(x)), Encoder, unfilled\n"
    )
    for name in ("lu_helpers", "lu_user"):
        sys.modules.pop(name, None)
    model = importlib.import_module("lu_user").Model
    assert fingerprint(model()) == fingerprint(model())
    for name in ("lu_helpers", "lu_user"):
        sys.modules.pop(name)
