"""The page in a real browser: it is drawn, fits a phone, can be read in the dark, fetches nothing, and runs nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from browser import Page, find_browser, open_browser
from hostile_pages import hostile_run
from made_pages import page_of, usual_rows, write_whole_run

from pipeline.records import SAMPLE_RATE_HZ
from pipeline.report.snippets import Snippet, mp3_address

CONTRASTS = """
(() => {
  const part = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = c => 0.2126 * part(c[0]) + 0.7152 * part(c[1]) + 0.0722 * part(c[2]);
  const numbers = css => css.match(/[\\d.]+/g).map(Number);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const ground = node => {
    for (; node; node = node.parentElement) {
      const c = numbers(getComputedStyle(node).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.body.querySelectorAll("*")) {
    const style = getComputedStyle(node), box = node.getBoundingClientRect();
    if (!box.width && node.tagName !== "line") continue;
    const isText = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
    if (node instanceof SVGElement) {
      if (node.tagName === "text") found.push(["text " + node.className.baseVal, ratio(numbers(style.fill), ground(node)), 4.5]);
      const drawn = ["rect", "circle"].includes(node.tagName) && numbers(style.fill)[3] !== 0;
      if (drawn) found.push([node.tagName + " " + node.className.baseVal, ratio(numbers(style.fill), ground(node)), 3]);
    } else if (isText) found.push([node.tagName + " " + node.className, ratio(numbers(style.color), ground(node)), 4.5]);
  }
  return found;
})()
"""
PLOTS = """
[...document.querySelectorAll("svg.plot")].map(svg => {
  const outer = svg.getBoundingClientRect();
  const box = node => {
    const inner = node.getBoundingClientRect();
    return [inner.left - outer.left, inner.top - outer.top, inner.width, inner.height];
  };
  const ticks = [...svg.querySelectorAll("text")].map(box);
  const bars = [...svg.querySelectorAll("rect:not(.hit)")].map(box);
  return {name: svg.getAttribute("aria-label"), width: outer.width, height: outer.height, bars, ticks};
})
"""
OVERFLOWING = """
[...document.body.querySelectorAll("*")].filter(node => {
  const box = node.getBoundingClientRect();
  return box.width && !node.closest("svg") && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(node => node.tagName + "." + node.className)
"""
SCROLLING = '[...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth + 1).length'
SOUNDS = """
Promise.all([...document.querySelectorAll("audio")].map(audio => audio.readyState > 0 ? audio.duration :
  new Promise(done => { audio.onloadedmetadata = () => done(audio.duration); audio.onerror = () => done(-1); })))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = find_browser()
    if program is None:
        pytest.skip("there is no chromium or chrome to look at the page with")
    with open_browser(program, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usual")
    samples = (9000 * np.sin(np.arange(3 * SAMPLE_RATE_HZ) / 9)).astype(np.int16)
    address = mp3_address(samples)
    text = page_of(write_whole_run(folder / "run", usual_rows()), lambda doubt: Snippet(address))
    (folder / "report.html").write_text(text, "utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    text = page_of(hostile_run(folder / "run"), lambda doubt: Snippet(None, reason=f"</p>{doubt.text}"), 24)
    (folder / "report.html").write_text(text, "utf-8")
    return folder / "report.html"


def complaints(page: Page) -> list[dict[str, Any]]:
    """Whatever the console, the log, or a dialog said."""
    found = page.told(
        "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"
    )
    return [event["params"] for event in found]


def fetched(page: Page) -> set[str]:
    """Schemes of everything that was asked for."""
    requests = page.told("Network.requestWillBeSent")
    return {event["params"]["request"]["url"].partition(":")[0] for event in requests}


def pixels(png: bytes) -> np.ndarray:
    with av.open(io.BytesIO(png)) as picture:
        return next(picture.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_drawn_and_can_be_read(browser: Page, usual: Path, width: int, dark: bool) -> None:
    browser.open(usual, width, dark)
    assert complaints(browser) == []
    assert fetched(browser) <= {"file", "data"}
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OVERFLOWING) == []
    if width < 600:
        assert browser.value(SCROLLING) == 0
    contrasts = browser.value(CONTRASTS)
    assert len(contrasts) > 300
    assert {(name, round(ratio, 2)) for name, ratio, least in contrasts if ratio < least} == set()
    picture = pixels(browser.screenshot(whole=False))
    assert picture.shape[1] == width
    assert (picture.mean() < 80) == dark
    assert picture.std() > 15


@pytest.mark.parametrize("width", [1280, 360])
def test_plots_have_sensible_boxes(browser: Page, usual: Path, width: int) -> None:
    browser.open(usual, width)
    plots = browser.value(PLOTS)
    assert len(plots) == 4
    for plot in plots:
        assert plot["width"] > 0.6 * min(width, 864)
        assert 120 < plot["height"] < 200
        heights = [box[3] for box in plot["bars"]]
        assert len(heights) >= 5
        assert max(heights) > 60, plot["name"]
        for left, top, wide, high in plot["bars"]:
            assert -1 <= left <= left + wide <= plot["width"] + 1
            assert 0 <= top <= top + high <= plot["height"]
        for left, _, wide, _ in plot["ticks"]:
            assert -1 <= left <= left + wide <= plot["width"] + 1
        below = sorted(box for box in plot["ticks"] if box[1] > 100)
        for one, following in pairwise(below):
            assert one[0] + one[2] < following[0], (plot["name"], below)


def test_sounds_can_be_played(browser: Page, usual: Path) -> None:
    browser.open(usual, 1280)
    lengths = browser.value(SOUNDS)
    assert len(lengths) == 12
    assert all(3.0 <= length < 3.3 for length in lengths), lengths
    assert complaints(browser) == []


@pytest.mark.parametrize("width", [1280, 360])
def test_a_hostile_page_does_nothing(browser: Page, hostile: Path, width: int) -> None:
    browser.open(hostile, width)
    touched = 'node => { node.dispatchEvent(new MouseEvent("mouseover")); node.focus?.(); }'
    browser.value(f'[...document.querySelectorAll("*")].forEach({touched})')
    assert complaints(browser) == []
    assert fetched(browser) <= {"file", "data"}
    assert browser.value("window.pwned") is None
    assert (
        browser.value(
            'document.querySelectorAll("script, img, iframe, object, embed, form, input, base, animate").length'
        )
        == 0
    )
    handlers = "/^on|^style$/.test(one.name)"
    addresses = "/^(href|src|xlink:href|action)$/.test(one.name) && !/^(#|data:)/.test(one.value)"
    attributes = f"node => [...node.attributes].filter(one => {handlers} || {addresses})"
    assert browser.value(f'[...document.querySelectorAll("*")].flatMap({attributes}).length') == 0
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OVERFLOWING) == []
    assert "window.pwned" in browser.value("document.body.innerText")  # it is there to be read


def test_the_policy_holds_where_a_tag_gets_in(browser: Page, hostile: Path) -> None:
    """A second wall: were something to get past the first, the browser would still not run or fetch it."""
    browser.open(hostile, 1280)
    script = 'const s = document.createElement("script"); s.textContent = "window.ran = 1"; document.body.append(s); window.ran'
    assert browser.value(f"(() => {{ {script} }})(); window.ran") is None
    image = 'new Promise(done => { const i = new Image(); i.onload = () => done("fetched"); i.onerror = () => done("refused");'
    assert browser.value(f'{image} i.src = "http://127.0.0.1:9/x.png"; }})') == "refused"
    assert browser.value('fetch("http://127.0.0.1:9/").then(() => "fetched", () => "refused")') == "refused"
    said = " ".join(event["entry"]["text"] for event in complaints(browser) if "entry" in event)
    assert said.count("Content Security Policy") >= 3, said


def test_it_can_be_printed(browser: Page, usual: Path) -> None:
    browser.open(usual, 1280, media="print")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.open(usual, 1280, dark=True, media="print")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert {name for name, ratio, least in browser.value(CONTRASTS) if ratio < least} == set()
    hidden = (
        '[...document.querySelectorAll("nav, audio, summary")].every(node => getComputedStyle(node).display === "none")'
    )
    assert browser.value(hidden) is True
    assert len(browser.call("Page.printToPDF")["data"]) > 20_000
