"""A large object into a local file: ranges, a few at once, each written where it belongs.

Memory holds `RANGES_AT_ONCE` ranges, however large the object is. Knows nothing of stores: it is given a function that reads
a range, and retries are that function's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

RANGE_BYTES = 8 * 2**20
RANGES_AT_ONCE = 6  # one connection alone seldom fills a machine's line


def download(read: Callable[[int, int], bytes], size_bytes: int, path: Path) -> None:
    """Write the bytes [0, size_bytes) of what `read(start, end)` reads into a new file, and flush it to the disk.

    Raises what `read` raises, and OSError as the disk gives it; then there is no file. `read` must be safe in threads.
    """
    with path.open("xb", buffering=0) as file:
        descriptor, broken_off = file.fileno(), Event()

        def copy(start: int) -> None:
            if broken_off.is_set():
                return
            try:
                _write_at(descriptor, start, read(start, min(start + RANGE_BYTES, size_bytes)))
            except BaseException:
                broken_off.set()
                raise

        pool = ThreadPoolExecutor(RANGES_AT_ONCE)
        try:
            for copied in [pool.submit(copy, start) for start in range(0, size_bytes, RANGE_BYTES)]:
                copied.result()
            os.fsync(descriptor)
        except BaseException:
            broken_off.set()
            path.unlink(missing_ok=True)
            raise
        finally:
            # The ranges under way are waited for: their descriptor must not be closed, and given to another file, before.
            pool.shutdown()


def _write_at(descriptor: int, offset: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
