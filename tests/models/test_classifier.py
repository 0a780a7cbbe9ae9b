"""Training the source model: logged numbers against plain computations, optimizers, loaders and ranks."""

import os

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn.models import MLP, Classifier


def toy(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def loader(n, batch_size=4, seed=0):
    return DataLoader(TensorDataset(*toy(n, seed)), batch_size=batch_size)


def trainer(folder, **options):
    settings = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return L.Trainer(**{**settings, **options})


def expected(module, *data):
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    with torch.no_grad():
        logits = module.eval().cpu()(x).double()
    return F.cross_entropy(logits, y).item(), float(np.mean(logits.argmax(1).numpy() == y.numpy()))


class UnevenData(L.LightningDataModule):
    """Gives the first process 7 samples in two batches, and the second 2 in one."""

    def val_dataloader(self):
        return loader(7, seed=1) if self.trainer.global_rank == 0 else loader(2, seed=2)

    test_dataloader = val_dataloader


def test_it_learns_and_logs(tmp_path):
    torch.manual_seed(0)
    module = Classifier(MLP(4, [16], 3), optimizer=lambda p: torch.optim.Adam(p, lr=0.05))
    run = trainer(tmp_path, max_epochs=40)
    run.fit(module, loader(20, batch_size=20), loader(11))
    assert run.callback_metrics.keys() == {"train/loss", "val/loss", "val/accuracy"}
    assert run.callback_metrics["train/loss"] < 0.3  # log(3) = 1.1 at the start
    loss, accuracy = expected(module, toy(11))
    assert run.callback_metrics["val/loss"].item() == pytest.approx(loss, rel=1e-5)
    assert run.callback_metrics["val/accuracy"].item() == pytest.approx(accuracy, rel=1e-6)


def test_scores_are_means_over_samples_whatever_the_batches(tmp_path):
    torch.manual_seed(0)
    module = Classifier(MLP(4, [16], 3))
    run = trainer(tmp_path)
    loss, accuracy = expected(module, toy(11))
    assert 0 < accuracy < 1
    for batch_size in (11, 4, 3):
        (scores,) = run.test(module, loader(11, batch_size), verbose=False)
        assert scores == pytest.approx({"test/loss": loss, "test/accuracy": accuracy}, rel=1e-5)


def test_each_dataloader_has_its_own_scores(tmp_path):
    torch.manual_seed(0)
    module = Classifier(MLP(4, [16], 3))
    run = trainer(tmp_path)
    run.validate(module, [loader(5, seed=1), loader(9, seed=2)], verbose=False)
    found = {name: value.item() for name, value in run.callback_metrics.items()}
    wanted = {}
    for index, data in enumerate([toy(5, 1), toy(9, 2)]):
        loss, accuracy = expected(module, data)
        wanted[f"val/loss/dataloader_idx_{index}"] = loss
        wanted[f"val/accuracy/dataloader_idx_{index}"] = accuracy
    assert found == pytest.approx(wanted, rel=1e-5)
    run.validate(module, loader(5, seed=1), verbose=False)
    assert run.callback_metrics["val/loss"].item() == pytest.approx(
        wanted["val/loss/dataloader_idx_0"], rel=1e-5
    )


@pytest.mark.parametrize("stage", ["val", "test"])
def test_scores_are_exact_over_uneven_ranks(tmp_path, stage):
    torch.manual_seed(0)
    module = Classifier(MLP(4, [16], 3))
    loss, accuracy = expected(module, toy(7, 1), toy(2, 2))
    run = trainer(tmp_path, devices=2, strategy="ddp_fork", use_distributed_sampler=False)
    (run.validate if stage == "val" else run.test)(module, datamodule=UnevenData(), verbose=False)
    os.environ.pop("MASTER_PORT", None)  # Lightning's launcher leaves it behind
    assert run.world_size == 2
    assert run.callback_metrics[f"{stage}/loss"].item() == pytest.approx(loss, rel=1e-5)
    assert run.callback_metrics[f"{stage}/accuracy"].item() == pytest.approx(accuracy, rel=1e-6)


def test_predictions_are_posteriors(tmp_path):
    module = Classifier(MLP(4, [16], 3))
    x, _ = toy(6)
    for batches in (loader(6), DataLoader(x, batch_size=4)):
        posteriors = torch.cat(trainer(tmp_path).predict(module, batches))
        torch.testing.assert_close(posteriors, module.eval()(x).softmax(1).detach())
    half = Classifier(MLP(4, [16], 3)).bfloat16()
    posteriors = half.predict_step(x.bfloat16(), 0)
    assert posteriors.dtype == torch.float32
    torch.testing.assert_close(posteriors.sum(1), torch.ones(6))


def test_label_smoothing_is_that_of_cross_entropy():
    module = Classifier(MLP(4, [16], 3), label_smoothing=0.3)
    module.log = lambda *_, **__: None
    x, y = toy(6)
    target = 0.7 * F.one_hot(y, 3) + 0.1
    wanted = -(target * module(x).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(module.training_step((x, y), 0), wanted)


def test_optimizers_and_schedulers():
    net = MLP(4, [16], 3)
    default = Classifier(net).configure_optimizers()
    assert type(default) is torch.optim.Adam
    assert default.param_groups[0]["lr"] == 1e-3
    assert (
        sum(p.numel() for group in default.param_groups for p in group["params"]) == 4 * 16 + 16 + 16 * 3 + 3
    )

    stepped = Classifier(
        net, lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 2)
    ).configure_optimizers()
    assert stepped["lr_scheduler"]["scheduler"].optimizer is stepped["optimizer"]
    watching = Classifier(net, lr_scheduler=lambda o: ReduceLROnPlateau(o, "val/loss")).configure_optimizers()
    assert watching["lr_scheduler"]["monitor"] == "val/loss"


def test_a_scheduler_that_watches_a_metric_is_stepped(tmp_path):
    module = Classifier(
        MLP(4, [16], 3),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
        lr_scheduler=lambda o: ReduceLROnPlateau(o, "val/loss", patience=0, min_lr=0.0),
    )
    run = trainer(tmp_path, max_epochs=3)
    run.fit(module, loader(8), loader(8))
    scheduler = run.lr_scheduler_configs[0].scheduler
    assert scheduler.best == pytest.approx(expected(module, toy(8))[0], rel=1e-5)
    assert scheduler.last_epoch == 3


@pytest.mark.parametrize(
    ("net", "batch", "error", "message"),
    [
        (nn.Linear(4, 3), toy(6)[0], TypeError, r"a batch must be a tuple \(inputs, targets"),
        (nn.Linear(4, 3), {"x": toy(6)[0]}, TypeError, "got dict"),
        (nn.Linear(4, 3), (toy(6)[0], [0, 1]), TypeError, "targets as a tensor"),
        (nn.Flatten(0), toy(6), ValueError, r"got \(24,\) for targets of shape \(6,\)"),
        (nn.Linear(4, 3), (toy(6)[0], torch.zeros(6, 1).long()), ValueError, r"targets of shape \(6, 1\)"),
        (nn.LSTM(4, 3), toy(6), ValueError, "got tuple"),
    ],
)
def test_bad_batches_and_networks_are_named(net, batch, error, message):
    with pytest.raises(error, match=message):
        Classifier(net).training_step(batch, 0)


def test_label_smoothing_outside_its_range():
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
        Classifier(nn.Linear(4, 3), label_smoothing=1.5)


def skewed(n=40):
    """Nine samples of the first class for each of the second, and none of the third."""
    x, _ = toy(n)
    return DataLoader(TensorDataset(x, (torch.arange(n) % 10 == 0).long()), batch_size=8)


@pytest.mark.parametrize("processes", [1, 2])
def test_class_weights_that_balance(tmp_path, processes):
    two = {"strategy": "ddp_fork", "devices": 2} if processes == 2 else {}
    seen = []

    class Noting(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            with torch.no_grad():
                logits = pl_module(batch[0])
            torch.testing.assert_close(
                pl_module.criterion()(logits, batch[1]),
                F.cross_entropy(logits, batch[1], weight=torch.tensor([40 / 72, 5.0, 1.0])),
            )
            seen.append(pl_module.class_weight)

    module = Classifier(
        MLP(4, [5], 3), class_weight="balanced", optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
    )
    with pytest.raises(ValueError, match="'balanced' is counted when training begins"):
        module.training_step(next(iter(skewed())), 0)
    run = trainer(tmp_path, max_epochs=1, callbacks=[Noting()], **two)
    run.fit(module, skewed())
    if processes == 1:
        assert seen == [pytest.approx([40 / 72, 5.0, 1.0])] * 5
        run.save_checkpoint(tmp_path / "balanced.ckpt")
        again = Classifier.load_from_checkpoint(
            tmp_path / "balanced.ckpt", net=MLP(4, [5], 3), weights_only=True
        )
        assert again.class_weight == seen[0]
        resumed = Classifier(MLP(4, [5], 3), class_weight="balanced", optimizer=module.optimizer)
        trainer(tmp_path, max_epochs=2).fit(resumed, loader(20), ckpt_path=tmp_path / "balanced.ckpt")
        assert resumed.class_weight == seen[0], "other data counted again"


def test_class_weights_that_are_given():
    module = Classifier(MLP(4, [5], 3), class_weight=[1, 2.5, 1], label_smoothing=0.1)
    x, y = toy(9)
    expected = F.cross_entropy(module(x), y, weight=torch.tensor([1, 2.5, 1]), label_smoothing=0.1)
    assert torch.equal(module.training_step((x, y), 0), expected)
    assert "_weight" not in module.state_dict()
    for wrong in ([1.0, 0.0, 1.0], [1.0, float("inf")], "even"):
        with pytest.raises(ValueError, match="class_weight must hold one positive number a class"):
            Classifier(MLP(4, [5], 3), class_weight=wrong)
