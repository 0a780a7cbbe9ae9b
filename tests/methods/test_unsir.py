"""UNSIR: its noise, and what the exported model has forgotten with it and with noise that learned nothing."""

from pathlib import Path

import pytest
import torch
from helpers.of_a_class import CLASS, digits_source, rows
from helpers.toys import TRAIN, Net, assert_same_state, blobs, quiet_trainer, state, toy_data
from helpers.wrong_labels import Project, answered
from torch import nn
from torch.utils.data import TensorDataset

from lightning_unlearn.data import Adapter, Classes, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods import UNSIR

# much noise overturns such small networks, and little is told from the class, which they then keep
SETTINGS = {"UNSIR": {"forgets": {"noise": 4, "noise_steps": 5, "promised": False}}}


class Random(UNSIR):
    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        super().prepare(data, runtime)
        assert self._noise is not None
        self._noise = torch.randn_like(self._noise[0]), self._noise[1]


@pytest.mark.slow
def test_the_class_is_forgotten_by_what_the_noise_has_learned(tmp_path: Path) -> None:
    source, data = digits_source()
    inputs, targets = rows(data, "test")
    gone = targets == CLASS
    known = {}
    for kind in (UNSIR, Random):
        torch.manual_seed(0)
        method = kind(source)
        quiet_trainer(max_epochs=4, limit_val_batches=0).fit(method, data)
        model = Project.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), strict=True)
        known[kind] = answered(model, inputs[gone], targets[gone])
        assert answered(model, inputs[~gone], targets[~gone]) > 0.93
    assert known[UNSIR] < 0.06
    assert known[Random] > 0.5


def test_what_it_cannot_do_is_said() -> None:
    with pytest.warns(UserWarning, match="UNSIR is made for whole classes"):
        quiet_trainer(max_epochs=2).fit(UNSIR(nn.Linear(6, 3)), toy_data())
    with pytest.warns(UserWarning, match="max_epochs=1 repairs nothing; give 2"):
        quiet_trainer(max_epochs=1).fit(UNSIR(nn.Linear(6, 3)), toy_data(Classes(1)))
    words = TensorDataset(torch.arange(60).remainder(6)[:, None], torch.arange(60).remainder(3))
    source = nn.Sequential(nn.Embedding(6, 3), nn.Flatten())
    with pytest.raises(TypeError, match=r"a tensor of floats, got torch.int64; take DELETE"):
        quiet_trainer(max_epochs=2).fit(UNSIR(source), UnlearningDataModule(words, Classes(1), batch_size=8))


def test_the_noise_is_far_from_the_class() -> None:
    source = nn.Linear(6, 3)
    method = UNSIR(source, noise=4)
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(method, toy_data(Classes([0, 1])))
    assert method._noise is not None
    noise, labels = method._noise
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert (source(noise).softmax(1).gather(1, labels[:, None]) < 0.3).all()


class Named(TensorDataset):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return dict(zip(("image", "species"), super().__getitem__(index), strict=True))


@pytest.mark.parametrize("normalised", [True, False])
def test_a_named_layout_gives_the_same_as_the_usual_one(normalised: bool) -> None:
    inputs, targets = blobs(TRAIN)
    torch.manual_seed(0)
    source, ends = (Net() if normalised else nn.Linear(6, 3)), []
    for dataset, adapter in (
        (TensorDataset(inputs, targets), Adapter()),
        (TensorDataset(targets, inputs), Adapter(inputs=1, targets=0)),
        (Named(inputs, targets), Adapter(targets="species")),
    ):
        torch.manual_seed(1)
        method = UNSIR(source, adapter=adapter)
        data = UnlearningDataModule(dataset, Classes(0), adapter=adapter, batch_size=8)
        quiet_trainer(limit_val_batches=0).fit(method, data)
        ends.append(state(method.model))
    assert_same_state(ends[0], ends[1])
    assert_same_state(ends[0], ends[2])
