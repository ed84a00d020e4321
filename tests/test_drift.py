"""A manifest that is read again: what is new is planned alone, and what is otherwise or gone is seen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import CHANGES, CONFIG, ROWS, row, table

from pipeline.drift import PlannedRows
from pipeline.plan import plan_table, totals


def planned(windows: pa.Table) -> PlannedRows:
    return PlannedRows([windows.slice(0, 3), windows.slice(3)], totals(windows).recordings)


def changed_ids(rows: list[dict[str, Any]], windows: pa.Table) -> list[str]:
    _, changed = planned(windows).new(table(rows))
    found: list[str] = changed.to_pylist()
    return found


@given(ROWS, st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_a_grown_manifest_adds_a_plan_part_with_the_new_rows(rows: list[dict[str, Any]], known: int) -> None:
    old = plan_table(table(rows[:known]), CONFIG)
    seen = planned(old)
    tables = [seen.new(table(rows[start : start + 7])) for start in range(0, len(rows), 7)]
    added = pa.concat_tables([table([]), *(new for new, _ in tables)])
    assert added["id"].to_pylist() == [one["id"] for one in rows[known:]]
    assert not any(len(changed) for _, changed in tables)
    assert seen.missing == 0
    new = plan_table(added, CONFIG, first_index=totals(old).shards)
    both = Counter(
        zip(*(old[name].to_pylist() + new[name].to_pylist() for name in ("id", "window_index")), strict=True)
    )
    whole = plan_table(table(rows), CONFIG)
    assert both == Counter(zip(whole["id"].to_pylist(), whole["window_index"].to_pylist(), strict=True))
    assert not set(old["shard_id"].to_pylist()) & set(new["shard_id"].to_pylist())


@given(ROWS, st.sets(st.integers(0, 39)))
@settings(max_examples=30, deadline=None)
def test_rows_that_are_gone_are_counted(rows: list[dict[str, Any]], gone: set[int]) -> None:
    seen = planned(plan_table(table(rows), CONFIG))
    left = [one for place, one in enumerate(rows) if place not in gone]
    assert seen.new(table(left))[0].num_rows == 0
    assert seen.missing == len(rows) - len(left)


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "id"])
def test_drift_is_seen(name: str) -> None:
    rows = [row(f"r{i}", 50.0, language="en", keywords=["a"]) for i in range(9)]
    windows = plan_table(table(rows), CONFIG)
    changed = [{**r, name: CHANGES[name]} if i in (3, 5) else r for i, r in enumerate(rows)]
    assert changed_ids([row("new", 1.0), *reversed(changed)], windows) == ["r5", "r3"]


def test_a_duration_that_comes_or_goes_is_drift() -> None:
    given_row, bare = [row("r", 10.0)], [row("r", None)]
    probed = plan_table(table(bare).append_column("probe_duration_s", pa.array([10.0])), CONFIG)
    assert changed_ids(bare, probed) == []
    assert changed_ids(given_row, probed) == ["r"]
    assert changed_ids(bare, plan_table(table(given_row), CONFIG)) == ["r"]


def test_columns_that_pass_through_may_change_and_zero_has_no_sign() -> None:
    windows = plan_table(table([row("r", 10.0, extra=[("speaker", "a")])]), CONFIG)
    assert changed_ids([row("r", 10.0, offset_s=-0.0, extra=[("speaker", "b")])], windows) == []
