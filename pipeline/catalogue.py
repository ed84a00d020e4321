"""The runs of a backfill as one table: `from pipeline import read_runs`.

    read_runs("s3://bucket/out").pandas(columns=["partition", "id", "text"], where="partition>=2026-11-01")

The partitions are those that the backfill has noted, each with the latest snapshot of its run. One that was never finished has
none, and is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.backfill.book import MANIFEST, Book, run_id_of
from pipeline.config import StoreConfig
from pipeline.errors import ConfigError, RunError
from pipeline.reading import Readable, RunTable, Where, scanned, snapshot_of, table_of
from pipeline.store.objects import ObjectStore

PARTITION = "partition"
_AT_ONCE = 16


def read_runs(
    uri_or_folder: str | os.PathLike[str],
    table: str = "transcripts",
    storage_options: Mapping[str, Any] | None = None,
    backfill: str | None = None,
) -> RunsTable:
    """A table of all partitions of a backfill, with the column `partition` before the others.

    `uri_or_folder` is the output that receives the runs; `backfill` the name of one of its backfills, where there are several
    (`<name>-<fingerprint>`, the folders below `backfill/`). Opens the latest snapshot of every partition; rows come when they are
    asked for. Raises RunError where there is no backfill, or none of its runs is finished; ConfigError for an unknown table;
    StoreError.
    """
    output = ObjectStore.open(os.fspath(uri_or_folder), StoreConfig(storage_options=dict(storage_options or {})))
    name = backfill or _only_one(output)
    labels = sorted(Book(output.below(f"backfill/{name}")).records().keys() - {MANIFEST})

    def opened(label: str) -> RunTable | None:
        store = output.below(run_id_of(name, label))
        if not any(True for _ in store.list("snapshots", deep=False)):
            return None
        return table_of(store, snapshot_of(store, None), table)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = {label: one for label, one in zip(labels, pool.map(opened, labels), strict=True) if one is not None}
    if not found:
        raise RunError(
            f"No partition of the backfill {name} at {output} is finished; `quarry backfill` goes on with it."
        )
    return RunsTable({label.lstrip("_"): one for label, one in found.items()})


def _only_one(output: ObjectStore) -> str:
    names = sorted({info.key.split("/")[1] for info in output.list("backfill")})
    if not names:
        raise RunError(f"There is no backfill at {output}; name the folder that receives the runs.")
    if len(names) > 1:
        raise RunError(f"There are several backfills at {output}; give backfill= one of {', '.join(names)}.")
    return names[0]


@dataclass(frozen=True)
class RunsTable(Readable):
    """Rows of one table over the partitions of a backfill. `runs`: each partition's own, by its name.

    `columns` and `where` as in RunTable; a condition on `partition` opens no other partition's files.
    """

    runs: Mapping[str, RunTable]

    @property
    def num_rows(self) -> int:
        """Rows, without reading them."""
        return sum(one.num_rows for one in self.runs.values())

    @property
    def stored_schema(self) -> pa.Schema:
        """`schema` as it lies in the files: `extra` is a list of keys and values."""
        newest = self.runs[max(self.runs)].stored_schema
        return newest.insert(0, pa.field(PARTITION, pa.string(), nullable=False))

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and types: `partition`, then those of the newest partition's table. What an older one lacks is null there."""
        newest = self.runs[max(self.runs)].schema
        return newest.insert(0, pa.field(PARTITION, pa.string(), nullable=False))

    def dataset(self) -> ds.Dataset:
        """The files of all partitions as an Arrow dataset, for engines that scan one."""
        form = ds.ParquetFileFormat()
        fragments = [
            form.make_fragment(file, partition_expression=pc.field(PARTITION) == name)
            for name, one in self.runs.items()
            for file in one.files()
        ]
        return ds.FileSystemDataset(fragments, self.stored_schema, form)

    def arrow(self, columns: Sequence[str] | None = None, where: Where = None) -> pa.Table:
        """All rows, in memory."""
        unknown = sorted(set(columns or ()) - set(self.schema.names))
        if unknown:
            raise ConfigError(
                f"There is no column {unknown[0]!r} in these runs; they have {', '.join(self.schema.names)}."
            )
        return scanned(self.dataset(), self.schema, None if columns is None else list(columns), where)

    def batches(
        self, columns: Sequence[str] | None = None, where: Where = None, rows: int = 1_000
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Partition and rows, partition by partition, at most `rows` at a time; one row group in memory."""
        for name, one in self.runs.items():
            for batch in one.batches(columns, where, rows):
                yield name, batch
