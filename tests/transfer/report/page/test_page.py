"""The page in a real browser: sort, filter, compare, theme, phone, keyboard, print."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.transfer.report.conftest import make_writer
from tests.transfer.report.page.browser import Browser, needs_browser
from transfer.report.compare import compare_table
from transfer.report.from_records import build_results
from transfer.report.run import write_report
from transfer.results.read_records import read_records

pytestmark = needs_browser

ORDER = """Array.from(main.tBodies[0].rows).filter(row => !row.hidden)
  .map(row => row.querySelector(".name").textContent).join(" ")"""
CLICK = """(() => { const found = Array.from(document.querySelectorAll("#main button.sort"))
  .filter(button => button.textContent === "%s")[0]; found.click();
  return found.closest("th").getAttribute("aria-sort"); })()"""
SET = """(() => { const part = document.getElementById("%s"); part.value = "%s";
  part.dispatchEvent(new Event("%s")); })()"""
PAIR = """Array.from(document.querySelectorAll("#pair tbody tr"))
  .map(row => Array.from(row.cells).map(cell => cell.textContent).join(" | "))"""


def test_sorting(browser: Browser) -> None:
    assert browser.run(ORDER) == "zero mscn simclr"
    assert browser.run(CLICK % "top1") == "descending"
    assert browser.run(ORDER) == "simclr zero mscn"  # as numbers: 9.5 is the smallest
    assert browser.run(CLICK % "top1") == "ascending"
    assert browser.run(ORDER) == "mscn zero simclr"
    # What was not run is last in both directions, and only one column says that it is sorted
    for expected in ("simclr mscn zero", "mscn simclr zero"):
        browser.run(CLICK % "bbox/AP")
        assert browser.run(ORDER) == expected
    assert browser.run("""document.querySelectorAll('#main [aria-sort$="cending"]').length""") == 1
    assert browser.run("document.getElementById('status').textContent").startswith("Sorted by")


def test_filters(browser: Browser) -> None:
    browser.run(SET % ("filter", "SIM", "input"))
    assert browser.run(ORDER) == "mscn simclr"  # the method of both is simclr
    browser.run(SET % ("filter", "zero", "input"))
    assert browser.run(ORDER) == "zero"
    assert "1 of 3 checkpoints" in browser.run("document.getElementById('status').textContent")
    browser.run(SET % ("filter", "", "input"))
    browser.run(SET % ("task", "detection", "change"))
    shown = browser.run("""Array.from(document.querySelectorAll("#main thead tr:last-child th"))
        .filter(head => !head.hidden).map(head => head.textContent)""")
    assert shown == ["checkpoint", "bbox/AP", "pretrain", "views", "transfer"]


def test_published_rows_can_be_put_away(browser: Browser) -> None:
    height = "document.querySelector('tbody.published').getBoundingClientRect().height"
    assert browser.run(height) > 100
    browser.run("document.getElementById('published').click()")
    assert browser.run(height) == 0
    assert browser.run(ORDER) == "zero mscn simclr"


def test_comparing_two_rows(browser: Browser) -> None:
    labels = "[first, second].map(part => part.selectedOptions[0].text)"
    assert browser.run(labels) == ["simclr", "mscn"]
    first, second = browser.run(PAIR)
    open_ = "none | not resolved: no interval (one trial, no replicates) | unknown"
    # A single trial beside two, which tell how trials spread
    known = "+27.5 to +49.5over trials; pooled SD 0.71, 1 df | not resolved: one trial | 14.1"
    assert first == f"linear_photos: top1 | +38.5 | {known} | 48.5 (n=1) | 10.0 ± 0.7 (n=2)"
    assert second == f"voc_mscn: bbox/AP | +0.8 | {open_} | 20.8 (n=1) | 20.0 (n=1)"
    words = browser.run("document.getElementById('pair-words').textContent")
    assert words.startswith("simclr (checkpoint) minus mscn (checkpoint), percentage points")
    figures = browser.run("document.getElementById('pair-charts').innerText")
    assert "voc_mscn: difference in bbox/AP by class" in figures and "<bird>" in figures
    browser.run("document.getElementById('swap').click()")
    assert browser.run(PAIR)[0].startswith("linear_photos: top1 | −38.5 | ")
    assert browser.run(PAIR)[0].endswith(" | 10.0 ± 0.7 (n=2) | 48.5 (n=1)")
    browser.run("document.getElementById('every').click()")
    assert "linear_photos: top5 | −50.3" in " ".join(browser.run(PAIR))
    # A third tick replaces the older of two; the figures' other rows step back
    browser.run("document.querySelector('[data-row=\"0\"] .pick').click()")
    assert browser.run(labels) == ["simclr", "zero"]
    ticked = "Array.from(document.querySelectorAll('.pick:checked')).map(box => box.value)"
    assert browser.run(ticked) == ["0", "2"]
    browser.run("document.getElementById('only').click()")
    opacity = """[".r0", ".r1", ".r2"]
      .map(row => getComputedStyle(figures.querySelector(row)).opacity)"""
    assert browser.run(opacity) == ["1", "0.12", "1"]
    browser.run(SET % ("first", "0", "change"))
    assert browser.run(PAIR) == ["Choose two different checkpoints."]


def test_images_side_by_side(browser: Browser) -> None:
    images = """Array.from(document.querySelectorAll("#pair-images li")).map(row =>
      [row.querySelector("p").textContent, ...Array.from(row.querySelectorAll("figure"))
        .map(part => part.querySelector(".photo").getAttribute("aria-label"))].join(" | "))"""
    first = browser.run(images)
    assert len(first) == 6
    assert first[0] == (
        "Image image5, disagreement 0.90 | simclr, image image5: 0 of 1 objects found, 0 wrong | "
        "mscn, image image5: 1 of 1 objects found, 0 wrong; cat .90"
    )
    assert [row.split(" ")[1] for row in first[:3]] == ["image5,", "image7,", "image0,"]
    browser.run("document.querySelector('#pair-images button').click()")
    assert len(browser.run(images)) == 8
    drawn = """Array.from(document.querySelectorAll("#pair-images svg.photo"))
      .map(part => part.getBBox().width)"""
    assert min(browser.run(drawn)) > 190  # the thumbnail is there
    browser.run(SET % ("second", "0", "change"))
    place = "document.getElementById('pair-images').textContent"
    assert browser.run(place) == "Not run: no protocol stored test images of both."


def test_theme(browser: Browser, page: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(colour)
    browser.emulate(scheme="dark")
    dark = browser.run(colour)
    assert light == "rgb(255, 255, 255)" and dark != light
    themes = []
    for _ in range(3):
        browser.run("document.getElementById('theme').click()")
        themes.append((browser.run("theme.textContent"), browser.run(colour)))
    assert themes == [("Theme: light", light), ("Theme: dark", dark), ("Theme: system", dark)]
    browser.run("document.getElementById('theme').click()")
    browser.open(page)  # the choice is kept
    assert browser.run(colour) == light


def test_phone(browser: Browser) -> None:
    browser.resize(360, 800, mobile=True)
    assert browser.run("document.documentElement.scrollWidth") == 360
    boxes = "Array.from(document.querySelectorAll('.scroll')).filter(box => box.scrollWidth > 360)"
    assert browser.run(f"{boxes}.length") > 0  # tables scroll in their own box
    stays = """(() => { const box = main.parentNode; box.scrollLeft = 150;
      return [box.scrollLeft, box.querySelector("tbody th").getBoundingClientRect().left
        - box.getBoundingClientRect().left]; })()"""
    moved, left = browser.run(stays)
    assert moved == 150 and left <= 2  # and the names stay in sight


def test_keyboard(browser: Browser) -> None:
    focused = "document.activeElement.textContent"
    browser.press("Tab")
    assert browser.run(focused) == "Skip to the results"
    browser.press("Enter")
    assert browser.run("location.hash") == "#results"
    for _ in range(20):
        browser.press("Tab")
        if browser.run("document.activeElement.closest('#main') !== null"):
            break
    assert browser.run(focused) == "checkpoint"
    outline = browser.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    browser.press("Enter")
    assert browser.run("document.activeElement.closest('th').ariaSort") == "ascending"
    browser.press("Enter")
    assert browser.run(ORDER) == "zero simclr mscn"


def test_print(browser: Browser, tmp_path: Path) -> None:
    browser.emulate(media="print", scheme="dark")
    hidden = (
        "['nav', '.tools', '.pick'].map(s => getComputedStyle(document.querySelector(s)).display)"
    )
    assert browser.run(hidden) == ["none"] * 3
    assert (
        browser.run("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    )  # dark on white
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") > 0
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_the_page_says_what_the_command_prints(browser: Browser, tmp_path: Path) -> None:
    write = make_writer(tmp_path / "runs")
    hard = np.random.default_rng(0).normal(50, 20, 100)
    for name, gap in (("a", 0.0), ("b", 2.0)):
        own = hard + np.random.default_rng(int(gap)).normal(gap, 3, 100)
        write(name, "knn", {"knn20_top1": 0}, scores=own, pictures=False)
        for trial in range(3):
            chance = np.random.default_rng([trial, len(name), int(gap)]).normal(gap, 3, 100)
            write(name, "linear", {"top1": 0}, trial, scores=hard + chance, pictures=False)
    page = write_report([tmp_path / "runs"], tmp_path / "out", pair=("b", "a")).page
    results = build_results(read_records([tmp_path / "runs"]).files)
    rows = {row.label: row for row in results.checkpoints}
    browser.open(page)
    shown = [line.replace("\u2212", "-").split(" | ") for line in browser.run(PAIR)]
    _, printed = compare_table(results, rows["b"], rows["a"])
    assert len(shown) == len(printed) == 2
    for cells, line in zip(shown, printed):
        protocol, metric, _, _, difference, interval, verdict, detectable, covers, trials = line
        how = "" if trials == "–" else f"; {trials}"
        assert cells[0] == f"{protocol}: {metric}" and cells[1] == difference
        assert cells[2] == f"{interval}over {covers}{how}"
        assert cells[3:5] == [verdict, detectable]


def test_a_wide_table_fits_the_sheet(browser: Browser, tmp_path: Path) -> None:
    """A4 on its side, less the margins, is 1,032 px wide: no column is cut off."""
    write = make_writer(tmp_path / "runs")
    for number in range(13):
        for trial in range(3):
            values = {"top1": 50.0 + trial}
            name = "supervised_imagenet_r50"
            write(name, "linear", values, trial, protocol=f"linear_{number}", pictures=False)
    browser.open(write_report([tmp_path / "runs"], tmp_path / "out").page)
    browser.resize(1032, 700)
    browser.emulate(media="print")
    assert browser.run("main.getBoundingClientRect().right") <= 1033
