"""``lightning-unlearn compare``: from a YAML file to :func:`lightning_unlearn.compare`, and its table."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import lightning as L
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]

from lightning_unlearn.__about__ import __version__
from lightning_unlearn.callbacks import Evaluator
from lightning_unlearn.comparison.api import Comparison, compare
from lightning_unlearn.comparison.runs import MethodRun, SourceRun, snake_case
from lightning_unlearn.core.compat import CLASS_PATH
from lightning_unlearn.core.remembering import summary
from lightning_unlearn.core.terminal import say
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.models.hparams import recorded_hyperparameters
from lightning_unlearn.reports.paper import PaperFormat, paper_table

__all__ = ["run"]


def run(args: list[str]) -> int:
    """Parse the arguments, compare and print the table; the status is 1 if a part failed."""
    parser = _parser()
    config = parser.parse_args(args)
    plan = _Plan(parser, config)
    comparison = compare(
        SourceRun(plan.source, _plain(config.source.trainer or {}), config.source.checkpoint),
        plan.data,
        [plan.method("methods", number) for number in range(len(config.methods))],
        [plan.evaluator(number) for number in range(len(config.evaluators))],
        seeds=config.seeds,
        vary=config.vary,
        retrain=None if config.retrain is None else plan.method("retrain"),
        trainer=plan.trainer,
        adapter=plan.adapter,
        output_dir=config.output_dir,
        overwrite=config.overwrite,
        quiet=config.quiet,
        threads=config.threads,
        ledger=config.ledger,
        clean=config.clean,
        forget_key=config.forget_key,
        config=plan.provenance(),
    )
    _print_result(comparison, config.table)
    return 1 if comparison.failed else 0


def _parser() -> ArgumentParser:
    """Return the parser of ``compare``."""
    parser = ArgumentParser(
        prog="lightning-unlearn compare",
        description="Compare unlearning methods with the source and the retrained model.",
        version=__version__,
    )
    parser.add_argument(
        "-c", "--config", action=ActionConfigFile, help="YAML file; several compose, the later wins."
    )
    parser.add_function_arguments(_compare_arguments)
    # as under LightningCLI, so that one file with a logger or an accelerator serves both
    parser.add_class_arguments(L.Trainer, "trainer", instantiate=False, fail_untyped=False)
    return parser


def _compare_arguments(
    source: SourceRun,
    data: Callable[[], UnlearningDataModule],
    methods: list[MethodRun],
    evaluators: list[Callable[[], Evaluator]] = [],  # noqa: B006  jsonargparse shows it as the default
    seeds: int | list[int] = 3,
    vary: Literal["all", "source", "unlearn", "evaluate"] = "all",
    retrain: MethodRun | None = None,
    adapter: Adapter | None = None,
    output_dir: str = "runs/compare",
    overwrite: bool = False,
    quiet: bool = False,
    threads: int | None = None,
    ledger: str | None = None,
    clean: bool = False,
    forget_key: str | None = None,
    table: PaperFormat | None = None,
) -> None:
    """Arguments of the comparison.

    Args:
        source: The source model: how it is built and trained.
        data: The split data.
        methods: The methods; append one with ``methods+:`` in a later file.
        evaluators: Evaluators beside accuracies and forgetting metrics.
        seeds: Number of seeds, or the seeds.
        vary: Which randomness differs between seeds.
        retrain: How to retrain; left out, as the source was trained.
        adapter: Where a batch keeps inputs and targets.
        output_dir: Folder of everything that is written.
        overwrite: Remove what another comparison wrote to output_dir.
        quiet: Show no progress.
        threads: CPU threads of PyTorch; small networks are fastest with one.
        ledger: Deletion ledger to append to, one line a method and seed (lightning-unlearn ledger --help).
        clean: When all is done, remove files of output_dir that still remember what was forgotten.
        forget_key: File with the secret that the forgotten samples are hashed with, made if there is none; share it
            between comparisons that are to be merged. Left out, the ledger's.
        table: Print the columns of papers too (UA, RA, TA, MIA, run time, average gap, ToW), in this form.
    """


class _Plan:
    """Builds every object of a comparison anew each time it is asked.

    jsonargparse builds the parts nested in a factory once and shares them between its calls, so a second seed
    would go on training the network of the first.
    """

    def __init__(self, parser: ArgumentParser, config: Namespace) -> None:
        self.parser = parser
        self.config = config

    def source(self) -> L.LightningModule:
        """Build an untrained source that remembers its configuration, as under LightningCLI."""
        model = self.config.source.model.as_dict() if self.config.source.model else {}
        with ExitStack() as stack:
            factory = self._fresh().source.model
            stack.enter_context(
                recorded_hyperparameters({CLASS_PATH: model["class_path"], **model.get("init_args", {})})
            )
            built: L.LightningModule = factory()
        return built

    def data(self) -> UnlearningDataModule:
        """Build the data."""
        built: UnlearningDataModule = self._fresh().data()
        return built

    @property
    def adapter(self) -> Adapter | None:
        """Build the adapter."""
        adapter: Adapter | None = self._fresh().adapter
        return adapter

    @property
    def trainer(self) -> dict[str, Any]:
        """Return those of the Trainer's arguments that were given; the others are the comparison's to choose."""
        given, defaults = _plain(self.config.trainer), _plain(self.parser.get_defaults().trainer)
        return {key: value for key, value in given.items() if value != defaults[key]}

    def method(self, key: str, number: int | None = None) -> MethodRun:
        """Return a run whose method is built anew for every source."""

        def pick(namespace: Namespace) -> Any:
            return namespace[key] if number is None else namespace[key][number]

        parsed = pick(self.config)
        name = parsed.name or snake_case(parsed.method["class_path"].rpartition(".")[2])
        return MethodRun(
            lambda source: pick(self._fresh()).method(source),
            name,
            _plain(parsed.trainer or {}),
            parsed.batch_size,
        )

    def evaluator(self, number: int) -> Callable[[], Evaluator]:
        """Return a factory of one evaluator."""
        return lambda: self._fresh().evaluators[number]()

    def provenance(self) -> dict[str, Any]:
        """Return the configuration as plain values, without what does not decide the result."""
        plain: dict[str, Any] = _plain(self.config)
        plain["trainer"] = self.trainer or None
        return {
            k: v
            for k, v in plain.items()
            if k
            not in (
                "config",
                "output_dir",
                "overwrite",
                "quiet",
                "threads",
                "ledger",
                "clean",
                "forget_key",
                "table",
            )
        }

    def _fresh(self) -> Namespace:
        build = getattr(self.parser, "instantiate", None) or self.parser.instantiate_classes
        config = self.config.clone()
        for run in (config.source, config.retrain, *config.methods):
            if run is not None:  # of no type to jsonargparse, which would call whatever is named in there
                run.trainer = {}
        built: Namespace = build(config)
        return built


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace):
        return {key: _plain(item) for key, item in vars(value).items()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _print_result(comparison: Comparison, table: PaperFormat | None) -> None:
    from rich.console import Console

    from lightning_unlearn.reports import render_text

    width = max(min(Console().width, 100), 50)  # the table cannot be narrower
    say(render_text(comparison.report, width, encoding=sys.stdout.encoding))
    if table is not None:
        say(paper_table(comparison.report, table))
    for failure in comparison.report["failures"]:
        print(f"FAILED  {failure['model']}, seed {failure['seed']}: {failure['error']}", file=sys.stderr)
    say(f"Report: {comparison.output_dir / 'report.html'}")
    if comparison.removed:
        say(f"Removed, {len(comparison.removed)} files that remembered what was forgotten:")
    for line in summary(comparison.removed):
        say(f"  {line}")
    if comparison.remembering:
        print("These files still remember what was forgotten (--clean=true removes them when all is done).")
        say(f"All are named in {comparison.output_dir / 'remembering.json'}:")
    for line in summary(comparison.remembering):
        say(f"  {line}")
