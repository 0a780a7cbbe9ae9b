"""How many models a device can hold at once; trains nothing and asks nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_unlearn.models.surgery import evaluating

__all__ = ["activation_bytes", "models_that_fit"]

# More than this is no faster on a CPU, whose caches it outgrows; a GPU is given a share of what is free.
_CPU_BYTES = 350e6
_GPU_SHARE = 0.4


def activation_bytes(network: nn.Module, inputs: Tensor) -> tuple[int, int]:
    """Measure the outputs of a network's layers on a few inputs.

    Args:
        network: The network; it is run in evaluation mode.
        inputs: ``(n, ...)``, on its device.

    Returns:
        Bytes a sample of all layers' outputs together, and of the largest.
    """
    sizes = [inputs.nbytes]

    def note(module: nn.Module, arguments: Sequence[Tensor], output: Tensor) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    leaves = [part for part in network.modules() if not any(part.children())]
    hooks = [part.register_forward_hook(note) for part in leaves]
    try:
        with evaluating(network), torch.no_grad():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return -(-sum(sizes) // len(inputs)), -(-max(sizes) // len(inputs))


def models_that_fit(bytes_each: float, device: torch.device) -> int:
    """Return how many models of a size fit the memory meant for a stack, at least 1."""
    budget = _CPU_BYTES
    if device.type == "cuda":
        budget = _GPU_SHARE * torch.cuda.mem_get_info(device)[0]
    return max(1, int(budget // bytes_each))
