"""How soon a run that is nearly done goes on: a plan of N shards of which a share is published, resumed in one process.

    python benchmarks/resume.py --shards 100000 --done 0.99

Prints the seconds from the start of a driver to the first shard that it publishes, and its peak memory. The parts that exist
are empty objects: their presence alone is looked at. On a local disk, or with --output s3://bucket/prefix on a store.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from pipeline.config import RunConfig
from pipeline.config.file import load_config
from pipeline.prepare import open_ledger, prepare, write_plan
from pipeline.store.parts import part_key

_DRIVER = """
import resource, sys, time
begun = time.monotonic()
from pipeline.config.file import load_config
from pipeline.prepare import prepare
from pipeline.run import receipts
run = prepare(load_config(None, sys.argv[1:]))
todo = run.ledger.todo(run.ledger.entries())
receipt = next(receipts(run, todo))
first_s = time.monotonic() - begun
print(f"{todo.num_rows} {first_s:.1f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} {receipt.outcome}")
"""
_CLIPS_PER_SHARD = 3


def main() -> None:
    """Plan, pretend, resume."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--done", type=float, default=0.99)
    parser.add_argument("--output", default=None, help="a uri for the run (default: a folder that is removed)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        settings = make_run(Path(name), args.shards, args.output or f"{name}/out")
        pretend(load_config(None, settings), args.done)
        done = subprocess.run(
            [sys.executable, "-c", _DRIVER, *settings], capture_output=True, text=True, check=False, cwd=Path.cwd()
        )
        if done.returncode:
            sys.exit(done.stderr)
        left, first_s, peak_mb, outcome = done.stdout.split()
    print("| shards | left | to the first shard | peak memory | it was |\n|---|---|---|---|---|")
    print(f"| {args.shards} | {left} | {first_s} s | {peak_mb} MB | {outcome} |")


def make_run(folder: Path, shards: int, output: str) -> list[str]:
    """A manifest of clips of ten minutes, all of them one short file, and the settings that make three of them a shard."""
    soundfile.write(folder / "clip.wav", np.zeros(16_000, np.int16), 16_000)
    with (folder / "manifest.jsonl").open("w") as manifest:
        for number in range(shards * _CLIPS_PER_SHARD):
            row = {"id": f"clip-{number:07d}", "audio_filepath": "clip.wav", "duration": 600.0}
            manifest.write(json.dumps(row) + "\n")
    settings = {
        "manifest": folder / "manifest.jsonl",
        "output": output,
        "engine.name": "fake",
        "engine.model": "fake",
        "engine.language": "en",
        "plan.shard_s": 600 * _CLIPS_PER_SHARD,
        "runtime.kind": "local",
    }
    return [f"{key}={value}" for key, value in settings.items()]


def pretend(config: RunConfig, share: float) -> None:
    """Write the plan, and empty parts for the first shards of it."""
    write_plan(prepare(config))
    ledger = open_ledger(config)
    ids = ledger.entries()["shard_id"].to_pylist()
    root = Path(ledger.store.uri)
    for shard_id in ids[: int(len(ids) * share)]:
        if "://" in ledger.store.uri:
            ledger.store.put_if_absent(part_key(shard_id), b"")
        else:  # without a sync for each of them
            path = root / part_key(shard_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


if __name__ == "__main__":
    main()
