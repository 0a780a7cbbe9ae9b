"""The command: LightningCLI's subcommands as they are, with ``compare`` and ``report`` beside them."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import lightning as L
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]
from lightning.pytorch.cli import LightningCLI

import lightning_unlearn.callbacks
import lightning_unlearn.data
import lightning_unlearn.methods
import lightning_unlearn.models  # noqa: F401  an imported class can be named without its path
from lightning_unlearn.__about__ import __version__
from lightning_unlearn.callbacks import Evaluator
from lightning_unlearn.compare import Comparison, MethodRun, SourceRun, compare, snake_case
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.models.hparams import recorded_hyperparameters
from lightning_unlearn.reports import rebuild

__all__ = ["main"]

_DESCRIPTION = """Make a trained Lightning model forget chosen training samples, and measure that it did.

compare is the main job: source, retrained model and every method, over several seeds, in one table and report
(lightning-unlearn compare --help). report writes its page again, or merges several (lightning-unlearn report
--help). The others are LightningCLI's, for one model at a time."""

_TRACEBACK = "LIGHTNING_UNLEARN_TRACEBACK"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Arguments without the program's name; ``None`` takes those of the process.

    Returns:
        The exit status: 0; 1 if a part of a comparison failed; 2 if the input does not fit, after one message.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    with warnings.catch_warnings():
        # LightningCLI still calls jsonargparse by its old names: https://github.com/Lightning-AI/pytorch-lightning
        warnings.filterwarnings(
            "ignore", category=DeprecationWarning, message=r"[\s\S]*(Jsonargparse|in v4\.)"
        )
        # https://github.com/pytorch/pytorch/pull/160843: Lightning still asks in the old way
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        try:
            if arguments[:1] == ["compare"]:
                return 1 if run_compare(arguments[1:]).failed else 0
            if arguments[:1] == ["report"]:
                run_report(arguments[1:])
                return 0
            _run_lightning(None if args is None else arguments)
        except (ValueError, TypeError, OSError, FloatingPointError) as error:
            if os.environ.get(_TRACEBACK):
                raise
            print(f"error: {error}\n(set {_TRACEBACK}=1 to see where it was raised)", file=sys.stderr)
            return 2
    return 0


def _run_lightning(args: list[str] | None) -> None:
    LightningCLI(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        # methods with no, one or two optimizers all configure their own
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "lightning-unlearn", "description": _DESCRIPTION, "version": __version__},
        args=args,
    )


def run_compare(args: list[str]) -> Comparison:
    """Parse the arguments of ``compare``, run it and print its table."""
    parser = compare_parser()
    config = parser.parse_args(args)
    plan = _Plan(parser, config)
    comparison = compare(
        SourceRun(plan.source, config.source.trainer or {}, config.source.checkpoint),
        plan.data,
        [plan.method("methods", number) for number in range(len(config.methods))],
        [plan.evaluator(number) for number in range(len(config.evaluators))],
        seeds=config.seeds,
        vary=config.vary,
        retrain=None if config.retrain is None else plan.method("retrain"),
        trainer=config.trainer,
        adapter=plan.adapter,
        output_dir=config.output_dir,
        overwrite=config.overwrite,
        quiet=config.quiet,
        threads=config.threads,
        config=plan.provenance(),
    )
    _print_result(comparison)
    return comparison


def run_report(args: list[str]) -> None:
    """Parse the arguments of ``report``, write the page and say where it is."""
    parser = argparse.ArgumentParser(
        prog="lightning-unlearn report",
        description="Write the page and figures of a comparison again, or of several on the same data as one.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="output_dir of a comparison")
    parser.add_argument("--output", type=Path, help="folder to write to; the first DIR if there is only one")
    parsed = parser.parse_args(args)
    if parsed.output is None and len(parsed.folders) > 1:
        parser.error("--output is needed where several comparisons become one")
    output = parsed.output or parsed.folders[0]
    rebuild(parsed.folders, output)
    print(f"Report: {output / 'report.html'}")


def compare_parser() -> ArgumentParser:
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
    return parser


def _compare_arguments(
    source: SourceRun,
    data: Callable[[], UnlearningDataModule],
    methods: list[MethodRun],
    evaluators: list[Callable[[], Evaluator]] = [],  # noqa: B006  jsonargparse shows it as the default
    seeds: int | list[int] = 3,
    vary: Literal["all", "source", "unlearn", "evaluate"] = "all",
    retrain: MethodRun | None = None,
    trainer: dict[str, Any] | None = None,
    adapter: Adapter | None = None,
    output_dir: str = "runs/compare",
    overwrite: bool = False,
    quiet: bool = False,
    threads: int | None = None,
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
        trainer: Arguments of every Trainer, such as accelerator, devices and precision.
        adapter: Where a batch keeps inputs and targets.
        output_dir: Folder of everything that is written.
        overwrite: Delete what another comparison left in output_dir.
        quiet: Show no progress.
        threads: CPU threads of PyTorch; small networks are fastest with one.
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
                recorded_hyperparameters({"_class_path": model["class_path"], **model.get("init_args", {})})
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

    def method(self, key: str, number: int | None = None) -> MethodRun:
        """Return a run whose method is built anew for every source."""

        def pick(namespace: Namespace) -> Any:
            return namespace[key] if number is None else namespace[key][number]

        parsed = pick(self.config)
        name = parsed.name or snake_case(parsed.method["class_path"].rpartition(".")[2])
        return MethodRun(lambda source: pick(self._fresh()).method(source), name, parsed.trainer or {})

    def evaluator(self, number: int) -> Callable[[], Evaluator]:
        """Return a factory of one evaluator."""
        return lambda: self._fresh().evaluators[number]()

    def provenance(self) -> dict[str, Any]:
        """Return the configuration as plain values, without what does not decide the result."""
        plain: dict[str, Any] = _plain(self.config)
        return {
            k: v
            for k, v in plain.items()
            if k not in ("config", "output_dir", "overwrite", "quiet", "threads")
        }

    def _fresh(self) -> Namespace:
        build = getattr(self.parser, "instantiate", None) or self.parser.instantiate_classes
        built: Namespace = build(self.config.clone())
        return built


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace):
        return {key: _plain(item) for key, item in vars(value).items()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _print_result(comparison: Comparison) -> None:
    from rich.console import Console

    from lightning_unlearn.reports import render_text

    console = Console()
    console.print(
        render_text(comparison.report, width=min(console.width, 100)), highlight=False, markup=False
    )
    for failure in comparison.report["failures"]:
        print(f"FAILED  {failure['model']}, seed {failure['seed']}: {failure['error']}", file=sys.stderr)
    print(f"Report: {comparison.output_dir / 'report.html'}")
