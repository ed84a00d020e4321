"""A run as a Ray job, on a real head and through the Jobs API: submit, logs, stop, the same again, exit codes."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from noisy_archive import write_archive
from ray_head import RAY, ray_head

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

REPO = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="qh", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ray_head(Path(folder)) as address,
    ):
        yield address


@pytest.fixture(scope="module")
def client(head: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(head)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Sixteen noisy recordings of 20 s: a shard each."""
    return write_archive(tmp_path / "archive", recordings=16)


def entrypoint(manifest: Path, output: Path, seconds_per_audio_s: float) -> str:
    words = [
        *("python", "jobs/transcribe.py", f"manifest={manifest}", f"output={output}"),
        *("engine.name=fake", "engine.model=fake", "engine.language=en", "chunk.vad=energy", "plan.shard_s=20"),
        *(f"engine.options.seconds_per_audio_s={seconds_per_audio_s}", "runtime.decode_workers=1"),
    ]
    return shlex.join(words)


def parts(output: Path) -> set[Path]:
    return set(output.glob("*/parts/*/*.parquet"))


def until(true: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.2)


def ended(client: JobSubmissionClient, job: str) -> str:
    until(lambda: client.get_job_status(job).is_terminal(), "the job has ended")
    return str(client.get_job_status(job).value)


def test_stop_and_submit_again_goes_on_where_it_stopped(
    client: JobSubmissionClient, manifest: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    environment = {"working_dir": str(REPO), "excludes": ["tests", "docs", "benchmarks", ".git"]}
    slow = entrypoint(manifest, output, 0.1)  # two seconds a shard
    first = client.submit_job(entrypoint=slow, runtime_env=environment)
    until(lambda: len(parts(output)) >= 2 or client.get_job_status(first).is_terminal(), "two shards are done")
    assert len(parts(output)) >= 2, client.get_job_logs(first)[-2000:]
    client.stop_job(first)
    assert ended(client, first) == "STOPPED"
    kept = {path: path.stat().st_mtime_ns for path in parts(output)}
    assert 2 <= len(kept) < 16, "stopped in the middle"
    assert list(output.glob("*/sessions/*.json")), "the stopped driver wrote down how long it worked"

    second = client.submit_job(entrypoint=slow, runtime_env=environment)
    assert ended(client, second) == "SUCCEEDED", client.get_job_logs(second)[-2000:]
    assert client.get_job_info(second).driver_exit_code == 0
    logs = client.get_job_logs(second)
    assert "16" in logs
    assert "RTFx" in logs, "the report is in the job's log"
    assert {path: path.stat().st_mtime_ns for path in parts(output) if path in kept} == kept, "nothing done twice"
    assert len(parts(output)) == 16


def test_the_submit_command_tells_of_failed_rows(
    head: str, client: JobSubmissionClient, manifest: Path, tmp_path: Path
) -> None:
    """`ray job submit` ends with 1 for every failure; the code of the driver itself is in the job's record."""
    (manifest.parent / "r03.wav").write_bytes(b"RIFF, but not audio")
    command = [
        RAY,
        "job",
        "submit",
        "--address",
        head,
        "--submission-id",
        "with-a-broken-file",
        "--working-dir",
        str(REPO),
    ]
    words = shlex.split(entrypoint(manifest, tmp_path / "out", 0.0))
    done = subprocess.run([*command, "--", *words], capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert client.get_job_info("with-a-broken-file").driver_exit_code == 1
    assert "r03" in done.stdout, "the log names the recording that failed"
    again = client.submit_job(
        entrypoint=f"{shlex.join(words)} || test $? -eq 1", runtime_env={"working_dir": str(REPO)}
    )
    assert ended(client, again) == "SUCCEEDED", "what deploy/ uses: failed rows are no reason to alarm"


def test_a_run_that_cannot_be_says_why_in_the_jobs_log(client: JobSubmissionClient, tmp_path: Path) -> None:
    job = client.submit_job(
        entrypoint=f"python jobs/transcribe.py manifest={tmp_path}/none.jsonl output={tmp_path}/out",
        runtime_env={"working_dir": str(REPO)},
    )
    assert ended(client, job) == "FAILED"
    assert client.get_job_info(job).driver_exit_code == 2
    log = client.get_job_logs(job)
    assert "none.jsonl" in log
    assert "Traceback" not in log
