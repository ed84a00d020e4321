"""How an end-to-end test runs Quarry and reads what came of it: the real command, the real files."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cli import main

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def everything(self) -> str:
        """All that it said."""
        return self.stdout + self.stderr


def quarry(*arguments: str) -> Done:
    """The command, in this process: what a user types, without a second for the imports."""
    stdout, stderr = StringIO(), StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = main(arguments)
    return Done(code, stdout.getvalue(), stderr.getvalue())


def fake_settings(manifest: Path | str, output: Path | str, **extra: Any) -> list[str]:
    """Overrides for a quick run with the fake engine, cut small enough to have several shards and seams."""
    settings = {
        "manifest": manifest,
        "output": output,
        "engine.name": "fake",
        "engine.model": "fake",
        "engine.language": "en",
        "plan.window_s": 60,
        "plan.shard_s": 90,
        "chunk.vad": "energy",
        "plan.probe_workers": 1,  # each is a process; the default of four is that of every run made without these settings
        "runtime.kind": "local",
        **extra,
    }
    return [f"{key}={value}" for key, value in settings.items()]


def run_folder(output: Path) -> Path:
    """The one run in an output folder."""
    (folder,) = [path for path in output.iterdir() if path.is_dir()]
    return folder


def table(output: Path, name: str = "transcripts") -> pa.Table:
    """A table of the latest snapshot of the one run in an output folder, sorted by id."""
    folder = run_folder(output)
    snapshot = json.loads(sorted((folder / "snapshots").iterdir())[-1].read_text())
    tables = [pq.read_table(folder / file["key"]) for file in snapshot["files"][name]]
    whole = pa.concat_tables(tables)
    return whole.sort_by("id") if "id" in whole.schema.names and name == "transcripts" else whole


def texts(output: Path) -> dict[str, tuple[str, str, str]]:
    """What must be the same wherever a run is made: status, text and segments by recording."""
    rows = table(output).select(["id", "status", "text", "segments"]).to_pylist()
    return {row["id"]: (row["status"], row["text"], json.dumps(row["segments"])) for row in rows}
