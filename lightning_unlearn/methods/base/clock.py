"""Time what a method prepares and what it unlearns."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_unlearn.ensembles import Runtime


class Clock:
    """Seconds of a fit, read when the device has finished; it stops while somebody looks at the model.

    Attributes:
        prepare_s: Seconds spent on preparing.
        unlearn_s: Seconds of training, up to the last stop.
        cpu_s: Processor seconds of this process in both.
    """

    def __init__(self) -> None:
        self.prepare_s = 0.0
        self.unlearn_s = 0.0
        self.cpu_s = 0.0
        self._since: tuple[float, float] | None = None

    @contextmanager
    def preparing(self, runtime: Runtime) -> Iterator[None]:
        """Count what is done inside as preparation, if it succeeds."""
        start, before = _now(runtime)
        yield
        end, after = _now(runtime)
        self.prepare_s += end - start
        self.cpu_s += after - before

    def start(self, runtime: Runtime) -> None:
        """Count from now on as unlearning."""
        self._since = _now(runtime)

    def stop(self, runtime: Runtime) -> None:
        """Stop, if it runs."""
        if self._since is not None:
            now = _now(runtime)
            self.unlearn_s += now[0] - self._since[0]
            self.cpu_s += now[1] - self._since[1]
            self._since = None

    @property
    def so_far(self) -> dict[str, float]:
        """The attributes as they are now, without waiting for the device."""
        now = time.perf_counter(), time.process_time()
        since = self._since or now
        return {
            "prepare_s": self.prepare_s,
            "unlearn_s": self.unlearn_s + now[0] - since[0],
            "cpu_s": self.cpu_s + now[1] - since[1],
        }

    @property
    def times(self) -> dict[str, float]:
        """Seconds under the names of their metrics."""
        prepare, unlearn = self.prepare_s, self.unlearn_s
        return {
            "time/prepare_s": prepare,
            "time/unlearn_s": unlearn,
            "time/total_s": prepare + unlearn,
            "time/cpu_s": self.cpu_s,
        }


def _now(runtime: Runtime) -> tuple[float, float]:
    """Return the time by the clock and that of the processor."""
    runtime.synchronize()
    return time.perf_counter(), time.process_time()
