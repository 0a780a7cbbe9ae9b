"""The course of a comparison: which model is trained and audited when; its folders know what stands finished."""

import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_unlearn.callbacks import Evaluator, ManyModels
from lightning_unlearn.callbacks.base.populations import Kinds, Populations
from lightning_unlearn.callbacks.base.watching import Watcher, WatchRecorder, was_watched
from lightning_unlearn.comparison.folder import KEY, RunFolder, add_written, claim
from lightning_unlearn.comparison.loggers import LoggerChoice, split_loggers, trainer_loggers
from lightning_unlearn.comparison.progress import Progress
from lightning_unlearn.comparison.run_facts import RunFacts
from lightning_unlearn.comparison.runs import MethodRun, SourceRun
from lightning_unlearn.comparison.trainer_arguments import built, require_trainer
from lightning_unlearn.core.files import file_hash, positions_hash
from lightning_unlearn.core.ledger import secret_in
from lightning_unlearn.core.processes import InStep, decided, is_first, said, shared, together
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.core.surroundings import seeded
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.data.datamodule import batches_of
from lightning_unlearn.ensembles import isolated_rng
from lightning_unlearn.ensembles.fingerprint import fingerprint as hash_of
from lightning_unlearn.ensembles.identity import canonical, data_identity, evaluator_settings
from lightning_unlearn.functional import acceleration
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.methods.base.again import Procedure
from lightning_unlearn.methods.base.export import write_export
from lightning_unlearn.methods.base.recording import describe
from lightning_unlearn.methods.base.source import read_checkpoint
from lightning_unlearn.metrics.declared import COST, DeclaredMetric
from lightning_unlearn.models.freezing import mark_frozen, mark_recorded
from lightning_unlearn.models.fresh import built_by
from lightning_unlearn.models.surgery import load_state
from lightning_unlearn.reports import Report, build_report

__all__ = ["RETRAIN", "SOURCE", "Observer", "Pipeline"]

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
_LIMITS = {"max_epochs", "max_steps", "max_time", "fast_dev_run"}
_TRAINER_DEFAULTS: dict[str, Any] = {
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "log_every_n_steps": 10,  # short runs would be over before the 50 steps of Lightning
    "limit_val_batches": 0,  # the comparison measures at the end; validating every epoch would only cost time
}


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


@dataclass
class Pipeline:
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
    loggers: LoggerChoice = field(default_factory=list)
    observers: Sequence[Observer] = ()
    key: bytes = b""  # what the forgotten samples are hashed with
    key_is_shared: bool = False  # only then does the hash say anything to others
    metrics: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    populations: dict[int, Populations] = field(default_factory=dict)
    identities: dict[tuple[str, int], str] = field(default_factory=dict)
    _data_identity: str = ""
    _settings: list[Any] = field(default_factory=list)
    _declared: dict[str, DeclaredMetric] = field(default_factory=dict)

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
        retrained = self._train_method(RETRAIN, source, seed, evaluators, progress)
        self._audit(SOURCE, source, source, retrained, evaluators, seed, progress)
        for name in self.runs:
            model = retrained
            if name != RETRAIN:
                model = self._train_method(name, source, seed, evaluators, progress)
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
                _load_source(model, self.source.checkpoint)
            return model

        def train(model: L.LightningModule) -> tuple[nn.Module, dict[str, float]]:
            if self.source.checkpoint is not None:
                return model, {}
            self.data.order_seed = own
            trainer = self._trainer(SOURCE, seed, self.source.trainer, [_Clock(), progress.epochs()])
            trainer.fit(model, self.data)
            return model, _times(trainer)

        return self._part(SOURCE, seed, own, progress, build, train)

    def _train_method(
        self, name: str, source: nn.Module, seed: int, evaluators: list[Evaluator], progress: Progress
    ) -> nn.Module | None:
        run = self.runs[name]
        own = self._seed("unlearn", seed)
        watchers = {e.name: watcher for e in evaluators if (watcher := e.watching()) is not None}

        def train(method: L.LightningModule) -> tuple[nn.Module, dict[str, float]]:
            self.data.order_seed = own
            recorder = WatchRecorder(self._run_folder(name, seed).watched, watchers)
            looking = [*watchers.values(), recorder] if watchers else []
            trainer = self._trainer(name, seed, run.trainer, [progress.epochs(), *looking])
            with batches_of(self.data, run.batch_size):
                trainer.fit(method, self.data)
            return cast(UnlearningModule, method).model, _times(trainer)

        # what is watched decides no weight: a method is fitted again for a curve to show, the baseline is not
        wanted = {} if name == RETRAIN else watchers
        return self._part(name, seed, own, progress, lambda: run.method(source), train, wanted)

    def _part(
        self,
        name: str,
        seed: int,
        own_seed: int,
        progress: Progress,
        build: Callable[[], L.LightningModule],
        train: Callable[[L.LightningModule], tuple[nn.Module, dict[str, float]]],
        watchers: Mapping[str, Watcher] | None = None,
    ) -> nn.Module | None:
        """Train one model and export it, or take the one that stands in its folder; then load it from there."""
        folder = self._run_folder(name, seed)
        progress.start(name, seed)
        try:
            config = self._run_config(name, seed)
            with together(f"{name}, seed {seed}"), seeded(own_seed):
                subject = build()
                fingerprint = self.identities[name, seed] = self._fingerprint(name, seed, subject)
                if not decided(
                    lambda: folder.is_trained(fingerprint) and was_watched(folder.watched, watchers or {})
                ):
                    shared(lambda: folder.begin(config))
                    model, times = train(subject)
                    shared(lambda: write_export(model, folder.checkpoint))
                    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
                    shared(lambda: folder.finish_training(fingerprint, times, describe(subject), frozen))
                else:
                    shared(lambda: folder.describe(config))
                times = folder.times()
            # a resumed comparison loads what a fresh one has just trained
            with together(f"{name}, seed {seed}"), isolated_rng(own_seed):
                loaded = self.source.model()
                loaded.configure_model()
                load_state(loaded, read_checkpoint(folder.checkpoint)["state_dict"])
                if name == SOURCE:  # callbacks may have frozen and unfrozen, of which the class knows nothing
                    loaded = mark_frozen(loaded, folder.frozen())
                    built_by(loaded, self.source.model)
        except Exception as error:  # a method of anybody's may raise anything; the others must finish
            self._fail(name, seed, said(error), traceback.format_exc())
            progress.done(failed=True)
            return None
        self.metrics.setdefault(name, {}).setdefault(seed, {}).update(times)
        progress.done()
        return loaded

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
        progress.start(name, seed, "audit")
        own = self._seed("evaluate", seed)
        audited = [file_hash(self._run_folder(n, seed).checkpoint) for n in (name, SOURCE, RETRAIN)]
        made = [self.identities.get((run, seed)) for run in (name, SOURCE, RETRAIN)]
        fingerprint = self._fingerprint(
            name, seed, [audited, made, self._settings, self.config.get("evaluators"), self.adapter]
        )
        try:
            with together(f"audit of {name}, seed {seed}"):
                content = decided(lambda: folder.audit(fingerprint))
                if content is None or content["errors"]:  # what failed is tried again
                    shared(folder.forget_audit)
                    for evaluator in evaluators:
                        evaluator.dirpath = folder.evaluation
                        evaluator.source = source
                        evaluator.retrained = None if name == RETRAIN else retrained
                        if evaluator.keeps is not None and evaluator.cache is None:
                            evaluator.cache = self.folder / evaluator.keeps
                        if isinstance(evaluator, ManyModels):
                            evaluator.kinds = self._kinds(name, source, seed, evaluator.cache)
                            evaluator.shared = self.populations.setdefault(seed, Populations())
                    self.data.order_seed = own
                    with seeded(own):
                        metrics = self._measure_together(model, evaluators, folder)
                    names = [evaluator.name for evaluator in evaluators]
                    content = shared(lambda: folder.finish_audit(fingerprint, names, metrics))
        except Exception as error:  # as above: one audit lost, the others finish
            self._fail(name, seed, f"audit: {said(error)}", traceback.format_exc())
            progress.done(failed=True)
            return
        self.metrics.setdefault(name, {}).setdefault(seed, {}).update(content["metrics"])
        for key, message in content["errors"].items():
            self._fail(name, seed, f"evaluator {key}: {message}")
        self._show(folder.path, name, seed)
        progress.done()

    def _show(self, folder: Path, name: str, seed: int) -> None:
        if not is_first():
            return
        try:
            for observer in self.observers:
                observer.run_finished(folder, name, seed)
        except Exception as error:  # whoever looks on must not stop the work
            self._fail(name, seed, f"observer: {type(error).__name__}: {error}", traceback.format_exc())

    def _measure_together(
        self, model: nn.Module, evaluators: list[Evaluator], folder: RunFolder
    ) -> dict[str, float]:
        """Ask all evaluators at once or, where one of them fails in one of several processes, one by one."""
        part = str(folder.path)
        try:
            with together(part):
                return self._measure(model, evaluators, part)
        except Exception:  # whatever it was, it is found again below
            metrics: dict[str, float] = {}
            for evaluator in evaluators:
                metrics.update(self._measure_alone(model, evaluator, folder))
            return metrics

    def _measure_alone(self, model: nn.Module, evaluator: Evaluator, folder: RunFolder) -> dict[str, float]:
        part = f"{folder.path}, {evaluator.name}"
        try:
            with together(part):
                return self._measure(model, [evaluator], part)
        except Exception as error:  # an evaluator of anybody's; the others measure
            message = said(error)
        shared(lambda: folder.note_evaluators_error(evaluator.name, message))
        return {}

    def _measure(self, model: nn.Module, evaluators: list[Evaluator], part: str) -> dict[str, float]:
        arguments = {key: value for key, value in self.trainer.items() if key in _AUDIT_TRAINER_KEYS}
        trainer = L.Trainer(
            **arguments,
            **{key: value for key, value in _TRAINER_DEFAULTS.items() if key != "limit_val_batches"},
            logger=False,
            limit_test_batches=1,  # the evaluators look at whole streams themselves
            callbacks=[InStep(part), *evaluators],
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
                **({"forget_hmac": self._forget_hmac} if self.key_is_shared else {}),
                "seconds": seconds,
            },
            failures=self.failures,  # type: ignore[arg-type]
            metrics={**self._declared, **COST},
        )

    # ------------------------------------------------------------------ within

    def check(self) -> None:
        """Refuse what cannot work, before anything is trained or written.

        Raises:
            ValueError: If a Trainer cannot be made, the checkpoint does not load, two evaluators have one name, or one
                lacks what it needs.
        """
        trained = [] if self.source.checkpoint is not None else [(SOURCE, self.source.trainer)]
        for label, arguments in [*trained, *((label, run.trainer) for label, run in self.runs.items())]:
            require_trainer(label, {**_TRAINER_DEFAULTS, **self.trainer, **arguments})
        if self.source.checkpoint is not None:
            with isolated_rng():
                model = self.source.model()
                model.configure_model()
                _load_source(model, self.source.checkpoint)
        names: set[str] = set()
        for build in self.evaluators:
            evaluator = build()
            if evaluator.name in names:
                raise ValueError(
                    f"evaluators: two are called {evaluator.name!r}, so one's scores would replace the other's; give "
                    f"one of them another name, as in {type(evaluator).__name__}(name='{evaluator.name}_2')"
                )
            names.add(evaluator.name)
            evaluator.require(self.data)

    def claim_folder(self, overwrite: bool, inputs: Sequence[Path], key_file: Path | None) -> None:
        """Make the output folder ours, or say whose it is; without a key's file it gets a key of its own."""
        self.key_is_shared = key_file is not None
        self.key = secret_in(
            key_file or self.folder / KEY, "forgotten samples", make=True, argument="forget_key"
        )
        # seeds may be added and methods too: each part has a fingerprint of its own
        fixed = {key: self.config.get(key) for key in ("source", "data", "trainer")}
        identity = {"config": canonical(fixed), "forget_hmac": self._forget_hmac}
        runs = [f"{name}/seed_{seed}" for name in (SOURCE, *self.runs) for seed in self.seeds]
        claim(self.folder, identity, runs, inputs=inputs, overwrite=overwrite)
        if is_first():
            self.data.split.save(self.folder / "split.npz")

    @property
    def _forget_hmac(self) -> str:
        return positions_hash(self.data.split.forget, self.key)

    def _trainer(
        self, name: str, seed: int, arguments: Mapping[str, Any], callbacks: list[L.Callback]
    ) -> L.Trainer:
        # a copy a run: callbacks, loggers and plugins keep state
        described = {**_TRAINER_DEFAULTS, **self.trainer, **arguments}
        _, loggers = split_loggers(described.pop("logger", self.loggers))
        own = built(described)
        folder = self._run_folder(name, seed)
        csv = CSVLogger(folder.path, name="log", version="")
        given = [InStep(f"{name}, seed {seed}"), *(own.pop("callbacks", None) or []), RunFacts(folder.facts)]
        return L.Trainer(
            **own, logger=trainer_loggers(loggers, csv, name, seed), callbacks=[*given, *callbacks]
        )

    def _evaluators(self, seed: int) -> list[Evaluator]:
        made = [build() for build in self.evaluators]
        for evaluator in made:
            evaluator.seed = self._seed("evaluate", seed)
            evaluator.controls = False  # source and retrained model have rows of their own
            self._declared |= evaluator.declared()
            if evaluator.keeps is not None:
                add_written(self.folder, evaluator.keeps)
        # now, because an evaluator may keep things for the next model, and Lightning adds its own
        self._settings = [evaluator_settings(evaluator) for evaluator in made]
        return made

    def _kinds(self, name: str, source: nn.Module, seed: int, cache: Path | None) -> Kinds:
        """Return how models come to be in this comparison, for evaluators that want many of each kind."""

        def procedure(label: str, build: Callable[[nn.Module], L.LightningModule]) -> Procedure:
            run = self.source if label == SOURCE else self.runs[label]
            settings = {**_TRAINER_DEFAULTS, **self.trainer, **run.trainer}
            settings.pop("logger", None)

            def arguments() -> dict[str, Any]:
                if not _LIMITS & settings.keys():
                    raise ValueError(
                        f"trainer of {label!r}: evaluators with sources='many', and LiRA's online references, train "
                        "as the source was trained; give the source max_epochs, even where a checkpoint is given, or "
                        "take sources='one' and LiRA(mode='offline')"
                    )
                return built(settings)

            batch_size = None if isinstance(run, SourceRun) else run.batch_size
            return Procedure(build, arguments, self.identities.get((label, seed)), batch_size=batch_size)

        method = None if name in (SOURCE, RETRAIN) else procedure(name, self.runs[name].method)
        return Kinds(
            audited="source" if name == SOURCE else "retrained" if name == RETRAIN else "unlearned",
            method=method,
            retrain=procedure(RETRAIN, self.runs[RETRAIN].method),
            anew=procedure(SOURCE, lambda _: self.source.model()),
            source=source,
            seed=self._seed("evaluate", seed),
            cache=cache,
        )

    def _seed(self, purpose: str, seed: int) -> int:
        chosen = seed if self.vary in ("all", purpose) else self.seeds[0]
        return derive_seed(chosen, purpose) % 2**32

    def _run_folder(self, name: str, seed: int) -> RunFolder:
        return RunFolder(self.folder / name / f"seed_{seed}")

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
        """Return a hash of all that decides a part's result, or one like no other where that cannot be told."""
        run: Any = self.source if name == SOURCE else self.runs[name]
        trainer = {**self.trainer, **run.trainer, "logger": None}
        checkpoint = None if self.source.checkpoint is None else file_hash(Path(self.source.checkpoint))
        try:
            self._data_identity = self._data_identity or data_identity(self.data)
            batch_size = getattr(run, "batch_size", None)
            config = canonical(self._run_config(name, seed))
            # with the key, or who was forgotten could be tried against it
            return hash_of(self.key, config, self._data_identity, trainer, batch_size, checkpoint, more)
        except TypeError as error:
            rank_zero_warn(
                f"{name}, seed {seed}: done anew each time the comparison is started, since it {error}"
            )
            return uuid.uuid4().hex

    def _fail(self, name: str, seed: int, error: str, trace: str = "") -> None:
        self.failures.append({"model": name, "seed": seed, "error": error})
        if trace and is_first():
            self._run_folder(name, seed).note_error(trace)


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


def _times(trainer: L.Trainer) -> dict[str, float]:
    return {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("time/")}


def _load_source(model: L.LightningModule, checkpoint: str) -> None:
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"source: there is no checkpoint {checkpoint}; give the path of the source model's"
        )
    try:
        content = read_checkpoint(checkpoint, objects=True)
        load_state(model, content["state_dict"])
        mark_recorded(model, content)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"source: {checkpoint} does not load into {type(model).__name__}: {error}"
        ) from error
