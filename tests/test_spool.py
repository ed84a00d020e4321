"""Planning outside of memory: the same bytes as in memory, however the rows come and however little room there is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import CONFIG, ROWS, row, table

from pipeline import plan, spool
from pipeline.errors import RunError
from pipeline.plan import ROWS_SCHEMA, plan_blocks, plan_rows, plan_table
from pipeline.spool import PlanSorter, RowFile, WorkingFiles
from pipeline.store import plan_file
from pipeline.store.plan_file import PlanFile, write_plan_file

# Lengths that come often: ties are put in order by id, over the borders of pieces and runs.
EQUAL = st.lists(st.sampled_from([None, 5.0, 10.0, 90.0]), max_size=60)
TIED = EQUAL.map(lambda found: [row(f"é{i * 7 % 60}-{i}", d, reference_text="x" * i) for i, d in enumerate(found)])

# Rows in Parquet, which stay together.
INSIDE = st.lists(st.integers(0, 30), max_size=40, unique=True).map(
    lambda found: [
        row(f"p{n * 11 % 31}", n % 4 + 1.0, uri=f"s3://b/x.parquet#group={n % 3}&row={n}&column=a") for n in found
    ]
)


def spooled(rows: list[dict[str, Any]], pieces: int, first_index: int = 0) -> PlanFile:
    files = WorkingFiles()
    sorter = PlanSorter(files.new())
    for start in range(0, len(rows), pieces):
        sorter.add(plan_rows(table(rows[start : start + pieces]), CONFIG))
    assert sorter.rows == len(rows)
    return write_plan_file(plan_blocks(sorter.ordered(), CONFIG, first_index), files)


@given(ROWS | TIED | INSIDE, st.randoms(use_true_random=False), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_a_plan_has_the_same_bytes_however_it_was_put_together(
    rows: list[dict[str, Any]], random: Any, few: int, size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_file, "_WINDOWS_PER_ROW_GROUP", 5)
        whole = write_plan_file([plan_table(table(rows), CONFIG, 3)])
        random.shuffle(rows)
        patch.setattr(plan, "_BLOCK_WINDOWS", size)
        for name, value in {"_RUN_BYTES": 400 * few, "_PIECE_ROWS": few, "_PIECES_AT_ONCE": 1}.items():
            patch.setattr(spool, name, value)
        found = spooled(rows, size, 3)
    assert found.sha256 == whole.sha256
    assert found.path.read_bytes() == whole.path.read_bytes()
    assert found.totals == whole.totals
    assert found.entries_at("plan/k.parquet").equals(whole.entries_at("plan/k.parquet"))


def test_rows_come_back_from_disk_as_they_were_put(tmp_path: Path) -> None:
    rows = plan_rows(table([row(f"r{i}", float(i % 4), keywords=["a", "b"][: i % 3]) for i in range(20)]), CONFIG)
    file = RowFile(tmp_path / "rows", ROWS_SCHEMA)
    assert list(file) == []
    file.add(rows.slice(0, 7), 3)
    file.add(rows.slice(7))
    assert (file.rows, file.pieces) == (20, 4)
    assert pa.concat_tables(file).equals(rows)


def test_working_files_go_with_the_last_reference() -> None:
    made = spooled([row("r", 10.0)], 1)
    path = made.path
    assert path.is_file()
    del made
    assert not path.exists()


def test_a_driver_that_is_killed_leaves_nothing_on_the_local_disk(tmp_path: Path) -> None:
    """Killed when the plan is put together and not yet in the store: the sorted rows and the plan are on the disk."""
    (tmp_path / "local").mkdir()
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps({"audio": f"{n}.wav", "duration": 9}) + "\n" for n in range(2_000)))
    settings = [f"manifest={manifest}", f"output={tmp_path}/out", "engine.name=fake", "engine.model=fake"]
    command = [sys.executable, "-c", _KILLED, *settings, "engine.language=en"]
    done = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(tmp_path / "local")}, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert int(done.stdout) > 10_000, "it was there"
    assert list((tmp_path / "local").iterdir()) == []


def test_a_local_disk_that_takes_nothing_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"put together on the local disk, and .* does not take it .*TMPDIR\.$"):
        WorkingFiles().new()


_KILLED = """
import os, signal, sys
from pipeline import spool
from pipeline.config.file import load_config
from pipeline.prepare import prepare
spool._RUN_BYTES = 2**16
run = prepare(load_config(None, sys.argv[1:]))
print(sum(os.fstat(file.fileno()).st_size for file in run.new_windows.files._files), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

_CHILD = """
import sys
from pathlib import Path
from pipeline import spool
from pipeline.config.file import load_config
from pipeline.prepare import prepare, write_plan
spool._RUN_BYTES = int(sys.argv[1])
totals = write_plan(prepare(load_config(None, sys.argv[2:]))).totals
peak_kb = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(totals.recordings, peak_kb)
"""


def peak_mb(folder: Path, count: int, run_bytes: int) -> float:
    """The peak memory of a process that plans so many rows of about 800 bytes."""
    folder.mkdir()
    with (folder / "m.jsonl").open("w") as manifest:
        for number in range(count):
            line = {"id": f"r{number * 7919 % 1_000_003}", "audio": f"a/{number}.flac", "text": "heard " * 120}
            manifest.write(json.dumps({**line, "duration": 1 + number % 997 / 50}) + "\n")
    engine = ["engine.name=fake", "engine.model=fake", "engine.language=en"]
    command = [sys.executable, "-c", _CHILD, str(run_bytes), f"manifest={folder}/m.jsonl", f"output={folder}/out"]
    done = subprocess.run([*command, *engine], capture_output=True, text=True, check=True)
    recordings, kb = done.stdout.split()
    assert int(recordings) == count
    return int(kb) / 1024


def test_the_memory_of_planning_hardly_grows_with_the_manifest(tmp_path: Path) -> None:
    small, large = (peak_mb(tmp_path / str(count), count, 2 * 2**20) for count in (30_000, 100_000))
    # 70,000 rows more are 56 MB of text; a table of them that is sorted takes 260 MB more.
    assert large - small < 90


@pytest.mark.slow
def test_a_million_rows_are_planned_in_little_memory(tmp_path: Path) -> None:
    assert peak_mb(tmp_path / "million", 1_000_000, spool._RUN_BYTES) < 800
