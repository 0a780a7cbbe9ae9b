"""The command, run in this process as a user would type it."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.toys import assert_same_state

from lightning_unlearn import methods
from lightning_unlearn.cli import COMMANDS, LIGHTNING
from lightning_unlearn.cli.compare import files_in, scenarios_in
from lightning_unlearn.cli.main import main
from lightning_unlearn.data import Adapter, Digits, UnlearningDataModule
from lightning_unlearn.methods.base import OneShotModule
from lightning_unlearn.methods.base.export import write_export
from lightning_unlearn.methods.base.source import SourceCheckpoint, read_checkpoint
from lightning_unlearn.models import Classifier

REPO = Path(__file__).resolve().parent.parent
FIT = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.logger=false",
    "--trainer.num_sanity_val_steps=0",
]
IMAGE_NET = [
    "--model.net=lightning_unlearn.models.ResNet8",
    "--model.net.in_channels=1",
    "--model.net.width=4",
]
NET = ["--model.net=lightning_unlearn.models.MLP", "--model.net.in_features=64", "--model.net.hidden=[16,16]"]
DATA = ["--data=UnlearningDataModule", "--data.datamodule=Digits", "--data.forget=0.1"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


TRAINED: dict[tuple[str, ...], bytes] = {}


def train_source(net: Sequence[str] = NET) -> Path:
    """Train a source by the command, each network once, and give its checkpoint."""
    if tuple(net) not in TRAINED:
        command = ["fit", "--model=Classifier", *net, "--data=Digits", "--trainer.max_epochs=2", *FIT]
        assert main(command) == 0
        (found,) = Path("checkpoints").glob("*.ckpt")
        TRAINED[tuple(net)] = found.read_bytes()
        found.unlink()
    Path("source.ckpt").write_bytes(TRAINED[tuple(net)])
    return Path("source.ckpt")


@pytest.mark.slow
def test_train_unlearn_and_audit_are_three_commands(capsys: pytest.CaptureFixture[str]) -> None:
    source = train_source()
    unlearn = [
        "fit",
        "--model=ReferenceKL",
        f"--model.source={source}",
        "--model.reference_epochs=2",
        *DATA,
        *FIT,
    ]
    assert main([*unlearn, "--trainer.max_epochs=2", "--model.lambda_=0.3"]) == 0
    (unlearned,) = Path("checkpoints").glob("*.ckpt")
    content = read_checkpoint(unlearned)
    assert content["hyper_parameters"]["lambda_"] == 0.3
    method = SourceCheckpoint(str(unlearned)).load()
    assert type(method).__name__ == "ReferenceKL"
    assert_same_state(
        dict(method.source.state_dict()), dict(Classifier.load_from_checkpoint(source).state_dict())
    )
    capsys.readouterr()
    audit = [
        "test",
        "--model=ReferenceKL",
        f"--model.source={source}",
        *DATA,
        *FIT,
        f"--ckpt_path={unlearned}",
    ]
    assert (
        main([*audit, "--trainer.callbacks+=MembershipInference", "--trainer.callbacks+=ForgettingMetrics"])
        == 0
    )
    printed = capsys.readouterr().out
    for metric in (
        "membership_inference/auc",
        "source/membership_inference",
        "accuracy/retain",
        "forgetting_rate",
    ):
        assert metric in printed


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False], ids=["by_default", "given_up"])
def test_fit_stops_a_method_that_destroys_its_model_and_keeps_what_was_good(guarded: bool) -> None:
    """The checkpoint that the command leaves is the last one that was good."""
    assert main(["fit", "--model=Classifier", *NET, "--data=Digits", "--trainer.max_epochs=20", *FIT]) == 0
    next(Path("checkpoints").glob("*.ckpt")).rename("source.ckpt")
    model = [
        "--model=NegGradPlus",
        "--model.source=source.ckpt",
        "--model.alpha=0.1",
        "--model.clamp=1e6",
    ]
    rate = ["--model.ascent_share=1.0", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.02"]
    constant = ["--model.lr_scheduler=torch.optim.lr_scheduler.ConstantLR", "--model.lr_scheduler.factor=1.0"]
    own = (
        []
        if guarded
        else [
            "--trainer.callbacks+=CollapseGuard",
            "--trainer.callbacks.retain=0.0",
            "--trainer.callbacks.below=1.0",
        ]
    )
    with pytest.warns(
        UserWarning, match="half of the source's; training ends" if guarded else "destroyed the model"
    ):
        assert main(["fit", *model, *rate, *constant, *DATA, *FIT, *own, "--trainer.max_epochs=8"]) == 0
    (unlearned,) = Path("checkpoints").glob("*.ckpt")
    data = UnlearningDataModule(Digits(), 0.1)
    data.setup("fit")
    batches = [Adapter().split(batch) for batch in data.loader("retain")]
    right = [
        float(torch.cat([model.eval()(x).argmax(1) == y for x, y in batches]).float().mean())
        for model in (
            SourceCheckpoint("source.ckpt").load(),
            SourceCheckpoint(str(unlearned)).load().model,
        )
    ]
    assert right[0] > 0.8
    assert (right[1] > 0.45 * right[0]) == guarded  # the floor is half of what a batch gives


def test_an_export_is_a_source_again() -> None:
    source = train_source()
    method = SourceCheckpoint(str(source)).load()
    exported = write_export(method, "unlearned.ckpt")
    again = SourceCheckpoint(str(exported)).load()
    assert isinstance(again, Classifier)
    assert_same_state(dict(again.state_dict()), dict(method.state_dict()))
    assert read_checkpoint(exported)["hyper_parameters"]["net"]["class_path"].endswith("MLP")


def test_print_config_and_files_compose(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("model: {class_path: ReferenceKL, init_args: {source: s.ckpt, lambda_: 0.5}}\n")
    Path("b.yaml").write_text("model: {init_args: {lambda_: 0.25}}\ntrainer: {max_epochs: 7}\n")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config=a.yaml", "--config=b.yaml", "--data=Digits", "--print_config"])
    assert stop.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "lambda_: 0.25" in printed
    assert "max_epochs: 7" in printed
    assert "source: s.ckpt" in printed


def test_a_checkpoint_means_resume_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    source = train_source()
    status: Any
    try:
        status = main(["fit", "--model=ReferenceKL", *DATA, *FIT, f"--ckpt_path={source}"])
    except SystemExit as stop:
        status = stop.code
    assert status == 2, "the source's weights were taken from ckpt_path"
    assert "source" in capsys.readouterr().err


COMPARE = """
source:
  model:
    class_path: Classifier
    init_args:
      net: {class_path: lightning_unlearn.models.MLP, init_args: {in_features: 64, hidden: [16], num_classes: 10}}
      optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
  trainer: {max_epochs: 2}
data: {class_path: UnlearningDataModule, init_args: {datamodule: {class_path: Digits}, forget: 0.1}}
methods:
  - method: {class_path: ReferenceKL, init_args: {reference_epochs: 1}}
    trainer: {max_epochs: 1}
evaluators: [{class_path: MembershipInference, init_args: {bootstrap: 10, attack: logistic}}]
seeds: 2
retrain_2: false
short_retrainings: []
trainer: {accelerator: cpu}
"""


@pytest.mark.slow
def test_compare(capfd: pytest.CaptureFixture[str]) -> None:
    Path("compare.yaml").write_text(COMPARE)
    Path("more.yaml").write_text(
        "methods+:\n  - method: {class_path: ReferenceKL, init_args: {lambda_: 0.9, reference_epochs: 1}}\n"
        "    name: strong\n    trainer: {max_epochs: 1}\n"
    )
    assert (
        main(["compare", "--config=compare.yaml", "--config=more.yaml", "--output_dir=out", "--table=latex"])
        == 0
    )
    printed = capfd.readouterr().out
    assert "\x1b" not in printed, "control characters reached something that is no terminal"
    table, latex = printed.split("\n% ")  # what numbers are, in LaTeX
    assert max(map(len, table.splitlines())) <= 120
    assert r"reference\_kl & $" in latex
    assert "strong" in printed
    assert "[20/20]" not in printed
    assert "[16/16]" in printed
    report = json.loads(Path("out/report.json").read_text())
    assert set(report["models"]) == {"source", "retrain", "reference_kl", "strong"}
    assert report["config"]["source"]["trainer"]["max_epochs"] == 2
    states = {
        (model, seed): read_checkpoint(f"out/{model}/seed_{seed}/model.ckpt")["state_dict"]
        for model in report["models"]
        for seed in range(2)
    }
    weights = {
        key: value["net.layers.0.weight"] if "net.layers.0.weight" in value else next(iter(value.values()))
        for key, value in states.items()
    }
    distinct = {tuple(weight.flatten()[:5].tolist()) for weight in weights.values()}
    assert len(distinct) == len(weights), "two runs share their network"
    loaded = SourceCheckpoint("out/strong/seed_1/model.ckpt").load()
    assert isinstance(loaded, Classifier)
    config = json.loads(Path("out/strong/seed_1/config.json").read_text())
    assert config["method"]["method"]["init_args"]["lambda_"] == 0.9


SCENARIOS = """
scenarios:
  few: {data: {init_args: {forget: 0.05}}}
  many:
    data: {init_args: {forget: 0.1}}
    methods+: [{method: {class_path: FineTune}, trainer: {max_epochs: 1}}]
full_scenarios:
  more: {data: {init_args: {forget: 0.07}}}
  elsewhere: {data: {init_args: {datamodule: {class_path: Location, init_args: {root: nowhere}}}}}
"""


@pytest.mark.slow
def test_scenarios_are_one_command_one_folder_and_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    Path("compare.yaml").write_text(COMPARE.replace("seeds: 2", "seeds: 1") + SCENARIOS)
    command = ["compare", "--config=compare.yaml", "--output_dir=out", "--quiet=true", "--table=latex"]
    assert main(command) == 0
    assert "elsewhere" not in capsys.readouterr().out
    assert main([*command, "--full"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(Path("out/scenarios.json").read_text())["scenarios"] == ["few", "many", "more"]
    assert main(command) == 0
    assert json.loads(Path("out/scenarios.json").read_text())["scenarios"] == ["few", "many", "more"]
    capsys.readouterr()
    assert "NOT RUN  elsewhere: Location not found" in printed
    assert printed.count(r"\begin{tabular}") == 1
    Path("other.yaml").write_text(Path("compare.yaml").read_text().replace("forget: 0.07", "forget: 0.08"))
    assert main([*command, "--config=other.yaml"]) == 0
    assert json.loads(Path("out/scenarios.json").read_text())["scenarios"] == ["few", "many"]
    assert "scenario more: ran by other settings, so the page leaves it out" in capsys.readouterr().err
    few, many = (json.loads(Path(f"out/{name}/report.json").read_text()) for name in ("few", "many"))
    assert (few["data"]["n_forget"], many["data"]["n_forget"]) == (72, 144)
    assert "fine_tune" not in few["models"]
    assert "fine_tune" in many["models"]
    trained = Path("out/many/fine_tune/seed_0/training.json").stat().st_mtime_ns
    assert main([*command, "--data.init_args.nonmember=110"]) == 2, (
        "what is given after the file holds for all"
    )
    assert "forget 0.1" not in capsys.readouterr().err
    page = Path("out/report.html")
    page.unlink()
    assert main(["report", "out"]) == 0
    assert page.is_file()
    assert Path("out/many/fine_tune/seed_0/training.json").stat().st_mtime_ns == trained


def test_a_recipe_with_scenarios_brings_all_of_them() -> None:
    Path("all.yaml").write_text("scenarios: {own: {seeds: 2}, sequential: benchmark/sequential}")
    found = scenarios_in(["--config=all.yaml"])
    assert list(found) == ["own", *(f"request_{number:02}" for number in range(1, 11))]
    assert found["own"] == [{"seeds": 2}]
    recipe, changes = found["request_03"]
    assert recipe["seeds"] == [20, 21, 22]
    assert not {"scenarios", "output_dir"} & recipe.keys()
    assert changes == {"data": {"init_args": {"request": "3/10"}}, "after": "request_02"}


@pytest.mark.parametrize(
    ("scenarios", "message"),
    [
        (
            "{request_02: {}, sequential: benchmark/sequential}",
            "'sequential' has 'request_02', which is there already",
        ),
        ("{a b: {}}", "the name 'a b' becomes a folder"),
        ("{a: {output_dir: b}}", "'a' must be the name of a recipe, or hold settings"),
        ("{a: nowhere}", "there is no 'nowhere'"),
        ("{a: {data: {init_args: {forgett: 1}}}}", "forgett"),
    ],
)
def test_bad_scenarios_are_named(scenarios: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("compare.yaml").write_text(f"{COMPARE}\nscenarios: {scenarios}\n")
    with contextlib.suppress(SystemExit):  # jsonargparse's own way to say no
        assert main(["compare", "--config=compare.yaml"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "given",
    [
        ["--config", "my-config.yaml"],
        ["--config=my-config.yaml"],
        ["-c", "my-config.yaml"],
        ["-c=my-config.yaml"],
        ["-cmy-config.yaml"],
    ],
    ids=" ".join,
)
def test_scenarios_are_found_however_their_file_is_named(given: list[str]) -> None:
    Path("my-config.yaml").write_text("scenarios: {few: {seeds: 1}}\n")
    args = ["-ca.yaml", *given, "--seeds=2"]
    assert files_in(args) == [0, len(given)]
    assert scenarios_in(args) == {"few": [{"seeds": 1}]}


def test_a_wrong_key_is_placed_in_its_file_however_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("compare.yaml").write_text(f"{COMPARE}\nseedz: 3\n")
    line = len(Path("compare.yaml").read_text().splitlines())
    for given in (["-c", "compare.yaml"], ["-c=compare.yaml"], ["-ccompare.yaml"]):
        with pytest.raises(SystemExit, match="2"):
            main(["compare", *given])
        assert f"(compare.yaml, line {line})" in capsys.readouterr().err


def test_all_scenarios_are_understood_before_the_first_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightning_unlearn.cli.compare.arguments", lambda *_: pytest.fail("the first ran"))
    Path("compare.yaml").write_text(f"{COMPARE}\nscenarios: {{a: {{}}, b: {{seedz: 3}}}}\n")
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "--config=compare.yaml"])
    assert "seedz" in capsys.readouterr().err


def test_the_ledger_and_other_inputs_may_lie_beside_the_scenarios(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def stop(_: Any, config: Any) -> None:
        ran.append(config.output_dir)
        raise FileNotFoundError("no data")

    monkeypatch.setattr("lightning_unlearn.cli.compare.arguments", stop)
    Path("out").mkdir()
    Path("out/compare.yaml").write_text(f"{COMPARE}\nscenarios: {{a: {{}}, b: {{}}}}\n")
    for name in ("deletions.jsonl", "deletions.jsonl.key", ".deletions.jsonl.lock", "secret"):
        Path("out", name).touch()
    given = ["--output_dir=out", "--ledger=out/deletions.jsonl", "--forget_key=out/secret"]
    assert main(["compare", "--config=out/compare.yaml", *given]) == 2
    assert ran == [Path("out/a"), Path("out/b")]
    Path("out/mine.txt").touch()
    assert main(["compare", "--config=out/compare.yaml", *given]) == 2
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("", ["--full"], "--full: no configuration file names full_scenarios"),
        ("full: true", [], "--full: no configuration file names full_scenarios"),
        ("full_scenarios: {a: {}}", [], "full_scenarios: without scenarios there is nothing to run"),
        ("scenarios: {a: {}}\nfull_scenarios: {a: {}}", ["--full"], "'a' is in scenarios too"),
        ("full_scenarios: [a]", ["--full"], "full_scenarios: must be a mapping"),
        ("", ["--full_scenarios={}"], "--full_scenarios: only a configuration file names scenarios"),
    ],
)
def test_full_scenarios_that_cannot_run_are_refused(
    content: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("compare.yaml").write_text(f"{COMPARE}\n{content}\n")
    assert main(["compare", "--config=compare.yaml", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_full_scenarios_that_are_no_scenarios_are_refused_though_they_are_not_to_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("compare.yaml").write_text(f"{COMPARE}\nscenarios: {{a: {{}}}}\nfull_scenarios: {{slow: no/such}}\n")
    assert main(["compare", "--config=compare.yaml", "--output_dir=out"]) == 2
    assert "there is no 'no/such'" in capsys.readouterr().err
    assert not Path("out").exists()


def test_tune_has_no_full_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    Path("compare.yaml").write_text(f"{COMPARE}\nfull_scenarios: {{a: {{}}}}\n")
    assert main(["tune", "--config=compare.yaml", "--full", "--method=top_k"]) == 2
    assert "--full: it is for the scenarios of compare" in capsys.readouterr().err


@pytest.mark.slow
def test_report_rebuilds_and_merges(capsys: pytest.CaptureFixture[str]) -> None:
    quick = COMPARE.replace("seeds: 2", "seeds: 1")
    Path("a.yaml").write_text(quick)
    Path("b.yaml").write_text(quick.replace("  - method:", "  - name: other\n    method:"))
    assert main(["compare", "--config=a.yaml", "--quiet=true", "--output_dir=a"]) == 0
    before = Path("a/report.json").read_bytes()
    Path("a/report.html").unlink()
    capsys.readouterr()
    assert main(["report", "a", "--table=csv"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("method,UA,UA std,RA")
    assert "Report" not in printed.out
    assert "Report" in printed.err
    assert Path("a/report.html").is_file()
    assert Path("a/report.json").read_bytes() == before
    shutil.copytree("a", "b")
    shutil.rmtree("b/reference_kl")
    assert main(["compare", "--config=b.yaml", "--quiet=true", "--output_dir=b"]) == 0
    capsys.readouterr()
    assert main(["report", "a", "b", "--output=both"]) == 0
    printed = capsys.readouterr().out
    assert "reference_kl" in printed
    assert "UA" not in printed
    assert {"reference_kl", "other"} <= set(json.loads(Path("both/report.json").read_text())["models"])
    assert main(["report", "a", "b"]) == 0
    assert Path("side_by_side.html").is_file()
    capsys.readouterr()
    assert main(["report", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_file_calls_nothing_of_another_type(capfd: pytest.CaptureFixture[str]) -> None:
    evil = "callbacks: [{class_path: os.system, init_args: {command: touch executed}}]"
    Path("source.yaml").write_text(COMPARE.replace("{max_epochs: 2}", f"{{max_epochs: 2, {evil}}}"))
    Path("method.yaml").write_text(COMPARE.replace("{max_epochs: 1}", f"{{max_epochs: 1, {evil}}}"))
    for name in ("source", "method"):
        assert main(["compare", f"--config={name}.yaml", "--output_dir=out"]) == 2
        assert "os.system does not correspond to a subclass of Callback" in capfd.readouterr().err
    assert not Path("executed").exists()
    assert not Path("out").exists()


@pytest.mark.slow
def test_compare_reports_failure_in_its_exit_status(capfd: pytest.CaptureFixture[str]) -> None:
    Path("compare.yaml").write_text(COMPARE.replace("seeds: 2", "seeds: 1"))
    Path("bad.yaml").write_text(
        "methods+:\n  - method: {class_path: ReferenceKL, init_args: {lambda_: 7}}\n    name: impossible\n    trainer: {max_epochs: 1}\n"
    )
    assert (
        main(["compare", "--config=compare.yaml", "--config=bad.yaml", "--quiet=true", "--output_dir=out"])
        == 1
    )
    captured = capfd.readouterr()
    assert "FAILED  impossible, seed 0: ValueError: lambda_ must lie in [0, 1], got 7" in captured.err
    assert "[1/" not in captured.out


FORGET = ["forget", "source.ckpt", "0.1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "this needs --source.model, --data, --methods"),
        (["compare", "--config=missing.yaml"], "missing.yaml"),
        (["compare", "--config=compare.yaml", "--seeds=many"], "seeds: expected int or Sequence, got 'many'"),
        (["compare", "--config=compare.yaml", "--seedz=3"], "no option --seedz; did you mean --seeds?"),
        (
            ["compare", "--config=compare.yaml", "--trainer.max_epcohs=3"],
            "did you mean --trainer.max_epochs?",
        ),
        (["compare", "--config=compare.yaml", "--evaluators=[Nonsense]"], "there is no class Nonsense"),
        (["compare", "--config=key.yaml"], "did you mean reference_epochs? (key.yaml, line {key})"),
        (
            ["compare", "--config=rule.yaml"],
            "Ids has no argument 'colum'; did you mean column? (rule.yaml, line {rule}) (it",
        ),
        (["compare", "--config=value.yaml"], "got 'many' (value.yaml, line {last})"),
        (["compare", "--config=damaged.yaml"], "damaged.yaml, line {last}"),
        (["fit", "--model=ReferenzKL", "--data=Digits"], "no class ReferenzKL; did you mean ReferenceKL?"),
        (["fit", "--model=lightning_unlearn.methods.Topk", "--data=Digits"], "did you mean TopK?"),
        (["fit", "--model=ReferenceKL", "--data=Digits"], "model: ReferenceKL needs source"),
        (["demo", "--seed=3", "--outputs=x"], "no option --outputs; did you mean --output?"),
        (["ledger", "verfy"], "did you mean verify?"),
        ([*FORGET, "--data=own_broken.Data"], "there_is_none' ({here}/own_broken.py, line 2)"),
        ([*FORGET, "--data=own_data.DigitData"], "DigitData in own_data; did you mean DigitsData?"),
        ([*FORGET, "--data=own_dato.DigitsData"], "no module own_dato; did you mean own_data?"),
        (FORGET, "this needs --data"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a line, with the file and its line where it came from one."""
    monkeypatch.syspath_prepend(here := Path.cwd())
    Path("own_broken.py").write_text("import os\nimport there_is_none\n")
    Path("own_data.py").write_text("class DigitsData: ...\n")
    lines = COMPARE.splitlines()
    Path("compare.yaml").write_text(COMPARE)
    Path("key.yaml").write_text(COMPARE.replace("reference_epochs", "referense_epochs"))
    Path("value.yaml").write_text(f"{COMPARE.rstrip()}\nretrain_2: many\n")
    rule = "forget: {class_path: Ids, init_args: {ids: a.csv, colum: b}}"
    Path("rule.yaml").write_text(COMPARE.replace("forget: 0.1", rule))
    Path("damaged.yaml").write_text(f"{COMPARE.rstrip()}\nretrain_2: ]\n")
    key, rule_line = (
        next(number for number, line in enumerate(lines, 1) if sought in line)
        for sought in ("reference_epochs", "forget:")
    )
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    last = len(COMPARE.rstrip().splitlines()) + 1
    assert message.format(here=here, key=key, rule=rule_line, last=last) in error
    assert error.count("\n") == 1
    assert "Namespace" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.init_args.forget=1.5"], "1.5"),
        (["--forget=classes:3"], "none of class:3, class:3,5, 0.1, group:identity=0.02"),
        (["--data.init_args.forget=request.csv"], "request.csv"),
        (["--data.init_args.datamodule=MNIST", "--data.init_args.datamodule.root=nowhere"], "nowhere"),
        (["--source.checkpoint=nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_bad_input_gives_one_message_and_no_folder(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("compare.yaml").write_text(COMPARE)
    status: Any
    try:
        status = main(["compare", "--config=compare.yaml", "--output_dir=out", *arguments])
    except SystemExit as stop:
        status = stop.code
    assert status in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("out/report.json").exists() or "nowhere.ckpt" in message


@pytest.mark.parametrize("given", [["--forget", "class:3"], ["--forget=class:3"]])
def test_a_rule_on_the_command_line_wins_over_the_files(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("compare.yaml").write_text(COMPARE)
    with pytest.raises(SystemExit):
        main(["compare", *given, "--config=compare.yaml", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["forget"] == "class:3"


def test_help_begins_with_an_example_and_leaves_the_trainer_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, does in {**COMMANDS, **LIGHTNING}.items():
        assert f"\n  {name:12} {does}\n" in printed
        assert (find_spec(f"lightning_unlearn.cli.{name}") is not None) == (name in COMMANDS)
    for command in ("compare", "report", "forget"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code in (0, None)
        printed = capsys.readouterr().out
        assert printed.startswith(f"example: lightning-unlearn {command} ")
        assert ("--trainer" in printed) == (command == "forget")
        assert not re.search(r"%%|<function", printed)
        assert command != "forget" or not re.search(r"methods\.base|UnlearningModule,", printed)
    assert main(["compere"]) == 2
    assert capsys.readouterr().err == "error: there is no command compere; did you mean compare?\n"


CONFIGS = sorted((REPO / "configs").rglob("*.yaml"))


def config_name(path: Path) -> str:
    return str(path.relative_to(REPO / "configs"))


def config_words(path: Path) -> list[str]:
    """The words of a command that take this file as it is meant."""
    kind = path.parent.name
    if kind == "methods":
        return ["fit", f"--config={path}", "--model.source=source.ckpt", *DATA]
    if kind == "loggers":
        return ["fit", f"--config={path}", "--model=Classifier", *NET, "--data=Digits"]
    if kind == "evaluators":
        Path("compare.yaml").write_text(COMPARE)
        return ["compare", "--config=compare.yaml", f"--config={path}"]
    if kind == "sweeps":
        return sweep_words(yaml.safe_load(path.read_text()))[0]
    return ["compare", f"--config={path}"]


def sweep_words(content: dict[str, Any]) -> tuple[list[str], str, Any]:
    """The words of a sweep's first trial as an agent gives them, and the setting that it varies."""
    from wandb.sdk.launch.sweeps import utils

    first = {"args": {name: {"value": each["values"][0]} for name, each in content["parameters"].items()}}
    values = utils.create_sweep_command_args(first)["args"]
    command = [
        word
        for part in utils.create_sweep_command(content["command"])
        for word in (values if part == "${args}" else [part])
    ]
    assert command[0] == "lightning-unlearn"
    ((name, setting),) = first["args"].items()
    return command[1:], name, setting["value"]


# a sweep runs as an agent starts it, with the tests of W&B
RUN = [
    path
    for path in CONFIGS
    if path.parent.name in ("methods", "evaluators", "loggers")
    or config_name(path) == "mnist/backdoor_lambda.yaml"
]


# those of methods and evaluators are run, below
@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in RUN], ids=config_name)
def test_every_shipped_config_is_understood(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*config_words(path), "--print_config"])
    assert stop.value.code in (0, None)
    printed = yaml.safe_load(capsys.readouterr().out)
    content = yaml.safe_load(path.read_text())
    if path.parent.name == "sweeps":
        _, name, setting = sweep_words(content)
        assert printed["methods"][0]["method"]["init_args"][name.rpartition(".")[2]] == setting
        return
    for key, value in content.items():
        taken = printed[key.removesuffix("+")]
        assert taken not in (None, [], {}), f"{key} was not taken"
        if isinstance(value, list):
            assert len(taken) == len(value) + (key == "evaluators+")


def earlier(source: Path) -> Path:
    """Write what stands for a checkpoint of the source's training, from before it was as it is."""
    content = torch.load(source, weights_only=True)
    for value in content["state_dict"].values():
        if value.is_floating_point():
            value.mul_(0.99)
    content["global_step"] -= 1
    torch.save(content, "earlier.ckpt")
    return Path("earlier.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=config_name)
def test_a_shipped_config_of_each_kind_runs(path: Path, request: pytest.FixtureRequest) -> None:
    """Each with one epoch and one seed, on the data it names."""
    content = yaml.safe_load(path.read_text())
    kind = path.parent.name
    if "models: 64" in path.read_text():
        few = Path(path.name)
        few.write_text(path.read_text().replace("models: 64", "models: 4"))
        path = few
    root = lambda: str(request.getfixturevalue("shared_data"))  # noqa: E731
    arguments: list[str]
    if "source" in content:
        arguments = ["compare", f"--config={path}", "--seeds=1", "--output_dir=out", "--quiet=true"]
        if kind == "mnist":
            arguments += [f"--data.init_args.datamodule.init_args.root={root()}", "--data.init_args.datamodule.init_args.train_limit=600", "--data.init_args.datamodule.init_args.test_limit=200"]  # fmt: skip
        arguments += ["--trainer.accelerator=cpu", "--trainer.limit_train_batches=2"]
        assert main(arguments) == 0
    elif kind == "methods":
        method = getattr(methods, content["model"]["class_path"])
        source = train_source(IMAGE_NET if method is methods.CT else NET)
        for old in Path("checkpoints").glob("*.ckpt"):
            old.unlink()
        given = (
            [f"--model.checkpoint={earlier(source)}"] if "checkpoint" in signature(method).parameters else []
        )
        given += ["--data.forget=class:3"] if method.classes_only else []
        epochs = 0 if issubclass(method, OneShotModule) else 1
        assert main(["fit", f"--config={path}", f"--model.source={source}", *DATA, *given, "--data.shadow=0.1", *FIT, f"--trainer.max_epochs={epochs}", "--trainer.limit_train_batches=2"]) == 0  # fmt: skip
    elif kind == "evaluators":
        Path("compare.yaml").write_text(COMPARE)
        arguments = ["compare", "--config=compare.yaml", f"--config={path}", "--seeds=1", "--output_dir=out"]
        assert main([*arguments, "--trainer.limit_train_batches=4"]) == 0
        taken = json.loads(Path("out/report.json").read_text())["config"]["evaluators"]
        assert len(taken) == len(content["evaluators+"]) + 1
    elif kind == "loggers":
        import wandb

        os.environ["WANDB_MODE"] = "offline"
        assert main(["fit", f"--config={path}", "--model=Classifier", *NET, "--data=Digits", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]) == 0  # fmt: skip
        wandb.finish()
        Path("compare.yaml").write_text(COMPARE)
        assert main(["compare", "--config=compare.yaml", f"--config={path}", "--seeds=1", "--output_dir=out", "--quiet=true"]) == 0  # fmt: skip
        assert len(list(Path("wandb").glob("offline-run-*"))) == 1, "fit writes one run"
        assert len(list(Path("out/wandb").glob("offline-run-*"))) == 4, "compare one a model and a summary"
        del os.environ["WANDB_MODE"]
        wandb.teardown()
    else:
        pytest.fail(f"configs/{kind} is of no kind that this test knows how to run")


def test_a_source_of_ones_own_class_is_named_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning as L

    monkeypatch.syspath_prepend(str(REPO / "tests" / "own_project"))
    from my_project import MyDataModule, MyModule

    quick: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    trainer = L.Trainer(max_epochs=1, **quick)
    trainer.fit(MyModule(), MyDataModule())
    trainer.save_checkpoint("best.ckpt")
    source = [
        "--model.source=lightning_unlearn.SourceCheckpoint",
        "--model.source.path=best.ckpt",
        "--model.source.module=my_project.MyModule",
    ]
    data = ["--data=UnlearningDataModule", "--data.datamodule=my_project.MyDataModule", "--data.forget=0.1"]
    assert (
        main(
            [
                "fit",
                "--model=ReferenceKL",
                "--model.reference_epochs=1",
                *source,
                *data,
                *FIT,
                "--trainer.max_epochs=1",
            ]
        )
        == 0
    )
    sys.modules.pop("my_project")


def test_a_datamodule_within_ours_saves_its_own_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LightningCLI would hand it those of the outer one, whose seed and batch_size are others."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "dealt_project.py").write_text(
        "from helpers.toys import PlainData\n"
        "class Dealt(PlainData):\n"
        "    def __init__(self, seed: int = 7) -> None:\n"
        "        super().__init__()\n"
        "        self.save_hyperparameters()\n"
        "        print('saved', dict(self.hparams))\n"
    )
    data = ["--data=UnlearningDataModule", "--data.datamodule=dealt_project.Dealt", "--data.forget=0.1"]
    net = ["--model=FineTune", "--model.source=helpers.toys.PlainModule"]
    assert main(["fit", *net, *data, "--data.datamodule.seed=3", *FIT, "--trainer.max_epochs=1"]) == 0
    assert "saved {'seed': 3}" in capsys.readouterr().out
    sys.modules.pop("dealt_project")


@pytest.mark.slow
def test_the_command_finds_classes_in_the_working_folder(tmp_path: Path) -> None:
    """As ``python -m`` does; the installed command knows only its own folder."""
    (tmp_path / "my_nets.py").write_text(
        "from lightning_unlearn.models import MLP\n\n\nclass Mine(MLP):\n    pass\n"
    )
    net = ["--model.net=my_nets.Mine", "--model.net.in_features=64"]
    arguments = ["fit", "--model=Classifier", *net, "--data=Digits", "--trainer.fast_dev_run=true", *FIT]
    command = Path(sys.executable).with_name("lightning-unlearn")
    done = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
