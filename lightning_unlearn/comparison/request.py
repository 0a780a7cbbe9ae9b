"""A deletion request in one call: unlearn by a recipe, measure before and after, export, record, and answer."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch import nn
from torch.utils.data import Dataset

from lightning_unlearn.comparison.attempts import Attempts, recipes_for
from lightning_unlearn.comparison.fast import faster, why
from lightning_unlearn.comparison.trainers import require_known
from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.files import atomic_path, model_hash, positions_hash
from lightning_unlearn.core.ledger import Ledger, as_ledger, not_forgotten, require_forgotten_before
from lightning_unlearn.core.remembering import remembering_files, seen_from
from lightning_unlearn.core.terminal import boxed, say
from lightning_unlearn.data import Adapter, Ids, UnlearningDataModule
from lightning_unlearn.data.datamodule import ONE_REQUEST, Forget
from lightning_unlearn.data.project import FROM_DATASETS
from lightning_unlearn.engine.answering import Answered, measure_of
from lightning_unlearn.functional.answer import Outcome
from lightning_unlearn.methods import Retrain, SourceCheckpoint, UnlearningModule
from lightning_unlearn.methods.base.checkpoints import KEPT, steps_of
from lightning_unlearn.methods.base.maker import Method, maker_of
from lightning_unlearn.methods.base.recording import record_fit
from lightning_unlearn.methods.base.source import (
    MODEL,
    ORACLE,
    PAGE,
    SPLIT,
    Source,
    checkpoint_hash,
    load_source,
    require_other,
)
from lightning_unlearn.models.surgery import class_state
from lightning_unlearn.reports.certificate import write_certificate

_FEWEST = 4  # non-members, of which some are chosen on
_ONLY_RETRAINED = (
    "after an earlier request leave it out, and to compare give retrained=..., a model that was trained without all "
    "these samples and those"
)


@dataclass(frozen=True)
class Result:
    """What came of a request; printed, it is the answer.

    Attributes:
        answered: The answer with what it rests on.
        file: The unlearned model, which loads into its own class.
        certificate: The page on it that somebody can sign.
        ledger: The ledger.
        line: Its line in there.
        retraining: How to compare with a model that is retrained, in Python; empty where that cannot be.
        auto: Whether the method was chosen by the request.
        several: Whether a budget would have several recipes tried.
        room: Where a budget allowed one recipe alone: its steps, and about what share would allow another.
    """

    answered: Answered
    file: Path
    certificate: Path
    ledger: Path
    line: Mapping[str, Any]
    retraining: str = "`retrain=True`"
    auto: bool = False
    several: bool = False
    room: tuple[int, float] | None = None

    @property
    def outcome(self) -> Outcome:
        """``shown``, ``not shown`` or ``cannot tell``."""
        return self.answered.answer.outcome

    def told(self, *, command: bool = False) -> str:
        """Return the answer in a frame, with what would tell more as Python spells it, or the command."""
        text = self.answered.text
        if not self.answered.compared:
            ways = "`--retrained FILE`" if command else "`retrained=model`"
            if self.retraining:
                ways += f" or {'`--retrain true`' if command else self.retraining}"
            text = f"{text.removesuffix('.')}; add {ways} for that."
        if self.answered.left:
            more = "`--trainer.max_epochs N`" if command else "`trainer={'max_epochs': N}`"
            other = "`--method auto`" if command else "`method='auto'`"
            if self.auto:
                budget = "`--budget 10%`" if command else "`budget='10%'`"
                other = f"{budget}, which tries several recipes" if self.several else ""
            ways = " or ".join(filter(None, ("" if self.answered.steps == 0 else more, other)))
            text += f" To forget more: {ways}." if ways else ""
        if self.room is not None:
            steps, share = self.room
            more = f"--budget {share:.0%}" if command else f"budget={share:.2f}"
            more = f"{more} would allow another" if share <= 1 else "no budget allows another"
            text += f" 1 recipe fits into the {steps} steps of the budget; {more}."
        return boxed(text)

    def __str__(self) -> str:
        return self.told()


def forget(
    source: Source,
    data: L.LightningDataModule | Dataset[Any],
    ids: Forget | None = None,
    *,
    column: str | None = None,
    wrong_labels: bool = False,
    method: Method | str = "auto",
    checkpoints: str | Path | None = None,
    retrained: Source | None = None,
    retrain: bool = False,
    previous: str | Path | None = None,
    adapter: Adapter | None = None,
    budget: float | str | None = None,
    output: str | Path = "unlearned",
    ledger: str | Path | Ledger | None = None,
    trainer: Mapping[str, Any] | None = None,
    fast: bool = False,
) -> Result:
    """Make a model forget what a request names, and answer by measurement whether it did.

    The answer is *shown* where the source's 95% interval lies above the value of samples never trained on, and the
    unlearned model's lies within half that gap of it (of a class or of labels, also within 10 points); *not shown*
    where it lies wholly outside; otherwise *cannot tell*. What is measured: of samples, how well an attacker tells them
    from unseen ones by the loss (without a trace an AUC of 0.5); of a class, how much of it is still named (0); of
    wrong labels, how many are still given (as many as of unseen samples).

    Args:
        source: The trained model: a module, a :class:`~lightning_unlearn.methods.SourceCheckpoint`, or the path of a
            checkpoint written under LightningCLI.
        data: The project's datamodule or training dataset; or an ``UnlearningDataModule`` that says itself what to
            forget (then without ``ids``, ``column``, ``wrong_labels``, ``previous`` and ``adapter``).
        ids: What to forget, as :class:`~lightning_unlearn.data.UnlearningDataModule` takes it, such as ``"class:3,5"``.
        column: Attribute of the training data whose values the ids are.
        wrong_labels: Whether the labels of these samples are wrong or poisoned.
        method: Makes the unlearning method of the source: its class, the name of one of ours, or a function;
            ``"auto"`` for :class:`~lightning_unlearn.methods.Rewind` with a bounded ascent where ``checkpoints`` are
            given, and :class:`~lightning_unlearn.methods.NegGradPlus`, ended before it destroys the model, where not.
        checkpoints: Folder with earlier checkpoints of the source's own training.
        retrained: A model that was trained as the source was, without these samples: the answer is then how near the
            unlearned model came to it.
        retrain: Whether to train such a model, for as many steps as the source; kept beside the export.
        previous: Output folder of the request before, whose model this one starts from; or the split file in it.
        adapter: How batches and outputs are taken apart, for a method with no adapter of its own; ``None`` finds out.
        budget: Share of the cost of the source's training, 0.1 or ``"10%"``, within which ``"auto"`` tries several
            recipes. It chooses on one half of the non-members, and answers on the other; a class or labels on the same
            samples.
        output: Folder for the unlearned model and what the next request needs: ``model.ckpt`` and ``split.npz``.
        ledger: The deletion ledger; ``None`` for ``deletions.jsonl`` beside the output folder.
        trainer: Arguments of the Trainer, such as ``max_epochs`` for a method of your own.
        fast: Whether to train in what is faster here, as :func:`~lightning_unlearn.compare` does.

    Returns:
        The result.

    Raises:
        FileExistsError: If the output folder holds an unlearned model already.
        ValueError: If source, data and arguments do not fit, or the ledger knows that samples were forgotten from the
            source already; the message says what to give instead.
    """
    folder = Path(output)
    make = None if method == "auto" else maker_of(method)
    require_known("trainer", trainer or {})
    _require_vacant(folder)
    if retrain and retrained is not None:
        raise ValueError("retrain=True trains what retrained=... gives; leave one out")
    budget = _share(budget) if isinstance(budget, str) else budget
    in_range("budget", budget, "(0, 1]", "; it is a share of the source's training", none=True)
    if budget and make is not None:
        raise ValueError("budget is what 'auto' tries several recipes within; leave it out, or method")
    steps = steps_of(source)
    further = previous is not None or (isinstance(data, UnlearningDataModule) and bool(data.previous))
    if math.isinf(steps) and (retrain or budget):
        raise ValueError(
            f"{'retrain' if retrain else 'budget'} goes by the steps of the source's training, which only its "
            f"Trainer's checkpoint knows; {_ONLY_RETRAINED if further else f'give source={_checkpoint_of(source)}'}"
        )
    model = load_source(source)
    oracle = None if retrained is None else require_other(model, load_source(retrained))
    if checkpoints is not None:
        KEPT[model] = Path(checkpoints), steps
    split = _split_data(data, ids, column, wrong_labels, previous, adapter)
    given = split.ledger
    record = as_ledger(ledger) or given or Ledger(str(folder.parent / "deletions.jsonl"))
    try:
        split.ledger = None  # the recipes that are tried are no deletions
        split.prepare_data()
        split.setup("fit")
        split.require_source(model)
        _require_measurable(split)
        unlike = split.unlike_groups if measure_of(split) == "membership" else ""
        if budget and unlike and retrained is None and not retrain:
            raise ValueError(
                f"budget: nothing tells which of several recipes forgot best, since {unlike}; leave it out, "
                "or give retrained=... or retrain=True"
            )
        _require_current(model, split, record, previous)
        settings = dict(trainer or {})
        if fast:
            say(why(settings), sys.stderr)
        request = Attempts(model, split, faster(settings) if fast else settings)
        if retrain:
            anew = request.fit(partial(Retrain, step="source", adapter=split.adapter), max_steps=int(steps))
            request.measure(anew, anew.model, "retrain")
            anew.export(folder / ORACLE)
        recipes = [(make, {})] if make is not None else recipes_for(split, rewinds=checkpoints is not None)
        request.oracle = oracle
        done = request.best(recipes, within := budget * steps if budget else 0.0)
        split.ledger = record
        found, line = request.answered(), _put_down(request, done, folder, previous)
    finally:
        split.ledger = given
    retraining = f"`retrain=True`{f' with source={_checkpoint_of(source)}' if math.isinf(steps) else ''}"
    retraining = "" if further and math.isinf(steps) else retraining
    more = None
    if request.room is not None:
        more = int(within), math.ceil(110 * request.room / steps) / 100  # some to spare
    several = make is None and not (budget or unlike or math.isinf(steps))
    files = (folder / MODEL, folder / PAGE, Path(record.path))
    return Result(found, *files, line, retraining, make is None, several, more)


def _require_vacant(folder: Path) -> None:
    if (folder / MODEL).exists():
        raise FileExistsError(
            f"output: {folder} holds the model of a request already; give another folder, and for a further request "
            f"source={str(folder / MODEL)!r} with previous={str(folder)!r} (on the command line: forget "
            f"{folder / MODEL} ... --previous {folder})"
        )


def _put_down(
    request: Attempts, done: UnlearningModule, folder: Path, previous: str | Path | None
) -> Mapping[str, Any]:
    """Write split, ledger line, certificate and model, the model last: without it the request can be made again.

    What was checked before the first step is checked again, as another request may have ended since.

    Returns:
        The line; one that an interrupted attempt wrote about this very model is not written twice.
    """
    assert request.data.ledger is not None
    with atomic_path(folder / MODEL) as unfinished:
        done.export(unfinished)  # first, as it may fail
        _require_vacant(folder)
        _require_current(request.source, request.data, request.data.ledger, previous)
        request.data.split.save(folder / SPLIT)
        done.trainer.callback_metrics.update(request.scores)
        line = record_fit(
            done,
            request.data,
            source=request.source,
            model=done.model,
            exported=folder / MODEL,
            answer=request.answered().record(),
            once=True,
        )
        assert line is not None  # in one process
        kept = [each for each in remembering_files(folder) if each.file != unfinished]
        write_certificate(line, folder / PAGE, remembering=seen_from(folder, kept))
    return line


def _share(text: str) -> float:
    """Read a share, such as 0.1 or 10%.

    Example:
        >>> _share("10%"), _share("0.1")
        (0.1, 0.1)
    """
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"budget must be a share, such as 10% or 0.1, got {text!r}") from None


def _checkpoint_of(source: Source) -> str:
    """Say how a checkpoint of the source's class is given."""
    name = source.module if isinstance(source, SourceCheckpoint) else None
    if isinstance(source, nn.Module):
        name = f"{type(source).__module__}.{type(source).__qualname__}"
    return f"SourceCheckpoint('best.ckpt', {name or 'my_project.MyModule'!r})"


def _split_data(
    data: L.LightningDataModule | Dataset[Any],
    ids: Forget | None,
    column: str | None,
    wrong_labels: bool,
    previous: str | Path | None,
    adapter: Adapter | None = None,
) -> UnlearningDataModule:
    """Return the data with the request, which one of the two must say, and not both."""
    if isinstance(data, UnlearningDataModule):
        given: dict[str, Any] = {"ids": ids, "column": column, "wrong_labels": wrong_labels or None}
        given |= {"previous": previous, "adapter": adapter}
        if said := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"{', '.join(said)}: the data is an UnlearningDataModule, which says itself what to forget; give them "
                "to it (ids and column as forget=Ids(...), previous as the split file)"
            )
        return data
    if not isinstance(data, L.LightningDataModule | Dataset):
        raise TypeError(
            f"data must be your LightningDataModule, got {type(data).__name__}; without one give {FROM_DATASETS}"
        )
    if ids is None:
        raise ValueError(
            "ids must say what to forget: a file, positions, a share, or a rule such as Classes(3)"
        )
    if column is not None:
        ids = Ids(ids, column)  # type: ignore[arg-type]  # which says itself what it takes
    earlier = () if previous is None else [_split_of(Path(previous))]
    return UnlearningDataModule(data, ids, wrong_labels=wrong_labels, previous=earlier, adapter=adapter)


def _split_of(previous: Path) -> Path:
    """Return the split file of an earlier request, given as such or as its output folder.

    Example:
        >>> _split_of(Path("first")).as_posix(), _split_of(Path("first/split.npz")).as_posix()
        ('first/split.npz', 'first/split.npz')
    """
    return previous if previous.suffix == ".npz" else previous / SPLIT


def _require_measurable(data: UnlearningDataModule) -> None:
    if measure_of(data) != "class" and data.stream_size("nonmember") < _FEWEST:
        fix = "it a test_dataloader()" if data.project.module is not None else FROM_DATASETS
        raise ValueError(
            f"data: {data.data_name} has {data.stream_size('nonmember')} samples that were never trained on to compare "
            f"with, so nobody could tell whether anything was forgotten; give {fix}"
        )


def _require_current(
    source: nn.Module, data: UnlearningDataModule, ledger: Ledger, previous: str | Path | None
) -> None:
    """Refuse a source that remembers what a request made another model of its descent forget."""
    state, split = model_hash(class_state(source)), data.split
    lines = ledger.prepare()
    made = None if previous is None else Path(previous) / MODEL  # of a split file nothing more is known
    if made and made.parent.is_dir() and checkpoint_hash(made) != state:
        raise ValueError(
            f"source: it is not the model of previous={str(previous)!r}; give source={str(made)!r}"
        )
    require_forgotten_before(ledger, state, data.earlier)
    asked = [split.forget, np.union1d(split.forget, split.previous)]
    # the same request may be repeated, with another method, or caught up with
    found = not_forgotten(lines, state, [positions_hash(each, ledger.key()) for each in asked])
    if found is None:
        return
    line, goes_on = found
    file = line["model"]["file"] and ledger.file.parent / line["model"]["file"]
    home = file and file.parent
    if data.is_stream:
        advice = ONE_REQUEST.format(data.data_name)
    elif not goes_on:
        advice = "neither can go on from the other, so have this one forget the same samples first, those and no others"
    else:
        cut_off = file and not file.exists()
        advice = (
            f"go on from that model, the latest attempt{' (if it was cut off, make it once more)' if cut_off else ''}: "
            f"source='{file}', previous='{home}' (on the command line: forget {file} ... --previous {home})"
        )
    raise ValueError(
        f"source: {ledger.path} knows that request {line['request']} made another model forget "
        f"{line['ids']['count']} samples which this one remembers; {advice}; "
        "if that attempt was never put to use and you discard it, give another ledger (--ledger)"
    )
