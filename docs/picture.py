"""Draw the picture at the top of the README from a measured report: ``python docs/picture.py``."""

import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
REPORT = HERE.parent / "tests" / "measured" / "mnist_backdoor.json"
REMEMBERED, SPEED, KEPT = "backdoor/success_rate_forget", "acceleration", "accuracy/test"
CROWDED = {"top_k": 34, "random_top_k": 20, "reference_kl": 6}
"""Labels that would lie over one another, with the height in points at which each is put instead."""


def draw() -> Figure:
    """Return what each method still remembers over how much faster than retraining it is."""
    models = json.loads(REPORT.read_text())["models"]
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for name, meaning in (("source", "nothing forgotten"), ("retrain", "everything forgotten")):
        level = 100 * models[name][REMEMBERED]["mean"]
        axes.axhline(level, color="0.35", ls="--", lw=1)
        label = f"{name}: {meaning}, test accuracy {_percent(models[name][KEPT])}"
        axes.text(1.02, level - 2, label, va="top", color="0.25", fontsize=9)
    for name in (model for model in models if model not in ("source", "retrain")):
        speed, left = models[name][SPEED], models[name][REMEMBERED]
        x, y = speed["mean"], 100 * left["mean"]
        axes.errorbar(x, y, 100 * left["std"], speed["std"], "o", color="C0", capsize=2, lw=1)
        label = f"{name}, {_percent(models[name][KEPT])}"
        look: dict[str, object] = {"textcoords": "offset points", "fontsize": 9, "va": "center"}
        if name in CROWDED:
            line = {"arrowstyle": "-", "color": "0.6", "lw": 0.7, "shrinkB": 4}
            axes.annotate(label, (x, y), (22, CROWDED[name]), arrowprops=line, **look)
        else:
            below = name == "eu_k"
            axes.annotate(
                label,
                (x, y + (-1 if below else 1) * 100 * left["std"]),
                (0, -12 if below else 9),
                ha="center",
                **look,
            )
    axes.set_xscale("log")
    times = "\N{MULTIPLICATION SIGN}"
    axes.set_xticks([1, 2, 5, 10, 20, 40], [f"{n}{times}" for n in (1, 2, 5, 10, 20, 40)])
    axes.minorticks_off()
    axes.set(xlim=(0.97, 135), ylim=(-12, 103), xlabel="times faster than retraining")
    axes.set_ylabel("backdoor still known\nfrom the forget set [%]")
    axes.set_yticks(range(0, 101, 20))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _percent(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.1f}%"


if __name__ == "__main__":
    draw().savefig(HERE / "images" / "headline.png", dpi=150, metadata={"Software": None})
