"""A folder of any fsspec file system as a store; every request persists as `patience` says."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.store.base import ObjectInfo, checked_range, is_key
from pipeline.store.patience import persist, says_taken

Page = list[tuple[str, int, str | None, float | None]]  # path, size in bytes, etag, when it was written

READ_BUFFER_BYTES = 256 * 2**10


class RemoteFolder:
    """Objects below `root` of an fsspec file system whose single writes are atomic (object stores are)."""

    def __init__(self, filesystem: Any, root: str, conditional_put: bool) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._conditional_put = conditional_put

    def check_reachable(self) -> None:
        """List the root once; a root without objects is fine."""
        try:
            self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return

    def list(self, prefix: str, deep: bool = True) -> Iterator[ObjectInfo]:
        """Objects below the folder, page by page: never the whole listing in memory."""
        for page in self._pages(self._path(prefix), deep):
            for path, size_bytes, etag, modified_s in page:
                key = path[len(self._root) :].lstrip("/")
                if is_key(key):
                    yield ObjectInfo(key, size_bytes, etag, modified_s)

    def _pages(self, folder: str, deep: bool) -> Iterator[Page]:
        """The files below, one folder at a time."""
        try:
            entries = persist(lambda: self._fs.ls(folder, detail=True))
        except FileNotFoundError:
            return
        files = [entry for entry in entries if entry["type"] == "file"]
        names = [self._fs._strip_protocol(entry["name"]) for entry in files]
        yield [
            (name, int(entry["size"]), etag_of(entry), modified_of(entry))
            for name, entry in zip(names, files, strict=True)
        ]
        for entry in entries:
            if deep and entry["type"] == "directory":
                yield from self._pages(entry["name"], deep)

    def get(self, key: str) -> bytes:
        """The whole object."""
        found: bytes = persist(lambda: self._fs.cat_file(self._path(key)))
        return found

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """One range request; a short answer is tried again."""
        path = self._path(key)
        return persist(lambda: checked_range(self._fs.cat_file(path, start=start, end=end), start, end))

    def exists(self, key: str) -> bool:
        """Whether there is an object (a folder is none)."""
        try:
            return bool(self._info(key)["type"] == "file")
        except FileNotFoundError:
            return False

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """One conditional put. "Taken" after an attempt of ours that ended unclear may be our own object: its bytes tell."""
        if isinstance(data, Path):
            data = data.read_bytes()  # file systems do not agree on how a file is put on a condition
        if not self._conditional_put:
            return self._put_if_not_seen(key, data)
        attempts = 0

        def put() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                self._fs.pipe_file(self._path(key), data, mode="create")
            except Exception as error:  # no common base class; all but one meaning goes on
                if not says_taken(error):
                    raise
                return attempts > 1 and self.get(key) == data
            return True

        return persist(put)

    def _put_if_not_seen(self, key: str, data: bytes) -> bool:
        if self.exists(key):
            return False
        persist(lambda: self._fs.pipe_file(self._path(key), data))
        return True

    def open_file(self, key: str) -> BinaryIO:
        """A file that fetches what is read, with retries of its own."""
        path, size_bytes = self._path(key), int(self._info(key)["size"])
        reader = RangeReader(
            lambda start, end: persist(lambda: self._fs.cat_file(path, start=start, end=end)), size_bytes
        )
        return io.BufferedReader(reader, READ_BUFFER_BYTES)

    def clock_s(self) -> float:
        """This machine's clock: fsspec has no way to ask."""
        return time.time()

    def remove(self, key: str) -> None:
        """Delete the object."""
        persist(lambda: self._fs.rm_file(self._path(key)))

    def _info(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = persist(lambda: self._fs.info(self._path(key)))
        return found

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root


class RangeReader(io.RawIOBase):
    """A seekable raw file over a function that fetches [start, end)."""

    def __init__(self, fetch: Callable[[int, int], bytes], size_bytes: int) -> None:
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is fetched."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readall(self) -> bytes:
        """All bytes from the position to the end, in one fetch."""
        # The inherited one fetches 8 KiB at a time.
        start, self._position = self._position, max(self._position, self._size_bytes)
        return self._fetch(start, self._size_bytes) if start < self._size_bytes else b""

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or less at the end."""
        end = min(self._position + len(buffer), self._size_bytes)
        if end <= self._position:
            return 0
        data = self._fetch(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


_TIMES = ("mtime", "updated", "last_modified", "LastModified", "created")


def etag_of(entry: dict[str, Any]) -> str | None:
    """What changes with the bytes of an entry of a listing, as the store names it: an etag, else the time of the last write."""
    found = next((entry[name] for name in ("ETag", "etag", *_TIMES) if entry.get(name)), None)
    return str(found).strip('"') if found else None


def modified_of(entry: dict[str, Any]) -> float | None:
    """When an entry of a listing was written, in seconds since 1970; None: the store does not tell, or not as a time."""
    found = next((entry[name] for name in _TIMES if entry.get(name)), None)
    if isinstance(found, datetime):
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return float(found) if isinstance(found, int | float) else None
