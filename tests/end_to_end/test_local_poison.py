"""One process, and audio that ends it: the same command, given again, finds the culprit and publishes all others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from running import REPO, fake_settings, quarry, run_folder, table
from test_poison import POISON_PEAK, archive_of, deaths_of

CULPRIT = 7


def deaths_until_done(settings: list[str], at_most: int = 6) -> list[int]:
    """Exit codes of the command, given again and again, each time in a process of its own, until it comes to an end."""
    codes: list[int] = []
    while not codes or (codes[-1] not in (0, 1) and len(codes) < at_most):
        command = [sys.executable, "-m", "pipeline.cli", "run", *settings]
        codes.append(subprocess.run(command, cwd=REPO, capture_output=True, check=False).returncode)
    return codes


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("segfault", -11),
        pytest.param("exit", 1, marks=pytest.mark.slow),
        pytest.param("kill", -9, marks=pytest.mark.slow),
        pytest.param("loop", 3, marks=pytest.mark.slow),
    ],
)
def test_the_fourth_run_gives_the_culprit_up_and_publishes_its_neighbours(tmp_path: Path, kind: str, code: int) -> None:
    manifest = archive_of(tmp_path / "archive", 30, {CULPRIT})
    options = f"{{poison_on_peak: {POISON_PEAK}, poison: {kind}, diary: {tmp_path / 'diary'}}}"
    limits = {"batch.timeout_s": 2, "batch.timeout_per_audio_s": 0} if kind == "loop" else {}
    settings = fake_settings(
        manifest, tmp_path / "out", **{"chunk.vad": "none", "plan.shard_s": 10, "engine.options": options, **limits}
    )
    if kind == "exit":  # its own exit code is that of a run that ended: the runs are counted by hand
        codes = [
            subprocess.run(
                [sys.executable, "-m", "pipeline.cli", "run", *settings], cwd=REPO, capture_output=True, check=False
            ).returncode
            for _ in range(4)
        ]
    else:
        codes = deaths_until_done(settings)
    assert codes == [code, code, code, 1]
    rows = {int(row["id"]): row for row in table(tmp_path / "out").to_pylist()}
    assert len(rows) == 30
    assert {number: row["failure"]["code"] for number, row in rows.items() if row["status"] != "ok"} == {
        CULPRIT: "poison"
    }
    assert deaths_of(manifest.parent, {CULPRIT}, tmp_path / "diary") == {CULPRIT: 3}
    assert quarry("verify", *settings).returncode == 0


def test_a_run_that_is_interrupted_suspects_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is no death: the next run works in whole batches, not chunk by chunk."""
    from pipeline.engines.fake import Fake

    manifest = archive_of(tmp_path / "archive", 30, set())
    settings = fake_settings(manifest, tmp_path / "out", **{"chunk.vad": "none", "plan.shard_s": 10})
    with monkeypatch.context() as patched:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(Fake, "transcribe", interrupted)
        assert quarry("run", *settings).returncode != 0
    assert quarry("run", *settings).returncode == 0
    notes = {path.name.split("-")[1] for path in (run_folder(tmp_path / "out") / "attempts").glob("*/*/*")}
    assert notes == {"all", "end"}
