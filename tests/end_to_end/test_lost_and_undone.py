"""Shards that were left for a reason, and shards that were lost without a word: the first do not hide the second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from running import fake_settings, quarry
from test_poison import archive_of

from pipeline import run as runs
from pipeline.records import Receipt, Undone

REAL = runs.receipts


@pytest.mark.parametrize(("apart", "looked_for"), [(True, 1), (False, 0)])
def test_many_shards_left_here_and_there_do_not_hide_a_lost_one(
    apart: bool, looked_for: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of 22 are left. One after the other that is a store that is gone, and the pass ends; here and there it is not."""
    careful_passes: list[int] = []

    def receipts(run: Any, todo: pa.Table, careful: bool = False) -> Iterator[Receipt | Undone]:
        if careful:
            careful_passes.append(todo.num_rows)
            yield from REAL(run, todo, careful)
            return
        left = range(0, 20, 2) if apart else range(10)
        shard_ids = todo["shard_id"].to_pylist()[:-1]  # of the last one nothing is heard
        heard = REAL(run, todo.take([row for row in range(len(shard_ids)) if row not in left]))
        for row, shard_id in enumerate(shard_ids):
            yield Undone(shard_id, "decode", "The store broke off.") if row in left else next(heard)

    monkeypatch.setattr(runs, "receipts", receipts)
    manifest = archive_of(tmp_path / "archive", 22, set())
    settings = fake_settings(manifest, tmp_path / "out", **{"chunk.vad": "none", "plan.shard_s": 1})
    assert quarry("run", *settings).returncode == 3
    assert careful_passes == [1] * looked_for
