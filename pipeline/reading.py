"""A finished run's tables for notebooks and programs: `from pipeline import read_run`.

    read_run("out/demo-1f3ac9d2").pandas(columns=["id", "text"], where="language=en")

Files are read where they lie, by ranges; nothing is copied. A snapshot names its files, so a run that grows meanwhile changes
nothing under a reader.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.config import StoreConfig
from pipeline.errors import ConfigError, RunError, StoreError
from pipeline.export.conditions import expression_of
from pipeline.schema import map_field, with_maps
from pipeline.store.ledger import read_json
from pipeline.store.objects import ObjectStore
from pipeline.store.remote_folder import READ_BUFFER_BYTES, RangeReader
from pipeline.store.snapshot import Snapshot

if TYPE_CHECKING:
    import duckdb
    import pandas

Where: TypeAlias = str | Sequence[str] | pc.Expression | None


def read_run(
    uri_or_folder: str | os.PathLike[str],
    table: str = "transcripts",
    snapshot: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> RunTable:
    """A table of a run: `transcripts`, `segments`, `failures`, `shards`, `stats`, or `retries` where there were any.

    `uri_or_folder` is the run's own folder, on a local disk or any store that fsspec knows; `storage_options` are fsspec's.
    `snapshot`: a number, None for the latest. Reads the snapshot alone; rows come when they are asked for.

    Raises ConfigError for a table that is not there, RunError where there is no finished run, StoreError.
    """
    store = ObjectStore.open(os.fspath(uri_or_folder), StoreConfig(storage_options=dict(storage_options or {})))
    return table_of(store, snapshot_of(store, snapshot), table)


def snapshot_of(store: ObjectStore, number: int | None) -> Snapshot:
    """A snapshot of the run at `store` by its number, or the latest. Raises RunError."""
    keys = {
        int(stem): info.key
        for info in store.list("snapshots/", deep=False)
        if (stem := info.key.removeprefix("snapshots/").removesuffix(".json")).isdecimal()
    }
    if not keys:
        raise RunError(
            f"There is no finished run at {store}; name the run's own folder, or let `quarry run` finish it."
        )
    if number is not None and number not in keys:
        raise RunError(f"The run at {store} has no snapshot {number}; it has {', '.join(map(str, sorted(keys)))}.")
    return Snapshot(**read_json(store, keys[max(keys) if number is None else number]))


def table_of(store: ObjectStore, snapshot: Snapshot, name: str = "transcripts") -> RunTable:
    """One table of a snapshot. Raises ConfigError."""
    if name not in snapshot.files:
        raise ConfigError(f"The run at {store} has no table {name!r}; it has {', '.join(sorted(snapshot.files))}.")
    return RunTable(store, snapshot, name)


def connected(connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyConnection:
    """The connection, or one of our own. Raises RunError where DuckDB is not installed."""
    try:
        import duckdb
    except ImportError:
        raise RunError(
            "DuckDB is not installed; `pip install duckdb`, or read the table with .arrow() or .pandas()."
        ) from None
    return connection or duckdb.connect()


class Scan:
    """What to ask of files, and what is left to do with what they give: they do not know the keys of `extra`.

    `columns`, `condition`: for the scan. `schema` as in RunTable. Raises ConfigError for a condition.
    """

    def __init__(self, schema: pa.Schema, columns: list[str] | None, where: Where) -> None:
        asked = [where] if isinstance(where, str) else where
        if asked is None or isinstance(asked, pc.Expression):
            self.condition, self._rest = asked, None
        else:
            inside = [one for one in asked if one.strip().startswith("extra.")]
            self.condition = expression_of([one for one in asked if one not in inside], schema)
            self._rest = expression_of(inside, schema)
        self._wanted = columns
        more = ["extra"] if self._rest is not None and columns is not None and "extra" not in columns else []
        self.columns = None if columns is None else [*columns, *more]

    def finish(self, rows: pa.Table) -> pa.Table:
        """The rows that were asked for, of those that the files gave."""
        rows = with_maps(rows)
        if self._rest is not None:
            rows = rows.filter(self._rest)
        return rows if self._wanted is None else rows.select(self._wanted)


def scanned(dataset: ds.Dataset, schema: pa.Schema, columns: list[str] | None, where: Where) -> pa.Table:
    """Rows of a dataset of finished tables, in memory. `schema`, `columns`, `where` as in RunTable."""
    scan = Scan(schema, columns, where)
    return scan.finish(dataset.to_table(columns=scan.columns, filter=scan.condition))


def relation_of(connection: duckdb.DuckDBPyConnection, dataset: ds.Dataset) -> duckdb.DuckDBPyRelation:
    """A relation of finished tables, `extra` as a map."""
    found = connection.from_arrow(dataset)
    if all(map_field(field) == field for field in dataset.schema):
        return found
    return found.project("* REPLACE (map_from_entries(extra) AS extra)")


class Readable(ABC):
    """Rows that lie in Parquet files, for who reads them with pandas or DuckDB."""

    @abstractmethod
    def dataset(self) -> ds.Dataset:
        """The files as an Arrow dataset, for engines that scan one."""

    @abstractmethod
    def arrow(self, columns: Sequence[str] | None = None, where: Where = None) -> pa.Table:
        """All rows, in memory."""

    def pandas(self, columns: Sequence[str] | None = None, where: Where = None) -> pandas.DataFrame:
        """All rows, in memory. Lists become arrays, structs and `extra` dictionaries."""
        found: pandas.DataFrame = self.arrow(columns, where).to_pandas(maps_as_pydicts="lossy")
        return found

    def duckdb(self, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyRelation:
        """A relation that reads what a query needs. Raises RunError where DuckDB is not installed."""
        return relation_of(connected(connection), self.dataset())


@dataclass(frozen=True)
class RunTable(Readable):
    """Rows of one table in one snapshot. Everything is read anew at every call.

    `columns`: names, None for all. `where`: a condition such as "duration_s<30" or several (docs/export.md), or an Arrow
    expression; row groups that cannot match are not read. Methods raise ConfigError for what is not a column, and StoreError.
    """

    store: ObjectStore
    snapshot: Snapshot
    name: str

    @property
    def num_rows(self) -> int:
        """Rows, without reading them."""
        return sum(int(file["rows"]) for file in self.snapshot.files[self.name])

    @cached_property
    def stored_schema(self) -> pa.Schema:
        """Columns and types as they lie in the files, from the first of them: `extra` is a list of keys and values."""
        return pq.read_schema(self._open(self.snapshot.files[self.name][0]))

    @property
    def schema(self) -> pa.Schema:
        """Columns and types of the rows that come: `extra` is a map."""
        return pa.schema([map_field(field) for field in self.stored_schema], self.stored_schema.metadata)

    def dataset(self) -> ds.Dataset:
        """The files as an Arrow dataset, for engines that scan one; its schema is `stored_schema`."""
        form = ds.ParquetFileFormat()
        return ds.FileSystemDataset([form.make_fragment(file) for file in self.files()], self.stored_schema, form)

    def files(self) -> list[io.BufferedReader]:
        """The files, each of which is opened when it is read."""
        return [self._open(file) for file in self.snapshot.files[self.name]]

    def arrow(self, columns: Sequence[str] | None = None, where: Where = None) -> pa.Table:
        """All rows, in memory."""
        with self._said():
            return scanned(self.dataset(), self.schema, self._columns(columns), where)

    def batches(
        self, columns: Sequence[str] | None = None, where: Where = None, rows: int = 1_000
    ) -> Iterator[pa.RecordBatch]:
        """The rows in the table's order, at most `rows` at a time; one row group in memory."""
        scan = Scan(self.schema, self._columns(columns), where)
        form = ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False))
        for file in self.snapshot.files[self.name]:
            with self._said():
                for batch in form.make_fragment(self._open(file)).to_batches(
                    schema=self.stored_schema,
                    columns=scan.columns,
                    filter=scan.condition,
                    batch_size=rows,
                    batch_readahead=0,
                    fragment_readahead=0,
                    use_threads=False,
                ):
                    yield from scan.finish(pa.Table.from_batches([batch])).to_batches()

    def _open(self, file: Mapping[str, Any]) -> io.BufferedReader:
        """A file that opens nothing until it is read: its size stands in the snapshot."""
        store, key = self.store, str(file["key"])
        reader = RangeReader(lambda start, end: store.get_range(key, start, end), int(file["bytes"]))
        return io.BufferedReader(reader, READ_BUFFER_BYTES)

    def _columns(self, columns: Sequence[str] | None) -> list[str] | None:
        unknown = sorted(set(columns or ()) - set(self.schema.names))
        if unknown:
            raise ConfigError(
                f"There is no column {unknown[0]!r} in {self.name}; it has {', '.join(self.schema.names)}."
            )
        return None if columns is None else list(columns)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What Arrow says of a file that is not as it was written, in one sentence."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise StoreError(
                f"The table {self.name} at {self.store} cannot be read ({reason}); `quarry run` writes lost tables again."
            ) from error
