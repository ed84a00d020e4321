"""The report as one page of HTML that needs nothing else: no script, no font, no image, no address but its own `data:`.

A content security policy in the page forbids everything that it does not hold itself, so a page that was made from a hostile
manifest cannot fetch, send or run anything even where a tag got past `pipeline.report.markup`.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources

from pipeline.config import RunConfig
from pipeline.report.facts import Facts, gather
from pipeline.report.markup import Child, Markup, element, join, shown, style_sheet
from pipeline.report.overview import cost, header, speed
from pipeline.report.quality import accuracy, distributions, doubts
from pipeline.report.rest import about, again, failures
from pipeline.report.snippets import Listen, listening, no_audio
from pipeline.store.files import put_file
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import Snapshot

MOST_DOUBTS = 24

_SECTIONS = {
    "accuracy": "Accuracy",
    "doubts": "What to check",
    "failures": "What went wrong",
    "speed": "Speed",
    "cost": "Cost",
    "spread": "Lengths",
    "again": "Heard again",
    "about": "Settings",
}


@dataclass(frozen=True, slots=True)
class WrittenPage:
    """A page that was written. `mute`: stretches that are in it without their audio, though it was asked for."""

    target: str
    size_bytes: int
    stretches: int
    mute: int


def write_page(
    store: ObjectStore, snapshot: Snapshot, config: RunConfig, target: str, with_audio: bool = True
) -> WrittenPage:
    """Make the page of a snapshot and put it at `target`, a local file or a uri, in place of what stands there.

    `store` is rooted at the run. Raises StoreError when the run cannot be read or the page not be written.
    """
    facts = gather(store, snapshot, MOST_DOUBTS)
    mute = 0
    if with_audio and facts.doubts:
        with listening(snapshot.run["config"], config) as listen:
            snippets = {doubt: listen(doubt) for doubt in facts.doubts}
        mute = sum(snippet.address is None for snippet in snippets.values())
        data = page(facts, snippets.__getitem__).encode()
    else:
        data = page(facts, no_audio).encode()
    put_file(target, data, config.store)
    return WrittenPage(target, len(data), len(facts.doubts), mute)


def page(facts: Facts, listen: Listen) -> str:
    """The whole page."""
    parts = {
        "accuracy": accuracy(facts),
        "doubts": doubts(facts, listen),
        "failures": failures(facts),
        "speed": speed(facts),
        "cost": cost(facts),
        "spread": distributions(facts),
        "again": again(facts),
        "about": about(facts),
    }
    there = {name: part for name, part in parts.items() if part is not None}
    links = [element("li", element("a", _SECTIONS[name], href=f"#{name}")) for name in there]
    nav = element("nav", element("ul", links), aria_label="Sections")
    foot = element(
        "footer", f"Made by Quarry from snapshot {facts.snapshot.number} of ", element("bdi", _title(facts)), "."
    )
    body = element("body", header(facts), nav, element("main", *there.values()), foot)
    return f"<!doctype html>\n{element('html', _head(_title(facts)), body, lang='en')}\n"


def _title(facts: Facts) -> str:
    return shown(facts.run["run_id"], 120)


def _head(title: str) -> Markup:
    css = resources.files("pipeline.report").joinpath("page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    allowed = f"style-src 'sha256-{digest}'; media-src data:; img-src data:"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    meta: list[Child] = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", f"{title}: transcription report"),
    ]
    return element("head", join(meta), style_sheet(css))
