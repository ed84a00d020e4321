"""Recordings in tar files: WebDataset's shards, and the audio beside lhotse's Shar. Headers are read, and small texts; no audio.

A row's uri names the member and where its bytes lie (`pipeline.audio.member`), so that a worker reads those bytes alone.
What is wrong is told in words, as an item of its own: several files are read side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from pipeline.audio.fetch import Ranges
from pipeline.audio.member import Piece, piece_uri
from pipeline.audio.tar import BadTar, Member, members
from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.formats import MAX_LINE_BYTES, json_rows
from pipeline.source.lhotse import shar_row
from pipeline.source.listing import is_audio
from pipeline.source.opening import CODECS, is_local, kind_of, local_path, open_bytes, open_ranges
from pipeline.source.rows import KEYS

URI_KEY = "__uri__"  # a sample's json may have `path` or `audio` of its own: those pass through
TARRED_KEYS = {**KEYS, "uri": (URI_KEY,)}

_KEY = "__key__"  # as WebDataset calls it
_JSON = "json"
_TEXTS = {"txt", "text", "transcript", "lab", "trn", "cls", "lang", "spk"}
_NO_AUDIO = {"nodata", "nometa"}  # what Shar writes for a cut without

Item = tuple[int, dict[str, Any] | str]  # number and row, or number and what is wrong


def webdataset_rows(uri: str, folder: str, config: SourceConfig) -> Iterator[Item]:
    """The samples of one tar file, numbered from 1. Raises ManifestError where it cannot be opened."""
    number = 0
    with _opened(uri, config) as (container, ranges):
        below = container.removeprefix(f"{folder.rstrip('/')}/")
        found = (one for one in members(ranges.read, ranges.size) if _split(one.name) is not None)
        try:
            for key, group in groupby(found, lambda one: (_split(one.name) or ("",))[0]):
                number += 1
                try:
                    yield number, _sample(key, group, container, below, ranges, config)
                except ValueError as error:
                    yield number, f"the sample {_shown(key)} {error}"
        except BadTar as error:
            yield number + 1, f"the tar file {error}"


def shar_rows(uri: str, config: SourceConfig) -> Iterator[Item]:
    """The cuts of one shard, by the lines of its `cuts` file; the tar file beside it has their audio in the same order.

    Raises ManifestError where one of the two cannot be opened.
    """
    said: list[Item] = []
    with open_bytes(uri, config) as handle, _opened(tar_beside(uri), config) as (container, ranges):
        tar_name = container.rpartition("/")[2]
        audio = _audio_of_cuts(ranges)
        number = bad_lines = skipped = 0
        try:
            for number, item in json_rows(handle, lambda line, message, place="": said.append((line, message))):
                bad_lines += len(said)
                yield from said
                said.clear()
                found = next(audio, None)
                while found and found[0] != item.get("id") and skipped < bad_lines:  # the audio of a line that was bad
                    found, skipped = next(audio, None), skipped + 1
                yield number, _cut(item, found, container, tar_name)
            yield from said
            if bad_lines + len(said) == skipped and (more := next(audio, None)) is not None:
                yield number + 1, f"{tar_name} goes on with {_shown(more[0])} behind the last cut"
        except BadTar as error:
            yield number + 1, f"{tar_name} {error}"


def tar_beside(cuts_uri: str) -> str:
    """Where the audio of a Shar shard lies: `recording.000000.tar` beside `cuts.000000.jsonl.gz`."""
    folder, slash, name = cuts_uri.rpartition("/")
    stem = name.removesuffix(".gz").removesuffix(".jsonl").removeprefix("cuts")
    return f"{folder}{slash}recording{stem}.tar"


def is_shar(cuts_uri: str, config: SourceConfig) -> bool:
    """Whether the audio of a cuts file lies beside it."""
    return kind_of(tar_beside(cuts_uri), config) == "file"


@contextmanager
def _opened(uri: str, config: SourceConfig) -> Iterator[tuple[str, Ranges]]:
    """The uri as rows have it, and the bytes."""
    if any(uri.endswith(codec) for codec in CODECS) or uri.endswith(".tgz"):
        raise ManifestError(f"The tar file {uri} is packed, and no member can be read by itself; unpack it to a .tar.")
    with open_ranges(uri, config) as ranges:
        yield local_path(uri) if is_local(uri) else uri, ranges


def _split(name: str) -> tuple[str, str] | None:
    """Key and extension as WebDataset parts a name: at the first dot of its last part. None: it has no extension."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem and extension else None


def _sample(
    key: str, group: Iterator[Member], container: str, below: str, ranges: Ranges, config: SourceConfig
) -> dict[str, Any]:
    """One row. Raises ValueError: what is wrong with the sample, to stand behind its name."""
    wanted = config.columns.get("uri")
    row: dict[str, Any] = {}
    texts: dict[str, str] = {}
    audio: dict[str, Member] = {}
    for member in group:
        extension = (_split(member.name) or ("", ""))[1]
        if extension == wanted or (wanted is None and is_audio(f"x.{extension}")):
            if extension in audio:
                raise ValueError(f"has two members named .{extension}; write the file again, with names of their own")
            audio[extension] = member
        elif extension == _JSON or extension.endswith(f".{_JSON}"):
            row.update(_json(_text(member, ranges)))
        elif extension in _TEXTS or extension in config.columns.values():
            texts[extension] = _text(member, ranges).strip()
    if "text" not in config.columns and not any(row.get(name) for name in KEYS["reference_text"]) and "txt" in texts:
        row["text"] = texts.pop("txt")
    row = {**row, **texts, _KEY: key}
    if len(audio) != 1:
        raise ValueError(
            f"has {len(audio)} members with audio ({', '.join(audio)}); name one of the endings in source.columns.uri"
            if audio
            else f"has no member with audio{f' named .{wanted}' if wanted else ''}"
        )
    id_key = config.columns.get("id", "id")
    if row.get(id_key) in (None, ""):
        row[id_key] = f"{below}/{key}"
    row[URI_KEY] = _uri(container, audio.popitem()[1])
    return row


def _audio_of_cuts(ranges: Ranges) -> Iterator[tuple[str, Member]]:
    """Cut id and member, of a tar file as lhotse writes it: audio first, then its recording as json."""
    for member in members(ranges.read, ranges.size):
        stem, dot, extension = member.name.rpartition(".")
        if dot and extension not in (_JSON, "nometa"):
            yield stem, member


def _cut(item: dict[str, Any], found: tuple[str, Member] | None, container: str, tar_name: str) -> dict[str, Any] | str:
    """The row of a cut, or what is wrong with it."""
    if found is None:
        return f"{tar_name} ends before the audio of this cut"
    id_, member = found
    if id_ != item.get("id"):
        return f"{tar_name} has {_shown(id_)} where the audio of this cut should be"
    if member.name.rpartition(".")[2] in _NO_AUDIO:
        return "a cut whose audio was not written"
    try:
        return shar_row(item, _uri(container, member))
    except ValueError as error:
        return str(error)


def _uri(container: str, member: Member) -> str:
    if member.objection:
        raise ValueError(f"has {member.objection} for audio; pack the file itself")
    try:
        return piece_uri(container, Piece(member.name, member.start, member.end))
    except UnicodeEncodeError:
        raise ValueError("has a name that is not UTF-8") from None


def _text(member: Member, ranges: Ranges) -> str:
    size = member.end - member.start
    if size > MAX_LINE_BYTES or member.objection:
        raise ValueError(f"has {member.objection or f'{size} bytes'} in {_shown(member.name)}, which is not read")
    try:
        return ranges.read(member.start, size).decode()
    except UnicodeDecodeError:
        raise ValueError(f"has text in {_shown(member.name)} that is not UTF-8") from None


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a json that cannot be used ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise ValueError("has a json that is no object")
    return found


def _shown(name: str) -> str:
    shown = ascii(name)
    return shown if len(shown) <= 80 else f"{shown[:40]}…{shown[-39:]}"
