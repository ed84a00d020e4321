"""What the decoder process does with a request: measure a recording, or decode a stretch of it.

Sample numbers in requests count 16 kHz samples from the object's start. libsndfile reads plain PCM and FLAC where its account
of the file agrees with libavformat's; libavcodec reads everything else, and whatever libsndfile stumbles over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.audio import length, mp3, pcm, promise
from pipeline.audio.container import Media, open_media
from pipeline.audio.stretch import Block, Output, Source, Stretch, decode_audibly, too_long
from pipeline.audio.timeline import Timeline
from pipeline.audio.wire import Request
from pipeline.errors import AudioError
from pipeline.records import SAMPLE_RATE_HZ

_MP3_ENTRY_S = 5  # nearer to the start, decoding from there is simpler
_MP3_LEAD_S = 1.0  # frames that fill the bit reservoir


def answer(request: Request, source: Source, output: Output) -> dict[str, Any]:
    """Do what is asked and return the report. Raises AudioError."""
    if request.probe:
        return length.measure(source)
    stretch = Stretch.of(request)
    try:
        media = open_media(source)
    except AudioError as error:
        if error.code == "bad_header" and pcm.is_empty(source):
            return {"decoder": "libsndfile", "container": "wav", "warnings": ["no_samples"]}
        raise
    counted = _Counted(output)
    try:
        report = _read(source, media, stretch, counted)
        n_samples = counted.samples // (report.get("split_channels") or 1)
        if stretch.end is None or n_samples < stretch.end - stretch.start:
            report["missing_s"] = promise.missing_s(source, media)
        return report
    finally:
        media.close()


def _read(source: Source, media: Media, stretch: Stretch, output: Output) -> dict[str, Any]:
    known_s = length.header_s(media)
    if stretch.end is None and known_s and known_s * SAMPLE_RATE_HZ - stretch.start > stretch.limit:
        raise too_long()
    report: dict[str, Any] = {
        "container": media.format,
        "codec": media.codec,
        "source_rate_hz": media.rate_hz,
        "source_channels": media.channels,
        "header_s": known_s,
    }
    plain = pcm.open_agreed(source, media)
    if plain is not None:
        with plain:
            try:
                found = decode_audibly(lambda second: pcm.blocks(plain, second * media.rate_hz), stretch, output)
                return {**report, "decoder": "libsndfile", **found}
            except pcm.Stumbled:
                output.restart()
    timelines: list[Timeline] = []

    def blocks(second: int) -> Iterator[Block]:
        timelines.append(_timeline(source, media, second, fresh=not timelines))
        return timelines[-1].blocks()

    try:
        found = decode_audibly(blocks, stretch, output)
    finally:
        for timeline in timelines:
            timeline.close()
    notes = timelines[-1].notes
    if "no_samples" in found["warnings"] and notes.decode_errors and not stretch.start:
        raise AudioError(
            "decode_error", f"Not one of {notes.decode_errors} packets could be decoded; upload the object again."
        )
    return {**report, "decoder": "pyav", **found, "warnings": found["warnings"] + notes.warnings()}


class _Counted:
    """An output, and how many samples it took."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self.samples = 0

    def write(self, pcm: memoryview) -> None:
        self._output.write(pcm)
        self.samples += len(pcm) // 2

    def restart(self) -> None:
        self._output.restart()
        self.samples = 0


def _timeline(source: Source, media: Media, second: int, fresh: bool) -> Timeline:
    """The audio from a whole second on; `fresh`: nothing has been read from `media` yet."""
    want = second * media.rate_hz
    if media.format == "mp3" and second >= _MP3_ENTRY_S and (layout := mp3.read_layout(source.pread, source.size)):
        return _mp3_timeline(source, layout, want)
    return Timeline(lambda: open_media(source), want, opened=media if fresh else None)


def _mp3_timeline(source: Source, layout: mp3.Layout, want: int) -> Timeline:
    """Enter an mp3 at a frame whose number is known."""
    frame_samples = layout.header.n_samples
    frame = max(0, want + layout.skip - int(_MP3_LEAD_S * layout.header.rate_hz)) // frame_samples
    offset = mp3.locate(source.pread, layout, frame)
    stop = mp3.count_samples(source.pread, layout) if layout.n_frames is not None else None
    if offset is None:  # behind the end
        offset, stop = layout.first, 0
    return Timeline(
        lambda: open_media(source, offset, "mp3"), want, entry=frame * frame_samples - layout.skip, stop=stop
    )
