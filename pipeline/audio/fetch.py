"""Bytes of objects: local files by descriptor, small remote objects whole, large ones by ranges. Knows nothing of audio.

A recording inside a container is its own bytes and no others: a range of a tar file, a value of a Parquet file. The decoder never
sees the container.

Credentials stay on this side: the decoder gets a descriptor or asks for ranges, never a URL.

A refusal is a verdict on a recording only while the store gives us others: a whole archive must not become failed rows because
a token ran out. Codes such as ExpiredToken say it themselves. A plain "access denied" is held against an object of the same
bucket that was read before; a worker that has read none asks for the manifest and for the recording's neighbours in the plan.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import fsspec

from pipeline.audio import tar
from pipeline.audio.member import Piece
from pipeline.audio.uri_policy import Location
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError, RefusedError, TransientError
from pipeline.store.base import checked_range
from pipeline.store.patience import names_credentials, persist, says_refused

_CACHE_BYTES = 32 * 2**20
_MAX_READ_BYTES = 4 * 2**20
# Over-reading is bounded by this part of what a run of sequential reads has used so far.
_READAHEAD_PART = 8

ReadRange = Callable[[int, int], bytes]


class Ranges:
    """Reads of a large object through a small cache of blocks; sequential reading grows the requests."""

    def __init__(self, read_range: ReadRange, size: int, block_bytes: int) -> None:
        self._read_range, self.size, self._block = read_range, size, block_bytes
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._run_start = self._run_end = -1  # blocks of the current sequential run

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length), cut at the object's end."""
        end = min(offset + length, self.size)
        if offset < 0 or offset >= end:
            return b""
        first, last = offset // self._block, (end - 1) // self._block
        parts = [self._get(index, last) for index in range(first, last + 1)]
        joined = parts[0] if len(parts) == 1 else b"".join(parts)
        return joined[offset - first * self._block : end - first * self._block]

    def _get(self, index: int, last: int) -> bytes:
        if index not in self._blocks:
            self._fetch(index, last)
        self._blocks.move_to_end(index)
        return self._blocks[index]

    def _fetch(self, index: int, last: int) -> None:
        if index != self._run_end:
            self._run_start = index
        ahead = min((index - self._run_start) // _READAHEAD_PART, _MAX_READ_BYTES // self._block)
        count = max(1, min(last - index + 1, _MAX_READ_BYTES // self._block), ahead)
        count = next((more for more in range(1, count) if index + more in self._blocks), count)  # up to what is there
        start, end = index * self._block, min((index + count) * self._block, self.size)
        data = self._read_range(start, end)
        if len(data) != end - start:
            raise TransientError("fetch_failed", f"The store sent {len(data)} of {end - start} bytes; run again.")
        for at in range(0, len(data), self._block):
            self._blocks[index + at // self._block] = data[at : at + self._block]
        self._run_end = index + count
        while len(self._blocks) * self._block > max(_CACHE_BYTES, 2 * count * self._block):
            self._blocks.popitem(last=False)


class Blob:
    """An object that is open: either `fd` (a local file or a copy in memory) or `ranges`."""

    def __init__(self, size: int, etag: str | None, fd: int | None = None, ranges: Ranges | None = None) -> None:
        self.size, self.etag, self.fd, self.ranges = size, etag, fd, ranges

    @classmethod
    def copy(cls, data: bytes | memoryview, etag: str | None) -> Blob:
        """A blob in memory."""
        fd = os.memfd_create("audio")
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        return cls(len(data), etag, fd=fd)

    def pread(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`, fewer only at the end. Raises AudioError fetch_failed."""
        if self.fd is None:
            return self.ranges.read(offset, length) if self.ranges else b""
        try:
            data = os.pread(self.fd, length, offset)
            while 0 < len(data) < length and (more := os.pread(self.fd, length - len(data), offset + len(data))):
                data += more  # some file systems give less than there is
            return data
        except OSError as error:
            raise TransientError(
                "fetch_failed", f"The file cannot be read ({error.strerror}); check the disk."
            ) from None

    def shared(self) -> Blob:
        """The same object once more, to be closed by itself."""
        return Blob(self.size, self.etag, None if self.fd is None else os.dup(self.fd), self.ranges)

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Container:
    """An object that recordings lie in, read by ranges. `parquet`: its rows, once one was asked for."""

    def __init__(self, location: Location, size: int, etag: str | None, read_range: ReadRange) -> None:
        self.location, self.size, self.etag, self.read_range = location, size, etag, read_range
        self.parquet: Any = None  # pipeline.audio.row_group.Opened

    @classmethod
    def local(cls, location: Location) -> Container:
        """A file. Raises AudioError as `Fetcher.open` does."""
        blob = _open_local(location.path)
        return cls(location, blob.size, blob.etag, _LocalFile(blob).read_range)

    def is_like(self, other: Container) -> bool:
        """Whether it is the same object, unchanged."""
        return (self.location, self.size, self.etag) == (other.location, other.size, other.etag)


class _LocalFile:
    """A file that stays open as long as anything may read from it."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob

    def __del__(self) -> None:
        self._blob.close()

    def read_range(self, start: int, end: int) -> bytes:
        assert self._blob.fd is not None
        data = b""
        while len(data) < end - start:
            more = os.pread(self._blob.fd, end - start - len(data), start + len(data))
            if not more:
                raise AudioError("input_changed", "The file has become shorter while it was read; plan a new run.")
            data = data + more if data else more
        return data


class Fetcher:
    """Opens objects; keeps the last remote one, so that windows of one recording share what was read."""

    def __init__(
        self, decode: DecodeConfig, source: SourceConfig, neighbours: Callable[[], Iterable[Location]] = tuple
    ) -> None:
        self._decode, self._source, self._neighbours = decode, source, neighbours
        self._readable: dict[str, Location] = {}  # the object read last, by bucket
        self._filesystems: dict[str, Any] = {}
        self._last: tuple[Location, Blob] | None = None
        self._container: Container | None = None  # the last one, and the row group that is being read
        self.fetched_bytes = 0  # from remote stores, since the beginning

    def open(self, location: Location, expect: tuple[int | None, str | None] = (None, None)) -> Blob:
        """The object at `location`; valid until the next call.

        Raises AudioError: not_found, access_denied, uri_refused (not a regular file), empty_file, object_too_large,
        input_changed (size or etag differ from `expect`), fetch_failed; of Parquet bad_header. RefusedError: the store refuses
        more than this object. The size is that of the recording, the etag its container's.
        """
        if location.member is not None:
            return self._open_member(location, expect)
        if location.scheme == "file":
            self._forget()
            blob = _open_local(location.path)
            self._last = (location, blob)
            self._check(blob.size, blob.etag, expect)
            return blob
        info = self._ask(lambda fs: fs.info(location.path), location)
        if info.get("type") == "directory":
            raise AudioError("not_found", "The uri names a folder, not an object; correct the row.")
        size, etag = int(info.get("size") or 0), _etag(info)
        self._check(size, etag, expect)
        if self._last and self._last[0] == location and (self._last[1].size, self._last[1].etag) == (size, etag):
            return self._last[1]
        self._forget()
        self._last = (location, self._remote(location, size, etag))
        return self._last[1]

    def close(self) -> None:
        """Forget the last object, and its container."""
        self._forget()
        self._container = None

    def _forget(self) -> None:
        if self._last:
            self._last[1].close()
            self._last = None

    def _remote(self, location: Location, size: int, etag: str | None) -> Blob:
        return self._part(self._reading(location), 0, size, etag)

    def _reading(self, location: Location) -> ReadRange:
        def read_range(start: int, end: int) -> bytes:
            data: bytes = self._ask(
                lambda fs: checked_range(fs.cat_file(location.path, start=start, end=end), start, end), location
            )
            self.fetched_bytes += len(data)
            self._readable[_bucket(location)] = location
            return data

        return read_range

    def _part(self, read_range: ReadRange, start: int, end: int, etag: str | None) -> Blob:
        """The bytes [start, end) of an object: a copy of few, many by ranges."""
        size = end - start
        if size > self._decode.whole_object_bytes:
            inside = Ranges(lambda low, high: read_range(start + low, start + high), size, self._decode.range_bytes)
            return Blob(size, etag, ranges=inside)
        return Blob.copy(read_range(start, end), etag)

    def _open_member(self, location: Location, expect: tuple[int | None, str | None]) -> Blob:
        container = self._open_container(replace(location, member=None))
        if self._last and self._last[0] == location:
            self._check(self._last[1].size, container.etag, expect)
            return self._last[1]
        member = location.member
        if isinstance(member, Piece):
            self._check(member.end - member.start, container.etag, expect)
            blob = self._open_piece(container, member)
        else:
            from pipeline.audio.row_group import Opened

            if container.parquet is None:
                container.parquet = Opened(container.read_range, container.size, self._decode.row_group_bytes)
            value = container.parquet.value(member)
            self._check(value.size, container.etag, expect)
            blob = Blob.copy(memoryview(value), container.etag)
        self._forget()
        self._last = (location, blob)
        return blob

    def _open_container(self, location: Location) -> Container:
        """The container as it is now; what was read of it is kept while it is the same."""
        if location.scheme == "file":
            found = Container.local(location)
        else:
            info = self._ask(lambda fs: fs.info(location.path), location)
            if info.get("type") == "directory":
                raise AudioError("not_found", "The uri names a folder, not an object; correct the row.")
            found = Container(location, int(info.get("size") or 0), _etag(info), self._reading(location))
        if self._container is None or not self._container.is_like(found):
            self.close()  # the last recording of another one, too
            self._container = found
        return self._container

    def _open_piece(self, container: Container, piece: Piece) -> Blob:
        changed = AudioError(
            "input_changed", "The tar file does not hold this member where it was found; plan a new run."
        )
        if piece.end > container.size:
            raise changed
        size, head = piece.end - piece.start, tar.BLOCK_BYTES
        whole = size <= self._decode.whole_object_bytes
        data = container.read_range(piece.start - head, piece.end if whole else piece.start)
        if not tar.check_piece(data[:head], piece):
            raise changed
        if whole:
            return Blob.copy(memoryview(data)[head:], container.etag)
        return self._part(container.read_range, piece.start, piece.end, container.etag)

    def _ask(self, question: Callable[[Any], Any], location: Location) -> Any:
        try:
            return persist(lambda: question(self._filesystem(location.scheme)))
        except Exception as error:  # noqa: BLE001  every store client has its own tree of errors
            if says_refused(error):
                raise self._judged(error, location) from None
            raise _failed(error) from None

    def _judged(self, error: Exception, location: Location) -> AudioError:
        """What a refusal means."""
        if not names_credentials(error):
            # A HEAD is refused without a reason, and the store may have changed its mind: ask for a byte.
            again = self._first_byte(location)
            if again is None:
                return TransientError(
                    "fetch_failed", "The store refused an object that it gave a moment later; run again."
                )
            if not says_refused(again):
                return _failed(again)
            error = again
        if names_credentials(error) or not self._gives_others(location):
            return RefusedError(
                "access_denied",
                f"The store refuses {location.scheme}://{location.path} and all else that was asked for; check that "
                "source.storage_options or the environment hold credentials that are valid and may read.",
            )
        return AudioError("access_denied", "The store refuses this object and gives others; check its permissions.")

    def _gives_others(self, location: Location) -> bool:
        """Whether the store gives us another object: of the same bucket, if one was read there, else any we know of."""
        before = self._readable.get(_bucket(location))
        if before is not None and before != location:
            return self._first_byte(before) is None
        others = (
            other for other in self._neighbours() if other.scheme == location.scheme and other.path != location.path
        )
        return any(self._first_byte(other) is None for other in others)

    def _first_byte(self, location: Location) -> Exception | None:
        """None if the object can be read."""
        try:
            persist(lambda: self._filesystem(location.scheme).cat_file(location.path, start=0, end=1))
        except Exception as error:  # noqa: BLE001  every store client has its own tree of errors
            return error
        return None

    def _filesystem(self, scheme: str) -> Any:
        if scheme not in self._filesystems:
            options = dict(self._source.storage_options)
            if scheme == "s3":
                client = {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 1}}
                options["config_kwargs"] = {**client, **options.get("config_kwargs", {})}
            # Not shared: another user's listing cache could hide that an object has changed.
            filesystem = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **options)
            filesystem.retries = 1  # s3fs's own loop; `persist` is the one that tries again
            self._filesystems[scheme] = filesystem
        return self._filesystems[scheme]

    def _check(self, size: int, etag: str | None, expect: tuple[int | None, str | None]) -> None:
        planned_size, planned_etag = expect
        changed = planned_size is not None and planned_size != size
        if changed or (planned_etag is not None and etag is not None and planned_etag != etag):
            raise AudioError("input_changed", "The object is not the one that was planned; plan a new run.")
        if size == 0:
            raise AudioError("empty_file", "The object holds no bytes; upload it again.")
        if size > self._decode.max_object_bytes:
            raise AudioError(
                "object_too_large", f"The object holds {size} bytes; raise decode.max_object_bytes to accept it."
            )


def _failed(error: Exception) -> AudioError:
    """What an error means that is no refusal."""
    if isinstance(error, FileNotFoundError):
        return AudioError("not_found", "There is no object at this uri; correct the row or upload it.")
    reason = type(error).__name__
    return TransientError("fetch_failed", f"The store broke off ({reason}); run again or check the store.")


def _bucket(location: Location) -> str:
    return f"{location.scheme}://{location.path.partition('/')[0]}"


def _open_local(path: str) -> Blob:
    try:
        # Not through a link put there since the path was resolved, and not waiting for the writer of a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError("not_found", "There is no file at this uri; correct the row.") from None
    except PermissionError:
        raise AudioError("access_denied", "The file may not be read; check its permissions.") from None
    except OSError as error:
        raise TransientError("fetch_failed", f"The file cannot be opened ({error.strerror}); check the disk.") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise AudioError("uri_refused", "The uri names no regular file; correct the row or source.roots.")
    return Blob(status.st_size, str(status.st_mtime_ns), fd=fd)


def _etag(info: dict[str, Any]) -> str | None:
    for name in ("ETag", "etag", "md5Hash"):
        if info.get(name):
            return str(info[name]).strip('"')
    return None
