"""Clips that are read ahead in groups: the same samples, the same verdicts, and a death in the middle costs its culprit alone."""

from __future__ import annotations

import os
import signal as signals
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from made_audio import encode, signal

from pipeline.audio import wire
from pipeline.audio.ahead import Job, Stretch
from pipeline.audio.reader import AudioReader
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError
from pipeline.records import Recording, Samples

CULPRIT = 9


def clips(folder: Path, count: int, length_s: float = 2.0) -> list[Recording]:
    """Short recordings, each its own noise, in three codecs and as plain samples, which need no decoder."""
    kinds = [("flac", "flac"), ("mp3", "libmp3lame"), ("wav", "pcm_s24le"), ("wav", "pcm_s16le")]
    made = []
    for number in range(count):
        container, codec = kinds[number % 4]
        path = folder / f"{number:03d}.{container}"
        path.write_bytes(encode(signal(length_s, 16_000, seed=number), 16_000, container, codec))
        made.append(Recording(f"{number:03d}", str(path)))
    return made


def stretches(recordings: Sequence[Recording], end_s: float = 2.0) -> list[Stretch]:
    return [Stretch(recording, 0.0, end_s, (None, None), likely_s=2.0) for recording in recordings]


def outcome(reader: AudioReader, recording: Recording, end_s: float = 2.0) -> Samples | str:
    try:
        return reader.read(recording, 0.0, end_s).samples
    except AudioError as error:
        return error.code


def assert_same(one: Samples | str, other: Samples | str) -> None:
    assert type(one) is type(other), (one, other)
    np.testing.assert_array_equal(one, other)


def opened(folder: Path, **limits: float) -> AudioReader:
    return AudioReader(DecodeConfig(timeout_s=20, **limits), SourceConfig(), [str(folder)])  # type: ignore[arg-type]


def test_clips_read_ahead_are_those_read_alone(tmp_path: Path) -> None:
    """Also where some are missing, are no audio, are longer than a group's room, or are passed over."""
    recordings = clips(tmp_path, 70)
    Path(recordings[3].uri).unlink()
    Path(recordings[20].uri).write_bytes(b"no audio at all, only words")
    Path(recordings[30].uri).write_bytes(encode(signal(80, 16_000), 16_000, "flac", "flac"))
    recordings[40] = Recording("outside", "/etc/passwd")
    descriptors = len(os.listdir("/proc/self/fd"))
    with opened(tmp_path) as alone, opened(tmp_path) as ahead:
        ahead.announce(stretches(recordings, end_s=90.0))
        for number, recording in enumerate(recordings):
            if number % 11 != 5:
                assert_same(outcome(ahead, recording, 90.0), outcome(alone, recording, 90.0))
        assert outcome(ahead, recordings[3]) == "not_found"
        ahead.announce(stretches(recordings))  # and forgotten half way
        for recording in recordings[4:20]:
            assert_same(outcome(ahead, recording), outcome(alone, recording))
        ahead.announce(())
        assert_same(outcome(ahead, recordings[0]), outcome(alone, recordings[0]))
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_groups_save_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    send = wire.send

    def counted(sock: object, kind: bytes, *rest: object) -> None:
        sent.append(kind)
        send(sock, kind, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(wire, "send", counted)
    recordings = clips(tmp_path, 48)
    with opened(tmp_path) as reader:
        reader.announce(stretches(recordings))
        assert all(len(outcome(reader, recording)) == 32_000 for recording in recordings)
    assert sent == [wire.GROUP] * 3


def test_large_objects_are_not_all_held_open(tmp_path: Path) -> None:
    """Remote ones lie in memory: twice a group's bytes and the one that crossed the line, plain samples or not."""
    (tmp_path / "plain.wav").write_bytes(encode(signal(60, 48_000), 48_000, "wav", "pcm_s16le"))  # 5.8 MB
    (tmp_path / "coded.wav").write_bytes(encode(signal(60, 32_000), 32_000, "wav", "pcm_s24le"))
    for name in ("plain.wav", "coded.wav"):
        recordings = [Recording(str(number), str(tmp_path / name)) for number in range(40)]
        with opened(tmp_path) as reader:
            reader.announce(stretches(recordings))
            for recording in recordings:
                assert len(outcome(reader, recording)) == 32_000
                held = [job.blob.size for _, job in reader._ahead._opened if isinstance(job, Job)]
                assert sum(held) < 2 * 16 * 2**20 + 2 * 6e6


def test_a_worn_decoder_is_replaced_between_groups(tmp_path: Path) -> None:
    recordings = clips(tmp_path, 60)
    with opened(tmp_path, recycle_after_objects=20) as reader:
        reader.announce(stretches(recordings))
        pids = set()
        for recording in recordings:
            assert len(outcome(reader, recording)) == 32_000
            pids.add(reader.decoder_pid)
        assert len(pids - {None}) >= 2


@pytest.mark.parametrize("how", [signals.SIGKILL, signals.SIGSTOP])
def test_a_decoder_that_falls_in_the_middle_of_a_group_loses_nothing(tmp_path: Path, how: signals.Signals) -> None:
    recordings = clips(tmp_path, 40)
    with opened(tmp_path) as alone:
        expected = [outcome(alone, recording) for recording in recordings]
    with AudioReader(DecodeConfig(timeout_s=2.0), SourceConfig(), [str(tmp_path)]) as reader:
        assert_same(outcome(reader, recordings[0]), expected[0])
        pid = reader.decoder_pid
        assert pid is not None
        reader.announce(stretches(recordings))
        for number, recording in enumerate(recordings):
            if number == 5:
                os.kill(pid, how)  # it may be anywhere in its two groups
            assert_same(outcome(reader, recording), expected[number])
        assert reader.decoder_pid != pid


def test_a_clip_that_always_kills_its_decoder_is_the_only_one_that_fails(tmp_path: Path) -> None:
    """Killed in its group and, alone, twice more; those before it are kept, those behind it are read by new ones."""
    recordings = clips(tmp_path, 24)
    Path(recordings[CULPRIT].uri).write_bytes(
        encode(signal(60, 48_000), 48_000, "ogg", "libopus", options={"compression_level": "0"})
    )
    turn, killed = [-1], set()

    def kill_over_the_culprit(reader: AudioReader) -> None:
        while turn[0] < len(recordings):
            pid = reader.decoder_pid
            if turn[0] == CULPRIT and pid and pid not in killed:
                with suppress(ProcessLookupError):
                    os.kill(pid, signals.SIGKILL)
                    killed.add(pid)
            time.sleep(0.001)

    with opened(tmp_path) as reader:
        reader.announce(stretches(recordings, end_s=61.0))
        found = []
        killer = threading.Thread(target=kill_over_the_culprit, args=(reader,))
        killer.start()
        try:
            for number, recording in enumerate(recordings):
                turn[0] = number
                found.append(outcome(reader, recording, 61.0))
        finally:
            turn[0] = len(recordings)
            killer.join()
    assert found[CULPRIT] == "decoder_crashed"
    assert 2 <= len(killed) <= 4
    assert [number for number, one in enumerate(found) if isinstance(one, str)] == [CULPRIT]


@pytest.mark.parametrize(
    "said",
    [
        b"?",
        wire.PCM + wire.FILLED_FORMAT.pack(0, 2),
        wire.RANGE + wire.RANGE_FORMAT.pack(0, 10),
        wire.BYTES,
        wire.DONE + wire.FILLED_FORMAT.pack(0, 2) + b"{}",
        wire.ANSWERS,
        wire.ANSWERS + b"D",
        wire.ANSWERS + wire.pack_answer(wire.FULL, b"")[:-1] + b"\xff",
        wire.ANSWERS + wire.pack_answer(b"?", b"{}"),
        wire.ANSWERS + wire.pack_answer(wire.DONE, wire.FILLED_FORMAT.pack(0, 2**30) + b"{}"),
        wire.ANSWERS + wire.pack_answer(wire.FAILED, b'{"code": "' + bytes(9_000)),
        wire.ANSWERS + wire.pack_answer(wire.FULL, b"") * 1_000,
        wire.ANSWERS
        + wire.pack_answer(wire.DONE, wire.FILLED_FORMAT.pack(0, 2) + b'{"missing_s": 1%s}' % (b"0" * 400)),
        wire.ANSWERS + wire.pack_answer(wire.FULL, b"") + wire.pack_answer(wire.DONE, b""),
    ],
)
def test_a_decoder_that_was_taken_over_says_what_no_group_allows(tmp_path: Path, said: bytes) -> None:
    recordings = clips(tmp_path, 4)
    with opened(tmp_path) as reader:
        assert len(outcome(reader, recordings[0])) == 32_000
        decoder = reader._decoder
        assert decoder._socket is not None
        decoder._socket.close()
        decoder._socket, theirs = wire.socket_pair()
        with theirs:
            theirs.send(said)
            reader.announce(stretches(recordings))
            assert all(len(outcome(reader, recording)) == 32_000 for recording in recordings)
