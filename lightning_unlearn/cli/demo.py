"""``lightning-unlearn demo``: wrong labels that are known by heart, and forgotten, on one screen and in a picture."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.comparison.api import compare
from lightning_unlearn.comparison.controls import short_name
from lightning_unlearn.comparison.folder import RunFolder
from lightning_unlearn.comparison.runs import RETRAIN, SOURCE, MethodRun, SourceRun
from lightning_unlearn.core.terminal import say
from lightning_unlearn.data import Digits, TensorData, UnlearningDataModule
from lightning_unlearn.methods import CFk, NegGradPlus, ReferenceKL, Rewind, TopK, UnlearningModule
from lightning_unlearn.models import MLP, Classifier
from lightning_unlearn.models.surgery import load_state
from lightning_unlearn.reports import Report, render_text

__all__ = ["mislabelled", "run"]

_WRONG, _EPOCHS, _SHORT, _SHOWN, _RED = 72, 60, 0.05, 8, "C3"
_GIVEN, _TEST, _TIME, _SPEED = "accuracy/forget", "accuracy/test", "time/total_s", "acceleration"
_METHODS: dict[str, tuple[type[UnlearningModule], dict[str, Any], int]] = {
    "rewind": (Rewind, {"ascent": 0.3}, 2),
    "neg_grad_plus": (NegGradPlus, {}, 3),
    "reference_kl": (ReferenceKL, {"lambda_": 0.1, "reference_epochs": 40}, 10),
    "top_k": (TopK, {"k": 45, "epsilon": 10.0, "sensitivity_stream": "forget"}, 3),
    "cf_k": (CFk, {"k": 2}, 3),
}
"""Each method's class, arguments and epochs; the last two show what too little looks like."""


def run(args: list[str]) -> int:
    """Parse the arguments, compare, print one screen; the status is 1 if a part failed."""
    parser = argparse.ArgumentParser(
        prog="lightning-unlearn demo",
        description="Train a small network on handwritten digits, some with a wrong label, and make it forget these. "
        "It takes under a minute, needs no download, and writes a page and a picture.",
    )
    parser.add_argument("--seeds", type=int, default=1, help="repetitions; 5 for intervals and a verdict")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder to write to")
    parsed = parser.parse_args(args)
    result = compare(
        SourceRun(_classifier, {"max_epochs": _EPOCHS}, keep_every=2),
        lambda: mislabelled()[0],
        [MethodRun(partial(cls, **own), name, _trainer(n)) for name, (cls, own, n) in _METHODS.items()],
        seeds=parsed.seeds,
        retrain_2=False,
        short_retrainings=[_SHORT],
        trainer={"accelerator": "cpu"},
        output_dir=parsed.output,
        threads=1,  # the network is too small for more
        config={
            "source": {"model": repr(_classifier()), "trainer": _trainer(_EPOCHS)},
            "data": f"Digits, {_WRONG} of them with a wrong label, which are to be forgotten",
            "methods": [
                {"method": {"class_path": cls.__name__, "init_args": own}, "trainer": _trainer(n)}
                for cls, own, n in _METHODS.values()
            ],
        },
    )
    for failure in result.report["failures"]:
        print(f"FAILED  {failure['model']}, seed {failure['seed']}: {failure['error']}", file=sys.stderr)
    if result.failed:
        return 1
    picture = parsed.output / "demo.png"
    _draw(parsed.output, _best(result.report), picture)
    if parsed.seeds > 1:
        say(render_text(result.report, 100, encoding=sys.stdout.encoding))
    say(
        f"1,438 handwritten digits, {_WRONG} with a wrong label. The source knows those by heart and is to forget them."
    )
    say(_table(result.report))
    say(
        f"{short_name(_SHORT)}, a retraining cut to {_SHORT:.0%} of its steps, is the floor: a method must beat it."
    )
    if parsed.seeds == 1:
        say("One seed: an illustration; `lightning-unlearn demo --seeds 5` for intervals and a verdict.")
    say(f"Page:    {parsed.output / 'report.html'}\nPicture: {picture}")
    say("Next:    lightning-unlearn compare --recipe digits/compare")
    return 0


def mislabelled() -> tuple[UnlearningDataModule, Tensor, Tensor]:
    """Return the digits of which 72 carry a wrong label.

    Returns:
        Data that are to forget those, their inputs ``(72, 1, 8, 8)``, and their wrong labels ``(72,)``.
    """
    data, test = Digits().load()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data), generator=generator)[:_WRONG].sort().values
    targets = data.targets.clone()
    targets[chosen] = (targets[chosen] + torch.randint(1, 10, (_WRONG,), generator=generator)) % 10
    wrong = TensorData(data.inputs, targets, num_classes=10, transform=data.transform)
    split = UnlearningDataModule(wrong, chosen.tolist(), test_dataset=test, batch_size=64)
    return split, *wrong.batch(chosen)


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

    _, inputs, labels = mislabelled()
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


def _classifier() -> Classifier:
    return Classifier(MLP(64, [256, 128], 10), optimizer=partial(torch.optim.Adam, lr=2e-3))


def _trainer(epochs: int) -> dict[str, Any]:
    return {"max_epochs": epochs}


def _best(report: Report) -> str:
    models = report["models"]
    return min(_METHODS, key=lambda name: (models[name][_GIVEN]["mean"], -models[name][_TEST]["mean"]))


@torch.no_grad()
def _answers(folder: Path, inputs: Tensor) -> Tensor:
    model = _classifier().eval()
    load_state(model, torch.load(RunFolder(folder).checkpoint, weights_only=True)["state_dict"])
    answers: Tensor = model(inputs).argmax(1)
    return answers
