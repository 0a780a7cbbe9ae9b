"""The demo: good and bad methods are told apart on its last screen."""

import re
from pathlib import Path

import pytest
from matplotlib.image import imread

from lightning_unlearn.cli.demo import MislabelledDigits
from lightning_unlearn.cli.main import main

REPO = Path(__file__).resolve().parent.parent


def rows(screen: str) -> dict[str, tuple[float, float]]:
    """Return for each model the share of the wrong labels that it still gives, and its test accuracy, in percent."""
    found = re.findall(r"^(\w+) +([\d.]+)% +([\d.]+)% +[\d.]+ s +[-\d]+$", screen, re.MULTILINE)
    return {name: (float(given), float(accuracy)) for name, given, accuracy in found}


def test_nobody_compares_wrong_labels_with_non_members() -> None:
    data = MislabelledDigits()
    data.setup("fit")
    assert data.unlike_nonmembers == "the labels of the forget set are wrong"


@pytest.mark.slow
def test_the_last_screen_tells_good_from_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "runs" / "demo"
    assert main(["demo", "--output", str(output)]) == 0
    screen = capsys.readouterr().out.partition("1,438 handwritten digits")[2]
    assert len(screen.splitlines()) <= 18
    models = rows(screen)
    given, accuracy = ({name: row[column] for name, row in models.items()} for column in (0, 1))
    assert given["source"] >= 90
    assert given["retrain"] <= 5
    good = ("rewind", "neg_grad_plus", "reference_kl")
    assert min(given[name] for name in good) <= 3
    assert max(given[name] for name in good) <= 10
    assert min(given["top_k"], given["cf_k"]) >= 25
    assert accuracy["retrain"] > accuracy["source"], "without wrong labels it is the better model"
    assert all(accuracy[name] > max(accuracy["source"], accuracy["retrain_5pct"]) for name in good)
    assert str(output / "report.html") in screen
    assert (output / "report.html").is_file()
    assert imread(output / "demo.png").shape[1] > 900
    text = (REPO / "docs" / "quickstart.md").read_text()
    assert rows(text).keys() == models.keys(), "the page shows another table than the command prints"


def test_help_and_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--help"])
    assert stop.value.code == 0
    assert "--seeds" in capsys.readouterr().out
    assert main(["demo", "--seeds", "0", "--output", str(tmp_path)]) == 2
    assert "seeds must be a positive number" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
