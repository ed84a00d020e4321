"""Damaged media of every kind end as samples or as a failure of that object: no crash, no hang, no flood (F7, G5)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from damaged_audio import SEEDS, mutant, whole
from made_audio import encode, signal

from pipeline.audio.reader import AudioReader
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError
from pipeline.records import Recording

MUTANTS = 12  # `make fuzz` has thousands, through the whole command
ENDS = {
    "not_audio",
    "bad_header",
    "no_audio_stream",
    "unsupported_codec",
    "decode_error",
    "audio_too_long",
    "empty_file",
}


@pytest.mark.parametrize("name", SEEDS)
def test_no_damage_reaches_the_reader(name: str, tmp_path: Path) -> None:
    data = whole(name)
    random = np.random.default_rng(len(name))
    config = DecodeConfig(timeout_s=10, timeout_per_audio_s=0, max_audio_s=3600)
    with AudioReader(config, SourceConfig(), [str(tmp_path)]) as reader:
        for number in range(MUTANTS):
            path = tmp_path / f"{number}.bin"
            path.write_bytes(mutant(data, random))
            recording, begun = Recording("x", str(path)), time.monotonic()
            for ask in (
                lambda r=recording: reader.read(r, 0, None),
                lambda r=recording: reader.read(r, 1, 2),
                lambda r=recording: reader.probe(r),
            ):
                try:
                    ask()
                except AudioError as error:
                    code = error.code
                    assert code in ENDS, (number, code)
            assert time.monotonic() - begun < 10
            path.unlink()


@pytest.mark.parametrize("order", [(2, 1), (1, 2)])
def test_audio_whose_channels_change_on_the_way_is_read_to_its_end(order: tuple[int, int], tmp_path: Path) -> None:
    """Once the end of the decoder's process: found by the fuzzer in a transport stream."""
    parts = [np.stack([signal(2, 22_050)] * channels) for channels in order]
    data = b"".join(encode(part, 22_050, "adts", "aac", bit_rate=64_000) for part in parts)
    (tmp_path / "changes.aac").write_bytes(data)
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        audio = reader.read(Recording("x", str(tmp_path / "changes.aac")), 0, None)
    assert audio.report.decoded_s == pytest.approx(4.0, abs=0.2)
    assert any(warning.startswith("format_changes") for warning in audio.report.warnings)
