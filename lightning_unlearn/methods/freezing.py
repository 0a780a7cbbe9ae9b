"""Keeping running statistics still while other parts of a model train; which ones do is not decided here."""

from collections.abc import Iterable

from torch import Tensor, nn

__all__ = ["hold_statistics"]

# Where a parametrised layer keeps what its weight is computed from, with buffers of its own (spectral norm).
_PARAMETRIZATIONS = ".parametrizations"


def hold_statistics(model: nn.Module, trained: Iterable[Tensor]) -> None:
    """Put the parts of a model that keep statistics and are not trained into evaluation mode.

    A part is concerned if it owns buffers, as batch normalisation does, and none of its parameters is
    trained. Its buffers then stay as they are in forward passes of training, and are what it normalises with.
    All other parts, dropout among them, keep their mode.

    Args:
        model: The model, in training mode.
        trained: Its parameters that are trained.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
        >>> hold_statistics(network, network[2].parameters())
        >>> [part.training for part in network]
        [False, True, True, True]
    """
    moving = {id(parameter) for parameter in trained}
    for name, part in model.named_modules():
        layer = model.get_submodule(f".{name}".partition(_PARAMETRIZATIONS)[0].removeprefix("."))
        owns_buffers = next(part.buffers(recurse=False), None) is not None
        if owns_buffers and not any(id(parameter) in moving for parameter in layer.parameters()):
            part.training = False
