"""What every kind of store offers, and the words all of them share.

A key is a path below the output root, made by us alone out of hashes and fixed names: nothing a manifest says goes into one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.errors import StoreError

_KEY = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*)*")


class StoreKeyMissing(StoreError):
    """No object stands under the key."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing. `etag` (or a time, where the store has none) changes when the bytes do; None: it tells neither.

    `modified_s`: when it was written, by the store's own clock, in seconds since 1970; None: it does not tell.
    """

    key: str
    size_bytes: int
    etag: str | None = None
    modified_s: float | None = field(default=None, compare=False)


class Folder(Protocol):
    """A root that holds objects. Keys are well-formed; errors are the store's own, with FileNotFoundError for a missing key."""

    def check_reachable(self) -> None:
        """Return if the root can be listed, within seconds; raise what the store says if not."""
        ...

    def list(self, prefix: str, deep: bool = True) -> Iterator[ObjectInfo]:
        """Every object below the folder `prefix` ("": below the root); those right in it if not `deep`."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object."""
        ...

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """The bytes [start, end), all of them; the object must be that long."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object."""
        ...

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Publish bytes, or a local file's, in one atomic step; False when another object stands there."""
        ...

    def open_file(self, key: str) -> BinaryIO:
        """A seekable file that reads ranges."""
        ...

    def remove(self, key: str) -> None:
        """Delete the object."""
        ...

    def clock_s(self) -> float:
        """What time it is for the store, in seconds since 1970; this machine's clock where the store does not say."""
        ...


def checked_range(data: bytes, start: int, end: int) -> bytes:
    """The bytes that were read, if they are as many as were asked for. Raises OSError."""
    if len(data) != end - start:
        raise OSError(f"{len(data)} bytes came where {end - start} were asked for")
    return data


def is_key(key: str) -> bool:
    """Whether the string has the form of a key: parts of [A-Za-z0-9_.=-] that do not begin with a dot, joined by '/'."""
    return _KEY.fullmatch(key) is not None and ".." not in key
