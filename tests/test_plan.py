"""The plan: the same for the same rows, every second once, shards within their bounds, ids that stand for their content."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import plan
from pipeline.config import PlanConfig
from pipeline.plan import (
    PLAN_SCHEMA,
    in_plan_order,
    plan_blocks,
    plan_rows,
    plan_table,
    shards_of,
    totals,
)
from pipeline.records import SPLIT, Shard
from pipeline.source.manifest import MANIFEST_SCHEMA

CONFIG = PlanConfig(shard_s=100.0, window_s=40.0, max_windows_per_shard=7)
ROW: dict[str, Any] = {"id": "r", "uri": "s3://b/r.wav", "offset_s": 0.0}

DURATIONS = st.none() | st.sampled_from([0.5, 40.0, 40.000001, 100.0]) | st.floats(0.001, 500.0)
ROWS = st.lists(DURATIONS, max_size=40).map(lambda found: [row(f"r{i}", d) for i, d in enumerate(found)])


def row(id_: str, duration_s: float | None, **other: Any) -> dict[str, Any]:
    return {**ROW, "id": id_, "uri": f"s3://b/{id_}.wav", "duration_s": duration_s, **other}


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=MANIFEST_SCHEMA)


def planned(rows: Sequence[dict[str, Any]], config: PlanConfig = CONFIG, **more: Any) -> list[Shard]:
    return list(shards_of(plan_table(table(rows), config, **more)))


@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_the_order_of_rows_and_their_chunks_have_no_say(rows: list[dict[str, Any]], random: Any, pieces: int) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    chunked = pa.concat_tables([table(shuffled[i::pieces]) for i in range(pieces)])
    assert plan_table(chunked, CONFIG).combine_chunks().equals(plan_table(table(rows), CONFIG).combine_chunks())


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_every_second_of_every_recording_is_in_one_window(rows: list[dict[str, Any]]) -> None:
    found: dict[str, list[tuple[int, float, float, int]]] = {r["id"]: [] for r in rows}
    for shard in planned(rows):
        for window in shard.windows:
            found[window.recording.id].append((window.index, window.start_s, window.end_s, window.count))
    for given_row in rows:
        duration_s = given_row["duration_s"] or 0.0
        windows = sorted(found[given_row["id"]])
        count = max(1, math.ceil(duration_s / CONFIG.window_s))
        assert [index for index, *_ in windows] == list(range(count))
        assert {n for *_, n in windows} == {count}
        assert windows[0][1] == 0.0
        assert windows[-1][2] == duration_s
        for (_, _, end_s, _), (_, start_s, _, _) in pairwise(windows):
            assert end_s == start_s
        lengths = [end_s - start_s for _, start_s, end_s, _ in windows]
        assert max(lengths) - min(lengths) < 1e-9
        assert max(lengths) <= CONFIG.window_s + 1e-9


@given(ROWS, st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_shards_keep_their_bounds_and_order(rows: list[dict[str, Any]], first_index: int) -> None:
    shards = planned(rows, first_index=first_index)
    assert [shard.index for shard in shards] == list(range(first_index, first_index + len(shards)))
    assert len({shard.shard_id for shard in shards}) == len(shards)
    lengths = []
    for shard in shards:
        assert shard.shard_id.startswith(f"{shard.index:05d}-")
        assert 1 <= len(shard.windows) <= CONFIG.max_windows_per_shard
        assert shard.audio_s == pytest.approx(sum(window.end_s - window.start_s for window in shard.windows))
        assert shard.audio_s <= CONFIG.shard_s + 1e-9 or len(shard.windows) == 1
        lengths += [window.end_s - window.start_s for window in shard.windows]
    assert all(a >= b - 1e-9 for a, b in pairwise(lengths))


@given(ROWS, st.lists(st.sampled_from([None, 1, 2, 5, 8, 200]), min_size=40, max_size=40), st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_channel_of_a_split_recording_counts_in_its_shard(
    rows: list[dict[str, Any]], channels: list[int | None], is_probed: bool
) -> None:
    asked = table([{**each, "channel": SPLIT if number % 3 else None} for number, each in enumerate(rows)])
    if is_probed:
        asked = asked.append_column("probe_channels", pa.array(channels[: len(rows)], pa.int32()))
    kept_apart = {
        each["id"]: (min(channels[number] or 2, 8) if is_probed else 2) if number % 3 else 1
        for number, each in enumerate(rows)
    }
    config = CONFIG.model_copy(update={"overlap_s": 1.0})
    windows = plan_table(asked, config)
    assert {one["id"]: one["split_channels"] for one in windows.to_pylist()} == kept_apart
    more_s = 0.0
    for shard in shards_of(windows):
        lengths_s = [(one.end_s - one.start_s, kept_apart[one.recording.id]) for one in shard.windows]
        more_s += sum(length_s * (count - 1) for length_s, count in lengths_s)
        held_s = [(length_s or 60.0) * count for length_s, count in lengths_s]
        assert sum(held_s) <= config.shard_s + 1e-6 or len(held_s) == 1
        assert max(length_s * count for length_s, count in lengths_s) <= config.window_s + 1e-6
    assert totals(windows).more_channels_s == pytest.approx(more_s)


def test_windows_of_split_recordings_are_not_shorter_than_their_seams_need() -> None:
    asked = table([row("r", 40.0, channel=SPLIT)]).append_column("probe_channels", pa.array([8], pa.int32()))
    config = CONFIG.model_copy(update={"overlap_s": 10.0})
    assert plan_table(asked, config)["end_s"].to_pylist() == [20.0, 40.0]


@given(ROWS)
@settings(max_examples=50, deadline=None)
def test_windows_of_a_recording_stay_together(rows: list[dict[str, Any]]) -> None:
    order = [window.recording.id for shard in planned(rows) for window in shard.windows]
    runs = [id_ for place, id_ in enumerate(order) if place == 0 or order[place - 1] != id_]
    assert len(runs) == len(set(runs))


@given(ROWS, st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_blocks_are_whole_shards_and_change_nothing(rows: list[dict[str, Any]], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_BLOCK_WINDOWS", size)
        blocks = list(plan_blocks([in_plan_order(plan_rows(table(rows), CONFIG))], CONFIG))
    assert all(block.schema.equals(PLAN_SCHEMA) for block in blocks)
    shards = [shard.shard_id for block in blocks for shard in shards_of(block)]
    assert shards == [shard.shard_id for shard in planned(rows)]


def test_records_carry_what_the_row_said() -> None:
    given_row = row("x", 90.0, offset_s=2.5, language="de", keywords=["Quarz", "Ton"], reference_text="Ja.", channel=1)
    named = {"extra": [("speaker", "s1")], "speakers": '{"Speaker 1": "Anna"}'}
    (shard, *others) = planned([{**given_row, **named}])
    recording = shard.windows[0].recording
    assert (recording.id, recording.uri, recording.offset_s, recording.duration_s) == ("x", "s3://b/x.wav", 2.5, 90.0)
    assert (recording.language, recording.keywords, recording.reference_text) == ("de", ("Quarz", "Ton"), "Ja.")
    assert (recording.channel, recording.extra) == (1, {"speaker": "s1"})
    assert recording.speakers == {"Speaker 1": "Anna"}
    assert [(w.index, w.count, w.start_s, w.end_s) for s in (shard, *others) for w in s.windows] == [
        (0, 3, 0.0, 30.0),
        (1, 3, 30.0, 60.0),
        (2, 3, 60.0, 90.0),
    ]


def test_probed_durations_leave_the_end_open() -> None:
    rows = table([row("given", 10.0), row("probed", None), row("unreadable", None)])
    for name, kind, values in [
        ("probe_duration_s", pa.float64(), [None, 70.0, None]),
        ("size_bytes", pa.int64(), [None, 9_000, None]),
        ("etag", pa.string(), [None, "e", None]),
    ]:
        rows = rows.append_column(name, pa.array(values, kind))
    windows = plan_table(rows, CONFIG)
    found = {
        window.recording.id: (
            window.recording.duration_s,
            window.open_end,
            window.size_bytes,
            window.etag,
            window.count,
        )
        for shard in shards_of(windows)
        for window in shard.windows
    }
    assert found == {
        "given": (10.0, False, None, None, 1),
        "probed": (70.0, True, 9_000, "e", 2),
        "unreadable": (None, True, None, None, 1),
    }
    sums = totals(windows)
    assert (sums.recordings, sums.windows, sums.shards, sums.audio_s, sums.unknown) == (3, 4, 2, 80.0, 1)


def test_rows_of_unknown_length_are_not_heaped_into_one_shard() -> None:
    shards = planned([row(f"r{i}", None) for i in range(90)], PlanConfig(shard_s=1800, max_windows_per_shard=2000))
    assert [len(shard.windows) for shard in shards] == [30, 30, 30]


def test_a_lying_duration_cannot_blow_up_the_plan() -> None:
    shards = planned([row("liar", 1e15), row("day", 86_400.0)], PlanConfig())
    assert [len(shard.windows) for shard in shards] == [1] * 49
    assert shards[0].windows[0].end_s == 1e15


CHANGES: dict[str, Any] = {
    "id": "other",
    "uri": "s3://b/other.wav",
    "offset_s": 1.0,
    "duration_s": 11.0,
    "language": "de",
    "keywords": ["b"],
    "reference_text": "",
    "channel": 0,
    "speakers": '{"Speaker 1": "Ben"}',
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_shard_id_stands_for_everything_that_its_rows_depend_on(name: str) -> None:
    before = row("r", 10.0, language="en", keywords=["a"])
    before["speakers"] = '{"Speaker 1": "Anna"}'
    (one,), (other,) = planned([before]), planned([{**before, name: CHANGES[name]}])
    assert one.index == other.index
    assert one.shard_id != other.shard_id


@pytest.mark.parametrize("name", ["size_bytes", "etag"])
def test_a_shard_id_stands_for_the_version_of_the_object(name: str) -> None:
    rows = table([row("r", None)]).append_column("probe_duration_s", pa.array([10.0]))
    values = {"size_bytes": ([1], [2]), "etag": (["a"], ["b"])}[name]
    ids = {plan_table(rows.append_column(name, pa.array(value)), CONFIG)["shard_id"][0].as_py() for value in values}
    assert len(ids) == 2


def test_shards_of_some_shards() -> None:
    windows = plan_table(table([row(f"r{i:02d}", 30.0 + i) for i in range(30)]), CONFIG)
    wanted = windows["shard_id"].unique().to_pylist()[1::2]
    chosen = windows.filter(pa.compute.is_in(windows["shard_id"], pa.array(wanted)))
    every = {shard.shard_id: shard for shard in shards_of(windows)}
    assert list(shards_of(chosen)) == [every[shard_id] for shard_id in wanted]


def test_no_rows_no_plan() -> None:
    windows = plan_table(table([]), CONFIG)
    assert windows.schema.equals(PLAN_SCHEMA)
    assert (windows.num_rows, list(shards_of(windows)), totals(windows).shards) == (0, [], 0)


def test_a_shard_of_utterances_wastes_little_when_padded() -> None:
    """Padded to its longest, a shard of a skewed archive computes hardly more than its audio."""
    durations = np.random.default_rng(7).lognormal(1.7, 0.8, 20_000)
    shards = planned([row(f"r{i}", float(d)) for i, d in enumerate(durations)], PlanConfig())
    padded_s = sum(len(s.windows) * max(w.end_s - w.start_s for w in s.windows) for s in shards)
    audio_s = sum(shard.audio_s for shard in shards)
    assert padded_s / audio_s < 1.08
    assert audio_s / (len(shards) * 1800.0) > 0.97


def large(count: int) -> pa.Table:
    random = np.random.default_rng(1)
    ids = pa.array(random.permutation(count)).cast(pa.string())
    columns = {"id": ids, "uri": ids, "offset_s": pa.array(np.zeros(count))}
    columns["duration_s"] = pa.array(random.lognormal(1.7, 0.8, count))
    filled = [columns.get(field.name, pa.nulls(count, field.type)) for field in MANIFEST_SCHEMA]
    return pa.table(filled, schema=MANIFEST_SCHEMA)


@pytest.mark.parametrize("count", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_planning_takes_microseconds_per_row(count: int) -> None:
    rows = large(count)
    begin = time.process_time()
    windows = plan_table(rows, PlanConfig())
    assert (time.process_time() - begin) / count < 10e-6
    assert totals(windows).recordings == count


def test_rows_of_a_row_group_stay_together_in_their_order() -> None:
    """A worker reads a Parquet row group forward, once; whatever the lengths, and whatever the ids are."""
    places = [(group, n) for group in (0, 2, 10) for n in range(12)]
    inside = [
        row(f"{n * 7 % 12}-{group}", 1.0 + n * 5 % 12, uri=f"s3://b/x.parquet#group={group}&row={n}&column=audio")
        for group, n in places
    ]
    outside = [row(f"file{n}", float(n)) for n in range(1, 9)]
    shards = planned([*inside[::-1], *outside])
    order = [window.recording.uri for shard in shards for window in shard.windows]
    assert order[:8] == [f"s3://b/file{n}.wav" for n in range(8, 0, -1)]
    found = [tuple(int(number) for number in re.findall(r"=(\d+)", uri)) for uri in order[8:]]
    assert [[n for group, n in found if group == wanted] for wanted in (0, 2, 10)] == [list(range(12))] * 3
    assert [group for group, _ in groupby(found, itemgetter(0))] == [0, 10, 2]
