"""A run that is killed at any named point is completed by the same command, and a third one changes nothing (F3, F14, F16)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from crash_at import KILLED, OBJECTS, POINTS
from running import REPO, fake_settings, quarry, run_folder, texts

# Those whose neighbours differ most: the rest only where there is time.
SHORT = ("plan-windows.after", "plan-header.written", "part.written", "part.after", "snapshot.written")


FEW = {"plan.shard_s": 30}


@pytest.fixture(scope="module")
def undisturbed(few_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert quarry("run", *fake_settings(few_manifest, folder, **FEW)).returncode == 1
    return folder


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=[] if point in SHORT else pytest.mark.slow) for point in POINTS]
)
def test_the_same_command_completes_a_run_that_was_killed(
    point: str, few_manifest: Path, tmp_path: Path, undisturbed: Path
) -> None:
    settings = fake_settings(few_manifest, tmp_path, **FEW)
    count = "3" if point.startswith(("part", "decode", "transcribe", "encode")) else "1"
    command = [sys.executable, str(Path(__file__).with_name("crash_at.py")), point, count, "run", *settings]
    killed = subprocess.run(
        command, cwd=REPO, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True
    )
    assert killed.returncode == KILLED, killed.stderr
    assert quarry("run", *settings).returncode == 1
    assert texts(tmp_path) == texts(undisturbed)
    assert quarry("verify", *settings).returncode == 0
    before = files(tmp_path)
    assert quarry("run", *settings).returncode == 1
    assert files(tmp_path) == before, "a run that is done was written to"


def files(folder: Path) -> dict[str, int]:
    """Every object of the run, and when it was written."""
    return {str(path): path.stat().st_mtime_ns for path in run_folder(folder).rglob("*") if path.is_file()}


def test_every_object_that_a_run_writes_has_its_points(undisturbed: Path) -> None:
    from crash_at import kind_of

    folder = run_folder(undisturbed)
    kinds = {kind_of(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file()}
    assert kinds == set(OBJECTS)
