"""``lightning-unlearn demo``: wrong labels that are known by heart, and forgotten, on one screen and in a picture."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.cli.compare import compared, say_failures
from lightning_unlearn.cli.recipes import recipe_file
from lightning_unlearn.comparison.controls import short_name
from lightning_unlearn.comparison.folder import RunFolder
from lightning_unlearn.comparison.runs import RETRAIN, SOURCE
from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.terminal import say
from lightning_unlearn.data import Digits, TensorData, UnlearningDataModule
from lightning_unlearn.data.selection import as_rule
from lightning_unlearn.models import MLP, Classifier
from lightning_unlearn.reports import Report, render_text
from lightning_unlearn.reports.glossary import is_control

_WRONG, _SHORT, _SHOWN, _RED = 72, 0.05, 8, "C3"
_GIVEN, _TEST, _TIME, _SPEED = "accuracy/forget", "accuracy/test", "time/total_s", "acceleration"


EXAMPLE = "--seeds 5"


def run(*, seeds: int = 1, output: Path = Path("runs/demo")) -> int:
    """Train a small network on handwritten digits, some with a wrong label, and make it forget these.

    It takes under a minute, needs no download, and writes a page and a picture.

    Args:
        seeds: Repetitions; 5 for intervals and a verdict.
        output: Folder to write to.
    """
    given = [f"--seeds={seeds}", f"--output_dir={output}"]
    result, _ = compared([f"--config={recipe_file('digits/demo')}", *given])
    say_failures(result.report)
    if result.failed:
        return 1
    picture = output / "demo.png"
    _draw(output, _best(result.report), picture)
    if seeds > 1:
        say(render_text(result.report, 100, encoding=sys.stdout.encoding))
    say(
        f"1,438 handwritten digits, {_WRONG} with a wrong label. The source knows those by heart and is to forget them."
    )
    say(_table(result.report))
    say(
        f"{short_name(_SHORT)}, a retraining cut to {_SHORT:.0%} of its steps, is the floor: a method must beat it."
    )
    if seeds == 1:
        say("One seed: an illustration; `lightning-unlearn demo --seeds 5` for intervals and a verdict.")
    say(f"Page:    {output / 'report.html'}\nPicture: {picture}")
    say("Next:    lightning-unlearn compare --recipe digits/compare")
    return 0


class MislabelledDigits(UnlearningDataModule):
    """The digits, of which some for training carry a wrong label and are to be forgotten.

    Args:
        redraw: Whether the split's seed, in a comparison each seed's own, draws who is mislabelled; otherwise it is
            always the same ones.
        mislabelled: How many are.
        request: Which part of them is to be forgotten, as ``"3/10"`` for the third of ten requests; those that no
            request has named yet are trained on.

    Attributes:
        wrong: Inputs ``(n, 1, 8, 8)`` of those to be forgotten, and their wrong labels ``(n,)``.
    """

    def __init__(self, redraw: bool = False, mislabelled: int = _WRONG, request: str = "1/1") -> None:
        data, test = Digits().load()
        self.redraw = redraw
        self._number = mislabelled
        self._request, self._requests = map(int, request.split("/"))
        in_range("request", self._request, f"[1, {self._requests}]", " of as many requests", whole=True)
        wrong = TensorData(data.inputs, data.targets.clone(), num_classes=10, transform=data.transform)
        self._data = wrong
        chosen = self._mislabel(0)
        super().__init__(wrong, chosen.tolist(), test_dataset=test, batch_size=64, wrong_labels=True)

    def setup(self, stage: str = "fit") -> None:
        """Draw who is mislabelled by the seed of the split, if that is asked for; then split."""
        if self.redraw and self._split is None:
            self._data.targets.copy_(Digits().load()[0].targets)
            self.rule = as_rule(self._mislabel(self.seed).tolist())
        super().setup(stage)

    def _mislabel(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        targets = self._data.targets
        chosen = torch.randperm(len(targets), generator=generator)[: self._number].sort().values
        targets[chosen] = (targets[chosen] + torch.randint(1, 10, (len(chosen),), generator=generator)) % 10
        chosen = chosen[self._request - 1 :: self._requests]
        self.wrong = self._data.batch(chosen)
        return chosen

    @property
    def data_name(self) -> str:
        """Name of the data, for reports."""
        return "digits with wrong labels"


def _table(report: Report) -> str:
    """Return, for each model, how many wrong labels it still gives, how good it is and what it cost."""
    lines = [
        "               wrong labels      test            times faster",
        "model           still given  accuracy     time  than retraining",
    ]
    for name, values in report["models"].items():
        given, test, seconds = (values[key]["mean"] for key in (_GIVEN, _TEST, _TIME))
        speed = "-" if name in (SOURCE, RETRAIN) else f"{values[_SPEED]['mean']:.0f}"
        lines.append(f"{name:15}{given:12.0%}{test:10.1%}{seconds:7.1f} s{speed:>17}")
    return "\n".join(["", *lines, ""])


def _draw(folder: Path, method: str, file: Path) -> None:
    """Draw eight mislabelled digits and, under each, what source, retrained and unlearned model answer in a seed."""
    from matplotlib.figure import Figure

    inputs, labels = MislabelledDigits().wrong
    names = {SOURCE: "source", RETRAIN: "retrained", method: f"unlearned ({method})"}
    answers = [_answers(folder / name / "seed_0", inputs)[:_SHOWN].tolist() for name in names]
    figure = Figure(figsize=(7.6, 1.2))
    grid = figure.subplots(1, _SHOWN)
    for column, axes in enumerate(grid):
        wrong = int(labels[column])
        axes.imshow(inputs[column, 0].numpy(), cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"labelled {wrong}", fontsize=9, color=_RED)
        for row, answer in enumerate(answers):
            look: dict[str, Any] = {"color": _RED if answer[column] == wrong else "C0", "weight": "bold"}
            axes.text(0.5, -0.3 - 0.28 * row, answer[column], transform=axes.transAxes, ha="center", **look)
    for row, said in enumerate(names.values()):
        grid[0].text(-0.3, -0.3 - 0.28 * row, said, transform=grid[0].transAxes, ha="right", fontsize=9)
    figure.savefig(file, dpi=150, bbox_inches="tight", metadata={"Software": None})


def _best(report: Report) -> str:
    models = report["models"]
    methods = (name for name in models if not is_control(name))
    return min(methods, key=lambda name: (models[name][_GIVEN]["mean"], -models[name][_TEST]["mean"]))


@torch.no_grad()
def _answers(folder: Path, inputs: Tensor) -> Tensor:
    model = Classifier.load_from_checkpoint(
        RunFolder(folder).checkpoint, net=MLP(64), weights_only=True
    ).eval()
    answers: Tensor = model(inputs).argmax(1)
    return answers
