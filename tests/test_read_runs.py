"""`read_runs`: the partitions of a backfill as one table."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished_run import said, transcript, write_run

from pipeline import read_runs
from pipeline.backfill.book import NEW, Book, Record
from pipeline.config import StoreConfig
from pipeline.errors import ConfigError, QuarryError, RunError
from pipeline.store.objects import ObjectStore

FINGERPRINT = "0123456789ab"
DAYS = {"2026-11-18": ["a", "b"], "2026-11-19": ["c"], "2026-11-20": []}


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Three days, of which the last has a run without a snapshot."""
    book = Book(ObjectStore(f"{tmp_path}/backfill/calls-{FINGERPRINT}", StoreConfig()))
    for day, ids in DAYS.items():
        book.note(day, Record(1, "d1", 0, 0), {})
        if ids:
            rows = [transcript(one, [said(f"said {one}")]) for one in ids]
            write_run(f"{tmp_path}/calls-{day}-{FINGERPRINT}", [rows])
    return str(tmp_path)


def test_all_partitions_are_one_table(output: str) -> None:
    runs = read_runs(output)
    assert runs.num_rows == 3
    assert runs.schema.names[:2] == ["partition", "id"]
    assert runs.arrow(["partition", "id"]).to_pylist() == [
        {"partition": day, "id": one} for day, ids in DAYS.items() for one in ids
    ]
    assert runs.pandas(where="partition=2026-11-19")["id"].tolist() == ["c"]
    hours = runs.duckdb().aggregate("partition, sum(duration_s)", "partition").order("partition").fetchall()
    assert hours == [("2026-11-18", 20.0), ("2026-11-19", 10.0)]
    assert runs.duckdb().filter("partition > '2026-11-18'").project("id").fetchall() == [("c",)]
    assert [(name, batch.num_rows) for name, batch in runs.batches(["id"])] == [("2026-11-18", 2), ("2026-11-19", 1)]
    texts = read_runs(output, "segments").arrow(["partition", "text"], "text=said c")
    assert texts.to_pylist() == [{"partition": "2026-11-19", "text": "said c"}]


def test_a_condition_on_the_partition_opens_no_other(output: str) -> None:
    runs = read_runs(output)
    for path in Path(output, f"calls-2026-11-18-{FINGERPRINT}").glob("tables/*/transcripts/*/*.parquet"):
        path.unlink()
    assert runs.arrow(["id"], "partition=2026-11-19")["id"].to_pylist() == ["c"]


def test_the_latest_snapshot_of_each_is_read(output: str) -> None:
    write_run(f"{output}/calls-2026-11-19-{FINGERPRINT}", [[transcript("c"), transcript("d")]], number=2)
    assert read_runs(output).num_rows == 4


def test_of_several_backfills_one_must_be_named(output: str) -> None:
    Book(ObjectStore(f"{output}/backfill/other-{FINGERPRINT}", StoreConfig())).note("x", NEW, {})
    with pytest.raises(RunError, match="several backfills"):
        read_runs(output)
    assert read_runs(output, backfill=f"calls-{FINGERPRINT}").num_rows == 3
    with pytest.raises(RunError, match="is finished"):
        read_runs(output, backfill=f"other-{FINGERPRINT}")


def test_slips_are_told(output: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no backfill"):
        read_runs(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="'nme'"):
        read_runs(output).arrow(["nme"])
    with pytest.raises(ConfigError, match="'answers'"):
        read_runs(output, "answers")
    with pytest.raises(QuarryError, match="'length'"):
        read_runs(output).arrow(where="length<3")
