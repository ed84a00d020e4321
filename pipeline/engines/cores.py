"""How many CPU cores an engine has."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """CPU cores that this process may use.

    Not OMP_NUM_THREADS: Ray sets it to 1 for an actor that books a fraction of a CPU, as engine actors do.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
