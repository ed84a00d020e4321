"""Real archives of odd, broken and hostile files through the whole pipeline, with a real recogniser."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jiwer
import pytest
from running import quarry, table

from pipeline.metrics.wer import error_rate, total
from pipeline.records import Transcript
from pipeline.schema import transcript_of
from pipeline.text.normalize import normalize


def index(shared_data: Path, folder: str) -> list[dict[str, str]]:
    with open(shared_data / "INDEX.tsv", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row for row in rows if row["path"].startswith(folder)]


def transcribe(rows: list[dict[str, Any]], shared_data: Path, folder: Path, *extra: str) -> dict[str, dict[str, Any]]:
    """Run whisper over rows of (id, audio_filepath, text) in one process; transcripts by id."""
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"lang": "en", **row}) + "\n" for row in rows))
    settings = [
        f"manifest={manifest}",
        f"output={folder / 'out'}",
        f"source.roots=[{shared_data}]",
        "runtime.kind=local",
        "plan.probe_workers=1",
    ]
    done = quarry("run", *settings, *extra)
    assert done.returncode in (0, 1), done.stderr
    return {row["id"]: row for row in table(folder / "out").to_pylist()}


FAKE = ("engine.name=fake", "engine.model=fake")
BEAM_1 = "engine.options={beam_size: 1}"
# Containers and codecs that differ most, with what is odd about channels, tracks and time stamps.
FEW_FORMATS = (
    "aac_frag.mp4",
    "adpcm_ms.wav",
    "antiphase_stereo.wav",
    "audio_delayed_start.mp4",
    "cover_art.mp3",
    "flac.oga",
    "mp3_8k_16kbps.mp3",
    "opus.opus",
    "two_audio_tracks.mkv",
    "vorbis.webm",
    "wma.wma",
)


@pytest.fixture(scope="module")
def odd_files(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All files of formats, hostile and third parties in one run, with an engine that has a text for whatever is speech."""
    return odd_run(shared_data, tmp_path_factory.mktemp("odd"), ("formats", "hostile", "thirdparty"), *FAKE)


def odd_run(
    shared_data: Path, output: Path, kinds: tuple[str, ...], *settings: str, names: tuple[str, ...] = ()
) -> dict[str, dict[str, Any]]:
    """A run over every file of some folders, or over those named."""
    files = [path for kind in kinds for path in (shared_data / "f" / kind).iterdir()]
    rows = [{"id": f"{path.parent.name}/{path.name}", "audio_filepath": str(path)} for path in sorted(files)]
    rows = [row for row in rows if not row["id"].endswith("EXPECT.json")]
    if names:
        rows = [row for row in rows if Path(row["audio_filepath"]).name in names]
        assert len(rows) == len(names)
    found = transcribe(rows, shared_data, output, *settings)
    assert set(found) == {row["id"] for row in rows}, "a file has no row"
    return found


def test_every_format_has_a_text(odd_files: dict[str, dict[str, Any]]) -> None:
    """Their samples are compared one by one in tests/audio/test_reader.py."""
    for name, row in odd_files.items():
        if name.startswith("formats/"):
            assert (row["status"], bool(row["text"])) == ("ok", True), (name, row["failure"])


def test_formats_are_transcribed(shared_data: Path, tmp_path: Path) -> None:
    transcribed(odd_run(shared_data, tmp_path, ("formats",), BEAM_1, names=FEW_FORMATS))


def transcribed(found: dict[str, dict[str, Any]]) -> None:
    """Every file holds the same sentence."""
    reference = normalize("For a full hour he had paced up and down, waiting, but he could wait no longer.", "none")
    for name, row in found.items():
        assert row["status"] == "ok", (name, row["failure"])
        assert jiwer.wer(reference.lower(), row["text"].lower()) <= 0.25, (name, row["text"])


@pytest.mark.slow
def test_every_format_is_transcribed(shared_data: Path, tmp_path: Path) -> None:
    """The long form of the two above."""
    transcribed(odd_run(shared_data, tmp_path, ("formats",), BEAM_1))


def test_every_hostile_file_ends_as_expected(odd_files: dict[str, dict[str, Any]], shared_data: Path) -> None:
    expectations = json.loads((shared_data / "f" / "hostile" / "EXPECT.json").read_text())
    for name, expected in expectations.items():
        row = odd_files[f"hostile/{name}"]
        outcome = (name, row["status"], row["text"], row["failure"])
        first = expected.split(":")[0].split(";")[0]
        if first.startswith("error") and "or empty" in first:
            assert row["status"] == "failed" or not row["text"], outcome
        elif first == "error":
            assert row["status"] == "failed", outcome
            assert row["failure"]["message"], outcome
        elif first.startswith("empty"):
            assert (row["status"], row["text"]) == ("ok", ""), outcome
        elif first == "text":
            assert row["status"] == "ok", outcome
            assert row["text"], outcome
        elif name == "wav_sr1hz.wav":
            assert row["failure"]["code"] == "audio_too_long", outcome
        elif "partial text" in first and "or error" not in first:
            assert row["text"], outcome
        elif row["status"] == "failed":
            assert row["failure"]["message"], outcome
        else:  # text, or word of what is missing: never an empty row that looks well
            assert row["text"] or row["failure"] or row["warnings"], outcome


@pytest.mark.slow
def test_no_odd_file_stops_a_recogniser(shared_data: Path, tmp_path: Path) -> None:
    """The same files with a real recogniser: the long form of the test above and the one below."""
    found = odd_run(shared_data, tmp_path, ("hostile", "thirdparty"), BEAM_1)
    test_every_hostile_file_ends_as_expected(found, shared_data)
    test_no_odd_file_stops_the_run(found)


def test_no_odd_file_stops_the_run(odd_files: dict[str, dict[str, Any]]) -> None:
    for name, row in odd_files.items():
        assert row["status"] in ("ok", "partial", "failed"), name
        if row["status"] == "failed":
            assert row["failure"]["message"].endswith("."), name
            assert "/" not in row["failure"]["message"].replace("and/or", ""), (name, row["failure"]["message"])


def read_aloud(shared_data: Path, count: int) -> list[dict[str, str]]:
    """Rows of the first utterances of LibriSpeech test-other."""
    return [
        {"id": row["path"], "audio_filepath": str(shared_data / row["path"]), "text": row["reference"]}
        for row in index(shared_data, "a/librispeech-test-other/")[:count]
    ]


@pytest.fixture(scope="module")
def few(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Transcript]:
    """A run over six utterances."""
    found = transcribe(read_aloud(shared_data, 6), shared_data, tmp_path_factory.mktemp("few"))
    return [transcript_of(row) for row in found.values()]


def test_accuracy_is_that_of_the_same_weights_without_quarry(shared_data: Path, few: list[Transcript]) -> None:
    as_accurate_as_the_weights(few, read_aloud(shared_data, 6))


@pytest.mark.slow
def test_accuracy_over_a_hundred_utterances(shared_data: Path, tmp_path: Path) -> None:
    rows = read_aloud(shared_data, 100)
    ours = [transcript_of(row) for row in transcribe(rows, shared_data, tmp_path).values()]
    as_accurate_as_the_weights(ours, rows)


def as_accurate_as_the_weights(ours: list[Transcript], rows: list[dict[str, str]]) -> None:
    from faster_whisper import WhisperModel

    from pipeline.engines.whisper.weights import fetch_model

    model = WhisperModel(str(fetch_model("tiny.en")), device="cpu", compute_type="int8")
    references, plain = [], []
    for row in rows:
        # The same decoding as the engine's default; with time tokens, its own default, it is two points worse.
        segments, _ = model.transcribe(
            row["audio_filepath"], language="en", beam_size=5, temperature=0, without_timestamps=True
        )
        plain.append(normalize(" ".join(segment.text for segment in segments), ours[0].normalizer or "none"))
        references.append(normalize(row["text"], ours[0].normalizer or "none"))
    our_rate = error_rate(total(row.word_errors for row in ours if row.word_errors))
    assert our_rate == pytest.approx(jiwer.wer(references, plain), abs=0.01)


def test_stored_counts_are_jiwers_and_add_up(few: list[Transcript]) -> None:
    pairs = [
        (normalize(t.reference_text or "", t.normalizer or ""), normalize(t.text, t.normalizer or "")) for t in few
    ]
    for transcript, (reference, hypothesis) in zip(few, pairs, strict=True):
        counts = jiwer.process_words(reference, hypothesis)
        assert transcript.word_errors is not None
        assert transcript.word_errors.substitutions == counts.substitutions
        assert transcript.word_errors.deletions == counts.deletions
        assert transcript.word_errors.insertions == counts.insertions
    for stop in range(1, len(few) + 1):
        some = total(t.word_errors for t in few[:stop] if t.word_errors)
        references, hypotheses = zip(*pairs[:stop], strict=True)
        assert error_rate(some) == pytest.approx(jiwer.wer(list(references), list(hypotheses)))


@pytest.mark.slow
def test_a_69_minute_file_is_as_good_as_its_parts(shared_data: Path, tmp_path: Path) -> None:
    """The long file in windows against its gold segments as rows of their own (offset and duration)."""
    long_file = str(shared_data / "d" / "libri_65min_mixed.opus")
    segments = [line.split(" ", 5) for line in (shared_data / "d" / "libri_65min_mixed.stm").read_text().splitlines()]
    gold = [(float(part[3]), float(part[4]), part[5]) for part in (segments[:100] + segments[-13:])]
    parts = [
        {"id": f"part-{n}", "audio_filepath": long_file, "offset": start, "duration": end - start, "text": text}
        for n, (start, end, text) in enumerate(gold)
    ]
    whole = {"id": "whole", "audio_filepath": long_file}
    found = transcribe([whole, *parts], shared_data, tmp_path, "plan.window_s=600")
    assert found["whole"]["status"] == "ok"
    normalizer = found["part-0"]["normalizer"]
    end_of_first = gold[99][1]
    heard = " ".join(s["text"] for s in found["whole"]["segments"] if s["end_s"] <= end_of_first + 1)
    reference = " ".join(text for _, _, text in gold[:100])
    whole_rate = jiwer.wer(normalize(reference, normalizer), normalize(heard, normalizer))
    counts = total(transcript_of(found[f"part-{n}"]).word_errors for n in range(100))
    assert whole_rate == pytest.approx(error_rate(counts), abs=0.01)
