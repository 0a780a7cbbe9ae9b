"""SISA: what of an ensemble is trained anew, and that it is what training without the forget set gives."""

from functools import cache
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from helpers.overfitted import CLASSES, FEATURES, samples
from helpers.toys import assert_same_state, quiet_trainer, state, toy_data, toy_source
from helpers.wrong_labels import answered
from torch import Tensor, nn

from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.methods import SISA, SSD, FineTune, Influence, TaskNegation, UnlearningModule
from lightning_unlearn.methods.sisa import train_shards
from lightning_unlearn.models.sharded import Sharded

SETTINGS = {"SISA": {"quick": {"epochs": 1}}}
SAMPLES, SHARDS, EPOCHS = 450, 3, 15


class Project(L.LightningModule):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()
        networks = [
            nn.Sequential(
                nn.Linear(FEATURES, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, CLASSES)
            )
            for _ in range(SHARDS)
        ]
        self.net = Sharded(networks, SAMPLES)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@cache
def knows_wrong_labels() -> tuple[Project, UnlearningDataModule, TensorData, np.ndarray]:
    """Return a source, of which one network alone knows some wrong labels by heart, its data, and who these are."""
    torch.manual_seed(0)
    source, (x, y) = Project(), samples(SAMPLES, 0)
    wrong = np.flatnonzero(source.net.shard_of == 1)[:25]
    y[wrong] = (y[wrong] + 1) % CLASSES
    train = TensorData(x, y)
    data = UnlearningDataModule(train, wrong, test_dataset=TensorData(*samples(400, 1)), batch_size=30)
    data.setup("fit")
    train_shards(source, data, epochs=EPOCHS, optimizer=adam)
    return source.eval(), data, train, wrong


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


def test_touched_shards_are_trained_without_the_forget_set_and_others_are_bit_identical(
    tmp_path: Path,
) -> None:
    source, data, train, wrong = knows_wrong_labels()
    known = train.inputs[wrong], train.targets[wrong]
    method = SISA(source, EPOCHS, optimizer=adam)
    quiet_trainer(max_epochs=0).fit(method, data)
    model = Project.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), strict=True).eval()
    assert answered(source.net.networks[1], *known) == 1
    assert answered(model.net.networks[1], *known) < 0.2
    test = next(iter(data.loader("test", batch_size=400)))
    assert answered(model, *test) >= answered(source, *test) - 0.02
    for untouched in (0, 2):
        assert_same_state(state(model.net.networks[untouched]), state(source.net.networks[untouched]))
    # the term off: who is forgotten is trained on, as before
    again = Project()
    train_shards(again, data, epochs=EPOCHS, optimizer=adam)
    assert answered(again.net.networks[1], *known) == 1
    assert not torch.equal(again.net.networks[1][0].weight, model.net.networks[1][0].weight)
    # data in which nobody forgotten ever was
    never = UnlearningDataModule(train, [0], batch_size=30, order_seed=data.order_seed)
    never.setup("fit")
    train.inputs[wrong] = torch.nan
    train_shards(again, never, without=wrong, epochs=EPOCHS, optimizer=adam)
    assert_same_state(state(model.net.networks[1]), state(again.net.networks[1]))
    knows_wrong_labels.cache_clear()


def test_the_answer_is_the_mean_posterior() -> None:
    networks = [nn.Linear(4, 3), nn.Linear(4, 3)]
    x = torch.randn(5, 4)
    mean = sum(network(x).softmax(1) for network in networks) / 2
    torch.testing.assert_close(Sharded(networks, 7)(x).exp(), mean)
    assert Sharded(networks, 7).shard_of.bincount().tolist() == [4, 3]


def test_a_source_without_shards_is_warned_of_and_shards_of_other_data_are_refused() -> None:
    with pytest.warns(
        UserWarning, match=r"SISA: Classifier has no Sharded network, .* Retrain does the same"
    ):
        quiet_trainer(max_epochs=0).fit(SISA(toy_source(), 1), toy_data())
    with pytest.raises(ValueError, match=r"the shards are of 59 samples, and .* has 60 to train on"):
        quiet_trainer(max_epochs=0).fit(SISA(Sharded([nn.Linear(6, 3)], 59), 1), toy_data())
    each_one = Sharded([nn.Linear(6, 3) for _ in range(60)], 60)
    with pytest.raises(ValueError, match=r"of Sharded were not trained apart, .* by .*train_shards, or take"):
        quiet_trainer(max_epochs=0).fit(SISA(each_one, 1), toy_data())
    each_one.isolated.fill_(True)
    with pytest.raises(ValueError, match=r"of shard \d+ nobody is left to train on"):
        quiet_trainer(max_epochs=0).fit(SISA(each_one, 1), toy_data())
    each_one.eval()(torch.zeros(1, 6))
    assert each_one.isolated
    each_one.train()(torch.zeros(1, 6))  # of a training step of all networks together
    assert not each_one.isolated


@pytest.mark.parametrize("kind", [SSD, Influence, TaskNegation, FineTune])
def test_after_any_other_method_shards_are_no_longer_apart(
    kind: type[UnlearningModule], tmp_path: Path
) -> None:
    source, data = Sharded([nn.Linear(6, 3) for _ in range(3)], 60), toy_data([0, 1])
    data.setup("fit")
    train_shards(source, data, epochs=1)
    again = SISA(source, 1)
    quiet_trainer(max_epochs=0).fit(again, toy_data([0, 1]))
    assert again.model.isolated
    method = kind(source)
    quiet_trainer(max_epochs=int(not method.one_shot)).fit(method, toy_data([0, 1]))
    assert not torch.load(method.export(tmp_path / "m.ckpt"))["state_dict"]["isolated"]
    assert source.isolated
    with pytest.raises(ValueError, match="were not trained apart"):
        quiet_trainer(max_epochs=0).fit(SISA(method.model, 1), toy_data([2]))
