"""Parts: checked before they are put, put once, refused when they are not what they should be."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_runs import made_run, part_bytes, publish_all, row

from pipeline.errors import StoreError
from pipeline.records import EngineStats
from pipeline.store.parts import list_parts, part_key, publish_part, read_part, stats_of


def test_the_first_part_stands(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, {"a": 10.0})
    (shard,) = ledger.shards()
    assert publish_part(ledger.store, shard.shard_id, part_bytes(shard))
    assert not publish_part(ledger.store, shard.shard_id, part_bytes(shard, failed=["a"]))
    (part,) = list_parts(ledger.store)
    assert part.key == part_key(shard.shard_id)
    rows = read_part(ledger.store, part)
    assert rows["status"].to_pylist() == ["ok"]
    assert stats_of(rows) == EngineStats(1.0, 0.25, 10.0, 11.0, 1, 2.5, drafted_tokens=8, foretold_tokens=6)


def test_rows_that_are_doubled_are_never_put(tmp_path: Path) -> None:
    (shard,) = made_run(tmp_path, {"a": 10.0}).shards()
    with pytest.raises(ValueError, match="1 of them distinct"):
        part_bytes(shard, rows=[row(shard.windows[0]), row(shard.windows[0])])


def test_a_part_that_is_cut_off_is_refused_with_the_next_step(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, {"a": 10.0})
    publish_all(ledger)
    (part,) = list_parts(ledger.store)
    path = tmp_path / part.key
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="delete it and run again"):
        read_part(ledger.store, part)


def test_a_part_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, {"a": 10.0})
    publish_all(ledger)
    (part,) = list_parts(ledger.store)
    table = pq.read_table(tmp_path / part.key)
    pq.write_table(table.replace_schema_metadata({b"schema_version": b"0"}), tmp_path / part.key)
    with pytest.raises(StoreError, match="schema version 0"):
        read_part(ledger.store, part)
