"""The README's support tables say what the harnesses run, and every line of them is run."""

from pathlib import Path

import pytest
import test_harness_evaluators  # noqa: F401  that its tests say which axes they stand for
import test_harness_methods  # noqa: F401
import test_launched  # noqa: F401
from helpers.support import EVALUATOR_AXES, EVALUATORS, METHOD_AXES, METHODS, NOT_RUN, REFUSED, covered
from helpers.support_table import README, main, markers, render, shown


@pytest.mark.parametrize("kind", ["methods", "evaluators"])
def test_the_readme_shows_what_the_harnesses_run(kind: str) -> None:
    assert shown(kind, README.read_text()) == render(kind), (
        "run: PYTHONPATH=tests python -m helpers.support_table"
    )


def test_every_axis_is_run() -> None:
    assert covered == {"methods": set(METHOD_AXES), "evaluators": set(EVALUATOR_AXES)}


def test_what_is_refused_exists() -> None:
    names = {subject.__name__ for subject in (*METHODS, *EVALUATORS)}
    assert set(REFUSED) <= names
    assert all(set(axes) <= {*METHOD_AXES, *EVALUATOR_AXES} for axes in REFUSED.values())
    assert all(left_out <= names for left_out in NOT_RUN.values())


def test_writing_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    monkeypatch.setattr("helpers.support_table.README", readme)
    readme.write_text("nothing here")
    assert main() == 1
    assert readme.read_text() == "nothing here"
    text = "before\n" + "\n".join(
        f"{markers(kind)[0]}\nold\n{markers(kind)[1]}\nbehind" for kind in ("methods", "evaluators")
    )
    readme.write_text(text)
    assert main() == 0
    written = readme.read_text()
    assert "old" not in written
    assert written.count("behind") == 2
    assert shown("methods", written) == render("methods")
