"""Frames of a decoder into one unbroken run of samples whose place in the recording is known.

Position 0 is the container's start. Where a seek lands is read from the time stamps; from there on samples are counted, and
time stamps matter only where they leave a gap of more than 0.1 s: silence fills it (a late stream, a pause in a call).
Positions count samples at the stream's own rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import av
import numpy as np

from pipeline.audio.container import Media
from pipeline.audio.resample import Planes
from pipeline.audio.stretch import Block

_GAP_S = 0.1
_LONGEST_UNBOUNDED_GAP_S = 600.0  # where the header gives no length to hold a time stamp against
_BLOCK_S = 4
_PREROLLS_S = (3, 30)  # pages of an Ogg file may lie far apart; after these, from the start
_SETTLE_S = 1.0  # an mp3 bit reservoir, an Opus decoder's memory, AAC overlap: all shorter
_GRID_SLACK_S = 0.002  # time stamps in milliseconds are off by half of one
_MAX_UNDATED_FRAMES = 500

_TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}

Frames = Iterator[Any]


@dataclass(slots=True)
class Notes:
    """What went wrong on the way, counted."""

    decode_errors: int = 0
    gaps_filled: int = 0
    time_jumps: int = 0
    format_changes: int = 0
    broke_off: int = 0

    def warnings(self) -> list[str]:
        """As the report shows them: `name:count`."""
        counts = {name: getattr(self, name) for name in self.__slots__}
        return [f"{name}:{count}" for name, count in counts.items() if count]


@dataclass(slots=True)
class Timeline:
    """The audio of a recording from position `want` on.

    `entry`: position of the first frame, where it is known from outside (an mp3 entered in its middle, whose time stamps start
    anew); `stop`: position behind the last sample, where the decoder would not know it; `opened`: a container to begin with.
    """

    open: Callable[[], Media]
    want: int = 0
    entry: int | None = None
    stop: int | None = None
    notes: Notes = field(default_factory=Notes)
    opened: Media | None = None

    @property
    def media(self) -> Media:
        """The container that is open now."""
        if self.opened is None:
            self.opened = self.open()
        return self.opened

    def close(self) -> None:
        """Close the container."""
        if self.opened is not None:
            self.opened.close()
            self.opened = None

    def blocks(self) -> Iterator[Block]:
        """Planes that begin at `want` and leave nothing out; none where the audio ends before."""
        if self.stop is not None and self.stop <= self.want:
            return
        position, frames = self._enter()
        for at, rate, planes in chain(self._silence(self.want, position), self._contiguous(position, frames)):
            drop = max(0, self.want - at)
            keep = planes.shape[1] if self.stop is None else min(planes.shape[1], self.stop - at)
            if drop < keep:
                yield rate, planes[:, drop:keep]

    def _enter(self) -> tuple[int, Frames]:
        """The position of the first frame and the frames, from early enough before `want` for the decoder to settle."""
        if self.entry is not None:
            return self.entry, self._frames()
        entered = self._enter_by_seek() if self.want > 0 and _seeks_truly(self.media) else None
        if entered is None:
            first, frames = _first_dated(self._frames())
            entered = (0 if first is None else max(0, self._stamp(first.pts))), frames
        return entered

    def _enter_by_seek(self) -> tuple[int, Frames] | None:
        rate = self.media.rate_hz
        grid = self._grid()
        for preroll_s in _PREROLLS_S:
            target_s = self.want / rate - preroll_s
            if target_s <= 0 or not self._seek(target_s):
                break
            first, frames = _first_dated(self._frames())
            if first is not None:
                position = _snap(self._stamp(first.pts), first.samples, grid, _GRID_SLACK_S * rate)
                if 0 <= position <= self.want - _SETTLE_S * rate:
                    return position, frames
        self.close()  # a fresh container knows best how its stream begins
        self.notes = Notes()
        return None

    def _grid(self) -> tuple[int, int] | None:
        """(position, samples) of the second frame, where time stamps are coarser than samples.

        Frames of one size stand on a grid through it: after a seek it tells their place better than the stamp.
        """
        if self.media.stream.time_base * self.media.rate_hz <= 1:
            return None
        frames = self._frames()
        first, second = next(frames, None), next(frames, None)
        if first is None or second is None or first.pts is None:
            return None
        return max(0, self._stamp(first.pts)) + first.samples, second.samples

    def _seek(self, target_s: float) -> bool:
        stream = self.media.stream
        try:
            self.media.container.seek(
                int((self.media.begin_s + target_s) / stream.time_base), stream=stream, backward=True
            )
        except (av.error.FFmpegError, OverflowError):
            return False
        return True

    def _stamp(self, pts: int) -> int:
        return round((float(pts * self.media.stream.time_base) - self.media.begin_s) * self.media.rate_hz)

    def _frames(self) -> Frames:
        packets = self.media.container.demux(self.media.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError:
                self.notes.broke_off += 1
                return
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                self.notes.decode_errors += 1

    def _contiguous(self, position: int, frames: Frames) -> Iterator[tuple[int, int, Planes]]:
        """(position, rate, planes): frames batched, silence in place of gaps."""
        rate = self.media.rate_hz
        scale = float(self.media.stream.time_base) * rate
        origin = self.media.begin_s * rate
        limit = _GAP_S * rate if self.entry is None else float("inf")
        batch = _Batch(position, rate)
        for frame in frames:
            pts = frame.pts
            if pts is not None and not -limit <= (gap := pts * scale - origin - batch.end) <= limit:
                if self._believable(gap, batch.end):
                    yield from batch.flush()
                    grid = (batch.end, frame.samples) if scale > 1 else None  # whole frames are missing
                    resumed = _snap(batch.end + round(gap), frame.samples, grid, _GRID_SLACK_S * rate)
                    yield from self._silence(batch.end, resumed)
                    batch.move(resumed)
                    self.notes.gaps_filled += 1
                else:
                    origin += gap
                    self.notes.time_jumps += 1
            if not batch.add(frame):
                yield from batch.flush()
                batch.restart(frame)
                self.notes.format_changes += 1
            if batch.full:
                yield from batch.flush()
        yield from batch.flush()

    def _believable(self, gap: float, position: int) -> bool:
        rate, known = self.media.rate_hz, self.media.duration_s
        if gap < 0:
            return False
        return position + gap <= (known + 1) * rate if known else gap <= _LONGEST_UNBOUNDED_GAP_S * rate

    def _silence(self, start: int, end: int) -> Iterator[tuple[int, int, Planes]]:
        rate, channels = self.media.rate_hz, max(1, self.media.channels)
        for at in range(start, end, _BLOCK_S * rate):
            yield at, rate, np.zeros((channels, min(_BLOCK_S * rate, end - at)), np.float32)


class _Batch:
    """Frames gathered until they are worth a call into numpy."""

    def __init__(self, position: int, rate_hz: int) -> None:
        self.end = position  # where the next sample belongs
        self._position, self._nominal_hz = position, rate_hz
        self._fifo = av.AudioFifo()
        self._rate_hz = self._channels = 0

    @property
    def full(self) -> bool:
        return self.end - self._position >= _BLOCK_S * self._nominal_hz

    def add(self, frame: Any) -> bool:
        """Take the frame; False where its type, channels or rate are not those of the batch."""
        frame.pts = None  # or the fifo holds it against its own count
        channels = frame.layout.nb_channels
        if channels != (self._channels or channels):
            return False  # the fifo does not look, and reads planes that are not there (PyAV 18)
        self._channels = channels
        try:
            self._fifo.write(frame)
        except ValueError:
            return False
        self._rate_hz = self._rate_hz or frame.sample_rate
        self.end += (
            frame.samples if self._rate_hz == self._nominal_hz else frame.samples * self._nominal_hz // self._rate_hz
        )
        return True

    def restart(self, frame: Any) -> None:
        """Go on with frames like this one."""
        self._fifo, self._rate_hz, self._channels = av.AudioFifo(), 0, 0
        self.add(frame)

    def move(self, position: int) -> None:
        """Go on at another place; the batch must be empty."""
        self._position = self.end = position

    def flush(self) -> Iterator[tuple[int, int, Planes]]:
        """Give away what was gathered."""
        frame = self._fifo.read(0, True) if self._fifo.samples else None
        if frame is not None:
            yield self._position, self._rate_hz, _planes(frame)
        self._position = self.end


def _seeks_truly(media: Media) -> bool:
    """Not where libavformat finds its way by a rounded byte rate: ADPCM or GSM in a WAV are read from the start."""
    return media.format not in ("wav", "w64") or media.codec.startswith("pcm_")


def _first_dated(frames: Frames) -> tuple[Any, Frames]:
    """The first frame with a time stamp, and the frames from it on; (None, all) where none has one."""
    undated = []
    for frame in frames:
        if frame.pts is not None:
            return frame, chain([frame], frames)
        undated.append(frame)
        if len(undated) == _MAX_UNDATED_FRAMES:
            break
    return None, chain(undated, frames)


def _snap(position: int, n_samples: int, grid: tuple[int, int] | None, slack: float) -> int:
    if grid is None or grid[1] != n_samples:
        return position
    nearest = grid[0] + round((position - grid[0]) / n_samples) * n_samples
    return nearest if abs(nearest - position) <= slack else position


def _planes(frame: Any) -> Planes:
    kind, channels = _TYPES[frame.format.packed.name], frame.layout.nb_channels
    # Not to_ndarray: with 8 channels PyAV 18 sees a ninth plane there and reads wild memory.
    if frame.format.is_planar and channels > 1:
        return np.stack([np.frombuffer(frame.planes[i], kind, frame.samples) for i in range(channels)])
    flat = np.frombuffer(frame.planes[0], kind, frame.samples * channels)
    return np.ascontiguousarray(flat.reshape(-1, channels).T)  # no copy where there is one channel
