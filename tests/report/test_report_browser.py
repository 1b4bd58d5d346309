"""The report in a real browser, on a desktop and on a telephone."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cconvnet import report

pytest.importorskip("selenium")
pytest.importorskip("matplotlib")

# What each picture is on the page and in itself.
IMAGES = """return [...document.images].map(image => {
  const box = image.getBoundingClientRect();
  return {alt: image.alt, loaded: image.complete, width: image.naturalWidth, height: image.naturalHeight,
          shown: [box.width, box.height]};
});"""

# The ratio of the luminances of each text to what lies behind it, as WCAG 2.2 defines it (1.4.3), and the
# size of its letters in pixels.
TEXTS = """
const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const numbers = color => color.match(/[\\d.]+/g).map(Number);
const luminance = color => {
  const [red, green, blue] = numbers(color);
  return 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
};
const behind = element => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if ((numbers(color)[3] ?? 1) > 0) return color;
  }
  return 'rgb(255, 255, 255)';
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), parent = walker.currentNode.parentElement;
  if (!text || !parent.getClientRects().length) continue;
  const style = getComputedStyle(parent);
  const bar = parent.closest('li, .bar')?.querySelector('rect');
  const grounds = [behind(parent), ...(bar ? [getComputedStyle(bar).fill] : [])];
  for (const ground of grounds) {
    const pair = [luminance(style.color), luminance(ground)].sort((a, b) => b - a);
    found.push({text, size: parseFloat(style.fontSize), contrast: (pair[0] + 0.05) / (pair[1] + 0.05)});
  }
}
return found;"""

# What would stick out of the page; what lies in a box that scrolls by itself does not.
OUTSIDE = """return [...document.querySelectorAll('body *')]
  .filter(element => !element.closest('.scroll > *'))
  .filter(element => element.getBoundingClientRect().right > innerWidth + 0.5)
  .map(element => element.outerHTML.slice(0, 80));"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    # A driver finds the browser of its own version.
    there = any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    folders = filter(None, (os.environ.get("CHROMEWEBDRIVER"), os.environ["PATH"]))
    driver = shutil.which("chromedriver", path=os.pathsep.join(folders))
    if not there or driver is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless",
        "no-sandbox",  # it does not start as root otherwise; the only page it sees is ours
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    report.write(small_run, file, devices=["cpu:0"])
    return file


def requested(browser: Any) -> list[str]:
    """Return the addresses that pages requested since the last call, without the browser's own."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    return [address for address in addresses if not address.startswith(("chrome:", "data:"))]


def opened(browser: Any, file: Path, width: int, height: int, scheme: str = "light") -> None:
    browser.get("about:blank")
    requested(browser), browser.get_log("browser")
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(file.as_uri())


def screenshot(browser: Any, file: Path) -> None:
    """Take a picture of the whole page, however long."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(shot["data"]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (375, 812)])
def test_the_report_reads_well(
    browser: Any, page: Path, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    opened(browser, page, width, height, scheme)
    screenshot(browser, tmp_path / f"report-{width}-{scheme}.png")
    assert browser.get_log("browser") == []
    assert requested(browser) == [page.as_uri()]

    images = browser.execute_script(IMAGES)
    mistakes = browser.execute_script("return document.querySelectorAll('.mistakes img').length")
    assert mistakes > 3 and len(images) == 70 + mistakes
    for image in images:
        assert image["loaded"] and image["alt"], image
        assert min(image["width"], image["height"], *image["shown"]) >= 5, image
    figures = browser.execute_script(
        "return [...document.querySelectorAll('section figure')].map(figure => figure.offsetHeight)"
    )
    assert len(figures) == 70 + mistakes and min(figures) > 40

    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    assert browser.execute_script(OUTSIDE) == []

    texts = browser.execute_script(TEXTS)
    assert len(texts) > 200
    assert float(browser.execute_script("return parseFloat(getComputedStyle(document.body).fontSize)")) >= 14
    for text in texts:
        assert text["size"] >= 14, text
        assert text["contrast"] >= 4.5, text

    links = browser.execute_script(
        "return [...document.querySelectorAll('a')].map(one => one.getBoundingClientRect().toJSON())"
    )
    assert len(links) == 16
    for link in links:
        assert link["height"] >= 44 and link["width"] >= 24, link


def test_wide_parts_scroll_in_their_boxes(browser: Any, page: Path) -> None:
    opened(browser, page, 375, 812)
    boxes = browser.execute_script(
        """return [...document.querySelectorAll('.scroll')].map(box => {
             const before = document.documentElement.scrollLeft;
             box.scrollLeft = 1000;
             return {label: box.ariaLabel, wide: box.scrollWidth > box.clientWidth, moved: box.scrollLeft > 0,
                     page: document.documentElement.scrollLeft === before};
           });"""
    )
    assert {box["label"] for box in boxes if box["wide"]} >= {"Nearest images", "Epochs", "Checkpoints"}
    assert all(box["page"] and box["moved"] == box["wide"] for box in boxes)


def test_links_lead_to_their_parts(browser: Any, page: Path) -> None:
    opened(browser, page, 1280, 800)
    targets = browser.execute_script(
        "return [...document.querySelectorAll('nav a')].map(a => document.querySelector(a.hash)?.tagName)"
    )
    assert targets == ["SECTION"] * 16


def test_a_bar_is_as_long_as_its_probability(browser: Any, page: Path) -> None:
    opened(browser, page, 1280, 800)
    bars = browser.execute_script(
        """return [...document.querySelectorAll('.bars li')].map(bar => [
             bar.querySelector('rect').getBoundingClientRect().width / bar.getBoundingClientRect().width,
             parseFloat(bar.querySelector('span:last-child').textContent) / 100]);"""
    )
    assert len(bars) == 40
    for length, probability in bars:
        assert length == pytest.approx(probability, abs=0.012)


def test_a_script_that_came_in_would_not_run(browser: Any, page: Path, tmp_path: Path) -> None:
    # The policy is the second wall behind escaping, so it is tried with text that was not escaped.
    hostile = tmp_path / "hostile.html"
    inside = "<script>window.ran = 1</script><img src=http://127.0.0.1:9/x.png onerror='window.ran = 2'>"
    hostile.write_text(
        page.read_text(encoding="utf-8").replace("<main>", f"<main>{inside}"), encoding="utf-8"
    )
    opened(browser, hostile, 1280, 800)
    assert browser.execute_script("return window.ran ?? null") is None
    said = [entry["message"] for entry in browser.get_log("browser")]
    assert any("script-src" in text or "inline script" in text for text in said)
    assert any("127.0.0.1:9" in text and "Content Security Policy" in text for text in said)


def test_printed_it_loses_nothing(browser: Any, page: Path) -> None:
    opened(browser, page, 1280, 800)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('figure, table')].filter(one => !one.offsetHeight).length"
    )
    assert hidden == 0
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    assert base64.b64decode(pdf["data"]).startswith(b"%PDF")
