"""A local (or mounted) folder as a store. Knows nothing of fsspec.

Publishing: a temporary file in the same folder, fsync, then a hard link, which fails if the name is taken. A process killed
at any point leaves either the whole object or none; a temporary file left behind begins with a dot and is never listed.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from pipeline.errors import StoreError
from pipeline.store.base import ObjectInfo, checked_range, is_key

_COPY_BYTES = 2**20
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


class LocalFolder:
    """Objects as files below `root`."""

    def __init__(self, root: str, conditional_put: bool) -> None:
        self._root = Path(root)
        self._conditional_put = conditional_put

    def check_reachable(self) -> None:
        """Raise NotADirectoryError or PermissionError if the root cannot be a folder; it need not exist yet."""
        try:
            os.scandir(self._root).close()
        except FileNotFoundError:
            return

    def list(self, prefix: str, deep: bool = True) -> Iterator[ObjectInfo]:
        """Files below the folder; those that vanish meanwhile are left out."""
        for folder, folders, names in os.walk(self._root / prefix):
            if not deep:
                folders.clear()  # os.walk goes where this list says
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self._root).as_posix()
                if not is_key(key):
                    continue
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                yield ObjectInfo(key, stat.st_size, f"{stat.st_mtime_ns:x}-{stat.st_size:x}", stat.st_mtime)

    def get(self, key: str) -> bytes:
        """The whole file."""
        with self.open_file(key) as file:
            return file.read()

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of the file."""
        with self.open_file(key) as file:
            file.seek(start)
            return checked_range(file.read(end - start), start, end)

    def exists(self, key: str) -> bool:
        """Whether there is a file."""
        return (self._root / key).is_file()

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Write, fsync, link. With `conditional_put` off (no hard links on the file system): rename over what is there."""
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, _COPY_BYTES)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not self._give_name(temporary, path):
                return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
        return True

    def _give_name(self, temporary: Path, path: Path) -> bool:
        if not self._conditional_put:
            if path.exists():
                return False
            temporary.replace(path)
            return True
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            reason = f"The file system of {self._root} has no hard links, which put-if-absent needs;"
            raise StoreError(f"{reason} set store.conditional_put=false for it.") from error
        return True

    def open_file(self, key: str) -> BinaryIO:
        """The file, opened for reading."""
        path = self._root / key
        try:
            return path.open("rb")
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(str(path)) from error

    def clock_s(self) -> float:
        """This machine's clock: a mounted folder may have another."""
        return time.time()

    def remove(self, key: str) -> None:
        """Delete the file."""
        (self._root / key).unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
