"""A run whose every word comes from somebody who wants the page to do something."""

from __future__ import annotations

from pathlib import Path

from finished_run import said, transcript
from made_pages import SESSIONS, scored_row, write_whole_run

from pipeline.records import Failure, Span, Transcript
from pipeline.store.objects import ObjectStore

SCRIPT = "<script>window.pwned=1;alert(1)</script>"
IMAGE = "</bdi></td></table></style></svg><img src=x onerror=\"window.pwned=1\"><svg onload='window.pwned=1'>"
ATTRIBUTE = '" onmouseover="window.pwned=1" autofocus onfocus=\'window.pwned=1\' style="position:fixed'
LINK = "javascript:window.pwned=1//<a href=javascript:alert(1)>x</a>"
ENTITIES = "&lt;script&gt;window.pwned=1&lt;/script&gt; &#x3c;img src=x onerror=alert(1)&#x3e;"
CONTROLS = "nul \0 bell \a escape \x1b[31m tab\tline\nback \b \x7f \x9b"
TURNED = "\u202e\u2066gpj.exe\u202d שלום \u200f!"
LONG = "x" * 5000
PAYLOADS = [SCRIPT, IMAGE, ATTRIBUTE, LINK, ENTITIES, CONTROLS, TURNED, LONG]


def hostile_rows() -> list[Transcript]:
    """Ids, uris, texts, languages, speakers, flags, messages and columns, each with each payload."""
    rows = [scored_row(number, extra={f"{IMAGE}{number % 2}": SCRIPT if number % 3 else LINK}) for number in range(40)]
    for at, payload in enumerate(PAYLOADS):
        segment = said(payload, language=payload, speaker=payload, confidence=0.2, flags=("low_confidence", payload))
        flags = ("low_confidence", payload)
        row = scored_row(900 + at, language=payload, flags=flags, uri=f"{payload}.wav", extra={payload: payload})
        rows.append(transcript(f"{at} {payload}", [segment], **_without(row)))
        failure = Failure("decode", payload, payload)
        rows.append(transcript(f"failed {at} {payload}", status="failed", uri=payload, duration_s=0.0, failure=failure))
    return [*rows, transcript(SCRIPT, spans=(Span(0.0, 3.0, "unheard"),), flags=("empty_on_speech",), uri=LINK)]


def hostile_run(folder: Path) -> ObjectStore:
    """The run, with a run.json of the same kind."""
    sessions = [{**SESSIONS[0], "hardware": IMAGE, "versions": {SCRIPT: IMAGE, "python": ATTRIBUTE}}]
    retry = {"id": SCRIPT, "name": IMAGE, "model": ATTRIBUTE, "stretches": 4, "replaced": 1, "reasons": {SCRIPT: 4}}
    named = {"run_id": f"{SCRIPT}{TURNED}", "engine": IMAGE, "model": LINK, "model_revision": ATTRIBUTE}
    return write_whole_run(folder, hostile_rows(), **named, sessions=sessions, retries=[retry])


def _without(row: Transcript) -> dict[str, object]:
    names = ("language", "flags", "uri", "extra", "word_errors", "char_errors", "normalizer", "duration_s")
    return {name: getattr(row, name) for name in names}
