"""How busy a (fake) accelerator is kept by the real pipeline on Ray.

    python benchmarks/accelerator_busy.py [--hours 2]

The fake engine holds an exclusive device for a fixed time per second of audio and does host work before each batch, like a
GPU engine. Busy = device seconds ÷ time, between the tenth commit and the last: pools have started by then, and everything else
counts. At that commit the next shards are under way: as many as there are calls at once are not counted, though a part of their
work lies in that time. The share is a lower bound, but for the jitter of the commits themselves.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from corpus import make_clips

from pipeline.config.file import load_config
from pipeline.prepare import prepare, write_plan
from pipeline.records import Undone
from pipeline.run import receipts

DEVICE_S_PER_AUDIO_S = 0.004  # an accelerator of 250× real time: what two cores can feed with room to spare
HOST_S = 0.1  # per batch
WARM_UP = 10  # commits


def main() -> None:
    """Measure and print a Markdown table: two concurrent calls (ours) against one (Ray's default)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=4.0)
    arguments = parser.parse_args()
    print("| calls at once | shards | device busy |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_clips(Path(folder) / "clips", arguments.hours)
        for calls in (1, 2):
            shards, busy = busy_share(manifest, Path(folder) / f"out{calls}", calls)
            print(f"| {calls} | {shards} | {busy:.3f} |", flush=True)


def busy_share(manifest: Path, output: Path, calls: int) -> tuple[int, float]:
    """Shards done, and the share of the steady time in which the device worked."""
    options = f"{{seconds_per_audio_s: {DEVICE_S_PER_AUDIO_S}, host_s: {HOST_S}, padding: none}}"
    settings = [
        f"manifest={manifest}",
        f"output={output}",
        "engine.name=fake",
        "engine.model=fake",
        "engine.language=en",
        f"engine.options={options}",
        "chunk.vad=none",
        "plan.shard_s=150",
        f"runtime.concurrent_calls={calls}",
    ]
    run = write_plan(prepare(load_config(None, settings)))
    commits: list[tuple[float, float]] = []
    for receipt in receipts(run, run.ledger.todo(run.ledger.entries())):
        if isinstance(receipt, Undone):
            raise SystemExit(receipt.message)
        commits.append((time.monotonic(), receipt.audio_s * DEVICE_S_PER_AUDIO_S))
    steady_s = commits[-1][0] - commits[WARM_UP][0]
    return len(commits), sum(device_s for _, device_s in commits[WARM_UP + calls :]) / steady_s


if __name__ == "__main__":
    main()
