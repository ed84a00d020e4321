"""The page as text: what it tells, what it must never hold. tests/report/test_page_in_a_browser.py looks at it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from finished_run import transcript
from hostile_pages import hostile_run
from made_pages import SESSIONS, facts_of, page_of, scored_row, shard_rows, usual_rows, write_whole_run

from pipeline.report.page import page
from pipeline.report.snippets import Snippet

_OURS = """html head meta link title style body header nav main section footer h1 h2 h3 h4 p ul ol li a b i code pre bdi span div
dl dt dd time table caption thead tbody tr th td figure figcaption details summary blockquote audio
svg g rect line circle path text"""
OURS = set(_OURS.split())


class Elements(HTMLParser):
    """Tags, with their attributes, and the text outside of style and svg titles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in OURS, tag
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.words += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def said_by(text: str) -> str:
    return re.sub(r"\s+", " ", Elements(text).words)


def test_a_page_tells_what_the_run_says(tmp_path: Path) -> None:
    store = write_whole_run(tmp_path, usual_rows())
    run = facts_of(store).run
    words = said_by(page_of(store))
    for part in (
        "209 recordings",
        "whole 202",
        "failed 6",
        f"{100 * run['totals']['wer']:.1f} % of words are wrong in 200 recordings",
        "Word error rate by language",
        "Word error rate by length of the recording",
        "Word error rate by site",
        "Columns with more than 24 values are not shown: take .",
        "low_confidence",
        "no text",
        "0:02.0 to 0:06.5",
        "not_found 5 failed",
        "… and 2 more",
        "truncated 1 in part",
        "Engine RTFx",
        "Pipeline RTFx",
        "per audio hour $0.0667 $0.2000",
        "Recordings by length",
        "Segments by confidence",
        "Engine workers over wall time",
        "made-up-0123456789ab",
    ):
        assert part in words, part


def test_failures_carry_their_next_step(tmp_path: Path) -> None:
    words = said_by(page_of(write_whole_run(tmp_path, usual_rows())))
    assert "Upload the object or correct the row; then quarry retry --failed hears it again." in words


@pytest.mark.parametrize("make", ["hostile", "usual"])
def test_nothing_foreign_becomes_an_element_or_an_address(tmp_path: Path, make: str) -> None:
    store = hostile_run(tmp_path) if make == "hostile" else write_whole_run(tmp_path, usual_rows())
    text = page(facts_of(store, 24), lambda doubt: Snippet("data:audio/mpeg;base64,AAAA"))
    for tag, attributes in Elements(text).tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcdoc", "action")]
        if "href" in attributes:
            assert re.fullmatch(r"#[a-z]+|data:,", attributes["href"] or ""), (tag, attributes)
        if "src" in attributes:
            assert (attributes["src"] or "").startswith("data:audio/mpeg;base64,")
    assert not set(text) & {*map(chr, range(9)), "\x0b", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066"}
    text.encode()


def test_the_policy_allows_the_pages_own_style_and_nothing_else(tmp_path: Path) -> None:
    text = page_of(write_whole_run(tmp_path, usual_rows()))
    (policy,) = [tag[1]["content"] for tag in Elements(text).tags if tag[1].get("http-equiv")]
    css = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert policy
    assert css
    digest = base64.b64encode(hashlib.sha256(css[1].encode()).digest()).decode()
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["style-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "script-src" not in rules
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert "http://" not in text
    assert "https://" not in text


def test_sections_have_headings_and_tables_have_headers(tmp_path: Path) -> None:
    tags = Elements(page_of(write_whole_run(tmp_path, usual_rows()))).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(attributes["href"])[1:] for tag, attributes in tags if tag == "a"} <= set(ids)
    assert all(attributes.get("aria-labelledby") in ids for tag, attributes in tags if tag == "section")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg" and "role" in attributes)
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption")
    assert names.count("h1") == 1


def test_a_run_of_an_older_quarry(tmp_path: Path) -> None:
    """Without times of shards, cost, flags in its settings."""
    old = shard_rows().drop_columns(["done_at", "call_s", "queued_s"])
    store = write_whole_run(tmp_path, usual_rows(), shards=old, cost=None)
    words = said_by(page_of(store))
    assert "When the engine waited is not known" in words
    assert "per audio hour" not in words


def test_a_run_of_nothing(tmp_path: Path) -> None:
    store = write_whole_run(tmp_path, [], shards=shard_rows(0), sessions=[])
    words = said_by(page_of(store))
    for part in (
        "0 recordings",
        "No recording has a reference text",
        "No segment is flagged",
        "Nothing: every recording",
    ):
        assert part in words, part


def test_what_was_not_scored(tmp_path: Path) -> None:
    unscored = [transcript(f"a{at}", duration_s=20.0) for at in range(3)]
    words = said_by(page_of(write_whole_run(tmp_path / "none", unscored)))
    assert "No recording has a reference text" in words
    some = [scored_row(at, duration_s=5.0, language="en") for at in range(30)]
    words = said_by(page_of(write_whole_run(tmp_path / "some", [*some, *unscored])))
    assert "10 to 30 s 3 recordings – –" in words


def test_retries_and_second_passes_stand_beside_each_other(tmp_path: Path) -> None:
    retry = {
        "id": "r1",
        "name": "granite",
        "model": "m",
        "stretches": 8,
        "replaced": 2,
        "reasons": {"lighter": 2, "no_text": 6},
    }
    store = write_whole_run(tmp_path, usual_rows(), retries=[retry])
    passed = {
        "task": "summary",
        "model": "granite",
        "source_snapshot": 0,
        "totals": {"recordings": 10, "ok": 9, "n_tokens": 70},
    }
    data = f'{{"number": 1, "tables": "t", "files": {{}}, "run": {str(passed).replace(chr(39), chr(34))}}}'
    store.put_if_absent("second_pass/summary-0123/snapshots/00001.json", data.encode())
    words = said_by(page_of(store))
    assert "25.0 %" in words
    assert "lighter 2, no_text 6" in words
    assert "summary granite , of snapshot 0" in words
    assert "90.0 %" in words


def test_a_reason_stands_where_there_is_no_audio(tmp_path: Path) -> None:
    store = write_whole_run(tmp_path, usual_rows())
    text = page_of(store, lambda doubt: Snippet(None, reason="The audio cannot be read now (not_found): it is gone."))
    assert said_by(text).count("it is gone.") == 12
    assert "<audio" not in text


def test_many_sessions_stay_readable(tmp_path: Path) -> None:
    many = [SESSIONS[0] for _ in range(500)]
    assert len(page_of(write_whole_run(tmp_path, usual_rows(), sessions=many))) < 300_000
