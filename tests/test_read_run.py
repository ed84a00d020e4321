"""`read_run`: a run's tables in pandas, Arrow and DuckDB, by snapshot, from a folder and from memory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from finished_run import said, transcript, write_run

from pipeline import read_run
from pipeline.errors import ConfigError, QuarryError, RunError, StoreError
from pipeline.store.objects import ObjectStore

FIRST = [transcript("a", [said("one"), said("two")], duration_s=5.0, extra={"topic": "war"}), transcript("b")]
SECOND = [transcript("c", [said("three")], language="en", duration_s=50.0)]


@pytest.fixture
def run(tmp_path: Path) -> str:
    write_run(str(tmp_path / "run"), [FIRST, SECOND])
    return str(tmp_path / "run")


def test_pandas_arrow_and_duckdb_agree(run: str) -> None:
    table = read_run(run)
    assert table.num_rows == 3
    assert table.pandas()["id"].tolist() == table.arrow()["id"].to_pylist() == ["a", "b", "c"]
    assert table.pandas()["extra"][0] == {"topic": "war"}
    assert table.duckdb().project("extra['topic']").fetchall() == [("war",), (None,), (None,)]
    assert [dict(row["extra"]) for row in table.arrow().to_pylist()] == [{"topic": "war"}, {}, {}]
    assert table.arrow().schema.equals(table.schema)
    assert table.duckdb().project("id").fetchall() == [("a",), ("b",), ("c",)]
    assert table.duckdb().filter("duration_s > 5").aggregate("sum(duration_s)").fetchall() == [(60.0,)]
    assert read_run(Path(run), "segments").duckdb().project("recording_id, text").fetchall() == [
        ("a", "one"),
        ("a", "two"),
        ("c", "three"),
    ]
    assert read_run(run, "failures").pandas().empty


def test_columns_and_conditions_are_pushed_down(run: str) -> None:
    table = read_run(run)
    assert table.arrow(columns=["text", "id"], where="language=en").to_pylist() == [{"text": "three", "id": "c"}]
    assert table.pandas(["id"], ["duration_s<=10", "language is null"])["id"].tolist() == ["a", "b"]
    assert table.arrow(["id"], pc.field("duration_s") < 6)["id"].to_pylist() == ["a"]
    assert table.arrow(["id"], ["extra.topic=war", "duration_s>=5"]).to_pylist() == [{"id": "a"}]
    assert table.arrow(["extra"], "extra.topic is null").num_rows == 2
    inside = [batch.to_pylist() for batch in table.batches(["id"], "extra.topic=war", rows=1)]
    assert [row["id"] for rows in inside for row in rows] == ["a"]
    found = [batch.to_pylist() for batch in table.batches(["id"], "duration_s>=5", rows=1)]
    assert [row["id"] for rows in found for row in rows] == ["a", "b", "c"]
    assert all(len(rows) <= 1 for rows in found)


def test_only_the_columns_that_are_wanted_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(1)
    rows = [transcript(str(i), text="".join(noise.choices("abcdefgh", k=5_000))) for i in range(500)]
    write_run(str(tmp_path), [rows])
    fetched: list[int] = []
    get_range = ObjectStore.get_range

    def counted(self: ObjectStore, key: str, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return get_range(self, key, start, end)

    monkeypatch.setattr(ObjectStore, "get_range", counted)
    table = read_run(tmp_path)
    (file,) = table.snapshot.files["transcripts"]
    assert table.pandas(columns=["id", "status"])["id"].nunique() == 500
    assert 0 < sum(fetched) < file["bytes"] / 2
    fetched.clear()
    assert read_run(tmp_path).arrow(where="duration_s>1000").num_rows == 0
    assert sum(fetched) < file["bytes"] / 2


def test_a_snapshot_is_read_as_it_was(run: str) -> None:
    write_run(run, [FIRST, [*SECOND, transcript("d")]], number=2)
    assert read_run(run).pandas()["id"].tolist() == ["a", "b", "c", "d"]
    assert read_run(run, snapshot=1).pandas()["id"].tolist() == ["a", "b", "c"]
    assert read_run(run, snapshot=2).snapshot.number == 2


def test_any_store_will_do(tmp_path: Path) -> None:
    uri = f"memory://{tmp_path.name}/run"
    write_run(uri, [FIRST, SECOND])
    assert read_run(uri).pandas()["id"].tolist() == ["a", "b", "c"]
    assert read_run(uri).duckdb().count("id").fetchall() == [(3,)]


def test_one_row_group_is_in_memory_however_many_there_are(tmp_path: Path) -> None:
    noise = random.Random(2)

    def peak_bytes(files: int) -> int:
        folder = str(tmp_path / str(files))
        write_run(folder, [[transcript("x", text=noise.randbytes(10_000).hex()) for _ in range(100)]] * files)
        before = pa.total_allocated_bytes()
        return max(pa.total_allocated_bytes() - before for _ in read_run(folder).batches(rows=10))

    assert peak_bytes(8) < 1.5 * peak_bytes(2)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda run: read_run(run + "/tables"), RunError, "no finished run"),
        (lambda run: read_run(run, "answers"), ConfigError, "'answers'"),
        (lambda run: read_run(run, snapshot=7), RunError, "no snapshot 7; it has 1"),
        (lambda run: read_run(run).arrow(["nme"]), ConfigError, "'nme'"),
        (lambda run: read_run(run).pandas(where="length<3"), ConfigError, "'length'"),
        (lambda run: list(read_run(run).batches(["nme"])), ConfigError, "'nme'"),
        (lambda run: read_run("nowhere://a/b"), StoreError, "nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(run: str, call: Any, kind: type[QuarryError], says: str) -> None:
    with pytest.raises(kind) as caught:
        call(run)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lost_and_damaged_files_are_said_in_a_sentence(run: str) -> None:
    (file, _) = sorted(Path(run).glob("tables/*/transcripts/*/*.parquet"))
    whole = file.read_bytes()
    file.write_bytes(b"?" * len(whole))
    with pytest.raises(StoreError, match=r"transcripts at .* cannot be read"):
        read_run(run).arrow()
    file.unlink()
    for call in (read_run(run).arrow, lambda: list(read_run(run).batches())):
        with pytest.raises(StoreError, match="There is no object"):
            call()


def test_without_duckdb_it_says_what_to_install(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(RunError, match="pip install duckdb"):
        read_run(run).duckdb()


def test_the_name_is_there_before_arrow_is_loaded() -> None:
    script = "import sys, pipeline; assert 'read_run' in pipeline.__all__; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
