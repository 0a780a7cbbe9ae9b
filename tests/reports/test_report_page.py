"""report.html: well-formed, self-contained, safe, and every number on it the report's own."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_unlearn.core.remembering import remembering_files
from lightning_unlearn.reports import (
    Details,
    RunDetails,
    judge,
    read_json,
    write_all,
    write_page,
)
from lightning_unlearn.reports.answer import answer_of
from lightning_unlearn.reports.glossary import describe, format_value, method_names
from lightning_unlearn.reports.page import write_side_by_side
from lightning_unlearn.reports.paper import paper_columns, paper_table
from lightning_unlearn.reports.pooling import set_intervals
from lightning_unlearn.reports.schema import Report
from lightning_unlearn.reports.table import render_text
from lightning_unlearn.reports.thumbnails import ACROSS, MOST, SIDE, write_thumbnails
from lightning_unlearn.reports.tidy import report_rows

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


def written(report: Report, folder: Path, details: Details | None = None) -> str:
    return write_page(report, folder / "report.html", details).read_text(encoding="utf-8")


def charts(text: str) -> dict[str, Any]:
    """Return the charts that the page's script draws, by their names."""
    (found,) = re.findall(r'<script type="application/json" id="drawn">(.*?)</script>', text, flags=re.S)
    return {chart["id"]: chart for chart in json.loads(found)}


def section_of(text: str, model: str) -> str:
    """Cut the part of one model out of a page."""
    (identifier,) = set(re.findall(rf'<a href="#(model-\d+)">{model}</a>', text.replace("<wbr>", "")))
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
                if sum(number is not None for number in value["values"]) < 3:
                    assert not half
                    assert "interval" not in cell
                else:
                    assert value["ci95"] is not None
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
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")  # a name, which nothing fetches
    assert "https://" not in text
    assert "url(" not in text.replace("url(#", "")
    assert "@import" not in text
    assert "default-src 'none'" in text
    page = Page(text)
    assert not {tag for tag, _, _ in page.attributes} & {"link", "iframe", "object", "embed"}
    for tag, key, value in page.attributes:
        if (tag, key) == ("a", "href"):
            assert value.startswith("#") or value == "report.json"
        elif key in ("src", "href", "srcset"):
            assert (tag, key) == ("img", "src")
            assert value.startswith("data:image/png;base64,")


def test_each_chart_has_a_place_and_words(
    tmp_path: Path, attacked_report: Report, make_details: MakeDetails
) -> None:
    text = written(attacked_report, tmp_path, make_details(attacked_report))
    page, drawn = Page(text), charts(text)
    assert {
        "cost_quality.png",
        "differences.png",
        "sweep_wgan_alpha.png",
        "training_source.png",
    } <= drawn.keys()
    assert sorted(value for _, key, value in page.attributes if key == "data-chart") == sorted(drawn)
    joined = "".join(page.text)
    assert "Sweep: wgan_alpha." in joined
    assert "Sweep: reference_kl_lambda." in joined
    panel = next(each for each in drawn["differences.png"]["panels"] if each["metric"] == "accuracy/test")
    point = next(one for one in panel["series"] if one["name"] == "top_k")
    models = attacked_report["models"]
    difference = models["top_k"]["accuracy/test"]["mean"] - models["retrain"]["accuracy/test"]["mean"]
    assert point["x"] == pytest.approx([100 * difference], rel=1e-3)
    colours = [tuple(look[:3]) for look in drawn["trade_off.png"]["looks"].values()]
    assert len(set(colours)) == len(colours) == len(method_names(attacked_report))


def test_one_seed_is_called_an_illustration_once(tmp_path: Path, one_seed_report: Report) -> None:
    text = written(one_seed_report, tmp_path)
    assert "".join(Page(text).text).count("illustration") == 1
    assert 'data-verdict="' not in text
    assert text.index('id="answer"') < text.index('id="numbers"') < text.index('id="figures"')


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
def test_page_figures_and_tables_show_an_interval_where_the_terminal_does(
    tmp_path: Path, made_report: Callable[..., Report], make_details: MakeDetails, seeds: tuple[int, ...]
) -> None:
    swept = ("top_k_1", "top_k_2", "top_k_3")
    report = made_report(("source", "retrain", *swept), seeds, attacked=True)
    set_intervals(report)
    text, enough = written(report, tmp_path, make_details(report)), len(seeds) > 2
    joined = " ".join("".join(Page(text).text).split())
    assert ("±" in render_text(report)) == enough
    assert ("±" in joined) == enough
    assert ('class="interval"' in text) == enough
    assert ("No interval: " in joined) != enough
    assert (f"No interval: {'one seed' if len(seeds) == 1 else 'two seeds'}." in joined) != enough
    assert ("pm" in paper_table(report, "latex")) == enough
    assert any(None not in row[-2:] for row in report_rows(report)) == enough
    drawn = charts(text)
    for name in (
        "trade_off.png",
        "cost_quality.png",
        "sweep_top_k.png",
        "backdoor_curve.png",
        "differences.png",
    ):
        series = [one for panel in drawn[name]["panels"] for one in panel["series"]]
        assert any(ends for one in series for ends in one["ends"]) == enough, name
        (caption,) = re.findall(rf'data-chart="{name}".*?<figcaption>(.*?)</figcaption>', text, flags=re.S)
        assert ("95% intervals" in caption) == enough, name
        assert ("No intervals: fewer than 3 seeds." in caption) != enough, name
    assert all(line[3] is None for p in drawn["trade_off.png"]["panels"] for line in p["lines"]) != enough
    assert "One seed" not in drawn["trade_off.png"]["panels"][0]["title"]
    (roc,) = re.findall(r'data-chart="membership_roc.png".*?<figcaption>(.*?)</figcaption>', text, flags=re.S)
    assert "nterval" not in roc


def test_what_too_few_of_the_seeds_measured_has_no_interval(large_report: Report) -> None:
    value = large_report["models"]["wgan"]["accuracy/test"]
    assert sum(number is not None for number in value["values"]) == 2
    assert "±" not in format_value(describe("accuracy/test"), value)


def test_answer_comes_first_and_names_the_best(tmp_path: Path, large_report: Report) -> None:
    joined = " ".join("".join(Page(written(large_report, tmp_path)).text).split())
    answer = answer_of(large_report)
    assert answer is not None
    assert answer.method in method_names(large_report)
    assert joined.index(answer.forgotten) < joined.index("How the methods compare")
    assert "Can an attacker tell who was in?" in joined


def test_a_blind_test_is_no_failure_of_a_method(tmp_path: Path, small_report: Report) -> None:
    for name, value in small_report["models"]["source"].items():
        if name in small_report["models"]["retrain"] and name.startswith(("accuracy/forget", "membership")):
            small_report["models"]["source"][name] = {**small_report["models"]["retrain"][name]}
            del value
    text = written(small_report, tmp_path)
    joined = " ".join("".join(Page(text).text).split())
    assert "Cannot tell: the test was blind" in joined
    blind = text[text.index('id="blind"') :]
    assert "<details>" in blind[: blind.index('data-chart="blind.png"')], "its figure is folded"
    headline = text[text.index('id="headline"') : text.index("</table>")]
    assert "accuracy/forget" not in headline


def test_samples_are_known_by_their_place_alone(
    tmp_path: Path, small_report: Report, make_details: MakeDetails
) -> None:
    details = make_details(small_report)
    text = written(small_report, tmp_path, details)
    (found,) = re.findall(r'id="confidences"[^>]*>(.*?)</script>', text, flags=re.S)
    shown = json.loads(found)
    assert shown.keys() == {"source", "retrain", "reference_kl"}
    assert shown["reference_kl"] == pytest.approx(
        details["reference_kl"][0]["posteriors"]["forget set"], abs=6e-4
    )
    assert "samples.png" not in re.sub(r"<script>.*</script>", "", text, flags=re.S)
    assert " data-pictured" not in text
    (tmp_path / "samples.png").write_bytes(b"")
    assert " data-pictured" in written(small_report, tmp_path, details)
    del details["retrain"]
    assert 'id="samples"' not in written(small_report, tmp_path, details)


class OnAnotherDevice(torch.Tensor):
    """Images as a GPU has them: NumPy cannot read them there."""

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self, *arguments: Any) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)


def test_images_on_another_device_become_thumbnails(tmp_path: Path) -> None:
    assert write_thumbnails([torch.rand(4, 3, 8, 8).as_subclass(OnAnotherDevice)], tmp_path) is not None


def test_images_become_thumbnails_and_nothing_else_does(tmp_path: Path) -> None:
    from matplotlib.image import imread

    images = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    file = write_thumbnails(images.split(7), tmp_path)
    assert file == tmp_path / "samples.png"
    tiles = imread(file)
    assert tiles.shape[:2] == (2 * SIDE, ACROSS * SIDE), "30 pictures take two rows"
    last = tiles[SIDE : 2 * SIDE, 4 * SIDE : 5 * SIDE, 0]
    own = images[29, 0]
    expected = ((own - own.min()) / (own.max() - own.min())).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert last == pytest.approx(expected.numpy(), abs=1 / 255)
    assert write_thumbnails([torch.rand(4, 64)], tmp_path) is None
    assert not file.exists(), "pictures of other samples do not stay"
    assert write_thumbnails([{"text": "a"}], tmp_path) is None
    big = write_thumbnails(iter([torch.rand(600, 3, 40, 40)]), tmp_path)
    assert big is not None
    assert imread(big).shape[:2] == (MOST // ACROSS * SIDE, ACROSS * SIDE)
    assert [item.file for item in remembering_files(tmp_path)] == [big]


def test_two_comparisons_stand_side_by_side(
    tmp_path: Path, large_report: Report, one_seed_report: Report
) -> None:
    page = write_side_by_side({"a<b": large_report, "c": one_seed_report}, tmp_path / "both.html")
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert len(parsed.ids) == len(set(parsed.ids))
    joined = "".join(parsed.text)
    for name, report in (("a<b", large_report), ("c", one_seed_report)):
        assert name in joined
        answer = answer_of(report)
        assert answer is not None
        assert answer.forgotten in " ".join(joined.split())
    assert not [value for tag, key, value in parsed.attributes if (tag, key) == ("a", "href")]
    assert set(charts(text)) == {"0-cost_quality.png", "1-cost_quality.png"}


def test_page_is_accessible_by_structure(tmp_path: Path, large_report: Report) -> None:
    page = Page(written(large_report, tmp_path))
    assert len(page.ids) == len(set(page.ids))
    references = [value for _, key, value in page.attributes if key == "aria-labelledby"]
    assert references
    assert set(references) <= set(page.ids)
    anchors = [value for tag, key, value in page.attributes if (tag, key) == ("a", "href")]
    assert len(anchors) > len(method_names(large_report))
    assert {anchor.removeprefix("#") for anchor in anchors} - {"report.json"} <= set(page.ids)
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


def test_wrong_pictures_are_refused(tmp_path: Path, small_report: Report) -> None:
    def left(name: str) -> Details:
        return {"reference_kl": {0: {"pictures": [str(tmp_path / name)]}}}

    with pytest.raises(FileNotFoundError, match="draw it first"):
        write_page(small_report, tmp_path / "report.html", left("none.png"))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="no PNG"):
        write_page(small_report, tmp_path / "report.html", left("text.png"))
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
    text = written(large_report, tmp_path, details)
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


def test_verdicts_stand_with_the_numbers(tmp_path: Path, large_report: Report) -> None:
    text = written(large_report, tmp_path)
    table = text[text.index('id="headline"') : text.index("</table>")]
    rows = {
        model: row
        for model, row in re.findall(r'<tr data-model="([^"]+)">(.*?)</tr>', table, flags=re.S)
        if model in method_names(large_report)
    }
    assert list(rows) == method_names(large_report)
    for model, row in rows.items():
        verdict = judge(large_report, model)
        assert verdict.headline in row
        cells = re.findall(r'<span class="finding ([^"]+)">', row)
        told = (
            "close",
            "not close",
            "undecided",
        )  # a blind metric stands elsewhere, and three seeds are needed
        seeing = [finding.status for finding in verdict.findings if finding.status in told]
        assert sorted(cells) == sorted(status.replace(" ", "-") for status in seeing)


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
