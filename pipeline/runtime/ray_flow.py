"""The flow on Ray Data: one shard is one row from source to sink, through two pools.

    entries ─► DecodePool ─► EnginePool ─► receipts

Why pools of actors: a decoder child, an engine and a store connection each outlive a shard. Why never a `flat_map`: a shard
that is exploded and gathered again can be half done; 1 → 1 may be retried at any step, any number of times. Why an engine's
worker publishes what it has heard: with a pool of their own, publishers that were slow or killed let the engines go on without
end, and all of it was lost with the driver (74 % of a run in one storm). Now no more is unpublished than calls are under way,
and a store that is away holds the engines up, which could do no better.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipeline.config import RunConfig, RuntimeConfig
from pipeline.errors import EngineDead, RunError
from pipeline.metrics.measures import QUEUE_DEPTH, SHARDS
from pipeline.records import DecodedShard, Receipt, Undone
from pipeline.runtime.placement import place
from pipeline.runtime.ray_metrics import RayRecorder
from pipeline.runtime.ray_session import cluster_nodes, ray_errors, ray_session
from pipeline.runtime.rows import (
    decoded_of,
    decoded_to_table,
    receipt_of,
    receipt_to_table,
)
from pipeline.runtime.term import Term
from pipeline.runtime.workers import Assignment, Decoder, Publisher, Transcriber

# Each shard is a block that Ray's driver keeps track of (42 kB measured): a pass bounds that, whatever the corpus.
SHARDS_PER_PASS = 2_000
_DECODE_IN_FLIGHT = 2
_FAREWELL_S = 1.0  # the answer of the last call is on its way
_ROOM_TIMEOUT_S = {"local": 10.0}  # here it fits or never will; a cluster may have to grow first
_CLUSTER_ROOM_TIMEOUT_S = 600.0
_SHORTEST_PATIENCE_S = 1800.0  # machines that vanish come back in that time, or do not


class DecodePool:
    """Decodes one shard per call."""

    def __init__(self, assignment: Assignment) -> None:
        self._term = _term(assignment.config.runtime, _DECODE_IN_FLIGHT)
        self._decoder = Decoder(assignment, _replaces_a_dead_one(), RayRecorder())

    def __call__(self, entry: pa.Table) -> pa.Table:
        """One entry of the plan in, one decoded shard out."""
        row = entry.select(["shard_id", "plan_key", "row_group"]).to_pylist()[0]
        with self._term.call():
            return decoded_to_table(self._decoder.decode(**row))


class EnginePool:
    """Transcribes and publishes `shards_per_call` shards per call; Ray makes two calls at once."""

    def __init__(self, assignment: Assignment) -> None:
        self._term = _term(assignment.config.runtime, assignment.config.runtime.calls_in_flight)
        self._transcriber = Transcriber(assignment, _replaces_a_dead_one(), RayRecorder())
        self._publisher = Publisher(assignment, RayRecorder())

    def __call__(self, shards: pa.Table) -> pa.Table:
        """Decoded shards in, as many receipts out."""
        with self._term.call(shards.num_rows):
            arrived = [decoded_of(shards.slice(position, 1)) for position in range(shards.num_rows)]
            passed_on = [shard for shard in arrived if isinstance(shard, Undone)]
            try:
                done = self._transcriber.transcribe([shard for shard in arrived if isinstance(shard, DecodedShard)])
            except EngineDead:
                # Raising would send the shard back to the same dead engine, for ever (ray#60145): a new process gets a new one.
                os._exit(1)
            with self._transcriber.publishing():
                published = [one if isinstance(one, Undone) else self._publisher.publish(one) for one in done]
        return pa.concat_tables([receipt_to_table(one) for one in [*passed_on, *published]])


def run_shards(todo: pa.Table, assignment: Assignment) -> Iterator[Receipt | Undone]:
    """Decode, transcribe and publish every entry of `todo` on Ray; a receipt for each as it is done.

    Raises RunError when the engines do not fit or do not load, RunBrokenOffError when Ray fails on the way.
    """
    with ray_session(assignment.config.runtime), ray_errors(), engine_room(assignment.config.runtime) as room:
        recorder = RayRecorder()
        left = todo.num_rows
        for start in range(0, todo.num_rows, SHARDS_PER_PASS):
            recorder.record(QUEUE_DEPTH, left, stage="plan")
            for receipt in _receipts(todo.slice(start, SHARDS_PER_PASS), assignment, room):
                left -= 1
                recorder.record(QUEUE_DEPTH, left, stage="plan")
                recorder.record(SHARDS, outcome="undone" if isinstance(receipt, Undone) else receipt.outcome)
                yield receipt
        recorder.record(QUEUE_DEPTH, 0, stage="plan")


def _replaces_a_dead_one() -> bool:
    """Whether this actor is another's successor, and that one did not leave by itself."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_del

    if not ray.get_runtime_context().was_current_actor_reconstructed:
        return False
    return not _internal_kv_del(_farewell_key())


def _term(runtime: RuntimeConfig, in_flight: int) -> Term:
    """How long this actor serves; Ray starts it again in a new process."""
    return Term(runtime.recycle_after_shards, runtime.recycle_above_bytes, in_flight, _leave)


def _leave() -> None:
    """End this process, in a way that its successor does not take for a death."""
    from ray.experimental.internal_kv import _internal_kv_put

    # Not exit_actor: that ends the actor for good, and its pool would shrink.
    _internal_kv_put(_farewell_key(), b"")
    time.sleep(_FAREWELL_S)
    os._exit(0)


def _farewell_key() -> bytes:
    import ray

    return f"quarry-left-{ray.get_runtime_context().get_actor_id()}".encode()


@contextmanager
def engine_room(runtime: RuntimeConfig) -> Iterator[Any]:
    """A strategy that places engines in room reserved for them alone. Raises RunError when there is not so much room."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    need = {"CPU": runtime.engine_cpus, **({"GPU": runtime.engine_gpus} if runtime.engine_gpus else {})}
    group = placement_group([need] * runtime.engine_workers, strategy="PACK")
    try:
        if not group.wait(_ROOM_TIMEOUT_S.get(runtime.address, _CLUSTER_ROOM_TIMEOUT_S)):
            have = ray.cluster_resources()  # type: ignore[no-untyped-call]
            raise RunError(
                f"{runtime.engine_workers} engine workers of {runtime.engine_cpus:g} CPUs and {runtime.engine_gpus:g} GPUs each "
                f"do not fit on this Ray ({have.get('CPU', 0):g} CPUs, {have.get('GPU', 0):g} GPUs); "
                "lower runtime.engine_workers, engine_cpus or engine_gpus."
            )
        yield PlacementGroupSchedulingStrategy(placement_group=group)
    finally:
        remove_placement_group(group)


def patience_s(config: RunConfig) -> float:
    """How long Ray may see no shard move before it gives the run up: as long as the watchdog lets an engine take for one call.

    A large model on a CPU needs longer for a shard than the shard lasts; it would never get one done.
    """
    audio_s = config.plan.shard_s * config.batch.shards_per_call
    return max(_SHORTEST_PATIENCE_S, config.batch.timeout_s + config.batch.timeout_per_audio_s * audio_s)


def _receipts(todo: pa.Table, assignment: Assignment, room: Any) -> Iterator[Receipt | Undone]:
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext

    from pipeline.runtime.backpressure import bound_decoding

    runtime = assignment.config.runtime
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = patience_s(assignment.config)
    placed = place(cluster_nodes(), runtime)
    decode_workers = min(placed.decode_workers, todo.num_rows)
    in_hand = runtime.engine_workers * runtime.calls_in_flight * assignment.config.batch.shards_per_call
    # Decoding that paused begins everywhere at once, and is done at once: engines need that long a supply.
    bound_decoding(context, max(in_hand, decode_workers))
    recycles = runtime.recycle_after_shards is not None or runtime.recycle_above_bytes is not None
    stage: dict[str, Any] = {
        "fn_constructor_args": (assignment,),
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        # Finite, or a shard that kills its worker is tried for ever; restarts themselves may go on, machines do vanish.
        # One more where workers leave by themselves: Ray counts that too, and a call meets it once at most (`Term`).
        "max_task_retries": runtime.task_retries + int(recycles),
        "max_restarts": -1,
    }
    with warnings.catch_warnings():
        # Ray 2.60 deprecates passing actor options here and has no other way to bound task retries yet; pyproject.toml
        # keeps below the release that drops it.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        # It counts a pool's inputs before they have come and finds the pool too large.
        warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
        dataset = (
            ray.data.from_arrow([todo.slice(row, 1) for row in range(todo.num_rows)])
            .map_batches(
                DecodePool,
                batch_size=1,
                compute=ActorPoolStrategy(size=decode_workers, max_tasks_in_flight_per_actor=_DECODE_IN_FLIGHT),
                num_cpus=placed.decode_cpus,
                **stage,
            )
            .map_batches(
                EnginePool,
                # Accelerator stages need an integer, and a row is a whole shard: it forms its own batches inside.
                batch_size=assignment.config.batch.shards_per_call,
                # Two calls at once, truly parallel: one computes while the other publishes and the next is unpacked.
                compute=ActorPoolStrategy(
                    size=runtime.engine_workers,
                    max_tasks_in_flight_per_actor=runtime.calls_in_flight,
                    max_concurrent_calls_per_actor=runtime.concurrent_calls,
                    enable_true_multi_threading=True,
                ),
                num_cpus=runtime.engine_cpus,
                num_gpus=runtime.engine_gpus or None,
                scheduling_strategy=room,
                **stage,
            )
        )
        for row in dataset.iter_rows():
            yield receipt_of(row)
