"""What is read from the folders of a comparison's runs, and what is left where it stands."""

import hashlib
import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from lightning_unlearn.reports import read_details, write_all
from lightning_unlearn.reports.details import read_curves
from lightning_unlearn.reports.schema import Report


def test_curves_are_what_the_csv_logger_wrote(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path, name="log", version="")
    for step in (9, 19, 29):
        logger.log_metrics({"train/loss": 1 / step, "epoch": step // 10}, step)
    logger.log_metrics({"accuracy/test": 0.5, "epoch": 0}, 9)
    logger.log_metrics({"accuracy/test": float("nan"), "train/kl": 0.25}, 19)
    logger.log_metrics({"accuracy/test": 0.75, "late": 1.0}, 29)
    logger.save()
    curves = read_curves(tmp_path / "log" / "metrics.csv")
    assert curves == {
        "train/loss": {"step": [9, 19, 29], "value": [1 / 9, 1 / 19, 1 / 29]},
        "accuracy/test": {"step": [9, 29], "value": [0.5, 0.75]},
    }


def test_a_log_that_was_cut_off_gives_what_it_has(tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    log.write_text("step,train/loss,note\n19,0.25,text\n9,0.5,text\n29,inf,\n,0.1,\n39,0.1")
    assert read_curves(log) == {"train/loss": {"step": [9, 19, 39], "value": [0.5, 0.25, 0.1]}}
    log.write_text("")
    assert read_curves(log) == {}
    assert read_curves(tmp_path / "absent.csv") == {}


def test_files_are_listed_and_the_model_is_hashed(tmp_path: Path, small_report: Report) -> None:
    run = tmp_path / "reference_kl" / "seed_1"
    (run / "evaluation").mkdir(parents=True)
    content = b"weights" * 400_000  # more than is hashed at a time
    (run / "model.ckpt").write_bytes(content)
    (run / "training.json").write_text(json.dumps({"method": {"class": "my.Own"}}))
    (run / "evaluation" / "spd.png").write_bytes(b"picture")
    (run / ".model.ckpt.tmp").write_bytes(b"left over")
    (details,) = read_details(tmp_path, small_report, prefix="runs/").values()
    assert set(details) == {1}
    assert details[1]["files"] == [
        {"name": "runs/reference_kl/seed_1/evaluation/spd.png", "bytes": 7, "sha256": None},
        {
            "name": "runs/reference_kl/seed_1/model.ckpt",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        {
            "name": "runs/reference_kl/seed_1/training.json",
            "bytes": (run / "training.json").stat().st_size,
            "sha256": None,
        },
    ]
    assert details[1]["pictures"] == [str(run / "evaluation" / "spd.png")]
    assert details[1]["config"] == {"built": {"class": "my.Own"}}


@pytest.mark.parametrize("name", ["config.json", "training.json", "metrics.json"])
@pytest.mark.parametrize("content", ["[1, 2]", "{", "17"])
def test_a_file_of_another_kind_is_named(
    tmp_path: Path, small_report: Report, name: str, content: str
) -> None:
    run = tmp_path / "source" / "seed_0"
    run.mkdir(parents=True)
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=f"seed_0/{name} does not hold what a run leaves"):
        read_details(tmp_path, small_report)


def test_an_evaluator_s_picture_comes_through_to_the_page(tmp_path: Path, small_report: Report) -> None:
    from matplotlib.figure import Figure

    for seed in (1, 2):
        file = tmp_path / "retrain" / f"seed_{seed}" / "evaluation" / "own.png"
        file.parent.mkdir(parents=True)
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([0, seed])
        figure.savefig(file, metadata={"Title": "Own", "Description": "A rising line."})
        assert imread(file).shape[2] == 4
    write_all(small_report, tmp_path, read_details(tmp_path, small_report))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<strong>Own.</strong> A rising line. Seed 1.</figcaption>") == 1
    assert "Seed 2.</figcaption>" not in page
