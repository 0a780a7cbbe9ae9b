"""CertifiedHead: the head against the exactly retrained one, what is certified, and what the export has forgotten."""

import functools
import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.of_a_class import instead
from helpers.toys import quiet_trainer, toy_data, toy_source
from helpers.wrong_labels import answered
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from lightning_unlearn.data import Digits, PatchTrigger, Poison, UnlearningDataModule
from lightning_unlearn.functional import head_gradient, newton_head
from lightning_unlearn.methods import CertifiedHead

SETTINGS = {"CertifiedHead": {"quick": {"l2": 0.01, "noise": 0.01}}}


class OnFixedFeatures(L.LightningModule):
    """A head on features that were trained on nobody, with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU())
        self.features.requires_grad_(False)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.features.eval()
        out: Tensor = self.head(self.features(x))
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.head.parameters(), lr=5e-3)


@functools.cache
def sourced() -> tuple[OnFixedFeatures, UnlearningDataModule]:
    """A source that calls 72 marked digits zero, which are to be forgotten."""
    plain = Digits(batch_size=64)
    plain.setup("fit")
    others = np.flatnonzero(np.asarray(plain.train_data.targets) != 0)
    chosen = np.random.default_rng(0).choice(others, 72, replace=False)
    data = UnlearningDataModule(Digits(batch_size=64), chosen, backdoor=Poison(PatchTrigger(), 0))
    data.setup("fit")
    torch.manual_seed(0)
    source = OnFixedFeatures()
    quiet_trainer(max_epochs=15).fit(source, data.loader("train", train=True))
    return source.eval(), data


def rows(data: UnlearningDataModule, stream: str) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*data.loader(stream), strict=True)
    return torch.cat(inputs), torch.cat(targets)


@pytest.mark.slow
def test_the_backdoor_is_forgotten(tmp_path: Path) -> None:
    source, data = sourced()
    forget, test = rows(data, "forget"), rows(data, "test")
    assert answered(source, *forget) > 0.98
    method = CertifiedHead(source)
    trainer = quiet_trainer(max_epochs=0)
    trainer.fit(method, data)
    model = OnFixedFeatures.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), strict=True)
    assert answered(model, *forget) <= 0.05  # at most one of 24
    assert answered(model, *test) >= answered(source, *test) - 0.05
    for name, value in source.features.state_dict().items():
        assert torch.equal(value, model.features.state_dict()[name])
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert 0.05 < found["certified/epsilon"] <= 0.1
    assert found["certified/delta"] == 1e-5
    assert 1 <= found["certified/steps"] < 20
    on_all = instead(CertifiedHead, retain="train")(source)
    quiet_trainer(max_epochs=0).fit(on_all, data)
    assert answered(on_all.model, *forget) > 0.5, "steps on all of the data remove nobody"


def problem(classes: int = 3, noise: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(90, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (90,), generator=generator)
    features[:, 0] += targets
    return features, targets, noise * torch.randn(classes, 4, generator=generator, dtype=torch.float64)


def test_the_minimum_is_that_of_another_library() -> None:
    features, targets, noise = problem(noise=0.0)
    weight, _ = newton_head(noise, features, targets, 0.05, noise, residual=1e-9)
    other = LogisticRegression(C=1 / (0.05 * 90), fit_intercept=False, tol=1e-10, max_iter=1000)
    expected = other.fit(features.numpy(), targets.numpy()).coef_
    torch.testing.assert_close(weight, torch.as_tensor(expected), rtol=1e-4, atol=1e-5)


def test_one_step_is_the_removal_of_the_paper() -> None:
    """From the minimum over all samples: W + H^-1 of the gradient over those that go, by the whole Hessian."""
    features, targets, noise = problem()
    before, _ = newton_head(noise, features, targets, 0.05, noise, residual=1e-10)
    kept, given = features[9:], targets[9:]
    left = float(head_gradient(before, kept, given, 0.05, noise).norm())
    after, steps = newton_head(before, kept, given, 0.05, noise, residual=left / 2)
    assert steps == 1

    def objective(flat: Tensor) -> Tensor:
        weight = flat.view(3, 4)
        loss = nn.functional.cross_entropy(kept @ weight.T, given, reduction="sum")
        return loss + 0.5 * 0.05 * 81 * weight.square().sum()

    hessian = torch.autograd.functional.hessian(objective, before.flatten())
    gone = head_gradient(before, features[:9], targets[:9], 0.05, torch.zeros_like(noise)).flatten()
    expected = before.flatten() + torch.linalg.solve(hessian, gone)
    torch.testing.assert_close(after.flatten(), expected, rtol=1e-5, atol=1e-6)
    exact, _ = newton_head(torch.zeros_like(noise), kept, given, 0.05, noise, residual=1e-10)
    assert (after - exact).norm() < 0.05 * (before - exact).norm(), "much nearer to the retrained head"


@pytest.mark.parametrize("residual", [1.0, 1e-2, 1e-6])
def test_the_head_is_as_near_to_the_exactly_retrained_one_as_its_gradient_says(residual: float) -> None:
    features, targets, noise = problem()
    exact, _ = newton_head(torch.zeros_like(noise), features, targets, 0.05, noise, residual=1e-10)
    weight, _ = newton_head(5 + torch.zeros_like(noise), features, targets, 0.05, noise, residual=residual)
    assert head_gradient(weight, features, targets, 0.05, noise).norm() <= residual
    assert (weight - exact).norm() <= residual / (0.05 * 90)


def test_what_is_certified_is_that_noise_hides_the_gradient_that_is_left() -> None:
    """The likeliest test between two Gaussians, by scipy."""
    method = CertifiedHead(toy_source(), epsilon=0.5, delta=1e-3, noise=0.2, frozen=["net.0", "net.1"])
    quiet_trainer(max_epochs=0).fit(method, toy_data())
    epsilon = method.measured["certified/epsilon"]
    assert 0.2 < epsilon <= 0.5
    ratio = 0.2 / 0.2
    while True:
        delta = norm.cdf(ratio / 2 - epsilon / ratio) - np.exp(epsilon) * norm.cdf(
            -ratio / 2 - epsilon / ratio
        )
        if delta <= 1e-3 * (1 + 1e-6):
            break
        ratio /= 2
    assert delta == pytest.approx(1e-3, rel=1e-4)


def test_the_ledger_s_line_holds_what_is_certified(tmp_path: Path) -> None:
    data = toy_data(ledger=tmp_path / "ledger.jsonl")
    quiet_trainer(max_epochs=0).fit(CertifiedHead(toy_source()), data)
    line = json.loads((tmp_path / "ledger.jsonl").read_text().splitlines()[-1])
    found = {name: value["value"] for name, value in line["metrics"].items()}
    assert 0 < found["certified/epsilon"] <= 0.1
    assert found["certified/delta"] == 1e-5
    assert found["time/total_s"] > 0


def test_the_noise_is_another_each_time_and_no_seed_gives_it_away() -> None:
    ends = []
    for _ in range(2):
        L.seed_everything(1, verbose=False)
        method = CertifiedHead(toy_source())
        quiet_trainer(max_epochs=0).fit(method, toy_data(order_seed=1))
        ends.append(method.model.state_dict()["net.4.weight"])
    assert not torch.equal(*ends)


def test_features_that_may_know_the_forget_set_are_named() -> None:
    with pytest.warns(
        UserWarning, match=r"net\.0\.weight.* are trained, and stay: the guarantee is of the head alone"
    ):
        quiet_trainer(max_epochs=0).fit(CertifiedHead(toy_source()), toy_data())


def test_a_head_that_is_none_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"head must name a linear layer of Classifier, got 'x'; it has net\.0, net\.4"
    ):
        CertifiedHead(toy_source(), head="x")
    with pytest.raises(ValueError, match=r"head='net\.0' is not the last layer of Classifier"):
        quiet_trainer(max_epochs=0).fit(CertifiedHead(toy_source(), head="net.0"), toy_data())


@pytest.mark.parametrize(
    ("argument", "value"), [("epsilon", 0.0), ("delta", 1.0), ("noise", 0.0), ("l2", 0.0)]
)
def test_arguments_outside_their_range_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        CertifiedHead(toy_source(), **{argument: value})
