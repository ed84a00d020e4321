"""The object store's door: list, get, copy to a file, put-if-absent on a local folder, on S3, on anything fsspec knows.

It refuses to know what the objects are. The one write is a put that either publishes the whole object under a free key or does
nothing; there is no overwrite, no rename, no append. Listings are the store's own, never a cache's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import fsspec

from pipeline.config import StoreConfig
from pipeline.errors import StoreAwayError, StoreError, StoreRefusedError
from pipeline.store.base import Folder, ObjectInfo, StoreKeyMissing, is_key
from pipeline.store.download import RANGE_BYTES, download
from pipeline.store.local_folder import LocalFolder
from pipeline.store.patience import ATTEMPTS, persist, says_full, says_read_only, says_refused
from pipeline.store.remote_folder import RemoteFolder
from pipeline.store.s3_folder import S3Folder, s3_options

__all__ = ["ObjectInfo", "ObjectStore", "StoreKeyMissing"]

OPEN_ATTEMPTS, OPEN_TIMEOUT_S = 4, 3.0  # a person waits: say within 15 s that a store is not there


class ObjectStore:
    """Objects below one root. Pickles as its uri and config and connects again in the other process; safe in threads.

    `section` is the part of the settings that the config comes from, which errors name.
    """

    def __init__(self, uri: str, config: StoreConfig, section: str = "store") -> None:
        self.uri = uri
        self._config = config
        self._section = section

    @staticmethod
    def open(uri: str, config: StoreConfig) -> ObjectStore:
        """The store at `uri`, the root of the output, once it has answered; nothing is written.

        A process that starts in the middle of a run uses the constructor: it connects at the first call, with more patience.

        Raises StoreError when the store does not answer, refuses us, or has no such bucket.
        """
        store = ObjectStore(uri, config)
        with store._one_sentence("opened"):
            folder = _connect(uri, config, OPEN_TIMEOUT_S)
            try:
                persist(folder.check_reachable, ATTEMPTS, OPEN_ATTEMPTS)
            except FileNotFoundError:
                raise StoreError(f"There is no bucket for {store}; create it, or correct `output`.") from None
        return store

    def below(self, folder: str) -> ObjectStore:
        """The folder of this store as a store of its own."""
        _check_key(folder)
        return ObjectStore(f"{self.uri.rstrip('/')}/{folder}", self._config, self._section)

    def list(self, prefix: str, deep: bool = True) -> Iterator[ObjectInfo]:
        """Every object below the folder `prefix` ("": below the root) that has a key of ours, in no promised order.

        Not `deep`: those right in the folder, at the price of these alone.
        Strongly consistent: what `put_if_absent` published before the call is there. A missing folder is empty.
        """
        folder = prefix.rstrip("/")
        if folder:
            _check_key(folder)
        return self._listing(folder, deep)

    def _listing(self, folder: str, deep: bool) -> Iterator[ObjectInfo]:
        with self._one_sentence("listed"):
            yield from self._folder.list(folder, deep)

    def get(self, key: str) -> bytes:
        """The whole object. Raises StoreKeyMissing."""
        _check_key(key)
        with self._one_sentence("read", key):
            return self._folder.get(key)

    def blocks(self, key: str) -> Iterator[bytes]:
        """The whole object, in order, a few megabytes at a time. Raises StoreKeyMissing."""
        _check_key(key)
        with self._one_sentence("read", key), self._folder.open_file(key) as file:
            while block := file.read(RANGE_BYTES):
                yield block

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of an object that is at least that long. Raises StoreKeyMissing."""
        _check_key(key)
        with self._one_sentence("read", key):
            return self._folder.get_range(key, start, end) if end > start else b""

    def get_to_file(self, info: ObjectInfo, path: Path) -> None:
        """Copy an object, as it was listed, into a new local file: whole and on the disk, or there is no file.

        Read by ranges, a few at once, so that memory does not grow with the object. Raises StoreKeyMissing, StoreError (also
        when the object is no longer the listed one), and OSError as the local disk gives it.
        """
        download(lambda start, end: self.get_range(info.key, start, end), info.size_bytes, path)
        try:
            if info not in self.list(info.key.rpartition("/")[0], deep=False):
                raise StoreError(f"{self}/{info.key} changed while it was read; run again.")
        except StoreError:
            path.unlink(missing_ok=True)
            raise

    def clock_s(self) -> float:
        """What time it is for the store, in seconds since 1970: what `ObjectInfo.modified_s` is to be held against."""
        with self._one_sentence("listed"):
            return self._folder.clock_s()

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key."""
        _check_key(key)
        with self._one_sentence("read", key):
            return self._folder.exists(key)

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Publish `data` under a free key in one atomic step. True: this call wrote it; False: the key was taken.

        A path is a local file, whose bytes are meant; on disks and S3 they are never in memory as a whole.

        Errors that leave it open whether the object was written are settled here: tried again, and if the key is then taken
        by the same bytes, they are ours. With `store.conditional_put: false` two writers may both see True, and the last one's
        bytes stay.
        """
        _check_key(key)
        with self._one_sentence("written", key):
            return self._folder.put_if_absent(key, data)

    def discard(self, key: str) -> None:
        """Delete an object that nobody will miss, if we have the right to: never a part of a run."""
        _check_key(key)
        with suppress(Exception):  # fsspec's back ends share no base class, and nothing depends on it
            self._folder.remove(key)

    def open_file(self, key: str) -> BinaryIO:
        """A seekable binary file that fetches only what is read: for pyarrow. Raises StoreKeyMissing."""
        _check_key(key)
        with self._one_sentence("read", key):
            return self._folder.open_file(key)

    def check_writable(self) -> None:
        """Write a small object twice and delete it. Raises StoreError when writing fails, or when the second put wins as well."""
        key = f"_write_test-{uuid4().hex}"
        if not self.put_if_absent(key, b"first"):
            raise StoreError(
                f"The store at {self} says that a new key is taken; check what stands between it and this machine."
            )
        taken = not self.put_if_absent(key, b"second")
        with suppress(OSError):  # the right to delete is not needed by a run
            self._folder.remove(key)
        if not taken:
            raise StoreError(
                f"The store at {self} does not honour If-None-Match; set store.conditional_put=false for it."
            )

    @cached_property
    def _folder(self) -> Folder:
        with self._one_sentence("opened"):
            return _connect(self.uri, self._config)

    @contextmanager
    def _one_sentence(self, done: str, key: str = "") -> Iterator[None]:
        """Turn whatever a back end raises into a StoreError that says what, where, and what next."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # the boundary: fsspec's back ends share no base class
            where = f"{self}/{key}" if key else str(self)
            if isinstance(error, FileNotFoundError) and done == "read":
                raise StoreKeyMissing(f"There is no object {where}; `quarry verify` tells what is missing.") from error
            what = f"{where} could not be {done} ({self._told(error)});"
            if advice := self._what_to_mend(error):
                raise StoreRefusedError(f"{what} {advice}") from error
            advice = f"check the uri, {self._section}.storage_options and the network, and run again."
            raise StoreAwayError(f"{what} {advice}") from error

    def _told(self, error: Exception) -> str:
        user = self.uri.partition("://")[2].partition("/")[0].rpartition("@")[0]  # a back end may repeat it
        return _reason(error).replace(user, "…") if user else _reason(error)

    def _what_to_mend(self, error: Exception) -> str | None:
        """What someone has to do before the store serves us; None: it may by itself."""
        if says_full(error):
            return "make room there."
        if says_read_only(error):
            return "make it writable."
        if says_refused(error):
            return f"check the credentials and rights ({self._section}.storage_options or the environment)."
        return None

    def __getstate__(self) -> tuple[str, StoreConfig, str]:
        return self.uri, self._config, self._section

    def __setstate__(self, state: tuple[str, StoreConfig, str]) -> None:
        self.uri, self._config, self._section = state

    def __str__(self) -> str:
        """The uri without user, password and query."""
        return re.sub(r"//[^/@]*@", "//", self.uri.partition("?")[0]).rstrip("/")


def _connect(uri: str, config: StoreConfig, timeout_s: float | None = None) -> Folder:
    options: dict[str, Any] = dict(config.storage_options)
    protocol = uri.partition("://")[0] if "://" in uri else "file"
    if protocol in ("s3", "s3a"):
        options = s3_options(options, timeout_s)
    # An instance of our own: no cached listings, and nobody else's settings.
    filesystem, root = fsspec.url_to_fs(uri, skip_instance_cache=True, use_listings_cache=False, **options)
    if protocol in ("file", "local"):
        return LocalFolder(root, config.conditional_put)
    kind = S3Folder if protocol in ("s3", "s3a") else RemoteFolder
    return kind(filesystem, root, config.conditional_put)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check_key(key: str) -> None:
    if not is_key(key):
        raise ValueError(f"{key!r} cannot be a key: parts of letters, digits, '_', '.', '=', '-' joined by '/'")
