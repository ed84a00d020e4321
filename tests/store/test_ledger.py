"""The ledger: the plan is immutable, what is left is the plan minus the parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import add_plan, made_run, part_bytes, publish_all

from pipeline.errors import StoreError
from pipeline.store import plan_file
from pipeline.store.ledger import Ledger, Session, ShardReader
from pipeline.store.parts import publish_part

RECORDINGS = {"long": 200.0, **{f"short-{n}": 10.0 + n for n in range(8)}}


def test_todo_is_the_plan_minus_the_parts(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, RECORDINGS)
    shards = list(ledger.shards())
    assert ledger.todo(ledger.entries())["shard_id"].to_pylist() == [shard.shard_id for shard in shards]
    assert sum(ledger.entries()["audio_s"].to_pylist()) == pytest.approx(sum(RECORDINGS.values()))
    publish_part(ledger.store, shards[1].shard_id, part_bytes(shards[1]))
    assert shards[1].shard_id not in ledger.todo(ledger.entries())["shard_id"].to_pylist()
    publish_all(ledger)
    assert ledger.todo(ledger.entries()).num_rows == 0


def test_a_worker_reads_any_shard_by_its_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_file, "_WINDOWS_PER_ROW_GROUP", 3)
    ledger = made_run(tmp_path, RECORDINGS)
    shards = {shard.shard_id: shard for shard in ledger.shards()}
    entries = ledger.entries().select(["shard_id", "plan_key", "row_group"]).to_pylist()
    assert len({entry["row_group"] for entry in entries}) > 1
    reader = ShardReader(ledger.store)
    for entry in reversed(entries):
        assert reader.shard(**entry) == shards[entry["shard_id"]]


def test_a_second_driver_gets_the_first_ones_plan(tmp_path: Path) -> None:
    first = made_run(tmp_path, RECORDINGS)
    (header,) = first.plan_parts()
    again = Ledger(first.store)
    assert again.plan_parts() == [header]
    assert header.totals.recordings == len(RECORDINGS)


def test_a_plan_part_that_is_added_keeps_the_old_shards(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, RECORDINGS)
    before = [shard.shard_id for shard in ledger.shards()]
    add_plan(ledger, {"new": 30.0}, first_index=len(before))
    after = list(ledger.shards())
    assert [shard.shard_id for shard in after[: len(before)]] == before
    assert [window.recording.id for window in after[-1].windows] == ["new"]
    assert sum(map(len, ledger.planned_windows())) == sum(len(shard.windows) for shard in after)


def test_a_plan_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, RECORDINGS)
    for path in (tmp_path / "plan").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="not the one that was written"):
        list(ledger.shards())
    with pytest.raises(StoreError, match="not the one that was written"):
        ledger.entries()


def test_the_list_of_shards_tells_what_the_plan_holds(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, RECORDINGS)
    shards = list(ledger.shards())
    entries = ledger.entries().to_pylist()
    assert [(entry["shard_id"], entry["windows"]) for entry in entries] == [
        (shard.shard_id, len(shard.windows)) for shard in shards
    ]
    assert [entry["audio_s"] for entry in entries] == pytest.approx([shard.audio_s for shard in shards])


def test_sessions_are_numbered_and_kept(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, RECORDINGS)
    sessions = [Session("2026-01-01", 1.0, 2.0 + n, 3.0, 1, 1, "box", {}) for n in range(3)]
    for session in sessions:
        ledger.add_session(session)
    assert ledger.sessions() == sessions


@pytest.mark.parametrize(
    "change", [{"schema_version": 1}, {"shards_key": None}, {"unheard_of": 1}, {"totals": {"x": 1}}]
)
def test_a_plan_of_another_version_is_one_sentence_with_the_next_step(
    tmp_path: Path, change: dict[str, object]
) -> None:
    ledger = made_run(tmp_path, RECORDINGS)
    header = json.loads((tmp_path / "plan" / "0000.json").read_text()) | change
    kept = {name: value for name, value in header.items() if value is not None}
    (tmp_path / "plan" / "0000.json").write_text(json.dumps(kept))
    with pytest.raises(StoreError, match=r"another version of Quarry \(schema version \d.*another `name`"):
        list(ledger.shards())
