"""Weight initialisation that belongs to a whole network; layers' own defaults stay with PyTorch."""

from torch import nn

__all__ = ["Network", "check_positive"]


class Network(nn.Module):
    """A network whose initial weights are not just its layers' defaults.

    A subclass overrides :meth:`_initialize` and calls it at the end of ``__init__``; :meth:`reset_parameters`
    then repeats the whole initialisation, so that retraining starts where training started.
    """

    def reset_parameters(self) -> None:
        """Draw every weight afresh and forget all running statistics, from torch's global random numbers."""
        for module in self.modules():
            if module is not self and callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self._initialize()

    def _initialize(self) -> None:
        """Set the weights that differ from the layers' own defaults."""
        raise NotImplementedError(f"{type(self).__name__} must define _initialize()")


def check_positive(**arguments: int) -> None:
    """Raise a ValueError that names the first argument below 1."""
    for name, value in arguments.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
