"""Make populations once for all evaluators: what K models of one kind say about the samples.

A kind is a way for a model to come to be: unlearned, retrained, or a source. Each model is made from a seed of its
own, asked, and let go; what is kept is its logit-scaled confidence on each sample and its accuracies.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.callbacks.base.audit import STREAMS, Audit
from lightning_unlearn.core.cluster import hands_on, in_parts
from lightning_unlearn.core.files import atomic_path, model_hash
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.core.terminal import Tally
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.selection_data import Positions
from lightning_unlearn.ensembles import Member, Outputs, Runtime, ask, train_ensemble
from lightning_unlearn.ensembles.cache import usable_cache
from lightning_unlearn.ensembles.fingerprint import fingerprint
from lightning_unlearn.ensembles.identity import data_identity
from lightning_unlearn.ensembles.plan import decide, even_chunks
from lightning_unlearn.ensembles.workers import in_workers
from lightning_unlearn.functional import SINGLE_LABEL, match_confidence
from lightning_unlearn.methods.base.again import (
    Planned,
    Procedure,
    ensemble_plan,
    fit_alone,
    fit_side_by_side,
    without,
)

Sources = Literal["one", "many"]

_SHORT = 32  # characters of a hash that name a folder
_SOURCE = "source"  # of which the models are kept too
# populations whose models never saw the forget set: references, the null's, and the retrained model's own
_FORGETFUL = ("retrained", "second retrained", "third retrained")
Answers = dict[str, Tensor]


@dataclass(frozen=True)
class Population:
    """What K models of one kind say.

    Attributes:
        confidence: Logit-scaled confidence on the samples of a stream (``forget``, ``test``, ``nonmember``), in the
            stream's order, ``(K, n)`` float64.
        accuracy: Accuracy of each model on a stream (``retain`` too), ``(K,)`` float64, in [0, 1].
    """

    confidence: dict[str, Tensor]
    accuracy: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.confidence["forget"])

    @property
    def unseen(self) -> str | None:
        """The stream that no model was trained on: ``nonmember`` or else ``test``; ``None`` without any."""
        return next((stream for stream in ("nonmember", "test") if _many(self.confidence.get(stream))), None)

    def as_sure_as(self, references: "Population") -> "Population":
        """Return it with each model's confidence on unseen samples brought to that of the references."""
        stream = self.unseen
        assert stream is not None
        moved = {
            name: match_confidence(values, self.confidence[stream], references.confidence[stream])
            for name, values in self.confidence.items()
        }
        return Population(moved, self.accuracy)


@dataclass(frozen=True)
class Kinds:
    """How the models of a run come to be.

    Attributes:
        audited: What the audited model is: an ``"unlearned"`` model, the ``"source"``, a ``"retrained"`` one, or one
            ``"as it is"``, of which it is not known how it came to be.
        method: Makes an unlearned model of a source, where the audited one is unlearned.
        retrain: Makes a retrained model.
        anew: Makes a source from nothing.
        source: The source that all start from where there is only one; of another, only the architecture counts.
        seed: Seed of all populations.
        cache: Folder in which answers are kept from run to run, and, until all of a population have answered, the
            retrained models that are finished; ``None`` for none.
    """

    audited: Literal["unlearned", "source", "retrained", "as it is"]
    method: Procedure | None
    retrain: Procedure
    anew: Procedure
    source: nn.Module
    seed: int
    cache: Path | None = None


class Populations:
    """Makes populations on demand and keeps their answers.

    Every model has a seed of its own, so the first of K models are the same for any larger K. With several processes
    the models are shared out, and the answers are the same for any number of processes. With a folder to keep them in,
    an interrupted run goes on where it stopped, model by model.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[int, Answers]] = {}
        self._sources: dict[str, dict[int, nn.Module]] = {}
        self._digest = ""

    def audited(
        self, kinds: Kinds, model: nn.Module, number: int, sources: Sources, audit: Audit
    ) -> Population:
        """Return K models of the audited one's kind.

        Args:
            kinds: How models come to be.
            model: The audited model.
            number: K.
            sources: Whether unlearning starts K times from the run's one source, or once from each of K sources that
                are trained anew. The source itself is K times the same model, or these K; the retrained model is a
                third K retrained models.
            audit: Data and runtime.
        """
        if kinds.audited == "retrained":  # neither the references nor the null, or it had no width
            return self._of(_FORGETFUL[2], None, kinds.retrain, kinds, number, audit)
        if kinds.audited == "unlearned":
            assert kinds.method is not None
            if sources == "one":
                start = model_hash(kinds.source.state_dict())
                return self._of("unlearned", start, kinds.method, kinds, number, audit)
            return self._of(
                "unlearned", kinds.anew.identity, kinds.method, kinds, number, audit, from_sources=True
            )
        if kinds.audited == "source" and sources == "many":
            return self._of(_SOURCE, None, kinds.anew, kinds, number, audit)
        answers: Answers = {}
        for stream in _streams(audit.data):
            answers.update(_said(stream, audit.outputs(model, stream)))
        return _population(dict.fromkeys(range(number), answers), number)

    def retrained(self, kinds: Kinds, number: int, audit: Audit, *, second: bool = False) -> Population:
        """Return K retrained models, or as many others (``second``), which give the null of every statistic."""
        return self._of(_FORGETFUL[int(second)], None, kinds.retrain, kinds, number, audit)

    def half_trained(self, kinds: Kinds, number: int, audit: Audit) -> tuple[Population, Tensor]:
        """Return 2K models trained as the source was on the retain set and a random half of the forget set each.

        Models come in pairs: the second is trained on the half that the first is not. So every sample is in the
        training sets of exactly K of the models, whatever K is, and the first pairs are the same for any larger K.

        Args:
            kinds: How models come to be.
            number: K.
            audit: Data and runtime.

        Returns:
            The population, and whether a model was trained with a sample of the forget set, ``(2K, n)`` booleans.

        Raises:
            ValueError: If the forget set has fewer than 2 samples.
        """
        forget = audit.data.split.forget
        if len(forget) < 2:
            raise ValueError(
                f"references that are trained on halves of the forget set need at least 2 samples in it, and it has "
                f"{len(forget)}; forget more"
            )
        members = _halves(len(forget), number, derive_seed(kinds.seed, "halves of the forget set"))
        left_out = [forget[~row] for row in members.numpy()]
        known = self._of("half trained", None, kinds.anew, kinds, 2 * number, audit, left_out=left_out)
        return known, members

    # ------------------------------------------------------------------ within

    def _of(
        self,
        name: str,
        start: Any,
        procedure: Procedure,
        kinds: Kinds,
        number: int,
        audit: Audit,
        *,
        from_sources: bool = False,
        left_out: Sequence[Positions] | None = None,
    ) -> Population:
        """Return a population, of which only what is missing is made.

        Args:
            name: Its name, of which the models' seeds are made.
            start: What tells the models that it starts from apart, if that is not its name.
            procedure: Makes a model.
            kinds: How models come to be.
            number: How many.
            audit: Data and runtime.
            from_sources: Whether each model starts from a source of its own and not from the one.
            left_out: What part of the forget set each model is trained without.
        """
        place = self._place(procedure, kinds, name if start is None else [name, start], audit)
        if missing := self._missing(place, kinds, number, audit):
            begun = [kinds.source] * number
            if from_sources:
                begun = self._anew(kinds, number, audit)
            self._make(_Order(name, place, procedure, kinds, begun, left_out), missing, audit)
        return _population(self._kept[place], number)

    def _anew(self, kinds: Kinds, number: int, audit: Audit) -> list[nn.Module]:
        """Return K sources; they are in memory only, since they remember what is to be forgotten."""
        place = self._place(kinds.anew, kinds, _SOURCE, audit)
        sources = self._sources.setdefault(place, {})
        if missing := [k for k in range(number) if k not in sources]:
            order = _Order(_SOURCE, place, kinds.anew, kinds, [kinds.source] * number, None)
            self._make(order, missing, audit)
        return [sources[k] for k in range(number)]

    def _make(self, order: "_Order", missing: Sequence[int], audit: Audit) -> None:
        """Make models, keep what they say, and of sources the models, since methods start from them."""
        procedure, kinds = order.procedure, order.kinds
        seeds = {k: derive_seed(kinds.seed, "population", order.name, k) for k in missing}
        plan = None
        if procedure.data is None and audit.adapter.kind == SINGLE_LABEL:  # other tasks one after another
            plan = ensemble_plan(procedure, order.begun[0], audit.data)
        alone = plan is None or plan.in_trainer
        made = _in_trainers(plan, order, seeds, audit) if alone else _in_ensemble(plan, order, seeds, audit)
        answers, sources = self._kept.setdefault(order.place, {}), self._sources.setdefault(order.place, {})
        for k, (said, model) in made.items():
            answers[k] = said
            if model is not None:
                sources[k] = model

    def _missing(self, place: str, kinds: Kinds, number: int, audit: Audit) -> list[int]:
        """Return which models' answers are neither here nor in the folder, on every rank the same."""
        answers = self._kept.setdefault(place, {})
        if kinds.cache is not None:
            for k in range(number):
                if k in answers:
                    if audit.runtime.rank == 0 and not _file(place, k, kinds.cache).is_file():
                        _write(place, k, answers[k], kinds.cache)  # made for an evaluator with another folder
                elif (found := _read(place, k, kinds.cache)) is not None:
                    answers[k] = found
        have = set(range(number)).intersection(*map(set, audit.runtime.gather_objects(list(answers))))
        return [k for k in range(number) if k not in have]

    def _place(self, procedure: Procedure, kinds: Kinds, what: Any, audit: Audit) -> str:
        """Return a hash of all that determines the answers of models of a kind, their numbers excepted."""
        self._digest = self._digest or data_identity(audit.data)
        shapes = {name: list(value.shape) for name, value in kinds.source.state_dict().items()}
        return fingerprint(what, procedure.identity, shapes, kinds.seed, self._digest)


@dataclass(frozen=True)
class _Order:
    """Models to be made: from what each begins, how, and without which part of the forget set."""

    name: str
    place: str
    procedure: Procedure
    kinds: Kinds
    begun: Sequence[nn.Module]
    left_out: Sequence[Positions] | None


Made = dict[int, tuple[Answers, nn.Module | None]]


def _in_ensemble(plan: Planned | None, order: _Order, seeds: Mapping[int, int], audit: Audit) -> Made:
    """Make models as one computation, on all ranks together."""
    assert plan is not None
    recipe, samples, rows, _ = plan
    runtime, cache = audit.runtime, order.kinds.cache
    members = []
    for k, seed in seeds.items():
        out = None if order.left_out is None else torch.from_numpy(order.left_out[k])
        members.append(Member(rows if out is None else rows[~torch.isin(rows, out)], seed))
    # until they have answered; models that saw the forget set never lie on a disk
    folder = None
    if cache is not None and order.name in _FORGETFUL:
        folder = usable_cache(cache / order.place[:_SHORT] / "models", recipe, samples, members[0], runtime)
    ensemble = train_ensemble(recipe, samples, members, runtime=runtime, cache=folder)
    made: Made = {}
    for k, model in zip(seeds, ensemble.models(), strict=True):
        said = _answers(runtime.place(model), audit.data, runtime, audit.adapter)
        made[k] = said, model.cpu() if order.name == _SOURCE else None
        if runtime.rank == 0:
            _write(order.place, k, said, cache)
    if folder is not None and runtime.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)  # they remember what a later request may name
    return made


def _in_trainers(plan: Planned | None, order: _Order, seeds: Mapping[int, int], audit: Audit) -> Made:
    """Make models by Trainers, with a plan several in one; every rank makes its share, or a cluster does."""
    runtime, procedure, made = audit.runtime, order.procedure, Made()
    served, adapter = audit.data, audit.adapter  # not the audit, which holds every answer so far
    mine = list(seeds)[runtime.rank :: runtime.world_size]

    def work(group: Sequence[int]) -> list[tuple[Answers, nn.Module | None]]:
        data = procedure.data or served
        if procedure.data is None and order.left_out is not None:
            data = without(served, order.left_out[group[0]])
        begun, drawn = [order.begun[k] for k in group], [seeds[k] for k in group]
        if len(group) > 1:
            models, alone = fit_side_by_side(procedure, begun, served, seeds=drawn, runtime=runtime)
        else:
            model, alone = fit_alone(procedure, begun[0], data, seed=drawn[0], runtime=runtime)
            models = [model]
        view = served.served_alone(served.order_seed)
        view.trainer = alone.trainer
        said = (_answers(alone.place(model), view, alone, adapter) for model in models)
        return [(s, m.cpu() if order.name == _SOURCE else None) for s, m in zip(said, models, strict=True)]

    with runtime.all_or_none("make its models"):
        groups, workers = [[k] for k in mine], 0
        if plan is not None and mine:
            members = [Member(plan.rows, seeds[k]) for k in mine]
            how = decide(plan.recipe, plan.samples, members, runtime, "auto", None)
            groups = [[mine[n] for n in chunk] for chunk in even_chunks(members, how.chunk, how.workers)]
            workers = how.workers
        apart = plan is None and hands_on() and runtime.world_size == 1 and runtime.device.type == "cpu"
        parts = (
            in_parts(work, groups, torch.get_num_threads()) if apart else in_workers(work, groups, workers)
        )
        tell = Tally(f"{order.name} models are made", len(mine))
        for group, models in parts:
            for k, each in zip(group, models, strict=True):
                made[k] = each
                _write(order.place, k, each[0], order.kinds.cache)
            tell(len(made))
    return {k: each for part in runtime.gather_objects(made) for k, each in part.items()}


def _halves(samples: int, pairs: int, seed: int) -> Tensor:
    """Return which samples each of as many pairs of models is trained with, ``(2 * pairs, samples)`` booleans."""
    members = torch.zeros(2 * pairs, samples, dtype=torch.bool)
    for pair in range(pairs):
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(derive_seed(seed, pair)))
        members[2 * pair, order[: samples // 2]] = True
        members[2 * pair + 1, order[samples // 2 :]] = True
    return members


def _answers(model: nn.Module, data: UnlearningDataModule, runtime: Runtime, adapter: Adapter) -> Answers:
    answers: Answers = {}
    for stream, outputs in ask(model, data, _streams(data), runtime, adapter).items():
        answers.update(_said(stream, outputs))
    return answers


def _said(stream: str, outputs: Outputs) -> Answers:
    answers: Answers = {}
    if "correct" in outputs.task.offers:
        answers[f"accuracy/{stream}"] = torch.tensor(outputs.accuracy, dtype=torch.float64)
    if stream != "retain":  # it may be millions of samples, and no statistic looks at single ones of it
        answers[f"confidence/{stream}"] = outputs.confidence
    return answers


def _many(values: Tensor | None) -> bool:
    """Return whether there are samples enough to have a spread."""
    return values is not None and values.shape[1] > 1


def _streams(data: UnlearningDataModule) -> list[str]:
    return [name for name in STREAMS if data.stream_size(name)]


def _population(answers: Mapping[int, Answers], number: int) -> Population:
    def stacked(what: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(what): torch.stack([answers[k][name] for k in range(number)])
            for name in answers[0]
            if name.startswith(what)
        }

    return Population(stacked("confidence/"), stacked("accuracy/"))


def _file(place: str, k: int, cache: Path) -> Path:
    return cache / place[:_SHORT] / f"{k:05d}.npz"


def _write(place: str, k: int, answers: Answers, cache: Path | None) -> None:
    if cache is None:
        return
    arrays: dict[str, Any] = {name.replace("/", "_"): value.numpy() for name, value in answers.items()}
    with atomic_path(_file(place, k, cache)) as unfinished:
        np.savez(unfinished, **arrays)


def _read(place: str, k: int, cache: Path) -> Answers | None:
    file = _file(place, k, cache)
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as content:
        return {name.replace("_", "/", 1): torch.from_numpy(content[name]) for name in content.files}
