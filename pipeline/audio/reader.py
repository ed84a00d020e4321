"""The door to audio: a recording in, its length or its samples out. Knows nothing of shards, chunks or engines."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from pipeline.config import DecodeConfig, SourceConfig
from pipeline.records import DecodedAudio, Probe, Recording


class AudioReader:
    """Reads recordings through one decoder process. One per worker; not for several threads at once."""

    def __init__(self, config: DecodeConfig, source: SourceConfig, roots: Sequence[str]) -> None:
        self._config, self._source, self._roots = config, source, tuple(roots)

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def probe(self, recording: Recording) -> Probe:
        """How long the recording is (from its offset on) and what it is made of. Raises AudioError."""
        raise NotImplementedError

    def read(
        self,
        recording: Recording,
        start_s: float,
        end_s: float | None,
        *,
        expect: tuple[int | None, str | None] = (None, None),
    ) -> DecodedAudio:
        """Samples of [start_s, end_s) counted from the recording's start. Raises AudioError."""
        raise NotImplementedError

    def close(self) -> None:
        """End the decoder process."""
