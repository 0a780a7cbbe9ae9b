"""report.html: well-formed, self-contained, safe, and every number on it the report's own."""

import base64
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lightning_unlearn.reports import (
    Details,
    RunDetails,
    draw_figures,
    judge,
    read_json,
    write_all,
    write_page,
)
from lightning_unlearn.reports.glossary import describe, method_names
from lightning_unlearn.reports.paper import paper_columns
from lightning_unlearn.reports.schema import Report

MakeDetails = Callable[[Report], dict[str, dict[int, RunDetails]]]
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes, texts and the cells of the tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, dict[str, str | None]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.tables: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "table":
            self.tables.append(
                {"class": values.get("class"), "of": values.get("data-seeds-of"), "metrics": [], "rows": []}
            )
        elif tag == "th" and values.get("scope") == "col" and "data-metric" in values:
            self.tables[-1]["metrics"].append(values["data-metric"])
        elif tag == "tr" and ("data-model" in values or "data-metric" in values):
            self.tables[-1]["rows"].append((values.get("data-model", values.get("data-metric")), []))
        elif tag == "td" and "data-value" in values:
            self.tables[-1]["rows"][-1][1].append(
                {"value": values["data-value"], "class": values.get("class", "")}
            )
        if tag not in VOID:
            self.stack.append((tag, values))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        opened, _ = self.stack.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.stack]
        if "script" in tags or "style" in tags:
            return
        self.text.append(data)
        if "td" in tags and self.stack[-1][1].get("class") in ("number", "interval", "note", "mark"):
            cell = self.tables[-1]["rows"][-1][1][-1]
            kind = str(self.stack[-1][1]["class"])
            cell[kind] = cell.get(kind, "") + data


def written(
    report: Report, folder: Path, figures: Sequence[Path] = (), details: Details | None = None
) -> str:
    return write_page(report, folder / "report.html", figures, details).read_text(encoding="utf-8")


def section_of(text: str, model: str) -> str:
    """Cut the part of one model out of a page."""
    (identifier,) = re.findall(rf'<a href="#(model-\d+)">{model}</a>', text.replace("<wbr>", ""))
    start = text.index(f'id="{identifier}"')
    end = text.find('<details class="model"', start)
    return text[start : end if end > 0 else text.index("</section>", start)]


def saved_picture(path: Path, **words: str) -> Path:
    """Save a small picture that says these words of itself."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1], [0, 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=96, metadata=words)
    return path


def agrees(shown: str, number: float, scale: float) -> bool:
    """Whether a printed number is the report's, rounded to the decimals printed."""
    decimals = len(shown.partition(".")[2])
    return abs(float(shown) - number * scale) <= 0.5 * 10**-decimals + 1e-9


@pytest.mark.parametrize("fixture", ["small_report", "large_report", "one_seed_report"])
def test_each_number_is_the_report_s(request: pytest.FixtureRequest, tmp_path: Path, fixture: str) -> None:
    report: Report = request.getfixturevalue(fixture)
    page = Page(written(report, tmp_path))
    tables = [table for table in page.tables if table["class"] == "sortable"]
    shown = set()
    for table in tables:
        assert [model for model, _ in table["rows"]][:2] == ["source", "retrain"]
        for model, cells in table["rows"]:
            for name, cell in zip(table["metrics"], cells, strict=True):
                value = report["models"][model].get(name)
                if value is None:
                    assert cell["value"] == ""
                    continue
                shown.add((model, name))
                scale = describe(name).scale
                assert float(cell["value"]) == value["mean"]
                mean, _, half = cell["number"].partition(" ± ")
                assert agrees(mean, value["mean"], scale)
                if value["ci95"] is None:
                    assert not half
                    assert "interval" not in cell
                else:
                    low, high = value["ci95"]
                    assert agrees(half, (high - low) / 2, scale)
                    shown_low, shown_high = cell["interval"].strip("[]").split(", ")
                    assert agrees(shown_low, low, scale)
                    assert agrees(shown_high, high, scale)
    assert shown == {(model, name) for model, metrics in report["models"].items() for name in metrics}
    seeds = {table["of"]: table["rows"] for table in page.tables if table["of"]}
    assert set(seeds) == set(report["models"])
    for model, rows in seeds.items():
        assert {name for name, _ in rows} == set(report["models"][model])
        for name, cells in rows:
            for number, cell in zip(report["models"][model][name]["values"], cells, strict=True):
                assert cell["value"] == ("" if number is None else str(number))
                assert number is None or agrees(cell["number"], number, describe(name).scale)


@pytest.mark.slow
def test_page_loads_nothing(tmp_path: Path, small_report: Report, make_details: MakeDetails) -> None:
    write_all(small_report, tmp_path, make_details(small_report))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    page = Page(text)
    assert not {tag for tag, _, _ in page.attributes} & {"link", "iframe", "object", "embed"}
    for tag, key, value in page.attributes:
        if (tag, key) == ("a", "href"):
            assert value.startswith("#")
        elif key in ("src", "href", "srcset"):
            assert (tag, key) == ("img", "src")
            assert value.startswith("data:image/png;base64,")


def test_figures_are_embedded_with_alt_text(tmp_path: Path, small_report: Report) -> None:
    figures = draw_figures(small_report, tmp_path / "figures")
    page = Page(written(small_report, tmp_path, figures))
    sources = [value for tag, key, value in page.attributes if (tag, key) == ("img", "src")]
    files = {path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert {base64.b64decode(source.partition(",")[2]) for source in sources} == files
    alts = [value for tag, key, value in page.attributes if (tag, key) == ("img", "alt")]
    assert len(alts) == len(set(alts)) == len(sources)
    assert all(len(alt) > 40 for alt in alts)


def test_each_sweep_has_a_heading_of_its_own(tmp_path: Path, attacked_report: Report) -> None:
    for metrics in attacked_report["models"].values():
        for name in metrics.keys() - {"accuracy/test"}:
            del metrics[name]
    page = Page(written(attacked_report, tmp_path, draw_figures(attacked_report, tmp_path / "figures")))
    text = "".join(page.text)
    assert "Sweep: wgan_alpha." in text
    assert "Sweep: reference_kl_lambda." in text
    assert "*" not in "".join(value for tag, key, value in page.attributes if (tag, key) == ("img", "alt"))


def test_page_is_accessible_by_structure(tmp_path: Path, large_report: Report) -> None:
    page = Page(written(large_report, tmp_path))
    assert len(page.ids) == len(set(page.ids))
    references = [value for _, key, value in page.attributes if key == "aria-labelledby"]
    assert references
    assert set(references) <= set(page.ids)
    anchors = [value for tag, key, value in page.attributes if (tag, key) == ("a", "href")]
    assert len(anchors) > len(method_names(large_report))
    assert {anchor.removeprefix("#") for anchor in anchors} <= set(page.ids)
    assert ("html", "lang", "en") in page.attributes
    sortable = [attribute for attribute in page.attributes if attribute[1:] == ("aria-sort", "none")]
    buttons = [attribute for attribute in page.attributes if attribute[:2] == ("button", "type")]
    assert len(sortable) == len(buttons) > 0


def test_names_and_errors_are_escaped(tmp_path: Path, small_report: Report) -> None:
    evil = "<script>alert(1)</script>&\"'"
    small_report["models"][evil] = small_report["models"].pop("reference_kl")
    small_report["data"]["name"] = evil
    small_report["config"] = {"a": evil}
    small_report["failures"] = [{"model": evil, "seed": 0, "error": f"{evil}\x1b[31m\nsecond line"}]
    text = written(small_report, tmp_path)
    page = Page(text)
    assert text.count("<script>") == 1
    assert "\x1b" not in text
    joined = "".join(page.text)
    assert evil in joined
    assert "second line" in joined
    assert any(model == evil for table in page.tables for model, _ in table["rows"])


def test_page_says_what_it_must(tmp_path: Path, large_report: Report) -> None:
    joined = " ".join("".join(Page(written(large_report, tmp_path)).text).split())
    assert "72 of the 1,150 training samples of digits (6.26 %) were to be forgotten." in joined
    assert "12 unlearning methods were run over 3 seeds" in joined
    assert "not close to the retrained model" in joined
    assert "ValueError: the loss is NaN at step 12" in joined
    assert "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" in joined
    assert "class_path: ReferenceKL" in joined
    assert "lightning-unlearn compare --config config.yaml" in joined
    assert "2.11.0" in joined
    assert "best" in joined
    assert "worst" in joined


def test_report_in_which_all_failed_still_has_a_page(tmp_path: Path, large_report: Report) -> None:
    large_report["models"] = {}
    large_report["data"] = {}
    assert "the loss is NaN" in "".join(Page(written(large_report, tmp_path)).text)


def test_wrong_figures_are_refused(tmp_path: Path, small_report: Report) -> None:
    with pytest.raises(FileNotFoundError, match="draw it first"):
        write_page(small_report, tmp_path / "report.html", [tmp_path / "none.png"])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="no PNG"):
        write_page(small_report, tmp_path / "report.html", [tmp_path / "text.png"])
    assert not (tmp_path / "report.html").exists()


def test_json_is_written_last_and_never_beside_a_broken_page(
    tmp_path: Path, small_report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_all(small_report, tmp_path)
    assert [path.name for path in paths[-2:]] == ["report.html", "report.json"]
    assert read_json(paths[-1]) == {**small_report, "paper": paper_columns(small_report)}

    def fail(*arguments: Any) -> Path:
        raise RuntimeError("disk full")

    monkeypatch.setattr("lightning_unlearn.reports.writer.write_page", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_all(small_report, tmp_path)
    assert not (tmp_path / "report.json").exists()
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]


def test_invalid_report_touches_nothing(tmp_path: Path, small_report: Report) -> None:
    write_all(small_report, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    small_report["seeds"] = []
    with pytest.raises(ValueError, match="seeds"):
        write_all(small_report, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("fixture", ["large_report", "one_seed_report"])
def test_headings_and_tables_say_what_they_are(
    request: pytest.FixtureRequest, tmp_path: Path, make_details: MakeDetails, fixture: str
) -> None:
    report = request.getfixturevalue(fixture)
    details = make_details(report)
    details["reference_kl"][0]["files"] = [{"name": "a/b.json", "bytes": 3, "sha256": None}]
    text = written(report, tmp_path, details=details)
    levels = [int(level) for level in re.findall(r"<h([1-6])", text)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "a level is left out"
    tables = re.findall(r"<table.*?</table>", text, flags=re.S)
    assert len(tables) > len(report["models"])
    for table in tables:
        assert table.count("<caption") == 1
        assert table.count("<th ") == table.count("<th") - table.count("<thead")
        assert table.count("<th ") == table.count('scope="col"') + table.count('scope="row"')


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, by the definition of WCAG 2.2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_far_enough_apart(tmp_path: Path, small_report: Report, scheme: str) -> None:
    text = written(small_report, tmp_path)
    light, dark = re.findall(r":root \{(.*?)\}", text, flags=re.S)[:2]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))
    grounds = ("page", "panel", "control")
    pairs = [(ink, ground) for ink in ("text", "soft", "link", "good", "bad") for ground in grounds]
    for ink, ground in [*pairs, ("good", "good-back"), ("bad", "bad-back"), ("open", "open-back")]:
        bright, faint = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
        assert (bright + 0.05) / (faint + 0.05) >= 4.5, f"{ink} on {ground}: less than level AA asks for"


@pytest.mark.slow
def test_each_model_has_a_section_with_all_that_is_known_of_it(
    tmp_path: Path, large_report: Report, make_details: MakeDetails
) -> None:
    details = make_details(large_report)
    saved = saved_picture(
        tmp_path / "wgan.png", Title="What was seen", Description="A line from corner to corner."
    )
    details["wgan"][2]["pictures"] = [str(saved)]
    digest = "ab" * 32
    for seed in (0, 2):
        name = f"wgan/seed_{seed}/model.ckpt"
        details["wgan"][seed]["files"] = [{"name": name, "bytes": 123456, "sha256": digest}]
    details["wgan"][0]["config"] = {
        "model": "wgan",
        "seeds": {"source": 1},
        "data": {"forget": "ids.csv"},
        "source": {"checkpoint": "s.ckpt"},
        "method": {"class_path": "my.WGAN"},
        "built": {"class": "lightning_unlearn.WGAN"},
    }
    text = written(large_report, tmp_path, draw_figures(large_report, tmp_path / "figures", details), details)
    Page(text)
    part = section_of(text, "reference_kl")
    assert "<strong>Training curves of reference_kl.</strong>" in part
    part = section_of(text, "wgan")
    for finding in judge(large_report, "wgan").findings:
        assert finding.sentence.replace("'", "&#39;") in part
    assert "<strong>What was seen.</strong> A line from corner to corner. Seed 2.</figcaption>" in part
    assert base64.b64encode(saved.read_bytes()).decode() in part
    assert 'width="288"' in part, "3 inches wide at 96 pixels an inch"
    assert "class_path: my.WGAN" in part
    for elsewhere in ("ids.csv", "s.ckpt", "lightning_unlearn.WGAN"):
        assert elsewhere not in part
    assert part.count("123,456") == part.count(digest) == 2
    assert "loss is NaN" not in part.partition("</summary>")[0]
    # A figure stands with its model and nowhere else.
    assert "Training curves" not in part
    for model in ("source", "retrain", "reference_kl"):
        assert text.count(f"<strong>Training curves of {model}.</strong>") == 1


def test_what_was_built_stands_for_a_configuration_that_is_not_known(
    tmp_path: Path, small_report: Report, make_details: MakeDetails
) -> None:
    details = make_details(small_report)
    details["reference_kl"][0]["config"] = {"method": None, "built": {"class": "my.Own"}}
    assert "class: my.Own" in section_of(written(small_report, tmp_path, details=details), "reference_kl")


def test_verdicts_stand_in_one_table(tmp_path: Path, large_report: Report) -> None:
    text = written(large_report, tmp_path)
    rows = re.findall(r'<tr data-verdict="([^"]+)">(.*?)</tr>', text, flags=re.S)
    assert [model for model, _ in rows] == method_names(large_report)
    for model, row in rows:
        verdict = judge(large_report, model)
        assert verdict.headline in row
        cells = re.findall(r'<td class="([^"]+)">', row)
        assert cells == [finding.status.replace(" ", "-") for finding in verdict.findings]


def test_lines_of_a_ledger_are_shown_whole(tmp_path: Path, small_report: Report) -> None:
    assert "Deletion ledger" not in written(small_report, tmp_path)
    small_report["ledger"] = [
        {
            "metrics": {"accuracy/forget": {"value": 0.91, "source": 1.0}},
            "request": "ticket <17>",
            "time": "2025-01-02T03:04:05+00:00",
            "ids": {"count": 1234, "hmac_sha256": "f00d"},
            "method": {"name": "reference_kl", "class": "ReferenceKL"},
        },
        {"note": "a line of another kind"},
    ]
    joined = " ".join("".join(Page(written(small_report, tmp_path)).text).split())
    assert "ticket <17>, reference_kl, 2025-01-02T03:04:05+00:00" in joined
    assert "ids: count1,234 ids: hmac_sha256f00d" in joined
    assert joined.index("ids: hmac_sha256") < joined.index("accuracy/forget: value: 0.91 source: 1.0")
    assert "Line 2" in joined
    assert "a line of another kind" in joined


def chromium(folder: Path, page: Path, *options: str) -> str:
    """Run a headless browser that may not reach the network on a page, and return what it prints."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for found in map(shutil.which, names) if found), None)
    if program is None:
        pytest.skip(f"no browser found, looked for {', '.join(names)}")
    quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
    switches = ("headless", "no-sandbox", "disable-gpu", *quiet, f"user-data-dir={folder / 'profile'}")
    command = [program, *(f"--{switch}" for switch in switches), *options, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def test_browser_sorts_the_table(tmp_path: Path, large_report: Report) -> None:
    """The headings' buttons sort the methods both ways; controls stay on top, what is missing at the end."""
    del large_report["models"]["cf_k"]["similarity"]
    text = written(large_report, tmp_path)
    program = """<script>
const head = document.querySelector('table.sortable th[data-metric="similarity"]');
const state = [];
for (let click = 0; click < 2; click += 1) {
  head.querySelector("button").click();
  const rows = [...head.closest("table").querySelectorAll("tbody tr")].map(row => row.dataset.model);
  state.push([head.getAttribute("aria-sort"), ...rows].join("|"));
}
document.title = state.join("\\n");
</script></body>"""
    page = tmp_path / "clicked.html"
    page.write_text(text.replace("</body>", program), encoding="utf-8")
    title = chromium(tmp_path, page, "--dump-dom").partition("<title>")[2].partition("</title>")[0]
    means = {
        model: metrics["similarity"]["mean"]
        for model, metrics in large_report["models"].items()
        if "similarity" in metrics and model != "retrain"
    }
    ascending = sorted(means, key=means.__getitem__)
    up, down = (line.split("|") for line in title.split("\n"))
    assert up == ["ascending", "source", "retrain", *ascending, "cf_k"]
    assert down == ["descending", "source", "retrain", *reversed(ascending), "cf_k"]


def test_browser_opens_the_section_that_a_link_names(tmp_path: Path, small_report: Report) -> None:
    text = written(small_report, tmp_path)
    (anchor,) = re.findall(r'<a href="#(model-\d)">', text)
    program = f"""<script>
document.querySelector('a[href="#{anchor}"]').click();
addEventListener("hashchange", () => {{
  document.title = [...document.querySelectorAll("details.model")].map(part => part.id + part.open).join(" ");
}});
</script></body>"""
    page = tmp_path / "clicked.html"
    page.write_text(text.replace("</body>", program), encoding="utf-8")
    title = chromium(tmp_path, page, "--dump-dom").partition("<title>")[2].partition("</title>")[0]
    assert title == "model-0false model-1false model-2true"


def test_browser_prints_what_is_folded_away(
    tmp_path: Path, small_report: Report, make_details: MakeDetails
) -> None:
    long = make_details(small_report)
    long["source"][0]["config"] = {"source": {f"line_{number}": number for number in range(400)}}
    pages = []
    for name, details in (("short", None), ("long", long)):
        write_page(small_report, tmp_path / f"{name}.html", details=details)
        paper = tmp_path / f"{name}.pdf"
        chromium(tmp_path, tmp_path / f"{name}.html", f"--print-to-pdf={paper}")
        pages.append(paper.read_bytes().count(b"/Type /Page\n"))
    assert pages[1] > pages[0] >= 1


def test_browser_shows_light_and_dark(tmp_path: Path, small_report: Report) -> None:
    from matplotlib.image import imread

    written(small_report, tmp_path)
    brightness = []
    for scheme in ("1", "0"):
        picture = tmp_path / f"screen-{scheme}.png"
        chromium(
            tmp_path, tmp_path / "report.html", f"--screenshot={picture}", "--window-size=1280,1600",
            f"--blink-settings=preferredColorScheme={scheme}",
        )  # fmt: skip
        pixels = imread(picture)
        assert pixels.shape[:2] == (1600, 1280)
        assert pixels[..., :3].std() > 0.02
        brightness.append(pixels[..., :3].mean())
    assert brightness[0] > 0.8
    assert brightness[1] < 0.3
