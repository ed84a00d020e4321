"""What planning costs: N rows of speech-like lengths → the blocks of a plan. Prints seconds, peak memory and µs per row.

    python benchmarks/plan.py --rows 10000000

The rows are made in memory, in shuffled order: manifest reading and storage are not in the figure,
and each block of the plan is dropped once it is counted, as if written.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import PlanConfig
from pipeline.plan import plan_blocks, totals
from pipeline.source.manifest import MANIFEST_SCHEMA

_BLOCK = 50_000
_LONG_SHARE = 0.001  # recordings of hours among utterances of seconds


def speech_rows(count: int, seed: int = 0) -> pa.Table:
    """Manifest rows: log-normal utterances (mean 7 s), one in a thousand a recording of 1 to 5 hours."""
    random = np.random.default_rng(seed)
    tables = []
    for first in range(0, count, _BLOCK):
        size = min(_BLOCK, count - first)
        number = pa.array((np.arange(first, first + size) * 7_919) % 1_000_000_007).cast(pa.string())
        duration_s = random.lognormal(1.7, 0.7, size)
        long = random.random(size) < _LONG_SHARE
        duration_s[long] = random.uniform(3_600, 18_000, int(long.sum()))
        columns = {
            "id": pc.binary_join_element_wise("utt", number, "-"),
            "uri": pc.binary_join_element_wise("s3://archive/clips/", number, ".flac", ""),
            "offset_s": pa.array(np.zeros(size)),
            "duration_s": pa.array(duration_s.round(3)),
        }
        filled = [columns.get(field.name, pa.nulls(size, field.type)) for field in MANIFEST_SCHEMA]
        tables.append(pa.table(filled, schema=MANIFEST_SCHEMA))
    return pa.concat_tables(tables)


def forget_peak() -> None:
    """Start the count of peak memory anew (Linux), with what making the rows left over given back."""
    pa.default_memory_pool().release_unused()
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Peak resident memory of this process in MB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Measure once and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    rows = speech_rows(count).combine_chunks()
    forget_peak()
    before_mb = peak_mb()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    windows = shards = 0
    audio_s = 0.0
    for block in plan_blocks(rows, PlanConfig()):
        sums = totals(block)
        windows, shards, audio_s = windows + sums.windows, shards + sums.shards, audio_s + sums.audio_s
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    print(
        f"{count:,} rows → {windows:,} windows, {shards:,} shards, {audio_s / 3600:,.0f} h: "
        f"{wall_s:.1f} s wall, {cpu_s:.1f} s CPU, {1e6 * cpu_s / count:.2f} µs/row, "
        f"peak {peak_mb():,.0f} MB ({before_mb:,.0f} MB before planning)"
    )


if __name__ == "__main__":
    main()
