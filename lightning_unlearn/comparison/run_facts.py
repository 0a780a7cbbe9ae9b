"""What is known of a run only while it trains: size, device and peak memory, for the run's folder."""

from pathlib import Path

import lightning as L

from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.core.peak_memory import peak_memory, reset_peak_memory

__all__ = ["RunFacts"]


class RunFacts(L.Callback):
    """Writes a module's ``parameters``, how it was trained, and ``peak_memory`` to a JSON file.

    A file, because nothing else comes back from the processes that a strategy may start.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the peak of what came before."""
        reset_peak_memory(trainer.strategy.root_device)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file, on the first rank."""
        if not trainer.is_global_zero:
            return
        parameters = list(pl_module.parameters())
        content = {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
            "device": trainer.strategy.root_device.type,
            "peak_memory": peak_memory(trainer.strategy.root_device),
        }
        write_json_atomic(self.path, content)
