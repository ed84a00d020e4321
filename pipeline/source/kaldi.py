"""Kaldi data directories: wav.scp with segments, text and what else stands beside them. https://kaldi-asr.org/doc/data_prep.html

Files are read side by side, as Kaldi sorts them; only wav.scp is held, and only where segments cut its recordings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from pipeline.config import SourceConfig
from pipeline.source.formats import Complain, lines, within
from pipeline.source.lookup import Lookup
from pipeline.source.opening import kind_of, open_bytes

# Files keyed by utterance → the key of the row that their value becomes.
_BESIDE_UTTERANCES = {"text": "text", "utt2lang": "language", "utt2spk": "speaker"}
_CHANNELS = "reco2file_and_channel"
FILES = ("wav.scp", "segments", _CHANNELS, *_BESIDE_UTTERANCES)

_ARCHIVE = re.compile(r".*\.ark(?::[0-9]+)?$")


def files_of(folder: str, config: SourceConfig) -> list[str]:
    """Those of FILES that the directory has."""
    return [name for name in FILES if kind_of(f"{folder}/{name}", config) == "file"]


def kaldi_rows(folder: str, config: SourceConfig, complain: Complain) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line (of segments, else of wav.scp) and raw row of every utterance.

    Lines that cannot be used go to `complain`: commands and archives too, which are never run or opened.
    """
    names = files_of(folder, config)
    with ExitStack() as stack:

        def pairs(name: str) -> Iterator[tuple[int, str, str]]:
            handle = stack.enter_context(open_bytes(f"{folder}/{name}", config))
            return _pairs(lines(handle, within(name, complain)), within(name, complain))

        def beside(name: str) -> _Beside:
            return _Beside(pairs(name) if name in names else iter(()), within(name, complain))

        recordings = _recordings(pairs("wav.scp"), beside(_CHANNELS), within("wav.scp", complain))
        if "segments" in names:
            rows = _segments(pairs("segments"), _held(recordings), within("segments", complain))
        else:
            rows = ((number, {"id": id_, **_place(place)}) for number, id_, place in recordings)
        sides = {key: beside(name) for name, key in _BESIDE_UTTERANCES.items()}
        for number, row in rows:
            for key, side in sides.items():
                if (value := side.get(row["id"])) is not None:
                    row[key] = value
            if row.get("uri"):
                yield number, row
        for side in sides.values():
            side.finish()


class _Beside:
    """Values of a file that is sorted by the same keys as the one that is read."""

    def __init__(self, pairs: Iterator[tuple[int, str, str]], complain: Complain) -> None:
        self._pairs, self._complain = pairs, complain
        self._next = next(pairs, None)

    def get(self, key: str) -> str | None:
        """The value of `key`, which must be greater than the one before."""
        while self._next and self._next[1] < key:
            self._pass_by()
        if not self._next or self._next[1] != key:
            return None
        value = self._next[2]
        self._next = next(self._pairs, None)
        return value

    def finish(self) -> None:
        """Tell of what is left."""
        while self._next:
            self._pass_by()

    def _pass_by(self) -> None:
        assert self._next
        self._complain(
            self._next[0], f"there is no audio for {self._next[1]!r} (utils/fix_data_dir.sh removes such lines)"
        )
        self._next = next(self._pairs, None)


def _pairs(numbered: Iterator[tuple[int, str]], complain: Complain) -> Iterator[tuple[int, str, str]]:
    """Line number, first field and the rest. Lines that are not sorted go to `complain`."""
    before = ""
    for number, line in numbered:
        key, _, rest = line.strip().replace("\t", " ", 1).partition(" ")
        if not key:
            complain(number, "an empty line")
        elif key <= before:
            what = "comes twice" if key == before else f"stands behind {before!r}; sort the files with LC_ALL=C"
            complain(number, f"{key!r} {what}")
        else:
            before = key
            yield number, key, rest.strip()


def _recordings(
    pairs: Iterator[tuple[int, str, str]], channels: _Beside, complain: Complain
) -> Iterator[tuple[int, str, str]]:
    """Number, id and place of every recording. A place is JSON of uri and channel; empty where it was complained about."""
    for number, id_, source in pairs:
        channel, wrong = _channel(channels.get(id_)), _wrong(source)
        if wrong or channel == -1:
            complain(number, wrong or f"{_CHANNELS} names no channel A, B, 1, 2, … for {id_!r}")
        yield number, id_, "" if wrong else json.dumps([source, channel])
    channels.finish()


def _wrong(source: str) -> str | None:
    if not source:
        return "no audio is named"
    if source.endswith("|") or source.startswith("|"):
        return "the audio comes from a command (|), which is never run; write it to a file and name that"
    if source == "-" or _ARCHIVE.match(source):
        return "the audio lies in an archive or a stream, which is not read; write it to a file and name that"
    return None


def _channel(entry: str | None) -> int | None:
    """From `<file> A` or `<file> 1`; None: not given; -1: not to be understood."""
    if entry is None:
        return None
    name = entry.split()[-1] if len(entry.split()) > 1 else ""
    if name in ("A", "B"):
        return "AB".index(name)
    return int(name) - 1 if name.isdecimal() and len(name) < 5 else -1


def _held(recordings: Iterator[tuple[int, str, str]]) -> Lookup:
    held = Lookup()
    for _, id_, place in recordings:
        held.add(id_, place)
    return held


def _segments(
    pairs: Iterator[tuple[int, str, str]], recordings: Lookup, complain: Complain
) -> Iterator[tuple[int, dict[str, Any]]]:
    known, place = "", None
    for number, id_, rest in pairs:
        fields = rest.split()
        if len(fields) not in (3, 4):
            complain(number, f"{len(fields) + 1} fields where segments have utterance, recording, start and end")
            continue
        if fields[0] != known:
            known, place = fields[0], recordings.get(fields[0])
        stretch = _stretch(fields[1], fields[2])
        channel = {"channel": fields[3]} if len(fields) == 4 else {}
        if place is None:
            complain(number, f"the recording {known!r} does not stand in wav.scp")
        elif stretch is None:
            complain(number, f"from {fields[1]} to {fields[2]} is no stretch of seconds")
        yield number, {"id": id_, **_place(place or ""), **(stretch or {}), **channel}


def _stretch(start: str, end: str) -> dict[str, Any] | None:
    """Offset and duration; an end of -1 is the recording's."""
    try:
        start_s, end_s = float(start), float(end)
    except ValueError:
        return None
    if end_s == -1 and start_s >= 0:
        return {"offset": start_s}
    # Rounded: 12.5 - 10.2 is to be 2.3.
    return {"offset": start_s, "duration": round(end_s - start_s, 6)} if 0 <= start_s < end_s else None


def _place(place: str) -> dict[str, Any]:
    uri, channel = json.loads(place) if place else (None, None)
    return {"uri": uri} if channel is None else {"uri": uri, "channel": channel}
