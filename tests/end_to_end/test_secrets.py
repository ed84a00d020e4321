"""Six kinds of secrets, and everything that a run writes, Ray's own logs included: none of them is in it (F24)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import REPO, fake_settings, quarry

CANARIES = {
    "key of the source": "CANARY-SOURCE-KEY",
    "secret of the store": "CANARY-STORE-SECRET",
    "token of the model's store": "CANARY-MODEL-TOKEN",
    "password in a row's uri": "CANARY-ROW-PASSWORD",
    "signature in a row's uri": "CANARY-ROW-SIGNATURE",
    "token in the environment": "CANARY-HUB-TOKEN",
}


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A short path: Ray keeps sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="q", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def leaky(archive: Path, few_manifest: Path, tmp_path: Path) -> Path:
    """Some of the demo's manifest, and rows with secrets in their uris."""
    rows = [json.loads(line) for line in few_manifest.read_text().splitlines()]
    rows = [{**row, "audio_filepath": str(archive / row["audio_filepath"])} for row in rows]
    password = CANARIES["password in a row's uri"]
    rows.append({"id": "login", "audio_filepath": f"https://user:{password}@host/a.wav"})
    signature = CANARIES["signature in a row's uri"]
    rows.append({"id": "signed", "audio_filepath": f"https://host/a.wav?X-Amz-Signature={signature}"})
    rows.append({"id": "away", "audio_filepath": f"s3://host/none.wav?X-Amz-Signature={signature}", "duration": 1.0})
    manifest = tmp_path / "leaky.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_no_secret_is_in_anything_a_run_writes(
    kind: str, leaky: Path, archive: Path, tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    settings = fake_settings(
        leaky,
        out,
        **{
            "runtime.kind": kind,
            "runtime.events": ray_folder / "events.jsonl",
            "source.roots": f"[{archive}]",
            "source.storage_options": json.dumps({"key": CANARIES["key of the source"]}),
            "store.storage_options": json.dumps({"secret": CANARIES["secret of the store"]}),
            "engine.storage_options": json.dumps({"token": CANARIES["token of the model's store"]}),
        },
    )
    monkeypatch.setenv("HF_TOKEN", CANARIES["token in the environment"])
    environment = os.environ | {"RAY_TMPDIR": str(ray_folder), "PYTHONPATH": str(REPO)}
    said = "".join(quarry(command, *settings).everything for command in ("validate", "plan"))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "run", *settings], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1, done.stderr
    said += done.stdout + done.stderr
    said += "".join(quarry(command, *settings).everything for command in ("status", "verify", "report"))
    assert "recordings" in said
    assert "CANARY" not in said
    written = [path for folder in (out, ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert len(written) > (100 if kind == "ray" else 10)
    assert [str(path) for path in written if b"CANARY" in path.read_bytes()] == []
