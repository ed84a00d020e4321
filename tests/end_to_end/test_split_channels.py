"""Calls with a side on each channel: one transcript whose segments say their channel, by start, from decoder to export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from running import fake_settings, quarry, table

from pipeline.audio.reader import AudioReader
from pipeline.audio.window import decode_window
from pipeline.config import ChunkConfig, DecodeConfig, PlanConfig, SourceConfig
from pipeline.records import SAMPLE_RATE_HZ, SPLIT, Recording, Samples, Window
from pipeline.text.timeline import audit

SPEAKERS = {"0": "agent", "1": "customer"}


def speech(folder: Path) -> list[Samples]:
    clips = sorted((folder / "a" / "pocketsphinx-librivox").glob("*.wav"))[1:]
    return [soundfile.read(clip, dtype="int16")[0] for clip in clips]


def call(clips: list[Samples]) -> Samples:
    """A conversation: the clips in turn on two channels, half a second between them. int16 [n, 2]."""
    pause = SAMPLE_RATE_HZ // 2
    sides = np.zeros((sum(len(clip) + pause for clip in clips), 2), np.int16)
    at = 0
    for turn, clip in enumerate(clips):
        sides[at : at + len(clip), turn % 2] = clip
        at += len(clip) + pause
    return sides


def manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def covered(row: dict[str, Any], channel: int) -> bool:
    """The timeline of one channel: every second in one of its segments or in a span that is said of it."""
    pieces = [one for one in row["segments"] if one["channel"] == channel]
    pieces += [one for one in row["spans"] if one["channel"] in (None, channel)]
    return not audit(0.0, row["duration_s"], [(one["start_s"], one["end_s"]) for one in pieces])


def test_channels_are_heard_apart_and_told_in_turn(shared_data: Path, tmp_path: Path) -> None:
    clips = speech(shared_data)
    soundfile.write(tmp_path / "call.wav", call(clips), SAMPLE_RATE_HZ)
    soundfile.write(tmp_path / "mono.flac", clips[0], SAMPLE_RATE_HZ)
    soundfile.write(tmp_path / "many.wav", np.zeros((800, 9), np.int16), SAMPLE_RATE_HZ)
    rows = [
        {"id": "call", "uri": "call.wav", "channel": "split", "speakers": SPEAKERS},
        {"id": "left", "uri": "call.wav", "channel": 0},
        {"id": "right", "uri": "call.wav", "channel": 1},
        {"id": "mono", "uri": "mono.flac", "channel": "split", "speakers": SPEAKERS},
        {"id": "none", "uri": "mono.flac", "channel": 1},
        {"id": "many", "uri": "many.wav", "channel": "split"},
    ]
    output = tmp_path / "out"
    done = quarry("run", *fake_settings(manifest(tmp_path, rows), output, **{"chunk.vad": "silero"}))
    assert done.returncode == 1, done.stderr
    found = {row["id"]: row for row in table(output).to_pylist()}
    call_row = found["call"]
    segments = call_row["segments"]
    assert [segment["channel"] for segment in segments] == [turn % 2 for turn in range(len(segments))]
    assert [segment["speaker"] for segment in segments] == ["agent", "customer"] * (len(segments) // 2)
    starts = [segment["start_s"] for segment in segments]
    assert starts == sorted(starts)
    assert len(segments) == len(clips)
    assert call_row["text"] == " ".join(segment["text"] for segment in segments)
    assert covered(call_row, 0)
    assert covered(call_row, 1)
    assert {segment["channel"] for segment in found["mono"]["segments"]} == {0}
    assert {segment["speaker"] for segment in found["mono"]["segments"]} == {"agent"}
    assert (found["none"]["status"], found["none"]["failure"]["code"]) == ("failed", "no_such_channel")
    assert (found["many"]["status"], found["many"]["failure"]["code"]) == ("failed", "channels_unsplit")
    check_exports(tmp_path, output)
    check_weights(output, call_row)


def check_weights(output: Path, call_row: dict[str, Any]) -> None:
    """Headers told the plan how many channels there are; the engine's speed counts what it heard, hours count recordings."""
    (plan,) = (path for path in output.glob("*/plan/*.parquet") if ".shards." not in path.name)
    weights = {row["id"]: row["split_channels"] for row in pq.read_table(plan).to_pylist()}
    assert weights == {"call": 2, "left": 1, "right": 1, "mono": 1, "none": 1, "many": 8}
    assert call_row["rtfx"] == pytest.approx(2 * call_row["duration_s"] / call_row["engine_s"])
    (found,) = output.glob("*/tables/*/run.json")
    totals = json.loads(found.read_text())["totals"]
    (run,) = (path for path in output.iterdir() if path.is_dir())
    assert f" {totals['channels_s']:.0f} s of audio in" in quarry("report", str(run)).stdout, "what the ratio is of"
    assert totals["channels_s"] == pytest.approx(totals["audio_s"] + call_row["duration_s"])


def check_exports(folder: Path, output: Path) -> None:
    settings = fake_settings(folder / "calls.jsonl", output, **{"chunk.vad": "silero"})
    texts = {}
    for form in ("rttm", "vtt", "srt"):
        done = quarry("export", "--format", form, "--to", str(folder / form), *settings)
        assert done.returncode == 0, done.stderr
        (path,) = (folder / form).rglob("*.rttm" if form == "rttm" else f"call.{form}")
        texts[form] = path.read_text()
    lines = [line.split() for line in texts["rttm"].splitlines()]
    assert [(line[2], line[7]) for line in lines if line[1] == "call"] == [("1", "agent")] * 2 + [("2", "customer")] * 2
    assert texts["vtt"].count("<v customer>") == 2
    assert texts["srt"].index("agent:") < texts["srt"].index("customer:")


def test_each_channel_is_what_it_is_alone_at_every_rate(shared_data: Path, tmp_path: Path) -> None:
    """One decoding for all channels gives what one decoding for each gives, sample for sample, also from the middle."""
    sides = call(speech(shared_data))[: 8 * SAMPLE_RATE_HZ]
    for name, rate_hz in (("a.wav", SAMPLE_RATE_HZ), ("b.flac", 44_100), ("c.ogg", 48_000)):
        soundfile.write(tmp_path / name, sides, rate_hz)
        with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
            uri = str(tmp_path / name)
            for start_s, end_s in ((0.0, None), (1.3, 2.6)):
                together = reader.read(Recording("x", uri, channel=SPLIT), start_s, end_s)
                assert together.report.split_channels == 2
                for channel in range(2):
                    alone = reader.read(Recording("x", uri, channel=channel), start_s, end_s)
                    assert np.array_equal(together.samples[channel], alone.samples), (name, channel)


def test_windows_cut_all_channels_at_one_place(shared_data: Path, tmp_path: Path) -> None:
    """Where neither side speaks; the windows' audio put together is the uncut recording's."""
    sides = np.tile(call(speech(shared_data)), (3, 1))
    path = tmp_path / "long.flac"
    soundfile.write(path, sides, SAMPLE_RATE_HZ)
    length_s = len(sides) / SAMPLE_RATE_HZ
    recording = Recording("long", str(path), channel=SPLIT)
    plan = PlanConfig(window_s=31, overlap_s=8)
    pieces, reached_s = [], 0.0
    count = 3
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        for index in range(count):
            bounds = (length_s * index / count, length_s * (index + 1) / count)
            window = Window(recording, index, count, *bounds)
            decoded, samples, cuts = decode_window(reader, window, plan, ChunkConfig(vad="energy"), 30.0)
            assert decoded.start_s == reached_s
            reached_s = decoded.end_s
            pieces.append(samples)
            assert {cut.channel for cut in cuts} == {0, 1}
    assert np.array_equal(np.concatenate(pieces, axis=1), sides.T)


@pytest.mark.slow
def test_whisper_hears_both_sides_of_a_call(shared_data: Path, tmp_path: Path) -> None:
    """Words that are said on one channel are in segments of that channel, and the whole is scored against one reference."""
    clips = speech(shared_data)
    soundfile.write(tmp_path / "call.wav", call(clips), SAMPLE_RATE_HZ)
    for number, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{number}.wav", clip, SAMPLE_RATE_HZ)
    alone = [{"id": str(number), "uri": f"{number}.wav"} for number in range(len(clips))]
    whisper = {"engine.name": "whisper", "engine.model": "tiny.en", "chunk.vad": "silero"}
    settings = fake_settings(manifest(tmp_path, alone), tmp_path / "alone", **whisper)
    assert quarry("run", *settings).returncode == 0
    texts = {row["id"]: row["text"] for row in table(tmp_path / "alone").to_pylist()}
    reference = " ".join(texts[str(number)] for number in range(len(clips)))
    row = {"id": "call", "uri": "call.wav", "channel": "split", "text": reference, "speakers": SPEAKERS}
    settings = fake_settings(manifest(tmp_path, [row]), tmp_path / "split", **whisper)
    assert quarry("run", *settings).returncode == 0
    (found,) = table(tmp_path / "split").to_pylist()
    wrong = sum(found[f"word_{kind}"] for kind in ("substitutions", "deletions", "insertions"))
    assert wrong <= 0.1 * found["word_reference_length"]
    for number in range(len(clips)):
        side = " ".join(one["text"] for one in found["segments"] if one["channel"] == number % 2)
        words = {word.strip(".,").lower() for word in texts[str(number)].split()}
        heard = {word.strip(".,").lower() for word in side.split()}
        assert len(words & heard) >= 0.8 * len(words), (texts[str(number)], side)


def test_what_failed_on_one_channel_is_heard_again_on_that_channel(tmp_path: Path) -> None:
    """The engine breaks on one turn of one side; `quarry retry --failed` brings that turn back to its place."""
    noise = np.random.default_rng(3)
    turns = [noise.integers(-9000, 9000, 3 * SAMPLE_RATE_HZ, np.int16) for _ in range(4)]
    turns[2][100] = 12_345
    soundfile.write(tmp_path / "call.wav", call(turns), SAMPLE_RATE_HZ)
    path = manifest(tmp_path, [{"id": "call", "uri": "call.wav", "speakers": SPEAKERS}])
    broken = {"engine.options": "{fail_on_peak: 12345}", "retry.engine.options": "{}", "source.channels": "split"}
    settings = fake_settings(path, tmp_path / "out", **broken)
    quarry("run", *settings)
    (first,) = table(tmp_path / "out").to_pylist()
    assert first["status"] == "partial"
    assert [span["channel"] for span in first["spans"] if span["kind"] == "failed"] == [0]
    done = quarry("retry", "--failed", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    (mended,) = table(tmp_path / "out").to_pylist()
    assert mended["status"] == "ok"
    assert [(one["channel"], one["speaker"]) for one in mended["segments"]] == [(0, "agent"), (1, "customer")] * 2
    assert covered(mended, 0)
    assert covered(mended, 1)
    assert [one["text"] for one in first["segments"]] == [mended["segments"][at]["text"] for at in (0, 1, 3)]
