"""Spread a method's model over processes while it trains (FSDP2), and put it together afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
from torch import nn

from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base.limits import require_data_parallel
from lightning_unlearn.models.sharding import emptied, gather_shards, scatter_shards, spread_out


class SpreadableModule(L.LightningModule):
    """Has a ``model`` that a strategy with a device mesh spreads over the processes.

    What is prepared is prepared on the model itself, whole on every process for that time, and it has the new weights
    when training ends; in between it holds none.
    """

    model: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self._whole: list[nn.Module] = []  # the model itself while self.model is a copy spread over processes

    def use_model(self, model: nn.Module) -> None:
        """Train and evaluate this model from now on."""
        self.model = model

    def configure_model(self) -> None:
        """Train a model that is spread over the processes where the strategy gives a device mesh."""
        if self.device_mesh is None or self._whole:
            return
        mesh = self.device_mesh["data_parallel"]
        require_data_parallel(self, self.device_mesh.size(), mesh.size())
        self._whole = [self.model]
        self.use_model(spread_out(self.model, mesh))

    def on_after_backward(self) -> None:
        """Give every process the buffers of the first where the model is spread; elsewhere the strategy sees to it."""
        if self._whole:
            Runtime(self.trainer).share_buffers(self.model)

    @contextmanager
    def whole_model(self, runtime: Runtime) -> Iterator[None]:
        """Have ``self.model`` be whole, in the trainer's device and type, and spread it again afterwards."""
        if not self._whole:
            yield
            return
        whole, spread = self._whole[0], self.model
        gather_shards(spread, whole)
        self.use_model(runtime.place(whole))
        try:
            yield
        finally:
            self.use_model(spread)
        scatter_shards(whole, spread)
        emptied(whole).cpu()

    def gather_model(self) -> None:
        """Give ``self.model`` back whole; a collective, like all that is done with its shards."""
        if not self._whole:
            return
        gather_shards(self.model, self._whole[0])
        self.use_model(self._whole.pop().to(self.device))
        self.trainer.strategy.optimizers = []  # they step the shards
