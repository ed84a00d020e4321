"""Whole exports of made-up runs: files, index, names that strangers chose, doing it twice, and S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from finished_run import said, timed, transcript, write_run
from servers import S3Endpoint, connect

from pipeline.config import StoreConfig
from pipeline.errors import ConfigError, RunError
from pipeline.export import writing
from pipeline.export.names import safe_name
from pipeline.export.options import FORMATS, ExportOptions
from pipeline.export.run import Exported, export
from pipeline.store.objects import ObjectStore

STRANGE = ["../../x", "x" * 10_000, "nul\0", "\u202egpj.exe", "a/b", "a-b", "A-B", ".hidden", "_index-srt-00000", "-rf"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def index(folder: Path, form: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for path in sorted(folder.glob(f"_index-{form}-*")) for line in path.read_text().splitlines()
    ]


def exported(run: ObjectStore, form: str, **options: Any) -> Exported:
    return export(run, StoreConfig(), ExportOptions(form, **options))


@pytest.fixture
def run(tmp_path: Path) -> ObjectStore:
    failed = transcript("broken", status="failed")
    rows = [transcript("call-1", [timed("so it goes", speaker="Bo")], language="en"), failed]
    return write_run(str(tmp_path / "run"), [rows, [transcript("call-2", [said("no times")])]])


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_exported_once(run: ObjectStore, tmp_path: Path, form: str) -> None:
    before = contents(tmp_path / "run")
    first = exported(run, form)
    folder = Path(first.uri)
    assert folder.parent == tmp_path / "run" / "exports"
    assert first.recordings == 3
    assert first.left_out["failed"] == 1
    again = exported(run, form)
    assert (again.uri, again.outcomes.get("new", 0)) == (first.uri, 0)
    assert again.outcomes["same"] == first.outcomes["new"]
    after = contents(tmp_path / "run")
    assert {key: after[key] for key in before} == before
    entries = {row["id"]: row for row in index(folder, form)}
    assert entries["broken"] == {"id": "broken", "file": None, "left_out": {"failed": 1}}
    assert all((folder / row["file"]).is_file() for row in entries.values() if row["file"])
    untimed = {"ctm": {"no_word_times": 1}, "rttm": {"no_speaker": 1}}.get(form, {})
    assert entries["call-2"]["left_out"] == untimed
    assert (entries["call-2"]["file"] is None) == bool(untimed)


def test_names_that_strangers_chose_stay_in_the_folder(tmp_path: Path) -> None:
    run = write_run(str(tmp_path / "run"), [[transcript(name, [said(name)]) for name in STRANGE]])
    out = tmp_path / "deep" / "out"
    done = exported(run, "json", to=str(out))
    assert done.written == len(STRANGE)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "deep"}
    entries = index(out, "json")
    assert [row["id"] for row in entries] == STRANGE
    for row in entries:
        assert json.loads((out / row["file"]).read_text())["text"] == row["id"]
    assert len({row["file"].lower() for row in entries}) == len(STRANGE)


def test_formats_share_a_folder_but_two_exports_of_one_do_not(run: ObjectStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for form in FORMATS:
        exported(run, form, to=str(out))
    before = contents(out)
    with pytest.raises(RunError, match="another export"):
        exported(run, "srt", to=str(out), line_width=20)
    with pytest.raises(RunError, match="another export"):
        exported(run, "nemo", to=str(out), where=("language=en",))
    assert contents(out) == before


def test_a_file_of_somebody_else_is_left_and_named(run: ObjectStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "call-1.srt").write_text("mine")
    with pytest.raises(RunError, match=r"1 files .*call-1\.srt"):
        exported(run, "srt", to=str(out))
    assert (out / "call-1.srt").read_text() == "mine"
    assert "no times" in (out / "call-2.srt").read_text()


def test_an_export_that_was_cut_short_goes_on(run: ObjectStore, tmp_path: Path) -> None:
    whole = exported(run, "vtt", to=str(tmp_path / "out"))
    expected = contents(tmp_path / "out")
    (tmp_path / "out" / "call-2.vtt").unlink()
    (tmp_path / "out" / "_index-vtt-00000.jsonl").unlink()
    again = exported(run, "vtt", to=str(tmp_path / "out"))
    assert (again.outcomes["new"], again.outcomes["same"]) == (2, 1)
    assert contents(tmp_path / "out") == expected
    assert again.written == whole.written


def test_conditions_choose_rows_and_wrong_ones_write_nothing(run: ObjectStore, tmp_path: Path) -> None:
    done = exported(run, "nemo", to=str(tmp_path / "out"), where=("language=en", "duration_s>1"))
    assert (done.recordings, done.written, dict(done.left_out)) == (1, 1, {})
    with pytest.raises(ConfigError):
        exported(run, "nemo", to=str(tmp_path / "none"), where=("lang=en",))
    assert not (tmp_path / "none").exists()


def test_an_earlier_snapshot_is_exported_beside_the_latest(run: ObjectStore, tmp_path: Path) -> None:
    write_run(str(tmp_path / "run"), [[transcript("new")]], number=2)
    latest, earlier = exported(run, "nemo"), exported(run, "nemo", snapshot=1)
    assert (latest.recordings, earlier.recordings) == (1, 3)
    assert latest.uri != earlier.uri


def test_large_files_are_parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "FILE_BYTES", 1_000)
    monkeypatch.setattr("pipeline.export.run.INDEX_ROWS", 7)
    run = write_run(str(tmp_path / "run"), [[transcript(f"r{i}", [said("so " * 20)]) for i in range(40)]])
    out = tmp_path / "out"
    exported(run, "nemo", to=str(out))
    files = sorted(out.glob("nemo-*.jsonl"))
    assert len(files) > 5
    assert all(path.stat().st_size < 1_500 for path in files)
    rows = [(json.loads(line)["id"], path.name) for path in files for line in path.read_text().splitlines()]
    assert rows == [(f"r{i}", row["file"]) for i, row in enumerate(index(out, "nemo"))]
    assert len(list(out.glob("_index-nemo-*"))) == 6


def test_from_and_to_a_bucket(s3_endpoint: S3Endpoint, tmp_path: Path) -> None:
    filesystem = connect(s3_endpoint)
    filesystem.mkdirs("quarry-export", exist_ok=True)
    config = StoreConfig(storage_options=s3_endpoint.storage_options())
    rows = [transcript(name, [said(name)]) for name in STRANGE]
    run = write_run("s3://quarry-export/run", [rows], options=s3_endpoint.storage_options())
    first = export(run, config, ExportOptions("srt", to="s3://quarry-export/out"))
    assert first.outcomes == {"new": len(STRANGE) + 1}
    again = export(run, config, ExportOptions("srt", to="s3://quarry-export/out"))
    assert again.outcomes == {"same": len(STRANGE) + 1}
    found = {path.rpartition("/")[2] for path in filesystem.find("quarry-export/out")}
    assert found >= {f"{safe_name(name)}.srt" for name in STRANGE}
    local = export(run, config, ExportOptions("srt", to=str(tmp_path)))
    assert local.written == len(STRANGE)
    assert (tmp_path / "a-b.srt").read_bytes() == filesystem.cat_file("quarry-export/out/a-b.srt")
