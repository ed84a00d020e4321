"""Mixing and resampling: pure, no files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_audio import signal

from pipeline.audio.resample import Mixer, Resampler, to_int16
from pipeline.errors import AudioError


def resampled(mono: np.ndarray, rate_hz: int, block: int) -> np.ndarray:
    resampler = Resampler(rate_hz)
    parts = [resampler.feed(mono[at : at + block]) for at in range(0, len(mono), block)]
    return np.concatenate([*parts, resampler.finish()])


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 24000, 32000, 44100, 48000, 96000])
def test_a_stream_from_a_whole_second_on_is_that_of_the_whole(rate_hz: int) -> None:
    mono = signal(6, rate_hz)
    whole = resampled(mono, rate_hz, rate_hz)
    part = resampled(mono[2 * rate_hz :], rate_hz, 7777)
    assert len(whole) == 6 * 16_000
    # The filter needs to have seen 0.1 s.
    difference = np.abs(whole[2 * 16_000 + 1600 :].astype(int) - part[1600:])
    assert difference.max() <= 1


@pytest.mark.parametrize(("hz", "kept"), [(1000, 1.0), (7000, 1.0), (9000, 0.0), (15000, 0.0)])
def test_speech_passes_and_nothing_folds_back(hz: int, kept: float) -> None:
    tone = (0.5 * np.sin(2 * np.pi * hz * np.arange(48_000 * 2) / 48_000)).astype(np.float32)
    out = resampled(tone, 48_000, 48_000)[8000:-8000] / 32768
    assert np.sqrt(2 * np.mean(out**2)) == pytest.approx(0.5 * kept, abs=0.002)


def test_16_bit_16_khz_passes_untouched() -> None:
    samples = np.arange(-32768, 32768, dtype=np.int16)
    assert Resampler(16_000).feed(Mixer(None).mix(samples[None, :])) is not None
    np.testing.assert_array_equal(resampled(samples, 16_000, 1000), samples)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_any_float_becomes_a_sample(values: list[float]) -> None:
    mono = Mixer(None).mix(np.array([values], np.float32))
    assert np.isfinite(mono).all()
    samples = to_int16(mono)
    for value, sample in zip(values, samples, strict=True):
        if np.isnan(value) or np.isinf(value):
            assert sample == 0
        else:
            assert sample == np.clip(np.rint(value * 32768), -32768, 32767)


@pytest.mark.parametrize(
    ("dtype", "low", "middle"),
    [
        (np.uint8, 0, 128),
        (np.int16, -(2**15), 0),
        (np.int32, -(2**31), 0),
        (np.int64, -(2**63), 0),
        (np.float64, -1.0, 0.0),
    ],
)
def test_every_type_has_the_same_full_scale(dtype: type, low: float, middle: float) -> None:
    samples = to_int16(Mixer(None).mix(np.array([[low, middle]], dtype)))
    np.testing.assert_array_equal(samples, [-32768, 0])


def test_the_mix_is_the_mean() -> None:
    planes = np.array([[0.5, -0.25, 0.0], [0.25, -0.25, 1.0], [0.0, -0.25, 0.5]], np.float32)
    np.testing.assert_allclose(Mixer(None).mix(planes), [0.25, -0.25, 0.5], atol=1e-7)
    np.testing.assert_array_equal(Mixer(1).mix(planes), planes[1])


def test_a_channel_that_is_not_there_is_refused() -> None:
    with pytest.raises(AudioError, match="channel 2") as caught:
        Mixer(2).mix(np.zeros((2, 10), np.float32))
    assert caught.value.code == "no_such_channel"


def test_cancelling_channels_are_noticed() -> None:
    voice = signal(1, 16_000)
    assert mixed_verdict(np.stack([voice, -voice])) == 0
    assert mixed_verdict(np.stack([0.5 * voice, -0.501 * voice])) == 1
    assert mixed_verdict(np.stack([voice, voice])) is None
    assert mixed_verdict(np.stack([voice, np.zeros_like(voice)])) is None
    assert mixed_verdict(np.zeros((2, 1000), np.float32)) is None
    assert mixed_verdict(np.stack([voice, -voice]) * 1e-6) is None  # silence that happens to cancel


def mixed_verdict(planes: np.ndarray) -> int | None:
    mixer = Mixer(None)
    for at in range(0, planes.shape[1], 500):
        mixer.mix(planes[:, at : at + 500])
    return mixer.cancelled()
