"""Nothing lost, nothing doubled: plan ids = part ids = row ids, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.records import Shard
from pipeline.store.ledger import Ledger
from pipeline.store.parts import Part, list_parts, read_part

_SHOWN = 5
_READERS = 8  # parts read at once: a store's latency, not its bandwidth, is what a pass over small objects waits for


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of plan against parts found; the lists show the first few."""

    shards: int
    missing: int
    wrong: int
    orphans: int
    rows: int
    missing_shards: tuple[str, ...]
    wrong_shards: tuple[str, ...]  # unreadable, or rows that are not the plan's
    orphan_keys: tuple[str, ...]  # parts that no plan asks for: harmless, readers never see them

    @property
    def complete(self) -> bool:
        """Every planned row is there once."""
        return not self.missing and not self.wrong


def verify(ledger: Ledger) -> Verdict:
    """Read every part, every page against its checksum, and compare its ids with the plan's."""
    missing: list[str] = []
    wrong: list[str] = []
    shards = rows = n_missing = n_wrong = 0
    parts = {part.shard_id: part for part in list_parts(ledger.store)}
    for shard, table in part_tables(ledger, parts):
        shards += 1
        parts.pop(shard.shard_id, None)
        if table is None:
            n_missing += 1
            missing += [shard.shard_id] if n_missing <= _SHOWN else []
        elif isinstance(table, str) or not rows_match(shard, table):
            n_wrong += 1
            wrong += [shard.shard_id] if n_wrong <= _SHOWN else []
        else:
            rows += table.num_rows
    orphans = tuple(sorted(part.key for part in parts.values())[:_SHOWN])
    return Verdict(shards, n_missing, n_wrong, len(parts), rows, tuple(missing), tuple(wrong), orphans)


def part_tables(ledger: Ledger, parts: dict[str, Part]) -> Iterator[tuple[Shard, pa.Table | str | None]]:
    """Every planned shard with its part's rows: None where there is no part, the reason where it cannot be read."""

    def load(shard: Shard) -> pa.Table | str | None:
        part = parts.get(shard.shard_id)
        try:
            return read_part(ledger.store, part) if part else None
        except StoreError as error:
            return str(error)

    planned = ledger.shards()
    with ThreadPoolExecutor(_READERS) as pool:
        while some := list(islice(planned, _READERS * 4)):
            # The lookup is done before the shard is handed on, so a caller may take the part out of `parts`.
            yield from zip(some, list(pool.map(load, some)), strict=True)


def rows_match(shard: Shard, table: pa.Table) -> bool:
    """Whether a part holds one row for each of the shard's windows and no other."""
    found = sorted(zip(table["id"].to_pylist(), table["window_index"].to_pylist(), strict=True))
    return found == sorted((window.recording.id, window.index) for window in shard.windows)
