"""What a manifest of N rows costs: validate, plan, resume, plan again when it has grown. Seconds, rows per second, peak memory.

    python benchmarks/plan.py --rows 10000000 --format jsonl

A manifest of speech-like lengths in shuffled order, about 180 bytes a row, is made in a temporary folder (--folder keeps it);
each step is a process of its own, as the commands are: reading, sorting on disk, writing and checksums are all in the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_BLOCK = 50_000
_LONG_SHARE = 0.001  # recordings of hours among utterances of seconds
_GROWN = 1_000

_STEP = """
import json, sys, time
from pathlib import Path
from pipeline.config.file import load_config
step, config = sys.argv[1], load_config(None, sys.argv[2:])
wall_s, cpu_s = time.perf_counter(), time.process_time()
if step == "validate":
    from pipeline.source.checking import check_manifest
    found = check_manifest(config.manifest, config.source)
    assert not found.problem_count
    said = f"{found.rows:,} rows"
else:
    from pipeline.prepare import prepare, write_plan
    run = write_plan(prepare(config))
    said = f"{run.totals.windows:,} windows in {run.totals.shards:,} shards"
    if step == "resume":
        todo = run.ledger.todo(run.ledger.entries())
        said = f"{todo.num_rows:,} shards to do"
wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
peak_kb = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(json.dumps([wall_s, cpu_s, int(peak_kb) / 1024, said]))
"""


def main() -> None:
    """Make the manifest, measure each step once, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--steps", nargs="+", default=["validate", "plan", "resume", "grow"])
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        manifest = folder / f"rows.{args.format}"
        write_manifest(manifest, args.rows)
        print(
            "| step | rows | seconds | CPU seconds | rows per second | peak memory | it said |\n|---|---|---|---|---|---|---|"
        )
        for step in args.steps:
            if step == "grow":
                write_manifest(manifest, args.rows + _GROWN)
            wall_s, cpu_s, peak_mb, said = measured(step, manifest, folder / "out")
            speed = f"{wall_s:.1f} | {cpu_s:.1f} | {args.rows / wall_s:,.0f}"
            print(f"| {step} | {args.rows:,} | {speed} | {peak_mb:,.0f} MB | {said} |", flush=True)


def measured(step: str, manifest: Path, output: Path) -> tuple[float, float, float, str]:
    """Wall and CPU seconds of one step in a process of its own, its peak memory in MB, and what it found."""
    settings = {
        "manifest": manifest,
        "output": output,
        "engine.name": "fake",
        "engine.model": "fake",
        "engine.language": "en",
        "runtime.kind": "local",
    }
    command = [sys.executable, "-c", _STEP, step, *(f"{key}={value}" for key, value in settings.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    wall_s, cpu_s, peak_mb, said = json.loads(done.stdout)
    return wall_s, cpu_s, peak_mb, said


def write_manifest(path: Path, count: int) -> None:
    """A manifest of `count` rows; a longer one begins with the rows of a shorter one."""
    blocks = speech_rows(count)
    if path.suffix == ".parquet":
        first = next(blocks)
        with pq.ParquetWriter(path, first.schema) as writer:
            for block in (first, *blocks):
                writer.write_table(block)
        return
    with path.open("w") as file:
        for block in blocks:
            file.writelines(json.dumps(row) + "\n" for row in block.to_pylist())


def speech_rows(count: int) -> Iterator[pa.Table]:
    """Rows in blocks: log-normal utterances (mean 7 s), one in a thousand a recording of 1 to 5 hours, with a reference."""
    for first in range(0, count, _BLOCK):
        random = np.random.default_rng(first)
        number = ((np.arange(first, first + _BLOCK) * 7_919) % 1_000_000_007).tolist()
        duration_s = random.lognormal(1.7, 0.7, _BLOCK)
        long = random.random(_BLOCK) < _LONG_SHARE
        duration_s[long] = random.uniform(3_600, 18_000, int(long.sum()))
        block = pa.table(
            {
                "id": [f"utt-{one}" for one in number],
                "audio_filepath": [f"clips/{one % 1000:03d}/{one}.flac" for one in number],
                "duration": duration_s.round(3),
                "text": [f"the words that were said in recording {one} of this archive" for one in number],
                "lang": ["en"] * _BLOCK,
            }
        )
        yield block.slice(0, count - first)


if __name__ == "__main__":
    main()
