"""The README and the pages of the documentation: every command and program run, every name, link and table right."""

import glob
import importlib
import inspect
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import doc_tables
import lightning as L
import pytest
import test_harness_evaluators  # noqa: F401  that its tests say which lines of support.yml they stand for
import test_harness_methods  # noqa: F401
import test_harness_one_shot  # noqa: F401
import test_launched  # noqa: F401
import torch
import yaml
from helpers import by_heart
from helpers.people import write_vowels
from helpers.support import (
    EVALUATOR_AXES,
    EVALUATORS,
    EXPORTED,
    METHOD_AXES,
    NOT_RUN,
    ONE_SHOT_AXES,
    REFUSED,
    covered,
)

from lightning_unlearn import cli
from lightning_unlearn.cli.main import main
from lightning_unlearn.cli.recipes import recipes
from lightning_unlearn.methods import BadTeacher
from lightning_unlearn.reports import judge_all

REPO = Path(__file__).resolve().parent.parent
DOCS = REPO / "docs"
PAGES = {
    str(path.relative_to(REPO)): path.read_text()
    for path in [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
}
README = PAGES["README.md"]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


COMMANDS = list(
    dict.fromkeys(
        line for text in PAGES.values() for block in blocks(text, "bash") for line in block.splitlines()
    )
)
OURS = [command for command in COMMANDS if command.startswith("lightning-unlearn ")]
COMPARISONS = [command for command in OURS if command.startswith("lightning-unlearn compare")]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with this repository's configs and a project of the reader's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPO / "tests" / "own_project"))
    (tmp_path / "configs").symlink_to(REPO / "configs")
    yield tmp_path
    sys.modules.pop("my_project", None)


def run(command: str, *more: str) -> int:
    words = [name for word in shlex.split(command) for name in (glob.glob(word) if "*" in word else [word])]
    assert words[0] == "lightning-unlearn"
    return main([*words[1:], *more])


# ---------------------------------------------------------------------- commands


def test_the_two_commands_of_the_readme_set_everything_up() -> None:
    demo, tests = [c for block in blocks(README, "bash") for c in block.splitlines() if "venv" in c]
    assert demo == ("python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/lightning-unlearn demo")
    assert tests.startswith("python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && ")
    assert tests.endswith(".venv/bin/pytest")
    assert re.search(r"install( --\S+)* -e '.\[test\]'\n", (REPO / ".ci" / "run").read_text())


@pytest.mark.parametrize("part", [part for c in COMMANDS if c not in OURS for part in c.split(" && ")])
def test_other_commands_name_what_there_is(part: str) -> None:
    words = [word for word in shlex.split(part) if "=" not in word]
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "pip":
        declared = (REPO / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
        extras = set(re.findall(r"^(\w+) = \[", declared, re.MULTILINE))
        assert set(re.findall(r"\w+", "".join(re.findall(r"\[(.*?)\]", part)))) <= extras
    elif program in ("pytest", "python", "ruff", "pre-commit", ".ci/run"):
        assert all((REPO / word).exists() for word in arguments if "/" in word)
    else:
        assert program in ("git", "cd", "python3", "lightning-unlearn", "mkdocs", "mypy", "docker")


@pytest.mark.parametrize("command", OURS)
def test_our_commands_name_what_there_is(command: str) -> None:
    """That they are understood as well, the slow tests show, which run each."""
    words = shlex.split(command)
    assert words[1] in (*cli.COMMANDS, "fit", "validate", "test", "predict", "--help")
    assert all((REPO / word).is_file() for word in words if word.startswith("configs/"))
    assert all(name in recipes() for option, name in pairwise(words) if option == "--recipe")


@pytest.mark.slow
def test_the_main_job(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # fewer steps and evaluators, the same rows
    command = "lightning-unlearn compare --config configs/digits/compare.yaml"
    fewer = ("--trainer.limit_train_batches=2", "--evaluators=[]", "--source.trainer.max_epochs=4")
    assert run(command, *fewer) == 0
    printed = capfd.readouterr().out
    assert (workplace / "runs/digits/report.html").is_file()
    shown = blocks(PAGES["docs/quickstart.md"], "text")[1]
    models = set(json.loads((workplace / "runs/digits/report.json").read_text())["models"])
    rows = [
        {line.split()[0] for line in text.splitlines() if "±" in line} & models for text in (printed, shown)
    ]
    assert {"source", "retrain", "reference_kl"} <= rows[0]
    assert rows[0] == rows[1] == models, "the page shows another table than the command prints"


@pytest.mark.slow
def test_the_commands_for_one_model_run(workplace: Path) -> None:
    commands = [c for c in OURS if c.startswith(("lightning-unlearn fit", "lightning-unlearn test"))]
    assert len(commands) >= 3
    for command in commands:
        limits = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
        assert run(command, *limits, *(["--trainer.max_epochs=2"] if " fit " in command else [])) == 0


@pytest.mark.slow
def test_the_deletion_request_of_the_readme_is_answered(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_project()
    (command,) = {c for c in OURS if c.startswith("lightning-unlearn forget")}
    assert f"```bash\n{command}\n```" in README
    assert run(command, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false") == 4
    assert "| Forgotten: CANNOT TELL. 100 samples: " in capsys.readouterr().out
    assert Path("unlearned/certificate.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMPARISONS)
def test_the_comparisons_are_understood(
    command: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of configuration is run by the tests of the command line."""
    with pytest.raises(SystemExit) as stop:
        run(command, "--print_config")
    assert stop.value.code in (0, None), capsys.readouterr().err


@pytest.mark.slow
def test_records_and_pages(workplace: Path) -> None:
    """A comparison with W&B and a ledger, cut short; then all that reads its results."""
    import wandb

    command = next(c for c in COMPARISONS if "--ledger" in c and "wandb" in c)
    limits = ["--seeds=1", "--quiet=true", "--trainer.limit_train_batches=2", "--evaluators=[]"]
    assert run(command, *limits, "--clean=true", "--output_dir=runs/digits") == 0
    assert Path("deletions.jsonl").read_text().count("\n") == 2  # the retrained model and one method
    others = [c for c in OURS if c.split()[1] in ("report", "ledger", "dashboard")]
    assert len(others) >= 3
    for other in others:
        assert run(other) == 0
    assert Path("dashboard.json").is_file()
    wandb.teardown()
    assert list(workplace.rglob("*.wandb")), "W&B wrote no run"


# ---------------------------------------------------------------------- programs and files


def own_project() -> dict[str, Any]:
    """Train the project of the reader's own and write down a request; return arguments of a quick Trainer."""
    from my_project import MyDataModule, MyModule

    quick = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=2, logger=False, **quick)  # type: ignore[arg-type]
    trainer.fit(MyModule(), MyDataModule())
    trainer.save_checkpoint("best.ckpt")
    Path("deletion_request.csv").write_text("id\n" + "\n".join(map(str, range(0, 400, 4))))
    return quick


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks(text, "python")])
def test_the_programs_run(
    page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = own_project()
    write_vowels(workplace)

    class QuickTrainer(L.Trainer):
        def __init__(self, **arguments: Any) -> None:
            epochs = min(2, arguments.get("max_epochs", 2))
            super().__init__(**{**quick, **arguments, "max_epochs": epochs})

    monkeypatch.setattr(L, "Trainer", QuickTrainer)
    names: dict[str, Any] = {}
    for program in blocks(PAGES[page], "python"):
        exec(compile(program, page, "exec"), names)
    assert ("PopulationAttack()" not in PAGES[page]) or "Forgotten: " in capsys.readouterr().out
    assert ("export(" not in PAGES[page]) or Path("unlearned.ckpt").is_file()


@pytest.mark.slow
def test_the_program_of_the_readme_forgets(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the source knows its samples by heart; as the export answers, loaded into its own class."""
    monkeypatch.setitem(sys.modules, "my_project", by_heart)
    L.seed_everything(0, verbose=False)
    data, source = by_heart.MyDataModule(), by_heart.MyModule()
    trainer = L.Trainer(max_epochs=20, logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.fit(source, data)
    trainer.save_checkpoint("best.ckpt")
    Path("deletion_request.csv").write_text("id\n" + "\n".join(map(str, range(50))))
    (program,) = blocks(README, "python")
    exec(compile(program, "README.md", "exec"), {})
    # its second half; the first, by the default, is nearly as good on 50 samples, and may leave CANNOT TELL
    *_, told = capsys.readouterr().out.split("Forgotten: ")
    assert told.startswith("SHOWN. 50 samples: accuracy 100 →")
    asked, targets = (torch.stack(part) for part in zip(*(data.train[i] for i in range(50)), strict=True))
    right = []
    for file in ("best.ckpt", "unlearned.ckpt"):
        model = by_heart.MyModule.load_from_checkpoint(file, map_location="cpu").eval()
        with torch.no_grad():
            right.append(float((model(asked).argmax(1) == targets).float().mean()))
    assert right[0] == 1
    assert right[1] < 0.7, "unseen samples: a half"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra")
@pytest.mark.usefixtures("one_cluster")
def test_the_script_for_slurm_makes_a_cluster(tmp_path: Path) -> None:
    """With stand-ins for SLURM on one machine, and for the comparison, whose command other tests understand."""
    (script,) = blocks(PAGES["docs/comparisons.md"], "sh")
    (command,) = (line.strip() for line in script.splitlines() if "lightning-unlearn" in line)
    (job,) = (block for block in blocks(PAGES["docs/comparisons.md"], "yaml") if "RayJob" in block)
    assert command == yaml.safe_load(job)["spec"]["entrypoint"]
    assert command in COMPARISONS
    joins = "import ray; ray.init('auto'); print('CPUs', ray.cluster_resources()['CPU'])"
    stands = {
        "scontrol": "echo 127.0.0.1",
        "srun": 'exec "$@"',
        "lightning-unlearn": f'exec {sys.executable} -c "{joins}"',
    }
    for name, line in stands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    known = {"SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "3"}
    with tempfile.TemporaryDirectory(prefix="r") as short:  # the path of a socket has at most 107 characters
        ran = subprocess.run(
            ["bash", "-c", script.replace(":6379", ":6399")],
            env={**os.environ, **known, "PATH": path, "RAY_TMPDIR": short},
            capture_output=True,
            text=True,
            timeout=250,
        )
    assert "CPUs 3.0" in ran.stdout, ran.stdout + ran.stderr


def test_yaml_on_pages_is_yaml() -> None:
    for text in PAGES.values():
        for block in blocks(text, "yaml"):
            assert isinstance(yaml.safe_load(block), dict | list)


# ---------------------------------------------------------------------- names, links, addresses


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page: str) -> None:
    here = (REPO / page).parent
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", PAGES[page]):
        file = here / target if target else REPO / page
        assert file.exists(), f"{page} links to {target}, which is not there"
        if anchor and file.name != "configurations.md":
            headings = {_slug(heading) for heading in re.findall(r"^#+ (.+)$", _whole(file), re.MULTILINE)}
            assert anchor in headings, f"{page} links to {target}#{anchor}; headings are {sorted(headings)}"


def _whole(file: Path) -> str:
    """Return a page with the files that it shows."""
    return re.sub(
        r'^--8<-- "(.*)"$', lambda found: (REPO / found[1]).read_text(), file.read_text(), flags=re.MULTILINE
    )


def _slug(heading: str) -> str:
    """Return a heading's anchor, as MkDocs and GitHub both make it."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_one_address_for_the_repository() -> None:
    files = [REPO / name for name in ("README.md", "CITATION.cff", "pyproject.toml", "SECURITY.md")]
    files += [*(REPO / ".github").rglob("*.*"), *(REPO / "notebooks").glob("*.ipynb"), *DOCS.rglob("*.md")]
    found = {
        a for f in files for a in re.findall(r"github(?:\.com)?/([\w-]+/lightning-unlearn)\b", f.read_text())
    }
    assert len(found) == 1, f"several addresses: {found}"


def _name_of(name: str) -> object:
    """Return what a name of the page on papers stands for."""
    if name.startswith(("configs/", "notebooks/")):
        assert (REPO / name).is_file()
        return REPO / name
    if name.startswith("figures/"):
        from lightning_unlearn.reports import FIGURES

        return {f"figures/{figure.filename}": figure for figure in FIGURES}[name]
    room, *attributes = name.split(".")
    found: object = importlib.import_module(f"lightning_unlearn.{room}")
    for attribute in attributes:
        found = getattr(found, attribute)
    return found


def test_what_reproduces_a_paper_exists() -> None:
    names = [
        name for line in PAGES["docs/papers.md"].splitlines() for name in re.findall(r"`([\w./*]+)`", line)
    ]
    assert len(names) > 80
    for name in names:
        if name not in ("lightning_unlearn", "figures/"):
            assert _name_of(name) is not None


# ---------------------------------------------------------------------- completeness


def test_every_method_and_evaluator_has_a_page() -> None:
    assert set(doc_tables.pages("methods")) == {method.__name__ for method in EXPORTED}
    assert set(doc_tables.pages("evaluators")) == {evaluator.__name__ for evaluator in EVALUATORS}


@pytest.mark.parametrize("kind", ["methods", "evaluators"])
def test_pages_of_one_kind_have_the_same_chapters(kind: str) -> None:
    wanted = {
        "methods": ("What it needs", "Cost", "Measured", "Traps"),
        "evaluators": ("What fools it", "Direction"),
    }
    for page, text in PAGES.items():
        if page.startswith(f"docs/{kind}/") and not page.endswith(("index.md", "traps.md")):
            assert all(f"\n## {chapter}" in text for chapter in wanted[kind]), page


def test_every_exported_room_has_an_api_page() -> None:
    import lightning_unlearn

    rooms = {
        p.name for p in Path(lightning_unlearn.__file__).parent.iterdir() if (p / "__init__.py").is_file()
    }
    internal = {"cli", "engine", "trackers"}
    assert {page.stem for page in (DOCS / "api").glob("*.md")} - {"index"} == rooms - internal


def test_the_readme_is_short_and_its_tables_are_right() -> None:
    assert len(README.splitlines()) <= 200
    for kind in ("methods", "evaluators"):
        rows = doc_tables.short(kind).splitlines()
        shown = re.search(rf"<!-- table: {kind} -->\n(.*?)<!-- end of table", README, re.DOTALL)
        assert shown is not None
        wrong = [row for row in shown[1].strip().splitlines() if row not in rows]
        assert not wrong, f"run python docs/doc_tables.py README.md: {wrong}"
        assert len(rows) - len(shown[1].strip().splitlines()) <= 3, "several are missing: run the same"


# ---------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    "page", [page for page, text in PAGES.items() if "<!-- table: " in text and page.startswith("docs/")]
)
def test_every_row_of_a_table_has_as_many_cells_as_its_header(page: str) -> None:
    text = doc_tables.insert(PAGES[page])
    assert "<!-- table: " not in text
    for block in text.split("\n\n"):
        counts = {line.replace(r"\|", "").count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(counts) <= 1, block


def test_every_evaluator_declares_what_it_measures() -> None:
    for evaluator in EVALUATORS:
        assert evaluator.metrics, evaluator
        assert all(declared.explanation for declared in evaluator.metrics.values()), evaluator


def test_first_sentence_turns_markup_into_markdown() -> None:
    def subject() -> None:
        r"""Returns ``x`` of :func:`~a.b.thing`, e.g. 1.5 | 2, and :math:`\|w\|`. Then more.

        Not this.
        """

    assert (
        doc_tables.first_sentence(subject) == r"Returns `x` of `thing`, e.g. 1.5 \| 2, and $\Vert{}w\Vert{}$"
    )


def test_defaults() -> None:
    class Base:
        def __init__(self, first: int, second: str = "a|b") -> None: ...

    class Subject(Base):
        def __init__(self, own: int = 1, **base: Any) -> None: ...

    assert list(doc_tables.parameters_of(Subject)) == ["own", "first", "second"]
    assert doc_tables.defaults(Subject, ["own", "first", "second"]) == r"`own=1`, `first`, `second='a\|b'`"
    assert doc_tables.defaults(Subject, []) == "-"


def test_a_measured_value() -> None:
    value = {"mean": 0.98765, "std": 0.001, "ci95": [0.986, 0.989], "values": [0.98765]}
    assert doc_tables.spread("accuracy/test", value) == "98.77 ± 0.10"
    assert doc_tables.spread("accuracy/test", {**value, "std": None, "ci95": None}) == "98.77"
    assert doc_tables.spread("accuracy/test", None) == "-"


def test_a_method_page_shows_its_row_of_every_report() -> None:
    shown = doc_tables.measured_method("ReferenceKL")
    assert shown.count("| `reference_kl` |") == 3
    assert "**MNIST, 1% forgotten**" in shown
    assert doc_tables.measured_method("FineTune") == "Not measured yet."


BENCHMARK_PAGE = (REPO / "docs" / "benchmark.md").read_text()
STORED = REPO / "tests" / "measured" / "benchmark"
BENCHMARK = sorted(file for file in STORED.glob("*.json") if file.stem in doc_tables.BOUNDS)


@pytest.mark.parametrize("file", BENCHMARK, ids=lambda file: file.stem)
def test_the_leaderboard_says_what_the_report_says(file: Path) -> None:
    report = json.loads(file.read_text())
    shown = doc_tables.benchmark(file.stem)
    rows = {row.split("`")[1]: row for row in shown.splitlines() if row.startswith("| `")}
    assert rows.keys() == report["models"].keys(), "the short retrainings are rows too"
    verdicts = judge_all(report, doc_tables.margins(file.stem))
    for model, row in rows.items():
        for metric in (*(metric for metric, *_ in doc_tables.BOUNDS[file.stem]), "acceleration"):
            if value := report["models"][model].get(metric):
                assert doc_tables.spread(metric, value) in row
        if model in verdicts:
            assert verdicts[model].headline in row
            reached = not doc_tables.missed_bounds(report, file.stem, model)
            assert ("all reached" in row) == reached
    assert any("all reached" in row for row in rows.values()) or "No method reaches" in BENCHMARK_PAGE
    assert f"<!-- table: benchmark {file.stem} -->" in BENCHMARK_PAGE


def test_the_table_over_shares_says_what_the_reports_say() -> None:
    recipe = yaml.safe_load((REPO / "configs" / "benchmark" / "forget_share.yaml").read_text())
    assert tuple(recipe["scenarios"]) == doc_tables.SHARES
    rows = [row.split(" | ") for row in doc_tables.forget_share().splitlines() if row.startswith("| `")]
    for name in doc_tables.SHARES:
        report = json.loads((STORED / f"{name}.json").read_text())
        assert report["seeds"] == recipe["seeds"]
        share = f"{int(name[-2:])}%"
        of_it = {row[0].strip("| `"): row for row in rows if row[1] == share}
        assert len(of_it) == len(rows) / 4
        for model, row in of_it.items():
            assert row[2] == doc_tables.spread("accuracy/test", report["models"][model]["accuracy/test"])
    assert "<!-- table: forget_share -->" in BENCHMARK_PAGE


def test_every_scenario_of_the_benchmark_is_on_its_page() -> None:
    recipe = yaml.safe_load((REPO / "configs" / "benchmark" / "all.yaml").read_text())
    names = recipe["scenarios"].keys() | recipe["full_scenarios"].keys()
    with_their_own = {"forget_share": doc_tables.SHARES, "sequential": doc_tables.REQUESTS}
    assert doc_tables.BOUNDS.keys() == names - with_their_own.keys()
    for name in names:
        assert f"`benchmark/{name}`" in BENCHMARK_PAGE
        stored = [STORED / f"{part}.json" for part in with_their_own.get(name, (name,))]
        assert all(file.is_file() for file in stored) or f"`benchmark/{name}`: not measured" in BENCHMARK_PAGE


def test_the_sequence_of_requests_says_what_was_measured() -> None:
    recipe = yaml.safe_load((REPO / "configs" / "benchmark" / "sequential.yaml").read_text())
    assert tuple(recipe["scenarios"]) == doc_tables.REQUESTS
    reports = [json.loads((STORED / f"{name}.json").read_text())["models"] for name in doc_tables.REQUESTS]
    rows = {row.split("`")[1]: row for row in doc_tables.sequential().splitlines() if row.startswith("| `")}
    assert rows.keys() == reports[0].keys() - {"source"}
    last, retrained = reports[-1], reports[-1]["retrain"]["accuracy/test"]["mean"]
    for name in rows.keys() - {"retrain"}:
        drift = last[name]["accuracy/test"]["mean"] - retrained
        earlier = last[name]["accuracy/previous"]["mean"]
        assert f"| {100 * drift:+.1f} |" in rows[name]
        assert f"| {100 * earlier:.1f} ± " in rows[name]
        newest = statistics.mean(report[name]["accuracy/forget"]["mean"] for report in reports)
        assert f"| {100 * newest:.1f} ± " in rows[name]
        if not name.startswith("retrain"):
            assert ("all reached" in rows[name]) == (drift >= -0.01 and earlier <= 0.02)
    assert "<!-- table: sequential -->" in BENCHMARK_PAGE


def test_a_missed_bound_is_named() -> None:
    def models(**forget: float) -> dict[str, Any]:
        return {
            name: {
                "accuracy/forget": {"mean": value},
                "accuracy/test": {"mean": 0.9},
                "acceleration/cpu": {"mean": 20.0},
            }
            for name, value in forget.items()
        }

    report = {"models": models(retrain=0.0, good=0.01, bad=0.03)}
    assert doc_tables.missed_bounds(report, "mislabelled", "good") == []
    assert doc_tables.missed_bounds(report, "mislabelled", "bad") == ["forget accuracy"]
    report["models"]["good"] |= {"accuracy/test": {"mean": 0.88}, "acceleration/cpu": {"mean": 9.0}}
    assert doc_tables.missed_bounds(report, "mislabelled", "good") == ["test accuracy", "acceleration, CPU"]
    report = {"models": models(retrain=0.6, good=0.62)}
    report["models"]["retrain_2"] = {"similarity": {"mean": 0.89}}
    for model, auc in (("retrain", 0.51), ("good", 0.53)):
        report["models"][model]["population_attack/auc"] = {"mean": auc}
    for similarity, missed in ((0.90, []), (0.88, []), (0.86, ["similarity"])):
        report["models"]["good"]["similarity"] = {"mean": similarity}
        assert doc_tables.missed_bounds(report, "slice", "good") == missed


# ---------------------------------------------------------------------- what runs where


def test_every_line_of_the_support_tables_is_run() -> None:
    axes = {"methods": set(METHOD_AXES), "one_shot": set(ONE_SHOT_AXES), "evaluators": set(EVALUATOR_AXES)}
    assert covered == axes
    assert axes["one_shot"] <= axes["methods"]


def test_what_is_refused_exists() -> None:
    names = {subject.__name__ for subject in (*EXPORTED, *EVALUATORS)}
    assert all(set(axes) <= {*METHOD_AXES, *EVALUATOR_AXES} for axes in REFUSED.values())
    assert all(left_out <= names for left_out in NOT_RUN.values())


def test_docstrings_become_code_and_whole_formulas() -> None:
    """A doctest below "Example:" would be shown as a quotation of a quotation of a quotation."""
    griffe = pytest.importorskip("griffe", reason="of the extra docs")
    docstrings = importlib.import_module("docstrings")
    parsed = griffe.Docstring(docstrings.to_markdown(inspect.getdoc(BadTeacher))).parse("google")
    assert parsed[-1].kind is griffe.DocstringSectionKind.examples
    (formula,) = re.findall(r"\$\$\n(.*?)\n\$\$", parsed[0].value, re.DOTALL)
    assert formula.rstrip().endswith(r"D_T = T^2 \, KL"), "its second line is part of it"
