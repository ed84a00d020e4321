"""The same command after the manifest has changed: new rows are added, changed or lost rows refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import fake_settings, quarry, run_folder, table


@pytest.fixture
def rows(archive: Path) -> list[dict[str, str]]:
    found = [json.loads(line) for line in (archive / "manifest.jsonl").read_text().splitlines()]
    return [{**row, "audio_filepath": str(archive / row["audio_filepath"])} for row in found if "austen" in row["id"]]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_new_rows_are_added_and_old_parts_kept(rows: list[dict[str, str]], archive: Path, tmp_path: Path) -> None:
    settings = fake_settings(
        tmp_path / "manifest.jsonl", tmp_path / "out", **{"source.roots": f"[{archive}]", "plan.shard_s": 10}
    )
    write(tmp_path / "manifest.jsonl", rows[:2])
    assert quarry("run", *settings).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in run_folder(tmp_path / "out").rglob("parts/*/*")}
    write(tmp_path / "manifest.jsonl", rows)
    grown = quarry("run", *settings)
    assert grown.returncode == 0, grown.stderr
    assert table(tmp_path / "out")["id"].to_pylist() == sorted(row["id"] for row in rows)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert quarry("verify", *settings).returncode == 0


@pytest.mark.parametrize("change", ["another file", "a row less"])
def test_changed_and_lost_rows_are_refused(
    rows: list[dict[str, str]], archive: Path, tmp_path: Path, change: str
) -> None:
    settings = fake_settings(tmp_path / "manifest.jsonl", tmp_path / "out", **{"source.roots": f"[{archive}]"})
    write(tmp_path / "manifest.jsonl", rows[:3])
    assert quarry("run", *settings).returncode == 0
    changed = (
        rows[:2] if change == "a row less" else [{**rows[0], "audio_filepath": rows[1]["audio_filepath"]}, *rows[1:3]]
    )
    write(tmp_path / "manifest.jsonl", changed)
    refused = quarry("run", *settings)
    assert refused.returncode == 2
    assert "give this run another `name`" in refused.stderr


def test_other_text_settings_are_another_run(rows: list[dict[str, str]], archive: Path, tmp_path: Path) -> None:
    settings = fake_settings(
        write(tmp_path / "manifest.jsonl", rows[:1]), tmp_path / "out", **{"source.roots": f"[{archive}]"}
    )
    assert quarry("run", *settings).returncode == 0
    assert quarry("run", *settings, "chunk.max_s=3").returncode == 0
    assert quarry("run", *settings, "batch.max_audio_s=5").returncode == 0
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_dir()]) == 2
