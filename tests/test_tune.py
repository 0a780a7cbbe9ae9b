"""A search tunes on other seeds than it reports, goes on where it stopped, and leaves a recipe."""

import contextlib
import json
import os
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torchvision  # noqa: F401  what it sets in the environment is not a test's doing
import yaml

import lightning_unlearn.cli.compare  # noqa: F401  nor what Lightning sets
from lightning_unlearn.cli import tune
from lightning_unlearn.cli.arguments import with_rule
from lightning_unlearn.cli.compare import arguments, parsed
from lightning_unlearn.cli.main import main
from lightning_unlearn.cli.parsing import Parser
from lightning_unlearn.cli.recipes import recipe_file
from lightning_unlearn.core.ledger import Ledger
from lightning_unlearn.methods.base.searched import Search

pytest.importorskip("optuna")

CONFIG = """
source:
  model:
    class_path: Classifier
    init_args:
      net: {class_path: lightning_unlearn.models.MLP, init_args: {in_features: 64, hidden: [64], num_classes: 10}}
      optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.01}}
  trainer: {max_epochs: 10}
data: {class_path: lightning_unlearn.cli.demo.MislabelledDigits, init_args: {redraw: true}}
methods:
  - method: {class_path: NegGradPlus, init_args: {optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.004}}}}
    trainer: {max_epochs: 2}
seeds: 1
retrain_2: false
short_retrainings: []
trainer: {accelerator: cpu}
threads: 1
quiet: true
output_dir: out
"""
DIGITS = (
    "data: {class_path: UnlearningDataModule, init_args: {datamodule: {class_path: Digits}, forget: 0.1}}"
)
TUNE = ["tune", "--config=compare.yaml", "--method=neg_grad_plus"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("compare.yaml").write_text(CONFIG)


def in_processes(arguments: list[str], count: int) -> list[int]:
    """Run a command in several processes at once, each a fork of this one; return what each ends with."""
    started = []
    for number in range(count):
        if (child := os.fork()) == 0:  # pragma: no cover  (in another process)
            with Path(f"printed_{number}").open("w") as file, contextlib.redirect_stdout(file):
                status = main(arguments)
            os._exit(status)
        started.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in started]


@pytest.mark.slow
def test_processes_share_a_search_that_leaves_a_recipe_and_shows_held_out_seeds_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    longer = CONFIG.replace(
        "max_epochs: 10", "max_epochs: 20"
    )  # or on a busy machine a trial may cost too much
    Path("compare.yaml").write_text(longer)
    search = [*TUNE, "--trials=2", "--cost=0.9", "--tuning_seeds=[7,8,9]"]
    search.append(
        "--source.trainer.max_epochs=20"
    )  # or on a busy machine a trial may cost more than retraining
    assert in_processes(search, 2) == [0, 0]
    printed = [Path(f"printed_{number}").read_text() for number in (0, 1)]
    assert sum("Recipe, for compare" in each for each in printed) >= 1, "the last one to end shows the result"
    workers = sorted(Path("out").glob("worker_*"))
    assert len(workers) == 2
    for folder in workers:  # both tried something, on the same source and retrained models
        assert (folder / "trial" / "seed_7").is_dir()
        for file in Path("out/controls").glob("*/seed_*/training.json"):
            assert (folder / file.relative_to("out/controls")).read_bytes() == file.read_bytes()

    assert main(search) == 0, "it is done, and shows its result again"
    shown = capsys.readouterr().out
    trials = json.loads(Path("out/trials.json").read_text())
    assert (
        len({trial["number"] for trial in trials}) == len(trials) in (2, 3)
    )  # one that runs when the last ends is not lost
    first = min(trials, key=lambda trial: trial["number"])
    assert (first["lr"], first["max_epochs"]) == (0.004, 2), "the file's own settings are tried first"
    assert first["warm_up"] is first["batch_size"] is None
    best = min((trial for trial in trials if trial["cost"] <= 0.9), key=lambda trial: trial["distance"])
    assert any(trial["on_front"] for trial in trials)

    held_out, controls = (
        json.loads(Path(f"out/{name}/report.json").read_text()) for name in ("held_out", "controls")
    )
    assert (held_out["seeds"], controls["seeds"]) == ([0], [7, 8, 9])
    forgotten = [
        np.load(f"out/{name}/source/seed_{seed}/split.npz")["forget"].tolist()
        for name, seed in (("held_out", 0), ("controls", 7), ("controls", 8), ("controls", 9))
    ]
    assert len(set(map(tuple, forgotten))) == 4, "each seed has a forget set of its own"
    assert f"{held_out['models']['neg_grad_plus']['accuracy/test']['mean']:.2%}"[:-1] in shown
    assert "trial" not in shown.replace("trials.json", "")

    (recipe,) = yaml.safe_load(Path("out/recipe.yaml").read_text())["methods+"]
    fit = yaml.safe_load(Path("out/fit.yaml").read_text())
    for model, trainer in ((recipe["method"], recipe["trainer"]), (fit["model"], fit["trainer"])):
        assert trainer["max_epochs"] == best["max_epochs"]
        assert model["init_args"]["optimizer"]["init_args"]["lr"] == pytest.approx(best["lr"], rel=1e-2)

    assert main(["compare", "--config=compare.yaml", "--config=out/recipe.yaml", "--output_dir=again"]) == 0
    again = json.loads(Path("again/report.json").read_text())["models"]
    tuned, told = again["neg_grad_plus_tuned"], held_out["models"]["neg_grad_plus"]
    assert tuned["accuracy/forget"] == told["accuracy/forget"], "what the file says is what was shown"
    source = Path("out/controls/source/seed_7/model.ckpt")
    data = ["--data=lightning_unlearn.cli.demo.MislabelledDigits", "--trainer.default_root_dir=fitted"]
    assert main(["fit", "--config=out/fit.yaml", f"--model.source={source}", *data]) in (0, None)
    assert list(Path("fitted").rglob("*.ckpt"))
    capsys.readouterr()

    assert main([*search[:-1], "--tuning_seeds=[7,8,10]"]) == 2
    assert "holds a search with other settings" in capsys.readouterr().err


def test_a_schedule_and_a_batch_size_are_drawn_or_left_as_they_are() -> None:
    own, rest = Parser(tune._asked, "").parse_known_args(TUNE[1:])
    search = tune.Tuning(own, rest)
    assert search.start.items() >= {"warm_up": None, "batch_size": None, "lr": 0.004}.items()
    assert search.with_settings(search.start) == search.entry
    drawn = search.with_settings({"warm_up": 0.2, "batch_size": 16})
    schedule = {"class_path": "lightning_unlearn.models.Annealed", "init_args": {"warm_up": 0.2}}
    assert (drawn["method"]["init_args"]["lr_scheduler"], drawn["batch_size"]) == (schedule, 16)
    search.write(drawn)
    for command in (
        ["compare", "--config=compare.yaml", "--config=out/recipe.yaml"],
        ["fit", "--config=out/fit.yaml", "--model.source=a.ckpt", "--data.datamodule=Digits"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--print_config"])
        assert stop.value.code in (0, None)


@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        ("benchmark/slice", "rewind"),
        ("benchmark/slice_resnet18", "shrink_perturb"),
        ("benchmark/class_mnist", "neg_grad_plus"),
        ("benchmark/location30", "neg_grad_plus"),  # which leaves what it weighs to the defaults
        ("mnist/compare", "top_k"),
    ],
)
def test_the_first_trial_is_the_files_own_entry_whatever_its_settings(recipe: str, method: str) -> None:
    """Steps, a rate or an ascent beyond what is searched for others are within reach of the search, too."""
    file = f"--config={recipe_file(recipe)}"
    own, rest = Parser(tune._asked, "").parse_known_args([file, f"--method={method}", "--output_dir=out"])
    search = tune.Tuning(own, rest)
    entry = search.with_settings(search.start)
    assert entry["trainer"] == search.entry["trainer"]
    assert {**entry["method"]["init_args"], **search.entry["method"]["init_args"]} == entry["method"][
        "init_args"
    ]
    assert search.start.keys() == search.space.keys(), "nothing of the first trial is left to chance"
    assert {"max_steps", "max_epochs"} & search.entry["trainer"].keys() <= search.space.keys()


@pytest.mark.parametrize(("method", "passes"), [("DELETE", Search(2, 20, whole=True)), ("SSD", None)])
def test_a_method_that_the_file_lacks_has_no_length_of_its_own(method: str, passes: Search | None) -> None:
    own, rest = Parser(tune._asked, "").parse_known_args(
        ["--config=compare.yaml", f"--method={method}", "--output_dir=out"]
    )
    search = tune.Tuning(own, rest)
    assert search.space.get("max_epochs") == passes
    assert "max_epochs" not in search.start
    assert not search.entry.get("trainer")


def test_a_trial_is_given_up_where_it_is_worse_than_the_median_or_far_too_dear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged = iter(
        [
            *[(far, 0.05) for far in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5)],
            (3.5, 0.05),
            (0.1, 0.3),
            (2, 0.15),
            (2, 0.15),
        ]
    )
    seeds: list[int] = []
    shown = SimpleNamespace(failed=False, report={"failures": []})
    monkeypatch.setattr(
        tune.Tuning, "compare", lambda self, folder, of, entries: seeds.append(len(of)) or shown
    )
    monkeypatch.setattr(tune.Tuning, "judged", lambda *_: next(judged))
    own, rest = Parser(tune._asked, "").parse_known_args([*TUNE[1:], "--trials=8"])
    search = tune.Tuning(own, rest)
    (search.root / "controls").mkdir()
    study = search.study()
    search.optimize(study)
    assert [each.state.name for each in study.trials] == [*["COMPLETE"] * 5, "PRUNED", "PRUNED", "COMPLETE"]
    assert seeds == [*[1, 3] * 5, 1, 1, 1, 3], "what is given up saw one seed alone"
    assert {each.number for each in study.best_trials} == {0}, "the last costs more than a tenth"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_without_an_oracle_nothing_is_retrained(capsys: pytest.CaptureFixture[str]) -> None:
    attack = "--evaluators+={class_path: MembershipInference, init_args: {bootstrap: 10, attack: logistic}}"
    arguments = [*TUNE, "--trials=1", "--cost=0.9", "--oracle=none", attack, "--source.trainer.max_epochs=20"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "MIA" in printed or "Membership inference" in printed
    assert "retrained model" not in printed
    steps = {
        name: json.loads(Path(f"out/controls/{name}/seed_1000/facts.json").read_text())["steps"]
        for name in ("source", "retrain")
    }
    assert steps["source"] > 0 == steps["retrain"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tuning_seeds=[0,1,2]"], "tuning_seeds must be at least three, none of them in seeds"),
        (["--tuning_seeds=[7]"], "tuning_seeds must be at least three"),
        (["--cost=2"], "cost must lie in (0, 1)"),
        (["--method=Nobody"], "Nobody"),
        (["--method=CertifiedHead"], "CertifiedHead declares nothing to search"),
        (
            ["--clean=true"],
            "clean=True: it would remove the controls, which all trials share, after each; leave it out",
        ),
        (
            ["--config={scenarios: {one: {seeds: 1}, two: {}}}"],
            "scenarios: tune searches in one, and there are one, two",
        ),
        (
            ["--config={full_scenarios: {slow: {}}}"],
            "full_scenarios: tune searches in one, and there are slow; give",
        ),
        (["--config={clean: true}"], "(--clean=false where a file has it)"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_trained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):  # jsonargparse's own way to say no
        assert main([*TUNE, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("oracle", ["retrain", "none"])
def test_what_is_held_out_is_of_the_files_own_data(oracle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    shown = SimpleNamespace(failed=False, report={})
    monkeypatch.setattr(tune, "_tried", lambda args: given.append(args) or shown)
    monkeypatch.setattr(tune, "print_result", lambda *_: None)
    Path("other.yaml").write_text("data: {init_args: {redraw: true}}\n")
    words = [*TUNE[1:], "--tuning=other.yaml", f"--oracle={oracle}"]
    own, rest = Parser(tune._asked, "").parse_known_args(words)
    search = tune.Tuning(own, rest)
    search.__dict__["wanted"] = {}
    best = SimpleNamespace(values=(0.1, 0.05), number=0, params={"lr": 0.01})
    study = SimpleNamespace(get_trials=lambda **_: [best], best_trials=[best])
    assert search.finish(study) == 0
    search.compare(Path("controls"), [7, 8, 9], [])
    assert ["--config=other.yaml" in args for args in given] == [False, True]
    assert ['"page": false' in args[-1] for args in given] == [oracle == "none", True]


def test_without_an_oracle_a_forgotten_class_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    data = {
        "class_path": "UnlearningDataModule",
        "init_args": {
            "datamodule": {"class_path": "Digits"},
            "forget": {"class_path": "Classes", "init_args": {"classes": 3}},
        },
    }
    Path("class.yaml").write_text(yaml.safe_dump({"data": data}))
    assert main([*TUNE, "--oracle=none", "--config=class.yaml"]) == 2
    assert "oracle: none aims at answers as on samples never trained on" in capsys.readouterr().err
    assert not Path("out/controls").exists()


def test_what_is_normal_of_trials_in_one_folder_is_not_warned_of_and_a_shared_forget_set_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tried(args: list[str]) -> Any:
        for text in (
            "trial, seed 7: trained anew; what changed: lr",
            "acceleration: trial ran in another start",
            "odd",
        ):
            warnings.warn(text, stacklevel=1)
        return SimpleNamespace(failed=False, report={"data": {"split": "one list"}})

    monkeypatch.setattr(tune, "_tried", tried)
    monkeypatch.setattr(tune, "aims", lambda *_, **__: {})
    own, rest = Parser(tune._asked, "").parse_known_args(TUNE[1:])
    search = tune.Tuning(own, rest)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert search.wanted == {}
        assert [str(each.message) for each in seen] == ["odd"]
        search.compare(Path("out"), [0], [], held_out=True)
        assert len(seen) == 4
    assert capsys.readouterr().err.startswith("the seeds share one forget set")


def test_a_cluster_does_the_trials_and_each_is_a_plain_comparison(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cloudpickle = pytest.importorskip("cloudpickle", reason="comes with others")
    given: list[list[str]] = []
    shown = SimpleNamespace(failed=False, report={"data": {"split": "forget sets"}})
    monkeypatch.setattr(tune, "_tried", lambda args: given.append(args) or shown)
    monkeypatch.setattr(tune.Tuning, "judged", lambda *_: (0.1, 0.05))
    monkeypatch.setattr(tune.Tuning, "finish", lambda self, study: len(study.get_trials()))
    monkeypatch.setattr(tune, "aims", lambda *_, **__: {})
    monkeypatch.setattr(tune, "connected", contextlib.nullcontext)
    monkeypatch.setattr(tune, "granted_cpus", lambda: 1)

    def on_cluster(work: Any, tasks: Any, resources: Any) -> Any:
        assert resources == {"cpu": 2}
        work = pickle.loads(cloudpickle.dumps(work))  # as it goes to another process
        return [(task, work(task)) for task in tasks]

    monkeypatch.setattr(tune, "on_cluster", on_cluster)
    Path("out/controls").mkdir(parents=True)
    ray = ["--launcher=ray", "--resources={cpu: 2}", "--trials=2"]
    assert main([*TUNE, *ray]) == 2
    assert "trial 1: distance 0.1, cost 5.0%" in capsys.readouterr().err
    plain = [any('"launcher": "plain"' in each for each in args) for args in given]
    assert plain == [False, *[True] * 4], "the controls, and two trials of two comparisons each"
    assert main([*TUNE, *ray]) == 2, "there is nothing left to try"


LEDGERS = ["--ledger=own.jsonl", "--config={data: {init_args: {ledger: own.jsonl}}}"]


def searching(*words: str) -> tune.Tuning:
    """Return the search of a command line."""
    own, rest = Parser(tune._asked, "").parse_known_args(with_rule([*TUNE, *words])[1:])
    return tune.Tuning(own, rest)


@pytest.mark.parametrize("ledger", LEDGERS)
def test_what_a_search_tries_is_in_no_ledger(ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("digits.yaml").write_text(DIGITS)
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "compare", lambda **arguments: given.append(arguments))
    search = searching("--config=digits.yaml", ledger)
    for held_out in (False, True):
        search.compare(Path("out"), [7], [], held_out=held_out)
    assert [(each["ledger"], each["data"]().ledger) for each in given] == [(None, None)] * 2


@pytest.mark.parametrize("ledger", LEDGERS)
def test_a_source_that_its_ledger_refuses_is_refused_before_anything_is_trained(
    ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("digits.yaml").write_text(DIGITS)
    Path("source.ckpt").touch()

    def refuse(record: Ledger, source: str, earlier: Any) -> None:
        raise ValueError(f"{record.path} knows {source}, {len(earlier)}")

    monkeypatch.setattr(tune, "checkpoint_hash", lambda file: f"the hash of {file}")
    monkeypatch.setattr(tune, "require_forgotten_before", refuse)
    monkeypatch.setattr(tune, "_tried", lambda args: pytest.fail("nothing is to be trained"))
    search = searching("--config=digits.yaml", ledger, "--source.checkpoint=source.ckpt")
    with pytest.raises(ValueError, match=r"own.jsonl knows the hash of source.ckpt, 1"):
        search.wanted  # noqa: B018
    assert not list(Path().glob("own.jsonl*")), "and nothing is written for it"


@pytest.mark.parametrize(
    "words", [["--forget", "class:3"], ["--data.forget=class:3"], ["--data.init_args.forget=class:3"]]
)
def test_what_differs_while_searching_comes_after_the_command_line(words: list[str]) -> None:
    Path("digits.yaml").write_text(DIGITS)
    Path("other.yaml").write_text(
        "data: {init_args: {forget: {class_path: Classes, init_args: {classes: 5}}}}\n"
    )
    search = searching("--config=digits.yaml", "--tuning=other.yaml", *words)
    rules = [
        arguments(*parsed(search._data_args(held_out=held_out)))["data"]().rule.classes
        for held_out in (False, True)
    ]
    assert rules == [5, 3]


@pytest.mark.parametrize(
    "words",
    [
        ["--margins={accuracy/forget: 0.5}"],
        ["--vary=training"],
        ["--retrain={method: {class_path: Retrain}, trainer: {max_epochs: 7}}"],
        ["--retrain_2=true"],
        ["--fast=true"],
        ["--adapter={class_path: Adapter, init_args: {task: classes}}"],
        ["--tuning=other.yaml"],
        ["--trainer.max_epochs=4"],
    ],
)
def test_what_changes_a_distance_makes_another_search(words: list[str]) -> None:
    Path("other.yaml").write_text("margins: {accuracy/forget: 0.5}\n")
    assert searching(*words).identity != searching().identity


def test_what_changes_no_distance_goes_on_with_the_search() -> None:
    others = [
        "--seeds=2",
        "--threads=2",
        "--short_retrainings=[0.5]",
        "--ledger=own.jsonl",
        "--output_dir=other",
    ]
    assert searching(*others).identity == searching().identity


def test_the_tuning_files_content_decides_and_not_its_name() -> None:
    for name, margin in (("a", 0.5), ("b", 0.5), ("c", 0.25)):
        Path(f"{name}.yaml").write_text(f"margins: {{accuracy/forget: {margin}}}\n")
    a, b, c = (searching(f"--tuning={name}.yaml").identity for name in "abc")
    assert a == b != c


def test_another_search_is_refused_before_its_controls_are_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[list[str]] = []
    shown = SimpleNamespace(failed=False, report={"data": {"split": "forget sets"}})
    monkeypatch.setattr(tune, "_tried", lambda args: given.append(args) or shown)
    monkeypatch.setattr(tune, "aims", lambda *_, **__: {})
    monkeypatch.setattr(tune.Tuning, "optimize", lambda *_: "")
    monkeypatch.setattr(tune.Tuning, "finish", lambda *_: 0)
    assert main(TUNE) == main(TUNE) == 0
    assert len(given) == 2
    assert main([*TUNE, "--margins={accuracy/forget: 0.5}"]) == 2
    assert "output_dir: out holds a search with other settings" in capsys.readouterr().err.replace(
        os.getcwd() + "/", ""
    )
    assert len(given) == 2


@pytest.mark.parametrize(
    ("state", "alive", "again"),
    [
        ("FAIL", False, True),
        ("RUNNING", False, True),
        ("RUNNING", True, False),
        ("WAITING", False, False),
        ("COMPLETE", False, False),
        ("PRUNED", False, False),
    ],
)
def test_the_files_own_settings_are_tried_after_a_stop_in_their_trial(
    state: str, alive: bool, again: bool
) -> None:
    import optuna

    search = searching()
    study = search.study()
    search.enqueue_start(study)
    (search.root / "controls").mkdir()
    lock = search.worker()
    if state != "WAITING":
        trial = study.ask()
        trial.set_user_attr("worker", search.folder.name)
        if state != "RUNNING":
            study.tell(trial, [1.0, 0.1] if state == "COMPLETE" else None, optuna.trial.TrialState[state])
    if not alive:
        lock.release()
    search.enqueue_start(study)
    waiting = [each for each in study.get_trials() if each.state.name == "WAITING"]
    assert len(waiting) == again + (state == "WAITING")
    assert all(each.system_attrs["fixed_params"] == search.start for each in waiting)


def test_a_search_that_was_stopped_in_its_first_trial_begins_with_the_files_own_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tune.Tuning, "wanted", {})
    monkeypatch.setattr(tune.Tuning, "finish", lambda *_: 0)
    shown = SimpleNamespace(failed=False, report={"failures": []})
    tried: list[dict[str, Any]] = []

    def compare(self: tune.Tuning, folder: Path, seeds: list[int], entries: list[dict[str, Any]]) -> Any:
        tried.append({key: value for key, value in entries[0].items() if key != "name"})
        if len(tried) == 1:
            raise KeyboardInterrupt
        return shown

    monkeypatch.setattr(tune.Tuning, "compare", compare)
    monkeypatch.setattr(tune.Tuning, "judged", lambda *_: (0.1, 0.05))
    Path("out/controls").mkdir(parents=True)
    assert [main([*TUNE, "--trials=1"]) for _ in range(2)] == [130, 0]
    assert tried == [searching().entry] * 3


def test_a_search_in_one_scenario_leaves_out_the_files_scenarios() -> None:
    Path("scenarios.yaml").write_text("scenarios: {one: {seeds: 2}}\n")
    search = searching("--config=scenarios.yaml", "--config={seeds: 2}", "--scenarios=null")
    assert search.seeds == [0, 1]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("kl_0.5", "kl_0.5"),
        ("neg_grad_plus", "neg_grad_plus"),
        ("lightning_unlearn.methods.ReferenceKL", "reference_kl"),
    ],
)
def test_a_method_keeps_its_name_with_a_dot_and_a_class_path_gives_its_last_part(
    method: str, name: str
) -> None:
    named = "{methods+: [{name: kl_0.5, method: {class_path: ReferenceKL}, trainer: {max_epochs: 1}}]}"
    search = searching(f"--config={named}", f"--method={method}")
    assert search.name == name
    recipe, _ = search.write(search.entry)
    assert [each["name"] for each in yaml.safe_load(recipe.read_text())["methods+"]] == [f"{name}_tuned"]
