"""``lightning-unlearn tune``: search a method's settings on other seeds than those that its result is shown on."""

import argparse
import copy
import json
import math
import os
import shutil
import statistics
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from lightning_unlearn.cli.compare import arguments, parsed, plain, print_result
from lightning_unlearn.cli.parsing import Parser
from lightning_unlearn.cli.recipes import recipe_file
from lightning_unlearn.comparison.api import Comparison, compare
from lightning_unlearn.comparison.folder import require_local
from lightning_unlearn.comparison.runs import RETRAIN, SOURCE, name_of
from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.cluster import connected, granted_cpus, on_cluster
from lightning_unlearn.core.files import write_json_atomic, write_text_atomic
from lightning_unlearn.core.ledger import as_ledger, require_forgotten_before
from lightning_unlearn.core.processes import said
from lightning_unlearn.core.surroundings import threads
from lightning_unlearn.core.terminal import say
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.ensembles.fingerprint import fingerprint
from lightning_unlearn.methods.base import OneShotModule, UnlearningModule
from lightning_unlearn.methods.base.searched import Search, search_space
from lightning_unlearn.methods.base.source import checkpoint_hash
from lightning_unlearn.reports.distance import Aim, aims, distance
from lightning_unlearn.reports.glossary import describe, with_unit

_NAME = "trial"
_OF_RESULT = ("seeds", "methods", "short_retrainings")  # which no trial sees
_ENDED = ("COMPLETE", "PRUNED")
_PLAIN = {"launcher": "plain", "ray_address": None, "resources": None}
_AS_IT_IS = ("warm_up", "batch_size")  # where None is drawn
# of one folder's trials
_NORMAL = (r".*trained anew; what changed", r"acceleration: .* ran in another start")
_LEAST = 5  # trials before one is given up for being worse than their median
_STUDY, _TRIALS, _HELD_OUT, _RECIPE, _FIT = (
    *("study.journal", "trials.json", "held_out", "recipe.yaml", "fit.yaml"),
)


def run(args: list[str]) -> int:
    """Parse the arguments, search, and print how the winner does on the held-out seeds."""
    try:
        import optuna
    except ImportError as error:
        raise ValueError("tune needs Optuna: pip install 'lightning-unlearn[tune]'") from error
    parser = Parser(_asked, "--recipe digits/compare --method reference_kl --trials 40")
    parser.allow_abbrev = False
    own, rest = parser.parse_known_args(args)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = Tuning(own, rest)
    with nullcontext() if search.resources is None else connected(search.ray_address):
        with FileLock(search.root / ".controls.lock"):  # others wait here for the first to train them
            study = search.study()
            search.wanted  # noqa: B018  trains source and retrained models where they are not there
            study.set_user_attr("settings", search.identity)
            search.enqueue_start(study)
        return _search(search, study)


def _search(search: "Tuning", study: Any) -> int:
    if search.resources is None:
        search.optimize(study)
    else:
        for _, ended in on_cluster(search.elsewhere, range(search.left(study)), search.resources):
            print(
                f"a trial is lost: {said(ended)}" if isinstance(ended, Exception) else ended, file=sys.stderr
            )
    try:
        with FileLock(search.root / ".held_out.lock", timeout=0):
            return search.finish(study)
    except Timeout:
        return 0  # another process of the same search prints it


def _asked(
    *,
    method: str,
    trials: int = 40,
    cost: float = 0.1,
    tuning_seeds: list[int] = [1000, 1001, 1002],  # noqa: B006  which nobody changes
    tuning: str | None = None,
    oracle: Literal["retrain", "none"] = "retrain",
) -> None:
    """Search a method's settings for the least distance to the retrained model at a bounded cost.

    Takes compare's arguments too; what is printed at the end is of compare's seeds, which the search does not see.
    Started again it goes on, and started several times at once the processes share the work, as the processes of a
    cluster do under --launcher ray.

    Args:
        method: Name of one of the file's methods, or a class.
        trials: Trials in all, of all processes (40).
        cost: Most of the retraining's time that it may take (0.1).
        tuning_seeds: Seeds to search on ([1000,1001,1002]).
        tuning: YAML file or recipe with what differs while searching, such as another class to forget.
        oracle: With none, be like non-members, without retraining.
    """


@dataclass
class Tuning:
    """A search: what each trial runs, and what its result is.

    Args:
        own: The search's arguments.
        args: Those of ``compare``.
    """

    own: argparse.Namespace
    args: list[str]

    def __post_init__(self) -> None:
        own, seeds = self.own, self.own.tuning_seeds
        in_range("trials", own.trials, "[1, inf)", whole=True)
        in_range("cost", own.cost, "(0, 1)", "; it is a share of the retraining's time")
        self.oracle = own.oracle == "retrain"
        self.args = [*self.args, *([] if self.oracle else [f"--config={json.dumps(_NO_ORACLE)}"])]
        (_, config), (parser, searching) = (parsed(self._data_args(held_out=each)) for each in (True, False))
        for each in (config, searching):
            _require_heeded(each)
        self.root = require_local(Path(config.output_dir))
        self.seeds = list(range(config.seeds)) if isinstance(config.seeds, int) else list(config.seeds)
        if not isinstance(seeds, list) or len(seeds) < 3 or set(seeds) & set(self.seeds):
            raise ValueError(
                f"tuning_seeds must be at least three, none of them in seeds={self.seeds}, on which the result "
                f"is shown; got {seeds}"
            )
        self.entry, self.name = self._entry(config)
        kind = _class_of(self.entry)
        self.optimizer = f"torch.optim.{kind.default_optimizer.__name__}"
        self.space, self.start = self._space(kind)
        if not self.space:
            raise ValueError(f"method: {kind.__name__} declares nothing to search in `searched`")
        given = arguments(parser, searching)["config"]
        decides = {key: value for key, value in given.items() if key not in _OF_RESULT}
        self.identity = fingerprint(decides, self.entry, seeds, own.oracle, own.cost)
        self.resources = None if config.launcher == "plain" else dict(config.resources or {})
        self.ray_address, self.here = config.ray_address, Path.cwd()
        self.root.mkdir(parents=True, exist_ok=True)

    def _entry(self, config: Any) -> tuple[dict[str, Any], str]:
        """Return the method as a file describes it, without what is left to its defaults, and its name."""
        entries = {each.name or name_of(each.method["class_path"]): plain(each) for each in config.methods}
        name = str(self.own.method)
        if name not in entries:
            named = {"methods": [{"method": {"class_path": self.own.method}, "trainer": {"max_epochs": 1}}]}
            (each,) = parsed([*self.args, f"--config={json.dumps(named)}"])[1].methods
            entries[self.own.method] = made = plain(each)
            kind = _class_of(made)
            if kind.one_shot or "max_epochs" in search_space(kind):  # and one pass is not the file's
                made["trainer"] = {}
            name = name_of(name)
        entry = entries[self.own.method]
        given = {k: v for k, v in (entry["method"].get("init_args") or {}).items() if v is not None}
        entry["method"] = {"class_path": entry["method"]["class_path"], "init_args": given}
        return {key: value for key, value in entry.items() if value is not None and key != "name"}, name

    def _space(self, kind: type[UnlearningModule]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what is searched, wide enough for the settings that the file has, and these, to be tried first."""
        space: dict[str, Search | tuple[Any, ...]] = search_space(kind)
        arguments, trainer = self.entry["method"]["init_args"], self.entry.get("trainer", {})
        if (
            (steps := trainer.get("max_steps", -1)) > 0
            and "max_epochs" in space
            and "max_epochs" not in trainer
        ):
            del space["max_epochs"]
            space["max_steps"] = Search(max(1, steps // 4), 2 * steps, log=True, whole=True)
        known = {**arguments, **trainer, "lr": kind.default_lr}
        if "optimizer" in arguments:
            known["lr"] = (arguments["optimizer"].get("init_args") or {}).get("lr")
        space = {
            name: each if name in _AS_IT_IS else _including(each, known.get(name))
            for name, each in space.items()
        }
        start = {name: known[name] for name in space if known.get(name) is not None}
        start |= {name: None for name in _AS_IT_IS if name in space}
        return space, {name: value for name, value in start.items() if _holds(space[name], value)}

    # ------------------------------------------------------------------ what is run

    def compare(
        self, folder: Path, seeds: list[int], methods: list[dict[str, Any]], *, held_out: bool = False
    ) -> Comparison:
        """Compare methods, on the search's data or those that are held out; a page is only of these."""
        searching = {"page": False, "quiet": True, "short_retrainings": []} | (
            {"retrain_2": False} if not self.oracle else {}
        )
        settings = {
            "methods": methods,
            "seeds": seeds,
            "output_dir": str(folder),
            **({} if held_out and self.oracle else searching),
        }
        with warnings.catch_warnings():
            for normal in () if held_out else _NORMAL:
                warnings.filterwarnings("ignore", message=normal)
            return _tried([*self._data_args(held_out=held_out), f"--config={json.dumps(settings)}"])

    def _data_args(self, *, held_out: bool) -> list[str]:
        """Return the arguments, with what differs while searching after all of them."""
        return (
            self.args
            if held_out or not self.own.tuning
            else [*self.args, f"--config={_file(self.own.tuning)}"]
        )

    def _require_current(self) -> None:
        """Refuse a source that would be trained again on what the ledger says it has forgotten."""
        for held_out in (False, True):
            given = arguments(*parsed(self._data_args(held_out=held_out)))
            data, source = given["data"](), given["source"].checkpoint
            record, data.ledger = as_ledger(given["ledger"]) or data.ledger, None
            if record is not None and source is not None:
                data.prepare_data()
                data.setup("fit")
                require_forgotten_before(record, checkpoint_hash(source), data.earlier)

    def _require_like_nonmembers(self) -> None:
        """Refuse to aim at the test set's answers where no model that never saw the forget set gives them."""
        data = arguments(*parsed(self._data_args(held_out=False)))["data"]()
        data.ledger = None
        data.prepare_data()
        data.setup("fit")
        if reason := data.unlike_nonmembers:
            raise ValueError(
                f"oracle: none aims at answers as on samples never trained on, and {reason}; give --oracle retrain"
            )

    @cached_property
    def wanted(self) -> dict[str, Aim]:
        """What a trial should be, of the source and the retrained models of the tuning seeds."""
        self._require_current()
        if not self.oracle:
            self._require_like_nonmembers()
        comparison = self.compare(self.root / "controls", self.own.tuning_seeds, [])
        if comparison.failed:
            raise ValueError(f"a control failed: {comparison.report['failures'][0]['error']}")
        if not self.own.tuning and not str(comparison.report["data"]["split"]).startswith("forget"):
            say(
                "the seeds share one forget set, so the search sees the one that its result is shown on; give another "
                "for the search with --tuning FILE",
                sys.stderr,
            )
        return aims(comparison.report, oracle=self.oracle)

    def study(self) -> Any:
        """Return the search's trials so far, which all its processes share; refuse those of another search."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        study = optuna.create_study(
            study_name="tune",
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(self.root / _STUDY))),
            sampler=optuna.samplers.TPESampler(),
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        if study.user_attrs.get("settings", self.identity) != self.identity:
            raise ValueError(
                f"output_dir: {self.root} holds a search with other settings; choose another folder"
            )
        return study

    def enqueue_start(self, study: Any) -> None:
        """Have the file's own settings tried first, unless they were, or are to be, or are being tried."""
        same = (
            each
            for each in study.get_trials(deepcopy=False)
            if each.system_attrs.get("fixed_params", each.params) == self.start
        )
        if not any(each.state.name in (*_ENDED, "WAITING") or self._lives(each) for each in same):
            study.enqueue_trial(self.start)

    def _lives(self, trial: Any) -> bool:
        """Say whether a trial runs, in a process that still holds its folder."""
        if trial.state.name != "RUNNING" or "worker" not in trial.user_attrs:
            return False
        try:
            with FileLock(self.root / f".{trial.user_attrs['worker']}.lock", timeout=0):
                return False
        except Timeout:
            return True

    def left(self, study: Any) -> int:
        """Return how many trials are still to end."""
        ended = [each for each in study.get_trials(deepcopy=False) if each.state.name in _ENDED]
        return max(0, int(self.own.trials) - len(ended))

    def optimize(self, study: Any, most: int | None = None) -> str:
        """Run trials until all have ended, or so many; return how the last one did."""
        told: list[str] = []

        def tell(study: Any, trial: Any) -> None:
            told.append(_told(trial))
            if most is None:
                print(told[-1], file=sys.stderr)
            if not self.left(study):
                study.stop()

        if self.left(study):
            with self.worker():
                study.optimize(self.trial, n_trials=most, callbacks=[tell])
        return told[-1] if told else "nothing was left to try"

    def elsewhere(self, number: int) -> str:
        """Run a trial in a process of a cluster, and return how it did."""
        os.chdir(self.here)
        if (plain := f"--config={json.dumps(_PLAIN)}") not in self.args:
            self.args = [*self.args, plain]
        with threads(granted_cpus()):
            return self.optimize(self.study(), 1)

    def worker(self) -> FileLock:
        """Take a folder of one's own, with the controls in it, and return the lock that keeps others out."""
        for number in range(1000):
            lock = FileLock(self.root / f".worker_{number}.lock", timeout=0)
            with suppress(Timeout):
                lock.acquire()
                self.folder = self.root / f"worker_{number}"
                shutil.copytree(self.root / "controls", self.folder, dirs_exist_ok=True)
                return lock
        raise ValueError("more than 1000 processes share this search")

    def trial(self, trial: Any) -> tuple[float, float]:
        """Run one trial: on the first tuning seed and, where that is promising, on all."""
        import optuna

        trial.set_user_attr("worker", self.folder.name)
        drawn = {name: _draw(trial, name, space) for name, space in self.space.items()}
        entry = {**self.with_settings(drawn), "name": _NAME}
        for seeds in (self.own.tuning_seeds[:1], self.own.tuning_seeds):
            comparison = self.compare(self.folder, seeds, [entry])
            far, cost = self.judged(comparison)
            if comparison.failed or not math.isfinite(far):
                raise optuna.TrialPruned(str(comparison.report["failures"][:1]))
            if len(seeds) == 1:
                trial.set_user_attr("first", far)
                complete = trial.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
                before = [each.user_attrs["first"] for each in complete]
                late = len(before) >= _LEAST and far > statistics.median(before)
                if late or cost > 2 * self.own.cost:
                    raise optuna.TrialPruned
        trial.set_constraint("cost", cost - self.own.cost)
        return far, cost

    def judged(self, comparison: Comparison) -> tuple[float, float]:
        """Return a trial's distance, and its cost as a share of the retraining (without one, of the source's)."""
        report = comparison.report
        if _NAME not in report["models"]:
            return math.inf, math.inf
        whole = report["models"][RETRAIN if self.oracle else SOURCE]["time/total_s"]["mean"]
        return distance(self.wanted, report, _NAME), report["models"][_NAME]["time/total_s"]["mean"] / whole

    def with_settings(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the method's entry with settings of a trial."""
        entry = copy.deepcopy(self.entry)
        arguments = entry["method"]["init_args"]
        for name, value in drawn.items():
            if name == "lr":
                optimizer = arguments.get("optimizer") or {"class_path": self.optimizer}
                given = {**(optimizer.get("init_args") or {}), "lr": value}
                arguments["optimizer"] = {"class_path": optimizer["class_path"], "init_args": given}
            elif name in _AS_IT_IS:
                if value is None:
                    continue
                if name == "batch_size":
                    entry[name] = value
                else:  # and the rate ends near zero
                    schedule = {"class_path": "lightning_unlearn.models.Annealed", "init_args": {name: value}}
                    arguments["lr_scheduler"] = schedule
            elif name in ("max_epochs", "max_steps"):
                others = {
                    k: v for k, v in entry.get("trainer", {}).items() if k not in ("max_epochs", "max_steps")
                }
                entry["trainer"] = {**others, name: value}
            else:
                arguments[name] = value
        return entry

    # ------------------------------------------------------------------ what comes of it

    def finish(self, study: Any) -> int:
        """Write the trials and the winner's recipe, run it on the held-out seeds and print that alone."""
        complete = [each for each in study.get_trials(deepcopy=False) if each.values is not None]
        front = {each.number for each in study.best_trials}
        told = [
            {
                "number": t.number,
                "distance": t.values[0],
                "cost": t.values[1],
                "on_front": t.number in front,
                **t.params,
            }
            for t in complete
        ]
        write_json_atomic(self.root / _TRIALS, told)
        fitting = [each for each in complete if each.values[1] <= self.own.cost]
        if not fitting:
            raise ValueError(
                f"cost: no trial of {len(complete)} that finished cost at most {self.own.cost:.1%} of retraining; "
                f"allow more, or more trials. All are in {self.root / _TRIALS}"
            )
        best = min(fitting, key=lambda each: (each.values[0], each.values[1]))
        entry = self.with_settings({name: _rounded(value) for name, value in best.params.items()})
        recipe, fit = self.write(entry)
        comparison = self.compare(
            self.root / _HELD_OUT, self.seeds, [{**entry, "name": self.name}], held_out=True
        )
        if self.oracle:
            print_result(comparison, None)
        else:
            for name in self.wanted:
                metric = describe(name, comparison.report)
                values = (comparison.report["models"][each][name] for each in (SOURCE, self.name))
                before, after = (with_unit(metric, value) for value in values)
                say(f"{metric.label}: {after}, source {before}")
        say(
            f"Recipe, for compare: {recipe}\nThe same, for fit:   {fit}\nTrials and front:    {self.root / _TRIALS}"
        )
        return 1 if comparison.failed else 0

    def write(self, entry: dict[str, Any]) -> tuple[Path, Path]:
        """Write the winner as files that ``compare`` and ``fit`` take."""
        import yaml  # type: ignore[import-untyped]

        head = (
            f"# Found by lightning-unlearn tune on seeds {self.own.tuning_seeds}; its result on seeds {self.seeds}, "
            f"which the\n# search did not see, is in {_HELD_OUT}/\n"
        )
        dump = partial(yaml.safe_dump, sort_keys=False)
        fit = {"model": entry["method"], "trainer": entry.get("trainer", {})}
        if "batch_size" in entry:
            own = {"batch_size": entry["batch_size"]}
            fit["data"] = {"class_path": UnlearningDataModule.__name__, "init_args": own}
        recipe = {"methods+": [{"name": f"{self.name}_tuned", **entry}]}
        return (
            write_text_atomic(self.root / _RECIPE, f"{head}{dump(recipe)}"),
            write_text_atomic(self.root / _FIT, f"{head}{dump(fit)}"),
        )


def _tried(args: list[str]) -> Comparison:
    """Compare without a ledger, since what is tried is no deletion."""
    given = arguments(*parsed(args))
    build = given["data"]

    def data() -> UnlearningDataModule:
        built: UnlearningDataModule = build()
        built.ledger = None
        return built

    return compare(**{**given, "data": data, "ledger": None})


def _told(trial: Any) -> str:
    """Say how a trial did."""
    did = (
        "given up" if trial.values is None else f"distance {trial.values[0]:.3g}, cost {trial.values[1]:.1%}"
    )
    settings = ", ".join(
        f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items()
    )
    return f"trial {trial.number}: {did} ({settings})"


class NotRetrained(OneShotModule):
    """The source as it is, in place of a retrained model, in a search that is to do without one."""

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Leave the weights as they are."""


_NO_ORACLE = {
    "retrain": {
        "method": {"class_path": f"{__name__}.{NotRetrained.__name__}"},
        "trainer": {"max_epochs": 0},
    },
    "retrain_2": False,
    "short_retrainings": [],
}


def _require_heeded(config: Any) -> None:
    """Refuse arguments of ``compare`` that a search cannot heed."""
    if config.full:
        raise ValueError("--full: it is for the scenarios of compare; tune searches in one")
    if config.after is not None:
        raise ValueError("after: tune searches on one request, the first; leave it out")
    for key in ("scenarios", "full_scenarios"):
        if config[key]:
            raise ValueError(
                f"{key}: tune searches in one, and there are {', '.join(map(str, config[key]))}; give --{key}=null "
                "(or take them out of the files), and --config FILE with what one of them changes"
            )
    if config.clean:
        raise ValueError(
            "clean=True: it would remove the controls, which all trials share, after each; leave it out (--clean=false "
            f"where a file has it), and remove {config.output_dir} when all is read"
        )


def _class_of(entry: Mapping[str, Any]) -> type[UnlearningModule]:
    import pkgutil

    kind: type[UnlearningModule] = pkgutil.resolve_name(entry["method"]["class_path"])
    return kind


def _file(name: str) -> str:
    return name if Path(name).is_file() else str(recipe_file(name))


def _draw(trial: Any, name: str, space: Search | tuple[Any, ...]) -> Any:
    if not isinstance(space, Search):
        return trial.suggest_categorical(name, space)
    if space.whole:
        return trial.suggest_int(name, int(space.low), int(space.high), log=space.log)
    return _rounded(trial.suggest_float(name, space.low, space.high, log=space.log))


def _including(space: Search | tuple[Any, ...], value: Any) -> Search | tuple[Any, ...]:
    """Return a space wide enough for a value; the same one where that cannot be."""
    if value is None or _holds(space, value):
        return space
    if not isinstance(space, Search):
        return (*space, value)
    if not isinstance(value, int | float) or (space.log and value <= 0):
        return space
    return space._replace(low=min(space.low, value), high=max(space.high, value))


def _holds(space: Search | tuple[Any, ...], value: Any) -> bool:
    if not isinstance(space, Search):
        return value in space
    return isinstance(value, int | float) and space.low <= value <= space.high


def _rounded(value: Any) -> Any:
    """Return a number as a recipe is to hold it, and as it was tried."""
    return float(f"{value:.3g}") if isinstance(value, float) else value
