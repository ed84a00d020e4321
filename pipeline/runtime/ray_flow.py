"""The flow on Ray Data: one shard is one row from source to sink, through three pools.

    entries ─► DecodePool ─► EnginePool ─► PublishPool ─► receipts

Why pools of actors: a decoder child, an engine and a store connection each outlive a shard. Why never a `flat_map`: a shard
that is exploded and gathered again can be half done; 1 → 1 → 1 may be retried at any step, any number of times.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.errors import EngineDead
from pipeline.records import DecodedShard, Receipt, Undone
from pipeline.runtime.ray_session import cluster_cpus, ray_session
from pipeline.runtime.rows import (
    decoded_of,
    decoded_to_table,
    receipt_of,
    receipt_to_table,
    transcribed_of,
    transcribed_to_table,
)
from pipeline.runtime.workers import Assignment, Decoder, Publisher, Transcriber

# Pools that hold every CPU starve Ray's own source tasks for ever (ray#44687): each actor books a little less than it uses.
_DECODE_CPUS = 0.9
_PUBLISH_CPUS = 0.05


class DecodePool:
    """Decodes one shard per call."""

    def __init__(self, assignment: Assignment) -> None:
        self._decoder = Decoder(assignment)

    def __call__(self, entry: pa.Table) -> pa.Table:
        """One entry of the plan in, one decoded shard out."""
        row = entry.select(["shard_id", "plan_key", "row_group"]).to_pylist()[0]
        return decoded_to_table(self._decoder.decode(**row))


class EnginePool:
    """Transcribes `shards_per_call` shards per call; Ray makes two calls at once."""

    def __init__(self, assignment: Assignment) -> None:
        self._transcriber = Transcriber(assignment)

    def __call__(self, shards: pa.Table) -> pa.Table:
        """Decoded shards in, as many transcribed shards out."""
        arrived = [decoded_of(shards.slice(position, 1)) for position in range(shards.num_rows)]
        passed_on = [shard for shard in arrived if isinstance(shard, Undone)]
        try:
            done = self._transcriber.transcribe([shard for shard in arrived if isinstance(shard, DecodedShard)])
        except EngineDead:
            # Raising would send the shard back to the same dead engine, for ever (ray#60145): a new process gets a new one.
            os._exit(1)
        return pa.concat_tables([transcribed_to_table(shard) for shard in [*passed_on, *done]])


class PublishPool:
    """Publishes one shard per call."""

    def __init__(self, assignment: Assignment) -> None:
        self._publisher = Publisher(assignment)

    def __call__(self, shard: pa.Table) -> pa.Table:
        """One transcribed shard in, one receipt out."""
        arrived = transcribed_of(shard)
        return receipt_to_table(arrived if isinstance(arrived, Undone) else self._publisher.publish(arrived))


def run_shards(todo: pa.Table, assignment: Assignment) -> Iterator[Receipt | Undone]:
    """Decode, transcribe and publish every entry of `todo` on Ray; a receipt for each as it is done."""
    with ray_session(assignment.config.runtime):
        yield from _receipts(todo, assignment)


def _receipts(todo: pa.Table, assignment: Assignment) -> Iterator[Receipt | Undone]:
    import ray.data
    from ray.data import ActorPoolStrategy

    runtime = assignment.config.runtime
    decode_workers = runtime.decode_workers or free_cpus(cluster_cpus(), runtime.engine_workers * runtime.engine_cpus)
    stage: dict[str, Any] = {
        "fn_constructor_args": (assignment,),
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        # Finite, or a shard that kills its worker is tried for ever; restarts themselves may go on, machines do vanish.
        "max_task_retries": runtime.task_retries,
        "max_restarts": -1,
    }
    with warnings.catch_warnings():
        # Ray 2.60 deprecates passing actor options here and has no other way to bound task retries yet; pyproject.toml
        # keeps below the release that drops it.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        dataset = (
            ray.data.from_arrow([todo.slice(row, 1) for row in range(todo.num_rows)])
            .map_batches(
                DecodePool,
                batch_size=1,
                compute=ActorPoolStrategy(size=min(decode_workers, todo.num_rows), max_tasks_in_flight_per_actor=2),
                num_cpus=_DECODE_CPUS,
                **stage,
            )
            .map_batches(
                EnginePool,
                # Accelerator stages need an integer, and a row is a whole shard: it forms its own batches inside.
                batch_size=assignment.config.batch.shards_per_call,
                # Two calls at once, truly parallel: one computes while the next is unpacked.
                compute=ActorPoolStrategy(
                    size=runtime.engine_workers,
                    max_concurrent_calls_per_actor=runtime.concurrent_calls,
                    enable_true_multi_threading=True,
                ),
                num_cpus=runtime.engine_cpus,
                num_gpus=runtime.engine_gpus or None,
                **stage,
            )
            .map_batches(PublishPool, batch_size=1, compute=ActorPoolStrategy(size=1), num_cpus=_PUBLISH_CPUS, **stage)
        )
    with warnings.catch_warnings():
        # It counts a pool's inputs before they have come and finds the pool too large.
        warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
        for row in dataset.iter_rows():
            yield receipt_of(row)


def free_cpus(cpus: float, booked: float) -> int:
    """Decode actors that fit beside the engines with a CPU's tenth to spare; at least one."""
    return max(1, int((cpus - booked - 0.1) / _DECODE_CPUS))
