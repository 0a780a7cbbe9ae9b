"""FineTune and NegGradPlus: the wrong labels that they forget, the loss they step, and the rate they step it with."""

import functools
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source
from torch import Tensor, nn

from lightning_unlearn.data import Digits, TensorData, UnlearningDataModule
from lightning_unlearn.functional import annealed
from lightning_unlearn.methods import FineTune, NegGradPlus
from lightning_unlearn.models import ResNet8

# what the harnesses run it with, by purpose; see settings_of() in helpers/support.py
SETTINGS = {"NegGradPlus": {"forgets": {"alpha": 0.5}}, "FineTune": {"forgets": {"promised": False}}}

WRONG = 72


class Project(L.LightningModule):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = ResNet8(10, 1, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def mislabelled() -> tuple[UnlearningDataModule, Tensor, Tensor]:
    """Digits of which 72 carry a wrong label, which are to be forgotten; and these."""
    digits = Digits()
    digits.setup("fit")
    data, generator = digits.train_data, torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data), generator=generator)[:WRONG].sort().values
    targets = data.targets.clone()
    targets[chosen] = (targets[chosen] + torch.randint(1, 10, (WRONG,), generator=generator)) % 10
    wrong = TensorData(data.inputs, targets, num_classes=10, transform=data.transform)
    split = UnlearningDataModule(wrong, chosen.tolist(), test_dataset=digits.test_data, batch_size=64)
    return split, *wrong.batch(chosen)


@functools.cache
def known_by_heart() -> tuple[Project, UnlearningDataModule, Tensor, Tensor]:
    torch.manual_seed(0)
    source, (data, inputs, labels) = Project(), mislabelled()
    data.setup("fit")
    quiet_trainer(max_epochs=40).fit(source, data.loader("train", train=True))
    assert answered(source, inputs, labels) == 1
    return source.eval(), data, inputs, labels


@torch.no_grad()
def answered(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return float((model.eval()(inputs).argmax(1) == labels).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        lambda source: NegGradPlus(source),
        lambda source: FineTune(source, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2)),
    ],
    ids=["NegGradPlus", "FineTune"],
)
def test_wrong_labels_are_forgotten_in_two_passes(method: Any, tmp_path: Path) -> None:
    source, data, inputs, labels = known_by_heart()
    unlearning = method(source)
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(unlearning, data)
    model = Project.load_from_checkpoint(unlearning.export(tmp_path / "m.ckpt"), strict=True)
    assert answered(model, inputs, labels) <= 0.03
    test = [torch.cat(part) for part in zip(*data.loader("test"), strict=True)]
    assert answered(model, *test) >= answered(source, *test) - 0.03


def test_the_bound_and_the_end_of_the_ascent() -> None:
    terms: list[dict[str, float]] = []

    class Noted(NegGradPlus):
        def log_terms(self, **values: Tensor) -> None:
            terms.append({name: float(value.detach()) for name, value in values.items()})

    method = Noted(toy_source(), 0.4, clamp=0.5, ascent_share=0.5)
    trainer = quiet_trainer(max_epochs=2, limit_val_batches=0)
    trainer.fit(method, toy_data())
    steps = trainer.global_step
    assert ["forget_ce" in step for step in terms] == [True] * (steps // 2) + [False] * (steps - steps // 2)
    for step in terms[: steps // 2]:
        assert step["loss"] == pytest.approx(0.4 * step["ce"] - 0.6 * min(step["forget_ce"], 0.5), abs=1e-5)
    assert any(step.get("forget_ce", 0) > 0.5 for step in terms), "the bound was met"


def test_the_rate_rises_and_falls_to_almost_nothing() -> None:
    rates: list[float] = []

    class Noted(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = quiet_trainer(max_epochs=2, limit_val_batches=0, callbacks=[Noted()])
    trainer.fit(FineTune(toy_source()), toy_data())
    assert rates == pytest.approx([3e-3 * annealed(step, len(rates)) for step in range(len(rates))])
    assert max(rates) == pytest.approx(3e-3)
    assert rates[-1] == pytest.approx(0.02 * 3e-3)
    constant = FineTune(toy_source(), lr_scheduler=lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0))
    rates.clear()
    quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[Noted()]).fit(constant, toy_data())
    assert set(rates) == {3e-3}


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 997])
def test_annealed_stays_between_its_end_and_one(steps: int) -> None:
    values = [annealed(step, steps) for step in range(steps)]
    assert all(0 < value <= 1 for value in values)
    assert max(values) == 1
    assert math.isclose(values[-1], 0.02) or steps == 1


def test_an_unknown_number_of_steps_is_refused() -> None:
    trainer = quiet_trainer(max_epochs=-1, max_time={"seconds": 1})
    with pytest.raises(ValueError, match=r"NegGradPlus goes by the number of steps, .* max_epochs="):
        trainer.fit(NegGradPlus(toy_source()), toy_data())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("alpha", -0.1),
        ("alpha", 1.1),
        ("clamp", 0.0),
        ("clamp", math.inf),
        ("ascent_share", 0.0),
        ("ascent_share", 1.5),
    ],
)
def test_arguments_outside_their_range_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        NegGradPlus(toy_source(), **{argument: value})
