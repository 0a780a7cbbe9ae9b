"""Solve a linear system by products with its matrix alone."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients"]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, *, iterations: int, tolerance: float
) -> tuple[Tensor, float]:
    r"""Solve :math:`A x = b` by conjugate gradients, A symmetric and positive definite.

    Args:
        product: Multiplies a vector by A.
        right: The right-hand side b, ``(n,)``, floating point.
        iterations: How many products at most, beside one that checks the solution.
        tolerance: Size of the residual, relative to b, at which the solution is good enough.

    Returns:
        The solution, and the size of its residual :math:`\|b - A x\| / \|b\|`, computed anew; 0 where b is 0.

    Example:
        >>> import torch
        >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
        >>> solution, residual = conjugate_gradients(
        ...     matrix.mv, torch.tensor([1.0, 2.0]), iterations=5, tolerance=1e-6
        ... )
        >>> solution, residual < 1e-6
        (tensor([0.0909, 0.6364]), True)
    """
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), residual.dot(residual)
    size = right.norm()
    if not size:
        return solution, 0.0
    for _ in range(iterations):
        if square.sqrt() <= tolerance * size:
            break
        image = product(direction)
        step = square / direction.dot(image)
        solution.addcmul_(direction, step)
        residual.addcmul_(image, step, value=-1)
        del image  # none of these is held in vain: each is as large as the model
        last, square = square, residual.dot(residual)
        direction.mul_(square / last).add_(residual)
    del direction, residual
    return solution, float((right - product(solution)).norm() / size)
