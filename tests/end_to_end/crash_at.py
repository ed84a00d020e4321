"""`python crash_at.py POINT COUNT quarry-arguments…`: the real command, whose process ends at once at a named point.

POINT is `<what>.before`, `.written` or `.after`, for the put of an object of the run: before the call, with the bytes in a
temporary file that has no name yet, and when the object is there but nobody has been told; or a step of the flow, `.before` and
`.after`.
COUNT: at which time the point is reached. The exit code is that of a process that was killed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = 137
# What is put, by its key; each has the three points.
OBJECTS = {
    "plan-windows": r"plan/\d+-\w+\.parquet",
    "plan-shards": r"plan/\d+-\w+\.shards\.parquet",
    "plan-header": r"plan/\d+\.json",
    "attempt-begun": r"attempts/.*-all",
    "attempt-over": r"attempts/.*-end",
    "part": r"parts/.*",
    "session": r"sessions/.*",
    "transcripts": r"tables/\w+/transcripts/.*",
    "segments": r"tables/\w+/segments/.*",
    "failures": r"tables/\w+/failures/.*",
    "shards": r"tables/\w+/shards/.*",
    "stats": r"tables/\w+/stats/.*",
    "run-json": r"tables/\w+/run\.json",
    "snapshot": r"snapshots/.*",
}
STEPS = {
    "decode": "pipeline.flow.decode_window",
    "transcribe": "pipeline.flow.run_batches",
    "encode": "pipeline.flow.encode_part",
}
POINTS = [f"{name}.{when}" for name in OBJECTS for when in ("before", "written", "after")] + [
    f"{name}.{when}" for name in STEPS for when in ("before", "after")
]


class Crash:
    """Ends the process when its point has been reached so many times."""

    def __init__(self, point: str, count: int) -> None:
        self._point, self._left = point, count

    def at(self, point: str) -> None:
        """The point is reached."""
        if point == self._point:
            self._left -= 1
            if not self._left:
                os._exit(KILLED)

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a point before and one after it."""

        def called(*args: Any, **kwargs: Any) -> Any:
            self.at(f"{name}.before")
            result = function(*args, **kwargs)
            self.at(f"{name}.after")
            return result

        return called


def kind_of(key: str) -> str:
    """What an object of a run is."""
    return next((name for name, pattern in OBJECTS.items() if re.fullmatch(pattern, key)), "other")


def arm(crash: Crash) -> None:
    """Put the points into the store's door and into the flow."""
    from importlib import import_module

    from pipeline.store.local_folder import LocalFolder
    from pipeline.store.objects import ObjectStore

    put, give_name = ObjectStore.put_if_absent, LocalFolder._give_name

    def put_if_absent(self: ObjectStore, key: str, data: bytes) -> bool:
        return bool(crash.around(kind_of(key), put)(self, key, data))

    def named(self: LocalFolder, temporary: Path, path: Path) -> bool:
        crash.at(f"{kind_of(path.relative_to(self._root).as_posix())}.written")
        return give_name(self, temporary, path)

    ObjectStore.put_if_absent = put_if_absent  # type: ignore[method-assign]
    LocalFolder._give_name = named  # type: ignore[method-assign]
    for name, where in STEPS.items():
        module, _, attribute = where.rpartition(".")
        found = import_module(module)
        setattr(found, attribute, crash.around(name, getattr(found, attribute)))


if __name__ == "__main__":
    from pipeline.cli import main

    arm(Crash(sys.argv[1], int(sys.argv[2])))
    sys.exit(main(sys.argv[3:]))
