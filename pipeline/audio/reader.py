"""The door to audio: a recording in, its length or its samples out. Knows nothing of shards, chunks or engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.audio import wav
from pipeline.audio.ahead import Job, ReadAhead, Stretch
from pipeline.audio.fetch import Blob, Fetcher
from pipeline.audio.sandbox import Decoder, SampleBuffer
from pipeline.audio.uri_policy import Location, resolve
from pipeline.audio.wire import MAX_SPLIT_CHANNELS, Request
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError
from pipeline.records import SAMPLE_RATE_HZ, SPLIT, DecodedAudio, DecodeReport, Probe, Recording, Samples

_BYTES_PER_S_AT_LEAST = 1000  # 8 kbit/s: how much audio an object of unknown length may hold


class AudioReader:
    """Reads recordings through one decoder process. One per worker; not for several threads at once.

    `roots`: folders and buckets that rows may point into (`pipeline.source.manifest.manifest_roots`).
    `neighbours`: uris of objects that ought to be readable, asked for where a store refuses one (`pipeline.audio.fetch`).
    The same call gives the same samples, bit for bit, in any process on the same kind of machine. Samples of [a, b) are those of
    the whole recording from a to b: exactly for PCM and FLAC at 16 kHz, within a rounding step where they are resampled, within
    the decoder's own tolerance for lossy codecs, and at the same place in time.
    """

    def __init__(
        self,
        config: DecodeConfig,
        source: SourceConfig,
        roots: Sequence[str],
        neighbours: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._config, self._schemes = config, tuple(source.schemes)
        self._roots = tuple(roots)
        self._fetcher = Fetcher(config, source, lambda: self._allowed(neighbours()))
        self._decoder = Decoder(config.memory_bytes, config.recycle_after_objects, config.recycle_above_bytes)
        self._ahead = ReadAhead(self._decoder, self._prepare)

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder process."""
        self._ahead.announce(())
        self._decoder.close()
        self._fetcher.close()

    @property
    def decoder_pid(self) -> int | None:
        """The decoder process now running, if any."""
        return self._decoder.pid

    def probe(self, recording: Recording) -> Probe:
        """How long the recording is (from its offset on) and what it is made of. Raises AudioError."""
        blob = self._open(recording, (None, None))
        job = Job(Request(probe=True), blob, 0, self._deadline_s(_most_s(blob)), 0, wav.read_layout(blob))
        _, found = self._samples(job)
        duration_s = found["duration_s"]
        if duration_s > self._config.max_audio_s:
            raise AudioError(
                "audio_too_long",
                f"The object holds {duration_s:.0f} s of audio; raise decode.max_audio_s to accept it.",
            )
        if recording.offset_s > duration_s:
            raise _past_end(recording, duration_s)
        return Probe(
            duration_s=duration_s - recording.offset_s,
            size_bytes=blob.size,
            etag=blob.etag,
            container=found["container"],
            codec=found["codec"],
            rate_hz=found["rate_hz"],
            channels=found["channels"],
        )

    def read(
        self,
        recording: Recording,
        start_s: float,
        end_s: float | None,
        *,
        expect: tuple[int | None, str | None] = (None, None),
    ) -> DecodedAudio:
        """Samples of [start_s, end_s) counted from the recording's start; `end_s` None: to the end of the audio. [samples];
        [channels, samples] where the recording's channel is SPLIT.

        Fewer samples come where the audio ends before; none (and the warning `no_samples`) where it ends before `start_s`.
        `expect`: size and etag of the object when it was planned. Raises AudioError.
        """
        stretch = Stretch(recording, start_s, end_s, expect)
        job = self._ahead.claim(stretch) or self._prepare(stretch)
        fetched_before = self._fetcher.fetched_bytes
        with job:
            samples, found = job.answer() or self._samples(job)
        fetched_bytes = job.fetched_bytes + self._fetcher.fetched_bytes - fetched_before
        header_s = found.pop("header_s", None)
        if not samples.size and header_s and recording.offset_s > header_s:
            raise _past_end(recording, header_s)
        found["expected_s"] = _expected_s(job.planned, header_s, job.request.start, samples)
        return DecodedAudio(samples, start_s, _report(found, samples, fetched_bytes))

    def announce(self, stretches: Iterable[Stretch]) -> None:
        """Say which clips will be read next, in this order: they are fetched and decoded in groups while others are worked on.

        Nothing changes but the time it takes. What was announced before and not read is forgotten.
        """
        self._ahead.announce(stretches)

    def _prepare(self, stretch: Stretch) -> Job:
        """Open the object and say what is wanted of it. Raises AudioError."""
        recording, start_s, end_s, expect = stretch[:4]
        fetched_before = self._fetcher.fetched_bytes
        blob = self._open(recording, expect)
        offset = round(recording.offset_s * SAMPLE_RATE_HZ)
        limit = round(self._config.max_audio_s * SAMPLE_RATE_HZ)
        start = offset + round(start_s * SAMPLE_RATE_HZ)
        end = None if end_s is None else offset + round(end_s * SAMPLE_RATE_HZ)
        planned = None if end is None else max(0, end - start)
        if planned is not None and planned > limit:
            raise AudioError(
                "audio_too_long", "The stretch is longer than decode.max_audio_s; cut it or raise the limit."
            )
        request = Request(start=start, end=end, limit=limit, channel=recording.channel)
        # Up to the end, not just the stretch: some containers can only be read from their start.
        audio_s = _most_s(blob) if end is None else end / SAMPLE_RATE_HZ
        layout = wav.read_layout(blob)
        fetched_bytes = self._fetcher.fetched_bytes - fetched_before
        return Job(request, blob, planned, self._deadline_s(audio_s), fetched_bytes, layout)

    def _samples(self, job: Job) -> tuple[Samples, dict[str, Any]]:
        """Plain samples are taken as they lie, all else is decoded."""
        if job.layout is not None:
            buffer = _buffer(job)
            return _laid_out(job, buffer, wav.answer(job.request, job.blob, job.layout, buffer))
        return self._decode(job)

    def _decode(self, job: Job) -> tuple[Samples, dict[str, Any]]:
        """Decode, and once more where the process died: the machine may have killed it, or it was worn out.

        The new one tells whose doing it was.
        """
        for last in (False, True):
            buffer = _buffer(job)
            try:
                report = self._decoder.call(job.request, job.blob, buffer, job.deadline_s)
                return _laid_out(job, buffer, report)
            except AudioError as error:
                if last or error.code != "decoder_crashed":
                    raise
        raise AssertionError("unreachable")

    def _allowed(self, uris: Iterable[str]) -> Iterable[Location]:
        for uri in uris:
            with suppress(AudioError):
                yield resolve(uri, self._roots, self._schemes)

    def _open(self, recording: Recording, expect: tuple[int | None, str | None]) -> Blob:
        location = resolve(recording.uri, self._roots, self._schemes)
        return self._fetcher.open(location, expect)

    def _deadline_s(self, audio_s: float) -> float:
        return self._config.timeout_s + self._config.timeout_per_audio_s * min(audio_s, self._config.max_audio_s)


def _most_s(blob: Blob) -> float:
    return blob.size / _BYTES_PER_S_AT_LEAST


def _buffer(job: Job) -> SampleBuffer:
    """Room for what may come of it."""
    most = job.request.limit if job.planned is None else job.planned
    likely = job.planned
    if likely is None and job.layout is not None:
        likely = max(0, round(job.layout.duration_s * SAMPLE_RATE_HZ) - job.request.start)
    return SampleBuffer(most * MAX_SPLIT_CHANNELS if job.request.channel == SPLIT else most, likely)


def _laid_out(job: Job, buffer: SampleBuffer, report: dict[str, Any]) -> tuple[Samples, dict[str, Any]]:
    samples = buffer.samples()
    return _apart(samples, report) if job.request.channel == SPLIT else samples, report


def _apart(samples: Samples, report: dict[str, Any]) -> Samples:
    """Samples of all channels in turn as [channels, samples]."""
    n_channels = max(1, report.get("split_channels", 0))
    if len(samples) % n_channels:
        raise AudioError("decode_error", "The decoder sent channels of different lengths; decode the object again.")
    return np.ascontiguousarray(samples.reshape(-1, n_channels).T)


def _expected_s(planned: int | None, header_s: float | None, start: int, samples: Samples) -> float:
    if planned is not None:
        return planned / SAMPLE_RATE_HZ
    return samples.shape[-1] / SAMPLE_RATE_HZ if header_s is None else max(0.0, header_s - start / SAMPLE_RATE_HZ)


def _report(found: dict[str, Any], samples: Samples, fetched_bytes: int) -> DecodeReport:
    warnings = tuple(found.pop("warnings", ()))
    return DecodeReport(
        **found, decoded_s=samples.shape[-1] / SAMPLE_RATE_HZ, fetched_bytes=fetched_bytes, warnings=warnings
    )


def _past_end(recording: Recording, duration_s: float) -> AudioError:
    message = f"The row's offset {recording.offset_s} s lies behind the end of the audio at {duration_s:.2f} s; correct the row."
    return AudioError("offset_past_end", message)
