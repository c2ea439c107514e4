"""The page in a real browser: sorting, filtering, no errors."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.report.run import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --enable-logging=stderr"
).split()
# Runs after the page's own script, as a user would click and type
USER = """<script>
var order = function () {
  return Array.from(document.querySelectorAll("#main tbody tr")).filter(function (row) {
    return !row.hidden; }).map(function (row) { return row.getAttribute("data-name"); }).join(" ");
};
var log = [order()];
var top1 = Array.from(document.querySelectorAll("#main button.sort")).filter(function (button) {
  return button.textContent === "top1"; })[0];
top1.click(); log.push(order(), top1.closest("th").getAttribute("aria-sort"));
top1.click(); log.push(order(), top1.closest("th").getAttribute("aria-sort"));
var filter = document.getElementById("filter");
filter.value = "SIM"; filter.dispatchEvent(new Event("input")); log.push(order());
var overflow = document.documentElement.scrollWidth > document.documentElement.clientWidth;
log.push(overflow ? "overflows" : "fits");
document.title = log.join(" | ");
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_in_a_browser(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    write_run("mscn", "linear", {"top1": 9.5})
    write_run("simclr", "linear", {"top1": 48.5})
    write_run("zero", "linear", {"top1": 30.0}, method="random")
    write_run("mscn", "detection", {"bbox/AP": 20.0})
    page = write_report([tmp_path], tmp_path / "out").page
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", USER), encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    title = re.search("<title>(.*?)</title>", done.stdout).group(1)
    assert title.split(" | ") == [
        "zero mscn simclr",
        "simclr zero mscn",  # as numbers: 9.5 is the smallest
        "descending",
        "mscn zero simclr",
        "ascending",
        "simclr",
        "fits",
    ]
    assert "CONSOLE" not in done.stderr, done.stderr
