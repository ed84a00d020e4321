"""What is asked of an engine, from the manifest to the rows: refused at `validate`, told in the output; and drafts it kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from granite_checkpoints import write_granite
from running import fake_settings, quarry, run_folder, table
from whisper_checkpoints import write_whisper

from pipeline.config import EngineConfig
from pipeline.engines.base import ENGINES, EngineSpec
from pipeline.engines.fake import Fake
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis

ENGLISH = {"engine.options": "{languages: [en]}"}
ROWS = [
    {"id": "plain"},
    {"id": "named", "lang": "en-GB", "keywords": "Dashwood"},
    {"id": "french", "lang": "fr"},
    {"id": "québécois", "lang": "fr-CA"},
    {"id": "names", "keywords": ["Margaret Hale", "Dashwood"]},
]


def archive(folder: Path, rows: Sequence[dict[str, Any]] = ROWS, length_s: float = 2.0) -> Path:
    """A manifest of recordings of noise, which the fake engine hears as words."""
    for number, row in enumerate(rows):
        noise = np.random.default_rng(number).integers(-9000, 9000, int(length_s * SAMPLE_RATE_HZ), np.int16)
        soundfile.write(folder / f"{row['id']}.wav", noise, SAMPLE_RATE_HZ)
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps({**row, "audio_filepath": f"{row['id']}.wav"}) + "\n" for row in rows))
    return path


def test_validate_refuses_rows_that_the_engine_cannot_serve(tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = quarry("validate", *fake_settings(archive(tmp_path), output, **ENGLISH))
    assert done.returncode == 2
    names, french = (line for line in done.stdout.splitlines() if "the first in line" in line)
    assert french.startswith("2 rows, the first in line 3: the engine fake with the model fake cannot transcribe 'fr'")
    assert "whisper with a multilingual model" in french
    assert "or granite-nar with granite-speech-4.1-2b-nar can" in french
    assert french.endswith(" can (such rows would fail as language_unsupported).")
    assert names.startswith("2 rows, the first in line 2: the engine fake with the model fake cannot take keywords;")
    assert "whisper with any model" in names
    assert names.endswith(" can (such rows would be transcribed without their keywords).")
    assert not output.exists()


def test_validate_passes_what_whisper_can_and_refuses_the_rest(tmp_path: Path) -> None:
    whisper = {"engine.name": "whisper", "engine.model": "tiny.en"}
    settings = fake_settings(archive(tmp_path), tmp_path / "out", **whisper)
    done = quarry("validate", *settings)
    assert done.returncode == 2
    (french,) = (line for line in done.stdout.splitlines() if "the first in line" in line)
    assert "2 rows, the first in line 3" in french
    assert "; whisper with a multilingual model or" in french
    archive(tmp_path, [row for row in ROWS if not row.get("lang", "en").startswith("fr")])
    assert quarry("validate", *settings).returncode == 0


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
@pytest.mark.parametrize("wrong", [{"engine.task": "translate"}, {"engine.language": "fr"}])
def test_a_config_that_the_engine_cannot_serve_goes_no_further(
    tmp_path: Path, command: str, wrong: dict[str, str]
) -> None:
    output = tmp_path / "out"
    done = quarry(command, *fake_settings(archive(tmp_path), output, **ENGLISH, **wrong))
    ((field, value),) = wrong.items()
    assert done.returncode == 2
    assert done.stderr.startswith(f"quarry: {field} cannot be {value!r}: the engine fake with the model fake cannot ")
    assert "whisper with a multilingual model" in done.stderr
    assert not output.exists()


def test_a_run_says_row_by_row_what_could_not_be_served(tmp_path: Path) -> None:
    output = tmp_path / "out"
    settings = fake_settings(archive(tmp_path), output, **ENGLISH, **{"chunk.vad": "none"})
    assert quarry("run", *settings).returncode == 1
    rows = {row["id"]: row for row in table(output).to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "plain": "ok",
        "named": "ok",
        "french": "failed",
        "québécois": "failed",
        "names": "ok",
    }
    assert rows["french"]["failure"]["code"] == "language_unsupported"
    assert "; whisper with a multilingual model or" in rows["french"]["failure"]["message"]
    warnings = {name: row["warnings"] for name, row in rows.items() if row["status"] == "ok"}
    assert warnings == {"plain": [], "named": ["keywords_ignored"], "names": ["keywords_ignored"]}
    assert all(rows[name]["text"] for name in warnings)


def test_validate_refuses_pairs_and_checkpoints_that_an_engine_cannot_have(tmp_path: Path) -> None:
    """Nothing is loaded for it: the JSON files and the rows' languages tell."""
    for name in ("granite", "whisper"):
        (tmp_path / name).mkdir()
    write_granite(tmp_path / "granite")
    write_whisper(tmp_path / "whisper")
    manifest = archive(tmp_path, [{"id": "german", "lang": "de"}])
    places = [f"manifest={manifest}", f"output={tmp_path / 'out'}", "runtime.kind=local", "plan.probe_workers=1"]
    granite = ["engine.name=granite", f"engine.model={tmp_path / 'granite'}", "engine.options.version='4.1'"]
    to_french = [*granite, "engine.task=translate", "engine.options.target_language=fr"]
    for wrong, said in (
        ([*to_french, "engine.language=de"], "cannot translate 'de' into 'fr': one of the two has to be English"),
        (to_french, "cannot translate 'de' into 'fr' (it knows en); no engine here can (one of the two"),
        ([*to_french, "engine.options.target_language=ko"], "cannot translate into 'ko'"),
        ([*granite, f"engine.model={tmp_path / 'whisper'}"], "whisper"),
        ([*granite, "engine.name=granite-plus", "engine.options={}"], "granite_speech"),
        (["engine.name=whisper-transformers", f"engine.model={tmp_path / 'granite'}"], "granite_speech"),
    ):
        done = quarry("validate", *places, *wrong)
        assert done.returncode == 2, wrong
        assert said in done.stdout + done.stderr, (wrong, done)
    assert quarry("validate", *places, *granite).returncode == 0
    assert not (tmp_path / "out").exists()


class Interpreter(Fake):
    """Says that it translates."""

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        return replace(Fake.describe(config), tasks=frozenset({"transcribe", "translate"}))


def test_a_row_that_could_not_be_translated_names_an_engine_that_translates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "interpreter", f"{__name__}:Interpreter")
    asked = {"engine.name": "interpreter", "engine.task": "translate", "chunk.vad": "none"}
    asked["engine.options"] = "{languages: [en, de]}"
    settings = fake_settings(archive(tmp_path, [{"id": "french", "lang": "fr"}]), tmp_path / "out", **asked)
    assert quarry("run", *settings).returncode == 1
    (row,) = table(tmp_path / "out").to_pylist()
    assert row["failure"]["message"].endswith(
        "; whisper with a multilingual model other than turbo or granite with granite-speech-4.1-2b can."
    )


class Hasty(Fake):
    """Keeps its first hypothesis of chunks under a second and a half."""

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        found = zip(chunks, super().transcribe(chunks), strict=True)
        return [replace(heard, stop_reason="draft") if chunk.audio_s < 1.5 else heard for chunk, heard in found]


def test_kept_drafts_are_flagged_summed_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "hasty", f"{__name__}:Hasty")
    (tmp_path / "short").mkdir()
    long = archive(tmp_path, [{"id": "a"}, {"id": "b"}, {"id": "c"}], length_s=3.0)
    short = archive(tmp_path / "short", [{"id": "d"}, {"id": "e"}, {"id": "f"}], length_s=1.0)
    rows = short.read_text().replace('"audio_filepath": "', '"audio_filepath": "short/')
    long.write_text(long.read_text() + rows)
    output = tmp_path / "out"
    settings = fake_settings(
        long, output, **{"engine.name": "hasty", "chunk.vad": "none", "batch.shards_per_call": 2, "plan.shard_s": 5}
    )
    done = quarry("run", *settings)
    assert done.returncode == 0, done.stderr
    assert "drafts            25.0 %   of the audio kept the engine's first hypothesis" in done.stdout
    flags = {row["id"]: [segment["flags"] for segment in row["segments"]] for row in table(output).to_pylist()}
    assert flags == {name: [["draft"]] if name in "def" else [[]] for name in "abcdef"}
    assert sum(table(output, "shards")["draft_s"].to_pylist()) == pytest.approx(3.0)

    (snapshot,) = (run_folder(output) / "snapshots").iterdir()
    made = json.loads(snapshot.read_text())
    assert made["run"]["totals"].pop("draft_s") == pytest.approx(3.0)
    snapshot.write_text(json.dumps(made))  # as a version without drafts wrote it
    done = quarry("report", *settings)
    assert done.returncode == 0
    assert "first hypothesis" not in done.stdout


TASKS = [
    {"id": "said", "lang": "ja"},
    {"id": "told", "source_lang": "ja", "target_lang": "en", "taskname": "s2t_translation", "text": "a reference."},
    {"id": "raconté", "lang": "en", "task": "translate", "target_language": "fr"},
    {"id": "erzählt", "lang": "en", "task": "translate", "target_language": "de"},
]


def test_each_row_gets_its_task_and_says_in_which_language_its_text_is(tmp_path: Path) -> None:
    """One batch, four wishes; the engine cannot translate into German, and a row says so."""
    output = tmp_path / "out"
    able = {"engine.options": "{translates_into: [en, fr]}", "engine.language": "null", "chunk.vad": "none"}
    manifest = archive(tmp_path, TASKS, length_s=70.0)  # two windows, joined in the language of the text
    settings = fake_settings(manifest, output, **able)
    done = quarry("validate", *settings)
    assert done.returncode == 2
    (german,) = (line for line in done.stdout.splitlines() if "the first in" in line)
    assert german.startswith(
        "1 row, the first in line 4: the engine fake with the model fake cannot translate into 'de'; "
    )
    assert german.endswith("granite with granite-speech-4.1-2b can (such rows would fail as task_unsupported).")
    assert quarry("run", *settings).returncode == 1
    rows = {row["id"]: row for row in table(output).to_pylist()}
    assert {name: (row["language"], row["task"], row["text_language"]) for name, row in rows.items()} == {
        "said": ("ja", "transcribe", "ja"),
        "told": ("ja", "translate", "en"),
        "raconté": ("en", "translate", "fr"),
        "erzählt": ("en", "translate", "de"),
    }
    assert rows["erzählt"]["failure"]["code"] == "task_unsupported"
    endings = {
        name: {word.partition("-")[2] for word in rows[name]["text"].split()} for name in ("said", "told", "raconté")
    }
    assert endings == {"said": {""}, "told": {"en"}, "raconté": {"fr"}}
    assert rows["told"]["normalizer"].startswith("whisper-english")


def test_validate_tells_every_problem_to_machines(tmp_path: Path) -> None:
    rows = [{"id": f"r{number}", "duration": "x"} for number in range(30)]
    settings = fake_settings(archive(tmp_path, rows), tmp_path / "out")
    problems = tmp_path / "problems.jsonl"
    done = quarry("validate", "-o", str(problems), *settings)
    assert done.returncode == 2
    assert "… and 10 more; --all prints them, -o FILE writes them down." in done.stdout
    told = [json.loads(line) for line in problems.read_text().splitlines()]
    assert [(one["problem"], one["line"]) for one in told] == [("bad_row", number) for number in range(1, 31)]
    assert told[0]["file"] == str(tmp_path / "manifest.jsonl")
    done = quarry("validate", "--all", *settings)
    assert done.returncode == 2
    assert sum("duration is 'x'" in line for line in done.stdout.splitlines()) == 30
    assert quarry("validate", "-o", str(tmp_path / "no" / "x.jsonl"), *settings).returncode == 2
