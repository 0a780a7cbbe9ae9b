"""Every command and every program of the README, run as printed."""

import glob
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest

import lightning_unlearn
from lightning_unlearn.cli.main import main

REPO = Path(__file__).resolve().parent.parent
README = (REPO / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with this repository's configs and a project of the reader's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPO / "tests" / "own_project"))
    (tmp_path / "configs").symlink_to(REPO / "configs")
    return tmp_path


def run(command: str, *more: str) -> int:
    words = [name for word in shlex.split(command) for name in (glob.glob(word) if "*" in word else [word])]
    assert words[0] == "lightning-unlearn"
    return main([*words[1:], *more])


def test_the_two_commands_set_everything_up() -> None:
    for command in COMMANDS[:2]:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    tests = COMMANDS[1].split(" && ")
    assert tests[-1] == ".venv/bin/pytest"
    extras = re.search(r"\.\[[a-z,]+\]", tests[1])
    assert extras is not None
    assert extras.group() in (REPO / ".ci" / "run").read_text(), (
        "CI installs something else than the README says"
    )


@pytest.mark.slow
def test_the_main_job(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[0].split(" && ")[-1].removeprefix(".venv/bin/")
    assert run(command) == 0
    printed = capfd.readouterr().out
    for row in ("source", "retrain", "reference_kl"):
        assert re.search(rf"^ {row} ", printed, re.MULTILINE)
    assert (workplace / "runs/digits/report.html").is_file()
    block = README.split("<!-- table: digits -->")[1].split("```")[1]
    rows = {line.split()[0] for line in printed.splitlines() if "±" in line and not line.startswith("mean")}
    shown = {line.split()[0] for line in block.splitlines() if "±" in line and not line.startswith("mean")}
    assert shown == rows, "the README shows another table than the command prints"


def test_the_commands_for_one_model(workplace: Path) -> None:
    commands = [c for c in COMMANDS if c.startswith(("lightning-unlearn fit", "lightning-unlearn test"))]
    assert len(commands) >= 3
    for command in commands:
        limits = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
        assert run(command, *limits, *(["--trainer.max_epochs=2"] if " fit " in command else [])) == 0


@pytest.mark.slow
def test_the_measured_commands_run(workplace: Path, shared_data: Path) -> None:
    """On a part of the real data, cut short: the figures themselves take minutes to hours."""
    commands = [
        c for c in COMMANDS if c.startswith("lightning-unlearn compare") and "configs/digits" not in c
    ]
    for number, command in enumerate(commands):
        (workplace / "data").unlink(missing_ok=True)
        (workplace / "data").symlink_to(shared_data)
        limits = ["--seeds=1", "--trainer.limit_train_batches=2", f"--output_dir=out{number}", "--quiet=true"]
        limits += ["--evaluators=[]"]
        if "mnist" in command:
            limits += [f"--data.init_args.datamodule.init_args.{s}_limit=600" for s in ("train", "test")]
        if "cifar10" in command:  # arrays of the same shape: the format itself is tested where it is read
            draw = np.random.default_rng(0)
            sizes = {"train": 300, "test": 200}
            images = {
                f"x_{s}": draw.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8) for s, n in sizes.items()
            }
            labels = {f"y_{s}": np.arange(n) % 10 for s, n in sizes.items()}
            np.savez("cifar10.npz", **images, **labels)
            limits += [
                "--data.init_args.datamodule=Arrays",
                "--data.init_args.datamodule.init_args.path=cifar10.npz",
            ]
        assert run(command, *limits) == 0


@pytest.mark.slow
def test_the_commands_for_records_and_pages(workplace: Path) -> None:
    import wandb

    block = next(block for block in blocks("bash") if "--ledger" in block).splitlines()
    limits = ["--seeds=1", "--quiet=true", "--trainer.limit_train_batches=2", "--trainer.max_epochs=1"]
    for command in block:
        assert run(command, *(limits if " compare " in command else [])) == 0
    assert Path("deletions.jsonl").read_text().count("\n") == 8  # the retrained model and seven methods
    assert Path("dashboard.json").is_file()
    wandb.teardown()
    assert list(workplace.rglob("*.wandb")), "W&B wrote no run"


@pytest.mark.slow
def test_the_programs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from my_project import MyDataModule, MyModule

    quick = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=2, logger=False, **quick)  # type: ignore[arg-type]
    trainer.fit(MyModule(), MyDataModule())
    trainer.save_checkpoint("best.ckpt")
    Path("deletion_request.csv").write_text("id\n" + "\n".join(map(str, range(0, 400, 4))))

    class QuickTrainer(L.Trainer):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**{**quick, **arguments, "max_epochs": 2})

    monkeypatch.setattr(L, "Trainer", QuickTrainer)
    programs = blocks("python")
    assert len(programs) >= 2
    for program in programs:
        exec(compile(program, "README.md", "exec"), {})
    assert Path("unlearned.ckpt").is_file()
    sys.modules.pop("my_project")


def test_every_method_and_evaluator_is_in_its_table() -> None:
    for room in (lightning_unlearn.methods, lightning_unlearn.callbacks):
        for name in room.__all__:
            if name not in ("UnlearningModule", "Perturbation", "SourceCheckpoint", "Evaluator", "Audit"):
                assert f"| `{name}` |" in README, f"{name} is missing from the README"


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (REPO / target).exists(), (
            f"README links to {target}, which is not there"
        )
