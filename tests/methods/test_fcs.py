"""FCS: its order of passes, their rates and momenta, its contrast by hand, and what the exported model has forgotten."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import CLASSES, FEATURES, quiet_trainer, state, toy_data, toy_source
from helpers.wrong_labels import check_wrong_labels_are_forgotten, unlearned
from torch import Tensor

from lightning_unlearn.functional import contrast_loss
from lightning_unlearn.methods import FCS
from lightning_unlearn.models import MLP

SETTINGS = {"FCS": {"forgets": {"promised": False}}}


@pytest.mark.slow
def test_wrong_labels_are_forgotten_by_either_loss_and_not_without(tmp_path: Path) -> None:
    off = {"forget_rate": 1e-9, "contrast_rate": 1e-9}
    check_wrong_labels_are_forgotten(FCS, tmp_path, epochs=5, left=0.05, lost=0.0)
    for name in off:
        alone = partial(FCS, **{**off, name: getattr(FCS(toy_source()), name)})
        check_wrong_labels_are_forgotten(alone, tmp_path, epochs=5, left=0.1, lost=0.01)
    assert unlearned(partial(FCS, **off), tmp_path, epochs=5)[0] > 0.9


def test_passes_have_their_order_and_rate_and_begin_without_the_moments_of_another_loss() -> None:
    seen: dict[int, tuple[str, float]] = {}

    class Noted(FCS):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            self.before = torch.cat([p.detach().flatten() for p in self.model.parameters()])
            return super().training_step(batch, batch_idx)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(outputs, batch, batch_idx)
            moved = torch.cat([p.detach().flatten() for p in self.model.parameters()]) - self.before
            if batch_idx == 0:  # Adam's first step is of the size of the rate
                seen[self.current_epoch] = "+".join(batch), float(moved.abs().max())

    constant = {
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "lr_scheduler": partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
    }
    trainer = quiet_trainer(max_epochs=6, limit_val_batches=0)
    trainer.fit(Noted(toy_source(), forget_rate=0.5, contrast_rate=0.1, **constant), toy_data())
    assert [streams for streams, _ in seen.values()] == [
        "forget+retain",
        *("forget+retain", "retain") * 2,
        "retain",
    ]
    rates = [0.005, 0.001, 0.01, 0.001, 0.01, 0.01]
    assert [size for _, size in seen.values()] == pytest.approx(rates, rel=1e-2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.01


@pytest.mark.slow
def test_two_processes_contrast_with_the_retained_samples_of_both() -> None:
    def run(processes: int, **arguments: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        method = FCS(MLP(FEATURES, (8, 8), CLASSES), forget_rate=1e-9, contrast_rate=1.0)
        data = toy_data(list(range(7)), batch_size=8 // processes, order_seed=2)
        quiet_trainer(max_epochs=3, limit_val_batches=0, devices=processes, **arguments).fit(method, data)
        return state(method.model)

    one, two = run(1), run(2, strategy="ddp_fork")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=2e-4)


def test_the_contrast_is_least_where_a_sample_is_as_near_to_all() -> None:
    forget, retain = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    likeness = [[sum(f * r for f, r in zip(x, y, strict=True)) / 1.3 for y in retain] for x in forget]
    terms = [s.exp() / sum(other.exp() for other in row) for row in likeness for s in row]
    loss = contrast_loss(forget, retain, 1.3)
    assert loss.item() == pytest.approx(-torch.stack(terms).log().mean().item(), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert forget.grad is not None
    assert retain.grad is None
    assert contrast_loss(torch.zeros(3, 4), retain, 1.3).item() == pytest.approx(
        torch.tensor(5.0).log().item()
    )


def test_too_few_epochs_are_named_and_unknown_ones_refused() -> None:
    with pytest.warns(UserWarning, match="max_epochs=2 is too few; give 3"):
        quiet_trainer(max_epochs=2, limit_val_batches=0).fit(FCS(toy_source()), toy_data())
    with pytest.raises(ValueError, match=r"FCS ends on the retain set.* give max_epochs, got -1"):
        quiet_trainer(max_steps=3, max_epochs=-1).fit(FCS(toy_source()), toy_data())


@pytest.mark.parametrize("argument", ["forget_rate", "contrast_rate", "temperature"])
def test_arguments_outside_their_range_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be above 0, got 0"):
        FCS(toy_source(), **{argument: 0.0})
