"""The end of a run of many recordings holds none of them: `benchmarks/finalize.py`, small and larger."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("rows", [200, pytest.param(100_000, marks=pytest.mark.slow)])
def test_finalize_and_verify_take_little_memory(rows: int) -> None:
    command = [sys.executable, "benchmarks/finalize.py", "--rows", str(rows)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [line[0] for line in lines] == ["finalize", "finalize again", "verify"]
    assert [line[5].split(",")[0] for line in lines[:2]] == ["snapshot 1"] * 2, "nothing new to say the second time"
    assert all(float(line[4].removesuffix(" MB").replace(",", "")) < 600 for line in lines)
