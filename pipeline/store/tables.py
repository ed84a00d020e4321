"""Writing the finalized tables: many rows in, files of about 64 MB out, one put each."""

from __future__ import annotations

from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.objects import ObjectStore

_FILE_BYTES = 64 * 2**20


class TableWriter:
    """Collects tables of one schema and puts them as `<folder>/00000.parquet`, `00001.parquet` …

    At most one file's rows are in memory. Putting the same rows again is harmless: the folder's name comes from the parts.
    """

    def __init__(self, store: ObjectStore, folder: str, schema: pa.Schema) -> None:
        self._store, self._folder, self._schema = store, folder, schema
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self.files: list[dict[str, int | str]] = []

    def add(self, table: pa.Table) -> None:
        """Append rows; puts a file when enough have come together."""
        if table.num_rows:
            self._pending.append(table.cast(self._schema))
            self._pending_bytes += table.nbytes
        if self._pending_bytes >= _FILE_BYTES:
            self._put()

    def close(self) -> None:
        """Put what is left; an empty table is a file without rows, so that readers find the schema."""
        if self._pending or not self.files:
            self._put()

    def _put(self) -> None:
        table = pa.concat_tables(self._pending) if self._pending else self._schema.empty_table()
        buffer = BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        key = f"{self._folder}/{len(self.files):05d}.parquet"
        self._store.put_if_absent(key, buffer.getvalue())
        self.files.append({"key": key, "rows": table.num_rows, "bytes": buffer.tell()})
        self._pending, self._pending_bytes = [], 0
