"""Audio made on the spot: a signal that differs at every moment, and encoders for it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float32]


def signal(duration_s: float, rate_hz: int, seed: int = 0) -> Signal:
    """Band-limited noise in bursts of changing loudness: float32 [n], no stretch like another."""
    rng = np.random.default_rng(seed)
    n = int(duration_s * rate_hz)
    white = rng.standard_normal(n + 64).astype(np.float32)
    # A low-pass well below 8 kHz, so that resampling has nothing to take away.
    taps = np.sinc(np.arange(-32, 33) * 2 * 3000 / rate_hz) * np.hanning(65)
    smooth = np.convolve(white, taps / np.abs(taps).sum(), mode="valid")[:n]
    knots = np.arange(0, n + rate_hz, rate_hz // 5)
    slow = np.interp(np.arange(n), knots, rng.random(len(knots)))
    return (smooth * slow * 0.8).astype(np.float32)


def encode(
    samples: npt.NDArray[Any],
    rate_hz: int,
    container: str,
    codec: str,
    *,
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    start_s: float = 0.0,
    gap: tuple[float, float] | None = None,
) -> bytes:
    """float32 [n] or [channels, n] in a container, by PyAV. `gap`: at this second, leave out so many seconds of time stamps."""
    planes = np.atleast_2d(samples).astype(np.float32)
    layout = "mono" if len(planes) == 1 else "stereo"
    with (
        NamedTemporaryFile() as file,
        av.open(file.name, "w", format=container, options=container_options or {}) as out,
    ):
        stream = out.add_stream(codec, rate=rate_hz, layout=layout, options=options or {})
        if bit_rate:
            stream.bit_rate = bit_rate
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate_hz)
        for at in range(0, planes.shape[1], 4096):
            piece = np.ascontiguousarray(planes[:, at : at + 4096])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            shift = start_s + (gap[1] if gap and at >= gap[0] * rate_hz else 0.0)
            frame.pts = at + round(shift * rate_hz)
            for converted in resampler.resample(frame):
                out.mux(stream.encode(converted))
        out.mux(stream.encode(None))
        out.close()
        return Path(file.name).read_bytes()


def lag(reference: npt.NDArray[Any], other: npt.NDArray[Any], reach: int = 2000) -> int:
    """Samples by which `other` comes late, by cross-correlation."""
    n = min(len(reference), len(other))
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    spectrum = np.fft.rfft(other[:n].astype(float), size) * np.conj(np.fft.rfft(reference[:n].astype(float), size))
    correlation = np.fft.irfft(spectrum, size)
    around = np.concatenate([correlation[-reach:], correlation[: reach + 1]])
    return int(np.argmax(around)) - reach


def difference_db(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Energy of the difference over that of the reference, in dB; -200 where they are the same."""
    wanted = reference.astype(float)
    error = np.sum((wanted - other.astype(float)) ** 2)
    return float(10 * np.log10(max(error / max(np.sum(wanted**2), 1e-9), 1e-20)))


def reference_movie(url: str) -> bytes:
    """A QuickTime movie that is nothing but the address of another (rmra, as QuickTime's file format describes it)."""

    def atom(name: bytes, content: bytes) -> bytes:
        return (8 + len(content)).to_bytes(4, "big") + name + content

    address = url.encode() + b"\0"
    reference = atom(b"rdrf", bytes(4) + b"url " + len(address).to_bytes(4, "big") + address)
    return atom(b"ftyp", b"qt  " + bytes(8)) + atom(b"moov", atom(b"rmra", atom(b"rmda", reference)))
