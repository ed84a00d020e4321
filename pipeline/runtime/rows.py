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
    Receipt,
    Samples,
    Shard,
    StepTime,
    Undone,
)

_Times = tuple[StepTime, tuple[str, ...]]  # decoding, replaced
_DecodedHeader = TypeAdapter(tuple[Shard, tuple[DecodedWindow, ...], tuple[Chunk, ...], float, _Times])
_Receipt = TypeAdapter(Receipt)
_Undone = TypeAdapter(Undone)

# One schema for every step: `undone` set and the others null where a step could not finish the shard.
_ROW = pa.schema([("undone", pa.large_binary()), ("header", pa.large_binary()), ("pcm", pa.large_binary())])


def decoded_to_table(shard: DecodedShard | Undone) -> pa.Table:
    """One row: header and pcm."""
    if isinstance(shard, Undone):
        return _row(undone=_Undone.dump_json(shard))
    header = _DecodedHeader.dump_json(
        (shard.shard, shard.windows, shard.chunks, shard.decoded_at_s, (shard.decoding, shard.replaced))
    )
    return _row(header=header, pcm=shard.pcm)


def decoded_of(table: pa.Table) -> DecodedShard | Undone:
    """Back to the record; `pcm` is a read-only view of the row's buffer."""
    if (undone := _undone_of(table)) is not None:
        return undone
    shard, windows, chunks, decoded_at_s, times = _DecodedHeader.validate_json(table["header"][0].as_py())
    pcm = np.frombuffer(table["pcm"][0].as_buffer(), np.int16)
    return DecodedShard(shard, windows, chunks, pcm, decoded_at_s, *times)


def receipt_to_table(receipt: Receipt | Undone) -> pa.Table:
    """One small row for the driver."""
    if isinstance(receipt, Undone):
        return _row(undone=_Undone.dump_json(receipt))
    return _row(header=_Receipt.dump_json(receipt))


def receipt_of(row: dict[str, bytes]) -> Receipt | Undone:
    """Back to the record."""
    return _Undone.validate_json(row["undone"]) if row["undone"] else _Receipt.validate_json(row["header"])


def _undone_of(table: pa.Table) -> Undone | None:
    found = table["undone"][0].as_py()
    return None if found is None else _Undone.validate_json(found)


def _row(undone: bytes | None = None, header: bytes | None = None, pcm: Samples | None = None) -> pa.Table:
    columns = [pa.array([undone], pa.large_binary()), pa.array([header], pa.large_binary()), _binary(pcm)]
    return pa.Table.from_arrays(columns, schema=_ROW)


def _binary(pcm: Samples | None) -> pa.Array:
    if pcm is None:
        return pa.nulls(1, pa.large_binary())
    # From the array's own buffer: `pa.array([bytes])` would copy the audio twice.
    offsets = pa.py_buffer(np.array([0, pcm.nbytes], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(pcm)])
