"""Ranks share the members: two processes give the models of one."""

import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import FEATURES, blobs, quiet_trainer, toy_data, toy_source

from lightning_unlearn.data import TensorData
from lightning_unlearn.ensembles import Ensemble, Member, Recipe, Runtime, train_ensemble
from lightning_unlearn.ensembles import ensemble as ensemble_module
from lightning_unlearn.ensembles.workers import in_workers
from lightning_unlearn.models import MLP


def some_ensemble(members: int, runtime: Runtime | None = None, **arguments: Any) -> Ensemble:
    x, y = blobs(37)
    recipe = Recipe(lambda: MLP(FEATURES, [5], 3).double(), 2, 8, partial(torch.optim.Adam, lr=0.01))
    rows = [Member(torch.arange(k, 30 + k), k) for k in range(members)]
    return train_ensemble(recipe, TensorData(x.double(), y), rows, runtime=runtime, **arguments)


class Training(L.Callback):
    def __init__(self, members: int) -> None:
        self.members = members

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        ensemble = some_ensemble(self.members, Runtime(trainer))
        assert len(ensemble) == self.members
        # by place, so that models out of order are noticed; and on every rank the same
        weights = torch.arange(1.0, self.members + 1).double()
        value = (ensemble.states["layers.0.weight"].sum((1, 2)) * weights).sum()
        low = value.clone()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(low, torch.distributed.ReduceOp.MIN)
        trainer.callback_metrics["low"], trainer.callback_metrics["value"] = low, value
        trainer.callback_metrics["losses"] = (ensemble.losses.sum(1) * weights).sum()


@pytest.mark.parametrize("members", [5, 1])
def test_two_ranks_of_a_trainer_give_the_same_models(members: int) -> None:
    found = []
    for arguments in ({}, {"strategy": "ddp_fork", "devices": 2}):
        trainer = quiet_trainer(max_epochs=1, callbacks=[Training(members)], **arguments)
        trainer.fit(toy_source(), toy_data())
        found.append({name: float(trainer.callback_metrics[name]) for name in ("low", "value", "losses")})
    assert found[1]["low"] == found[1]["value"], "the ranks hold different ensembles"
    assert found[1]["value"] == pytest.approx(found[0]["value"], abs=1e-8)
    assert found[1]["losses"] == pytest.approx(found[0]["losses"], abs=1e-5)


def ranks(work: Any) -> Iterator[tuple[int, Any]]:
    """Run ``work(runtime)`` in two processes of one group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start(rank: int) -> Any:
        address = f"tcp://127.0.0.1:{port}"
        torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
        runtime = Runtime()
        runtime.rank, runtime.world_size = rank, 2
        return work(runtime)

    return in_workers(start, [0, 1], 2)


def test_every_rank_trains_its_share_and_holds_all(tmp_path: Any) -> None:
    def work(runtime: Runtime) -> dict[str, Any]:
        ensemble = some_ensemble(5, runtime, cache=tmp_path)
        return {"states": ensemble.states, "losses": ensemble.losses}

    expected = some_ensemble(5)
    for _, result in ranks(work):
        for name, value in expected.states.items():
            torch.testing.assert_close(result["states"][name], value, rtol=0, atol=1e-8)
        torch.testing.assert_close(result["losses"], expected.losses)
    assert len(list(tmp_path.iterdir())) == 5, "a rank trained what another had to"


def test_an_error_on_one_rank_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no more space")

    def work(runtime: Runtime) -> str:
        if runtime.rank == 1:
            monkeypatch.setattr(ensemble_module, "decide", fail)
        try:
            some_ensemble(4, runtime)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    messages = dict(ranks(work))
    assert messages[1] == "OSError: no more space"
    assert messages[0].startswith("RuntimeError: another rank failed")
