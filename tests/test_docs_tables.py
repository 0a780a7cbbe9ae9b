"""The README's generated tables: complete, resolvable, and what the README shows."""

import inspect
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from helpers import docs_sources as sources
from helpers.docs_tables import (
    COMMAND,
    REPO,
    defaults,
    exported,
    first_sentence,
    main,
    markers,
    measured_table,
    render_all,
    replaced,
    resolve,
    shown,
    table,
)
from torch import nn

README = (REPO / "README.md").read_text()


@pytest.fixture(scope="module")
def tables() -> dict[str, str]:
    return render_all()


# ---------------------------------------------------------------------- complete


@pytest.mark.parametrize(
    ("room", "known"),
    [
        ("methods", {*sources.METHODS, *sources.PARTS["methods"]}),
        ("callbacks", {*sources.EVALUATORS, *sources.PARTS["callbacks"]}),
        ("metrics", {*sources.METRICS, "DeclaredMetric"}),
    ],
)
def test_every_exported_class_has_a_row(room: str, known: set[str]) -> None:
    assert set(exported(room)) == known, "tests/helpers/docs_sources.py says where each is published"


@pytest.mark.parametrize(
    ("room", "base", "known"),
    [
        ("data", L.LightningDataModule, sources.DATAMODULES),
        ("models", nn.Module, sources.MODELS),
    ],
)
def test_every_exported_subclass_has_a_row(room: str, base: type, known: dict[str, str]) -> None:
    found = {
        name for name, value in exported(room).items() if inspect.isclass(value) and issubclass(value, base)
    }
    assert found == set(known), "tests/helpers/docs_sources.py says where each is used"


def test_every_function_has_a_row(tables: dict[str, str]) -> None:
    functions = {name for name, value in exported("functional").items() if inspect.isfunction(value)}
    assert {line.split("`")[1] for line in tables["functional"].splitlines()[2:]} == functions


def test_every_metric_of_the_glossary_belongs_to_an_evaluator_or_to_the_times(tables: dict[str, str]) -> None:
    from lightning_unlearn.metrics.declared import COST
    from lightning_unlearn.reports import METRICS

    prefixes = {exported("callbacks")[name].default_name + "/" for name in sources.EVALUATORS}
    listed = {metric for entry in sources.EVALUATORS.values() for metric in entry.metrics}
    rest = {metric for metric in METRICS if not metric.startswith((*prefixes,)) and metric not in listed}
    assert rest == set(COST)
    for name in sources.EVALUATORS:
        row = next(line for line in tables["evaluators"].splitlines() if line.startswith(f"| `{name}` |"))
        assert "`{}`" not in row.split(" | ")[2]
        assert "`" in row.split(" | ")[2], f"{name} reports no metric"


def test_null_controls_are_where_nulls_are_reported() -> None:
    from lightning_unlearn.reports import METRICS

    with_null = {name for name, entry in sources.EVALUATORS.items() if entry.control.startswith("null: ")}
    assert with_null == {
        name for name in sources.EVALUATORS if f"{exported('callbacks')[name].default_name}/null" in METRICS
    }


@pytest.mark.parametrize("title", sources.PAPERS)
def test_what_reproduces_a_paper_exists(title: str) -> None:
    for _, _, names in sources.PAPERS[title]:
        for name in names:
            resolve(name)


def test_functions_behind_metrics_exist() -> None:
    for function, _ in sources.METRICS.values():
        assert callable(resolve(function))


@pytest.mark.parametrize(
    "name", ["configs/none.yaml", "figures/none.png", "functional.none", "methods.TopK.none"]
)
def test_what_does_not_exist_is_not_resolved(name: str) -> None:
    with pytest.raises(LookupError):
        resolve(name)


def test_configurations_of_measured_tables_exist() -> None:
    for command in sources.MEASURED.values():
        for name in command.split(" --config "):
            resolve(name)


# ---------------------------------------------------------------------- Markdown


def test_every_row_has_as_many_cells_as_its_header(tables: dict[str, str]) -> None:
    for content in tables.values():
        for block in content.split("\n\n"):
            counts = {
                line.replace(r"\|", "").count("|") for line in block.splitlines() if line.startswith("|")
            }
            assert len(counts) <= 1, block


def test_first_sentence_turns_markup_into_markdown() -> None:
    def subject() -> None:
        r"""Returns ``x`` of :func:`~a.b.thing`, e.g. 1.5 | 2, and :math:`\|w\|`. Then more.

        Not this.
        """

    assert first_sentence(subject) == r"Returns `x` of `thing`, e.g. 1.5 \| 2, and $\Vert{}w\Vert{}$"


def test_defaults() -> None:
    def subject(first: int, second: str = "a|b") -> None: ...

    assert defaults(subject, ["first", "second"]) == r"`first`, `second='a\|b'`"
    assert defaults(subject, []) == "-"


# ---------------------------------------------------------------------- measured reports


def value(mean: float, std: float | None = None) -> dict[str, Any]:
    interval = None if std is None else [mean - 2 * std, mean + 2 * std]
    return {"mean": mean, "std": std, "ci95": interval, "values": [mean]}


REPORT = {
    "seeds": [0, 1, 2],
    "versions": {"cpu": "Some CPU", "gpu": [], "torch": "2.11.0"},
    "data": {"n_forget": 600, "n_retain": 59400},
    "models": {
        "reference_kl": {
            "accuracy/test": value(0.98765, 0.001),
            "backdoor/success_rate_forget": value(0.12, 0.05),
            "acceleration": value(12.345, 1.5),
        },
        "retrain": {
            "accuracy/test": value(0.99, 0.002),
            "acceleration": value(1.0, 0.0),
            "relearn_time/steps": value(3),
        },
        "source": {"accuracy/test": value(0.9912, 0.0004)},
    },
}


def test_a_measured_table() -> None:
    caption, content = measured_table(REPORT, "mnist").split("\n\n")
    assert caption == (
        "`lightning-unlearn compare --config configs/mnist/compare.yaml`; mean ± standard deviation over 3 seeds; "
        "600 of 60,000 samples forgotten; Some CPU; torch 2.11.0."
    )
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in content.splitlines()]
    assert header == [
        "model",
        "test accuracy [%]",
        "backdoor on D_f [%]",
        "acceleration [\N{MULTIPLICATION SIGN}]",
    ]
    assert rows == [
        ["`source`", "99.12 ± 0.04", "-", "-"],
        ["`retrain`", "99.00 ± 0.20", "-", "1.00 ± 0.00"],
        ["`reference_kl`", "98.77 ± 0.10", "12.00 ± 5.00", "12.3 ± 1.5"],
    ]


def test_one_seed_has_no_spread() -> None:
    report = {"seeds": [0], "models": {"source": {"accuracy/test": value(0.5)}}}
    assert "; one seed." in measured_table(report, "mnist")
    assert "| `source` | 50.00 |" in measured_table(report, "mnist")


def test_measured_tables_are_there_where_their_reports_are(tmp_path: Path) -> None:
    assert not [name for name in render_all(tmp_path) if name.startswith("measured_")]
    (tmp_path / "cifar10_small.json").write_text(json.dumps(REPORT))
    found = render_all(tmp_path)
    assert [name for name in found if name.startswith("measured_")] == ["measured_cifar10_small"]
    assert "configs/cifar10/small.yaml" in found["measured_cifar10_small"]


# ---------------------------------------------------------------------- the README


def test_the_readme_shows_the_tables(tables: dict[str, str]) -> None:
    in_readme = shown(README)
    assert list(in_readme) == [name for name in in_readme if name in tables], (
        "the README has a table of no such name"
    )
    missing = [markers(name) for name in tables if name not in in_readme]
    assert not missing, f"README.md lacks the lines {missing}; with them run: {COMMAND}"
    stale = [name for name in tables if in_readme[name] != tables[name]]
    assert not stale, f"these tables of the README are not up to date: {stale}; run: {COMMAND}"


def test_tables_are_exchanged_in_place() -> None:
    start, end = markers("one")
    text = f"before\n\n{start}\nold\n{end}\n\nbetween\n\n{markers('two')[0]}\n{markers('two')[1]}\nafter\n"
    new = replaced(text, {"one": table(["a"], [["1"]]), "three": "x"})
    assert shown(new) == {"one": "| a |\n| --- |\n| 1 |", "two": ""}
    assert "old" not in new
    assert new.startswith("before\n\n")
    assert new.endswith("\nafter\n")
    assert replaced(new, {"one": table(["a"], [["1"]])}) == new


def test_writing_and_printing(
    tmp_path: Path,
    tables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("helpers.docs_tables.render_all", lambda: tables)
    file = tmp_path / "README.md"
    file.write_text("\n".join(markers("methods")))
    assert main(["--write", str(file)]) == 1
    assert "<!-- generated: evaluators -->" in capsys.readouterr().err
    assert shown(file.read_text()) == {"methods": tables["methods"]}
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert shown(printed) == tables
    file.write_text(printed)
    assert main(["--write", str(file)]) == 0
    assert file.read_text() == printed
