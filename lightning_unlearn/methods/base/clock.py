"""Time what a method prepares and what it unlearns."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_unlearn.ensembles import Runtime

__all__ = ["Clock"]


class Clock:
    """Wall-clock seconds of a fit, read when the device has finished; it stops while somebody looks at the model.

    Attributes:
        prepare_s: Seconds spent on preparing.
        unlearn_s: Seconds of training, up to the last stop.
    """

    def __init__(self) -> None:
        self.prepare_s = 0.0
        self.unlearn_s = 0.0
        self._since: float | None = None

    @contextmanager
    def preparing(self, runtime: Runtime) -> Iterator[None]:
        """Count what is done inside as preparation, if it succeeds."""
        start = _now(runtime)
        yield
        self.prepare_s += _now(runtime) - start

    def start(self, runtime: Runtime) -> None:
        """Count from now on as unlearning."""
        self._since = _now(runtime)

    def stop(self, runtime: Runtime) -> None:
        """Stop, if it runs."""
        if self._since is not None:
            self.unlearn_s += _now(runtime) - self._since
            self._since = None

    @property
    def so_far(self) -> float:
        """Seconds of training up to now, without waiting for the device."""
        return self.unlearn_s + (0.0 if self._since is None else time.perf_counter() - self._since)

    @property
    def times(self) -> dict[str, float]:
        """Seconds under the names of their metrics."""
        prepare, unlearn = self.prepare_s, self.unlearn_s
        return {"time/prepare_s": prepare, "time/unlearn_s": unlearn, "time/total_s": prepare + unlearn}


def _now(runtime: Runtime) -> float:
    runtime.synchronize()
    return time.perf_counter()
