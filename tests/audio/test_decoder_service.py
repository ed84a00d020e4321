"""The decoder process at work: how it starts, what it tells of itself, when it is replaced (F5)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from made_audio import encode, signal

from pipeline.audio.reader import AudioReader
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.records import Recording


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    (tmp_path / "a.flac").write_bytes(encode(signal(20, 16_000), 16_000, "flac", "flac"))
    return Recording("x", str(tmp_path / "a.flac"))


def test_it_starts_fast_and_imports_little(recording: Recording, tmp_path: Path) -> None:
    begun = time.process_time()
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        reader.read(recording, 0, 0.1)
        child = psutil.Process(reader.decoder_pid)
        assert sum(child.cpu_times()[:2]) < 1.5
        maps = Path(f"/proc/{child.pid}/maps")
        try:
            loaded = maps.read_text()
        except PermissionError:
            loaded = ""
        for foreign in ("pyarrow", "pydantic", "torch", "ray/", "pandas"):
            assert foreign not in loaded
    assert time.process_time() - begun < 1.0


def test_it_tells_what_decoding_took(recording: Recording, tmp_path: Path) -> None:
    """With a limit on its processor time a process's own clock stands still between ticks: it would report half."""
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        reader.read(recording, 0, None)
        spent = sum(psutil.Process(reader.decoder_pid).cpu_times()[:2])
        told = sum(reader.read(recording, 0, None).report.decode_s for _ in range(200))
        spent = sum(psutil.Process(reader.decoder_pid).cpu_times()[:2]) - spent
    assert 0.75 * spent < told < 1.1 * spent


def test_a_worn_decoder_is_replaced_and_loses_nothing(recording: Recording, tmp_path: Path) -> None:
    """After so many objects, or above so much resident memory; the samples stay the same (F5)."""
    with AudioReader(DecodeConfig(recycle_after_objects=3), SourceConfig(), [str(tmp_path)]) as reader:
        first, pids = reader.read(recording, 0, 5.0).samples, set()
        for _ in range(8):
            np.testing.assert_array_equal(reader.read(recording, 0, 5.0).samples, first)
            pids.add(reader.decoder_pid)
        assert len(pids - {None}) == 3, "three objects each; None: the next one is not started before it is needed"
        assert all(not psutil.pid_exists(pid) for pid in pids - {None, reader.decoder_pid})


def test_a_decoder_that_grew_is_replaced(recording: Recording, tmp_path: Path) -> None:
    """What a child holds is measured from outside: a real process with real memory, looked at every 64 objects."""
    config = DecodeConfig(recycle_above_bytes=128 * 2**20)
    with AudioReader(config, SourceConfig(), [str(tmp_path)]) as reader:
        for _ in range(64):
            reader.read(recording, 0, 0.1)
        pid = reader.decoder_pid
        assert pid is not None, "it is small and stays"
        resident = psutil.Process(pid).memory_info().rss
        reader._decoder._recycle_above_bytes = resident - 2**20  # as if it had grown: below what it holds
        for _ in range(64):
            assert len(reader.read(recording, 0, 0.1).samples) == 1600
        assert not psutil.pid_exists(pid)
