"""The main job: source, retrained model and every method, over every seed, audited alike and reported."""

import copy
import hashlib
import json
import logging
import os
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import lightning as L
import torch
import torch.distributed
from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.loggers import CSVLogger
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import nn

from lightning_unlearn.callbacks import Evaluator, ForgettingMetrics
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.ensembles import isolated_rng
from lightning_unlearn.functional import acceleration
from lightning_unlearn.io import write_json_atomic
from lightning_unlearn.methods import Retrain, UnlearningModule
from lightning_unlearn.methods.export import write_export
from lightning_unlearn.methods.source import read_checkpoint
from lightning_unlearn.progress import Progress
from lightning_unlearn.reports import Details, Report, build_report, write_all
from lightning_unlearn.seeding import derive_seed

__all__ = ["Comparison", "MethodRun", "SourceRun", "compare"]

T = TypeVar("T")
SOURCE, RETRAIN = "source", "retrain"
_AUDIT_TRAINER_KEYS = (
    "accelerator",
    "devices",
    "strategy",
    "num_nodes",
    "precision",
    "plugins",
    "deterministic",
)
# what a comparison itself sets on an evaluator, and so no setting of it
_ASSIGNED = {"dirpath", "error", "retrained", "source"}
_TRAINER_DEFAULTS: dict[str, Any] = {
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "limit_val_batches": 0,  # the comparison measures at the end; validating every epoch would only cost time
}


@dataclass
class SourceRun:
    """How the source model comes to be.

    Args:
        model: Builds the untrained source; called once a seed.
        trainer: Arguments of its Trainer, such as ``max_epochs``.
        checkpoint: Weights of a source that is trained already; ``None`` trains one a seed.
    """

    model: Callable[[], L.LightningModule]
    trainer: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None


@dataclass
class MethodRun:
    """One method of a comparison.

    Args:
        method: Builds the method from the source model; a method's class will do.
        name: Name in tables and folders; ``None`` derives one from the class, ``ReferenceKL`` giving
            ``reference_kl``.
        trainer: Arguments of its Trainer, such as ``max_epochs``.
    """

    method: Callable[[nn.Module], UnlearningModule]
    name: str | None = None
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name in tables and folders."""
        if self.name is not None:
            return self.name
        if not isinstance(self.method, type):
            raise ValueError("name: a method that is built by a function needs a name of its own")
        return snake_case(self.method.__name__)


@dataclass(frozen=True)
class Comparison:
    """What a comparison gives back.

    Attributes:
        report: The content of report.json.
        output_dir: Folder with the report, the figures and one folder a model and seed.
        files: The report's files.
    """

    report: Report
    output_dir: Path
    files: list[Path]

    @property
    def failed(self) -> bool:
        """Whether a run or a score is missing."""
        return bool(self.report["failures"])


def compare(
    source: SourceRun,
    data: Callable[[], UnlearningDataModule],
    methods: Sequence[MethodRun],
    evaluators: Sequence[Callable[[], Evaluator]] = (),
    *,
    seeds: int | Sequence[int] = 3,
    vary: Literal["all", "source", "unlearn", "evaluate"] = "all",
    retrain: MethodRun | None = None,
    trainer: Mapping[str, Any] | None = None,
    adapter: Adapter | None = None,
    output_dir: str | Path = "runs/compare",
    overwrite: bool = False,
    quiet: bool = False,
    threads: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> Comparison:
    """Measure unlearning methods against the source and the retrained model.

    Every model is exported first and then audited from its exported file, so what is measured is what would be
    deployed. Finished parts are kept in ``output_dir``: started again, the comparison does what is missing. A
    method that fails is listed under ``failures`` and the others finish.

    Args:
        source: The source model.
        data: Builds the split data; the split is the same for every seed.
        methods: The methods.
        evaluators: Build the evaluators; accuracies and forgetting metrics are always measured.
        seeds: Number of seeds, or the seeds. A seed is a full repetition.
        vary: Which randomness differs between seeds: ``all``, or only that of training the ``source``, of
            ``unlearn``-ing (retraining included), or of evaluating.
        retrain: How to retrain; ``None`` for :class:`~lightning_unlearn.methods.Retrain` with the source's trainer.
        trainer: Arguments of every Trainer, such as ``accelerator``, ``devices`` and ``precision``.
        adapter: How batches and outputs are taken apart in the audit; ``None`` for the usual layouts.
        output_dir: Folder of everything that is written.
        overwrite: Whether to delete what another comparison left in ``output_dir``.
        quiet: Whether to show no progress.
        threads: CPU threads of PyTorch while the comparison runs; ``None`` leaves them as they are. Small networks
            are fastest with one, and a machine that shares its cores stalls with more.
        config: Provenance for the report, and part of what decides whether a finished part can be kept.

    Returns:
        The report and where it stands.

    Raises:
        ValueError: If an argument does not fit, or ``output_dir`` holds another comparison.
    """
    runs = {RETRAIN: retrain or MethodRun(lambda s: Retrain(s, fresh=source.model), RETRAIN, source.trainer)}
    for method in methods:
        if method.label in (SOURCE, *runs):
            raise ValueError(
                f"methods: two runs are called {method.label!r}; give one of them another name (the names "
                f"{SOURCE!r} and {RETRAIN!r} are taken)"
            )
        runs[method.label] = method
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be a positive number or a list of different seeds >= 0, got {seeds}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}; None leaves them as they are")
    if vary not in ("all", "source", "unlearn", "evaluate"):
        raise ValueError(f"vary must be 'all', 'source', 'unlearn' or 'evaluate', got {vary!r}")
    for name, arguments in ((SOURCE, source.trainer), *((label, run.trainer) for label, run in runs.items())):
        if name == SOURCE and source.checkpoint is not None:
            continue
        if not {"max_epochs", "max_steps", "max_time", "fast_dev_run"} & {*arguments, *(trainer or {})}:
            raise ValueError(
                f"trainer of {name!r}: give max_epochs (or max_steps, or max_time); without one Lightning would train "
                "for 1000 epochs"
            )
    split_data = data()
    split_data.prepare_data()
    split_data.setup("fit")
    if not split_data.stream_size("test"):
        raise ValueError("data: a comparison needs a test set, and the data has none")
    worker = _Worker(
        source=source,
        runs=runs,
        data=split_data,
        evaluators=[ForgettingMetrics, *evaluators],
        seeds=seeds,
        vary=vary,
        trainer=dict(trainer or {}),
        adapter=adapter,
        folder=Path(output_dir),
        config=dict(config or {}),
    )
    worker.claim_folder(overwrite)
    start = time.perf_counter()
    steps = len(seeds) * 2 * (1 + len(runs))
    with _threads(threads), Progress(steps, quiet=quiet or not _is_first()) as progress, _quiet_lightning():
        for seed in seeds:
            worker.run_seed(seed, progress)
    report = worker.report(time.perf_counter() - start)
    files = write_all(report, worker.folder, cast(Details, worker.details)) if _is_first() else []
    return Comparison(report, worker.folder, files)


@dataclass
class _Worker:
    """Runs the parts of a comparison and remembers what they gave."""

    source: SourceRun
    runs: dict[str, MethodRun]
    data: UnlearningDataModule
    evaluators: Sequence[Callable[[], Evaluator]]
    seeds: list[int]
    vary: str
    trainer: dict[str, Any]
    adapter: Adapter | None
    folder: Path
    config: dict[str, Any]
    metrics: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    details: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    # ------------------------------------------------------------------ the course of a seed

    def run_seed(self, seed: int, progress: Progress) -> None:
        """Train and audit everything of one seed; what fails is noted and the rest goes on."""
        source = self._train_source(seed, progress)
        if source is None:
            for name in self.runs:
                self._fail(name, seed, "not run: the source model failed")
            progress.skip(2 * len(self.runs) + 1)
            return
        evaluators = self._evaluators(seed)
        retrained = self._train_method(RETRAIN, source, seed, progress)
        self._audit(SOURCE, source, source, retrained, evaluators, seed, progress)
        for name in self.runs:
            model = retrained if name == RETRAIN else self._train_method(name, source, seed, progress)
            if model is None:
                progress.skip(1)
            else:
                self._audit(name, model, source, retrained, evaluators, seed, progress)

    def _train_source(self, seed: int, progress: Progress) -> nn.Module | None:
        own = self._seed("source", seed)

        def build() -> L.LightningModule:
            model = self.source.model()
            if self.source.checkpoint is not None:
                model.configure_model()
                model.load_state_dict(read_checkpoint(self.source.checkpoint)["state_dict"])
            return model

        def train(model: L.LightningModule) -> tuple[nn.Module, dict[str, float]]:
            if self.source.checkpoint is not None:
                return model, {}
            self.data.order_seed = own
            trainer = self._trainer(SOURCE, seed, self.source.trainer, [_Clock(), progress.epochs()])
            trainer.fit(model, self.data)
            return model, _times(trainer)

        return self._part(SOURCE, seed, own, progress, build, train)

    def _train_method(self, name: str, source: nn.Module, seed: int, progress: Progress) -> nn.Module | None:
        run = self.runs[name]
        own = self._seed("unlearn", seed)

        def train(method: L.LightningModule) -> tuple[nn.Module, dict[str, float]]:
            self.data.order_seed = own
            trainer = self._trainer(name, seed, run.trainer, [progress.epochs()])
            trainer.fit(method, self.data)
            return cast(UnlearningModule, method).model, _times(trainer)

        return self._part(name, seed, own, progress, lambda: run.method(source), train)

    def _part(
        self,
        name: str,
        seed: int,
        own_seed: int,
        progress: Progress,
        build: Callable[[], L.LightningModule],
        train: Callable[[L.LightningModule], tuple[nn.Module, dict[str, float]]],
    ) -> nn.Module | None:
        """Train one model and export it, or take the one that stands in its folder; then load it from there."""
        folder = self._run_folder(name, seed)
        checkpoint, record = folder / "model.ckpt", folder / "training.json"
        progress.start(name, seed)
        try:
            with _seeded(own_seed):
                subject = build()
                fingerprint = self._fingerprint(name, seed, _hyper_parameters(subject))
                if not _decided(lambda: _record(record, fingerprint) is not None and checkpoint.exists()):
                    _shared(lambda: self._begin(folder, name, seed))
                    model, times = train(subject)
                    _shared(lambda: write_export(model, checkpoint))
                    _shared(lambda: write_json_atomic(record, {"fingerprint": fingerprint, "times": times}))
                times = json.loads(record.read_text())["times"]
            with isolated_rng(own_seed):  # a resumed comparison loads what a fresh one has just trained
                loaded = self.source.model()
                loaded.configure_model()
                loaded.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
        except Exception as error:  # a method of anybody's may raise anything; the others must finish
            self._fail(name, seed, f"{type(error).__name__}: {error}", traceback.format_exc())
            progress.done(failed=True)
            return None
        self.metrics.setdefault(name, {}).setdefault(seed, {}).update(times)
        progress.done()
        return loaded

    def _begin(self, folder: Path, name: str, seed: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        write_json_atomic(folder / "config.json", self._run_config(name, seed))

    def _audit(
        self,
        name: str,
        model: nn.Module,
        source: nn.Module,
        retrained: nn.Module | None,
        evaluators: list[Evaluator],
        seed: int,
        progress: Progress,
    ) -> None:
        folder = self._run_folder(name, seed)
        record = folder / "metrics.json"
        progress.start(name, seed, "audit")
        own = self._seed("evaluate", seed)
        audited = [_file_hash(self._run_folder(n, seed) / "model.ckpt") for n in (name, SOURCE, RETRAIN)]
        settings = [
            (
                type(e).__name__,
                {
                    k: v
                    for k, v in vars(e).items()
                    if not (k in _ASSIGNED or k.startswith("_")) and _is_plain(v)
                },
            )
            for e in evaluators
        ]
        fingerprint = self._fingerprint(
            name, seed, [audited, settings, self.config.get("evaluators"), self.adapter]
        )
        try:
            content = _decided(lambda: _record(record, fingerprint))
            if content is None or content["errors"]:  # what failed is tried again
                for evaluator in evaluators:
                    evaluator.dirpath = folder / "evaluation"
                    evaluator.source = source
                    evaluator.retrained = None if name == RETRAIN else retrained
                self.data.order_seed = own
                with _seeded(own):
                    metrics = self._measure(model, evaluators)
                content = _shared(lambda: self._collect(folder, evaluators, metrics, fingerprint))
        except Exception as error:  # as above: one audit lost, the others finish
            self._fail(name, seed, f"audit: {type(error).__name__}: {error}", traceback.format_exc())
            progress.done(failed=True)
            return
        self.metrics.setdefault(name, {}).setdefault(seed, {}).update(content["metrics"])
        posteriors = content["details"].get(ForgettingMetrics.default_name, {}).get("posteriors", {})
        self.details.setdefault(name, {})[seed] = {**content["details"], "posteriors": posteriors}
        for key, message in content["errors"].items():
            self._fail(name, seed, f"evaluator {key}: {message}")
        progress.done()

    @staticmethod
    def _collect(
        folder: Path, evaluators: list[Evaluator], metrics: dict[str, float], fingerprint: str
    ) -> dict[str, Any]:
        """Put the evaluators' files and the metrics into one."""
        found = {
            e.name: json.loads((folder / "evaluation" / f"{e.name}.json").read_text()) for e in evaluators
        }
        content = {
            "fingerprint": fingerprint,
            "metrics": metrics,
            "details": {key: value["details"] for key, value in found.items()},
            "errors": {key: value["error"] for key, value in found.items() if value["error"]},
        }
        write_json_atomic(folder / "metrics.json", content)
        return content

    def _measure(self, model: nn.Module, evaluators: list[Evaluator]) -> dict[str, float]:
        arguments = {key: value for key, value in self.trainer.items() if key in _AUDIT_TRAINER_KEYS}
        trainer = L.Trainer(
            **arguments,
            **{key: value for key, value in _TRAINER_DEFAULTS.items() if key != "limit_val_batches"},
            logger=False,
            limit_test_batches=1,  # the evaluators look at whole streams themselves
            callbacks=list(evaluators),
        )
        trainer.test(_Audited(model, adapter=self.adapter), self.data, verbose=False)
        return {key: float(value) for key, value in trainer.callback_metrics.items()}

    # ------------------------------------------------------------------ the report

    def report(self, seconds: float) -> Report:
        """Put together what the runs gave."""
        totals = {seed: m.get("time/total_s") for seed, m in self.metrics.get(RETRAIN, {}).items()}
        for name in self.runs:
            for seed, metrics in self.metrics.get(name, {}).items():
                retrain_seconds, own_seconds = totals.get(seed), metrics.get("time/total_s")
                if retrain_seconds and own_seconds:
                    metrics["acceleration"] = acceleration(retrain_seconds, own_seconds)
        split = self.data.split
        return build_report(
            self.metrics,
            seeds=self.seeds,
            config=self.config,
            data={
                "name": self.data.data_name,
                "n_forget": len(split.forget),
                "n_retain": len(split.retain),
                "n_test": len(split.test),
                "n_nonmember": len(split.nonmember),
                "n_shadow": len(split.shadow),
                "forget_sha256": split.forget_sha256,
                "seconds": seconds,
            },
            failures=self.failures,  # type: ignore[arg-type]
        )

    # ------------------------------------------------------------------ within

    def claim_folder(self, overwrite: bool) -> None:
        """Make the output folder ours, or say whose it is."""
        mark = self.folder / "comparison.json"
        # seeds may be added and methods too: each part has a fingerprint of its own
        fixed = {key: self.config.get(key) for key in ("source", "data", "trainer")}
        identity = {"config": _canonical(fixed), "forget_sha256": self.data.split.forget_sha256}
        if mark.exists() and json.loads(mark.read_text()) != identity:
            if not overwrite:
                raise ValueError(
                    f"output_dir: {self.folder} holds another comparison (its config or forget set differs); choose "
                    "another folder, or set overwrite to delete it"
                )
            if _is_first():
                shutil.rmtree(self.folder)
        if _is_first():
            write_json_atomic(mark, identity)
            self.data.split.save(self.folder / "split.npz")

    def _trainer(
        self, name: str, seed: int, arguments: Mapping[str, Any], callbacks: list[L.Callback]
    ) -> L.Trainer:
        # a copy a run: callbacks, loggers and plugins keep state
        own = _instantiated(copy.deepcopy({**_TRAINER_DEFAULTS, **self.trainer, **arguments}))
        given = own.pop("callbacks", None) or []
        own.setdefault("logger", CSVLogger(self._run_folder(name, seed), name="log", version=""))
        return L.Trainer(**own, callbacks=[*given, *callbacks])

    def _evaluators(self, seed: int) -> list[Evaluator]:
        made = [build() for build in self.evaluators]
        for evaluator in made:
            evaluator.seed = self._seed("evaluate", seed)
            evaluator.controls = False  # source and retrained model have rows of their own
        return made

    def _seed(self, purpose: str, seed: int) -> int:
        chosen = seed if self.vary in ("all", purpose) else self.seeds[0]
        return derive_seed(chosen, purpose) % 2**32

    def _run_folder(self, name: str, seed: int) -> Path:
        return self.folder / name / f"seed_{seed}"

    def _run_config(self, name: str, seed: int) -> dict[str, Any]:
        method = {} if name == SOURCE else {"method": self._method_config(name)}
        return {
            "model": name,
            "seed": seed,
            "seeds": {purpose: self._seed(purpose, seed) for purpose in ("source", "unlearn", "evaluate")},
            "source": self.config.get("source"),
            "data": self.config.get("data"),
            "trainer": self.config.get("trainer"),
            **method,
        }

    def _method_config(self, name: str) -> Any:
        entries = self.config.get("methods") or []
        labels = [label for label in self.runs if label != RETRAIN]
        return (
            self.config.get("retrain")
            if name == RETRAIN
            else dict(zip(labels, entries, strict=False)).get(name)
        )

    def _fingerprint(self, name: str, seed: int, more: Any) -> str:
        """Return a hash of all that is known to decide a part's result."""
        run = None if name == SOURCE else self.runs[name].trainer
        parts = [
            self._run_config(name, seed),
            self.data.split.forget_sha256,
            [self.source.trainer, self.trainer, run],
            None if self.source.checkpoint is None else _file_hash(Path(self.source.checkpoint)),
            more,
        ]
        return hashlib.sha256(json.dumps(_canonical(parts), sort_keys=True).encode()).hexdigest()

    def _fail(self, name: str, seed: int, error: str, trace: str = "") -> None:
        self.failures.append({"model": name, "seed": seed, "error": error})
        if trace and _is_first():
            folder = self._run_folder(name, seed)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(trace)


class _Audited(UnlearningModule):
    """A model to be looked at by evaluators, which ask it themselves."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass


class _Clock(L.Callback):
    """Times the training of the source, as the methods time theirs."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        seconds = time.perf_counter() - self.start
        trainer.callback_metrics["time/total_s"] = torch.tensor(seconds, dtype=torch.float64)


def snake_case(name: str) -> str:
    """Turn a class name into the name of its runs.

    Example:
        >>> snake_case("ReferenceKL"), snake_case("RandomTopK")
        ('reference_kl', 'random_top_k')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _instantiated(value: Any) -> Any:
    """Build what a YAML file describes by class path, such as a callback in a trainer's arguments."""
    if isinstance(value, Mapping) and "class_path" in value:
        return instantiate_class(
            (), {"class_path": value["class_path"], "init_args": value.get("init_args", {})}
        )
    if isinstance(value, Mapping):
        return {key: _instantiated(item) for key, item in value.items()}
    return [_instantiated(item) for item in value] if isinstance(value, list) else value


def _file_hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _hyper_parameters(module: object) -> Any:
    return dict(module.hparams) if isinstance(module, L.LightningModule) else None


def _decided(question: Callable[[], T]) -> T:
    """Answer a question about the folder alike on all processes that run along.

    Before they are connected each looks for itself: nothing is written as long as they are not.
    """
    return _shared(question) if _in_group() else question()


def _shared(work: Callable[[], T]) -> T:
    """Do something on the first process alone, and give its result, or its error, to all that run along."""
    outcome: list[Any] = [None, None]
    if _is_first():
        try:
            outcome[0] = work()
        except Exception as error:  # raised below, on every process
            outcome[1] = error
    if _in_group():
        torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def _times(trainer: L.Trainer) -> dict[str, float]:
    return {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("time/")}


def _canonical(content: Any) -> Any:
    """Return plain values; an object stands for its class, since its address would change from run to run."""
    return json.loads(json.dumps(content, sort_keys=True, default=lambda value: type(value).__qualname__))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _record(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return what a finished part left, if it was this very part."""
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content if content["fingerprint"] == fingerprint else None


def _is_first() -> bool:
    """Whether this process, of those that run the comparison, is the one that writes and prints."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _in_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed everything for one part, and put all of it back, the environment included."""
    before = {key: os.environ.get(key) for key in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    with isolated_rng():
        L.seed_everything(seed, verbose=False)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning from announcing the same facts for every one of many short runs."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.(pytorch|fabric)\.")
            # https://github.com/pytorch/pytorch/pull/160843: Lightning still asks in the old way
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        logger.setLevel(level)
