"""Fits a method in two processes of which one fails while it prepares: ``python failing.py RANK``."""

import sys
from typing import Any

from helpers.toys import quiet_trainer, toy_data, toy_source
from lightning_unlearn.methods import ReferenceKL


class Failing(ReferenceKL):
    """A method with a fault in one of the processes."""

    def prepare(self, data: Any, runtime: Any) -> None:
        if runtime.rank == int(sys.argv[1]):
            raise RuntimeError("a fault of this process alone")
        super().prepare(data, runtime)


if __name__ == "__main__":
    quiet_trainer(strategy="ddp", devices=2).fit(Failing(toy_source()), toy_data())
