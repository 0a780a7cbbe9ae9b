"""The unlearning degree by SPD-GAN beside its null control: how far can D_f be pushed until only one model fails?"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from lightning.fabric.utilities import rank_zero_warn
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import pad

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.callbacks.base.evaluator import Evaluator
from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.files import atomic_path
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.engine.train import default_optimizer
from lightning_unlearn.ensembles import isolated_rng, train_classifier
from lightning_unlearn.functional import confidence_interval, spd_gan_loss
from lightning_unlearn.metrics.declared import DeclaredMetric, near_score
from lightning_unlearn.models.freezing import mark_frozen
from lightning_unlearn.models.fresh import fresh_copy
from lightning_unlearn.models.spd_gan import perturber_for
from lightning_unlearn.models.surgery import clone, frozen, lay_out_for_cpu

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Null = Literal["retain", "retrain", "continue"]

_SHOWN = 8  # samples in the picture
_WORDS = {
    "Title": "What the unlearning degree perturbs",
    "Description": "Samples of the forget set D_f in the upper row, the perturbation found for each in the middle row "
    "and their sum D_p in the lower row, all in the units of the model's input, with each sample's class above and "
    "the answers of the source model and of this model below.",
}  # what the picture says of itself where it is shown again


class UnlearningDegree(Evaluator):
    """Pushes the forget set by up to 0.2 (the paper: 1), until the source is still right and the audited model is not.

    A generator (:mod:`lightning_unlearn.models.spd_gan`) is trained to perturb D_f into D_p so that the source
    model classifies D_p correctly and the audited model does not; the degree is the difference of their
    accuracies on D_p (Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation",
    section III-C, algorithm 2 and eq. 14).

    Any two models can be told apart like this if the perturbation may be large enough, whether or not one
    forgot. So the same is measured for a null control, in which nothing was forgotten, with a generator of its
    own that starts from the same weights. Only what the degree exceeds it by speaks of forgetting.

    - ``<name>/degree``: the published score, in [-1, 1]. For the source itself it is 0 whatever is added, so nothing
      is: no generator is trained, and its perturbation is 0.
    - ``<name>/null``: the same score of the null control.
    - ``<name>/calibrated``: degree − null. 0 or less: nothing is seen of forgetting. The verdict pairs the degrees by
      seed and asks the null only whether the retrained model stands out from it: a null that all models of a seed
      share cancels in the paired difference, and widens any other.
    - ``<name>/source_accuracy_perturbed``: the source's accuracy on D_p.
    - ``<name>/source_accuracy_drop``: its accuracy on D_f minus that; eq. 11 asks for about 0.
    - ``<name>/constraint_met``: 1 if the drop, the null control's too, is within ``tolerance``; 0 marks a
      degree that eq. 11 does not cover.
    - ``<name>/perturbation_l2`` and ``<name>/perturbation_linf``: mean Euclidean norm of the perturbation of a
      sample, and its largest absolute value, both in the units of the model's input (after normalisation).

    The results' file also holds 95% intervals over the samples of D_f, generators and null control held fixed;
    next to it is a picture of originals, perturbations and D_p, where the samples are images. Without a
    known source model there is nothing to compare with: no metric is reported, with a warning.

    All ranks train the same generator on the same batches: its batch normalisation would else make the score
    depend on the number of processes.

    Args:
        null_control: The null control.

            - ``"retain"``: the audited model itself, on as many samples of the retain set, which it did not
              forget. What sets it apart from the source beside forgetting is in both, and no further model is
              trained. For a forget set that is like the retain set; not for one class or one person.
            - ``"retrain"``: the source's architecture trained anew on *all* data, for ``null_epochs``. The
              control of a retrained model; for a fine-tuned one, which differs less from the source, it sets
              the bar too high.
            - ``"continue"``: a copy of the source trained further on *all* data, for ``null_epochs``. The
              control of a fine-tuned model; for a retrained one, which differs more, it sets the bar too low.
            - A module: a model of your own that forgot nothing.
            - ``None``: none, and then only the published score is reported.
        eta: Weight η of the audited model's failure against the source's success; 0.03 in the paper.
        size: Largest absolute value of a perturbation, in the units of the model's input, named in the metrics'
            labels. The paper's is 1; at that size two models that forgot nothing are told apart as well.
        epochs: Passes of the generator over D_f.
        least_steps: Steps that the generator takes at least, by further passes: with fewer it has not learned how far
            a small forget set can be pushed.
        batch_size: Samples of a step of the generator.
        lr: Learning rate of the generator's Adam.
        null_epochs: Passes over all data for ``"continue"`` and ``"retrain"``; give the control what the audited
            model was given.
        null_optimizer: Makes the null control's optimizer; ``None`` for Adam with learning rate 1e-3.
        tolerance: Largest drop of the source's accuracy that still counts as none.
        **evaluator: Arguments of :class:`~lightning_unlearn.callbacks.base.evaluator.Evaluator`.

    Raises:
        TypeError: If ``null_control`` is no such control.
        ValueError: If an argument is outside its range.
    """

    needs = ("classes",)
    default_name: ClassVar[str] = "unlearning_degree"
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "unlearning_degree/degree": near_score(
            "Unlearning degree",
            "degree",
            "The published SPD-GAN score; models that forgot nothing score high too, so it is read beside its "
            "null control, which takes the source model's place in the verdict: the source has 0 by definition.",
            decides="forgetting",
            null="null",
        ),
        "unlearning_degree/null": DeclaredMetric(
            "Unlearning degree of the null control",
            "degree, null",
            "The same score between the source model and a model that changed and forgot nothing.",
            digits=3,
            headline=True,
        ),
        "unlearning_degree/calibrated": near_score(
            "Unlearning degree, calibrated",
            "degree - null",
            "The degree minus its null control: 0 means no more than any change to the model gives. The verdict pairs "
            "the degrees themselves, since a null that models share would only add its noise.",
            headline=True,
        ),
        "unlearning_degree/constraint_met": DeclaredMetric(
            "Unlearning degree: constraint met",
            "constraint met",
            "Whether the source model keeps its accuracy on the perturbed forget set, as the degree's definition "
            "demands: 1 where it does, 0 where not; the mean is the share of the seeds.",
            direction="higher",
            digits=2,
        ),
        "unlearning_degree/source_accuracy_perturbed": DeclaredMetric(
            "Unlearning degree: source's accuracy on the perturbed D_f",
            "source, perturbed",
            "Share of the perturbed forget set that the source model still classifies correctly.",
            unit="%",
        ),
        "unlearning_degree/source_accuracy_drop": DeclaredMetric(
            "Unlearning degree: source's loss of accuracy by the perturbation",
            "source drop",
            "The source model's accuracy on D_f minus that on the perturbed D_f; the definition asks for about 0.",
            unit="%",
        ),
        "unlearning_degree/perturbation_l2": DeclaredMetric(
            "Unlearning degree: size of the perturbation, Euclidean norm",
            "perturbation L2",
            "Mean Euclidean norm of a sample's perturbation, in the units of the model's input: any two models can "
            "be told apart if it is large enough.",
        ),
        "unlearning_degree/perturbation_linf": DeclaredMetric(
            "Unlearning degree: size of the perturbation, largest entry",
            "perturbation L∞",
            "The perturbation's largest absolute value, in the units of the model's input.",
        ),
    }
    copies_model: ClassVar[bool] = True

    def __init__(
        self,
        null_control: Null | nn.Module | None = "retain",
        *,
        eta: float = 0.03,
        size: float = 0.2,
        epochs: int = 10,
        least_steps: int = 100,
        batch_size: int = 64,
        lr: float = 3e-3,
        null_epochs: int = 10,
        null_optimizer: OptimizerCallable | None = None,
        tolerance: float = 0.05,
        **evaluator: Any,
    ) -> None:
        if not isinstance(null_control, nn.Module) and null_control not in (None, *get_args(Null)):
            wrong = ValueError if isinstance(null_control, str) else TypeError
            raise wrong(
                f"null_control must be 'retain', 'retrain', 'continue', a module or None, got {null_control!r}"
            )
        in_range("size", size, "(0, inf)")
        in_range("lr", lr, "(0, inf)")
        in_range("eta", eta, "[0, inf)", "; the paper uses 0.03")
        in_range("tolerance", tolerance, "[0, 1]", "; 5 points of accuracy are 0.05")
        in_range("epochs", epochs, "[1, inf)", whole=True)
        in_range("least_steps", least_steps, "[0, inf)", whole=True)
        in_range("batch_size", batch_size, "[2, inf)", "; batch normalisation needs two", whole=True)
        in_range("null_epochs", null_epochs, "[1, inf)", whole=True)
        super().__init__(**evaluator)
        self.null_control = null_control
        self.eta = eta
        self.size = size
        self.epochs = epochs
        self.least_steps = least_steps
        self.batch_size = batch_size
        self.lr = lr
        self.null_epochs = null_epochs
        self.null_optimizer = null_optimizer
        self.tolerance = tolerance

    def declared(self) -> dict[str, DeclaredMetric]:
        """Return the metrics, with the bound of the perturbation in the names of those that depend on it."""
        found, bound = super().declared(), f" (±{self.size:g})"
        for name in (f"{self.name}/{part}" for part in ("degree", "null", "calibrated")):
            metric = found[name]
            found[name] = replace(metric, label=metric.label + bound, short=metric.short + bound)
        return found

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        """Train the generator against source and model, and take or make the null control's score."""
        source = audit.source
        if source is None:
            audit.details["not_measured"] = "the source model is not known"
            rank_zero_warn(
                f"the evaluator {self.name!r} compares a model with the source model, and none is known: nothing "
                f"is reported. Pass {type(self).__name__}(source=...), or use it where a method is run"
            )
            return {}
        found = self._measure(source, model, "forget", audit)
        null = self._null_score(source, model, audit)
        met = all(each.drop <= self.tolerance for each in (found, null) if each is not None)
        scores = {
            "degree": found.degree,
            "source_accuracy_perturbed": _share(found.source_right),
            "source_accuracy_drop": found.drop,
            "constraint_met": float(met),
            "perturbation_l2": found.l2,
            "perturbation_linf": found.linf,
        }
        if null is not None:
            scores |= {"null": null.degree, "calibrated": found.degree - null.degree}
        audit.details.update(self._detail(found, null))
        if not met:
            audit.details["warning"] = (
                f"the source's accuracy on D_p is more than {self.tolerance} below that on D_f, which eq. 11 rules "
                "out: part of the degree may be that, and not forgetting; lower size or eta"
            )
        file = self.file_for(model, audit, ".png")
        if file is not None and found.shown is not None:
            with atomic_path(file) as path:
                _grid(found.shown, self.size).savefig(path, metadata=_WORDS)
        return {f"{self.name}/{score}": value for score, value in scores.items()}

    # ------------------------------------------------------------------ the null control

    def _null_score(self, source: nn.Module, model: nn.Module, audit: Audit) -> "_Measured | None":
        """Measure the null control, or take what was measured for the last model of this source."""
        if self.null_control is None:
            return None
        if self.null_control == "retain":
            return self._measure(source, model, "retain", audit)
        subjects = [audit.data, audit.original(source)]
        subjects += [self.null_control] if isinstance(self.null_control, nn.Module) else []

        def measure() -> _Measured:
            found = self._measure(source, self._null_model(source, audit), "forget", audit)
            return replace(found, shown=None)

        return self.once((audit.seed, audit.adapter), subjects, measure)

    def _null_model(self, source: nn.Module, audit: Audit) -> nn.Module:
        if isinstance(self.null_control, nn.Module):
            return audit.runtime.place(frozen(self.null_control))
        data, runtime = audit.data, audit.runtime
        seed = derive_seed(audit.seed, "null")
        with isolated_rng(seed):
            null = mark_frozen(clone(source)) if self.null_control == "continue" else fresh_copy(source)
        # a step takes as many samples as in one process, so that the control does not depend on their number
        share = max(2, data.loader("train").batch_size // runtime.world_size)
        train_classifier(
            runtime.place(null),
            data.loader("train", train=True, batch_size=share, seed=seed),
            epochs=self.null_epochs,
            optimizer=self.null_optimizer or default_optimizer,
            runtime=runtime,
            adapter=audit.adapter,
            seed=seed,
        )
        return null

    # ------------------------------------------------------------------ one generator

    def _measure(self, source: nn.Module, model: nn.Module, stream: str, audit: Audit) -> "_Measured":
        """Train a generator against two models on D_f, or on as many retained samples, and ask both about D_p."""
        # in float32 whatever the trainer's precision: half precision loses the gradients of sure answers
        source, model = frozen(source).float(), frozen(model).float()
        inputs = next(self._batches(stream, audit))[0]
        alike = _same_weights(source, model) and torch.equal(
            audit.adapter.call(source, inputs), audit.adapter.call(model, inputs)
        )
        # whatever is added, one function gives one answer: its degree against itself is 0
        if audit.runtime.all_agree(alike):
            return self._asked(source, model, None, stream, audit)
        if audit.runtime.device.type == "cpu":
            few = inputs[:2]
            for copy in (source, model):
                lay_out_for_cpu(copy, lambda module: audit.adapter.call(module, few))
        return self._asked(
            source, model, self._generator(source, model, inputs, stream, audit), stream, audit
        )

    def _asked(
        self, source: nn.Module, model: nn.Module, generator: nn.Module | None, stream: str, audit: Audit
    ) -> "_Measured":
        """Ask two models about the samples of a stream as a generator perturbs them, by nothing without one."""
        ask, task, rows, shown = audit.adapter.call, audit.adapter.kind, [], None
        with torch.no_grad():
            for inputs, targets in self._batches(stream, audit):
                added = torch.zeros_like(inputs) if generator is None else self.size * generator(inputs)
                asked = (ask(source, inputs), ask(source, inputs + added), ask(model, inputs + added))
                right = [task.correct(logits, targets).bool() for logits in asked]
                flat = added.flatten(1)
                sizes = (torch.linalg.vector_norm(flat, dim=1), flat.abs().amax(1))
                rows.append([*right, *sizes])
                if shown is None and generator is not None and inputs.ndim == 4 and inputs.shape[1] in (1, 3):
                    first = (inputs, added, targets, *(task.answers(logits) for logits in asked[1:]))
                    shown = _Shown(*(each[:_SHOWN].cpu() for each in first))
        columns = (torch.cat(column).cpu() for column in zip(*rows, strict=True))
        clean, source_right, model_right, norms, largest = columns
        return _Measured(clean, source_right, model_right, float(norms.mean()), float(largest.max()), shown)

    def _generator(
        self, source: nn.Module, model: nn.Module, inputs: Tensor, stream: str, audit: Audit
    ) -> nn.Module:
        runtime, adapter = audit.runtime, audit.adapter
        with isolated_rng(derive_seed(audit.seed, "generator")):
            generator = perturber_for(inputs.shape[1:]).to(runtime.device)
        if runtime.device.type == "cpu":
            few = inputs[:2]
            lay_out_for_cpu(generator, lambda module: module(few))
        optimizer = torch.optim.Adam(generator.parameters(), lr=self.lr)
        generator.train()
        size = min(audit.data.stream_size("forget"), audit.data.stream_size(stream))
        steps = math.ceil(size / self.batch_size)
        for epoch in range(max(self.epochs, math.ceil(self.least_steps / steps))):
            total = torch.zeros((), device=runtime.device)
            for inputs, targets in self._batches(stream, audit, epoch):
                perturbed = inputs + self.size * generator(inputs)
                loss = spd_gan_loss(
                    adapter.call(source, perturbed), adapter.call(model, perturbed), targets, self.eta
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                runtime.average_gradients(generator)  # equal but for rounding, which must not add up
                optimizer.step()
                total += loss.detach()
            runtime.require_finite(
                total,
                f"the generator's loss became {{}} in epoch {epoch + 1}; check the data and the models for NaN or "
                f"infinite values, or lower eta ({self.eta}) or lr ({self.lr})",
            )
        runtime.share_buffers(generator)
        return generator.eval()

    def _batches(
        self, stream: str, audit: Audit, epoch: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield D_f, or as many samples of another stream, never augmented; shuffled for an epoch of training."""
        data = audit.data
        size = min(data.stream_size("forget"), data.stream_size(stream))
        positions = None if stream == "forget" else data.split.draw_reference(size, seed=audit.seed)
        for inputs, targets in audit.batches(stream, self.batch_size, positions=positions, epoch=epoch):
            if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 2:
                found = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
                raise ValueError(
                    "the unlearning degree adds a perturbation to the model's inputs, which must be one floating-"
                    f"point tensor of shape (B, ...), got {found}; leave this evaluator out for such data"
                )
            yield inputs.float(), targets

    def _detail(self, found: "_Measured", null: "_Measured | None") -> dict[str, Any]:
        """Return the plain values for the results' file."""
        detail: dict[str, Any] = {
            "eta": self.eta,
            "size": self.size,
            "samples": len(found.differences),
            "model_accuracy_perturbed": _share(found.model_right),
            "null_control": self.null_control if isinstance(self.null_control, str | None) else "module",
        }
        intervals = {"degree": found.differences}
        if null is not None:
            intervals["null"] = null.differences
            detail["null_source_accuracy_drop"] = null.drop
            # sample by sample, or independent: both are fair
            if len(found.differences) == len(null.differences):
                intervals["calibrated"] = found.differences - null.differences
        detail["ci95"] = {
            score: None if (bounds := confidence_interval(values.tolist())) is None else list(bounds)
            for score, values in intervals.items()
        }
        return detail


@dataclass(frozen=True)
class _Shown:
    """The first samples of a stream, for the picture; all on the CPU."""

    originals: Tensor
    perturbations: Tensor
    targets: Tensor
    source_answers: Tensor
    model_answers: Tensor


@dataclass(frozen=True)
class _Measured:
    """What one generator found; a bool a sample where the source and the other model were right."""

    source_right_clean: Tensor
    source_right: Tensor
    model_right: Tensor
    l2: float
    linf: float
    shown: _Shown | None

    @property
    def degree(self) -> float:
        """Accuracy of the source on D_p minus that of the other model."""
        return float(self.differences.mean())

    @property
    def drop(self) -> float:
        """Accuracy of the source that the perturbation costs."""
        return _share(self.source_right_clean) - _share(self.source_right)

    @property
    def differences(self) -> Tensor:
        """What each sample adds to the degree: 1, 0 or -1, ``(N,)`` float64; their mean is the degree."""
        return self.source_right.double() - self.model_right.double()


def _grid(shown: _Shown, size: float) -> "Figure":
    """Draw originals, perturbations and D_p below each other, in the units of the model's input."""
    from matplotlib.figure import Figure

    originals, added = shown.originals, shown.perturbations
    samples, channels, _, width = originals.shape
    outer = float(originals.min()), float(originals.max())
    figure = Figure(figsize=(1.1 * samples + 1.6, 4.4), dpi=120, layout="constrained")
    axes = figure.subplots(3, 1)
    # one picture a row, its samples side by side: an axis for each takes ten times as long
    for axis, images, label in zip(
        axes,
        (originals, added, originals + added),
        ("$D_f$", f"perturbation\n(±{size:g})", "$D_p$"),
        strict=True,
    ):
        low, high = (-size, size) if images is added else outer
        row = pad(images, (1, 1), value=torch.nan).permute(2, 0, 3, 1).flatten(1, 2)
        if channels == 3:
            row = ((row - low) / max(high - low, 1e-12)).clamp(0, 1).nan_to_num(1)
        tone = "RdBu_r" if images is added else "gray"
        drawn = axis.imshow(row.numpy(), cmap=tone, vmin=low, vmax=high)
        if images is added and channels == 1:
            figure.colorbar(drawn, ax=axis, label="input units", pad=0.01)
        axis.set_ylabel(label, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    middles = [(width + 2) * (sample + 0.5) - 0.5 for sample in range(samples)]
    axes[0].xaxis.tick_top()
    axes[0].set_xticks(middles, [f"class {true}" for true in shown.targets.tolist()], fontsize=9)
    answers = zip(shown.source_answers.tolist(), shown.model_answers.tolist(), strict=True)
    axes[2].set_xticks(middles, [f"source: {one}\nmodel: {other}" for one, other in answers], fontsize=9)
    for axis in axes:
        axis.tick_params(length=0)
    return figure


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models hold the same parameters and buffers in the same order, whatever they are called."""
    ours, theirs = ([*module.parameters(), *module.buffers()] for module in (one, other))
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _share(right: Tensor) -> float:
    return float(right.double().mean())
