"""Reads the files that W&B writes offline: a header, and records in the blocks of a LevelDB log."""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<4sHB")  # ":W&B", magic number, version
RECORD = struct.Struct("<IHB")  # checksum, length, type
BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(path: Path) -> Iterator[bytes]:
    """Yield the records whole, their checksums verified; a file that breaks off raises."""
    content = path.read_bytes()
    assert HEADER.unpack_from(content)[:2] == (b":W&B", 0xBEE1), "not a W&B file"
    at, parts = HEADER.size, b""
    while at < len(content):
        left = BLOCK - at % BLOCK
        if left < RECORD.size:
            at += left
            continue
        checksum, length, kind = RECORD.unpack_from(content, at)
        at += RECORD.size
        data = content[at : at + length]
        assert len(data) == length, "the file breaks off"
        assert kind in (FULL, FIRST, MIDDLE, LAST), f"record of unknown type {kind}"
        assert zlib.crc32(data, zlib.crc32(bytes([kind]))) == checksum, "a checksum does not fit"
        at += length
        assert bool(parts) == (kind in (MIDDLE, LAST)), "parts of records are out of order"
        parts += data
        if kind in (FULL, LAST):
            yield parts
            parts = b""
    assert not parts, "the last record is incomplete"


@dataclass
class OfflineRun:
    """What one offline run says."""

    path: Path
    kinds: list[str] = field(default_factory=list)
    name: str = ""
    id: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    exit_code: int | None = None

    def table(self, key: str) -> dict[str, Any]:
        """Return a logged table's columns and data, from the file beside the run's."""
        entries = [row[key] for row in self.history if key in row]
        content: dict[str, Any] = json.loads((self.path.parent / "files" / entries[-1]["path"]).read_text())
        return content

    def last(self, key: str) -> Any:
        return next(row[key] for row in reversed(self.history) if key in row)


def _items(items: Any, found: dict[str, Any] | None = None) -> dict[str, Any]:
    """Put items into a dictionary, nested ones beside what stands there already."""
    found = {} if found is None else found
    for item in items:
        keys = list(item.nested_key) or [item.key]
        place = found
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = json.loads(item.value_json)
    return found


def read_run(path: Path) -> OfflineRun:
    """Parse a run's file to its end."""
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun(path)
    for payload in payloads(path):
        record = Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        run.kinds.append(kind)
        if kind == "run":
            told = record.run
            run.name, run.id, run.project = told.display_name, told.run_id, told.project
            run.group, run.job_type, run.tags = told.run_group, told.job_type, list(told.tags)
            _items(told.config.update, run.config)
        elif kind == "config":
            _items(record.config.update, run.config)
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            _items(record.summary.update, run.summary)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            run.step_metrics[name] = record.metric.step_metric
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
        elif kind == "files":
            run.files += [item.path for item in record.files.files]
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def runs_below(folder: Path) -> list[OfflineRun]:
    """Parse every run below a folder, after W&B's service has ended and so written all it was sent."""
    import wandb

    wandb.teardown()
    return [read_run(path) for path in sorted(folder.rglob("run-*.wandb"))]
