"""The certificate of a deletion request: what it says, what it never says, and that it prints on one page."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import browse

from lightning_unlearn.cli.main import main
from lightning_unlearn.core.ledger import Ledger, append, entry
from lightning_unlearn.reports import write_certificate

ANSWER = {
    "outcome": "shown",
    "measure": "AUC of an attacker",
    "text": "1,000 samples: an attacker tells them from unseen ones with AUC .57 → .50 (95%: .48-.52).",
    "before": 0.57,
    "after": 0.5,
    "target": 0.5,
    "interval_before": [0.55, 0.59],
    "interval_after": [0.48, 0.52],
    "samples": 1000,
    "tried": 6,
}
METRICS = {"accuracy/forget": 0.9, "accuracy/test": 0.85, "certified/epsilon": 0.25, "certified/delta": 1e-5}
REWIND = {
    "class": "lightning_unlearn.methods.rewind.Rewind",
    "arguments": {"smoothness": 2.0, "gradient_bound": 3.5, "checkpoint": "/home/ann/old.ckpt"},
}


def put_on_record(folder: Path, lines: int = 1, **changes: Any) -> Ledger:
    ledger = Ledger(str(folder / "ledger.jsonl"), request="TICKET-17")
    ledger.prepare()
    for _ in range(lines):
        arguments: dict[str, Any] = {
            "forget": np.arange(4711, 4811),
            "earlier": np.asarray([], dtype=np.int64),
            "before": "a" * 64,
            "after": "b" * 64,
            "file": None,
            "method": {"class": "lightning_unlearn.methods.neg_grad_plus.NegGradPlus", "arguments": {}},
            "config": {},
            "metrics": {"accuracy/forget": 0.9},
            "controls": {"source": {"accuracy/forget": 1.0}},
            **changes,
        }
        append(ledger, entry(ledger, **arguments))
    return ledger


def words(page: Path) -> str:
    """The text of a page, as it is read."""
    text = page.read_text(encoding="utf-8").partition("<body>")[2]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def line_with(folder: Path, answer: Any, **changes: Any) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(put_on_record(folder, **changes).file.read_bytes().splitlines()[-1])
    return line if answer is None else {**line, "answer": answer}


def test_it_says_what_was_done_and_whether_it_worked(tmp_path: Path) -> None:
    line = line_with(tmp_path, ANSWER)
    said = words(write_certificate(line, tmp_path / "page.html"))
    for part in (
        "TICKET-17", line["time"][:10], "100;", line["ids"]["hmac_sha256"], "a" * 64, "b" * 64, line["hash"],
        "NegGradPlus: Descends on the retain set while it ascends on the forget set.", "Forgotten: SHOWN", ANSWER["text"],
        "before the request 0.57 0.55 to 0.59", "after the request 0.5 0.48 to 0.52", "measured on 1,000 samples",
        "6 ways were tried", "made on other unseen samples than",
        "within half of the gap", "not compared with one that was retrained", "No folder was looked through", "torch 2.", "Signature",
    ):  # fmt: skip
        assert part in said, part
    assert not re.search(r"(?<![0-9a-f])4711(?![0-9a-f])", said)  # within a hash it is chance
    of_class = {**line, "answer": {**ANSWER, "measure": "share of the class that it still names"}}
    assert "made on the same samples as" in words(write_certificate(of_class, tmp_path / "page.html"))
    for outcome, part in (("not shown", "does not certify"), ("cannot tell", "certifies neither")):
        page = write_certificate({**line, "answer": {**ANSWER, "outcome": outcome}}, tmp_path / "page.html")
        assert f"Forgotten: {outcome.upper()}" in words(page)
        assert part in words(page)


def test_without_an_answer_it_says_not_measured(tmp_path: Path) -> None:
    said = words(write_certificate(line_with(tmp_path, None), tmp_path / "page.html"))
    assert "Forgotten: NOT MEASURED" in said
    assert "not that it worked" in said
    assert "100.00 90.00 -" in said


def test_a_bound_stands_with_what_it_assumes(tmp_path: Path) -> None:
    line = line_with(tmp_path, None, method=REWIND, metrics=METRICS)
    said = words(write_certificate(line, tmp_path / "page.html"))
    assert "Certified: ε = 0.25, δ = 1e-05." in said
    assert "full-batch gradient descent" in said
    assert "2-smooth" in said
    assert "longer than 3.5" in said
    assert "/home/ann" not in said
    head = {"class": "lightning_unlearn.methods.certified_head.CertifiedHead", "arguments": {}}
    said = words(write_certificate({**line, "method": head}, tmp_path / "page.html"))
    assert "features were not trained on the forget set" in said


def test_it_names_nobody_and_imports_nothing_of_others(tmp_path: Path) -> None:
    line = line_with(tmp_path, ANSWER)
    line["request"] = "ann@example.org wants it"
    line["method"] = {"class": "antigravity.Mine", "arguments": {}}
    said = words(write_certificate(line, tmp_path / "page.html"))
    assert "ann" not in said
    assert "Method Mine Line" in said


def test_the_command_refuses_a_broken_chain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "error.txt").write_text("id 17")
    (tmp_path / "out" / "model.ckpt").write_bytes(b"")
    ledger = put_on_record(tmp_path, 2, file=tmp_path / "out" / "model.ckpt")
    assert main(["certificate", ledger.path]) == 0
    assert "certificate-2.html" in capsys.readouterr().out
    assert main(["certificate", ledger.path, "--line", "1", "--output", "first.html"]) == 0
    first, second = (words(tmp_path / name) for name in ("first.html", "certificate-2.html"))
    assert "error.txt: a traceback, which may quote ids" in first
    assert str(tmp_path) not in first
    assert first != second
    ledger.file.write_bytes(ledger.file.read_bytes().replace(b'"value":0.9', b'"value":0.1', 1))
    assert main(["certificate", ledger.path, "--output=third.html", "--line=2"]) == 2
    assert "does not verify (line 1, hash" in capsys.readouterr().err
    assert not (tmp_path / "third.html").exists()
    assert main(["certificate", "nowhere.jsonl"]) == 2
    fresh = put_on_record(tmp_path / "fresh")
    assert main(["certificate", fresh.path, "--line=2"]) == 2
    assert "--line must be from 1 to 1" in capsys.readouterr().err


@pytest.mark.slow
def test_it_prints_on_one_page(tmp_path: Path) -> None:
    """The fullest that there is, on both papers."""
    from lightning_unlearn.core.remembering import Remembering

    files = [
        Remembering(Path(f"a_long_name_{n}/split_{n}.npz"), "positions of the forgotten samples")
        for n in range(20)
    ]
    line = line_with(tmp_path, ANSWER, method=REWIND, metrics=METRICS)
    page = write_certificate(line, tmp_path / "page.html", remembering=files)
    text = page.read_text(encoding="utf-8")
    for paper in ("A4", "letter"):
        page.write_text(text.replace("@page {", f"@page {{ size: {paper};"), encoding="utf-8")
        printed = tmp_path / f"{paper}.pdf"
        browse(tmp_path, page, f"--print-to-pdf={printed}")
        assert printed.read_bytes().count(b"/Type /Page\n") == 1
