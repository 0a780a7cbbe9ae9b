"""Populations: what K models of one kind say about the samples, made once for all evaluators; measures nothing.

A kind is a way for a model to come to be: unlearned, retrained, or a source. Each model is made from a seed of its
own, asked, and let go; what is kept is its logit-scaled confidence on each sample and its accuracies.
"""

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.callbacks.base.audit import Audit
from lightning_unlearn.core.files import model_hash, write_bytes_atomic
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.ensembles import Member, Outputs, Runtime, predict, train_ensemble
from lightning_unlearn.ensembles.cache import usable_cache
from lightning_unlearn.ensembles.fingerprint import fingerprint
from lightning_unlearn.ensembles.identity import data_identity
from lightning_unlearn.functional import logit_scaled_confidence
from lightning_unlearn.methods.base.again import Procedure, ensemble_plan, fit_alone, without

__all__ = ["Kinds", "Population", "Populations", "Sources"]

Sources = Literal["one", "many"]

_SHORT = 32  # characters of a hash that name a folder
_FORGETFUL = ("retrained", "second retrained")  # populations whose models never saw the forget set
_STREAMS = ("forget", "retain", "test", "nonmember")
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
        self._sources: dict[str, list[nn.Module]] = {}
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
                are trained anew. The source itself is K times the same model, or these K.
            audit: Data and runtime.
        """
        if kinds.audited == "retrained":
            return self.retrained(kinds, number, audit, second=True)
        if kinds.audited == "unlearned":
            assert kinds.method is not None
            return self._unlearned(kinds, kinds.method, number, sources, audit)
        if kinds.audited == "source" and sources == "many":
            place = self._place(kinds.anew, kinds, "source", audit)
            if self._missing(place, kinds, number, audit):
                self._anew(kinds, number, audit)  # kept, because methods start from them
            return _population(self._kept[place], number)
        answers: Answers = {}
        for stream in _streams(audit.data):
            answers.update(_said(stream, audit.outputs(model, stream)))
        return _population(dict.fromkeys(range(number), answers), number)

    def retrained(self, kinds: Kinds, number: int, audit: Audit, *, second: bool = False) -> Population:
        """Return K retrained models, or as many others (``second``), which give the null of every statistic."""
        name = _FORGETFUL[int(second)]
        place = self._place(kinds.retrain, kinds, name, audit)
        self._make(name, place, kinds.retrain, kinds, [kinds.source] * number, audit)
        return _population(self._kept[place], number)

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
        name = "half trained"
        place = self._place(kinds.anew, kinds, name, audit)
        self._make(name, place, kinds.anew, kinds, [kinds.source] * 2 * number, audit, left_out=left_out)
        return _population(self._kept[place], 2 * number), members

    # ------------------------------------------------------------------ within

    def _unlearned(
        self, kinds: Kinds, method: Procedure, number: int, sources: Sources, audit: Audit
    ) -> Population:
        start = model_hash(kinds.source.state_dict()) if sources == "one" else kinds.anew.identity
        place = self._place(method, kinds, ["unlearned", start], audit)
        if self._missing(place, kinds, number, audit):
            begun = [kinds.source] * number if sources == "one" else self._anew(kinds, number, audit)
            self._make("unlearned", place, method, kinds, begun, audit)
        return _population(self._kept[place], number)

    def _anew(self, kinds: Kinds, number: int, audit: Audit) -> list[nn.Module]:
        """Return K sources; they are in memory only, since they remember what is to be forgotten."""
        place = self._place(kinds.anew, kinds, "source", audit)
        if len(self._sources.get(place, ())) < number:
            self._sources[place] = self._make(
                "source", place, kinds.anew, kinds, [kinds.source] * number, audit, keep=True
            )
        return self._sources[place][:number]

    def _make(
        self,
        name: str,
        place: str,
        procedure: Procedure,
        kinds: Kinds,
        begun: Sequence[nn.Module],
        audit: Audit,
        *,
        left_out: Sequence[np.ndarray[Any, Any]] | None = None,
        keep: bool = False,
    ) -> list[nn.Module]:
        """Carry out a procedure on each model and keep the answers; return the models made, if they are to be kept.

        Each is trained without its part of the forget set in ``left_out``.
        """
        number, runtime = len(begun), audit.runtime
        missing = list(range(number)) if keep else self._missing(place, kinds, number, audit)
        if not missing:
            return []
        answers = self._kept.setdefault(place, {})
        seeds = [derive_seed(kinds.seed, "population", name, k) for k in missing]
        plan = None if procedure.data is not None else ensemble_plan(procedure, begun[0], audit.data)
        if plan is not None:
            recipe, samples, rows = plan
            members = [
                Member(rows if left_out is None else _rest(rows, left_out[k]), seed)
                for k, seed in zip(missing, seeds, strict=True)
            ]
            # until they have answered; models that saw the forget set never lie on a disk
            folder = (
                None
                if kinds.cache is None or name not in _FORGETFUL
                else kinds.cache / place[:_SHORT] / "models"
            )
            folder = usable_cache(folder, recipe, samples, members[0], runtime)
            ensemble = train_ensemble(recipe, samples, members, runtime=runtime, cache=folder)
            models = list(ensemble.models())
            for k, model in zip(missing, models, strict=True):
                answers[k] = _answers(runtime.place(model), audit.data, runtime, audit.adapter)
                model.cpu()
                if runtime.rank == 0:
                    _write(place, k, answers[k], kinds.cache)
            if folder is not None and runtime.rank == 0:
                shutil.rmtree(folder, ignore_errors=True)  # they remember what a later request may name
            return models if keep else []
        made: dict[int, tuple[Answers, nn.Module | None]] = {}
        with runtime.all_or_none("make its models"):
            for k, seed in list(zip(missing, seeds, strict=True))[runtime.rank :: runtime.world_size]:
                data = procedure.data or (
                    audit.data if left_out is None else without(audit.data, left_out[k])
                )
                model, alone = fit_alone(procedure, begun[k], data, seed=seed, runtime=runtime)
                view = audit.data.served_alone(audit.data.order_seed)
                view.trainer = alone.trainer
                made[k] = (
                    _answers(alone.place(model), view, alone, audit.adapter),
                    model.cpu() if keep else None,
                )
                _write(place, k, made[k][0], kinds.cache)
        kept: dict[int, nn.Module] = {}
        for part in runtime.gather_objects(made):
            answers.update({k: found for k, (found, _) in part.items()})
            kept.update({k: model for k, (_, model) in part.items() if model is not None})
        return [kept[k] for k in sorted(kept)]

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


def _halves(samples: int, pairs: int, seed: int) -> Tensor:
    """Return which samples each of as many pairs of models is trained with, ``(2 * pairs, samples)`` booleans."""
    members = torch.zeros(2 * pairs, samples, dtype=torch.bool)
    for pair in range(pairs):
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(derive_seed(seed, pair)))
        members[2 * pair, order[: samples // 2]] = True
        members[2 * pair + 1, order[samples // 2 :]] = True
    return members


def _rest(rows: Tensor, left_out: np.ndarray[Any, Any]) -> Tensor:
    return rows[~torch.isin(rows, torch.from_numpy(left_out))]


def _answers(model: nn.Module, data: UnlearningDataModule, runtime: Runtime, adapter: Adapter) -> Answers:
    answers: Answers = {}
    for stream in _streams(data):
        loader = data.loader(stream, indexed=True)
        answers.update(_said(stream, predict(model, loader, runtime, adapter)))
    return answers


def _said(stream: str, outputs: Outputs) -> Answers:
    answers = {f"accuracy/{stream}": torch.tensor(outputs.accuracy, dtype=torch.float64)}
    if stream != "retain":  # it may be millions of samples, and no statistic looks at single ones of it
        answers[f"confidence/{stream}"] = logit_scaled_confidence(outputs.logits, outputs.targets)
    return answers


def _streams(data: UnlearningDataModule) -> list[str]:
    return [name for name in _STREAMS if data.stream_size(name)]


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
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name.replace("/", "_"): value.numpy() for name, value in answers.items()}
    np.savez(buffer, **arrays)
    write_bytes_atomic(_file(place, k, cache), buffer.getvalue())


def _read(place: str, k: int, cache: Path) -> Answers | None:
    file = _file(place, k, cache)
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as content:
        return {name.replace("_", "/", 1): torch.from_numpy(content[name]) for name in content.files}
