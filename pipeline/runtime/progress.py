"""One line while a run goes on: repainted on a terminal, every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import TextIO

from pipeline.records import Receipt, Undone

_LOG_EVERY_S = 10.0
_PAINT_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Tally:
    """What the receipts so far add up to."""

    shards: int = 0
    rows: int = 0
    partial: int = 0
    failed: int = 0
    audio_s: float = 0.0
    engine_s: float = 0.0
    wait_s: float = 0.0
    undone: int = 0

    def plus(self, receipt: Receipt | Undone) -> Tally:
        """With one more shard."""
        if isinstance(receipt, Undone):
            return replace(self, undone=self.undone + 1)
        return Tally(
            self.shards + 1,
            self.rows + receipt.rows,
            self.partial + receipt.partial,
            self.failed + receipt.failed,
            self.audio_s + receipt.audio_s,
            self.engine_s + receipt.engine_s,
            self.wait_s + receipt.wait_s,
            self.undone,
        )


class ProgressLine:
    """Prints how far a run is: shards, hours, speed, failures, what the engine waits, time left."""

    def __init__(self, shards: int, audio_s: float, stream: TextIO = sys.stderr) -> None:
        self._shards, self._audio_s, self._stream = shards, audio_s, stream
        self._painting = stream.isatty()
        self._began = time.monotonic()
        self._printed_at = self._began
        self.tally = Tally()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the pass began."""
        return time.monotonic() - self._began

    def add(self, receipt: Receipt | Undone) -> None:
        """Count a shard and print when it is time."""
        self.tally = self.tally.plus(receipt)
        now = time.monotonic()
        if now - self._printed_at >= (_PAINT_EVERY_S if self._painting else _LOG_EVERY_S):
            self._printed_at = now
            self._print()

    def close(self) -> None:
        """Print the last state."""
        if self.tally.shards:
            self._print()
            if self._painting:
                self._stream.write("\n")

    def _print(self) -> None:
        start, end = ("\r\x1b[2K", "") if self._painting else ("", "\n")
        self._stream.write(start + progress_text(self.tally, self._shards, self._audio_s, self.elapsed_s) + end)
        self._stream.flush()


def progress_text(tally: Tally, shards: int, audio_s: float, elapsed_s: float) -> str:
    """The line itself."""
    parts = [
        f"{tally.shards}/{shards} shards",
        f"{tally.audio_s / 3600:.2f} of {audio_s / 3600:.2f} h",
        f"{tally.audio_s / max(elapsed_s, 1e-9):.1f}× real time",
    ]
    engine_total_s = tally.engine_s + tally.wait_s
    if engine_total_s > 0:
        parts.append(f"engine busy {tally.engine_s / engine_total_s:.0%}")
    if tally.partial:
        parts.append(f"{tally.partial} partial")
    if tally.failed:
        parts.append(f"{tally.failed} failed")
    if tally.undone:
        parts.append(f"{tally.undone} shards not done")
    if 0 < tally.audio_s < audio_s and tally.shards < shards:
        parts.append(f"{clock((audio_s - tally.audio_s) * elapsed_s / tally.audio_s)} left")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """ "2 h 05 min", "3 min 20 s", "14 s"."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
