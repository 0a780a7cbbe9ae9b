"""A project that knows nothing of this library unlearns with the lines of the README."""

import sys
from pathlib import Path

import lightning as L
import pytest
import torch

PROJECT = Path(__file__).parent / "own_project"


@pytest.mark.slow
def test_a_deletion_request_in_ones_own_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT))
    monkeypatch.chdir(tmp_path)
    from my_project import MyDataModule, MyModule

    # what the owner did long ago
    trainer = L.Trainer(max_epochs=8, accelerator="cpu", enable_progress_bar=False, logger=False)
    trainer.fit(MyModule(width=8), MyDataModule())
    trainer.save_checkpoint("best.ckpt")
    Path("deletion_request.csv").write_text("id\n" + "\n".join(str(i) for i in range(5, 600, 5)))

    # what the README says
    from lightning_unlearn import MembershipInference, ReferenceKL, UnlearningDataModule

    source = MyModule.load_from_checkpoint("best.ckpt")
    data = UnlearningDataModule(MyDataModule(), forget="deletion_request.csv")
    method = ReferenceKL(source, lambda_=0.01)
    trainer = L.Trainer(max_epochs=10, callbacks=[MembershipInference()], accelerator="cpu")
    trainer.fit(method, data)
    method.export("unlearned.ckpt")

    assert data.split.forget.tolist() == list(range(5, 600, 5))
    assert 0 <= trainer.callback_metrics["membership_inference/hit_rate"] <= 1
    assert 0 <= trainer.callback_metrics["source/membership_inference/hit_rate"] <= 1
    unlearned = MyModule.load_from_checkpoint("unlearned.ckpt")
    assert unlearned.hparams["width"] == 8
    assert unlearned.vocabulary[-1] == "9"
    assert not any(
        torch.equal(a, b) for a, b in zip(unlearned.parameters(), source.parameters(), strict=True)
    )
    datamodule = MyDataModule()
    datamodule.setup("test")
    unlearned.eval()
    with torch.no_grad():
        hits = torch.cat([unlearned(x).argmax(1) == y for x, y in datamodule.test_dataloader()])
    assert hits.float().mean() > 0.9
    # the owner's own training goes on from it
    L.Trainer(
        max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False, enable_checkpointing=False
    ).fit(unlearned, MyDataModule())
    sys.modules.pop("my_project")
