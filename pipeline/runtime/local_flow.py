"""The flow in one process: the same steps in a loop. For laptops, notebooks and tests; no Ray."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipeline.records import Receipt
from pipeline.runtime.workers import Assignment, Decoder, Publisher, Transcriber


def run_shards(todo: pa.Table, assignment: Assignment) -> Iterator[Receipt]:
    """Decode, transcribe and publish every entry of `todo`; a receipt for each as it is done."""
    decoder, publisher = Decoder(assignment), Publisher(assignment)
    transcriber = Transcriber(assignment)
    per_call = assignment.config.batch.shards_per_call
    try:
        for start in range(0, todo.num_rows, per_call):
            entries = todo.slice(start, per_call).select(["shard_id", "plan_key", "row_group"]).to_pylist()
            decoded = [decoder.decode(**entry) for entry in entries]
            for shard in transcriber.transcribe(decoded):
                yield publisher.publish(shard)
    finally:
        decoder.close()
        transcriber.close()
