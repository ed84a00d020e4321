"""A long run that is nearly done goes on at once: `benchmarks/resume.py` at a small and at its full size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("shards", [1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_the_first_shard_comes_soon_and_memory_stays_low(shards: int) -> None:
    command = [sys.executable, "benchmarks/resume.py", "--shards", str(shards)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[-1].split("|")[1:-1]]
    assert (int(cells[0]), int(cells[1]), cells[4]) == (shards, shards // 100, "won")
    assert float(cells[2].split()[0]) < 30
    assert int(cells[3].split()[0]) < 500
