"""`find_run`: which run is meant, and what a finished run tells of itself where little is known."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from finished_run import said, transcript

from pipeline import find_run
from pipeline.config import RunConfig
from pipeline.errors import RunError
from pipeline.finished import DEMO_OUTPUT, RUN_VARIABLE
from pipeline.metrics.summary import RunTotals
from pipeline.schema import transcripts_table


def make_run(folder: Path, manifest: str = "archive/manifest.jsonl", output: str = "demo/out") -> Path:
    """A finished run as `finalize` leaves one, with one recording."""
    from dataclasses import asdict

    from finished_run import IDENTITY, write_run

    rows = [transcript("only", [said("hello")])]
    store = write_run(str(folder), [rows])
    totals = RunTotals()
    totals.add(transcripts_table(rows, IDENTITY, "00000-00000000"))
    path = folder / "snapshots" / "00001.json"
    snapshot = json.loads(path.read_text())
    config = RunConfig(manifest=manifest, output=output).public()
    run = {**asdict(IDENTITY), "uri": store.uri, "config": config, "totals": totals.as_dict(), "sessions": []}
    path.write_text(json.dumps({**snapshot, "run": run}))
    return folder


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of notebooks in a checkout: where a kernel starts."""
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    folder = tmp_path / "checkout" / "notebooks"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_the_newest_run_of_the_demo(notebooks: Path) -> None:
    output = notebooks.parent / DEMO_OUTPUT
    for age_s, name in ((100, "old-0"), (0, "new-0"), (50, "between-0")):
        folder = make_run(output / name)
        then = time.time() - age_s
        os.utime(folder / "snapshots" / "00001.json", (then, then))
    assert find_run().store.uri == str(output / "new-0")


def test_the_environment_and_the_caller_come_first(notebooks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(notebooks.parent / DEMO_OUTPUT / "demo-0")
    mine, other = make_run(notebooks.parent / "out" / "mine-0"), make_run(notebooks.parent / "out" / "other-0")
    monkeypatch.setenv(RUN_VARIABLE, "out/mine-0")  # from the folder above, where `make notebooks` was typed
    assert find_run().store.uri == str(mine)
    assert find_run(other).store.uri == str(other)


def test_no_run_is_one_sentence(notebooks: Path) -> None:
    with pytest.raises(RunError, match="There is no run to look at: set QUARRY_RUN"):
        find_run()
    with pytest.raises(RunError, match=r"There is no finished run at .*nowhere"):
        find_run("nowhere")


def test_a_run_that_knows_little(notebooks: Path) -> None:
    """No sessions, no cost, no references, no flags: tables are empty and have their columns."""
    run = find_run(make_run(notebooks.parent / "out" / "bare-0"))
    assert "1 recording," in str(run)
    assert run.tables["transcripts"] == 1
    assert run.flags().empty
    assert list(run.sessions().columns)[:2] == ["started_at", "wall_s"]
    assert run.costs().empty
    assert run.costs().index.tolist() == ["audio_h", "engine_h", "wall_h", "usd", "usd_per_audio_h"]
    assert run.speed()["value"].isna().sum() >= 1


def test_recordings_are_found_from_where_the_run_was_begun(notebooks: Path) -> None:
    """Settings name manifest and output by relative paths; a kernel runs in a folder below."""
    run = find_run(make_run(notebooks.parent / "demo" / "out" / "made-up-0"))
    (notebooks.parent / "archive").mkdir()
    (notebooks.parent / "archive" / "manifest.jsonl").touch()
    assert Path(run._manifest()) == notebooks.parent / "archive" / "manifest.jsonl"
