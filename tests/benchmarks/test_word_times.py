"""Word times against aligned references: how they are compared, and that those of Whisper stay near."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import numpy as np
import pytest
from word_times import SETS, Clip, clips_of, deviations, table_row

from pipeline.config import EngineConfig
from pipeline.engines.base import create_engine
from pipeline.records import ChunkAudio, Hypothesis, Word


def test_only_words_that_both_heard_are_compared() -> None:
    true = (Word("so", 0.0, 0.5), Word("it's", 0.5, 1.0), Word("over", 1.0, 1.5), Word("now", 1.5, 2.0))
    clip = Clip("c", np.zeros(16_000, np.int16), true)
    given = (Word("It's,", 0.6, 1.1), Word("-", 1.1, 1.1), Word("older", 1.1, 1.6), Word("Now.", 1.4, None))
    measured = deviations([clip, clip], [Hypothesis("x", words=given), Hypothesis("")])
    assert measured.starts_s.tolist() == pytest.approx([0.1, -0.1])
    assert measured.ends_s.tolist() == pytest.approx([0.1])
    assert table_row("x", measured) == "| x | 2 of 8 | 100 ms | 100 ms | 100.0% | 100 ms | 100 ms | 100.0% |"


def test_whispers_word_times_stay_near(shared_data: Path) -> None:
    clips = list(clips_of(shared_data, next(iter(SETS)), at_most=8))
    engine = create_engine(EngineConfig(language="en", threads=1, options={"word_times": True, "beam_size": 1}))
    engine.load()
    measured = deviations(clips, engine.transcribe([ChunkAudio(clip.samples, "en") for clip in clips]))
    engine.close()
    assert len(measured.starts_s) > 0.6 * measured.words
    assert np.abs(measured.starts_s).mean() < 0.25  # 0.14 and 0.16 over all 104 clips (benchmarks/RESULTS.md)
    assert np.abs(measured.ends_s).mean() < 0.25
    assert 0.0 < np.median(measured.starts_s) < 0.2, "Whisper hears words begin a tenth of a second late"
