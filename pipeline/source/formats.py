"""Manifest formats: bytes in, blocks of raw rows out (key → value, as written). Knows nothing of what the keys mean.

One path for all: a row is a dict with the line it came from, from 1 (`pipeline.source.parquet` has its rows the same way).
Lines are parsed one by one by the standard library: its errors know their line, which Arrow's readers do not.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

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
    ".tar": "webdataset",
    ".tgz": "webdataset",
}


class Complain(Protocol):
    """Raises, or notes what is wrong and goes on."""

    def __call__(self, number: int, message: str, place: str = "") -> None:
        """What is wrong with a line or row, by its number; `place`: in which file, where a manifest has several."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows as written and the line or row number of each."""

    numbers: list[int]
    rows: list[dict[str, Any]]
    place: str = ""  # the file that the numbers count in, where a manifest has several


def format_by_name(uri: str) -> str | None:
    """jsonl | csv | tsv | parquet | webdataset, as the file's name tells it; None: it does not."""
    stem, suffix = os.path.splitext(uri.lower())
    if suffix in CODECS:
        suffix = os.path.splitext(stem)[1]
    return _SUFFIXES.get(suffix)


def within(place: str, complain: Complain) -> Complain:
    """The same, for one file of several: what is wrong is said with the file's name."""

    outer = place

    def told(number: int, message: str, place: str = "") -> None:
        complain(number, message, place or outer)

    return told if outer else complain


def read_blocks(handle: IO[bytes], kind: str, complain: Complain) -> Iterator[Block]:
    """Blocks of at most BLOCK_ROWS raw rows of a text file. Bad lines go to `complain`, and are left out if it returns."""
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
