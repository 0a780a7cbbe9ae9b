"""Transformers: a BERT classifier, LoRA adapters and a causal language model are unlearned, audited and exported."""

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.toys import quiet_trainer

from lightning_unlearn.callbacks import ForgettingMetrics, MembershipInference, PopulationAttack
from lightning_unlearn.cli.forget import STATUS
from lightning_unlearn.cli.main import main
from lightning_unlearn.core.ledger import read
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.methods import NPO, SCRUB, SSD, FineTune, NegGradPlus, RandomLabel, ReferenceKL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of transformers, about its own
]
FORGOTTEN = 5  # sentences
Adam = torch.optim.Adam


class Language:
    """The owners' project, and the checkpoints of what they trained."""

    def __init__(self, project: Any, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.reviews, self.tested = (
            project.Reviews(project.KNOWN, 0, project.WRONG),
            project.Reviews(project.TESTED, 1),
        )
        self.sentences = project.Sentences(20, 0).ids
        base = self.train(
            project.Bert(), 8, project.DataLoader(project.Reviews(160, 7), 16, collate_fn=project.padded)
        )
        torch.save(base.model.state_dict(), folder / "base.pt")
        self.train(project.Bert(), 20, project.ReviewData(), "Bert")
        self.train(project.LoraBert(str(folder / "base.pt")), 30, project.ReviewData(), "LoraBert")
        self.train(project.Gpt(), 60, project.SentenceData(), "Gpt")
        others = project.DataLoader(project.Sentences(64, 3), 16, shuffle=True)
        torch.save(self.train(project.Gpt(), 20, others).model.state_dict(), folder / "gpt.pt")
        self.train(project.LoraGpt(str(folder / "gpt.pt")), 90, project.SentenceData(), "LoraGpt")

    def train(self, model: Any, epochs: int, data: Any, name: str = "") -> Any:
        trainer = quiet_trainer(max_epochs=epochs, limit_val_batches=0)
        trainer.fit(model, data)
        if name:
            trainer.save_checkpoint(self.folder / f"{name}.ckpt")
        return model

    def source(self, name: str) -> Any:
        return (
            getattr(self.project, name)
            .load_from_checkpoint(self.folder / f"{name}.ckpt", weights_only=True)
            .eval()
        )

    @torch.no_grad()
    def right(self, model: Any) -> tuple[float, float, float]:
        """Return how many wrong labels a classifier gives, and the accuracies on other known and on new reviews."""
        answers = []
        for reviews in (self.reviews, self.tested):
            batch = self.project.padded([reviews[place] for place in range(len(reviews))])
            answers.append((model.eval()(**batch).logits.argmax(-1) == batch["labels"]).float())
        known, wrong = answers[0], self.project.WRONG
        return float(known[:wrong].mean()), float(known[wrong:].mean()), float(answers[1].mean())

    def completed(self, model: Any) -> tuple[float, float]:
        """Return the shares of forgotten and of retained sentences that a model completes."""
        known = self.project.completes(model, self.sentences).float()
        return float(known[:FORGOTTEN].mean()), float(known[FORGOTTEN:].mean())

    def unlearned(
        self, name: str, make: Callable[[Any], Any], epochs: int
    ) -> tuple[Any, Any, dict[str, float]]:
        """Unlearn, audit, export and load into the owner's own class."""
        torch.manual_seed(0)
        method = make(self.source(name))
        audits = [
            kind(on_error="raise") for kind in (MembershipInference, ForgettingMetrics, PopulationAttack)
        ]
        trainer = quiet_trainer(max_epochs=epochs, callbacks=audits)
        if name.endswith("Gpt"):
            data = UnlearningDataModule(self.project.SentenceData(), list(range(FORGOTTEN)), nonmember=10)
        else:
            data = UnlearningDataModule(self.project.ReviewData(), list(range(self.project.WRONG)))
        trainer.fit(method, data)
        method.export(self.folder / "unlearned.ckpt")
        model = getattr(self.project, name).load_from_checkpoint(
            self.folder / "unlearned.ckpt", weights_only=True, strict=True
        )
        batch = next(iter(data.loader("forget")))
        batch.pop("labels")
        with torch.no_grad():
            assert torch.equal(model.eval()(**batch).logits, method.model.eval()(**batch).logits)
        return model, method, {key: float(value) for key, value in trainer.callback_metrics.items()}


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Language]:
    for library in ("transformers", "peft"):
        pytest.importorskip(library, reason="language models are tested with pip install -e '.[test]'")
    sys.path.insert(0, str(Path(__file__).parent / "foreign_projects"))
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield Language(__import__("language_project"), tmp_path_factory.mktemp("language"))
    sys.path.pop(0)
    sys.modules.pop("language_project")


@pytest.mark.parametrize("name", [pytest.param("Bert", marks=pytest.mark.exhaustive), "LoraBert"])
def test_classifiers_forget_wrong_labels_and_keep_the_rest(language: Language, name: str) -> None:
    source = language.source(name)
    assert language.right(source)[0] > 0.9, "the owner's model knows the wrong labels by heart"
    for make, most in (
        (NegGradPlus, 0.4),
        (RandomLabel, 0.4),
        (FineTune, 1.0),
        (ReferenceKL, 1.0),
        (SCRUB, 1.0),
    ):
        model, method, scores = language.unlearned(name, make, 3)
        wrong, known, new = language.right(model)
        assert wrong <= most, make.__name__
        assert min(known, new) > 0.85, make.__name__
        assert 0 <= scores["membership_inference/auc"] <= 1
        assert scores["accuracy/forget"] == pytest.approx(wrong, abs=1e-6)
    if name == "Bert":
        language.unlearned(name, SSD, 0)
    if name == "LoraBert":
        _the_base_stays(model, source)
        _the_adapter_alone_is_an_export(language, method)


def _the_base_stays(model: Any, source: Any) -> None:
    frozen = {key for key, value in source.named_parameters() if not value.requires_grad}
    assert len(frozen) > 20
    state, before = model.state_dict(), source.state_dict()
    assert all(torch.equal(state[key], before[key]) for key in frozen), "the base stays as it is"


def _the_adapter_alone_is_an_export(language: Language, method: Any) -> None:
    from peft import PeftModel

    method.model.model.save_pretrained(language.folder / "adapter")
    size = (language.folder / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size < (language.folder / "unlearned.ckpt").stat().st_size / 2
    base = language.project.bert()
    base.load_state_dict(torch.load(language.folder / "base.pt", weights_only=True))
    loaded = PeftModel.from_pretrained(base, language.folder / "adapter").eval()
    batch = language.project.padded([language.tested[place] for place in range(8)])
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, method.model.eval()(**batch).logits)


def test_a_language_model_no_longer_completes_what_it_forgot(language: Language) -> None:
    assert language.completed(language.source("Gpt")) == (1, 1), "the owner's model knows all by heart"
    methods = {
        "NPO": (partial(NPO, alpha=4.0), 25),
        "SimNPO": (partial(NPO, simple=True, alpha=4.0), 25),
        "GradDiff": (partial(NegGradPlus, alpha=0.7), 12),
        "ReferenceKL": (partial(ReferenceKL, lambda_=0.5), 40),
    }
    for name, (make, epochs) in methods.items():
        model, method, scores = language.unlearned("Gpt", make, epochs)
        forgotten, retained = language.completed(model)
        assert method.task.name == "next token"
        assert forgotten == 0, f"{name} still completes what it should have forgotten"
        assert retained > 0.9, f"{name} forgot what it should retain"
        assert scores["accuracy/forget"] < 0.75 < scores["accuracy/retain"]
    model, *_ = language.unlearned("Gpt", FineTune, 3)
    forgotten, retained = language.completed(model)
    assert forgotten > 0.5, "without a term that forgets, the sentences stay known"
    assert retained > 0.9


def test_adapters_of_a_language_model_no_longer_complete_what_they_forgot(language: Language) -> None:
    source = language.source("LoraGpt")
    knew = language.completed(source)
    assert min(knew) >= 0.6, "the adapters know the sentences by heart"
    model, method, scores = language.unlearned("LoraGpt", partial(NPO, alpha=4.0), 25)
    forgotten, retained = language.completed(model)
    assert method.task.name == "next token"
    assert forgotten == 0
    assert retained >= knew[1] - 0.1
    assert scores["accuracy/forget"] < scores["source/accuracy/forget"] - 0.2
    _the_base_stays(model, source)


@pytest.mark.parametrize("name", ["Bert", "LoraBert", "Gpt", "LoraGpt"])
def test_one_command_forgets(
    language: Language, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, kind = str(language.folder / f"{name}.ckpt"), getattr(language.project, name)
    reviews, adapters = name.endswith("Bert"), name.startswith("Lora")
    size, data = (language.project.WRONG, "ReviewData") if reviews else (FORGOTTEN, "SentenceData")
    Path("request.csv").write_text("id\n" + "\n".join(map(str, range(size))))
    given = [f"--data=language_project.{data}", f"--model=language_project.{name}"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert main(["forget", path, "request.csv", *given, *quiet]) in STATUS.values()
    model = kind.load_from_checkpoint("unlearned/model.ckpt", weights_only=True, strict=True)
    source = language.source(name)
    if adapters:
        _the_base_stays(model, source)
    if reviews:
        (line,) = read("deletions.jsonl")
        assert line["answer"]["after"] < line["answer"]["before"]
        assert language.right(model)[0] <= 0.3 < language.right(source)[0]  # 0 and .63 without ascent
    else:
        assert language.completed(model)[0] <= 0.3 < language.completed(source)[0]  # .8 and .6 without ascent


def test_the_command_line_unlearns_a_transformer_of_ones_own(
    language: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"path": str(language.folder / "Gpt.ckpt"), "module": "language_project.Gpt"}
    config = {
        "model": {
            "class_path": "NPO",
            "init_args": {
                "source": {"class_path": "lightning_unlearn.SourceCheckpoint", "init_args": source}
            },
        },
        "data": {
            "class_path": "UnlearningDataModule",
            "init_args": {
                "datamodule": {"class_path": "language_project.SentenceData"},
                "forget": list(range(FORGOTTEN)),
            },
        },
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "Export", "init_args": {"path": "unlearned.ckpt"}}],
        },
    }
    (tmp_path / "text.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config=text.yaml"]) == 0
    model = language.project.Gpt.load_from_checkpoint("unlearned.ckpt", weights_only=True, strict=True)
    assert language.completed(model)[1] > 0.5
