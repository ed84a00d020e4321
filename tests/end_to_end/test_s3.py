"""Archive and output on a real S3 server: the same transcripts as from folders, exactly one object per shard."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import fake_settings, quarry, texts
from servers import S3Endpoint, connect


@pytest.fixture(scope="module")
def bucket(s3_endpoint: S3Endpoint, archive: Path) -> str:
    filesystem = connect(s3_endpoint)
    filesystem.mkdirs("quarry-e2e", exist_ok=True)
    for path in [archive / "manifest.jsonl", *(archive / "audio").iterdir()]:
        filesystem.put_file(str(path), f"quarry-e2e/archive/{path.relative_to(archive)}")
    return "s3://quarry-e2e"


def test_a_run_from_and_to_a_bucket(bucket: str, s3_endpoint: S3Endpoint, archive: Path, tmp_path: Path) -> None:
    options = json.dumps(s3_endpoint.storage_options())
    stores = {"source.storage_options": options, "store.storage_options": options, "decode.whole_object_bytes": 100_000}
    settings = fake_settings(f"{bucket}/archive/manifest.jsonl", f"{bucket}/out", **stores)
    first = quarry("run", *settings)
    assert first.returncode == 1, first.stderr
    local = fake_settings(archive / "manifest.jsonl", tmp_path)
    assert quarry("run", *local).returncode == 1
    assert _texts(bucket, s3_endpoint) == texts(tmp_path)
    again = quarry("run", *settings)
    assert "Nothing to do" in again.stderr
    assert quarry("verify", *settings).returncode == 0


def test_a_lost_part_is_made_again_and_nothing_else(
    bucket: str, s3_endpoint: S3Endpoint, archive: Path, few_manifest: Path
) -> None:
    options = json.dumps(s3_endpoint.storage_options())
    settings = fake_settings(
        few_manifest,
        f"{bucket}/lost",
        **{"plan.shard_s": 30, "store.storage_options": options, "source.roots": f"[{archive}]"},
    )
    assert quarry("run", *settings).returncode == 1
    filesystem = connect(s3_endpoint)
    parts = sorted(filesystem.find("quarry-e2e/lost"))
    lost = next(path for path in parts if "/parts/" in path)
    filesystem.rm_file(lost)
    assert quarry("verify", *settings).returncode == 3
    assert quarry("status", *settings).returncode == 3
    again = quarry("run", *settings)
    assert "1 of" in again.stderr
    assert quarry("verify", *settings).returncode == 0
    # A retry is a run inside the run's folder: the same door, one level deeper.
    retried = quarry("retry", *settings, "--failed")
    assert retried.returncode == 1, retried.stderr  # the broken upload is still broken
    assert "1 stretch, 0 replaced (second_failed 1)" in retried.stdout
    assert "retry 00002-" in quarry("verify", *settings).stdout


def _texts(bucket: str, endpoint: S3Endpoint) -> dict[str, tuple[str, str, str]]:
    filesystem = connect(endpoint)
    paths = [path for path in filesystem.find(f"{bucket}/out") if "/tables/" in path and "/transcripts/" in path]
    rows = pa.concat_tables([pq.read_table(path, filesystem=filesystem) for path in paths]).to_pylist()
    return {row["id"]: (row["status"], row["text"], json.dumps(row["segments"])) for row in rows}
