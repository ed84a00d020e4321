"""Speed and padding, each a ratio with its two sides named; None where the divisor is nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def rtfx(audio_s: float, seconds: float) -> float | None:
    """Seconds of audio per second. By engine seconds: engine RTFx; by wall seconds: pipeline RTFx. The two are never mixed."""
    return audio_s / seconds if seconds > 0 else None


def heard_s(totals: Mapping[str, Any]) -> float:
    """Of a run's totals: seconds of audio for its engine, each channel of a recording that is split counted."""
    seconds: float = totals.get("channels_s", totals["audio_s"])  # snapshots of before count recordings alone
    return seconds


def padding_waste(audio_s: float, padded_s: float) -> float | None:
    """The share of what the engine computed that was padding: 0 to 1."""
    return 1 - audio_s / padded_s if padded_s > 0 else None
