"""Rows of Parquet files, and audio that lies in one of their columns, as Hugging Face `datasets` writes it.

Audio is not read here: a row's uri names its row group and row (`pipeline.audio.member`), and its worker reads it from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audio.member import Row, row_uri
from pipeline.source.formats import BLOCK_ROWS, Block
from pipeline.source.rows import Keys

_EMPTY = (None, "")


@dataclass(frozen=True, slots=True)
class _Embedded:
    """The column that holds audio: where its row groups begin, and which of them have bytes in it, not mere paths."""

    name: str
    starts: Any  # int64 [row groups]: the first row of each
    has_bytes: list[bool]


def parquet_blocks(handle: IO[bytes], container: str, below: str, keys: Keys) -> Iterator[Block]:
    """Blocks of raw rows. `container`: the file's uri; `below`: its name below the manifest's folder, for ids."""
    file = pq.ParquetFile(pa.PythonFile(handle, "r"))
    schema = file.schema_arrow
    structs = _audio_structs(schema)
    embedded = _embedded(file, keys)
    columns = [f"{name}.path" if name in structs else name for name in schema.names]
    if embedded and embedded.name not in structs:
        columns.remove(embedded.name)
    first = 0
    for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=columns if columns != schema.names else None):
        rows = batch.to_pylist()
        for name in structs:
            for row in rows:
                row[name] = (row.get(name) or {}).get("path")
        if embedded:
            _point(rows, first, embedded, container, below, keys)
        yield Block(list(range(first + 1, first + 1 + batch.num_rows)), rows)
        first += batch.num_rows


def has_audio(handle: IO[bytes], keys: Keys) -> bool:
    """Whether the rows' audio lies in the file itself."""
    return _embedded(pq.ParquetFile(pa.PythonFile(handle, "r")), keys) is not None


def _point(rows: list[dict[str, Any]], first: int, audio: _Embedded, container: str, below: str, keys: Keys) -> None:
    """Put uris in the place of audio, and ids where there are none."""
    numbers = np.arange(first, first + len(rows))
    groups = np.searchsorted(audio.starts, numbers, side="right") - 1
    places = numbers - audio.starts[groups]
    id_key = keys["id"][0]
    for row, number, group, place in zip(rows, numbers.tolist(), groups.tolist(), places.tolist(), strict=True):
        if not audio.has_bytes[group]:
            continue
        path_key = f"{audio.name}_path"
        if path_key not in row and (path := row.get(audio.name)):
            row[path_key] = path
        row[audio.name] = row_uri(container, Row(group, place, audio.name))
        if row.get(id_key) in _EMPTY:
            row[id_key] = f"{below}/{number}"


def _audio_structs(schema: pa.Schema) -> list[str]:
    """Columns as Hugging Face keeps audio in: a struct of `bytes` and `path`."""
    structs = [field for field in schema if pa.types.is_struct(field.type)]
    return [field.name for field in structs if {"bytes", "path"} <= {inner.name for inner in field.type}]


def _embedded(file: pq.ParquetFile, keys: Keys) -> _Embedded | None:
    """The column of the recordings, if any row group of it may hold bytes."""
    schema, metadata = file.schema_arrow, file.metadata
    structs = _audio_structs(schema)
    binary = [one.name for one in schema if pa.types.is_binary(one.type) or pa.types.is_large_binary(one.type)]
    name = next((name for name in keys["uri"] if name in structs or name in binary), None)
    if name is None:
        return None
    leaf = f"{name}.bytes" if name in structs else name
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    has_bytes = [_may_hold(group, leaf) for group in groups]
    if name in structs and not any(has_bytes):
        return None
    starts = np.cumsum([0, *(group.num_rows for group in groups)], dtype=np.int64)[:-1]
    return _Embedded(name, starts, has_bytes)


def _may_hold(group: pq.RowGroupMetaData, leaf: str) -> bool:
    columns = (group.column(index) for index in range(group.num_columns))
    counts = [column.statistics for column in columns if column.path_in_schema == leaf]
    return any(count is None or count.null_count != group.num_rows for count in counts)
