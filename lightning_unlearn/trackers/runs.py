"""A comparison as W&B runs: one a model and seed, written when it is finished, and one that sums up."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from lightning_unlearn.core.files import file_hash, read_object, write_json_atomic
from lightning_unlearn.core.versions import installed_versions
from lightning_unlearn.engine.telling import SOFTWARE, Results
from lightning_unlearn.functional import acceleration
from lightning_unlearn.reports.answer import answer_of, gap_closed, outcome
from lightning_unlearn.reports.details import read_log
from lightning_unlearn.reports.glossary import CONTROLS, all_models, is_control, measured_metrics
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.thumbnails import read_thumbnails
from lightning_unlearn.reports.tidy import report_rows, run_rows
from lightning_unlearn.reports.verdict import judge_all
from lightning_unlearn.trackers.destination import Destination
from lightning_unlearn.trackers.media import media_of, rows_table

MARK = "wandb.json"
"""File that says under which id a run, or the comparison, was written to W&B, and from what content."""

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
        """Write one run, if it is not written yet; a method's offline run waits for its verdict, which ends it.

        Args:
            folder: Its folder, two levels below the comparison's.
            name: Name of the model.
            seed: Its seed.
        """
        if is_control(name) or self.destination.mode == "online":
            self._write(folder, name, seed, {})

    def finished(self, folder: Path, report: Report) -> None:
        """Write the run that sums up.

        Args:
            folder: The comparison's folder.
            report: Its report.
        """
        verdicts = judge_all(report)
        for name, verdict in verdicts.items():
            judged = {
                "verdict": verdict.status,
                "answer": outcome(verdict.status),
                **_share("", report, name),
            }
            for seed in report["seeds"]:
                run = folder / name / f"seed_{seed}"
                if (run / "metrics.json").is_file():
                    self._write(run, name, seed, judged)
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
            known = read_object(folder / MARK).get("fingerprint") == fingerprint
            if not known or self.destination.in_sweep:
                write_json_atomic(folder / MARK, {"fingerprint": fingerprint, **write()})
        except Exception as error:  # a dashboard less must not lose a comparison; the next start tries again
            warnings.warn(f"{folder} was not written to W&B: {type(error).__name__}: {error}", stacklevel=2)

    # ------------------------------------------------------------------ one run

    def _write(self, folder: Path, name: str, seed: int, judged: Mapping[str, Any]) -> None:
        """Write one run if it is not written; what the end tells of it goes to a run that the server has already."""
        if self.destination.in_sweep:
            return
        content = [(folder / file).read_bytes() for file in _CONTENT if (folder / file).is_file()]
        online = self.destination.mode == "online"
        if judged and not online:
            content.append(json.dumps(judged, sort_keys=True).encode())
        self._once(folder, content, lambda: self._write_run(folder, name, seed, {} if online else judged))
        mark = read_object(folder / MARK)
        if judged and online and mark and mark.get("judged") != judged:
            try:
                self.destination.add(str(mark["id"]), judged)
                write_json_atomic(folder / MARK, {**mark, "judged": judged})
            except Exception as error:  # as above
                warnings.warn(f"{folder}: the verdict was not written to W&B: {error}", stacklevel=2)

    def _write_run(self, folder: Path, name: str, seed: int, judged: Mapping[str, Any]) -> dict[str, Any]:
        comparison = folder.parent.parent
        audit, training = read_object(folder / "metrics.json"), read_object(folder / "training.json")
        facts, times = read_object(folder / "facts.json"), training.get("times", {})
        memory = facts.pop("peak_memory", {})
        lineage = _lineage(comparison, name, seed)
        config = {
            **read_object(folder / "config.json"),
            **facts,
            "trained": training.get("method"),  # class path and arguments
            "versions": installed_versions(*SOFTWARE),
            "lineage": lineage,
        }
        with self.destination.open(
            comparison,
            f"{name}/seed_{seed}",
            group=_group(comparison),
            job_type=name if name in CONTROLS else "control" if is_control(name) else "unlearn",
            tags=[name],
            config=config,
        ) as run:
            last = 0.0
            for row in read_log(folder / "log" / "metrics.csv"):
                last = row.get("step", last)
                run.log({_STEP if key == "step" else key: value for key, value in row.items()})
            # pictures and answers of who was forgotten go where models go, and nowhere unless asked for
            images = read_thumbnails(comparison, seed) if self.destination.log_model else None
            run.log({**_run_media(folder, audit, name, seed, images), _STEP: last})
            faster = _acceleration(comparison, name, seed, times)
            run.summary.update({**audit["metrics"], **times, **memory, **faster, **judged})
            if audit["errors"]:
                run.summary["errors"] = audit["errors"]
            sent = self._send_model(run, folder, name, seed, lineage)
            return {"id": run.id, "offline": run.offline, **sent}

    def _send_model(
        self, run: Any, folder: Path, name: str, seed: int, lineage: Mapping[str, Any]
    ) -> dict[str, str | None]:
        """Send the exported model, with what it was made from; return the names that the server gave."""
        if not self.destination.log_model:
            return {}
        comparison = folder.parent.parent
        sent: dict[str, str | None] = {}
        if name == "source":
            own = folder / "split.npz"
            file = own if own.is_file() else comparison / "split.npz"
            sent["split"] = _send(run, comparison, "split", "dataset", [file])
        else:
            made_from = read_object(comparison / "source" / f"seed_{seed}" / MARK)
            if "of" not in lineage.get("source", {}):
                _use(run, made_from.get("artifact"))
            _use(run, made_from.get("split"))
        model = lineage["model"]["name"]
        told = {"lineage": dict(lineage)}
        files = [folder / "model.ckpt"]
        sent["artifact"] = _send(run, comparison, model, "model", files, aliases=[name], metadata=told)
        return sent

    # ------------------------------------------------------------------ the run that sums up

    def _write_summary(self, folder: Path, report: Report) -> dict[str, Any]:
        import wandb

        marks = {
            f"{model}/seed_{seed}": read_object(folder / model / f"seed_{seed}" / MARK)
            for model in report["models"]
            for seed in report["seeds"]
        }
        files = [file for name in ("report.json", "report.html") if (file := folder / name).is_file()]
        hashes = {file.name: file_hash(file) for file in files}
        config = {
            "comparison": report["config"],
            **{key: report[key] for key in ("data", "seeds", "versions")},
            "runs": {name: mark["id"] for name, mark in marks.items() if mark},
            "report": hashes,
        }
        group = _group(folder)
        with self.destination.open(
            folder, group, group=group, job_type="evaluate", tags=["comparison"], config=config
        ) as run:
            drawn = sorted((folder / "figures").glob("*.png"))
            figures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in drawn}
            tables = {"comparison": rows_table(report_rows(report)), "overview": _overview(report)}
            run.log({**tables, **_verdicts(report), **figures})
            means = {
                f"{model}/{metric}": value["mean"]
                for model, metrics in report["models"].items()
                for metric, value in metrics.items()
            }
            run.summary.update({**means, **_answer(report), "failures": len(report["failures"])})
            for mark in marks.values():
                _use(run, mark.get("artifact"))
            artifact = _send(run, folder, "report", "evaluation", files, metadata=hashes)
            return {"id": run.id, "offline": run.offline, "artifact": artifact}


def _answer(report: Report) -> dict[str, Any]:
    """Return what runs can be filtered by: the answer, and each method's verdict and share of the gap closed."""
    verdicts = judge_all(report)
    told = {f"verdict/{name}": verdict.status for name, verdict in verdicts.items()}
    shares = {key: share for name in verdicts for key, share in _share(f"/{name}", report, name).items()}
    answer = answer_of(report, verdicts)
    if answer is None:
        return {**told, **shares}
    words = {
        f"answer/{key}": getattr(answer, key) for key in ("method", "forgotten", "evidence", "cost", "sure")
    }
    return {**told, **shares, **words, "answer": answer.outcome}


def _verdicts(report: Report) -> dict[str, Any]:
    """Return the answers method by method as a table, the best first."""
    rows = [
        [name, outcome(verdict.status), verdict.headline, gap_closed(report, name)]
        for name, verdict in judge_all(report).items()
    ]
    best = answer_of(report)
    rows.sort(key=lambda row: best is None or row[0] != best.method)
    return {"verdicts": rows_table(rows, ["method", "answer", "verdict", "gap_closed"])}


def _share(suffix: str, report: Report, name: str) -> dict[str, float]:
    share = gap_closed(report, name)
    return {} if share is None else {f"gap_closed{suffix}": share}


def _run_media(
    folder: Path, audit: Mapping[str, Any], name: str, seed: int, images: Sequence[Any] | None
) -> dict[str, Any]:
    import wandb

    place = folder / "evaluation"
    details = {key: noted for key, noted in audit["details"].items() if key not in audit["errors"]}
    media = {"scores": rows_table(run_rows(name, seed, audit["metrics"], details))}
    for evaluator, noted in details.items():
        media |= media_of(Results(evaluator, {}, noted, model=name, seed=seed, folder=place), images)
    return media | {f"{path.stem}/picture": wandb.Image(str(path)) for path in sorted(place.glob("*.png"))}


def _overview(report: Report) -> Any:
    metrics = measured_metrics(report)
    rows = []
    for model in all_models(report):
        values = report["models"][model]
        rows.append([model, *(values[name]["mean"] if name in values else None for name in metrics)])
    return rows_table(rows, ["method", *metrics])


def _acceleration(comparison: Path, name: str, seed: int, times: Mapping[str, float]) -> dict[str, float]:
    retrain = read_object(comparison / "retrain" / f"seed_{seed}" / "training.json").get("times", {})
    ours, theirs = times.get("time/total_s"), retrain.get("time/total_s")
    return {"acceleration": acceleration(theirs, ours)} if name != "source" and ours and theirs else {}


def _lineage(comparison: Path, name: str, seed: int) -> dict[str, dict[str, Any]]:
    """Return names and hashes of a model and of what it was made from."""
    # not the split: whoever guesses a small request can write the same file and compare the hashes
    made_from = {"model": name} if name == "source" else {"model": name, "source": "source"}
    files = {part: comparison / each / f"seed_{seed}" / "model.ckpt" for part, each in made_from.items()}
    lineage: dict[str, dict[str, Any]] = {
        part: {"name": f"{made_from[part]}-seed_{seed}", "sha256": file_hash(file)}
        for part, file in files.items()
        if file.is_file()
    }
    before = read_object(comparison / name / f"seed_{seed}" / "training.json").get("made_from")
    if before is not None:
        lineage["source"] = {"name": f"{name}-seed_{seed}", "sha256": before, "of": "the request before"}
    return lineage


def _send(
    run: Any,
    comparison: Path,
    name: str,
    kind: str,
    files: list[Path],
    *,
    aliases: list[str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> str | None:
    """Log files as an artifact; return the name it can be used by later, which only the server gives."""
    import wandb

    # W&B takes no other characters
    named = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{_group(comparison)}-{name}")[:128]
    artifact = wandb.Artifact(named, kind, metadata=metadata)
    for file in files:
        artifact.add_file(str(file))
    logged = run.log_artifact(artifact, aliases=aliases)
    return None if run.offline else str(logged.wait().qualified_name)


def _use(run: Any, artifact: str | None) -> None:
    """Name an input of a run; offline W&B cannot, and the configuration's hashes have to do."""
    if artifact is not None and not run.offline:
        run.use_artifact(artifact)


def _group(comparison: Path) -> str:
    return comparison.resolve().name
