from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio import vad
from pipeline.audio.chunk import cut_chunks
from pipeline.audio.vad import padded, speech_spans
from pipeline.config import ChunkConfig
from pipeline.records import SAMPLE_RATE_HZ

MODES = ("silero", "energy")
LONG = "d/libri_testother_100utt"


def read(path: Path) -> np.ndarray:
    samples, rate_hz = soundfile.read(path, dtype="int16")
    assert samples.ndim == 1
    return samples if rate_hz == SAMPLE_RATE_HZ else soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)


def held(spans, n_samples: int) -> np.ndarray:
    """True for each sample that lies in a span."""
    mask = np.zeros(n_samples, bool)
    for start, end in spans:
        mask[start:end] = True
    return mask


def word_times(shared_data: Path) -> dict[str, list[tuple[float, float]]]:
    """Start and end of each word, by utterance."""
    words: dict[str, list[tuple[float, float]]] = {}
    for line in (shared_data / "g/hmm-align/gold_read.ctm").read_text().splitlines():
        name, _, start_s, length_s, _ = line.split()
        words.setdefault(name, []).append((float(start_s), float(start_s) + float(length_s)))
    return words


def long_reading(shared_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """13 minutes of joined utterances, and which of their samples lie in an aligned word."""
    samples = read(shared_data / f"{LONG}.mp3")
    stm = (shared_data / f"{LONG}.stm").read_text().splitlines()
    starts_s = [float(line.split()[3]) for line in stm]
    names = [path.stem for path in sorted((shared_data / "a/librispeech-test-other").glob("*.flac"))]
    words = word_times(shared_data)
    times = [
        (round((start_s + word_start_s) * SAMPLE_RATE_HZ), round((start_s + word_end_s) * SAMPLE_RATE_HZ))
        for start_s, name in zip(starts_s, names, strict=True)
        for word_start_s, word_end_s in words.get(name, [])
    ]
    return samples, held(times, len(samples))


@st.composite
def noises(draw):
    """Up to four seconds of silence and noise in turns."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gains = draw(st.lists(st.sampled_from([0, 0, 20, 3000, 9000]), max_size=20))
    noise = rng.normal(0, 1, (len(gains), SAMPLE_RATE_HZ // 5)) * np.array(gains, float).reshape(-1, 1)
    return noise.ravel()[: draw(st.integers(0, 4 * SAMPLE_RATE_HZ))].clip(-32768, 32767).astype(np.int16)


def padded_speech(samples: np.ndarray, config: ChunkConfig) -> tuple[tuple[int, int], ...]:
    return padded(speech_spans(samples, config), len(samples), config)


configs = st.builds(
    ChunkConfig,
    vad=st.sampled_from(["silero", "energy", "none"]),
    threshold=st.sampled_from([0.05, 0.5]),
    min_speech_s=st.sampled_from([0.0, 0.1]),
    min_silence_s=st.sampled_from([0.0, 0.3]),
    pad_s=st.sampled_from([0.0, 0.2]),
)


@settings(deadline=None)
@given(noises(), configs)
def test_spans_are_sorted_disjoint_within_the_samples_and_always_the_same(samples, config):
    before = samples.copy()
    spans = padded_speech(samples, config)
    assert all(0 <= start < end <= len(samples) for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert padded_speech(samples, config) == spans
    assert np.array_equal(samples, before)


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
def test_pauses_bursts_and_padding(mask, min_speech, min_silence, pad):
    """Against a plain loop, in frames of one tenth of a second."""
    frame = SAMPLE_RATE_HZ // 10
    config = ChunkConfig(min_speech_s=min_speech / 10, min_silence_s=min_silence / 10, pad_s=pad / 10)
    expected: list[list[int]] = []
    for at, is_speech in enumerate(mask):
        if is_speech and expected and at - expected[-1][1] < max(min_silence, 1):
            expected[-1][1] = at + 1
        elif is_speech:
            expected.append([at, at + 1])
    expected = [span for span in expected if span[1] - span[0] >= min_speech]
    bare = vad._spans(np.array(mask, bool), frame, len(mask) * frame, config)
    assert [list(span) for span in bare] == [[start * frame, end * frame] for start, end in expected]
    spans = padded(bare, len(mask) * frame, config)
    assert len(spans) == len(expected)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    for (start, end), (bare_start, bare_end) in zip(spans, expected, strict=True):
        assert 0 <= start <= bare_start * frame < bare_end * frame <= end <= len(mask) * frame
        assert bare_start * frame - start <= pad * frame >= end - bare_end * frame
    if expected:
        assert spans[0][0] == max(0, (expected[0][0] - pad) * frame)


def test_speech_goes_on_until_the_probability_is_well_below_the_threshold(monkeypatch):
    probability = np.array([0.4, 0.5, 0.36, 0.49, 0.34, 0.4, 0.6], np.float32)
    monkeypatch.setattr(vad, "_silero_probability", lambda samples, before: probability)
    assert vad._silero_mask(np.zeros(0, np.int16), 0.5, None).tolist() == [False, True, True, True, False, False, True]


def test_nothing_holds_no_speech():
    for mode in (*MODES, "none"):
        assert padded_speech(np.zeros(0, np.int16), ChunkConfig(vad=mode)) == ()


def test_none_takes_everything():
    assert padded_speech(np.zeros(500, np.int16), ChunkConfig(vad="none")) == ((0, 500),)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_samples", [1, 159, 160, 511, 512, 513, 40_000])
def test_silence_of_any_length_is_not_speech(mode, n_samples):
    assert padded_speech(np.zeros(n_samples, np.int16), ChunkConfig(vad=mode)) == ()


@pytest.mark.parametrize("frames_per_call", [1, 7, 100, 10_000])
def test_the_block_size_changes_nothing(shared_data, monkeypatch, frames_per_call):
    samples = read(shared_data / "a/librispeech-test-other/1688-142285-0000.flac")
    expected = vad._silero_probability(samples)
    monkeypatch.setattr(vad, "SILERO_BLOCK", frames_per_call)
    assert np.array_equal(vad._silero_probability(samples), expected)


def test_the_probabilities_are_those_of_the_model_run_whole(shared_data):
    from faster_whisper.vad import get_vad_model

    samples = read(shared_data / "a/librispeech-test-other/1688-142285-0000.flac")
    samples = samples[: len(samples) // 512 * 512]
    whole = get_vad_model()(samples.astype(np.float32) / 32768).ravel()
    # All but the last frame: faster-whisper 1.2 blanks the end of the audio it is given.
    assert np.abs(vad._silero_probability(samples) - whole)[:-1].max() < 1e-5


def test_hearing_ten_minutes_takes_no_more_memory_than_hearing_four_seconds(monkeypatch):
    """What a call leaves behind between its large buffers once broke the heap into pieces, 300 MB in a half hour (issue 5)."""
    run, process, held_bytes = vad._silero(), psutil.Process(), []

    def watched(*given):
        held_bytes.append(process.memory_info().rss)
        return run(*given)

    monkeypatch.setattr(vad, "_silero", lambda: watched)
    vad._silero_probability(np.zeros(600 * SAMPLE_RATE_HZ, np.int16))
    assert max(held_bytes) - held_bytes[1] < 8 * 2**20


def test_a_missing_model_is_a_config_error(monkeypatch):
    monkeypatch.setattr(vad, "find_spec", lambda name: None)
    with pytest.raises(vad.ConfigError, match=r"chunk\.vad=energy"):
        vad._silero.__wrapped__()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name",
    [
        "e/silence/digital_silence_10s.flac",
        "e/silence/white_noise_-50dB_10s.flac",
        "e/silence/dc_offset_5s.flac",
        "e/silence/click_then_silence_30s.flac",
        "e/silence/10ms.wav",
        "e/silence/one_sample.wav",
        "f/hostile/tone_1khz_20s.wav",
    ],
)
def test_silence_and_tones_are_not_speech(shared_data, mode, name):
    assert padded_speech(read(shared_data / name), ChunkConfig(vad=mode)) == ()


@pytest.mark.parametrize(
    "name", ["e/music/macroform-cold_day_30s.flac", "e/music/reno_project-system_30s.flac", "e/noise/kitchen.flac"]
)
def test_silero_takes_music_and_noise_for_what_they_are(shared_data, name):
    assert padded_speech(read(shared_data / name), ChunkConfig(vad="silero")) == ()


@pytest.mark.parametrize("mode", MODES)
def test_a_long_gap_is_found(shared_data, mode):
    samples = read(shared_data / "e/silence/speech_45s-gap_speech.flac")
    spans = padded_speech(samples, ChunkConfig(vad=mode))
    longest = max(after - before for (_, before), (after, _) in pairwise(spans))
    assert 44 < longest / SAMPLE_RATE_HZ < 47


@pytest.mark.parametrize("mode", MODES)
def test_a_long_reading_keeps_its_words(shared_data, mode):
    samples, words = long_reading(shared_data)
    assert words.mean() > 0.4
    spans = padded_speech(samples, ChunkConfig(vad=mode))
    assert held(spans, len(samples))[words].mean() > 0.99
    assert held(spans, len(samples)).mean() < 0.95
    chunks = cut_chunks(samples, spans, 30 * SAMPLE_RATE_HZ, 5 * SAMPLE_RATE_HZ)
    assert held(chunks, len(samples))[words].mean() > 0.995


def test_energy_agrees_with_silero_on_clean_speech(shared_data):
    samples = read(shared_data / f"{LONG}.mp3")
    by_energy = held(padded_speech(samples, ChunkConfig(vad="energy")), len(samples))
    by_silero = held(padded_speech(samples, ChunkConfig(vad="silero")), len(samples))
    assert by_energy[by_silero].mean() > 0.99
    assert (by_energy == by_silero).mean() > 0.9


@pytest.mark.parametrize("cut_s", [60.16, 123.84, 300.0])
def test_a_window_that_knows_what_came_before_hears_what_the_whole_recording_does(shared_data, cut_s):
    samples = read(shared_data / f"{LONG}.mp3")[: 330 * SAMPLE_RATE_HZ]
    cut = round(cut_s * SAMPLE_RATE_HZ)
    whole = held(speech_spans(samples, ChunkConfig()), len(samples))[cut:]
    spans = speech_spans(samples[cut:], ChunkConfig(), samples[cut - 4 * SAMPLE_RATE_HZ - 100 : cut])
    differs = held(spans, len(whole)) != whole
    assert differs[:SAMPLE_RATE_HZ].sum() <= vad.SILERO_FRAME, "a first word is lost"
    assert differs.sum() <= 4 * vad.SILERO_FRAME


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_half_an_hour_stays_in_bounded_memory(mode):
    """A window costs the detector less than a copy of its samples."""
    script = (
        "import resource, numpy as np\n"
        "from pipeline.audio.vad import padded, speech_spans\n"
        "from pipeline.config import ChunkConfig\n"
        "samples = np.random.default_rng(0).integers(-3000, 3000, 30 * 60 * 16_000).astype(np.int16)\n"
        f"padded_speech(samples[:160_000], ChunkConfig(vad={mode!r}))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"padded_speech(samples, ChunkConfig(vad={mode!r}))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown_kib = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert grown_kib * 1024 < 30 * 60 * SAMPLE_RATE_HZ * 2
