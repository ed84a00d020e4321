"""Texts → shards, the same every time. Pure: knows no files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import pyarrow as pa

from pipeline.schema import column
from pipeline.second_pass.texts import TextPlace

TEXTS = pa.schema(
    [
        column("shard_id", pa.string(), "index and hash of the shard's texts"),
        column("recording_id", pa.string(), "id in the run's transcripts"),
        column("digest", pa.string(), "of the text and its language"),
        column("key", pa.string(), "file of the run's transcripts"),
        column("row_group", pa.int32(), "row group in that file"),
        column("row", pa.int32(), "row in that row group"),
        column("chars", pa.int64(), "length of the text"),
    ]
)


def plan_texts(places: Iterable[TextPlace], first_index: int, most_recordings: int, most_chars: int) -> pa.Table:
    """A table of TEXTS: neighbours share a shard while they keep to both limits; a longer text has one for itself."""
    tables = [
        _shard(first_index + index, group) for index, group in enumerate(_groups(places, most_recordings, most_chars))
    ]
    return pa.concat_tables(tables) if tables else TEXTS.empty_table()


def _groups(places: Iterable[TextPlace], most_recordings: int, most_chars: int) -> Iterator[list[TextPlace]]:
    group: list[TextPlace] = []
    chars = 0
    for place in places:
        if group and (len(group) == most_recordings or chars + place.chars > most_chars):
            yield group
            group, chars = [], 0
        group.append(place)
        chars += place.chars
    if group:
        yield group


def _shard(index: int, group: list[TextPlace]) -> pa.Table:
    digest = hashlib.sha256("".join(f"{place.digest}:{place.recording_id}\n" for place in group).encode())
    columns = [
        [f"{index:05d}-{digest.hexdigest()[:8]}"] * len(group),
        [place.recording_id for place in group],
        [place.digest for place in group],
        [place.key for place in group],
        [place.row_group for place in group],
        [place.row for place in group],
        [place.chars for place in group],
    ]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, TEXTS, strict=True)], schema=TEXTS)
