"""How a shard crosses Ray between steps: one row with the audio as one int16 `large_binary` and the rest as one JSON header.

Python lists of samples cost 3.5 times the CPU (measured), float32 twice the object store; this is the only place that
knows the encoding. Reading back gives views on Ray's shared memory: no copy of the audio.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from pipeline.records import (
    Chunk,
    DecodedShard,
    DecodedWindow,
    EngineStats,
    Failure,
    Hypothesis,
    Receipt,
    Shard,
    TranscribedShard,
)

_DecodedHeader = TypeAdapter(tuple[Shard, tuple[DecodedWindow, ...], tuple[Chunk, ...]])
_Outcome = Hypothesis | Failure
_TranscribedHeader = TypeAdapter(
    tuple[Shard, tuple[DecodedWindow, ...], tuple[Chunk, ...], tuple[_Outcome, ...], EngineStats]
)
_Receipt = TypeAdapter(Receipt)

_DECODED = pa.schema([("header", pa.large_binary()), ("pcm", pa.large_binary())])
_TRANSCRIBED = pa.schema([("header", pa.large_binary())])


def decoded_to_table(shard: DecodedShard) -> pa.Table:
    """One row: header and pcm."""
    header = _DecodedHeader.dump_json((shard.shard, shard.windows, shard.chunks))
    # From the array's own buffer: `pa.array([bytes])` would copy the audio twice.
    offsets = pa.py_buffer(np.array([0, shard.pcm.nbytes], np.int64))
    pcm = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(shard.pcm)])
    return pa.Table.from_arrays([pa.array([header], pa.large_binary()), pcm], schema=_DECODED)


def decoded_of(table: pa.Table) -> DecodedShard:
    """Back to the record; `pcm` is a read-only view of the row's buffer."""
    shard, windows, chunks = _DecodedHeader.validate_json(table["header"][0].as_py())
    pcm = np.frombuffer(table["pcm"][0].as_buffer(), np.int16)
    return DecodedShard(shard, windows, chunks, pcm)


def transcribed_to_table(shard: TranscribedShard) -> pa.Table:
    """One row: the header."""
    header = _TranscribedHeader.dump_json((shard.shard, shard.windows, shard.chunks, shard.outcomes, shard.stats))
    return pa.Table.from_arrays([pa.array([header], pa.large_binary())], schema=_TRANSCRIBED)


def transcribed_of(table: pa.Table) -> TranscribedShard:
    """Back to the record."""
    return TranscribedShard(*_TranscribedHeader.validate_json(table["header"][0].as_py()))


def receipt_to_table(receipt: Receipt) -> pa.Table:
    """One small row for the driver."""
    return pa.Table.from_pylist([_Receipt.dump_python(receipt)])


def receipt_of(row: dict[str, object]) -> Receipt:
    """Back to the record."""
    return _Receipt.validate_python(row)
