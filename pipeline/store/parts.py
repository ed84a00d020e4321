"""One object per shard: its transcript rows, encoded in memory, checked, put once.

The key is a function of the plan alone, so a retry meets its own earlier success; nothing a user wrote reaches a key.
pyarrow's writers publish a valid but cut-short file when the writing block raises (arrow#40502), so no part is ever
streamed to its key: bytes first, then one put-if-absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.records import EngineStats
from pipeline.schema import SCHEMA_VERSION, TRANSCRIPTS
from pipeline.store.objects import ObjectInfo, ObjectStore

PARTS = "parts/"
_STATS_KEY = b"quarry.stats"
_CODEC = "zstd"


@dataclass(frozen=True, slots=True)
class Part:
    """A published shard."""

    shard_id: str
    key: str
    size_bytes: int
    etag: str | None
    modified_s: float | None = field(default=None, compare=False)  # as ObjectInfo has it


def part_key(shard_id: str) -> str:
    """Key of a shard's part. Two hex digits of its hash come first: they spread the load over a store's prefixes."""
    return f"{PARTS}{shard_id.rpartition('-')[2][:2]}/{shard_id}.parquet"


def encode_part(rows: pa.Table, stats: EngineStats) -> bytes:
    """Parquet bytes of a shard's rows, with what they cost in the file's metadata.

    Raises ValueError when the bytes do not read back as the same number of rows with unique ids.
    """
    stamped = rows.replace_schema_metadata({**(rows.schema.metadata or {}), _STATS_KEY: json.dumps(asdict(stats))})
    buffer = BytesIO()
    pq.write_table(stamped, buffer, compression=_CODEC, write_page_checksum=True)
    data = buffer.getvalue()
    back = table_of(data, columns=["id", "window_index"])
    unique = back.group_by(["id", "window_index"]).aggregate([]).num_rows
    if not back.num_rows == rows.num_rows == unique:
        raise ValueError(f"a part of {rows.num_rows} rows reads back as {back.num_rows}, {unique} of them distinct")
    return data


def table_of(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The table in Parquet bytes.

    Not `pq.read_table`: its scanner drops the Python file in a thread of its own, which aborts an interpreter that ends then.
    """
    return pq.ParquetFile(BytesIO(data), page_checksum_verification=True).read(columns=columns)


def publish_part(store: ObjectStore, shard_id: str, data: bytes) -> bool:
    """Put a shard's part. False: another attempt had published it."""
    return store.put_if_absent(part_key(shard_id), data)


def list_parts(store: ObjectStore) -> Iterator[Part]:
    """Every part there is, in the store's order."""
    for info in store.list(PARTS):
        if info.key.endswith(".parquet"):
            yield _part_of(info)


def _part_of(info: ObjectInfo) -> Part:
    shard_id = info.key.rpartition("/")[2].removesuffix(".parquet")
    return Part(shard_id, info.key, info.size_bytes, info.etag, info.modified_s)


def read_part(store: ObjectStore, part: Part, columns: list[str] | None = None) -> pa.Table:
    """A part's rows. Raises StoreError when it is unreadable or of another schema version."""
    try:
        table = table_of(store.get(part.key), columns)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"The part {part.key} cannot be read ({str(error)[:120]}); delete it and run again to make it anew."
        ) from None
    version = (table.schema.metadata or {}).get(b"schema_version", b"?").decode()
    if version != str(SCHEMA_VERSION):
        raise StoreError(
            f"The part {part.key} has schema version {version}, this Quarry writes {SCHEMA_VERSION}; "
            "finish the run with the version that began it, or give the run another name."
        )
    return table if columns else table.select(TRANSCRIPTS.names)


def stats_of(rows: pa.Table) -> EngineStats:
    """What the shard cost, from a part's metadata."""
    return EngineStats(**json.loads(rows.schema.metadata[_STATS_KEY]))
