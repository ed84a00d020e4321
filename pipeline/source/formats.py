"""Manifest formats: bytes in, blocks of raw rows out (key → value, as written). Knows nothing of what the keys mean.

One path for all: a row is a dict with the line (JSONL, CSV, TSV) or row number (Parquet) it came from, both from 1.
Lines are parsed one by one by the standard library: its errors know their line, which Arrow's readers do not.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.source.opening import CODECS

BLOCK_ROWS = 20_000
MAX_LINE_BYTES = 16 * 2**20

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",  # what NeMo calls its manifests
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}

Complain = Callable[[int, str], None]  # (line or row, what is wrong with it); raises, or notes it and goes on


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows as written and the line or row number of each."""

    numbers: list[int]
    rows: list[dict[str, Any]]
    place: str = ""  # the file that the numbers count in, where a manifest has several


def format_by_name(uri: str) -> str | None:
    """jsonl | csv | tsv | parquet, as the file's name tells it; None: it does not."""
    stem, suffix = os.path.splitext(uri.lower())
    if suffix in CODECS:
        suffix = os.path.splitext(stem)[1]
    return _SUFFIXES.get(suffix)


def within(place: str, complain: Complain) -> Complain:
    """The same, for one file of several: what is wrong is said with the file's name."""
    return (lambda number, message: complain(number, f"in {place}: {message}")) if place else complain


def read_blocks(handle: IO[bytes], kind: str, complain: Complain) -> Iterator[Block]:
    """Blocks of at most BLOCK_ROWS raw rows. Bad lines go to `complain`, and are left out if it returns."""
    if kind == "parquet":
        return _parquet_blocks(handle, complain)
    return in_blocks(json_rows(handle, complain) if kind == "jsonl" else _delimited_rows(handle, kind, complain))


def in_blocks(rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Block]:
    """Numbered rows as blocks of at most BLOCK_ROWS."""
    block = Block([], [])
    for number, row in rows:
        block.numbers.append(number)
        block.rows.append(row)
        if len(block.rows) == BLOCK_ROWS:
            yield block
            block = Block([], [])
    if block.rows:
        yield block


def lines(handle: IO[bytes], complain: Complain) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file in UTF-8, with their ends. Bad ones go to `complain`; one that is too long is the last."""
    number = 0
    while raw := handle.readline(MAX_LINE_BYTES):
        number += 1
        if len(raw) == MAX_LINE_BYTES:
            complain(number, f"longer than {MAX_LINE_BYTES >> 20} MB")
            return
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            complain(number, f"not UTF-8 (byte {error.start + 1})")
            continue
        yield number, line.removeprefix("\ufeff") if number == 1 else line


def json_rows(handle: IO[bytes], complain: Complain) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered objects of a JSON Lines file. Bad lines go to `complain`."""
    for number, line in lines(handle, complain):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            complain(number, f"not valid JSON ({error.msg}, column {error.colno})")
            continue
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
            complain(number, f"not usable JSON ({type(error).__name__})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            complain(number, f"a JSON {type(row).__name__}, not an object")


def _delimited_rows(handle: IO[bytes], kind: str, complain: Complain) -> Iterator[tuple[int, dict[str, Any]]]:
    # The library's own limit of 128 kB per field would refuse the reference of a long recording.
    csv.field_size_limit(MAX_LINE_BYTES)
    texts = (line for _, line in lines(handle, complain))
    # TSV as Common Voice writes it: a tab ends a field, a quote is a quote.
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == "tsv" else {"strict": True}
    reader = csv.reader(texts, **form)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1  # of the row's first line: quoted fields may hold line breaks
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            complain(number, f"not valid {kind.upper()} ({error})")
            continue
        if not cells:
            continue
        if header is None:
            header = _checked_header(cells, number, complain)
        elif len(cells) != len(header):
            complain(number, f"{len(cells)} fields where the header has {len(header)}")
        else:
            yield number, dict(zip(header, cells, strict=True))


def _checked_header(names: list[str], number: int, complain: Complain) -> list[str]:
    if "" in names:
        complain(number, f"a header without a name for column {names.index('') + 1}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        complain(number, f"a header that names {twice[0]!r} twice")
    return names


def _parquet_blocks(handle: IO[bytes], complain: Complain) -> Iterator[Block]:
    file = pq.ParquetFile(pa.PythonFile(handle, "r"))
    audio = _audio_columns(file.schema_arrow)
    for name in audio:
        if (row := _first_with_bytes(file.metadata, name)) is not None:
            # Parquet is read by row groups: hundreds of recordings would be unpacked to hear one.
            complain(row, f"the column {name!r} holds the audio itself, and only audio in files can be read")
            return
    columns = [f"{name}.path" if name in audio else name for name in file.schema_arrow.names] if audio else None
    first = 1
    for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=columns):
        rows = batch.to_pylist()
        for name in audio:
            for row in rows:
                row[name] = (row[name] or {}).get("path")
        yield Block(list(range(first, first + batch.num_rows)), rows)
        first += batch.num_rows


def _audio_columns(schema: pa.Schema) -> list[str]:
    """Columns as Hugging Face keeps audio in: a struct of `bytes` and `path`."""
    structs = [field for field in schema if pa.types.is_struct(field.type)]
    return [field.name for field in structs if {"bytes", "path"} <= {inner.name for inner in field.type}]


def _first_with_bytes(metadata: pq.FileMetaData, name: str) -> int | None:
    """The first row of the first row group that holds, or may hold, audio in `name`; None where all are only paths."""
    row = 1
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        columns = (group.column(index) for index in range(group.num_columns))
        counts = [column.statistics for column in columns if column.path_in_schema == f"{name}.bytes"]
        if any(count is None or count.null_count != group.num_rows for count in counts):
            return row
        row += group.num_rows
    return None
