"""The documentation in a browser, opened from the disk as somebody does who has built it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import browse, look_at, needs_chromium
from helpers import REPO

WIDTHS = (390, 1280)
#: What there is to know of the layout of a page, to be run in a browser.
READ = """(frame) => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const linesOf = (element) => {
    const range = page.createRange();
    range.selectNodeContents(element);
    return new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size;
  };
  const all = (what) => [...page.querySelectorAll(what)].filter((e) => e.getClientRects().length);
  const style = (what) => {
    const found = page.querySelector(what);
    return found && view.getComputedStyle(found).backgroundColor;
  };
  return {
    scroll: page.documentElement.scrollWidth,
    broken: all("article :not(pre) > code").filter(
      (code) => /^[\\w.-]{1,34}$/.test(code.textContent) && linesOf(code) > 1
    ).map((code) => code.textContent),
    cut: all(".language-text:not(.is-table) pre > code, .language-bash pre > code").filter(
      (code) => code.scrollWidth > code.clientWidth + 24).map((code) => code.textContent),
    printed: style(".language-text pre > code"), typed: style(".language-bash pre > code"),
    nav: all(".md-nav__link").map((link) => link.textContent.trim()),
  };
}"""


@pytest.fixture(scope="module")
def layout(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a browser shows of each page, at both widths."""
    pages = [page for page in sorted(site.rglob("*.html")) if page.name != "404.html"]
    frames = {
        f"{page.relative_to(site).as_posix()} {width}": (page.as_uri(), width)
        for page in pages
        for width in WIDTHS
    }
    found, console = look_at(frames, READ, tmp_path_factory.mktemp("look"))
    assert "Uncaught" not in console
    return found


@needs_chromium
def test_no_page_is_wider_than_the_window(layout: dict[str, Any]) -> None:
    """Wide tables scroll in their own place."""
    wide = {name: seen["scroll"] for name, seen in layout.items()}
    assert {n: width for n, width in wide.items() if width > int(n.rpartition(" ")[2])} == {}


@needs_chromium
def test_names_stay_in_one_piece(layout: dict[str, Any]) -> None:
    """A key, an option or a file name that fits into a line is in one line."""
    assert {name: seen["broken"] for name, seen in layout.items() if seen["broken"]} == {}


@needs_chromium
def test_what_is_printed_wraps_and_looks_unlike_what_is_typed(layout: dict[str, Any]) -> None:
    """Commands and their output are to be read whole on a phone, and are told apart."""
    assert {name: seen["cut"] for name, seen in layout.items() if seen["cut"]} == {}
    for width in WIDTHS:
        tutorial = layout[f"tutorial.html {width}"]
        assert tutorial["printed"] != tutorial["typed"]


@needs_chromium
def test_every_page_of_the_navigation_can_be_seen_in_it(layout: dict[str, Any]) -> None:
    """None of them hides behind the title of its section."""
    text = re.sub(r"!!\S+", "", (REPO / "mkdocs.yml").read_text())
    sections = yaml.safe_load(text)["nav"]
    pages = [page for section in sections for page in next(iter(section.values()))]
    titles = [title for page in pages for title in page]
    assert "How fast" in titles
    for name in ("index.html 1280", "benchmarks/index.html 1280"):
        assert set(titles) <= set(layout[name]["nav"])


@needs_chromium
@pytest.mark.parametrize(
    ("page", "words", "found"),
    [
        ("index.html", "held+out", "glossary.html"),
        ("how-to/rois.html", "no+data+directory", "troubleshooting.html"),
        ("reference/python.html", "fetch_workers", "configuration.html"),
    ],
)
def test_search_works_from_the_disk(site: Path, page: str, words: str, found: str) -> None:
    """It finds a page by its words, without a server and without the internet."""
    done = browse("--dump-dom", "--virtual-time-budget=5000", f"{(site / page).as_uri()}?q={words}")
    results = re.findall(r'href="([^"]+\?h=[^"]*)"', done.stdout)
    assert any(found in result for result in results), results
    assert "unpkg.com" not in done.stdout
