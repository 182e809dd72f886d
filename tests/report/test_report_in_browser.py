"""The page of `silofl report` in Chromium: on a phone and a screen, light, dark and on paper."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from silofl.report.page.html import page_of
from silofl.report.page.shared_files import read_run
from tests.report.browser import Browser, chromium
from tests.report.synthetic_run import HOSTILE, write_run

pytestmark = pytest.mark.skipif(chromium() is None, reason="no chromium here: apt-get install chromium")

FIGURES = """[...document.querySelectorAll("svg")].map(svg => {
  const box = svg.getBoundingClientRect(), lines = [...svg.querySelectorAll("path:not(.l-paper)")];
  const paper = getComputedStyle(document.body).backgroundColor;
  const inks = lines.map(one => getComputedStyle(one))
    .map(one => [one.stroke, one.fill].filter(ink => ink !== "none"));
  return {left: box.left, right: box.right, height: box.height, lines: lines.length,
    unseen: inks.filter(own => own.every(ink => ink === paper)).length,
    texts: [...svg.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()])
      .map(([text, box]) => ({text: text, left: box.left, right: box.right, height: box.height}))};
})"""
WIDTH = "[document.documentElement.scrollWidth, innerWidth]"
COLOURS = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [write_run(folder / "a", 60, 8), write_run(folder / "b", 12, 3, private=True, text=HOSTILE)]
    (folder / "report.html").write_text(page_of([read_run(path) for path in runs]))
    return folder / "report.html"


def test_it_opens_without_a_script_a_request_or_an_error_and_every_figure_is_seen(page: Path) -> None:
    with Browser() as browser:
        browser.open(page)
        shown = set()
        for width in (360, 1200):
            for scheme in ("light", "dark"):
                browser.call(
                    "Emulation.setDeviceMetricsOverride",
                    **{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
                )
                feature = {"name": "prefers-color-scheme", "value": scheme}
                browser.call("Emulation.setEmulatedMedia", features=[feature])
                scrolled, inner = browser.evaluate(WIDTH)
                assert scrolled <= inner == width
                figures = browser.evaluate(FIGURES)
                assert len(figures) > 10
                for one in figures:
                    assert 0 <= one["left"] < one["right"] <= width
                    assert one["height"] > 50
                    assert one["lines"] > 2
                    assert not one["unseen"]
                    outside = [t for t in one["texts"] if not 0 <= t["left"] < t["right"] <= width]
                    assert not outside
                    assert min(text["height"] for text in one["texts"]) > 8
                shown.add(tuple(browser.evaluate(COLOURS)))
        assert len(shown) == 2
        paper = browser.call("Page.printToPDF", printBackground=True)["data"]
        assert base64.b64decode(paper).startswith(b"%PDF")
        assert browser.evaluate("document.scripts.length") == 0
        asked = {one["request"]["url"] for one in browser.of("Network.requestWillBeSent")}
        assert asked == {page.as_uri()}
        assert not browser.of("Runtime.exceptionThrown")
        assert not browser.of("Runtime.consoleAPICalled")
        assert not browser.of("Log.entryAdded")


def test_what_gets_in_runs_no_script_and_asks_for_nothing(page: Path, tmp_path: Path) -> None:
    """Were markup of a run not escaped, the page's policy would still hold it back."""
    planted = (
        "<script>document.title = 'run'</script><img src=\"http://evil.example/x\"><p style='top:0'>x</p>"
    )
    (tmp_path / "planted.html").write_text(page.read_text().replace("<main>", f"<main>{planted}", 1))
    with Browser() as browser:
        browser.open(tmp_path / "planted.html")
        assert browser.evaluate("document.title") != "run"
        refused = [one["entry"]["text"] for one in browser.of("Log.entryAdded")]
        assert sum("Content Security Policy" in text for text in refused) >= 3
