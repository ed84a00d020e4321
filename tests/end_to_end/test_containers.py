"""Recordings inside tar and Parquet files: the same transcripts as from files, and no byte more than their own is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_containers import Clip, as_files, as_parquet, as_shar, as_webdataset, made_clips
from running import fake_settings, quarry, run_folder, table, texts
from servers import S3Endpoint, connect


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return made_clips()


def run(manifest: Path | str, output: Path, **settings: Any) -> dict[str, tuple[str, str, str]]:
    """The transcripts of a run, which must be all right."""
    done = quarry("run", *fake_settings(manifest, output, **{"chunk.vad": "none", **settings}))
    assert done.returncode == 0, done.stderr + done.stdout
    return texts(output)


@pytest.fixture(scope="module")
def of_files(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run over the same clips as files."""
    folder = tmp_path_factory.mktemp("files")
    run(as_files(clips, folder / "audio"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def expected(clips: list[Clip], of_files: Path) -> dict[str, tuple[str, str, str]]:
    found = texts(of_files)
    assert len({text for _, text, _ in found.values()}) == len(clips)
    return found


def test_a_folder_of_webdataset(clips: list[Clip], expected: dict[str, Any], tmp_path: Path) -> None:
    tars = as_webdataset(clips, tmp_path / "tars")
    found = run(tars, tmp_path / "out")
    assert {id_.rpartition("/")[2]: row for id_, row in found.items()} == expected
    first = table(tmp_path / "out").to_pylist()[0]
    assert first["id"] == "shard-000000.tar/clip0"
    assert first["uri"].startswith(f"{tars}/shard-000000.tar#member=clip0.flac&bytes=")
    assert first["reference_text"] == "text 0"
    again = quarry("run", *fake_settings(tars, tmp_path / "out", **{"chunk.vad": "none"}))
    assert "Nothing to do" in again.stderr


def test_shar(clips: list[Clip], expected: dict[str, Any], tmp_path: Path) -> None:
    lossless = [clip for clip in clips if clip.suffix != "mp3"]  # lhotse decodes mp3 to samples a little different
    shar = as_shar(lossless, tmp_path / "shar", "flac")
    assert run(shar, tmp_path / "out") == {clip.key: expected[clip.key] for clip in lossless}


def test_parquet_as_datasets_writes_it(clips: list[Clip], expected: dict[str, Any], tmp_path: Path) -> None:
    columns = {"source.columns": "{text: sentence}", "plan.shard_s": 2}
    assert run(as_parquet(clips, tmp_path / "hub"), tmp_path / "out", **columns) == expected
    parts = table(tmp_path / "out").to_pylist()
    assert {row["reference_text"] for row in parts} == {clip.text for clip in clips}


def test_datasets_reads_every_table_unchanged(of_files: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    """Plainly by `load_dataset`, as docs/output.md says, pass-through columns included."""
    datasets = pytest.importorskip("datasets")
    (tables,) = (run_folder(of_files) / "tables").iterdir()
    read = {
        folder.name: datasets.load_dataset(
            "parquet",
            data_files=str(folder / "*.parquet"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        for folder in tables.iterdir()
        if folder.is_dir() and folder.name != "failures"  # without rows there is no split to make of it
    }
    assert {"transcripts", "segments", "shards"} <= read.keys()
    found = read["transcripts"]
    assert {row["id"]: (row["status"], row["text"]) for row in found} == {
        id_: (status, text) for id_, (status, text, _) in expected.items()
    }
    assert {"key": "speaker", "value": "s1"} in found[0]["extra"]
    assert read["segments"].num_rows == sum(len(row["segments"]) for row in found)
    assert all(found.features[name].dtype == "float64" for name in ("offset_s", "duration_s"))


@pytest.mark.parametrize(
    "dialect",
    ["webdataset", pytest.param("parquet", marks=pytest.mark.slow), pytest.param("shar", marks=pytest.mark.slow)],
)
def test_from_a_bucket(
    dialect: str, clips: list[Clip], expected: dict[str, Any], moto_endpoint: S3Endpoint, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    if dialect == "webdataset":
        folder = as_webdataset(clips, made)
    elif dialect == "parquet":
        folder = as_parquet(clips, made)
    else:
        clips = [clip for clip in clips if clip.suffix != "mp3"]
        folder = as_shar(clips, made, "wav")
    store, bucket = connect(moto_endpoint), f"containers-{dialect}"
    store.mkdirs(bucket, exist_ok=True)
    for path in folder.rglob("*.*"):
        store.put_file(str(path), f"{bucket}/set/{path.relative_to(folder)}")
    options = json.dumps(moto_endpoint.storage_options())
    found = run(f"s3://{bucket}/set", tmp_path / "out", **{"source.storage_options": options})
    assert {id_.rpartition("/")[2]: row for id_, row in found.items()} == {one.key: expected[one.key] for one in clips}
    uris = table(tmp_path / "out")["uri"].to_pylist()
    assert all(uri.startswith(f"s3://{bucket}/set/") and "#" in uri for uri in uris)


def test_a_tar_written_anew_fails_its_rows_and_no_others(clips: list[Clip], tmp_path: Path) -> None:
    """Its members lie elsewhere now: no recording may get another's words."""
    tars = as_webdataset(clips, tmp_path / "tars", per_shard=4)
    rows = [json.loads(line) for line in made_rows(tars)]
    manifest = tmp_path / "tars" / "kept.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tars / "shard-000000.tar").unlink()
    (tars / "shard-000001.tar").rename(tars / "shard-000000.tar")
    as_webdataset(clips[4:], tmp_path / "other", per_shard=4)
    (tmp_path / "other" / "shard-000000.tar").rename(tars / "shard-000001.tar")
    done = quarry("run", *fake_settings(manifest, tmp_path / "out"))
    assert done.returncode == 1
    codes = {row["id"]: (row["failure"] or {}).get("code") for row in table(tmp_path / "out").to_pylist()}
    assert codes == {clip.key: "input_changed" if n < 4 else None for n, clip in enumerate(clips)}


def made_rows(tars: Path) -> list[str]:
    """JSON Lines that name the members of tar files, as anybody may write them down."""
    from pipeline.config import SourceConfig
    from pipeline.source.manifest import read_manifest

    rows = [row for part in read_manifest(str(tars), SourceConfig()) for row in part.to_pylist()]
    return [json.dumps({"id": row["id"].rpartition("/")[2], "uri": row["uri"], "duration": 1.0}) for row in rows]
