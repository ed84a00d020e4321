"""A run with a real recogniser says which of its text is not to be trusted, in the rows and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import fake_settings, quarry, run_folder, table

from pipeline.records import Span
from pipeline.schema import transcript_of
from pipeline.text.flags import row_flags

CHINESE = "b/zh/watson_zh-CN_sample2_for_16k.flac"  # an English model goes round in circles in it
NOISE = "e/noise/kitchen.flac"  # loud enough for the energy detection


@pytest.fixture(scope="module")
def settings(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("flags")
    read = sorted((shared_data / "a/librispeech-test-other").glob("*.flac"))[:3]
    rows = [{"id": str(path.relative_to(shared_data)), "uri": str(path)} for path in read]
    rows += [{"id": name, "uri": str(shared_data / name), "language": "en"} for name in (CHINESE, NOISE)]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [f"manifest={folder / 'm.jsonl'}", f"output={folder / 'out'}", f"source.roots=[{shared_data}]"]
    found += [
        "runtime.kind=local",
        "plan.probe_workers=1",
        "chunk.vad=energy",
        "engine.options={beam_size: 1}",
        "engine.allowed_languages=[en]",
    ]
    done = quarry("run", *found)
    assert done.returncode == 0, done.stderr
    return found


def test_rows_segments_and_the_report_tell_of_the_same_flags(settings: list[str]) -> None:
    output = Path(settings[1].partition("=")[2])
    rows = {row["id"]: transcript_of(row) for row in table(output).to_pylist()}
    for row in rows.values():
        assert row.flags == row_flags(row.segments, row.spans)
    assert [row.flags for name, row in rows.items() if name.startswith("a/")] == [(), (), ()], "it was heard rightly"
    assert {"repeated_ngrams", "compressible", "token_budget_hit"} <= set(rows[CHINESE].flags)
    assert rows[NOISE].flags, "nobody speaks in it"
    unheard_s = sum(span.end_s - span.start_s for row in rows.values() for span in _unheard(row.spans))
    printed = quarry("report", *settings).stdout
    lines = {words[0]: words for words in map(str.split, printed.splitlines()) if words}
    assert {flag for row in rows.values() for flag in row.flags} == {
        flag for flag in lines if "_" in flag or flag == "compressible"
    }
    if unheard_s:
        assert lines["empty_on_speech"][3] == f"{unheard_s:.1f}"
    run = json.loads(next(run_folder(output).glob("tables/*/run.json")).read_text())
    assert run["totals"]["flags"]["token_budget_hit"]["recordings"] == 1


def test_a_row_in_a_language_that_is_not_allowed_is_transcribed_and_flagged(tmp_path: Path) -> None:
    noise = (np.random.default_rng(3).standard_normal(64_000) * 4000).clip(-32768, 32767).astype(np.int16)
    rows = []
    for language in ("en-US", "de", None):
        soundfile.write(tmp_path / f"{language}.wav", noise, 16_000)
        rows.append({"id": str(language), "uri": f"{language}.wav", **({"language": language} if language else {})})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = {"engine.allowed_languages": "[en]", "chunk.vad": "none", "flags.repeated_words": "null"}
    settings = fake_settings(tmp_path / "m.jsonl", tmp_path / "out", **extra)
    assert quarry("validate", *settings).returncode == 2
    assert quarry("run", *settings).returncode == 0
    found = {row["id"]: (row["language"], row["flags"]) for row in table(tmp_path / "out").to_pylist()}
    assert found == {"en-US": ("en-US", []), "de": ("de", ["language_not_allowed"]), "None": ("en", [])}


def _unheard(spans: tuple[Span, ...]) -> list[Span]:
    return [span for span in spans if span.kind == "unheard"]
