"""What every kind of store offers, and the words all of them share.

A key is a path below the output root, made by us alone out of hashes and fixed names: nothing a manifest says goes into one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from pipeline.errors import StoreError

_KEY = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*)*")


class StoreKeyMissing(StoreError):
    """No object stands under the key."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing. `etag` changes when the bytes do; None where the store has no such thing."""

    key: str
    size_bytes: int
    etag: str | None = None


class Folder(Protocol):
    """A root that holds objects. Keys are well-formed; errors are the store's own, with FileNotFoundError for a missing key."""

    def check_reachable(self) -> None:
        """Return if the root can be listed, within seconds; raise what the store says if not."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below the folder `prefix` ("": below the root)."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Publish in one atomic step; False when another object stands there."""
        ...

    def open_file(self, key: str) -> BinaryIO:
        """A seekable file that reads ranges."""
        ...

    def remove(self, key: str) -> None:
        """Delete the object."""
        ...


def is_key(key: str) -> bool:
    """Whether the string has the form of a key: parts of [A-Za-z0-9_.=-] that do not begin with a dot, joined by '/'."""
    return _KEY.fullmatch(key) is not None and ".." not in key
