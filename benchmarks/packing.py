"""Packing waste: seconds computed for padding, as a share of all seconds computed.

The seven-set mix (72 thousand clips, `clip_sets.py`) in random order, through the plan's shards and the engine's batches
(padding to the longest clip). Deterministic but for the last column; a few seconds.

    python benchmarks/packing.py
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
from clip_sets import Lengths, clips

from pipeline.batching import pack_batches, padded_s
from pipeline.config import PlanConfig
from pipeline.plan import plan_table
from pipeline.source.manifest import MANIFEST_SCHEMA

MAX_CHUNKS = 512


def planned_shards(audio_s: Lengths, shard_s: float) -> list[Lengths]:
    """The lengths of each shard's windows, as the planner orders them."""
    rows = {"id": [f"{number:08d}" for number in range(len(audio_s))], "duration_s": audio_s, "offset_s": 0 * audio_s}
    columns = [pa.array(rows.get(field.name, [None] * len(audio_s)), field.type) for field in MANIFEST_SCHEMA]
    plan = plan_table(pa.table(columns, schema=MANIFEST_SCHEMA), PlanConfig(shard_s=shard_s))
    lengths = plan["end_s"].to_numpy() - plan["start_s"].to_numpy()
    return np.split(lengths, np.flatnonzero(np.diff(plan["shard_index"].to_numpy())) + 1)


def arriving_shards(audio_s: Lengths, shard_s: float) -> list[Lengths]:
    """Shards of the same size without a plan: clips as they come."""
    return np.split(audio_s, np.flatnonzero(np.diff(np.cumsum(audio_s) // shard_s)) + 1)


def batches_of_128(audio_s: Lengths) -> tuple[int, float]:
    """The usual loop: clips as they come, 128 at a time."""
    batches = np.split(audio_s, range(128, len(audio_s), 128))
    computed_s = sum(len(batch) * batch.max() for batch in batches)
    return len(batches), 1 - float(audio_s.sum() / computed_s)


def packed(shards: list[Lengths], budget_s: float) -> tuple[int, float]:
    """Batches, and the share of padding, when each shard is packed by itself."""
    count, computed_s = 0, 0.0
    for shard in shards:
        batches = pack_batches(shard, max_audio_s=budget_s, max_chunks=MAX_CHUNKS, padding="longest")
        count += len(batches)
        computed_s += sum(padded_s(shard, batch, "longest", 0.0) for batch in batches)
    return count, 1 - sum(float(shard.sum()) for shard in shards) / computed_s


def main() -> None:
    """Print the table."""
    audio_s = clips()
    planned_shards(audio_s[:1000], 1800.0)  # the first call loads Arrow's compute functions
    print(f"{len(audio_s):,} clips, {audio_s.sum() / 3600:.1f} h, mean {audio_s.mean():.1f} s\n")
    print("| shards | shard_s | batch.max_audio_s | batches | clips per batch | waste % | µs per clip |")
    print("|---|---|---|---|---|---|---|")
    count, share = batches_of_128(audio_s)
    print(f"| none: 128 clips as they come | | | {count:,} | 128 | {100 * share:.1f} | |")
    for name, make_shards in (("as they come", arriving_shards), ("planned", planned_shards)):
        for shard_s in (1800.0, 3600.0):
            started_s = time.process_time()
            shards = make_shards(audio_s, shard_s)
            shards_took_s = time.process_time() - started_s
            for budget_s in (240.0, 480.0, 960.0, 1500.0):
                started_s = time.process_time()
                count, share = packed(shards, budget_s)
                us = 1e6 * (shards_took_s + time.process_time() - started_s) / len(audio_s)
                per_batch = len(audio_s) / count
                print(
                    f"| {name} | {shard_s:.0f} | {budget_s:.0f} | {count:,} | {per_batch:.0f} | {100 * share:.2f} | {us:.1f} |"
                )


if __name__ == "__main__":
    main()
