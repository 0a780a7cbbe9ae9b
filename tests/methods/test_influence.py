"""Influence: the system is solved, as an exact inverse solves it, and what the exported model has forgotten."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.of_a_class import check_the_class_is_forgotten, instead
from helpers.toys import quiet_trainer, toy_data, toy_source
from torch import Tensor, nn

from lightning_unlearn.functional import conjugate_gradients
from lightning_unlearn.methods import Influence, influence

SETTINGS = {"Influence": {"quick": {"iterations": 60, "damping": 1.0, "tolerance": 1e-5}}}


@pytest.mark.slow
def test_the_class_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"scale": 2.0, "damping": 0.03, "samples": 300, "tolerance": 0.1}
    check_the_class_is_forgotten(partial(Influence, **settings), tmp_path)
    with pytest.raises(AssertionError, match=r"it still knows 9\d"):
        check_the_class_is_forgotten(partial(instead(Influence, forget="retain"), **settings), tmp_path)

    def not_solved(product: Any, right: Tensor, **_: Any) -> tuple[Tensor, float]:
        return right / settings["damping"], 0.0

    monkeypatch.setattr(influence, "conjugate_gradients", not_solved)
    with pytest.raises(
        AssertionError, match="accuracy on the other classes fell"
    ):  # it is gradient ascent then
        check_the_class_is_forgotten(partial(Influence, **settings), tmp_path)


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def rows(data: Any, stream: str) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*data.loader(stream), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def exact_step(model: nn.Module, data: Any, damping: float) -> Tensor:
    """Solve with the whole matrix, of each sample's Jacobian, in float64."""
    model = model.double().eval()
    parameters = list(model.parameters())
    inputs, _ = rows(data, "retain")
    matrix = torch.zeros(
        sum(p.numel() for p in parameters), sum(p.numel() for p in parameters), dtype=torch.float64
    )
    for x in inputs.double():
        logits = model(x[None])[0]
        rows_of = [torch.autograd.grad(z, parameters, retain_graph=True) for z in logits]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows_of])
        p = logits.detach().softmax(0)
        matrix += jacobian.T @ (p.diag() - p.outer(p)) @ jacobian / len(inputs)
    inputs, targets = rows(data, "forget")
    gradient = torch.autograd.grad(nn.functional.cross_entropy(model(inputs.double()), targets), parameters)
    right = torch.cat([g.flatten() for g in gradient])
    return torch.linalg.solve(matrix + damping * torch.eye(len(right), dtype=torch.float64), right)


@pytest.mark.parametrize("batch_size", [25, 60])
def test_the_step_is_that_of_the_exact_inverse(batch_size: int) -> None:
    """Not a multiple of the gradient, as the loop of public code gives."""
    source, data = linear(), toy_data(batch_size=batch_size)
    method = Influence(source, 3.0, damping=0.01, iterations=300, tolerance=1e-5)
    quiet_trainer(max_epochs=0).fit(method, data)
    before, after = (
        torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (source, method.model)
    )
    expected = exact_step(linear(), data, 0.01) * 3.0 * 12 / 48
    torch.testing.assert_close((after - before).double(), expected, rtol=1e-3, atol=1e-5)
    assert method.measured["influence/residual"] < 1e-4
    source.eval()
    inputs, targets = rows(data, "forget")
    nn.functional.cross_entropy(source(inputs), targets).backward()
    gradient = torch.cat([p.grad.flatten() for p in source.parameters()])
    assert torch.cosine_similarity(after - before, gradient, dim=0) < 0.9


def test_a_system_that_is_not_solved_is_named() -> None:
    method = Influence(toy_source(), damping=1e-4, iterations=1)
    trainer, told = quiet_trainer(max_epochs=0), r"after 1 iterations the residual is .* raise iterations or"
    with pytest.warns(UserWarning, match=told):
        trainer.fit(method, toy_data())
    assert float(trainer.callback_metrics["influence/residual"]) > 0.01


def test_conjugate_gradients_solve() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    matrix, right = (
        factor @ factor.T + torch.eye(20),
        torch.randn(20, generator=generator, dtype=torch.float64),
    )
    solution, residual = conjugate_gradients(matrix.mv, right, iterations=60, tolerance=1e-10)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, right))
    assert residual < 1e-9
    _, residual = conjugate_gradients(matrix.mv, right, iterations=3, tolerance=1e-10)
    assert residual > 1e-3, "what is left is told as it is"
    assert conjugate_gradients(matrix.mv, torch.zeros(20), iterations=3, tolerance=0.1)[1] == 0


@pytest.mark.parametrize(
    ("argument", "value"),
    [("scale", 0.0), ("damping", 0.0), ("iterations", 0), ("tolerance", 1.0), ("samples", 0)],
)
def test_arguments_outside_their_range_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must .* got {value}"):
        Influence(toy_source(), **{argument: value})
