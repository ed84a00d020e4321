"""One whole file at an address that a person named: a report, outside of any run. The only writes that replace what stands there.

Everything in a run goes through `store.objects`, which never overwrites.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress

import fsspec

from pipeline.config import StoreConfig
from pipeline.errors import StoreError


def put_file(target: str, data: bytes, config: StoreConfig) -> None:
    """Put the bytes at a local path or a uri, whole or not at all. Raises StoreError."""
    try:
        if "://" not in target or target.startswith("file://"):
            _replace(target.removeprefix("file://"), data)
        else:
            file_system, path = fsspec.core.url_to_fs(target, **config.storage_options)
            file_system.pipe_file(path, data)
    except Exception as error:  # every store client has its own tree of errors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise StoreError(
            f"The file {target} cannot be written ({reason}); check its folder or bucket, and the right to write there."
        ) from error


def _replace(path: str, data: bytes) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    handle, part = tempfile.mkstemp(dir=folder, prefix=".quarry-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.remove(part)
        raise
