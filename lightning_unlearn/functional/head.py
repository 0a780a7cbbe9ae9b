r"""Train an L2-regularised multinomial head by Newton's method, to a gradient that is known.

Weights are ``(C, d)``, features ``(N, d)``, targets ``(N,)`` int64; floating point is best float64. The objective is
that of Guo, Goldstein, Hannun & van der Maaten, "Certified Data Removal from Machine Learning Models", 2020,

.. math:: L(W) = \sum_i CE(W x_i, y_i) + \frac{l2 \cdot N}{2} \|W\|^2 + \langle B, W \rangle

with the noise B of objective perturbation; here of the multinomial loss, where they take one class against the rest.
"""

import torch.nn.functional as F
from torch import Tensor

from lightning_unlearn.functional.solving import conjugate_gradients

__all__ = ["head_gradient", "newton_head"]

_MOST_STEPS, _SOLVER_STEPS, _SOLVED = 100, 500, 1e-8


def head_gradient(weight: Tensor, features: Tensor, targets: Tensor, l2: float, noise: Tensor) -> Tensor:
    """Return the gradient of the objective, ``(C, d)``."""
    errors = (features @ weight.T).softmax(-1) - F.one_hot(targets, len(weight))
    return errors.T @ features + l2 * len(features) * weight + noise


def newton_head(
    weight: Tensor, features: Tensor, targets: Tensor, l2: float, noise: Tensor, *, residual: float
) -> tuple[Tensor, int]:
    r"""Take Newton steps on the objective until the norm of its gradient is small.

    From the minimum over more samples, the first step is the removal of Guo et al., eq. 2-3,
    :math:`W + H_r^{-1} \Delta`: the gradient over those that stay is minus :math:`\Delta`, that over those that go.
    A step that would not lower the objective is shortened.

    Args:
        weight: Weights to start from, ``(C, d)``.
        features: ``(N, d)``.
        targets: ``(N,)``.
        l2: Strength of the regularisation, a sample, > 0.
        noise: B of the objective, ``(C, d)``.
        residual: Norm of the gradient at which to end, > 0.

    Returns:
        The weights, at most ``residual / (l2 * N)`` from the minimum, and the number of steps.

    Raises:
        FloatingPointError: If 100 steps do not get there.
    """

    def value(at: Tensor) -> Tensor:
        loss = F.cross_entropy(features @ at.T, targets, reduction="sum")
        return loss + 0.5 * l2 * len(features) * at.square().sum() + (noise * at).sum()

    for steps in range(_MOST_STEPS):
        gradient = head_gradient(weight, features, targets, l2, noise)
        if gradient.norm() <= residual:
            return weight, steps
        step = _newton_step(weight, features, l2, gradient)
        before, slope, length = value(weight), (gradient * step).sum(), 1.0
        # near the minimum, rounding hides what the objective loses
        while (
            value(weight - length * step) > before - 1e-4 * length * slope + 1e-12 * before.abs()
            and length > 1e-6
        ):
            length /= 2
        weight = weight - length * step
    raise FloatingPointError(
        f"after {_MOST_STEPS} Newton steps the gradient is {float(gradient.norm()):.3g} long and not {residual:.3g}; "
        "raise l2, noise or epsilon"
    )


def _newton_step(weight: Tensor, features: Tensor, l2: float, gradient: Tensor) -> Tensor:
    """Solve with the objective's Hessian."""
    posteriors = (features @ weight.T).softmax(-1)

    def product(flat: Tensor) -> Tensor:
        vector = flat.view_as(weight)
        moved = features @ vector.T
        curved = posteriors * (moved - (posteriors * moved).sum(1, keepdim=True))
        return (curved.T @ features + l2 * len(features) * vector).flatten()

    solution, _ = conjugate_gradients(
        product, gradient.flatten(), iterations=_SOLVER_STEPS, tolerance=_SOLVED
    )
    return solution.view_as(weight)
