"""CPU seconds of a command and of everything it starts, finished children included."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took."""

    wall_s: float
    cpu_s: float
    returncode: int


def measure(command: Sequence[str], every_s: float = 0.1) -> Cost:
    """Run a command and add up its process tree's CPU time, sampled: Ray's workers are nobody's waited-for children."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen: dict[tuple[int, float], float] = {}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        for one in _tree(root):
            try:
                times = one.cpu_times()
                seen[(one.pid, one.create_time())] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        time.sleep(every_s)
    return Cost(time.monotonic() - began, sum(seen.values()), process.returncode)


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
