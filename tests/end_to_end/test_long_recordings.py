"""Long recordings in windows: the same text as uncut, every second accounted for, bounded memory."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import jiwer
import numpy as np
import psutil
import pytest
import soundfile
import soxr
from running import REPO, fake_settings, quarry, run_folder, table

from pipeline.metrics.wer import error_rate
from pipeline.records import SAMPLE_RATE_HZ, Samples, Transcript
from pipeline.schema import transcript_of
from pipeline.text.timeline import audit

MEMORY_BYTES = 400 * 2**20
GAP = np.zeros(SAMPLE_RATE_HZ * 2 // 5, np.int16)  # as in the joined files of shared/data


def run(folder: Path, rows: list[dict[str, Any]], *settings: str) -> dict[str, Transcript]:
    """Transcribe rows in this process; transcripts by id."""
    folder.mkdir()
    (folder / "manifest.jsonl").write_text("".join(json.dumps({"lang": "en", **row}) + "\n" for row in rows))
    places = [f"manifest={folder / 'manifest.jsonl'}", f"output={folder / 'out'}", 'source.roots=["/"]']
    done = quarry("run", *places, "runtime.kind=local", "plan.probe_workers=1", *settings)
    assert done.returncode == 0, done.stderr
    return {row["id"]: transcript_of(row) for row in table(folder / "out").to_pylist()}


def unaccounted(transcript: Transcript) -> list[Any]:
    """Stretches of the whole recording that no segment and no span holds, or that one claims beyond its ends."""
    pieces = [(piece.start_s, piece.end_s) for piece in (*transcript.segments, *transcript.spans)]
    return audit(0.0, transcript.duration_s, pieces)


def seams(output: Path) -> list[float]:
    """Where the windows of the one recording of a run met, in seconds."""
    import pyarrow.parquet as pq

    parts = [pq.read_table(path) for path in run_folder(output).rglob("parts/*/*.parquet")]
    return sorted(row["window_start_s"] for part in parts for row in part.to_pylist())[1:]


def one_speaker(shared_data: Path) -> tuple[Samples, str]:
    """Clips of one reader joined with 0.4 s between them, and what she says."""
    with open(shared_data / "INDEX.tsv", encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    rows = [row for row in rows if row["path"].startswith("a/ljspeech/") and row["ref_kind"].startswith("gold")][:20]
    pieces: list[Samples] = []
    for row in rows:
        samples, rate_hz = soundfile.read(shared_data / row["path"], dtype="int16")
        pieces += [soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ), GAP]
    return np.concatenate(pieces), " ".join(row["reference"] for row in rows)


@pytest.fixture(scope="module")
def reading(shared_data: Path) -> Samples:
    """Ten minutes of ten readers, 16 kHz."""
    samples, rate_hz = soundfile.read(shared_data / "d/libri_testother_100utt.mp3", dtype="int16")
    assert rate_hz == SAMPLE_RATE_HZ
    return samples[: 600 * SAMPLE_RATE_HZ]


def test_windows_hold_the_samples_that_were_cut_for_them(reading: Samples, tmp_path: Path) -> None:
    """The fake engine's words are a hash of the samples: the same words are the same samples, none lost, none doubled."""
    soundfile.write(tmp_path / "long.flac", reading, SAMPLE_RATE_HZ)
    settings = fake_settings("-", "-", **{"plan.window_s": 45, "plan.shard_s": 100})[2:]
    long = run(tmp_path / "windows", [{"id": "long", "uri": str(tmp_path / "long.flac")}], *settings)["long"]
    edges = [0.0, *seams(tmp_path / "windows" / "out"), 600.0]
    assert len(edges) == 15
    for number, (start_s, end_s) in enumerate(pairwise(edges)):
        piece = reading[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]
        soundfile.write(tmp_path / f"{number:02d}.flac", piece, SAMPLE_RATE_HZ)
    rows = [{"id": f"{number:02d}", "uri": str(tmp_path / f"{number:02d}.flac")} for number in range(14)]
    pieces = run(tmp_path / "pieces", rows, *settings, "plan.window_s=1800")
    assert long.text == " ".join(pieces[row["id"]].text for row in rows)
    moved = [
        segment.start_s + edges[number] for number, row in enumerate(rows) for segment in pieces[row["id"]].segments
    ]
    assert [segment.start_s for segment in long.segments] == pytest.approx(moved)
    assert long.duration_s == pytest.approx(600.0)
    assert unaccounted(long) == []


def test_speakers_of_two_windows_are_told_apart_and_named(reading: Samples, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", reading[: 90 * SAMPLE_RATE_HZ], SAMPLE_RATE_HZ)
    settings = fake_settings("-", "-", **{"plan.window_s": 45, "plan.shard_s": 45, "engine.options": "{speakers: 2}"})[
        2:
    ]
    bare = {"id": "long", "uri": str(tmp_path / "long.flac")}
    labels = {segment.speaker for segment in run(tmp_path / "bare", [bare], *settings)["long"].segments}
    (seam_s,) = seams(tmp_path / "bare" / "out")
    of_the_second_window = sorted(label for label in labels if label and label.startswith("Speaker 1 @0:00:"))
    assert {"Speaker 1", "Speaker 2"} < labels
    assert float(of_the_second_window[-1].rpartition(":")[2]) > seam_s
    names = {"1": "Anna", of_the_second_window[-1]: "Ben"}
    named = run(tmp_path / "named", [{**bare, "speakers": names}], *settings)["long"]
    found = {segment.speaker for segment in named.segments}
    assert found == (labels - {"Speaker 1", of_the_second_window[-1]}) | {"Anna", "Ben"}
    assert {word.speaker for segment in named.segments for word in segment.words} == found


def compare(folder: Path, audio: Path, reference: str, *settings: str, windows_s: list[int]) -> None:
    row = {"id": "x", "uri": str(audio), "text": reference}
    uncut = run(folder / "uncut", [row], *settings, "plan.window_s=7200")["x"]
    assert uncut.word_errors is not None
    for window_s in windows_s:
        place = folder / f"{window_s}"
        cut = run(place, [row], *settings, f"plan.window_s={window_s}", f"plan.shard_s={2 * window_s}")["x"]
        assert cut.word_errors is not None
        assert len(seams(place / "out")) >= uncut.duration_s // window_s
        rates = error_rate(cut.word_errors), error_rate(uncut.word_errors)
        print(f"windows of {window_s} s: {rates[0]:.2%}; uncut {rates[1]:.2%}")
        assert abs(rates[0] - rates[1]) <= 0.005, window_s
        assert (unaccounted(cut), cut.status) == ([], "ok")
        assert cut.duration_s == pytest.approx(uncut.duration_s)


def test_a_recording_in_windows_reads_as_it_does_uncut(shared_data: Path, tmp_path: Path) -> None:
    samples, reference = one_speaker(shared_data)
    soundfile.write(tmp_path / "long.flac", samples, SAMPLE_RATE_HZ)
    compare(tmp_path, tmp_path / "long.flac", reference, "engine.options={beam_size: 1}", windows_s=[60])


@pytest.mark.slow
def test_a_quarter_of_an_hour_in_windows_reads_as_it_does_uncut(shared_data: Path, tmp_path: Path) -> None:
    """Ten readers, the engine's default search. Greedy, one chunk of thirty may end early: 1.5 % of these words."""
    folder = shared_data / "d"
    reference = (folder / "libri_testother_100utt.txt").read_text()
    compare(tmp_path, folder / "libri_testother_100utt.mp3", reference, windows_s=[45, 60, 120])


def repeat_packets(source: Path, target: Path, length_s: float) -> None:
    """A longer recording from the packets of a shorter one, again and again; nothing is encoded anew."""
    with av.open(str(target), "w") as out:
        stream, ticks = None, 0
        while True:
            with av.open(str(source)) as media:
                (audio,) = media.streams.audio
                stream = stream or out.add_stream_from_template(audio)
                end = 0
                for packet in media.demux(audio):
                    if not packet.size:
                        continue
                    end = packet.pts + packet.duration
                    if (ticks + end) * audio.time_base > length_s:
                        return
                    packet.pts = packet.dts = ticks + packet.pts
                    packet.stream = stream
                    out.mux(packet)
                ticks += end


def peak_bytes(command: list[str]) -> int:
    """The most memory that a command and its children hold at once; pages they share count once."""
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            # Between fork and exec a child still is its parent, memory and all: it would count twice.
            children = [one for one in root.children(recursive=True) if one.cmdline() != root.cmdline()]
            peak = max(peak, sum(one.memory_full_info().pss for one in (root, *children)))
        except psutil.Error:
            continue
        time.sleep(0.05)
    assert process.returncode == 0
    return peak


@pytest.mark.slow
def test_ten_hours(shared_data: Path, tmp_path: Path) -> None:
    source, long = shared_data / "d/libri_65min_mixed.opus", tmp_path / "ten hours.opus"
    repeat_packets(source, long, 36_000.0)
    row = {"id": "long", "uri": str(long), "lang": "en"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    options = {"plan.window_s": 1800, "plan.shard_s": 1800, "chunk.vad": "silero", "source.roots": '["/"]'}
    settings = fake_settings(tmp_path / "manifest.jsonl", tmp_path / "out", **options)
    peak = peak_bytes([sys.executable, "-m", "pipeline.cli", "run", *settings])
    print(f"peak {peak / 2**20:.0f} MiB")
    assert peak < MEMORY_BYTES
    (found,) = map(transcript_of, table(tmp_path / "out").to_pylist())
    assert found.duration_s == pytest.approx(36_000.0, abs=1.0)
    assert (found.status, unaccounted(found), len(seams(tmp_path / "out"))) == ("ok", [], 19)
    starts = [segment.start_s for segment in found.segments]
    assert starts == sorted(starts)
    assert starts[-1] > 35_950

    with av.open(str(source)) as media:
        (audio,) = media.streams.audio
        period_s = float(max(p.pts + p.duration for p in media.demux(audio) if p.size) * audio.time_base)
    places = [100.0, 2000.0]
    early = [{"id": f"early-{n}", "uri": str(source), "offset": s, "duration": 55.0} for n, s in enumerate(places)]
    late = [
        {**r, "id": f"late-{n}", "uri": str(long), "offset": r["offset"] + 7 * period_s} for n, r in enumerate(early)
    ]
    heard = run(tmp_path / "whisper", [*early, *late])
    for number in range(len(places)):
        texts = [heard[f"{when}-{number}"].text for when in ("early", "late")]
        # The packets are the same, but the decoder comes to them by another way: a word in a hundred may differ.
        assert len(texts[0].split()) > 80
        assert jiwer.wer(*texts) <= 0.03
