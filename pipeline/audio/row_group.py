"""Audio that lies in a binary column of a Parquet file: one value at a time, read forward through its row group.

A reader holds a page and a value: at most the audio of one row group, which many writers put into one page. Row groups are read
from their start, so neighbours should be asked for in their order. What a file claims is checked before Arrow sees it: the header
of every page passes `PageGuard`, for a page may claim to unpack to more than a machine holds.
https://parquet.apache.org/docs/file-format/
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audio.member import Row
from pipeline.errors import AudioError

MAX_FOOTER_BYTES = 64 * 2**20
MAX_GROUP_ROWS = 1_000_000

_READ_BYTES = 4 * 2**20
_MAX_HEADER_BYTES = 64 * 2**10
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
# Arrow's own limits, for a footer that counts to billions.
_LIMITS = {"thrift_string_size_limit": MAX_FOOTER_BYTES, "thrift_container_size_limit": 10_000_000}

ReadRange = Callable[[int, int], bytes]  # the bytes [start, end), all of them


class Opened:
    """A Parquet file whose rows are being read. `max_bytes`: the largest column of a row group that is accepted."""

    def __init__(self, read_range: ReadRange, size: int, max_bytes: int) -> None:
        self._guard = PageGuard(read_range, size, max_bytes)
        self._max_bytes = max_bytes
        self._file = open_parquet(self._guard, size)
        self._place: tuple[int, str, int] | None = None  # group, column and the row that comes next
        self._values: Iterator[pa.RecordBatch] = iter(())

    def value(self, row: Row) -> pa.Buffer:
        """The bytes of a row. Raises AudioError: not_found, bad_header, object_too_large, empty_file, fetch_failed."""
        try:
            if self._place is None or self._place[:2] != (row.group, row.column) or self._place[2] > row.row:
                self._values = self._begin(row)
                self._place = (row.group, row.column, 0)
            batch = None
            for position in range(self._place[2], row.row + 1):
                batch = next(self._values, None)
                self._place = (row.group, row.column, position + 1)
                if batch is None:
                    raise _broken("its row group ends before this row")
        except AudioError:
            self._place = None
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
            self._place = None
            raise _broken(f"{type(error).__name__}: {str(error)[:200]}") from None
        if batch is None or batch.num_columns != 1:
            raise _broken("its schema does not agree with its columns")
        return _bytes_of(batch.column(0), self._max_bytes)

    def _begin(self, row: Row) -> Iterator[pa.RecordBatch]:
        metadata = self._file.metadata
        if row.group >= metadata.num_row_groups or row.row >= metadata.row_group(row.group).num_rows:
            raise AudioError("not_found", "The Parquet file has no such row; correct the row, or plan a new run.")
        leaf = leaf_of(self._file, row.column)
        if leaf is None:
            raise AudioError("not_found", f"The Parquet file has no binary column {row.column!r}; correct the row.")
        group = metadata.row_group(row.group)
        column = group.column(leaf)
        claimed = max(column.total_compressed_size, column.total_uncompressed_size)
        if claimed > self._max_bytes or group.num_rows > MAX_GROUP_ROWS:
            raise AudioError(
                "object_too_large",
                f"The row group holds {claimed} bytes of audio in {group.num_rows} rows; write the file with smaller row "
                "groups, or raise decode.row_group_bytes.",
            )
        starts = [column.data_page_offset]
        if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < starts[0]:
            starts = [column.dictionary_page_offset]
        self._guard.watch(starts[0], starts[0] + column.total_compressed_size)
        # One row at a time: a dictionary could make any number of values out of one.
        values: Iterator[pa.RecordBatch] = self._file.iter_batches(
            batch_size=1, row_groups=[row.group], columns=[column.path_in_schema], use_threads=False
        )
        return values


def open_parquet(handle: Any, size: int) -> pq.ParquetFile:
    """The file, its footer read, set to read columns piece by piece. Raises AudioError bad_header."""
    try:
        handle.seek(max(0, size - 8))
        tail = handle.read(8)
        if len(tail) < 8 or tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > min(size, MAX_FOOTER_BYTES):
            raise _broken("it does not end like one, or its footer is too long")
        return pq.ParquetFile(handle, buffer_size=_READ_BYTES, pre_buffer=False, **_LIMITS)
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise _broken(f"{type(error).__name__}: {str(error)[:200]}") from None


def leaf_of(file: pq.ParquetFile, column: str) -> int | None:
    """The number of the leaf that holds the audio of `column`: itself, or its `bytes`; None: it holds none."""
    schema = file.schema
    found = [i for i in range(len(schema)) if schema.column(i).path in (column, f"{column}.bytes")]
    if len(found) != 1:
        return None
    leaf = schema.column(found[0])
    is_text = leaf.logical_type.type in ("STRING", "UTF8") or leaf.converted_type == "UTF8"
    return found[0] if leaf.physical_type == "BYTE_ARRAY" and not leaf.max_repetition_level and not is_text else None


class PageGuard(io.RawIOBase):
    """A file of ranges that reads the page headers of one column as they go by, before anyone acts on them."""

    def __init__(self, read_range: ReadRange, size: int, max_bytes: int) -> None:
        self._read_range, self._size, self._max_bytes = read_range, size, max_bytes
        self._at = 0
        self._next = self._end = 0  # where the next page's header begins, and where the column ends

    def watch(self, start: int, end: int) -> None:
        """Watch the column at [start, end) from now on. Raises AudioError bad_header: it lies elsewhere."""
        if not 0 <= start <= end <= self._size:
            raise _broken("a column lies outside the file")
        self._next, self._end = start, end

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move."""
        self._at = max(0, (0, self._at, self._size)[whence] + offset)
        return self._at

    def read(self, size: int = -1) -> bytes | bytearray:
        """Up to `size` bytes. Raises AudioError: a page that is too large, and whatever the store says."""
        stop = self._size if size < 0 else min(self._at + size, self._size)
        start, data = self._at, self._fetch(self._at, stop)
        self._at = max(start, stop)
        self._inspect(start, data)
        return data

    def _fetch(self, start: int, stop: int) -> bytes | bytearray:
        if stop - start <= _READ_BYTES:
            return self._read_range(start, stop) if start < stop else b""
        if stop - start > max(self._max_bytes, MAX_FOOTER_BYTES) + _READ_BYTES:
            raise _too_large(stop - start)
        data = bytearray(stop - start)
        for at in range(start, stop, _READ_BYTES):
            end = min(at + _READ_BYTES, stop)
            data[at - start : end - start] = self._read_range(at, end)
        return data

    def _inspect(self, start: int, data: bytes | bytearray) -> None:
        while self._next < min(start + len(data), self._end):
            if self._next < start:
                raise _broken("its pages do not follow one another")
            head = data[self._next - start : self._next - start + _MAX_HEADER_BYTES]
            page = _page_header(head)
            if page is None and len(head) < _MAX_HEADER_BYTES:  # it goes on behind what was read
                page = _page_header(self._fetch(self._next, min(self._next + _MAX_HEADER_BYTES, self._end)))
            if page is None or min(page.header_bytes, page.packed_bytes, page.bytes) < 0:
                raise _broken("a page header makes no sense")
            if max(page.bytes, page.packed_bytes) > self._max_bytes:
                raise _too_large(max(page.bytes, page.packed_bytes))
            self._next += page.header_bytes + page.packed_bytes


@dataclass(frozen=True, slots=True)
class _Page:
    header_bytes: int
    bytes: int
    packed_bytes: int


class _Thrift:
    """Enough of thrift's compact protocol to step over a struct. Raises IndexError at the end, ValueError for nonsense."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data, self.at = data, 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError

    def signed(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0) -> None:
        if depth > 8:
            raise ValueError
        if kind == 3:
            self.at += 1
        elif kind in (4, 5, 6):
            self.varint()
        elif kind == 7:
            self.at += 8
        elif kind == 8:
            length = self.varint()
            self.at += length
        elif kind in (9, 10):
            self._skip_list(depth)
        elif kind == 12:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind not in (1, 2):  # true and false are their own values
            raise ValueError

    def _skip_list(self, depth: int) -> None:
        head = self.data[self.at]
        self.at += 1
        count = head >> 4 if head >> 4 != 15 else self.varint()
        for _ in range(count):
            if self.at >= len(self.data):
                raise IndexError
            self.skip(3 if head & 15 in (1, 2) else head & 15, depth + 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field; whoever asks must step over its value."""
        number = 0
        while (head := self.data[self.at]) != 0:
            self.at += 1
            number = number + (head >> 4) if head >> 4 else self.signed()
            yield number, head & 15
        self.at += 1


def _page_header(data: bytes | bytearray) -> _Page | None:
    """Of a page that begins here: type, its bytes, its packed bytes, then what does not matter; None: cut off or nonsense."""
    thrift, sizes = _Thrift(data), {}
    try:
        for number, kind in thrift.fields():
            if number in (2, 3) and kind == 5 and number not in sizes:
                sizes[number] = thrift.signed()
            elif number in (2, 3):
                return None
            else:
                thrift.skip(kind)
    except (IndexError, ValueError):
        return None
    if thrift.at > len(data) or sizes.keys() != {2, 3}:
        return None
    return _Page(thrift.at, sizes[2], sizes[3])


def _bytes_of(values: Any, max_bytes: int) -> pa.Buffer:
    while pa.types.is_struct(values.type):
        values = values.field(0)
    if not any(fits(values.type) for fits in _BINARY):
        raise _broken(f"its audio is of the type {values.type}")
    value = values[0]
    if not value.is_valid:
        raise AudioError("empty_file", "The row holds no audio; correct the file.")
    buffer = value.as_buffer()
    if buffer.size > max_bytes:
        raise _too_large(buffer.size)
    return buffer


def _too_large(size: int) -> AudioError:
    return AudioError(
        "object_too_large",
        f"The Parquet file has a page of {size} bytes; write it with smaller row groups, or raise decode.row_group_bytes.",
    )


def _broken(reason: str) -> AudioError:
    reason = "".join(c if c.isprintable() else " " for c in reason)
    return AudioError("bad_header", f"The Parquet file cannot be read here ({reason}); write it again.")
