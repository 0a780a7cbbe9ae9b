"""report.html in a headless browser: it sorts, filters, opens, prints, and can be read at any width, light and dark."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import browse

from lightning_unlearn.reports import RunDetails, write_json, write_page
from lightning_unlearn.reports.glossary import method_names
from lightning_unlearn.reports.page import write_side_by_side
from lightning_unlearn.reports.scenarios import write_scenarios
from lightning_unlearn.reports.schema import Report, summarise

MakeDetails = Callable[[Report], dict[str, dict[int, RunDetails]]]
WIDTHS = (390, 1280, 1920)


def written(report: Report, folder: Path) -> str:
    return write_page(report, folder / "report.html").read_text(encoding="utf-8")


def chromium(folder: Path, page: Path, *options: str) -> str:
    """Run a headless browser that may not reach the network on a page, and return what it prints."""
    return browse(folder, page, *options).stdout


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
    anchor = re.findall(r'<a href="#(model-\d)">', text)[0]
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


def test_browser_prints_few_pages(tmp_path: Path, large_report: Report, make_details: MakeDetails) -> None:
    write_page(large_report, tmp_path / "report.html", make_details(large_report))
    paper = tmp_path / "report.pdf"
    chromium(tmp_path, tmp_path / "report.html", f"--print-to-pdf={paper}", "--virtual-time-budget=2000")
    assert 1 <= paper.read_bytes().count(b"/Type /Page\n") < 10


LOOK = """
const look = frame => {
  const page = frame.contentDocument, view = frame.contentWindow, found = {faint: [], unseen: []};
  const brush = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = colour => {
    brush.clearRect(0, 0, 1, 1); brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const light = colour => {
    const [r, g, b] = rgb(colour).map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = node => {
    for (let one = node; one; one = one.parentElement) {
      const colour = view.getComputedStyle(one).backgroundColor;
      if (rgb(colour)[3] > 250) return colour;
    }
  };
  const contrast = (ink, node) => {
    const [low, high] = [light(ink), light(ground(node))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const walker = page.createTreeWalker(page.body, 4);
  for (let text; (text = walker.nextNode());) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility() || ["SCRIPT", "OPTION"].includes(node.tagName)) continue;
    const style = view.getComputedStyle(node), ink = node instanceof view.SVGElement ? style.fill : style.color;
    if (contrast(ink, node) < 4.5) found.faint.push(`${text.data.trim().slice(0, 20)} ${ink} on ${ground(node)}`);
  }
  for (const mark of page.querySelectorAll(".series.own")) {
    if (contrast(view.getComputedStyle(mark).color, mark) < 3) found.faint.push(mark.dataset.model);
  }
  const shown = [...page.querySelectorAll('[data-chart="cost_quality.png"] .panel')].map(panel =>
    new Set([...panel.querySelectorAll("text.name")].map(text => text.parentElement.dataset.model)));
  const rows = [...page.querySelectorAll('[aria-labelledby="headline"] tbody.methods th')];
  rows.forEach(row => row.closest(".scroll").scrollTo(9999, 0));
  for (const row of rows) {
    const box = row.getBoundingClientRect();
    if (box.left < 0 || box.width < 40 || box.right > view.innerWidth) found.unseen.push(row.dataset.value);
  }
  rows[0].closest(".scroll").scrollTo(0, 0);
  const speed = page.querySelector('th[data-metric="acceleration"]').getBoundingClientRect();
  return {...found, shown: shown.map(names => [...names]), wide: page.documentElement.scrollWidth - view.innerWidth,
    speed: speed.right <= view.innerWidth, dark: light(ground(page.body)) < 0.2, panels: page.querySelectorAll(".panel svg").length,
    overlaps: overlaps(page)};
};
const overlaps = page => [...page.querySelectorAll('[data-chart="cost_quality.png"] .panel')].flatMap(panel => {
  const boxes = [...panel.querySelectorAll("text.name")].map(text => [text.textContent, text.getBoundingClientRect()]);
  return boxes.flatMap(([name, a], place) => boxes.slice(place + 1).filter(([, b]) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3).map(([other]) => `${name} on ${other}`));
});
const told = [];
addEventListener("load", () => setTimeout(() => {
  document.getElementById("found").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
}, 1500));
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_can_read_it_at_any_width(
    tmp_path: Path, large_report: Report, make_details: MakeDetails, scheme: str
) -> None:
    """On a phone, a laptop and a wide screen: nothing overflows, all names are there, and each text stands out."""
    write_page(large_report, tmp_path / "report.html", make_details(large_report))
    frames = "".join(f'<iframe src="report.html" width="{width}" height="900"></iframe>' for width in WIDTHS)
    outer = f'<!DOCTYPE html><pre id="found"></pre>{frames}<script>{LOOK}</script>'
    (tmp_path / "outer.html").write_text(outer, encoding="utf-8")
    found, said = looked_at(tmp_path, tmp_path / "outer.html", scheme)
    assert not said, "the console is silent"
    methods = set(method_names(large_report))
    for width, seen in zip(WIDTHS, found, strict=True):
        assert seen["wide"] <= 0, f"{width}: the page is wider than the screen"
        assert seen["dark"] == (scheme == "dark")
        assert seen["panels"] > 5
        assert seen["faint"] == [], f"{width}: too little contrast"
        assert seen["unseen"] == [], f"{width}: names are scrolled away"
        assert seen["overlaps"] == []
        assert [set(names) for names in seen["shown"]] == [methods, methods], (
            f"{width}: a point lacks its name"
        )
        assert seen["speed"] or width < 1280, "acceleration stands at the right of the screen"


def looked_at(folder: Path, page: Path, scheme: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what the page's script found, and what the console said."""
    dark = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    options = (
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        "--virtual-time-budget=6000",
        dark,
    )
    finished = browse(folder, page, "--dump-dom", *options)
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', finished.stdout, flags=re.S)
    return json.loads(unescape(found)), re.findall(r"CONSOLE.*", finished.stderr)


@pytest.mark.slow
def test_browser_hides_what_is_not_chosen_and_shows_two_side_by_side(
    tmp_path: Path, large_report: Report
) -> None:
    text = written(large_report, tmp_path)
    program = """<script>
const box = [...document.querySelectorAll(".filter input")].find(one => one.value === "wgan");
setTimeout(() => {
  box.click();
  const shown = name => [...document.querySelectorAll(`[data-model="${name}"]`)].some(node => node.getClientRects().length);
  document.title = JSON.stringify([shown("wgan"), shown("top_k")]);
}, 800);
</script></body>"""
    page = tmp_path / "clicked.html"
    page.write_text(text.replace("</body>", program), encoding="utf-8")
    title = chromium(tmp_path, page, "--dump-dom", "--virtual-time-budget=10000").partition("<title>")[2]
    assert title.partition("</title>")[0] == "[false,true]"
    both = write_side_by_side({"a": large_report, "b": large_report}, tmp_path / "both.html")
    for budget in (2_000, 20_000, 60_000):  # charts wait for a frame, which a busy machine is slow to draw
        drawn = chromium(tmp_path, both, "--dump-dom", f"--virtual-time-budget={budget}")
        if drawn.count("<svg viewBox") == 4:
            break
    assert drawn.count("<svg viewBox") == 4


def test_browser_shows_a_points_mark_in_the_legend(tmp_path: Path, small_report: Report) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_json(small_report, tmp_path / name / "report.json")
    page, *_ = write_scenarios(tmp_path, ["one", "two"])
    for budget in (2_000, 20_000, 60_000):  # as above
        drawn = chromium(tmp_path, page, "--dump-dom", f"--virtual-time-budget={budget}")
        chart = drawn.partition("over the scenarios.")[2].partition("</figure>")[0]
        if chart.count('<svg viewBox="0') == chart.count('<div class="panel"') > 0:
            break
    keys = chart.partition('<ul class="keys">')[2].partition("</ul>")[0]
    names = re.findall(r"<span>([^<]+)", keys)
    assert "reference_kl" in names
    assert keys.count("<li") == keys.count("<svg") == len(names)
    marks = dict(zip(re.findall(r"<span>([^<]+)", keys), re.findall(r'<path d="([^"]+)"', keys), strict=True))
    for name in names:
        assert f'd="{marks[name]}"' in "".join(
            re.findall(rf'<g data-model="{name}"[^>]*>.*?</g>', chart, re.DOTALL)
        ), name


CUT = """<script>
setTimeout(() => {
  const far = (one, other) => Math.abs(one - other) > 3;
  const cut = [...document.querySelectorAll("text.name")].filter(text => {
    const group = text.closest("[clip-path]"), of = group.getAttribute("clip-path").slice(5, -1);
    const frame = document.getElementById(of).firstChild, at = name => Number(frame.getAttribute(name));
    const {x, width} = text.getBBox();
    return x < at("x") || x + width > at("x") + at("width");
  });
  const edge = node => {
    const range = document.createRange();
    range.selectNodeContents(node);
    return (node.firstElementChild ?? range).getBoundingClientRect().right;
  };
  const table = document.getElementById("one-by-one").closest("table"), row = table.tBodies[0].rows[0];
  const heads = [...table.tHead.rows[0].cells].slice(1);
  const askew = heads.filter((head, place) => far(edge(head), edge(row.cells[place + 1])));
  const named = document.querySelector("text.name"), look = getComputedStyle(named);
  document.title = JSON.stringify([cut, askew].map(found => found.map(node => node.textContent))
    .concat([[look.paintOrder.split(" ")[0], parseFloat(look.strokeWidth) >= 2, heads.length]]));
}, 800);
</script></body>"""


def test_browser_cuts_no_name_and_sets_heads_above_their_cells(
    tmp_path: Path, small_report: Report, make_details: MakeDetails
) -> None:
    (tmp_path / "samples.png").write_bytes(b"")
    names = ["i" * length for length in range(3, 15)]  # at the right end, where one of them just does not fit
    models = small_report["models"]
    for place, name in enumerate(names):
        scores = {"accuracy/test": 0.99, "accuracy/forget": 0.9 + 0.008 * place}
        models[name] = models["reference_kl"] | {key: summarise([at] * 3) for key, at in scores.items()}
    page = write_page(small_report, tmp_path / "report.html", make_details(small_report))
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", CUT), encoding="utf-8")
    title = chromium(tmp_path, page, "--dump-dom", "--window-size=1280,900", "--virtual-time-budget=10000")
    cut, askew, (painted, haloed, heads) = json.loads(
        unescape(title.partition("<title>")[2].partition("</title>")[0])
    )
    assert cut == [], "a name is cut at the frame"
    assert askew == [], "a head is not above its cells"
    assert (painted, haloed) == ("stroke", True), "lines strike names through"
    assert heads == 5
