"""deploy/slurm/quarry.sbatch: what a shell checker says, and a run on a real Slurm where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from noisy_archive import write_archive
from servers import free_ports
from slurm_here import slurm, why_no_slurm

REPO = Path(__file__).resolve().parents[2]
SCRIPT = REPO / "deploy" / "slurm" / "quarry.sbatch"


def test_the_shell_checker_has_nothing_to_say() -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_wrong_job_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", SCRIPT, "transcribble"],
        capture_output=True,
        text=True,
        env={**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "transcribble" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    reason = why_no_slurm()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="qs", dir="/tmp") as folder, slurm(Path(folder)) as environment:
        yield environment


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_on_a_real_slurm(cluster: dict[str, str], tmp_path: Path) -> None:
    """One node: Ray's head through srun, the driver on it, its exit code the job's, and nothing of Ray left behind."""
    manifest = write_archive(tmp_path / "archive", recordings=3)
    (manifest.parent / "r01.wav").write_bytes(b"RIFF, but not audio")
    port, log = free_ports(1)[0], tmp_path / "job.log"
    # The checkout of the script's QUARRY: this one, with the environment that runs the tests as its .venv.
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("pipeline", "jobs", "configs"):
        (checkout / name).symlink_to(REPO / name)
    (checkout / ".venv").symlink_to(Path(sys.prefix))
    command = [
        "sbatch",
        "--wait",
        "--nodes=1",
        "--cpus-per-task=4",
        "--gpus-per-node=0",
        f"--output={log}",
        str(SCRIPT),
        "run",
    ]
    settings = [
        f"manifest={manifest}",
        f"output={tmp_path / 'out'}",
        "engine.name=fake",
        "engine.model=fake",
        "plan.shard_s=20",
    ]
    done = subprocess.run(
        [*command, *settings, "engine.language=en", "chunk.vad=energy"],
        env={**cluster, "QUARRY": str(checkout), "QUARRY_RAY_PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    said = log.read_text(errors="replace")
    assert done.returncode == 1, said[-3000:]  # finished, with one failed row
    assert "r01" in said
    assert len(list((tmp_path / "out").glob("*/parts/*/*.parquet"))) == 3
    left = subprocess.run(["pgrep", "-f", f"gcs_server.*{port}"], capture_output=True, text=True).stdout
    assert not left
