"""``lightning-unlearn ledger verify``: check a deletion ledger, and list what does not match."""

from collections import Counter
from pathlib import Path
from typing import Any

from lightning_unlearn.cli.parsing import OneLine, Parser
from lightning_unlearn.core.files import key_fingerprint, model_hash, positions_hash
from lightning_unlearn.core.ledger import Ledger, Mismatch, verify
from lightning_unlearn.data import Split
from lightning_unlearn.methods.base.source import read_checkpoint

_METHOD_PREFIX = "model."


def run(args: list[str]) -> int:
    """Parse the arguments of ``ledger``, check and print; the status is 1 if something does not match."""
    parser = Parser(
        "ledger",
        "verify deletions.jsonl",
        "Check a deletion ledger. Status: 0 all matches, 1 not, 2 no input.",
    )
    verb = parser.add_subparsers(dest="verb", required=True, parser_class=OneLine).add_parser(
        "verify", help="check the chain of lines and the models' hashes"
    )
    add = verb.add_argument
    add("file", type=Path, metavar="FILE", help="the ledger")
    add("--model", type=Path, metavar="CKPT", help="a checkpoint that a request must have made")
    add("--head", metavar="HASH", help="hash of a line, noted earlier, that must still be there")
    add("--split", type=Path, metavar="NPZ", help="split file whose forget set a line must be about")
    add("--key", type=Path, metavar="FILE", help="the ledger's secret; FILE.key if left out")
    parsed = parser.parse_args(args)
    ids = fingerprint = None
    ledger = Ledger(str(parsed.file), parsed.key and str(parsed.key))
    if parsed.split is not None or parsed.key is not None or ledger.key_path.is_file():
        fingerprint = key_fingerprint(key := ledger.key())
    if parsed.split is not None:
        ids = positions_hash(Split.load(parsed.split).forget, key)
    lines, mismatches = verify(parsed.file, head=parsed.head, ids=ids, key=fingerprint)
    checked, found = _check_recorded_files(parsed.file, lines)
    mismatches += found
    print(f"{parsed.file}: {len(lines)} line{'s'[: len(lines) != 1]}, {checked} of their models at hand")
    if lines:
        print(f"head: {lines[-1]['hash']}")
    if parsed.model is not None:
        mismatches += _check_model(parsed.model, lines)
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
