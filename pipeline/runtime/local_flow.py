"""The flow in one process: the same steps in a loop. For laptops, notebooks and tests; no Ray."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipeline.errors import EngineDead, RunBrokenOffError
from pipeline.records import DecodedShard, Receipt, Undone
from pipeline.runtime.workers import Assignment, Decoder, Publisher, Transcriber


def run_shards(todo: pa.Table, assignment: Assignment) -> Iterator[Receipt | Undone]:
    """Decode, transcribe and publish every entry of `todo`; a receipt for each as it is done.

    Raises RunBrokenOffError when the engine dies: there is no other process to go on with.
    """
    decoder, publisher = Decoder(assignment), Publisher(assignment)
    transcriber = Transcriber(assignment, takes_notes=True)
    per_call = assignment.config.batch.shards_per_call
    try:
        for start in range(0, todo.num_rows, per_call):
            yield from _through(todo.slice(start, per_call), decoder, transcriber, publisher)
    except EngineDead as error:
        raise RunBrokenOffError(f"The engine died ({error}); the same command resumes.") from error
    finally:
        decoder.close()
        transcriber.close()


def _through(
    entries: pa.Table, decoder: Decoder, transcriber: Transcriber, publisher: Publisher
) -> Iterator[Receipt | Undone]:
    """One call's shards. Its audio goes with it: the next call decodes without a second shard in memory."""
    asked = entries.select(["shard_id", "plan_key", "row_group"]).to_pylist()
    arrived = [decoder.decode(**entry) for entry in asked]
    yield from (shard for shard in arrived if isinstance(shard, Undone))
    for shard in transcriber.transcribe([shard for shard in arrived if isinstance(shard, DecodedShard)]):
        yield shard if isinstance(shard, Undone) else publisher.publish(shard)
