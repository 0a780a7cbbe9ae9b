"""``lightning-unlearn ledger verify``: check a deletion ledger, and list what does not match."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from lightning_unlearn.core.files import key_fingerprint, model_hash, positions_hash
from lightning_unlearn.core.ledger import Ledger, Mismatch, verify
from lightning_unlearn.data import Split
from lightning_unlearn.methods.base.source import read_checkpoint

_METHOD_PREFIX = "model."


EXAMPLE = "verify deletions.jsonl"


def run(
    verb: Literal["verify"],
    file: Path,
    *,
    model: Path | None = None,
    head: str | None = None,
    split: Path | None = None,
    key: Path | None = None,
) -> int:
    """Check a deletion ledger. Status: 0 all matches, 1 not, 2 no input.

    Args:
        verb: Check the chain of lines and the models' hashes.
        file: The ledger.
        model: A checkpoint that a request must have made.
        head: Hash of a line, noted earlier, that must still be there.
        split: Split file whose forget set a line must be about.
        key: File of the ledger's secret; FILE.key if left out.
    """
    ids = fingerprint = None
    ledger = Ledger(str(file), None if key is None else str(key))
    if split is not None or key is not None or ledger.key_path.is_file():
        fingerprint = key_fingerprint(secret := ledger.key())
    if split is not None:
        ids = positions_hash(Split.load(split).forget, secret)
    lines, mismatches = verify(file, head=head, ids=ids, key=fingerprint)
    checked, found = _check_recorded_files(file, lines)
    mismatches += found
    print(f"{file}: {len(lines)} line{'s'[: len(lines) != 1]}, {checked} of their models at hand")
    if lines:
        print(f"head: {lines[-1]['hash']}")
    if model is not None:
        mismatches += _check_model(model, lines)
    for number, line in enumerate(lines, 1):
        if ids is not None and line["ids"]["hmac_sha256"] == ids:
            print(f"{split} names the samples of request {line['request']}, line {number}")
    intact = f"chain intact; outcome: {_outcomes(lines)}"
    print("\n".join(f"DOES NOT MATCH  {each}" for each in mismatches) or intact)
    return 1 if mismatches else 0


def _outcomes(lines: list[dict[str, Any]]) -> str:
    """Say what the lines answer, in numbers where they are not all alike."""
    found = Counter(answer["outcome"] if (answer := line.get("answer")) else "not measured" for line in lines)
    return ", ".join(
        found if len(found) < 2 else (f"{number} {outcome}" for outcome, number in found.items())
    )


def _check_recorded_files(path: Path, lines: list[dict[str, Any]]) -> tuple[int, list[Mismatch]]:
    """Hash the exported models that the lines name and that are still there; the last line about a file counts."""
    last = {line["model"]["file"]: number for number, line in enumerate(lines, 1) if line["model"]["file"]}
    checked, found = 0, []
    for name, number in last.items():
        file = path.resolve().parent / name
        if not file.is_file():
            continue
        checked += 1
        try:
            hashes = _checkpoint_hashes(file)
        except ValueError as error:
            found.append(Mismatch(number, "model.file", str(error)))
            continue
        if lines[number - 1]["model"]["after"] not in hashes:
            message = f"{name} holds another model than the request made, {hashes[0][:12]}…"
            found.append(Mismatch(number, "model.after", message))
    return checked, found


def _check_model(checkpoint: Path, lines: list[dict[str, Any]]) -> list[Mismatch]:
    if not checkpoint.is_file():
        raise FileNotFoundError(f"--model: there is no checkpoint {checkpoint}")
    hashes = _checkpoint_hashes(checkpoint)
    made = [n for n, line in enumerate(lines, 1) if line["model"]["after"] in hashes]
    begun = [n for n, line in enumerate(lines, 1) if line["model"]["before"] in hashes]
    for number in made:
        line = lines[number - 1]
        print(f"{checkpoint} is the model that request {line['request']} made, line {number}")
    if made:
        for number in (n for n in begun if n > made[-1]):
            print(f"  and the one that request {lines[number - 1]['request']} began with, line {number}")
        return []
    if begun:
        message = f"{checkpoint} is the model as it was before the request: it has not forgotten"
        return [Mismatch(number, "model.before", message) for number in begun]
    return [Mismatch(0, "model", f"no line knows {checkpoint}, {hashes[0][:12]}…")]


def _checkpoint_hashes(path: Path) -> list[str]:
    """Return the hash of the model in a checkpoint, and of the model in the method that it may be a checkpoint of."""
    state = read_checkpoint(path)["state_dict"]
    hashes = [model_hash(state)]
    if state and all(name.startswith(_METHOD_PREFIX) for name in state):
        hashes.append(model_hash({name.removeprefix(_METHOD_PREFIX): value for name, value in state.items()}))
    return hashes
