"""What a screen reader reads, and contrast in both themes, measured in a real browser."""

from __future__ import annotations

import pytest

from tests.transfer.report.page.browser import Browser, needs_browser

pytestmark = needs_browser

# WCAG 2.2, 1.4.3: contrast of each text with what is behind it; 1.4.11: of the figures' marks.
CONTRAST = """(() => {
  document.querySelectorAll("details").forEach(part => { part.open = true; });
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = rgb => { const [r, g, b] = rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = part => { for (; part; part = part.parentElement) {
    const rgb = channels(getComputedStyle(part).backgroundColor);
    if (rgb.length < 4 || rgb[3] > 0) { return rgb; } }
    return [255, 255, 255]; };
  const ratio = (front, back) => { const pair = [luminance(front), luminance(back)].sort();
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05); };
  const low = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0, marks = 0;
  while (walker.nextNode()) {
    const part = walker.currentNode.parentElement, style = getComputedStyle(part);
    // On a photograph texts are white with a dark outline, whatever is behind
    const blank = !walker.currentNode.textContent.trim();
    if (blank || !part.getClientRects().length ||
        ["SCRIPT", "STYLE", "title"].includes(part.tagName) ||
        part.closest(".photo")) { continue; }
    const front = channels(part.ownerSVGElement ? style.fill : style.color);
    const large = parseFloat(style.fontSize) >= 24;
    const found = ratio(front, behind(part));
    texts += 1;
    if (found < (large ? 3 : 4.5)) {
      low.add(walker.currentNode.textContent.slice(0, 30) + " " + found);
    }
  }
  document.querySelectorAll("svg .dot, svg .bar, svg .curve").forEach(part => {
    const style = getComputedStyle(part), curve = part.classList.contains("curve");
    const found = ratio(channels(curve ? style.stroke : style.fill), behind(part));
    marks += 1;
    if (found < 3) { low.add(part.getAttribute("class") + " " + found); } });
  return { low: Array.from(low), texts, marks };
})()"""

# A page of three checkpoints uses three colours
ALL_COLOURS = """for (let i = 0; i < 8; i++) {
  const mark = `<path class="dot c${i}"/>`;
  document.querySelector("figure svg").insertAdjacentHTML("beforeend", mark); }"""

LABELS = """(() => { const wrong = [];
  const say = (part, why) => wrong.push(why + ": " + part.outerHTML.slice(0, 90));
  document.querySelectorAll("table").forEach(part => {
    if (!part.caption) { say(part, "caption"); } });
  document.querySelectorAll("th").forEach(part => { if (!part.scope) { say(part, "scope"); } });
  document.querySelectorAll("img").forEach(part => { if (!part.alt) { say(part, "alt"); } });
  document.querySelectorAll("svg").forEach(part => { const named = part.getAttribute("aria-label");
    if (!(named && part.getAttribute("role") === "img") &&
        part.getAttribute("aria-hidden") !== "true") { say(part, "svg"); } });
  document.querySelectorAll("input, select").forEach(part => {
    if (!part.labels.length && !part.ariaLabel) { say(part, "label"); } });
  document.querySelectorAll(".scroll").forEach(part => {
    if (part.tabIndex !== 0 || part.getAttribute("role") !== "region") { say(part, "scroll"); } });
  let level = 1;
  document.querySelectorAll("h1, h2, h3, h4").forEach(part => { const now = Number(part.tagName[1]);
    if (now > level + 1) { say(part, "heading level"); } level = now; });
  const ids = Array.from(document.querySelectorAll("[id]")).map(part => part.id);
  ids.filter((id, place) => ids.indexOf(id) !== place).forEach(id => wrong.push("id twice: " + id));
  document.querySelectorAll("[aria-labelledby]").forEach(part => {
    if (!ids.includes(part.getAttribute("aria-labelledby"))) { say(part, "no label"); } });
  return wrong; })()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, scheme: str) -> None:
    browser.emulate(scheme=scheme)
    browser.run(ALL_COLOURS)
    found = browser.run(CONTRAST)
    assert found["texts"] > 100 and found["marks"] > 20
    assert not found["low"]


def test_everything_is_labelled(browser: Browser) -> None:
    assert not browser.run(LABELS)
    assert browser.run("document.documentElement.lang") == "en"


def test_what_a_screen_reader_says(browser: Browser) -> None:
    names = browser.names()
    unnamed = {"button", "link", "checkbox", "combobox", "searchbox", "image", "region", "table"}
    assert not [role for role, name in names if role in unnamed and not name.strip()]
    for expected in (
        ("checkbox", "compare mscn"),
        ("searchbox", "Checkpoints with"),
        ("combobox", "First"),
        ("button", "Theme: system"),
        ("image", "linear_photos: top1 (percent)"),
    ):
        assert expected in names
