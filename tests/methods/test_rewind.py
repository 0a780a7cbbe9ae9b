"""Rewind: what the exported model has forgotten, which checkpoint it starts from, and which it refuses."""

import copy
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.support import earlier_checkpoint
from helpers.toys import (
    CLASSES,
    FEATURES,
    TRAIN,
    PlainModule,
    assert_same_state,
    blobs,
    quiet_trainer,
    state,
    toy_data,
    toy_source,
)
from helpers.wrong_labels import (
    Project,
    answered,
    check_wrong_labels_are_forgotten,
    known_by_heart,
    train_and_keep,
)
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_unlearn.data import Classes, Digits, Location, TensorData, UnlearningDataModule
from lightning_unlearn.functional import gaussian_epsilon, rewind_sensitivity
from lightning_unlearn.methods import Rewind, SourceCheckpoint
from lightning_unlearn.methods.base.checkpoints import KEPT, likeness
from lightning_unlearn.models import MLP, Classifier, PurchaseNet

SETTINGS = {"Rewind": {"forgets": {"ascent": 1.0}}}


# ---------------------------------------------------------------------- what is forgotten


@pytest.mark.slow
def test_wrong_labels_are_forgotten(tmp_path: Path) -> None:
    check_wrong_labels_are_forgotten(Rewind, tmp_path)


@pytest.mark.slow
def test_without_going_back_and_without_ascent_they_are_not(tmp_path: Path) -> None:
    source, *_ = known_by_heart()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "itself.ckpt")

    def still(source: nn.Module) -> Rewind:
        return Rewind(source, tmp_path / "itself.ckpt", ascent=0)

    with (
        pytest.warns(UserWarning, match="holds the source's own weights, so nothing is rewound"),
        pytest.raises(AssertionError, match="it still gives"),
    ):
        check_wrong_labels_are_forgotten(still, tmp_path)


@pytest.mark.slow
def test_a_class_is_forgotten(tmp_path: Path) -> None:
    """From an early epoch and with the ascent; from the source and without, it is not."""
    L.seed_everything(0, verbose=False)
    source, data = Project(), UnlearningDataModule(Digits(batch_size=64), Classes(3))
    data.setup("fit")
    *_, early, _, _, _, last = train_and_keep(source, data, epochs=8, every=1)
    inputs, targets = (torch.cat(part) for part in zip(*data.loader("test"), strict=True))
    of_class = targets == 3
    known = []
    for checkpoint, ascent in ((early, 0.3), (last, 0.0)):
        method = Rewind(source.eval(), checkpoint, ascent=ascent)
        quiet_trainer(limit_val_batches=0).fit(method, data)
        model = Project.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), strict=True)
        known.append(answered(model, inputs[of_class], targets[of_class]))
        others = inputs[~of_class], targets[~of_class]
        assert answered(model, *others) >= answered(source, *others) - 0.03
    assert known[0] <= 0.02
    assert known[1] >= 0.9


@pytest.mark.slow
def test_random_samples_are_forgotten_and_known_as_little_as_non_members(
    shared_data: Path, tmp_path: Path
) -> None:
    """Location-30: from epoch 6 of 30 in two epochs. From the source and without the ascent nothing is forgotten."""
    L.seed_everything(0, verbose=False)
    places = Location(shared_data / "location30.npz", test_size=1010, batch_size=64)
    data = UnlearningDataModule(places, 0.0375, nonmember=500, shadow=2500)
    data.setup("fit")
    source = Classifier(PurchaseNet(446, [256, 128], 30))
    early, *_, last = train_and_keep(source, data, epochs=30, every=6)
    gaps = []
    for checkpoint, ascent in ((early, 0.15), (last, 0.0)):
        method = Rewind(source.eval(), checkpoint, ascent=ascent)
        quiet_trainer(limit_val_batches=0).fit(method, data)
        model = Classifier.load_from_checkpoint(
            method.export(tmp_path / "m.ckpt"), net=PurchaseNet(446, [256, 128], 30)
        )
        model.eval()
        assert right(model, data, "retain") > 0.9
        gaps.append(right(model, data, "forget") - right(model, data, "nonmember"))
    assert abs(gaps[0]) < 0.08
    assert gaps[1] > 0.3


# ---------------------------------------------------------------------- which checkpoint it starts from


def by_heart(forget: Any = 0.3, **arguments: Any) -> UnlearningDataModule:
    """Noise with labels that nobody can guess, so that what is right of it was learned by heart."""
    generator = torch.Generator().manual_seed(0)
    train, test = (
        TensorData(torch.randn(n, 20, generator=generator), torch.randint(3, (n,), generator=generator))
        for n in (80, 200)
    )
    return UnlearningDataModule(train, forget, test_dataset=test, batch_size=20, **arguments)


def trained(folder: Path, data: UnlearningDataModule, seed: int = 0) -> tuple[Classifier, list[Path]]:
    """Train on all members, and keep every epoch."""
    torch.manual_seed(seed)
    source = Classifier(MLP(20, (64,), 3), optimizer=lambda p: torch.optim.Adam(p, 3e-3))
    keeper = ModelCheckpoint(folder, "{epoch:02d}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = quiet_trainer(max_epochs=25, callbacks=[keeper], enable_checkpointing=True, limit_val_batches=0)
    trainer.fit(source, data)
    KEPT[source] = folder, math.inf
    return source.eval(), sorted(folder.glob("*.ckpt"))


def weights(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)["state_dict"]


def start_of(method: Rewind, data: UnlearningDataModule) -> dict[str, Any]:
    """Return the weights before the first step."""
    quiet_trainer(max_epochs=0, limit_val_batches=0).fit(method, data)
    return state(method.model)


@torch.no_grad()
def right(model: nn.Module, data: UnlearningDataModule, stream: str) -> float:
    inputs, targets = (torch.cat(part) for part in zip(*data.loader(stream), strict=True))
    return float((model(inputs).argmax(1) == targets).float().mean())


def test_the_latest_checkpoint_with_half_the_gap_is_taken(tmp_path: Path) -> None:
    data = by_heart()
    source, files = trained(tmp_path, data)
    model, gaps = Classifier(MLP(20, (64,), 3)).eval(), []
    for file in files:
        model.load_state_dict(weights(file))
        gaps.append(abs(right(model, data, "forget") - right(model, data, "nonmember")))
    latest = max(place for place, gap in enumerate(gaps) if gap <= gaps[-1] / 2)
    assert 0 < latest < len(files) - 2
    assert_same_state(start_of(Rewind(source), by_heart()), weights(files[latest]))
    assert_same_state(start_of(Rewind(source, files[3]), by_heart()), weights(files[3]))


@pytest.mark.slow
def test_wrong_labels_are_measured_by_the_share_that_is_given_them(tmp_path: Path) -> None:
    """A gap to non-members would be the smallest where the wrong labels are known by heart."""
    source, data, inputs, labels = known_by_heart()
    data = copy.copy(data)
    data.wrong_labels = False  # as where nobody said so
    method = Rewind(source)
    quiet_trainer(max_epochs=0, limit_val_batches=0).fit(method, data)
    assert 0 < answered(method.model, inputs, labels) <= 0.5


def test_where_all_remember_too_much_the_earliest_is_taken_and_named(tmp_path: Path) -> None:
    data = by_heart()
    source, files = trained(tmp_path, data)
    for file in files[:-3]:
        file.unlink()
    method = Rewind(source, tmp_path)
    with pytest.warns(UserWarning, match="no checkpoint of .* at most half as much .* the earliest is taken"):
        start = start_of(method, by_heart())
    assert_same_state(start, weights(files[-3]))


def test_the_folder_of_the_sources_own_checkpoint(tmp_path: Path) -> None:
    """What is later than the source, and what was exported beside it, is passed over."""
    source = PlainModule()
    keeper = ModelCheckpoint(tmp_path, "{step:02d}", save_top_k=-1, every_n_train_steps=8)
    trainer = quiet_trainer(callbacks=[keeper], enable_checkpointing=True, limit_val_batches=0, max_epochs=4)
    trainer.fit(source, toy_data())
    files = sorted(tmp_path.glob("*.ckpt"))
    start = Rewind(source, files[0])
    start_of(start, toy_data())
    start.export(tmp_path / "export.ckpt")
    given = SourceCheckpoint(str(files[2]), module="helpers.toys.PlainModule")
    assert Rewind(given)._files == files[:2]
    assert Rewind(given, files[0].name)._files == files[:1]  # by its name alone, where the source's own are
    in_a_comparison = toy_source()
    KEPT[in_a_comparison] = files[0].parent, math.inf
    assert Rewind(in_a_comparison, files[1].name)._files == files[1:2]
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*epoch=9.ckpt"):
        Rewind(given, "epoch=9.ckpt")
    with pytest.raises(ValueError, match=r"is of step 32, later than the source's 24; give one from before"):
        Rewind(given, files[3])
    (tmp_path / "later").mkdir()
    files[3].rename(tmp_path / "later" / files[3].name)
    with pytest.raises(
        ValueError, match="later holds no checkpoint of the source's training from before its"
    ):
        Rewind(given, tmp_path / "later")


@pytest.mark.parametrize("own", [0, 1])
def test_of_two_trainings_in_one_folder_the_sources_own_is_gone_back_to(own: int, tmp_path: Path) -> None:
    """Lightning writes those of the second beside the first's, as epoch=00-v1.ckpt."""
    data = by_heart()
    source, files = [trained(tmp_path, data, seed) for seed in (0, 1)][own]
    ours = [file for file in files if file.stem.endswith("-v1") == bool(own)]
    assert len(ours) == 25
    assert Rewind(source, tmp_path)._files == ours
    ours[12].unlink()  # where the halving begins, there is that of the other alone
    with pytest.warns(UserWarning, match=r"passes over a file of .*epoch=12.* is of another training"):
        start = start_of(Rewind(source, tmp_path), by_heart())
    for file in set(tmp_path.glob("*.ckpt")) - set(ours):
        file.unlink()
    assert_same_state(start, start_of(Rewind(source, tmp_path), by_heart()))


def test_of_two_trainings_from_the_same_weights_the_arguments_tell_or_it_is_refused(tmp_path: Path) -> None:
    for lr, epochs in ((0.05, 5), (0.01, 3)):
        torch.manual_seed(0)
        source = PlainModule(lr=lr)
        keeper = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_last=True)
        trainer = quiet_trainer(callbacks=[keeper], enable_checkpointing=True, max_epochs=epochs)
        trainer.fit(source, toy_data())
    names = [f"epoch={epoch}-v1.ckpt" for epoch in range(3)]
    assert [file.name for file in Rewind(source, tmp_path)._files] == names
    (tmp_path / "of_no_step").mkdir()  # that the two share
    for name in (*names, "epoch=3.ckpt", "epoch=4.ckpt"):
        shutil.copy(tmp_path / name, tmp_path / "of_no_step")
    with pytest.warns(UserWarning, match="2 files are passed over, since they record other arguments"):
        assert [file.name for file in Rewind(source, tmp_path / "of_no_step")._files] == names
    source.hparams["lr"] = 1.0
    assert len(Rewind(source, tmp_path / "of_no_step")._files) == 5, (
        "of arguments that no file has nothing is told"
    )
    with pytest.raises(ValueError, match=r"holds epoch=0-v1.ckpt and epoch=0.ckpt, both .* name one of them"):
        Rewind(source, tmp_path)
    assert Rewind(source, tmp_path / names[0])._files == [tmp_path / names[0]]


# ---------------------------------------------------------------------- what it refuses


@pytest.mark.slow
def test_a_checkpoint_of_another_training_does_not_resemble_the_source(tmp_path: Path) -> None:
    """The very first epoch of a training resembles its last, and no epoch of another does."""
    (one, ours), (_, theirs) = (trained(tmp_path / str(seed), by_heart(), seed) for seed in (0, 1))
    assert min(likeness(one, weights(file)) for file in ours) > 0.5
    assert max(likeness(one, weights(file)) for file in theirs) < 0.1
    with pytest.raises(
        ValueError, match=r"is of another training than the source .its weights do not resemble"
    ):
        start_of(Rewind(one, tmp_path / "1"), by_heart())


def test_what_is_no_checkpoint_of_the_source_is_refused(tmp_path: Path) -> None:
    source = toy_source()
    with pytest.raises(
        ValueError, match="'auto' is the folder of the source's own checkpoint, and this source was"
    ):
        Rewind(source)
    with pytest.raises(FileNotFoundError, match=r"checkpoint: there is no file or folder .*nowhere"):
        Rewind(source, tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"checkpoint: .* holds no checkpoint .* ModelCheckpoint.save_top_k=-1."
    ):
        Rewind(source, tmp_path)
    (tmp_path / "broken.ckpt").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"broken.ckpt cannot be read as a checkpoint"):
        Rewind(source, tmp_path)
    other = earlier_checkpoint(Classifier(MLP(6, (5,), 3)))
    with pytest.raises(
        ValueError, match=r"is of another model than the source, Classifier: .* give a checkpoint of"
    ):
        start_of(Rewind(source, other), toy_data())


def test_a_checkpoint_of_another_training_set_is_refused() -> None:
    source, data = toy_source(), toy_data()
    file = earlier_checkpoint(source)
    content = torch.load(file, weights_only=True)
    torch.save({**content, "UnlearningDataModule": {"training_fingerprint": "another"}}, file)
    with pytest.raises(
        ValueError, match=rf"checkpoint: {file} was made with a training set of another order"
    ):
        start_of(Rewind(source, file), data)


# ---------------------------------------------------------------------- what comes along, and what does not


def test_frozen_parts_and_their_statistics_stay() -> None:
    source = toy_source()
    layer = source.net[1]  # type: ignore[index]
    file = earlier_checkpoint(source)
    content = torch.load(file, weights_only=True)
    content["state_dict"]["net.1.running_mean"] += (
        1.0  # as a layer in training mode follows whatever goes through
    )
    torch.save(content, file)
    method = Rewind(source, file, frozen=["net.1"], ascent=0)
    with pytest.raises(ValueError, match=r"another training than the source .net.1.weight, frozen in"):
        start_of(method, toy_data())
    content["state_dict"]["net.1.weight"], content["state_dict"]["net.1.bias"] = layer.weight, layer.bias
    torch.save(content, file)
    quiet_trainer(limit_val_batches=0).fit(method, toy_data())
    for name, value in layer.state_dict().items():
        assert torch.equal(method.model.net[1].state_dict()[name], value), name  # type: ignore[union-attr, index]


def test_running_statistics_of_the_checkpoint_hold_nothing_in_the_end() -> None:
    """They saw the forget set; the exported ones are the same whatever came with the checkpoint."""
    source, ends = toy_source(), []
    for shift in (0.0, 100.0):
        file = earlier_checkpoint(source)
        content = torch.load(file, weights_only=True)
        content["state_dict"]["net.1.running_mean"] += shift
        torch.save(content, file)
        L.seed_everything(0, verbose=False)
        method = Rewind(source, file, ascent=0.3)
        quiet_trainer(limit_val_batches=0).fit(method, toy_data())
        ends.append(state(method.model))
    assert_same_state(*ends)


def test_after_an_earlier_request_both_are_ascended_on_and_neither_trained_on(tmp_path: Path) -> None:
    first = toy_data([4, 5, 6], split_path=tmp_path / "first.npz")
    first.setup("fit")
    data = toy_data([7, 8], previous=tmp_path / "first.npz")
    method = Rewind(toy_source(), earlier_checkpoint(toy_source()))
    quiet_trainer(limit_val_batches=0).fit(method, data)
    streams = data.train_dataloader()
    assert sorted(streams["forget"].positions.tolist()) == [4, 5, 6, 7, 8]
    assert not {4, 5, 6, 7, 8} & set(streams["retain"].positions.tolist())


# ---------------------------------------------------------------------- the certified form


LR, BEFORE, AFTER = 0.1, 4, 6


def linear_data(forget: Any, **arguments: Any) -> UnlearningDataModule:
    """A convex problem, whose constants are known, in one batch."""
    return toy_data(forget, batch_size=TRAIN, **arguments)


def constants() -> dict[str, float]:
    """The Hessian of the softmax is at most 1/2, its gradient at most the square root of 2, times the input and a 1."""
    longest = float((blobs(TRAIN)[0].square().sum(1) + 1).max())
    return {"smoothness": longest / 2, "gradient_bound": (2 * longest) ** 0.5}


def descended(folder: Path, epochs: int, data: Any, **start: Any) -> Classifier:
    torch.manual_seed(0)
    source = Classifier(nn.Linear(FEATURES, CLASSES), optimizer=lambda p: torch.optim.SGD(p, LR))
    keeper = ModelCheckpoint(folder, "{epoch:02d}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = quiet_trainer(
        max_epochs=epochs, callbacks=[keeper], enable_checkpointing=True, limit_val_batches=0
    )
    trainer.fit(source, data)
    return source


def certified(source: Classifier, checkpoint: Path, **arguments: Any) -> Rewind:
    settings = {"ascent": 0.0, "noise": 0.05, "optimizer": lambda p: torch.optim.SGD(p, LR), **constants()}
    return Rewind(source, checkpoint, **{**settings, **arguments})


def test_the_distance_to_a_retrained_model_is_within_the_bound(tmp_path: Path) -> None:
    """Retrained and rewound by hand, from the same weights, with every sample once a step."""
    forget = list(range(6))
    source = descended(tmp_path / "all", 12, linear_data(forget))
    data = linear_data(forget)
    rewound = certified(source, tmp_path / f"all/epoch={BEFORE - 1:02d}.ckpt", noise=1e-12)
    trainer = quiet_trainer(max_epochs=AFTER, limit_val_batches=0)
    trainer.fit(rewound, data)
    retain = data.loader("retain", train=True)
    retrained = descended(tmp_path / "retained", BEFORE + AFTER, retain)
    apart = torch.cat(
        [(a - b).flatten() for a, b in zip(rewound.model.parameters(), retrained.parameters(), strict=True)]
    )
    bound = rewind_sensitivity(lr=LR, forgotten=6, members=TRAIN, before=BEFORE, after=AFTER, **constants())
    assert 1e-4 < float(apart.norm()) <= bound
    assert float(trainer.callback_metrics["certified/epsilon"]) == gaussian_epsilon(bound / 1e-12, 1e-5)


def test_the_noise_is_as_said_and_no_seed_repeats_it(tmp_path: Path) -> None:
    source = descended(tmp_path, 6, linear_data([1, 2]))
    ends = []
    for noise in (1e-12, 0.5, 0.5):
        L.seed_everything(0, verbose=False)
        method = certified(source, tmp_path / "epoch=03.ckpt", noise=noise)
        quiet_trainer(max_epochs=2, limit_val_batches=0).fit(method, linear_data([1, 2]))
        ends.append(torch.cat([p.detach().flatten() for p in method.model.parameters()]))
    assert 0.25 < float((ends[1] - ends[0]).std()) < 0.9
    assert not torch.equal(ends[1], ends[2])


def test_noise_that_destroys_the_model_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.randbits", lambda bits: 0)
    source = descended(tmp_path, 60, linear_data([1, 2]))
    method = certified(
        source, tmp_path / "epoch=50.ckpt", noise=100.0
    )  # drawn from this seed, it leaves few right
    trainer = quiet_trainer(max_epochs=9)
    with pytest.warns(UserWarning, match="Rewind destroyed the model"):
        trainer.fit(method, linear_data([1, 2]))
    quiet = quiet_trainer()
    quiet.validate(method, linear_data([1, 2]), verbose=False)
    for name in ("accuracy/retain", "accuracy/test"):
        assert trainer.callback_metrics[name] == quiet.callback_metrics[name]
    assert "certified/epsilon" in trainer.callback_metrics


def test_the_distance_grows_as_worked_out_by_hand() -> None:
    distance, worst = 0.0, {"smoothness": 2.0, "gradient_bound": 3.0}
    for step in range(9):
        drift = 0.1 * 2 * 4 / 50 * 3.0 if step < 5 else 0.0
        distance = (1 + 0.1 * 2.0) * distance + drift
    found = rewind_sensitivity(lr=0.1, forgotten=4, members=50, before=5, after=4, **worst)
    assert found == pytest.approx(distance)
    assert rewind_sensitivity(lr=1.0, forgotten=4, members=50, before=9**9, after=4, **worst) == math.inf


@pytest.mark.parametrize("ratio", [0.01, 0.7, 3.0, 40.0])
@pytest.mark.parametrize("delta", [1e-8, 1e-3])
def test_epsilon_is_the_root_of_the_exact_equation(ratio: float, delta: float) -> None:
    from scipy import optimize, stats

    def excess(epsilon: float) -> float:
        second = stats.norm.logcdf(-ratio / 2 - epsilon / ratio)
        return float(stats.norm.cdf(ratio / 2 - epsilon / ratio) - math.exp(epsilon + second) - delta)

    assert gaussian_epsilon(ratio, delta) == pytest.approx(optimize.brentq(excess, 0, 1e5), rel=1e-6)


def two_groups(parameters: list[nn.Parameter], **second: float) -> torch.optim.Optimizer:
    first, *others = parameters
    return torch.optim.SGD([{"params": [first]}, {"params": others, **second}], LR)


class Halved(L.Callback):
    """Halves the rate in the middle of a fit, as no schedule."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] /= 2


OTHERS = ("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "RMSprop", "Rprop")


def test_a_source_that_was_not_trained_by_plain_descent_is_not_certified(tmp_path: Path) -> None:
    source = descended(tmp_path, 4, linear_data([1, 2]))
    content = torch.load(tmp_path / "epoch=01.ckpt", weights_only=True)
    parameters, file = list(source.parameters()), tmp_path / "changed.ckpt"
    scheduled = torch.optim.SGD(parameters, LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(scheduled, lambda epoch: 1.0)

    def fit(optimizer: torch.optim.Optimizer, *callbacks: L.Callback, **changes: Any) -> None:
        torch.save({**content, "optimizer_states": [optimizer.state_dict()], **changes}, file)
        trainer = quiet_trainer(limit_val_batches=0, callbacks=list(callbacks))
        trainer.fit(certified(source, file), linear_data([1, 2]))

    plain = torch.optim.SGD(parameters, LR)
    fit(plain)
    fit(two_groups(parameters))
    for optimizer in (
        *(getattr(torch.optim, name)(parameters, lr=LR) for name in OTHERS if hasattr(torch.optim, name)),
        *(two_groups(parameters, **{name: 0.5}) for name in ("lr", "momentum", "weight_decay")),
        scheduled,
    ):
        with pytest.raises(ValueError, match="the checkpoint must say that it was trained in the same way"):
            fit(optimizer)
    with pytest.raises(ValueError, match=r"the checkpoint must say .* without a schedule"):
        fit(plain, lr_schedulers=[schedule.state_dict()])
    with pytest.raises(
        ValueError, match=r"must be torch.optim.SGD at one rate for all .* lr=0.1 in every step"
    ):
        fit(plain, Halved())


def test_what_no_bound_holds_for_is_refused(tmp_path: Path) -> None:
    source = descended(tmp_path, 4, linear_data([1, 2]))
    file = tmp_path / "epoch=01.ckpt"

    def fit(data: UnlearningDataModule | None = None, checkpoint: Path = file, **arguments: Any) -> None:
        trainer = {name: arguments.pop(name) for name in ("gradient_clip_val",) if name in arguments}
        method = certified(source, checkpoint, **arguments)
        quiet_trainer(limit_val_batches=0, **trainer).fit(method, data or linear_data([1, 2]))

    for arguments, message in (
        ({"ascent": 0.3}, "noise=0.05 certifies plain training from a named checkpoint; set ascent=0"),
        ({"checkpoint": tmp_path}, "name a file"),
        ({"smoothness": None}, "noise=0.05 asks for smoothness"),
        ({"optimizer": None}, r"Rewind\(noise=0.05\): the optimizer must be torch.optim.SGD at one rate"),
        ({"optimizer": lambda p: torch.optim.SGD(p, LR, momentum=0.9)}, "without momentum"),
        ({"optimizer": partial(two_groups, lr=5.0)}, "at one rate for all weights"),
        ({"optimizer": partial(two_groups, momentum=0.9)}, "without momentum"),
        ({"optimizer": partial(two_groups, weight_decay=0.1)}, "without momentum, weight decay"),
        (
            {"optimizer": lambda p: torch.optim.SGD(p, LR / 2)},
            "trained in the same way at the same rate, lr=0.05",
        ),
        (
            {"data": toy_data([1, 2])},
            "must be one pass over the retain set in one process; set batch_size=58",
        ),
        ({"gradient_clip_val": 1.0}, "must be neither clipped nor rounded"),
        ({"gradient_bound": 1e-6}, "gradient_bound=1e-06 does not hold: the gradient is"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(**arguments)
    content = torch.load(file, weights_only=True)
    torch.save({**content, "optimizer_states": []}, tmp_path / "light.ckpt")
    with pytest.raises(ValueError, match=r"keep it with its optimizer .save_weights_only=False."):
        fit(checkpoint=tmp_path / "light.ckpt")
    torch.save({**content, "global_step": 16}, tmp_path / "batches.ckpt")
    with pytest.raises(ValueError, match="with one step an epoch"):
        fit(checkpoint=tmp_path / "batches.ckpt")
    torch.save({**content, "state_dict": state(toy_source())}, tmp_path / "normalised.ckpt")
    source = toy_source()
    with pytest.raises(ValueError, match="has batch normalisation or dropout"):
        fit(checkpoint=tmp_path / "normalised.ckpt")
