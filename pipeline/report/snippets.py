"""A few seconds of a recording as a data: address that any browser plays: MP3, mono, 16 kHz.

The recording is read as a run reads it, through the decoder process (`pipeline.audio.reader`); what is encoded here are
the samples that come back. MP3 is the one small format that every browser knows without a codec of the system's.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline.audio.reader import AudioReader
from pipeline.config import DecodeConfig, RunConfig, SourceConfig
from pipeline.errors import ItemError, TransientError
from pipeline.records import SAMPLE_RATE_HZ, Recording, Samples
from pipeline.report.doubts import Doubt
from pipeline.source.manifest import manifest_roots

LONGEST_S = 12.0
MOST_BYTES = 6 * 2**20  # of all snippets of a page, as they stand in it
_BIT_RATE = 32_000
_AROUND_S = 0.25
_AWAY_IN_A_ROW = 2  # a store that is away is asked for a minute or two each time


_SILENCE: Samples = np.zeros(0, np.int16)


@dataclass(frozen=True, slots=True)
class Heard:
    """The samples of a stretch, int16 [n], mono 16 kHz. None of them: for the `reason`. `is_cut`: only its beginning."""

    samples: Samples
    is_cut: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snippet:
    """What there is to hear of a stretch. `address` None: nothing, for the `reason`. `is_cut`: only its beginning."""

    address: str | None
    is_cut: bool = False
    reason: str = ""


Listen = Callable[[Doubt], Snippet]


@contextmanager
def listening(made_with: Mapping[str, Any], config: RunConfig) -> Iterator[Listen]:
    """Gives a function from a stretch to its snippet; it never raises for what one recording, or its store, does.

    `made_with` and `config` as in `reader_of`.
    """
    with reader_of(made_with, config.decode, config.source) as reader:
        yield _Listener(Ear(reader)).listen


def reader_of(made_with: Mapping[str, Any], decode: DecodeConfig, source: SourceConfig) -> AudioReader:
    """A reader of a finished run's recordings; to be closed.

    `made_with`: the settings in the run's run.json, which say where its recordings lie. How a store is reached says `source`
    alone: the folder may be a stranger's, and our credentials go to no address that it names. `source` may also name other
    roots, for an archive that has moved.
    """
    with suppress(ValidationError):  # written by another version
        kept = SourceConfig.model_validate({**made_with["source"], "storage_options": source.storage_options})
        source = kept.model_copy(update={"roots": source.roots or kept.roots})
    return AudioReader(decode, source, manifest_roots(str(made_with["manifest"]), source))


def no_audio(doubt: Doubt) -> Snippet:
    """Where nobody wants to hear anything."""
    return Snippet(None, reason="")


def mp3_address(samples: Samples) -> str:
    """A data: address of int16 samples, mono 16 kHz."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE_HZ, layout="mono", bit_rate=_BIT_RATE)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16p", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return f"data:audio/mpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Ear:
    """Reads one stretch after another; gives up on a store that is away."""

    def __init__(self, reader: AudioReader) -> None:
        self._reader = reader
        self._away_in_a_row = 0

    def hear(self, doubt: Doubt) -> Heard:
        """The stretch with a little around it, LONGEST_S at most. Never raises for what a recording or its store does."""
        if self._away_in_a_row >= _AWAY_IN_A_ROW:
            return Heard(_SILENCE, reason="The store did not answer for the stretches before; not tried.")
        recording = Recording(doubt.recording_id, doubt.uri, offset_s=doubt.offset_s, channel=doubt.channel)
        start_s = max(0.0, doubt.start_s - _AROUND_S)
        end_s = min(doubt.end_s + _AROUND_S, start_s + LONGEST_S)
        try:
            samples = self._reader.read(recording, start_s, end_s).samples
        except ItemError as error:
            self._away_in_a_row = self._away_in_a_row + 1 if isinstance(error, TransientError) else 0
            return Heard(_SILENCE, reason=f"The audio cannot be read now ({error.code}): {error.message}")
        except Exception as error:  # noqa: BLE001 - a recording that breaks the reader must not cost the others
            return Heard(_SILENCE, reason=f"The audio cannot be read now ({type(error).__name__}).")
        self._away_in_a_row = 0
        if not len(samples):
            return Heard(_SILENCE, reason="The audio ends before this stretch.")
        return Heard(samples, is_cut=doubt.end_s > end_s)


class _Listener:
    """Makes snippets of what is heard, until the page is full."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear
        self._bytes = 0

    def listen(self, doubt: Doubt) -> Snippet:
        if self._bytes >= MOST_BYTES:
            return Snippet(None, reason="The page holds as much audio as it may.")
        heard = self._ear.hear(doubt)
        if not len(heard.samples):
            return Snippet(None, reason=heard.reason)
        address = mp3_address(heard.samples)
        self._bytes += len(address)
        return Snippet(address, heard.is_cut)
