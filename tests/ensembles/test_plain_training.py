"""Training and asking models outside a Trainer's loop."""

from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import (
    FEATURES,
    Net,
    assert_same_state,
    blobs,
    quiet_trainer,
    state,
    toy_data,
    toy_source,
    train_set,
)
from torch import nn

from lightning_unlearn.data import TensorData, TensorLoader
from lightning_unlearn.ensembles import (
    Runtime,
    isolated_rng,
    predict,
    restore_rng_state,
    rng_state,
    train_classifier,
)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def test_it_equals_a_hand_written_loop() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, 3))
    twin = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, 3))
    twin.load_state_dict(net.state_dict())
    loader = TensorLoader(train_set(), batch_size=8, shuffle=True, seed=3)

    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    train_classifier(net, loader, epochs=3, optimizer=sgd, lr_scheduler=schedule, runtime=Runtime())
    optimizer = sgd(twin.parameters())
    scheduler = schedule(optimizer)
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(x), y).backward()
            optimizer.step()
        scheduler.step()
    assert_same_state(state(net), state(twin))


def test_it_leaves_the_random_state_and_does_not_depend_on_it() -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(0)
        net = Net()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        train_classifier(
            net, TensorLoader(train_set(), batch_size=8), epochs=2, optimizer=sgd, runtime=Runtime(), seed=5
        )
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(state(net))
    assert_same_state(*ends)


def test_losses_that_are_not_finite_stop_it() -> None:
    x, y = blobs(20)
    x[3] = float("inf")
    with pytest.raises(FloatingPointError, match="epoch 1 of training Linear"):
        train_classifier(
            nn.Linear(FEATURES, 3),
            TensorLoader(TensorData(x, y), batch_size=8),
            epochs=2,
            optimizer=sgd,
            runtime=Runtime(),
        )
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        train_classifier(
            Net(), TensorLoader(train_set(), batch_size=8), epochs=0, optimizer=sgd, runtime=Runtime()
        )


class Both(L.Callback):
    """Trains a model and asks it, in however many processes there are."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        runtime = Runtime(trainer)
        torch.manual_seed(0)
        net = nn.Linear(FEATURES, 3).double()
        x, y = blobs(37)
        data = TensorData(x.double(), y)
        size = 8 // trainer.world_size
        train_classifier(
            net, TensorLoader(data, batch_size=size, shuffle=True), epochs=2, optimizer=sgd, runtime=runtime
        )
        outputs = predict(net, TensorLoader(data, batch_size=5, indexed=True), runtime)
        low = net.weight.detach().clone()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(low, torch.distributed.ReduceOp.MIN)
        trainer.callback_metrics["low"] = low.sum()
        trainer.callback_metrics["sum"] = net.weight.detach().sum()
        weights = torch.arange(1.0, 38.0)[:, None]
        trainer.callback_metrics["logits"] = (outputs.logits * weights).sum()
        trainer.callback_metrics["targets"] = (outputs.targets * weights[:, 0]).sum()


def test_two_processes_train_and_ask_the_same_model() -> None:
    found = []
    for arguments in ({}, {"strategy": "ddp_fork", "devices": 2}):
        trainer = quiet_trainer(max_epochs=1, callbacks=[Both()], **arguments)
        trainer.fit(toy_source(), toy_data())
        found.append({k: float(trainer.callback_metrics[k]) for k in ("low", "sum", "logits", "targets")})
    assert found[1]["low"] == found[1]["sum"], "the ranks ended with different weights"
    # a last step of 37 = 4·8 + 5 samples falls 3 to 2 on the ranks, whose means are then averaged
    assert found[1]["sum"] == pytest.approx(found[0]["sum"], abs=0.05)
    assert found[1]["targets"] == found[0]["targets"], "a sample was lost, doubled or out of order"
    assert found[1]["logits"] == pytest.approx(found[0]["logits"], rel=0.05)


def test_answers_are_in_stream_order_and_leave_the_modes() -> None:
    net = Net()
    net[1].eval()
    modes = [module.training for module in net.modules()]
    data, chosen = train_set(), torch.tensor([7, 3, 50, 11])
    outputs = predict(net, TensorLoader(data, chosen, batch_size=3, indexed=True), Runtime())
    assert [module.training for module in net.modules()] == modes
    net.eval()
    torch.testing.assert_close(outputs.logits, net(data.inputs[chosen]).detach())
    assert torch.equal(outputs.targets, data.targets[chosen])
    hits = (outputs.logits.argmax(1) == outputs.targets).float().mean()
    assert outputs.accuracy == pytest.approx(float(hits))


def test_random_states_are_kept_also_when_something_raises() -> None:
    import random

    import numpy as np

    before = rng_state()
    expected = (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: NPY002
    restore_rng_state(before)

    def draw_and_fail() -> None:
        with isolated_rng(4):
            torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
            raise RuntimeError

    with pytest.raises(RuntimeError):
        draw_and_fail()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected  # noqa: NPY002


def test_random_states_are_plain_values(tmp_path: Any) -> None:
    torch.save(rng_state(), tmp_path / "rng.pt")
    restore_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
