"""Finalize and verify: whole recordings out of windows, nothing lost, nothing doubled, nothing done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_runs import CONFIG, IDENTITY, add_plan, made_run, part_bytes, publish_all, row

from pipeline.errors import StoreError
from pipeline.store.ledger import Ledger
from pipeline.store.parts import part_key
from pipeline.store.snapshot import Snapshot, finalize, latest_snapshot
from pipeline.store.verify import verify

RECORDINGS = {"long": 200.0, **{f"short-{n}": 10.0 + n for n in range(8)}}


def read(folder: Path, snapshot: Snapshot, name: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(folder / str(file["key"])) for file in snapshot.files[name]])


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return made_run(tmp_path, RECORDINGS)


def test_windows_become_one_recording(ledger: Ledger, tmp_path: Path) -> None:
    publish_all(ledger)
    snapshot = finalize(ledger, CONFIG, IDENTITY)
    rows = {one["id"]: one for one in read(tmp_path, snapshot, "transcripts").to_pylist()}
    assert set(rows) == set(RECORDINGS)
    assert rows["long"]["text"] == "long 0 long 1 long 2 long 3"
    assert rows["long"]["duration_s"] == pytest.approx(200.0)
    assert rows["long"]["window_count"] == 1
    segments = read(tmp_path, snapshot, "segments")
    assert segments.num_rows == 4 + 8


def test_totals_and_failures_add_up(ledger: Ledger, tmp_path: Path) -> None:
    publish_all(ledger, failed=["short-3"])
    snapshot = finalize(ledger, CONFIG, IDENTITY)
    assert snapshot.failed == 1
    assert snapshot.run["totals"]["recordings"] == 9
    assert read(tmp_path, snapshot, "failures")["recording_id"].to_pylist() == ["short-3"]
    assert json.loads((tmp_path / snapshot.tables / "run.json").read_text()) == snapshot.run
    shards = read(tmp_path, snapshot, "shards")
    assert sum(shards["wait_s"].to_pylist()) == pytest.approx(0.25 * shards.num_rows)
    assert shards["done_at"].null_count == shards.num_rows  # nobody noted when, so nobody says 1970


def test_parts_from_before_there_were_drafts_are_taken(ledger: Ledger, tmp_path: Path) -> None:
    """A run may be finished by a later version: what has been added since counts as nothing."""
    publish_all(ledger)
    first = next(ledger.shards())
    path = tmp_path / part_key(first.shard_id)
    rows = pq.read_table(path)
    stats = json.loads(rows.schema.metadata[b"quarry.stats"])
    assert [stats.pop(name) for name in ("draft_s", "drafted_tokens", "foretold_tokens")] == [first.audio_s / 4, 8, 6]
    plain = pa.schema([field.remove_metadata() for field in rows.schema])  # as if columns had been described otherwise
    old = rows.cast(plain).replace_schema_metadata({**rows.schema.metadata, b"quarry.stats": json.dumps(stats)})
    pq.write_table(old, path)
    snapshot = finalize(ledger, CONFIG, IDENTITY)
    shards = {one["shard_id"]: one for one in read(tmp_path, snapshot, "shards").to_pylist()}
    assert shards[first.shard_id]["draft_s"] == shards[first.shard_id]["drafted_tokens"] == 0
    expected_s = sum(shard.audio_s / 4 for shard in ledger.shards()) - first.audio_s / 4
    assert snapshot.run["totals"]["draft_s"] == sum(one["draft_s"] for one in shards.values()) == expected_s > 0
    assert snapshot.run["totals"]["drafted_tokens"] == 8 * (len(shards) - 1)
    assert snapshot.run["totals"]["foretold_tokens"] == 6 * (len(shards) - 1) > 0


def test_finalize_again_changes_nothing(ledger: Ledger, tmp_path: Path) -> None:
    publish_all(ledger)
    first = finalize(ledger, CONFIG, IDENTITY)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert finalize(ledger, CONFIG, IDENTITY) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_finalize_that_was_cut_short_is_done_again(ledger: Ledger, tmp_path: Path) -> None:
    publish_all(ledger)
    first = finalize(ledger, CONFIG, IDENTITY)
    for path in [*(tmp_path / "snapshots").iterdir(), *(tmp_path / first.tables / "stats").iterdir()]:
        path.unlink()
    assert latest_snapshot(ledger.store) is None
    assert finalize(ledger, CONFIG, IDENTITY).files == first.files


def test_a_grown_run_gets_a_second_snapshot_and_keeps_the_first(ledger: Ledger, tmp_path: Path) -> None:
    publish_all(ledger)
    first = finalize(ledger, CONFIG, IDENTITY)
    add_plan(ledger, {"new": 30.0}, first_index=ledger.entries().num_rows)
    publish_all(ledger)
    second = finalize(ledger, CONFIG, IDENTITY)
    assert (first.number, second.number) == (1, 2)
    assert read(tmp_path, second, "transcripts").num_rows == read(tmp_path, first, "transcripts").num_rows + 1


def test_verify_finds_what_is_missing_wrong_and_not_asked_for(ledger: Ledger, tmp_path: Path) -> None:
    publish_all(ledger)
    assert verify(ledger).complete
    shards = list(ledger.shards())
    missing, wrong = shards[0], shards[1]
    (tmp_path / part_key(missing.shard_id)).unlink()
    (tmp_path / part_key(wrong.shard_id)).write_bytes(part_bytes(wrong, rows=[row(missing.windows[0])]))
    orphan = tmp_path / part_key("99999-ffffffff")
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"")
    verdict = verify(ledger)
    assert not verdict.complete
    assert verdict.missing_shards == (missing.shard_id,)
    assert verdict.wrong_shards == (wrong.shard_id,)
    assert verdict.orphan_keys == (part_key("99999-ffffffff"),)


@pytest.mark.parametrize("harm", ["missing", "wrong", "cut off"])
def test_finalize_refuses_a_run_that_is_not_whole(ledger: Ledger, tmp_path: Path, harm: str) -> None:
    publish_all(ledger)
    shards = list(ledger.shards())
    path = tmp_path / part_key(shards[0].shard_id)
    if harm == "missing":
        path.unlink()
    elif harm == "wrong":
        path.write_bytes(part_bytes(shards[0], rows=[row(shards[1].windows[0])]))
    else:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match="quarry verify"):
        finalize(ledger, CONFIG, IDENTITY)
    assert latest_snapshot(ledger.store) is None
