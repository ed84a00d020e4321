"""`python counted.py LOG quarry-arguments…`: the real command, which notes what is heard and what is opened.

Each chunk is a line of LOG, "heard <hash of the samples>", and each object, "opened <path>". Processes may share a LOG.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any


def count_into(log: str, patch: Callable[[type, str, Any], None] = setattr) -> None:
    """From now on this process notes what it hears and opens."""
    from pipeline.audio.fetch import Fetcher
    from pipeline.engines.fake import Fake

    hear, open_ = Fake._hear, Fetcher.open

    def note(what: str) -> None:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{what}\n".encode())
        os.close(handle)

    def counted_hear(self: Any, chunk: Any, *args: Any) -> Any:
        note(f"heard {hashlib.sha256(chunk.samples.tobytes()).hexdigest()[:12]}")
        return hear(self, chunk, *args)

    def counted_open(self: Any, location: Any, *args: Any) -> Any:
        note(f"opened {location.path}")
        return open_(self, location, *args)

    patch(Fake, "_hear", counted_hear)
    patch(Fetcher, "open", counted_open)


def counts(log: Path, what: str) -> Counter[str]:
    """How often each thing was heard or opened."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.partition(" ")[2] for line in lines if line.startswith(what))


if __name__ == "__main__":
    from pipeline.cli import main

    count_into(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
