"""A comparison as W&B runs: one a model and seed, written when it is finished, and one that sums up."""

import csv
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from lightning_unlearn.core.files import file_hash, write_json_atomic
from lightning_unlearn.core.versions import installed_versions
from lightning_unlearn.functional import acceleration
from lightning_unlearn.reports.glossary import measured_metrics, ordered_models
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.tidy import intervals_of, report_rows, run_rows
from lightning_unlearn.trackers.destination import Destination
from lightning_unlearn.trackers.facts import SOFTWARE
from lightning_unlearn.trackers.media import media_of, rows_table

__all__ = ["WandbRuns"]

MARK = "wandb.json"
"""File that says under which id a run, or the comparison, was written to W&B, and from what content."""

_JOB_TYPES = {"source": "source", "retrain": "retrain"}
_CONTENT = ("config.json", "training.json", "metrics.json", "facts.json", "log/metrics.csv")
_STEP = "trainer/global_step"


class WandbRuns:
    """Looks on at a comparison and writes each finished run to W&B, from the run's folder.

    One run a model and seed, in one group, with configuration, curves, scores, per-sample tables and charts; at the
    end one more, of job type ``evaluate``, with the tidy table of all scores, the figures and the report. What was
    written once is not written again, unless it changed or goes elsewhere. W&B's troubles cost a warning, never the
    comparison. Started by a W&B agent, the comparison is the agent's one run.

    Models and the split are sent only if the logger has ``log_model``; of a model only the exported file, never a
    checkpoint to resume from. Their names and hashes are in the configuration either way.

    Args:
        logger: What to write to: project, entity, group, tags, folder, offline.
        quiet: Whether to say nothing at the end.

    Raises:
        ValueError: If the logger describes one run only.
    """

    def __init__(self, logger: WandbLogger, *, quiet: bool = False) -> None:
        self.destination = Destination(logger)
        self.quiet = quiet

    def run_finished(self, folder: Path, name: str, seed: int) -> None:
        """Write one run, if it is not written yet.

        Args:
            folder: Its folder, two levels below the comparison's.
            name: Name of the model.
            seed: Its seed.
        """
        if not self.destination.in_sweep:
            content = [(folder / file).read_bytes() for file in _CONTENT if (folder / file).is_file()]
            self._once(folder, content, lambda: self._write_run(folder, name, seed))

    def finished(self, folder: Path, report: Report) -> None:
        """Write the run that sums up.

        Args:
            folder: The comparison's folder.
            report: Its report.
        """
        told = {key: report[key] for key in ("models", "seeds", "config", "failures")}
        content = [json.dumps(told, sort_keys=True).encode()]
        self._once(folder, content, lambda: self._write_summary(folder, report))
        if self.quiet or self.destination.mode == "disabled":
            return
        place = self.destination.folder(folder) / "wandb"
        if self.destination.mode == "offline":
            print(f"W&B:    offline runs in {place}; send them with: wandb sync {place}/offline-run-*")

    # ------------------------------------------------------------------ once, and without harm

    def _once(self, folder: Path, content: list[bytes], write: Callable[[], dict[str, Any]]) -> None:
        """Write what has not been written yet, and note that it is."""
        try:
            if self.destination.mode == "disabled":
                return
            destination = json.dumps(self.destination.identity).encode()
            fingerprint = hashlib.sha256(b"\0".join([destination, *content])).hexdigest()
            mark = folder / MARK
            known = mark.is_file() and json.loads(mark.read_text())["fingerprint"] == fingerprint
            if not known or self.destination.in_sweep:
                write_json_atomic(mark, {"fingerprint": fingerprint, **write()})
        except Exception as error:  # a dashboard less must not lose a comparison; the next start tries again
            warnings.warn(f"{folder} was not written to W&B: {type(error).__name__}: {error}", stacklevel=2)

    # ------------------------------------------------------------------ one run

    def _write_run(self, folder: Path, name: str, seed: int) -> dict[str, Any]:
        comparison = folder.parent.parent
        audit, facts = _read(folder / "metrics.json"), _read(folder / "facts.json")
        training = _read(folder / "training.json")
        group = _group(comparison)
        lineage = _lineage(comparison, name, seed)
        config = {
            **_read(folder / "config.json"),
            **{key: value for key, value in facts.items() if key != "peak_memory"},
            "trained": training.get("method"),  # class path and arguments
            "versions": installed_versions(*SOFTWARE),
            "lineage": lineage,
        }
        with self.destination.open(
            comparison,
            f"{name}/seed_{seed}",
            group=group,
            job_type=_JOB_TYPES.get(name, "unlearn"),
            tags=[name],
            config=config,
        ) as run:
            last = 0.0
            for row in _curves(folder / "log" / "metrics.csv"):
                run.log(row)
                last = row.get(_STEP, last)
            run.log({**_run_media(folder, audit, name, seed), _STEP: last})
            times = training.get("times", {})
            run.summary.update(
                {
                    **audit["metrics"],
                    **times,
                    **facts.get("peak_memory", {}),
                    **_acceleration(comparison, name, seed, times),
                }
            )
            if audit["errors"]:
                run.summary["errors"] = audit["errors"]
            sent = self._send_model(run, folder, group, name, seed, lineage)
            return {"id": run.id, "offline": run.offline, **sent}

    def _send_model(
        self, run: Any, folder: Path, group: str, name: str, seed: int, lineage: Mapping[str, Any]
    ) -> dict[str, str | None]:
        """Send the exported model, with what it was made from; return the names that the server gave."""
        if not self.destination.log_model:
            return {}
        import wandb

        comparison = folder.parent.parent
        sent: dict[str, str | None] = {}
        if name == "source":
            split = wandb.Artifact(_artifact_name(group, "split"), "dataset")
            split.add_file(str(comparison / "split.npz"))
            sent["split"] = _logged(run, split)
        else:
            made_from = _read(comparison / "source" / f"seed_{seed}" / MARK)
            _use(run, made_from.get("artifact"))
            _use(run, made_from.get("split"))
        artifact = wandb.Artifact(
            _artifact_name(group, lineage["model"]["name"]), "model", metadata={"lineage": dict(lineage)}
        )
        artifact.add_file(str(folder / "model.ckpt"))
        sent["artifact"] = _logged(run, artifact, aliases=[name])
        return sent

    # ------------------------------------------------------------------ the run that sums up

    def _write_summary(self, folder: Path, report: Report) -> dict[str, Any]:
        import wandb

        group = _group(folder)
        marks = {
            f"{model}/seed_{seed}": _read(folder / model / f"seed_{seed}" / MARK)
            for model in report["models"]
            for seed in report["seeds"]
        }
        config = {
            "comparison": report["config"],
            "data": report["data"],
            "seeds": report["seeds"],
            "versions": report["versions"],
            "runs": {name: mark["id"] for name, mark in marks.items() if mark},
        }
        with self.destination.open(
            folder, group, group=group, job_type="evaluate", tags=["comparison"], config=config
        ) as run:
            figures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in _figures(folder)}
            run.log({"comparison": rows_table(report_rows(report)), "overview": _overview(report), **figures})
            run.summary.update(
                {
                    f"{model}/{metric}": value["mean"]
                    for model, metrics in report["models"].items()
                    for metric, value in metrics.items()
                }
            )
            run.summary["failures"] = len(report["failures"])
            for mark in marks.values():
                _use(run, mark.get("artifact"))
            files = [folder / name for name in ("report.json", "report.html")]
            hashes = {file.name: file_hash(file) for file in files if file.is_file()}
            run.config.update({"report": hashes})
            artifact = wandb.Artifact(_artifact_name(group, "report"), "evaluation", metadata=hashes)
            for name in hashes:
                artifact.add_file(str(folder / name))
            return {"id": run.id, "offline": run.offline, "artifact": _logged(run, artifact)}


def _run_media(folder: Path, audit: Mapping[str, Any], name: str, seed: int) -> dict[str, Any]:
    import wandb

    intervals: dict[str, tuple[float, float]] = {}
    media: dict[str, Any] = {}
    for evaluator, details in audit["details"].items():
        if isinstance(details, Mapping) and evaluator not in audit["errors"]:
            intervals.update(intervals_of(evaluator, details))
            place = folder / "evaluation"
            media.update(media_of(evaluator, {}, details, model=name, seed=seed, folder=place))
    pictures = {
        f"{path.stem}/picture": wandb.Image(str(path))
        for path in sorted((folder / "evaluation").glob("*.png"))
    }
    return {"scores": rows_table(run_rows(name, seed, audit["metrics"], intervals)), **media, **pictures}


def _overview(report: Report) -> Any:
    import wandb

    metrics = measured_metrics(report)
    rows = [
        [
            model,
            *(report["models"][model][m]["mean"] if m in report["models"][model] else None for m in metrics),
        ]
        for model in ordered_models(report)
    ]
    return wandb.Table(columns=["method", *metrics], data=rows)


def _curves(path: Path) -> Iterator[dict[str, float]]:
    """Yield what was logged while the model was trained, one row a step, from a CSV logger's file."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = {key: float(value) for key, value in row.items() if value}
            if "step" in numbers:
                numbers[_STEP] = numbers.pop("step")
            yield numbers


def _acceleration(comparison: Path, name: str, seed: int, times: Mapping[str, float]) -> dict[str, float]:
    retrain = _read(comparison / "retrain" / f"seed_{seed}" / "training.json").get("times", {})
    ours, theirs = times.get("time/total_s"), retrain.get("time/total_s")
    return {"acceleration": acceleration(theirs, ours)} if name != "source" and ours and theirs else {}


def _lineage(comparison: Path, name: str, seed: int) -> dict[str, dict[str, Any]]:
    """Return names and hashes of a model and of what it was made from."""
    run = f"seed_{seed}"
    # not the split: whoever guesses a small request can write the same file and compare the hashes
    files, names = {"model": comparison / name / run / "model.ckpt"}, {"model": f"{name}-{run}"}
    if name != "source":
        files["source"], names["source"] = comparison / "source" / run / "model.ckpt", f"source-{run}"
    return {
        part: {"name": names[part], "sha256": file_hash(file)}
        for part, file in files.items()
        if file.is_file()
    }


def _logged(run: Any, artifact: Any, aliases: list[str] | None = None) -> str | None:
    """Log an artifact; return the name it can be used by later, which only the server gives."""
    logged = run.log_artifact(artifact, aliases=aliases)
    return None if run.offline else str(logged.wait().qualified_name)


def _use(run: Any, artifact: str | None) -> None:
    """Name an input of a run; offline W&B cannot, and the configuration's hashes have to do."""
    if artifact is not None and not run.offline:
        run.use_artifact(artifact)


def _figures(folder: Path) -> list[Path]:
    return sorted((folder / "figures").glob("*.png"))


def _group(comparison: Path) -> str:
    return comparison.resolve().name


def _artifact_name(group: str, name: str) -> str:
    """Join two names into one that W&B takes for an artifact.

    Example:
        >>> _artifact_name("runs of today", "wgan-seed_0")
        'runs-of-today-wgan-seed_0'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{group}-{name}")[:128]


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
