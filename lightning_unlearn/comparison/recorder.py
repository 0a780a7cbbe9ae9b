"""Put the models of a comparison on record in a deletion ledger."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_unlearn.comparison.before import Before
from lightning_unlearn.comparison.runs import RETRAIN, SOURCE
from lightning_unlearn.core.files import read_object
from lightning_unlearn.core.ledger import Ledger, append, entry, require_forgotten_before, same_facts
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods.base.source import checkpoint_hash
from lightning_unlearn.reports import Report
from lightning_unlearn.reports.glossary import is_control

_RECORDED = ("seed", "seeds", "source", "trainer", "method")  # not "data", which may name samples


class Recorder:
    """An observer that appends one line a method (or retraining) and seed, once its model is exported and audited.

    A comparison that is started again appends nothing for what it kept.

    Args:
        ledger: The ledger.
        data: Returns the split data of the running seed.
        checkpoint: Weights that the source is taken from, if it is not trained in the comparison.
        before: The comparison of the request before, from whose models the methods go on, if there was one.

    Attributes:
        lines: The ledger's lines of this comparison.

    Raises:
        ValueError: If the ledger does not verify, or knows the source to have forgotten samples that ``data`` puts
            back.
    """

    def __init__(
        self,
        ledger: Ledger,
        data: Callable[[], UnlearningDataModule],
        checkpoint: str | None,
        before: Before | None = None,
    ) -> None:
        self.known = ledger.prepare()
        if checkpoint is not None:
            require_forgotten_before(ledger, checkpoint_hash(checkpoint), data().earlier)
        self.ledger = ledger
        self.data = data
        self.before = before
        self.lines: list[dict[str, Any]] = []

    def run_finished(self, folder: Path, name: str, seed: int) -> None:
        """Append the line of a model; see :class:`~lightning_unlearn.comparison.pipeline.Observer`."""
        if is_control(name) and name != RETRAIN:
            return
        root, leaf = folder.parent.parent, folder.name
        training, config = read_object(folder / "training.json"), read_object(folder / "config.json")
        controls = {
            control: read_object(root / control / leaf / "metrics.json")["metrics"]
            for control in (SOURCE, RETRAIN)
            if control != name and (root / control / leaf / "metrics.json").exists()
        }
        source = root / SOURCE / leaf / "model.ckpt"
        if self.before is not None and name != RETRAIN:
            source = self.before.run(name, seed).checkpoint
        facts = entry(
            self.ledger,
            forget=self.data().split.forget,
            earlier=self.data().split.previous,
            before=checkpoint_hash(source),
            after=checkpoint_hash(folder / "model.ckpt"),
            file=folder.resolve() / "model.ckpt",
            method={"name": name, **training["method"]},
            config={key: config[key] for key in _RECORDED if key in config},
            metrics={**training["times"], **read_object(folder / "metrics.json")["metrics"]},
            controls=controls,
        )
        known = [line for line in self.known if same_facts(line, facts)]
        self.lines.append(known[-1] if known else append(self.ledger, facts))

    def finished(self, folder: Path, report: Report) -> None:
        """Do nothing: every line is written by now."""
