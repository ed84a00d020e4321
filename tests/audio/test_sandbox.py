"""The decoder process: what it may not do, how it ends, what that costs the reader (F5, F8, F9, F27)."""

from __future__ import annotations

import io
import os
import resource
import signal as signals
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from made_audio import encode, reference_movie, signal

from pipeline.audio import wire
from pipeline.audio.reader import AudioReader
from pipeline.audio.sandbox import SampleBuffer
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError
from pipeline.records import Recording

LIMITS = {
    "AS": resource.RLIMIT_AS,
    "CORE": resource.RLIMIT_CORE,
    "FSIZE": resource.RLIMIT_FSIZE,
    "NOFILE": resource.RLIMIT_NOFILE,
}


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    (tmp_path / "a.flac").write_bytes(encode(signal(20, 16_000), 16_000, "flac", "flac"))
    return Recording("x", str(tmp_path / "a.flac"))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[AudioReader]:
    with AudioReader(DecodeConfig(timeout_s=60), SourceConfig(), [str(tmp_path)]) as reader:
        yield reader


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[AudioReader]:
    """A reader that waits for two seconds."""
    config = DecodeConfig(timeout_s=2.0, timeout_per_audio_s=0.001)
    with AudioReader(config, SourceConfig(), [str(tmp_path)]) as reader:
        yield reader


def long_opus(path: Path, minutes: int) -> Recording:
    """Long to decode."""
    rate = 48_000
    path.write_bytes(
        encode(np.tile(signal(60, rate), minutes), rate, "ogg", "libopus", options={"compression_level": "0"})
    )
    return Recording("x", str(path))


def at_work(reader: AudioReader, recording: Recording, act: int) -> None:
    """Send a signal to the decoder while it decodes."""
    reader.read(recording, 0, 0.1)
    pid = reader.decoder_pid
    assert pid is not None
    before = psutil.Process(pid).cpu_times().user

    def wait_and_act() -> None:
        while psutil.Process(pid).cpu_times().user < before + 0.1:
            time.sleep(0.005)
        os.kill(pid, act)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        reader.read(recording, 0, None)
    finally:
        thread.join()


def test_a_decoder_that_stands_still_is_ended(hasty: AudioReader, tmp_path: Path) -> None:
    recording = long_opus(tmp_path / "long.opus", 4)
    begun = time.monotonic()
    with pytest.raises(AudioError, match="longer than") as caught:
        at_work(hasty, recording, signals.SIGSTOP)
    assert caught.value.code == "decode_timeout"
    assert time.monotonic() - begun < 8
    assert len(hasty.read(recording, 0, 1.0).samples) == 16_000  # a new one answers


@pytest.mark.parametrize("how", [signals.SIGKILL, signals.SIGSEGV])
def test_a_decoder_that_the_machine_killed_decodes_again(
    reader: AudioReader, tmp_path: Path, how: signals.Signals
) -> None:
    recording = long_opus(tmp_path / "long.opus", 4)
    pid = reader.decoder_pid
    at_work(reader, recording, how)
    assert reader.decoder_pid != pid


def test_an_object_that_always_kills_the_decoder_costs_itself(reader: AudioReader, tmp_path: Path) -> None:
    recording = long_opus(tmp_path / "long.opus", 10)
    reader.read(recording, 0, 0.1)
    over = threading.Event()

    def kill_every_decoder() -> None:
        while not over.is_set():
            pid = reader.decoder_pid
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if pid and psutil.Process(pid).cpu_times().user > 0.4:  # past its start, amid decoding
                    os.kill(pid, signals.SIGKILL)
            time.sleep(0.005)

    killer = threading.Thread(target=kill_every_decoder)
    killer.start()
    try:
        with pytest.raises(AudioError, match="signal 9") as caught:
            reader.read(recording, 0, None)
    finally:
        over.set()
        killer.join()
    assert caught.value.code == "decoder_crashed"
    assert len(reader.read(recording, 0, 1.0).samples) == 16_000


def test_a_decoder_that_died_between_objects_costs_nothing(reader: AudioReader, recording: Recording) -> None:
    first = reader.read(recording, 0, 1.0).samples
    pid = reader.decoder_pid
    assert pid is not None
    os.kill(pid, signals.SIGKILL)
    psutil.Process(pid).wait(5) if psutil.pid_exists(pid) else None
    np.testing.assert_array_equal(reader.read(recording, 0, 1.0).samples, first)
    assert reader.decoder_pid != pid


def test_nothing_is_left_behind(recording: Recording, tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        for _ in range(50):
            reader.read(recording, 0, 0.2)
        pid = reader.decoder_pid
        assert pid is not None
        assert psutil.Process(pid).num_fds() < 20
        assert len(os.listdir("/proc/self/fd")) < descriptors + 5
    assert not psutil.pid_exists(pid)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_child_knows_no_secrets_and_has_no_rights(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "QUARRY_CANARY"):
        monkeypatch.setenv(name, "canary-of-this-test")
    with AudioReader(DecodeConfig(memory_bytes=2**30), SourceConfig(), [str(tmp_path)]) as reader:
        reader.read(recording, 0, 1.0)
        child = psutil.Process(reader.decoder_pid)
        limits = {name: child.rlimit(limit) for name, limit in LIMITS.items()}
        try:
            environment = Path(f"/proc/{child.pid}/environ").read_bytes()
        except PermissionError:
            pytest.skip("another process's environment cannot be read here")
        assert b"PYTHONPATH" in environment
        assert b"canary" not in environment
        assert b"canary" not in b" ".join(part.encode() for part in child.cmdline())
        assert limits == {"AS": (2**30, 2**30), "CORE": (0, 0), "FSIZE": (0, 0), "NOFILE": (64, 64)}
        assert child.pid == os.getsid(child.pid) != os.getsid(0)
        assert child.cwd() == "/"
        held = {os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")}
        assert all(
            name.startswith(("/dev/null", "/memfd:samples", "socket:", "pipe:", "anon_inode:")) for name in held
        ), held


def test_media_that_name_others_reach_nobody(tmp_path: Path) -> None:
    """Playlists, descriptions and containers with outside references: the victim hears nothing, the secret stays (F27)."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encode(signal(3, 16_000), 16_000, "wav", "pcm_s16le"))
    with socket.create_server(("127.0.0.1", 0)) as victim:
        victim.setblocking(False)
        url = f"http://127.0.0.1:{victim.getsockname()[1]}/a.mp3"
        texts = {
            "hls.m3u8": f"#EXTM3U\n#EXTINF:3,\n{url}\n#EXTINF:3,\nfile://{secret}\n#EXT-X-ENDLIST\n",
            "hls.mp3": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{secret}\n#EXT-X-ENDLIST\n",
            "concat.wav": f"ffconcat version 1.0\nfile '{secret}'\n",
            "concat_url.wav": f"ffconcat version 1.0\nfile '{url}'\n",
            "dash.mpd": f'<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>{url}</BaseURL>'
            "</Representation></AdaptationSet></Period></MPD>",
            "sdp.wav": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
            "smil.wav": f'<smil><body><audio src="{url}"/></body></smil>',
            "list.wav": f"{secret}\n",
            "srt.wav": "1\n00:00:00,000 --> 00:00:01,000\nx\n",
            "pls.wav": f"[playlist]\nFile1={url}\nNumberOfEntries=1\n",
            "asx.wma": f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
            "xspf.wav": f'<playlist xmlns="http://xspf.org/ns/0/"><trackList><track><location>{url}</location></track></trackList></playlist>',
            "ram.rm": f"{url}\n",
            "xinclude.wav": f'<!DOCTYPE a [<!ENTITY x SYSTEM "{url}">]><MPD>&x;</MPD>',
        }
        with AudioReader(DecodeConfig(timeout_s=10), SourceConfig(), [str(tmp_path)]) as reader:
            for name, text in texts.items():
                (tmp_path / name).write_text(text)
                with pytest.raises(AudioError) as caught:
                    reader.read(Recording("x", str(tmp_path / name)), 0, None)
                assert caught.value.code == "not_audio", name
            (tmp_path / "reference.mov").write_bytes(reference_movie(url))
            with pytest.raises(AudioError):
                reader.read(Recording("x", str(tmp_path / "reference.mov")), 0, None)
        with pytest.raises(BlockingIOError):
            victim.accept()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"?",
        wire.DONE,
        wire.DONE + wire.FILLED_FORMAT.pack(0, wire.AREA_BYTES + 2) + b"{}",
        wire.DONE + wire.FILLED_FORMAT.pack(0, 3) + b"{}",
        wire.DONE + wire.FILLED_FORMAT.pack(1, 2) + b"{}",
        wire.DONE + wire.FILLED_FORMAT.pack(wire.AREA_BYTES, 2) + b"{}",
        wire.DONE + bytes(8) + b"[" * 8_000,
        wire.DONE + bytes(8) + b'["decoder"]',
        wire.DONE + bytes(8) + b'{"decoder": 7}',
        wire.DONE + bytes(8) + b'{"codec": "\\ud800"}',
        wire.DONE + bytes(8) + b'{"source_rate_hz": 99999999999999}',
        wire.DONE + bytes(8) + b'{"missing_s": NaN}',
        wire.DONE + bytes(8) + b'{"__class__": "os"}',
        wire.PCM + b"1",
        wire.RANGE + wire.RANGE_FORMAT.pack(0, 2**40),
        wire.FAILED + b'{"code": ["fetch_failed"]}',
        wire.FAILED + b"\xff",
        wire.BYTES + b"turned round",
    ],
)
def test_a_decoder_that_was_taken_over_confuses_nobody(recording: Recording, tmp_path: Path, said: bytes) -> None:
    """Whatever it says costs the object alone."""
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        reader.read(recording, 0, 0.1)
        decoder = reader._decoder
        assert decoder._socket is not None
        decoder._socket.close()
        decoder._socket, theirs = wire.socket_pair()
        with theirs:
            theirs.send(said)
            blob = reader._open(recording, (None, None))
            with pytest.raises(AudioError) as caught:
                decoder.call(wire.Request(end=16_000, limit=16_000), blob, SampleBuffer(16_000, 16_000), 5.0)
        assert caught.value.code == "decoder_crashed"
        assert len(reader.read(recording, 0, 1.0).samples) == 16_000


def test_more_audio_than_was_asked_for_is_refused(recording: Recording, tmp_path: Path) -> None:
    """A decoder that was taken over cannot fill the reader's memory with ten seconds' leave."""
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        reader.read(recording, 0, 0.1)
        blob = reader._open(recording, (None, None))
        with pytest.raises(AudioError, match="more audio than was asked for"):
            reader._decoder.call(wire.Request(end=32_000, limit=32_000), blob, SampleBuffer(16_000, 16_000), 5.0)
        assert reader.decoder_pid is None


def test_the_memory_for_samples_keeps_its_size() -> None:
    """A mapping that shrinks would kill the reader, one that grows would fill the machine."""
    fd = wire.create_area()
    for size in (0, 2 * wire.AREA_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    area = wire.map_area(fd, writable=False)
    with pytest.raises(TypeError):
        area[0] = 1


def test_a_bomb_is_cut(tmp_path: Path) -> None:
    """Hours of silence in few bytes, behind a header that says nothing of them (F9)."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 48_000, 1, format="FLAC", subtype="PCM_16") as file:
        minute = np.zeros(48_000 * 60, np.int16)
        for _ in range(180):
            file.write(minute)
    data = bytearray(buffer.getvalue())
    assert len(data) < 3_000_000
    path = tmp_path / "bomb.flac"
    with AudioReader(DecodeConfig(max_audio_s=3600), SourceConfig(), [str(tmp_path)]) as reader:
        path.write_bytes(data)
        for ask in (
            lambda: reader.read(Recording("x", str(path)), 0, None),
            lambda: reader.probe(Recording("x", str(path))),
        ):
            with pytest.raises(AudioError) as caught:
                ask()
            assert caught.value.code == "audio_too_long"
        data[21] &= 0xF0  # STREAMINFO: the number of samples is 36 bits from here; 0: unknown
        data[22:26] = bytes(4)
        path.write_bytes(data)
        with pytest.raises(AudioError) as caught:
            reader.read(Recording("x", str(path)), 0, None)
        assert caught.value.code == "audio_too_long"
        assert len(reader.read(Recording("x", str(path)), 3000.0, 3001.0).samples) == 16_000


@pytest.mark.slow  # a minute to make
@pytest.mark.timeout(600)
def test_a_hundred_hours_are_stopped_at_the_cap_in_little_memory(tmp_path: Path) -> None:
    """A hundred hours of nothing in tens of MB, with and without a header that admits it (F9)."""
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 16_000, 2, format="FLAC", subtype="PCM_16") as file:
        minute = np.zeros((16_000 * 60, 2), np.int16)
        for _ in range(100 * 60):
            file.write(minute)
    assert 10_000_000 < path.stat().st_size < 100_000_000
    hours = 2
    config = DecodeConfig(max_audio_s=hours * 3600)
    with AudioReader(config, SourceConfig(), [str(tmp_path)]) as reader:
        recording = Recording("x", str(path))
        with pytest.raises(AudioError, match="360000 s") as caught:
            reader.probe(recording)
        assert caught.value.code == "audio_too_long"
        with path.open("r+b") as raw:
            raw.seek(21)
            nibble = raw.read(1)[0] & 0xF0  # STREAMINFO: 36 bits of samples; 0: unknown
            raw.seek(21)
            raw.write(bytes([nibble, 0, 0, 0, 0]))
        reader.read(recording, 0, 1.0)
        child = psutil.Process(reader.decoder_pid)
        before, own = child.memory_info().rss, psutil.Process().memory_info().rss
        begun_s = sum(child.cpu_times()[:2])
        with pytest.raises(AudioError) as caught:
            reader.read(recording, 0, None)
        assert caught.value.code == "audio_too_long"
        spent_s = sum(child.cpu_times()[:2]) - begun_s
        grown, ours = child.memory_info().rss - before, psutil.Process().memory_info().rss - own
        print(
            f"100 h in {path.stat().st_size / 1e6:.0f} MB, cut at {hours} h: {spent_s:.1f} CPU s, child {grown / 2**20:+.0f} MiB"
        )
        assert grown < 40 * 2**20
        assert ours < hours * 3600 * 32_000 + 40 * 2**20  # what was taken in until then, and no more


@pytest.mark.parametrize(
    "minutes", [10, pytest.param(60, marks=pytest.mark.slow), pytest.param(600, marks=pytest.mark.slow)]
)
def test_length_costs_no_memory(tmp_path: Path, minutes: int) -> None:
    """The child decodes stereo for as long as it lasts in the same memory, below the size of its PCM (F5)."""
    path = tmp_path / "hour.flac"
    with soundfile.SoundFile(path, "w", 44_100, 2, format="FLAC", subtype="PCM_16") as file:
        minute = (np.stack([signal(60, 44_100), signal(60, 44_100, seed=1)], axis=1) * 32767).astype(np.int16)
        for _ in range(minutes):
            file.write(minute)
    with AudioReader(DecodeConfig(memory_bytes=512 * 2**20), SourceConfig(), [str(tmp_path)]) as reader:
        recording = Recording("x", str(path))
        reader.read(recording, 0, 1.0)
        child = psutil.Process(reader.decoder_pid)
        before = child.memory_info().rss
        audio = reader.read(recording, 0, None)
        assert len(audio.samples) == minutes * 60 * 16_000
        assert child.memory_info().rss - before < 40 * 2**20
