"""The course of a comparison: which model is trained and audited when."""

from __future__ import annotations

import math
import traceback
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import lightning as L
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_unlearn.callbacks import Evaluator, ForgettingMetrics, ManyModels
from lightning_unlearn.callbacks.base.audit import Controls
from lightning_unlearn.callbacks.base.populations import Kinds, Populations
from lightning_unlearn.callbacks.base.watching import Watcher, WatchRecorder, was_watched
from lightning_unlearn.comparison.before import trained_with
from lightning_unlearn.comparison.controls import Rates, RatesRecorder, short_name, short_run
from lightning_unlearn.comparison.folder import (
    AS_BUILT,
    KEY,
    SOURCE_MODEL,
    THE_KEY,
    RunFolder,
    add_written,
    claim,
    noted,
)
from lightning_unlearn.comparison.progress import Progress
from lightning_unlearn.comparison.runs import RETRAIN, RETRAIN_2, SOURCE, MethodRun, SourceRun, load
from lightning_unlearn.comparison.splits import SeedSplits
from lightning_unlearn.comparison.summary import add_accelerations, most_left, over_samples
from lightning_unlearn.comparison.trainers import (
    DEFAULTS,
    Clock,
    built,
    has_end,
    keeper,
    make_trainer,
    require_trainer,
)
from lightning_unlearn.core.files import file_hash, positions_hash, read_object
from lightning_unlearn.core.ledger import secret_in
from lightning_unlearn.core.processes import InStep, decided, is_first, said, shared, together
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.core.surroundings import seeded
from lightning_unlearn.data import Adapter
from lightning_unlearn.data.datamodule import batches_of
from lightning_unlearn.data.splits import some_of
from lightning_unlearn.engine.answering import measure_of
from lightning_unlearn.ensembles import Runtime, isolated_rng
from lightning_unlearn.ensembles.fingerprint import fingerprint as hash_of
from lightning_unlearn.ensembles.identity import canonical, data_identity, evaluator_settings
from lightning_unlearn.functional import epochs_needed
from lightning_unlearn.functional.tasks import Task as KindOfTask
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.methods.base.again import Procedure
from lightning_unlearn.methods.base.checkpoints import KEPT, steps_of
from lightning_unlearn.methods.base.export import write_export
from lightning_unlearn.methods.base.recording import describe
from lightning_unlearn.methods.base.source import read_checkpoint
from lightning_unlearn.methods.base.trial import require_of, try_model
from lightning_unlearn.metrics.declared import COST, DeclaredMetric
from lightning_unlearn.models.freezing import mark_frozen
from lightning_unlearn.models.fresh import built_by
from lightning_unlearn.reports import Report, build_report
from lightning_unlearn.reports.details import read_log
from lightning_unlearn.reports.glossary import is_control
from lightning_unlearn.reports.pooling import set_intervals
from lightning_unlearn.reports.thumbnails import write_thumbnails

# where and how precisely a finished model is asked; the Trainer's other arguments are about training
_ASKED_WITH = {"accelerator", "devices", "strategy", "num_nodes", "precision", "plugins", "deterministic"}


class Observer(Protocol):
    """Looks on while a comparison runs, on its first process; reads the folders and adds at most a file of its own.

    What ``run_finished`` raises is listed among the failures, and the comparison goes on.
    """

    def run_finished(self, folder: Path, name: str, seed: int) -> None:
        """One model is trained, exported and audited.

        Args:
            folder: The model's folder, with config.json, training.json, model.ckpt, metrics.json and log/metrics.csv.
            name: The model's name: ``source``, ``retrain`` or the method's.
            seed: The seed.
        """

    def finished(self, folder: Path, report: Report) -> None:
        """The comparison is complete and its report written.

        Args:
            folder: The comparison's folder.
            report: The content of its report.json.
        """


class Task(NamedTuple):
    """A piece of a comparison.

    Attributes:
        seed: The seed.
        model: Name of the model.
        step: Whether it is trained, or audited.
        needs: The pieces that must be over, well or badly, before this one begins.
    """

    seed: int
    model: str
    step: Literal["train", "audit"]
    needs: tuple[Task, ...] = ()


@dataclass
class Pipeline:
    """Runs the parts of a comparison and remembers what they gave.

    The last attributes are of the seed that is running: the seed, its source and retrained model, its evaluators and
    the settings that these had before they saw a model.
    """

    source: SourceRun
    runs: dict[str, MethodRun]
    splits: SeedSplits
    evaluators: Sequence[Callable[[], Evaluator]]
    seeds: list[int]
    vary: str
    trainer: dict[str, Any]  # the logger among them is any but W&B's
    adapter: Adapter | None
    folder: Path
    config: dict[str, Any]
    progress: Progress
    retrain_2: bool = False
    shares: Sequence[float] = ()  # of the retraining's steps, for short retrainings
    margins: dict[str, float] = field(default_factory=dict)
    observers: Sequence[Observer] = ()
    key: bytes = b""  # what the forgotten samples are hashed with
    key_is_shared: bool = False  # only then does the hash say anything to others
    metrics: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    # failed in other processes; not tried again
    lost: dict[Task, list[dict[str, Any]]] = field(default_factory=dict)
    launched: bool = False  # whether other processes do the work, which must be able to tell what is done
    identities: dict[tuple[str, int], str] = field(default_factory=dict)
    _start: str = field(default_factory=lambda: uuid.uuid4().hex)
    # in which each model was trained
    _starts: dict[tuple[str, int], str | None] = field(default_factory=dict)
    _data_identity: str = ""
    _seed: int = -1
    _task: Task | None = None
    _elsewhere: bool = False  # whether this is not the process that was started
    _source: nn.Module | None = None
    _retrained: nn.Module | None = None
    _latest: nn.Module | None = None  # trained or loaded, of the methods
    _short: dict[str, tuple[MethodRun, Rates]] = field(default_factory=dict)
    _evaluators: list[Evaluator] = field(default_factory=list)
    _settings: list[Any] = field(default_factory=list)
    _populations: Populations = field(default_factory=Populations)
    _declared: dict[str, DeclaredMetric] = field(default_factory=dict)

    # ------------------------------------------------------------------ the course of a seed

    def tasks(self) -> list[Task]:
        """Return the pieces of the comparison, in an order in which they can be done one after another."""
        found: list[Task] = []
        for seed in self.seeds:
            source = Task(seed, SOURCE, "train")
            retrained = Task(seed, RETRAIN, "train", (source,))
            # after the source's audit the evaluators have what they keep for all models
            audited = Task(seed, SOURCE, "audit", (source, retrained))
            found += [source, retrained, audited]
            for name in self.names[1:]:
                trained = retrained
                if name != RETRAIN:
                    needs = (source, retrained) if name in map(short_name, self.shares) else (source,)
                    found.append(trained := Task(seed, name, "train", needs))
                found.append(Task(seed, name, "audit", (source, retrained, audited, trained)))
        return found

    def do(self, task: Task) -> None:
        """Do a piece; what fails is noted and the rest goes on."""
        name, self._task = task.model, task
        if task.seed != self._seed:
            self._begin(task.seed)
        if name == SOURCE and task.step == "train":
            self._source = self._train_source()
            if is_first() and self.data is not self.given:
                self.data.split.save(self._folder(SOURCE).split)
            if is_first() and task.seed == self.seeds[0] and not self._elsewhere:
                self._picture_samples()
            if self._source is not None:
                self._build_evaluators()
        elif task.step == "audit":
            model = self._source if name == SOURCE else self._retrained if name == RETRAIN else self._latest
            if model is None:
                self.progress.skip(1)
            else:
                self._audit(name, model)
        elif self._source is None:
            self._fail(name, "not run: the source model failed")
            self.progress.skip(1)
        elif name == RETRAIN:
            self._retrained = self._train_method(name)
            self._short = self._short_runs()
        elif name in map(short_name, self.shares) and name not in self._short:
            self._latest = None
            self.progress.skip(1)
        else:
            self._latest = self._train_method(name)

    def do_alone(self, task: Task) -> list[dict[str, Any]]:
        """Do a piece in a process that may have done nothing before, and return what failed.

        The models that it needs are in the folder, and are loaded, unless the piece before has left them here.
        """
        self._elsewhere = True
        here = {SOURCE: self._source, RETRAIN: self._retrained} if task.seed == self._seed else {}
        for need in task.needs:
            if need.step == "train" and here.get(need.model) is None:
                self.do(need)
        self.failures.clear()
        self.do(task)
        return [failure for failure in self.failures if failure["model"] == task.model]

    def _was_lost(self) -> bool:
        """Say whether the running piece failed in another process, and note how."""
        failures = self.lost.get(self._task, []) if self._task is not None else []
        self.failures += failures
        return bool(failures)

    def _begin(self, seed: int) -> None:
        self._seed = seed
        self.data, self._data_identity = self.splits.of(seed), ""
        self._source = self._retrained = self._latest = None
        self._short = {}

    def __post_init__(self) -> None:
        self.given = self.splits.given  # as the arguments describe it
        self.data = self.given  # of the running seed, once one runs

    def _picture_samples(self) -> None:
        """Leave small pictures of the samples to forget beside the page, where they are images."""
        adapter = self.adapter or Adapter()
        try:
            batches = self.data.evaluated("forget", indexed=False, rank=0, world_size=1)
            write_thumbnails((adapter.split(batch)[0] for batch in batches), self.folder, self._seed)
        except Exception as error:  # a picture less must not cost a comparison
            rank_zero_warn(f"no pictures of the forgotten samples: {type(error).__name__}: {error}")

    @property
    def names(self) -> list[str]:
        """Every model of a seed, in the order in which they are audited."""
        others = [RETRAIN_2] if self.retrain_2 else []
        methods = [name for name in self.runs if name != RETRAIN]
        return [SOURCE, RETRAIN, *others, *map(short_name, self.shares), *methods]

    def _short_runs(self) -> dict[str, tuple[MethodRun, Rates]]:
        """Return the short retrainings by name, each number of steps once; none without the retraining."""
        if self._retrained is None:
            for share in self.shares:
                self._fail(short_name(share), "not run: the retrained model failed")
            return {}
        trained = read_object(self._folder(RETRAIN).learning_rates) if self.shares else {}
        runs = [short_run(self.runs[RETRAIN], trained, share) for share in sorted(self.shares, reverse=True)]
        by_steps = {rates.steps: (run, rates) for run, rates in runs}
        return {run.label: (run, rates) for run, rates in by_steps.values() if rates.steps < rates.long_steps}

    def _build_evaluators(self) -> None:
        self._populations = Populations()
        self._evaluators = [build() for build in self.evaluators]
        for evaluator in self._evaluators:
            evaluator.seed = self._seed_of("evaluate")
            evaluator.controls = False  # source and retrained model have rows of their own
            evaluator.require(self.data)  # some declare what the data decides
            self._declared |= evaluator.declared()
            if evaluator.keeps is not None:
                add_written(self.folder, evaluator.keeps)
        # now, because an evaluator may keep things for the next model, and Lightning adds its own
        self._settings = [evaluator_settings(evaluator) for evaluator in self._evaluators]
        answered: Controls = {}  # until the seed is over
        for evaluator in self._evaluators:
            evaluator.answered = answered

    def _train_source(self) -> nn.Module | None:
        def build() -> L.LightningModule:
            if (before := self.splits.before) is not None:
                return self._load_run(before.run(SOURCE, self._seed))
            return self.source.model() if self.source.checkpoint is None else self.source.loaded()

        def train(model: L.LightningModule) -> tuple[nn.Module, dict[str, float]]:
            if self.splits.before is not None or self.source.checkpoint is not None:
                return model, {}
            own: dict[str, Any] = dict(self.source.trainer)
            callbacks: list[L.Callback] = [Clock()]
            if self.source.keep_every is not None:
                own["enable_checkpointing"] = True
                callbacks.append(keeper(self._folder(SOURCE).earlier, self.source.keep_every))
            trainer = self._trainer(SOURCE, own, *callbacks)
            trainer.fit(model, self.data)
            return model, _times(trainer, model)

        return self._part(SOURCE, "source", build, train)

    def _train_method(self, name: str) -> nn.Module | None:
        run = self._run_of(name)
        assert isinstance(run, MethodRun)
        looked_at = [] if is_control(name) and name != RETRAIN else self._evaluators
        watchers = {e.name: watcher for e in looked_at if (watcher := e.watching()) is not None}

        def build() -> L.LightningModule:
            method = run.method(self._source_of(name))
            self._declared |= method.metrics
            return method

        def train(method: L.LightningModule) -> tuple[nn.Module, dict[str, float]]:
            folder = self._folder(name)
            looking = [*watchers.values(), WatchRecorder(folder.watched, watchers)] if watchers else []
            rates = [RatesRecorder(folder.learning_rates)] if name == RETRAIN and self.shares else []
            if name in self._short:
                looking.append(self._short[name][1])
            trainer = self._trainer(name, _own_arguments(run), *looking, *rates)
            with batches_of(self.data, run.batch_size):
                trainer.fit(method, self.data)
            return cast(UnlearningModule, method).model, _times(trainer, method)

        # what is watched decides no weight: a method is fitted again for a curve to show, the baseline is not
        return self._part(name, "unlearn", build, train, {} if is_control(name) else watchers)

    def _part(
        self,
        name: str,
        purpose: str,
        build: Callable[[], L.LightningModule],
        train: Callable[[L.LightningModule], tuple[nn.Module, dict[str, float]]],
        watchers: Mapping[str, Watcher] | None = None,
    ) -> nn.Module | None:
        """Train one model and export it, or take the one that is in its folder; then load it from there."""
        folder, seed, part = self._folder(name), self._seed_of(purpose, name), f"{name}, seed {self._seed}"
        self.progress.start(name, self._seed)
        if self._was_lost():
            self.progress.done(failed=True)
            return None
        try:
            config = self._run_config(name)
            with together(part), seeded(seed):
                subject = build()
                made = [subject, vars(self._short[name][1])] if name in self._short else subject
                fingerprint = self.identities[name, self._seed] = self._fingerprint(name, made)
                there = decided(lambda: self._is_trained(folder, name, fingerprint, watchers or {}))
                if not there:
                    decided_by = self._decided_by(name, made)
                    if changed := folder.changed(decided_by):
                        rank_zero_warn(f"{part}: trained anew; what changed: {changed}")
                    shared(lambda: folder.begin(config))
                    self.data.order_seed = seed
                    model, seconds = train(subject)
                    shared(lambda: write_export(model, folder.checkpoint))
                    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
                    shared(
                        lambda: folder.finish_training(
                            (fingerprint, decided_by),
                            seconds,
                            describe(subject),
                            frozen,
                            self._start,
                            self._made_from(name),
                        )
                    )
                else:
                    shared(lambda: folder.describe(config))
                training = folder.training()
                times: dict[str, float] = training["times"]
                self._starts[name, self._seed] = training.get("started")
            # a resumed comparison loads what a fresh one has just trained
            with together(part), isolated_rng(seed):
                loaded = self._load_run(folder, as_source=name == SOURCE)
        except Exception as error:  # a method of anybody's may raise anything; the others must finish
            self._fail(name, said(error), traceback.format_exc())
            self.progress.done(failed=True)
            return None
        self._note(name, times | (self._needed(folder) if name == RETRAIN else {}))
        self.progress.done(there=there)
        return loaded

    def _is_trained(
        self, folder: RunFolder, name: str, fingerprint: str, watchers: Mapping[str, Watcher]
    ) -> bool:
        """Say whether a model is in its folder, with all that is noted while it is trained."""
        needs_rates = name == RETRAIN and bool(self.shares)
        return (
            folder.is_trained(fingerprint)
            and was_watched(folder.watched, watchers)
            and (folder.learning_rates.is_file() or not needs_rates)
        )

    def _load_run(self, folder: RunFolder, *, as_source: bool = True) -> L.LightningModule:
        """Load what a run exported, with all that a method asks of its source where it is one."""
        loaded = self.source.built()
        load(loaded, read_checkpoint(folder.checkpoint))
        if as_source:  # callbacks may have frozen and unfrozen, of which the class knows nothing
            loaded = mark_frozen(loaded, folder.training().get("frozen"))
            built_by(loaded, self.source.model)
            self._note_earlier(loaded)
        return loaded

    def _source_of(self, name: str) -> nn.Module:
        """Return what a method starts from: after an earlier request its own model of that, else the source."""
        assert self._source is not None  # or no method is run
        if self.splits.before is None or is_control(name):
            return self._source
        folder = self.splits.before.run(name, self._seed)
        if not folder.checkpoint.is_file():
            raise FileNotFoundError(f"after: there is no {folder.checkpoint} to go on from")
        return self._load_run(folder)

    def _made_from(self, name: str) -> str | None:
        """Return the hash of the model of the request before that one goes on from; ``None`` where it does not."""
        before = self.splits.before
        if before is None or (is_control(name) and name != SOURCE):
            return None
        return file_hash(before.run(name, self._seed).checkpoint)

    def _note_earlier(self, source: nn.Module) -> None:
        """Note where the checkpoints of the source's training are, for a method that goes back to one."""
        earlier, before = self._folder(SOURCE).earlier, self.splits.before
        if before is not None and is_first() and not earlier.exists():
            before.take_earlier(self._seed, earlier)
        if self.source.checkpoint is not None:
            KEPT[source] = Path(self.source.checkpoint).parent, steps_of(self.source.checkpoint)
        elif self.source.keep_every is not None or (
            before is not None and before.run(SOURCE, self._seed).earlier.is_dir()
        ):
            KEPT[source] = earlier, math.inf

    def _needed(self, folder: RunFolder) -> dict[str, float]:
        """Return how long the retraining took and how long it needed, in epochs, where its course was logged."""
        # validation logs the same, with its epoch
        looked_at = [row for row in read_log(folder.path / "log" / "metrics.csv") if "epoch" not in row]
        curve = [row["accuracy/test"] for row in looked_at if "accuracy/test" in row]
        if len(curve) < 2:
            return {}
        samples = len(some_of(self.data.split.test, 0))
        return {"epochs/needed": epochs_needed(curve, samples), "epochs/trained": len(curve) - 1}

    def _audit(self, name: str, model: nn.Module) -> None:
        folder, seed, controls = self._folder(name), self._seed_of("evaluate"), (name, SOURCE, RETRAIN)
        self.progress.start(name, self._seed, "audit")
        audited = [file_hash(self._folder(run).checkpoint) for run in controls]
        made = [self.identities.get((run, self._seed)) for run in controls]
        decides = [audited, made, self._settings, self.config.get("evaluators"), self.adapter]
        try:
            with together(f"audit of {name}, seed {self._seed}"):
                fingerprint = self._fingerprint(name, decides)
                found = content = decided(lambda: folder.audit(fingerprint))
                if content is None and self._was_lost():
                    self.progress.done(failed=True)
                    return
                # what failed is tried again, unless another process has just tried
                if content is None or (content["errors"] and self._task not in self.lost):
                    shared(folder.forget_audit)
                    # many models of a kind are trained for the methods alone
                    many = name in (SOURCE, RETRAIN) or not is_control(name)
                    asked = [each for each in self._evaluators if many or not isinstance(each, ManyModels)]
                    for evaluator in asked:
                        self._set_up(evaluator, name)
                    self.data.order_seed = seed
                    with seeded(seed):
                        metrics = self._measure_all(model, asked, folder)
                    names = [evaluator.name for evaluator in asked]
                    content = shared(lambda: folder.finish_audit(fingerprint, names, metrics))
        except Exception as error:  # as above: one audit lost, the others finish
            self._fail(name, f"audit: {said(error)}", traceback.format_exc())
            self.progress.done(failed=True)
            return
        self._note(name, content["metrics"])
        for key, message in content["errors"].items():
            self._fail(name, f"evaluator {key}: {message}")
        try:
            for observer in self.observers if is_first() else ():
                observer.run_finished(folder.path, name, self._seed)
        except Exception as error:  # whoever looks on must not stop the work
            self._fail(name, f"observer: {said(error)}", traceback.format_exc())
        self.progress.done(content["metrics"], there=content is found)

    def _set_up(self, evaluator: Evaluator, name: str) -> None:
        """Tell an evaluator which model it is about to see, beside which controls."""
        evaluator.dirpath = self._folder(name).evaluation
        evaluator.source = self._source
        evaluator.retrained = None if name == RETRAIN else self._retrained
        if evaluator.keeps is not None and evaluator.cache is None:
            evaluator.cache = self.folder / evaluator.keeps
        if isinstance(evaluator, ManyModels):
            evaluator.kinds = self._kinds(name, evaluator.cache)
            evaluator.shared = self._populations

    def _measure_all(
        self, model: nn.Module, evaluators: list[Evaluator], folder: RunFolder
    ) -> dict[str, float]:
        """Ask all evaluators at once or, where one of them fails in one of several processes, one by one."""
        part = ", ".join([str(folder.path), *(evaluator.name for evaluator in evaluators)])
        try:
            with together(part):
                return self._measure(model, evaluators, part)
        except Exception as error:  # an evaluator of anybody's; the others measure
            message = said(error)
        if len(evaluators) == 1:
            shared(lambda: folder.note_evaluators_error(evaluators[0].name, message))
            return {}
        found = [self._measure_all(model, [evaluator], folder) for evaluator in evaluators]
        return {name: value for metrics in found for name, value in metrics.items()}

    def _measure(self, model: nn.Module, evaluators: list[Evaluator], part: str) -> dict[str, float]:
        chosen = {key: value for key, value in self.trainer.items() if key in _ASKED_WITH}
        trainer = L.Trainer(
            **{**DEFAULTS, **chosen},
            logger=False,
            limit_test_batches=1,  # the evaluators look at whole streams themselves
            callbacks=[InStep(part), *evaluators],
        )
        trainer.test(FinishedModel(model, adapter=self.adapter), self.data, verbose=False)
        return {key: float(value) for key, value in trainer.callback_metrics.items()}

    # ------------------------------------------------------------------ the report

    def report(self, seconds: float) -> Report:
        """Put together what the runs gave."""
        other_times = add_accelerations(self.metrics, self.names[1:], self._starts)
        if other_times:
            rank_zero_warn(
                f"acceleration: {', '.join(other_times)} ran in another start of the comparison than the retraining, "
                "when the machine may have been faster or slower; give a new output_dir to time all anew"
            )
        hashed = (
            {"forget_hmac": positions_hash(self.splits.forgotten, self.key)} if self.key_is_shared else {}
        )
        own, strictest, split = measure_of(self.given), self._strictest_measure, self.data.split

        def margin(name: str, metric: DeclaredMetric) -> float | None:
            membership = (strictest if name == "accuracy/previous" else own) == "membership"
            found = metric.margin or (None if membership else most_left(self.metrics, name))
            return self.margins.get(name, found)

        report = build_report(
            self.metrics,
            seeds=self.seeds,
            config=self.config,
            data={
                "name": self.given.data_name,
                "split": str(self.splits),
                **self.splits.sizes(split),
                **({"n_previous": len(split.previous)} if len(split.previous) else {}),
                **({} if self.splits.before is None else {"after": self.splits.before.folder.name}),
                **hashed,
                "seconds": seconds,
                **({"other_times": other_times} if other_times else {}),
            },
            failures=self.failures,  # type: ignore[arg-type]
            metrics={
                name: replace(metric, margin=margin(name, metric))
                for name, metric in {**self._declared, **COST}.items()
            },
        )
        if unknown := self.margins.keys() - report["metrics"].keys():
            rank_zero_warn(
                f"margins: no evaluator measured {', '.join(sorted(unknown))}; the margin decides nothing"
            )
        set_intervals(report, over_samples(self.folder, self.metrics, self.splits.sharing))
        return report

    # ------------------------------------------------------------------ within

    def check(self) -> None:
        """Refuse what cannot work, before anything is trained or written.

        Raises:
            ValueError: If a Trainer cannot be made, or is to train what trains nothing, the checkpoint does not load,
                two evaluators have one name, or one lacks what it needs.
        """
        trained = {label: run.trainer for label, run in self.runs.items()}
        if self.source.checkpoint is None:
            trained = {SOURCE: self.source.trainer, **trained}
        for label, own in trained.items():
            require_trainer(label, self.trainer, own)
        for label, run in self.runs.items():
            if run.one_shot and run.trainer.get("max_epochs", 0) != 0:
                raise ValueError(
                    f"trainer of {label!r}: the method edits the weights once and trains nothing; write max_epochs: 0, "
                    f"not {run.trainer['max_epochs']}, or leave it out"
                )
        if self.source.checkpoint is not None:
            with isolated_rng():
                model = self.source.loaded()
            self.data.require_source(model)
        if self.splits.before is not None:
            with isolated_rng():
                self.splits.before.require_as_built(self.seeds[0], self.source.model())
        self.splits.require()
        names, task = set[str](), self._kind_of_task()
        for build in self.evaluators:
            evaluator = build()
            if evaluator.name in names and isinstance(evaluator, ForgettingMetrics):
                raise ValueError(
                    "evaluators: compare has ForgettingMetrics already; leave it out of the list"
                )
            if evaluator.name in names:
                raise ValueError(
                    f"evaluators: two are called {evaluator.name!r}, so one's scores would replace the other's; give "
                    f"one of them another name, as in {type(evaluator).__name__}(name='{evaluator.name}_2')"
                )
            names.add(evaluator.name)
            if self.splits.before is not None and isinstance(evaluator, ManyModels):
                raise ValueError(
                    f"evaluators: {type(evaluator).__name__} trains many models by each method from a source that no "
                    "request has touched, which is not what these are; leave it out, or after"
                )
            evaluator.require(self.data)
            if task is not None:
                require_of(evaluator, task, self.data)

    def _kind_of_task(self) -> KindOfTask | None:
        """Return the task, by an untrained source's answers to one batch; ``None`` where that cannot be told here."""
        adapter = self.adapter or Adapter()
        if adapter.task is not None:
            return adapter.kind
        with isolated_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return try_model(self.source.built(), self.data, Runtime(), adapter, step=False).task
            except Exception:  # on another device it may do; where it does not, it is said there
                return None

    def claim_folder(self, overwrite: bool, inputs: Sequence[Path], key_file: Path | None) -> None:
        """Make the output folder ours, or say whose it is; without a key's file it gets a key of its own."""
        self.key_is_shared = key_file is not None
        self.key = secret_in(
            key_file or self.folder / KEY, "forgotten samples", make=True, argument="forget_key"
        )
        # seeds may be added and methods too: each part has a fingerprint of its own
        fixed = {key: self.config.get(key) for key in ("source", "data", "trainer")}
        identity: dict[str, Any] = {"config": canonical(fixed)}
        for part in ("forget", "previous"):
            identity[f"{part}_hmac"] = positions_hash(getattr(self.given.split, part), self.key)
        # for those that go on from here
        identity |= {} if self.given.backdoor is None else {"backdoor": True}
        identity["measure"] = self._strictest_measure
        identity["trained_with"] = self._noted_before("trained_with") or self.trained_with
        runs = [f"{name}/seed_{seed}" for name in self.names for seed in self.seeds]
        claim(self.folder, identity, runs, inputs=inputs, overwrite=overwrite)
        if is_first():
            (self.folder / "split.npz").unlink(missing_ok=True)
            if not self.splits.drawn_anew:
                self.given.split.save(self.folder / "split.npz")

    @property
    def _strictest_measure(self) -> str:
        """Which measure fits all that was forgotten so far: that of labels or a class wherever a request needed it."""
        own, earlier = measure_of(self.given), self._noted_before("measure")
        return earlier or own if own == "membership" else own

    def _noted_before(self, name: str) -> Any:
        return None if self.splits.before is None else noted(self.splits.before.folder, name)

    @property
    def trained_with(self) -> dict[str, Any]:
        """What decides how the source is trained, which the retraining follows."""
        train, *_ = self.given.given
        batch_size = self.given.batch_size or (train.batch_size if train is not None else None)
        return trained_with({**self.trainer, **self.source.trainer}, self.config, batch_size)

    def _trainer(self, name: str, own: Mapping[str, Any], *callbacks: L.Callback) -> L.Trainer:
        arguments, folder = {**self.trainer, **own}, self._folder(name)
        return make_trainer(arguments, name, self._seed, folder, self.progress, *callbacks)

    def _kinds(self, name: str, cache: Path | None) -> Kinds:
        """Return how models come to be in this comparison, for evaluators that want many of each kind."""

        def procedure(label: str, build: Callable[[nn.Module], L.LightningModule]) -> Procedure:
            run = self._run_of(label)
            settings = {**DEFAULTS, **self.trainer, **_own_arguments(run), "logger": False}

            def arguments() -> dict[str, Any]:
                if not has_end(settings):
                    raise ValueError(
                        f"trainer of {label!r}: evaluators with sources='many', and LiRA's online references, train "
                        "as the source was trained; give the source max_epochs, even where a checkpoint is given, or "
                        "take sources='one' and LiRA(mode='offline')"
                    )
                return built(settings)

            identity = self.identities.get((label, self._seed))
            return Procedure(build, arguments, identity, batch_size=run.batch_size)

        assert self._source is not None  # or nothing is audited
        return Kinds(
            audited="source" if name == SOURCE else "retrained" if name == RETRAIN else "unlearned",
            method=None if name in (SOURCE, RETRAIN) else procedure(name, self.runs[name].method),
            retrain=procedure(RETRAIN, self.runs[RETRAIN].method),
            anew=procedure(SOURCE, lambda _: self.source.model()),
            source=self._source,
            seed=self._seed_of("evaluate"),
            cache=cache,
        )

    def _run_of(self, name: str) -> SourceRun | MethodRun:
        if name == SOURCE:
            return self.source
        return (
            self._short[name][0] if name in self._short else self.runs[RETRAIN if name == RETRAIN_2 else name]
        )

    def _seed_of(self, purpose: str, name: str = "") -> int:
        chosen = self._seed if self.vary in ("all", "training", purpose) else self.seeds[0]
        # another request, another order and noise
        more = [len(self.data.split.previous)] if self.splits.before is not None else []
        return derive_seed(chosen, purpose, *([name] if name == RETRAIN_2 else []), *more) % 2**32

    def _folder(self, name: str) -> RunFolder:
        return RunFolder(self.folder / name / f"seed_{self._seed}")

    def _run_config(self, name: str) -> dict[str, Any]:
        config = {
            "model": name,
            "seed": self._seed,
            "seeds": {purpose: self._seed_of(purpose) for purpose in ("source", "unlearn", "evaluate")},
            **{key: self.config.get(key) for key in ("source", "data", "trainer")},
        }
        if is_control(name) and name != SOURCE:
            config["method"] = self.config.get("retrain")
        elif name != SOURCE:
            labels = [label for label in self.runs if label != RETRAIN]
            entries = dict(zip(labels, self.config.get("methods") or [], strict=False))
            config["method"] = entries.get(name)
        return config

    def _decides(self, name: str, more: Any) -> dict[str, Any]:
        """Return all that decides a part's result, by what a user calls it."""
        run = self._run_of(name)
        checkpoint: Any = None if self.source.checkpoint is None else file_hash(Path(self.source.checkpoint))
        if self.source.keep_every is not None:
            checkpoint = self.source.keep_every
        self._data_identity = self._data_identity or data_identity(self.data)
        return {
            "its settings": canonical(self._run_config(name)),
            "the data": self._data_identity,
            "the trainer's arguments": {**self.trainer, **run.trainer, "logger": None},
            "its batch size": run.batch_size,
            "the source's checkpoint": checkpoint,
            AS_BUILT: more,
        }

    def _decided_by(self, name: str, more: Any) -> dict[str, str]:
        """Return a hash of each thing that decides a part's result; nothing where that cannot be told."""
        made_from = self._made_from(name)
        if made_from is None and name != SOURCE:
            made_from = file_hash(self._folder(SOURCE).checkpoint)
        source = {} if made_from is None else {SOURCE_MODEL: made_from}
        try:
            decides = {THE_KEY: None, **source, **self._decides(name, more)}
            return {what: hash_of(self.key, value) for what, value in decides.items()}
        except TypeError:
            return {}

    def _fingerprint(self, name: str, more: Any) -> str:
        """Return a hash of all that decides a part's result, or one like no other where that cannot be told."""
        try:  # with the key, or who was forgotten could be tried against it
            return hash_of(self.key, *self._decides(name, more).values())
        except TypeError as error:
            if self.launched:
                raise ValueError(
                    f"launcher: other processes cannot tell whether {name} is done, since it {error}; use the plain one"
                ) from error
            rank_zero_warn(
                f"{name}, seed {self._seed}: done anew each time the comparison is started, since it {error}"
            )
            return uuid.uuid4().hex

    def _note(self, name: str, metrics: Mapping[str, float]) -> None:
        self.metrics.setdefault(name, {}).setdefault(self._seed, {}).update(metrics)

    def _fail(self, name: str, error: str, trace: str = "") -> None:
        self.failures.append({"model": name, "seed": self._seed, "error": error})
        if trace and is_first():
            self._folder(name).note_error(trace)


class FinishedModel(UnlearningModule):
    """A model that evaluators look at: a method with nothing left to do, asked as every method is.

    ``Trainer.test`` needs a module with a test step, and the model's own would measure what nobody asked for.
    """

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Leave the measuring to the evaluators."""


def _times(trainer: L.Trainer, fitted: L.LightningModule) -> dict[str, float]:
    """Return the seconds that a fit took, and what its method measured in it."""
    own = fitted.metrics if isinstance(fitted, UnlearningModule) else {}
    return {
        key: float(value)
        for key, value in trainer.callback_metrics.items()
        if key.startswith("time/") or key in own
    }


def _own_arguments(run: SourceRun | MethodRun) -> dict[str, Any]:
    """Return a run's own arguments for its Trainer; the epochs all share are not for what trains nothing."""
    return {**({"max_epochs": 0} if run.one_shot else {}), **run.trainer}
