"""Retries in the ledger and in finalize: only finished ones count, in order, and the tables' name covers them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_runs import CONFIG, IDENTITY, PLAN, made_run, part_bytes, publish_all, row

from pipeline.errors import StoreError
from pipeline.plan import plan_table
from pipeline.records import EngineStats, RunIdentity, Segment, Shard, Transcript
from pipeline.schema import SCHEMA_VERSION, transcripts_table
from pipeline.source.rows import MANIFEST_SCHEMA
from pipeline.store.ledger import Ledger
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import encode_part, part_key, publish_part
from pipeline.store.plan_file import write_plan_file
from pipeline.store.retries import RETRIES, finished_retries, has_any, list_retries, retry_ledger
from pipeline.store.snapshot import Snapshot, finalize
from pipeline.store.verify import verify

RECORDINGS = {"long": 200.0, **{f"short-{n}": 10.0 + n for n in range(4)}}
SECOND = RunIdentity("made-0", "f", "other", "model", "2")


def flagged(shard: Shard) -> list[Transcript]:
    """What the shard's windows give: every text is doubtful."""
    rows = [row(window) for window in shard.windows]
    return [replace(one, segments=tuple(replace(s, flags=("token_budget_hit",)) for s in one.segments)) for one in rows]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = made_run(tmp_path, RECORDINGS)
    for shard in ledger.shards():
        publish_part(ledger.store, shard.shard_id, part_bytes(shard, rows=flagged(shard)))
    return ledger


def add_retry(
    ledger: Ledger, retry_id: str, said: dict[str, tuple[str, ...]], publish: bool = True, whole: bool = False
) -> Ledger:
    """A retry that heard recordings again from end to end and gave each a text, with flags if there are any.

    `whole`: as it does where nothing of them had been decoded.
    """
    ends_s = {name: RECORDINGS[name] for name in said}
    places = [[("recording", name), ("start_s", "0.0"), ("end_s", repr(end_s))] for name, end_s in ends_s.items()]
    places = [place[:2] for place in places] if whole else places
    rows = [
        {"id": f"{name}#0", "uri": f"/a/{name}", "offset_s": 0.0, "duration_s": end_s, "keywords": [], "extra": place}
        for (name, end_s), place in zip(ends_s.items(), places, strict=True)
    ]
    plan = plan_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), PLAN)
    header: dict[str, Any] = dict.fromkeys(["manifest", "manifest_digest", "fingerprint", "model_revision"], "x")
    config = {"engine": {"name": "other", "model": "model"}, "guard": {"min_coverage": 0.0, "min_gain": 0.05}}
    header |= {"schema_version": SCHEMA_VERSION, "config": config}
    retry = retry_ledger(ledger.store, retry_id)
    retry.add_plan_part(0, write_plan_file([plan]), header)
    for shard in retry.shards() if publish else ():
        made = []
        for window in shard.windows:
            text, *flags = said[window.recording.id.partition("#")[0]]
            segment = Segment(0, window.start_s, window.end_s, text, flags=tuple(flags))
            made.append(replace(row(window), text=text, segments=(segment,), extra=window.recording.extra))
        data = encode_part(transcripts_table(made, SECOND, shard.shard_id), EngineStats(2.0, 0, shard.audio_s))
        publish_part(retry.store, shard.shard_id, data)
    return retry


def read(folder: Path, snapshot: Snapshot, name: str = "transcripts") -> dict[str, dict[str, Any]]:
    found = pa.concat_tables([pq.read_table(folder / str(file["key"])) for file in snapshot.files[name]]).to_pylist()
    return {one["id" if name == "transcripts" else "recording_id"]: one for one in found}


def test_a_finished_retry_is_merged_and_nothing_else_changes(ledger: Ledger, tmp_path: Path) -> None:
    first = finalize(ledger, CONFIG, IDENTITY)
    assert "retries" not in first.files
    add_retry(ledger, "00001-aa", {"short-1": ("better",), "long": ("all anew",)})
    second = finalize(ledger, CONFIG, IDENTITY)
    assert second.number == 2
    before, now = read(tmp_path, first), read(tmp_path, second)
    assert now["short-1"]["text"] == "better"
    assert now["long"]["text"] == " ".join(["all anew"] * 4)  # four windows of one stretch, joined
    for name in ("short-0", "short-2", "short-3"):
        assert now[name] == before[name]
    assert (now["long"]["engine"], now["long"]["shard_id"]) == ("fake", before["long"]["shard_id"])
    tried = read(tmp_path, second, "retries")
    assert {one["choice"] for one in tried.values()} == {"second"}
    assert tried["long"]["first_text"] == before["long"]["text"]
    assert (tried["long"]["engine"], tried["long"]["retry_id"]) == ("other", "00001-aa")
    (summary,) = second.run["retries"]
    assert (summary["stretches"], summary["replaced"], summary["reasons"]) == (2, 2, {"lighter": 2})
    assert summary["audio_s"] == pytest.approx(211.0)
    assert finalize(ledger, CONFIG, IDENTITY) == second


def test_one_that_is_not_finished_is_as_if_it_were_not(ledger: Ledger) -> None:
    first = finalize(ledger, CONFIG, IDENTITY)
    add_retry(ledger, "00001-aa", {"short-1": ("better",)}, publish=False)
    assert [retry.id for retry in list_retries(ledger.store)] == ["00001-aa"]
    assert finished_retries(ledger.store) == []
    assert finalize(ledger, CONFIG, IDENTITY) == first
    assert verify(ledger).complete


def test_retries_are_merged_in_the_order_of_their_snapshots(ledger: Ledger, tmp_path: Path) -> None:
    """The later one finds what the earlier left: it mends what is still doubtful, and leaves what is not."""
    add_retry(ledger, "00002-aa", {"short-1": ("second",), "short-2": ("second",)})
    add_retry(ledger, "00001-bb", {"short-1": ("first",), "short-2": ("first", "low_confidence")})
    snapshot = finalize(ledger, CONFIG, IDENTITY)
    now = read(tmp_path, snapshot)
    assert (now["short-1"]["text"], now["short-2"]["text"]) == ("first", "second")
    reasons = [retry["reasons"] for retry in snapshot.run["retries"]]
    assert reasons == [{"lighter": 2}, {"first_unflagged": 1, "lighter": 1}]


def test_totals_and_failures_are_those_of_the_mended_rows(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, RECORDINGS)
    publish_all(ledger, failed=["short-3"])
    assert finalize(ledger, CONFIG, IDENTITY).failed == 1
    add_retry(ledger, "00001-aa", {"short-3": ("there now",)}, whole=True)
    snapshot = finalize(ledger, CONFIG, IDENTITY)
    assert (snapshot.failed, snapshot.run["totals"]["ok"], snapshot.run["totals"]["recordings"]) == (0, 5, 5)
    assert snapshot.run["totals"]["audio_s"] == pytest.approx(sum(RECORDINGS.values()))
    assert read(tmp_path, snapshot, "failures") == {}
    assert read(tmp_path, snapshot, "segments")["short-3"]["flags"] == ["retried"]
    assert read(tmp_path, snapshot, "retries")["short-3"]["reason"] == "recovered"


@pytest.mark.parametrize("harm", ["cut off", "of other rows"])
def test_a_damaged_part_of_a_retry_is_found_and_said(ledger: Ledger, harm: str) -> None:
    retry = add_retry(ledger, "00001-aa", {"short-1": ("better",)})
    (shard,) = retry.shards()
    path = Path(retry.store.uri) / part_key(shard.shard_id)
    if harm == "cut off":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.write_bytes(part_bytes(next(ledger.shards())))
    with pytest.raises(StoreError, match="retry 00001-aa"):
        finalize(ledger, CONFIG, IDENTITY)
    assert verify(ledger).complete
    assert verify(retry).wrong == 1


def test_a_folder_of_a_store_is_a_store(store: ObjectStore) -> None:
    below = store.below("retries/00001-aa")
    assert below.put_if_absent("parts/a", b"x")
    assert [info.key for info in store.list("retries/")] == ["retries/00001-aa/parts/a"]
    assert below.get("parts/a") == b"x"
    with pytest.raises(ValueError, match="key"):
        store.below("../other")


def test_lists_are_searched_in_whole_tables_and_in_slices() -> None:
    lists = pa.chunked_array([[["a", "b"], [], None], [["c"], ["b"]]], pa.list_(pa.string()))
    assert has_any(lists, ["b", "x"]).to_pylist() == [True, False, False, False, True]
    assert has_any(lists.slice(1), ["c"]).to_pylist() == [False, False, True, False]
    assert has_any(lists, []).to_pylist() == [False] * 5
    assert all(field.metadata for field in RETRIES)
