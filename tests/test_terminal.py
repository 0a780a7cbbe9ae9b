"""What is printed while a comparison runs: on a terminal, into a file, and where not all characters are known."""

import io
import logging
import re
import sys

import pytest
import torch
from helpers.toys import quiet_trainer, toy_data, toy_source

from lightning_unlearn import FineTune, ForgettingQuality
from lightning_unlearn.comparison.progress import Progress
from lightning_unlearn.core.terminal import LOG, Tally, encodable, say
from lightning_unlearn.data import TensorData
from lightning_unlearn.ensembles import Member, Recipe, train_ensemble


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def course(progress: Progress) -> None:
    with progress:
        progress.start("café", 0)
        progress.show_epoch(1, 3)
        progress.done()
        progress.start("top_k", 0, "audit")
        progress.done(failed=True)
        progress.start("fine", 0, "audit")
        progress.done({"accuracy/test": 0.91, "another": 1.0})


@pytest.mark.parametrize(
    ("encoding", "model", "dot"), [("utf-8", "café", "·"), ("latin-1", "café", "·"), ("ascii", "caf?", "-")]
)
def test_a_file_gets_a_line_a_part_and_nothing_that_moves(
    monkeypatch: pytest.MonkeyPatch, encoding: str, model: str, dot: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    course(Progress(3))
    sys.stdout.flush()
    first, second, third = written.getvalue().decode(encoding).splitlines()
    assert first.startswith(f"[1/3] seed 0 {dot} {model} {dot} train: 0.")
    assert second == f"[2/3] seed 0 {dot} top_k {dot} audit: FAILED"
    assert third.startswith(f"[3/3] seed 0 {dot} fine {dot} audit: 0.")
    assert third.endswith("91.00")
    assert all(character.isprintable() for character in first + second + third)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_shows_the_part_and_the_epoch_and_keeps_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal(written, encoding))
    progress = Progress(3)
    assert progress.live
    course(progress)
    sys.stdout.flush()
    shown = written.getvalue().decode(encoding)
    assert "\x1b[" in shown
    assert "audit" in shown
    plain = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", shown)
    rows = re.findall(r"\[(\d)/3\] seed 0 . (\w+) . audit: (FAILED|\d\.\d s.*91\.00)\r?\n", plain)
    assert [row[:2] for row in rows] == [("2", "top_k"), ("3", "fine")]
    assert "\x1b[31m" in shown, "what failed is red"


def test_what_was_there_is_not_said_to_have_taken_time(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(1)
    with progress:
        progress.start("source", 0)
        progress.done({"accuracy/test": 0.91}, there=True)
    assert capsys.readouterr().out == "[1/1] seed 0 · source · train: there already · test accuracy 91.00\n"


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    course(Progress(3, quiet=True))
    assert written.getvalue() == ""


def test_a_line_is_said_in_what_the_stream_knows() -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, "ascii")
    say("✓ 1 ± 2, café", stream)
    assert written.getvalue() == b"Y 1 +- 2, caf?\n"
    memory = io.StringIO()
    say("✓ café", memory)
    assert memory.getvalue() == "✓ café\n"


def test_every_sign_of_ours_has_a_spelling() -> None:
    assert encodable("✓✗†±×·ελ∞…−", "ascii") == "YN!+-x-epslambdainf...-"  # noqa: RUF001


def heard(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == LOG.name]


def test_many_models_say_how_far_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Tally, "_EVERY", 0.0)
    caplog.set_level(logging.INFO)
    data = TensorData(torch.randn(20, 4), torch.arange(20) % 2)
    recipe = Recipe(lambda: torch.nn.Linear(4, 2), 1, 5, lambda p: torch.optim.SGD(p, lr=0.1))
    train_ensemble(recipe, data, [Member(torch.arange(20), seed) for seed in range(5)], chunk=2)
    assert heard(caplog) == ["2 of 5 models are trained", "4 of 5 models are trained"]
    caplog.clear()
    quality = ForgettingQuality(models=3, sources="one", controls=False)
    quiet_trainer(max_epochs=1, callbacks=[quality]).fit(FineTune(toy_source()), toy_data(nonmember=10))
    assert [line for line in heard(caplog) if "unlearned" in line], heard(caplog)


def test_what_is_quick_or_quiet_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Tally("models are trained", 3)(1)
    assert heard(caplog) == []
    with Progress(1, quiet=True):
        assert not LOG.isEnabledFor(logging.INFO)
    assert LOG.isEnabledFor(logging.INFO)
