"""Three projects that know nothing of this library are unlearned and audited with five lines each."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

PROJECTS = Path(__file__).parent / "foreign_projects"
FORGET = list(range(3, 300, 11))

# What the owner of each project adds; the rest (source, Trainer's own arguments) is the owner's already.
ADDED: dict[str, str] = {
    "image, ReferenceKL": """
from lightning_unlearn import MembershipInference, ReferenceKL, UnlearningDataModule, UnlearningDegree
data = UnlearningDataModule(DigitsData(), forget="deletion_request.csv")
method = ReferenceKL(DigitsClassifier.load_from_checkpoint("best.ckpt"))
L.Trainer(**usual, max_epochs=4, callbacks=[MembershipInference(), UnlearningDegree(epochs=2)]).fit(method, data)
method.export("unlearned.ckpt")
""",
    "image, Retrain": """
from lightning_unlearn import ForgettingMetrics, MembershipInference, Retrain, UnlearningDataModule
data = UnlearningDataModule(DigitsData(), forget="deletion_request.csv")
method = Retrain(DigitsClassifier.load_from_checkpoint("best.ckpt"))
L.Trainer(**usual, max_epochs=6, callbacks=[MembershipInference(), ForgettingMetrics()]).fit(method, data)
method.export("unlearned.ckpt")
""",
    "tabular, ReferenceKL": """
from lightning_unlearn import Adapter, MembershipInference, ReferenceKL, UnlearningDataModule
data = UnlearningDataModule(CustomerData(), forget="deletion_request.csv")
method = ReferenceKL(RiskModel.load_from_checkpoint("best.ckpt"), adapter=Adapter(targets="risk", logits="risk_logits"))
L.Trainer(**usual, max_epochs=5, callbacks=[MembershipInference()]).fit(method, data)
method.export("unlearned.ckpt")
""",
    "tabular, TopK": """
from lightning_unlearn import Adapter, ForgettingMetrics, MembershipInference, TopK, UnlearningDataModule
data = UnlearningDataModule(CustomerData(), forget="deletion_request.csv")
method = TopK(RiskModel.load_from_checkpoint("best.ckpt"), adapter=Adapter(targets="risk", logits="risk_logits"))
L.Trainer(**usual, max_epochs=2, callbacks=[MembershipInference(), ForgettingMetrics()]).fit(method, data)
method.export("unlearned.ckpt")
""",
    "text, ReferenceKL": """
from lightning_unlearn import MembershipInference, ReferenceKL, UnlearningDataModule
data = UnlearningDataModule(ReviewData(), forget="deletion_request.csv")
method = ReferenceKL(ReviewClassifier.load_from_checkpoint("best.ckpt"))
L.Trainer(**usual, max_epochs=4, callbacks=[MembershipInference()]).fit(method, data)
method.export("unlearned.ckpt")
""",
    "text, WGAN": """
from lightning_unlearn import ForgettingMetrics, MembershipInference, UnlearningDataModule, WGAN
data = UnlearningDataModule(ReviewData(), forget="deletion_request.csv")
method = WGAN(ReviewClassifier.load_from_checkpoint("best.ckpt"), retain_fraction=0.3)
L.Trainer(**usual, max_epochs=4, callbacks=[MembershipInference(), ForgettingMetrics()]).fit(method, data)
method.export("unlearned.ckpt")
""",
}
# Names of the model, the datamodule and the place of the logits, and the epochs the owner trained.
OWNERS = {
    "image": ("DigitsClassifier", "DigitsData", None, 8),
    "tabular": ("RiskModel", "CustomerData", "risk_logits", 12),
    "text": ("ReviewClassifier", "ReviewData", "logits", 6),
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the owners did long ago: their modules' names, and the folders with their checkpoints."""
    sys.path.insert(0, str(PROJECTS))
    done: dict[str, Any] = {}
    for project, (model, data, _, epochs) in OWNERS.items():
        names = vars(__import__(f"{project}_project"))
        folder = tmp_path_factory.mktemp(project)
        L.seed_everything(0, verbose=False)
        trainer = L.Trainer(**usual(), max_epochs=epochs)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # as for every test
            trainer.fit(names[model](), names[data]())
        trainer.save_checkpoint(folder / "best.ckpt")
        (folder / "deletion_request.csv").write_text("id\n" + "\n".join(map(str, FORGET)))
        done[project] = names, folder
    yield done
    sys.path.remove(str(PROJECTS))
    for project in OWNERS:
        sys.modules.pop(f"{project}_project")


def usual() -> dict[str, Any]:
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    return {"accelerator": "cpu", **dict.fromkeys(quiet, False)}


@pytest.mark.slow
@pytest.mark.parametrize("case", ADDED)
def test_five_lines_unlearn_and_audit(
    case: str, projects: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in ADDED[case].splitlines() if line.strip()]
    assert len(lines) <= 5
    project, method_name = case.split(", ")
    model, datamodule, logits, _ = OWNERS[project]
    names, folder = projects[project]
    monkeypatch.chdir(folder)
    L.seed_everything(1, verbose=False)
    owners = {**names, "L": L, "usual": usual()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gives another sample each time.*")  # said of the images
        exec("\n".join(lines), owners)

    method, data = owners["method"], owners["data"]
    assert type(method).__name__ == method_name
    assert data.split.forget.tolist() == FORGET
    scores = method.trainer.callback_metrics
    for prefix in ("", "source/"):
        assert 0 <= scores[f"{prefix}membership_inference/auc"] <= 1
    unlearned = names[model].load_from_checkpoint("unlearned.ckpt", weights_only=True)
    source = names[model].load_from_checkpoint("best.ckpt", weights_only=True)
    assert unlearned.hparams == source.hparams
    assert unlearned.state_dict().keys() == source.state_dict().keys()
    assert any(
        not torch.equal(a, b) for a, b in zip(unlearned.parameters(), source.parameters(), strict=True)
    )
    before, after = (accuracy(m, names[datamodule](), logits) for m in (source, unlearned))
    assert before > 0.7
    assert after > before - 0.15
    # the owner's own training goes on from it
    L.Trainer(**usual(), max_epochs=1).fit(unlearned, names[datamodule]())


def accuracy(model: Any, datamodule: Any, logits: str | None) -> float:
    """The owner's own accuracy on the test set."""
    datamodule.setup("test")
    model.eval()
    right: list[torch.Tensor] = []
    with torch.no_grad():
        for batch in datamodule.test_dataloader():
            if isinstance(batch, dict):
                targets = batch.pop("risk" if "risk" in batch else "labels")
                output = model(**batch)
                answers = output[logits] if isinstance(output, dict) else output.logits
            else:
                answers, targets = model(batch[0]), batch[1]
            right.append(answers.argmax(dim=1) == targets)
    return float(torch.cat(right).float().mean())
