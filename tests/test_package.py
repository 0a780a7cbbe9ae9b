"""The package as installed: quick to import, complete, with its command."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_unlearn


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_heavy_optional_parts_load_when_used() -> None:
    shown = run(
        "import lightning, torch, torchmetrics, sys, json; before = set(sys.modules)\n"
        "from lightning_unlearn import *; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    added = set(json.loads(shown))
    heavy = {"matplotlib", "wandb", "sklearn", "scipy", "pandas", "jinja2", "torchvision.datasets"}
    assert "lightning_unlearn.methods" in added
    assert not added & heavy


def test_help_and_a_misspelt_command_need_no_pytorch() -> None:
    code = "import sys; from lightning_unlearn.cli.main import main; print(main([]), main(['compere']), 'torch' in sys.modules)"
    assert run(code).endswith("\n0 2 False\n")


@pytest.mark.slow
def test_a_comparison_without_wandb_does_not_import_it(tmp_path: Path) -> None:
    code = (
        "import sys; from test_compare import toy_compare; "
        f"assert not toy_compare({str(tmp_path)!r}, seeds=1, methods=[]).failed; print('wandb' in sys.modules)"
    )
    tests = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, str(Path(tests).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout.split()[-1] == "False"


@pytest.mark.slow
def test_loggers_are_shown_tables_and_figures_without_further_imports() -> None:
    shown = run(
        "from lightning_unlearn.callbacks import Evaluator\n"
        "from lightning_unlearn.engine.telling import _shown_by_tracker, send_facts, send_results\n"
        "from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger\n"
        "kinds = (CSVLogger, TensorBoardLogger, WandbLogger)\n"
        "shows = [_shown_by_tracker(send_results, kind) for kind in kinds]\n"
        "shows.append(_shown_by_tracker(send_facts, WandbLogger))\n"
        "print(*(show and show.__module__ for show in shows))"
    )
    tracker = "lightning_unlearn.trackers.live"
    assert shown.split() == ["None", tracker, tracker, tracker]


def test_every_public_name_exists_and_is_documented() -> None:
    import importlib

    for room in (
        "",
        ".callbacks",
        ".data",
        ".ensembles",
        ".functional",
        ".methods",
        ".metrics",
        ".models",
        ".reports",
    ):
        module = importlib.import_module(f"lightning_unlearn{room}")
        assert module.__doc__
        assert sorted(set(module.__all__)) == sorted(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name)
            if callable(getattr(module, name)):
                assert (getattr(module, name).__doc__ or "").strip(), f"{room}.{name} has no docstring"


def test_what_a_room_exports_follows_from_its_files() -> None:
    from pathlib import Path

    import doc_tables

    from lightning_unlearn import callbacks, methods

    for room in (methods, callbacks):
        file = Path(str(room.__file__))
        assert doc_tables.exports(file) == file.read_text(), f"run: python docs/doc_tables.py {file}"


def test_a_listing_of_callbacks_is_the_list_of_evaluators() -> None:
    import importlib
    import pkgutil

    from lightning_unlearn import callbacks

    for module in pkgutil.iter_modules(callbacks.__path__):
        if module.name != "base":
            held = importlib.import_module(f"{callbacks.__name__}.{module.name}")
            evaluators = [
                name
                for name, kind in vars(held).items()
                if isinstance(kind, type)
                and issubclass(kind, callbacks.Evaluator)
                and kind.__module__ == held.__name__
            ]
            assert len(evaluators) == 1, f"{module.name} holds {evaluators}"


def test_rooms_import_only_from_rooms_above() -> None:
    order = [
        "core",
        "functional",
        "models",
        "data",
        "metrics",
        "engine",
        "ensembles",
        "methods",
        "callbacks",
        "reports",
        "trackers",
        "comparison",
        "cli",
    ]
    root = Path(lightning_unlearn.__file__).parent
    for path in root.rglob("*.py"):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        if room not in order:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning_unlearn."):
                other = (node.module or "").split(".")[1]
                if other in order:
                    assert order.index(other) <= order.index(room), f"{path.name} imports from {node.module}"


@pytest.mark.slow
def test_the_command_and_the_module_are_one() -> None:
    for start in (["-m", "lightning_unlearn"], ["-c", "from lightning_unlearn.cli.main import main; main()"]):
        done = subprocess.run(
            [sys.executable, *start, "--version"], capture_output=True, text=True, check=True
        )
        assert lightning_unlearn.__version__ in done.stdout


SPOKEN_BY_TASKS = {
    "argmax",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "l1_loss",
    "log_softmax",
    "mse_loss",
    "nll_loss",
    "sigmoid",
    "softmax",
}

OF_CLASSES = {  # both need one class a sample, and the first compares shapes
    "methods/base/trial.py: part.shape == targets.shape",
    "methods/fisher.py: logits.float().log_softmax",
    "methods/linear_filtration.py: asked.targets == each",
}


def test_methods_and_evaluators_speak_of_losses_and_answers_through_the_task() -> None:
    root, own = Path(lightning_unlearn.__file__).parent, []
    for path in sorted([*(root / "methods").rglob("*.py"), *(root / "callbacks").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", getattr(node, "id", ""))
            compared = ast.unparse(node) if isinstance(node, ast.Compare) else ""
            if name in SPOKEN_BY_TASKS or re.search(r"(== \w*targets|targets\w*( ==|\[\w+\] ==))", compared):
                own.append(f"{path.relative_to(root)}: {ast.unparse(node)}")
    assert set(own) == OF_CLASSES
