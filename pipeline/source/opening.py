"""The one door to a manifest's bytes, on disk or in a bucket. Knows nothing of formats and rows.

Whatever keeps the bytes from coming becomes one sentence: no such file, no right to read it, nobody at the endpoint,
a connection or a compressed stream that breaks off.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow as pa

from pipeline.audio.fetch import Ranges
from pipeline.config import SourceConfig
from pipeline.errors import ManifestError, QuarryError
from pipeline.store.base import checked_range
from pipeline.store.remote_folder import etag_of

CODECS = {".gz": "gzip", ".zst": "zstd"}

_BUFFER_BYTES = 2**20
# Rows of one template shrink fifty times; a bomb a thousand times with gzip, and far more with zstd.
_MAX_RATIO = 300
_FREE_BYTES = 64 * 2**20
_BLOCK_BYTES = 64 * 2**10  # for headers that lie a recording apart
# A first knock with little patience: a wrong endpoint is told in seconds, not after minutes of retries.
_BRISK = {"connect_timeout": 3, "read_timeout": 3, "retries": {"total_max_attempts": 1}}
_BRISK_TRIES = 2
_PATIENT = {"connect_timeout": 5, "read_timeout": 30, "retries": {"mode": "standard", "total_max_attempts": 15}}


def is_local(uri: str) -> bool:
    """Whether a uri is a path or a file:// uri."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """The absolute path behind a path or a file:// uri."""
    return os.path.abspath(uri.removeprefix("file://"))


def folder_of(uri: str) -> str:
    """The folder a manifest lies in: an absolute path, or scheme://bucket/prefix."""
    return os.path.dirname(local_path(uri)) if is_local(uri) else uri.rpartition("/")[0]


def as_folder(uri: str) -> str:
    """A uri of a folder as rows are joined to it: an absolute path, or scheme://bucket/prefix."""
    return local_path(uri) if is_local(uri) else uri.rstrip("/")


def kind_of(uri: str, config: SourceConfig) -> str | None:
    """file | directory | None: there is nothing. Raises ManifestError where nobody can tell."""

    def ask(patience: dict[str, Any]) -> str:
        file_system, path = _file_system(uri, config, patience)
        return str(file_system.info(path)["type"])

    try:
        try:
            return ask(_BRISK)
        except OSError as error:
            if type(error) is not OSError:
                raise
        return ask(_PATIENT)  # a plain one is an answer such as 503: somebody is there
    except FileNotFoundError:
        return None
    except Exception as error:  # every fsspec back end raises its own library's types
        raise ManifestError(_sentence(uri, error)) from error


@contextmanager
def reaching(uri: str, config: SourceConfig) -> Iterator[tuple[Any, str]]:
    """The file system of a uri and the path in it; what goes wrong in the block becomes a ManifestError."""
    try:
        file_system, path = _file_system(uri, config, _BRISK)
        try:
            file_system.info(path)
        except OSError as error:
            if type(error) is not OSError and not isinstance(error, FileNotFoundError):
                raise
        yield _file_system(uri, config, _PATIENT)
    except QuarryError:
        raise
    except Exception as error:  # every fsspec back end raises its own library's types
        raise ManifestError(_sentence(uri, error)) from error


@contextmanager
def open_bytes(uri: str, config: SourceConfig, *, decompress: bool = True) -> Iterator[io.BufferedReader]:
    """The manifest's bytes, buffered; `.gz` and `.zst` unpacked unless told otherwise.

    Raises ManifestError when it is not there, may not be read, or breaks off while the block reads.
    """
    codec = CODECS.get(os.path.splitext(uri)[1]) if decompress else None
    try:
        _knock(uri, config)
        file_system, path = _file_system(uri, config, _PATIENT)
        with file_system.open(path, "rb") as raw:
            unpacked = _Unpacked(uri, raw, codec) if codec else raw
            yield io.BufferedReader(unpacked, _BUFFER_BYTES)
    except QuarryError:
        raise
    except Exception as error:  # every fsspec back end raises its own library's types
        raise ManifestError(_sentence(uri, error)) from error


@contextmanager
def open_ranges(uri: str, config: SourceConfig) -> Iterator[Ranges]:
    """A file of which little is read, here and there. Raises ManifestError as `open_bytes` does."""
    try:
        _knock(uri, config)
        file_system, path = _file_system(uri, config, _PATIENT)
        if is_local(uri):
            with open(path, "rb", buffering=0) as raw:
                size = os.fstat(raw.fileno()).st_size
                yield Ranges(lambda a, b: checked_range(os.pread(raw.fileno(), b - a, a), a, b), size, _BLOCK_BYTES)
        else:
            size = int(file_system.info(path)["size"])
            yield Ranges(
                lambda a, b: checked_range(file_system.cat_file(path, start=a, end=b), a, b), size, _BLOCK_BYTES
            )
    except QuarryError:
        raise
    except Exception as error:  # every fsspec back end raises its own library's types
        raise ManifestError(_sentence(uri, error)) from error


def version(uri: str, config: SourceConfig) -> str:
    """Of a file too large to be read for it: its size and what its store calls its state. Raises ManifestError."""
    with reaching(uri, config) as (file_system, path):
        info = file_system.info(path)
        return f"{int(info.get('size') or 0)} {etag_of(info) or ''}"


def digest(uri: str, config: SourceConfig) -> str:
    """sha256 of the manifest's bytes as they are stored, hex. Raises ManifestError."""
    state = hashlib.sha256()
    with open_bytes(uri, config, decompress=False) as handle:
        while block := handle.read(_BUFFER_BYTES):
            state.update(block)
    return state.hexdigest()


class _Unpacked(io.RawIOBase):
    """A compressed file, unpacked; one that grows like a bomb is refused on the way."""

    def __init__(self, uri: str, raw: Any, codec: str) -> None:
        self._uri, self._raw = uri, raw
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec)
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._bytes += len(data)
        if self._bytes > _FREE_BYTES and self._bytes > _MAX_RATIO * self._raw.tell():
            raise ManifestError(
                f"The manifest {self._uri} unpacks to more than {_MAX_RATIO} times its size, as no honest one does; "
                "unpack it yourself and look into it."
            )
        return len(data)


def _knock(uri: str, config: SourceConfig) -> None:
    file_system, path = _file_system(uri, config, _BRISK)
    try:
        kind = file_system.info(path)["type"]
    except OSError as error:
        # A plain one is an answer such as 503: somebody is there, and the patient client asks again.
        if type(error) is not OSError:
            raise
        return
    if kind == "directory":
        raise ManifestError(f"The manifest {uri} is a folder; name the file in it.")


def _file_system(uri: str, config: SourceConfig, patience: dict[str, Any]) -> tuple[Any, str]:
    if is_local(uri):
        return fsspec.filesystem("file"), local_path(uri)
    options = dict(config.storage_options)
    if uri.startswith("s3://"):
        options["config_kwargs"] = {**patience, **options.get("config_kwargs", {})}
    file_system, path = fsspec.core.url_to_fs(uri, **options)
    if patience is _BRISK:
        file_system.retries = _BRISK_TRIES
    return file_system, path


def _sentence(uri: str, error: Exception) -> str:
    where = (
        "the path" if is_local(uri) else "the bucket's name, and endpoint_url and credentials in source.storage_options"
    )
    if isinstance(error, FileNotFoundError):
        return f"There is no manifest {uri}; check {where}."
    if isinstance(error, PermissionError):
        return f"The manifest {uri} may not be read; check {where if not is_local(uri) else 'its permissions'}."
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(".: ")
    step = "check that it is whole" if is_local(uri) else f"check {where}"
    return f"The manifest {uri} cannot be read ({reason}); {step}."
