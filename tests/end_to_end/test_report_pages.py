"""`quarry report -o` over a run that Quarry made: by its folder, by its settings, after the archive is gone."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import fake_settings, quarry, run_folder, table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, Path]:
    """Settings, the run's folder, and the archive, which the test may take away."""
    archive = tmp_path_factory.mktemp("pages") / "archive"
    archive.mkdir()
    random = np.random.default_rng(4)
    bursts = np.where(
        np.arange(70 * 16_000) % 48_000 < 32_000, 0.3, 0.0005
    )  # two seconds of noise, one of near silence
    for name in ("one", "two", "three", "four"):
        soundfile.write(archive / f"{name}.wav", bursts * random.uniform(-1, 1, 70 * 16_000), 16_000)
    (archive / "broken.wav").write_bytes(b"RIFF and no more")
    rows = [{"audio_filepath": path.name, "id": path.stem, "lang": "en"} for path in sorted(archive.glob("*.wav"))]
    (archive / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path_factory.mktemp("page-runs")
    # The fake engine is sure of itself: only a limit that nobody would set flags its segments.
    settings = fake_settings(archive / "manifest.jsonl", output, **{"flags.chars_per_s": 0.001})
    assert quarry("run", *settings).returncode == 1
    return settings, run_folder(output), archive


def test_a_page_of_a_runs_folder(made: tuple[list[str], Path, Path], tmp_path: Path) -> None:
    """Where the recordings lie stands in the run."""
    _, folder, _ = made
    done = quarry("report", str(folder), "-o", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r".*page\.html: [\d.]+ MB, \d+ stretches to check\.\n", done.stdout)
    text = (tmp_path / "page.html").read_text()
    assert text.count("<audio") == text.count("data:audio/mpeg;base64,") > 3
    for part in ("too_fast", "bad_header", "Engine workers over wall time", "Pipeline RTFx", "Sessions"):
        assert part in text, part
    assert "cannot be placed" not in text


def test_shards_tell_when_they_were_done(made: tuple[list[str], Path, Path]) -> None:
    _, folder, _ = made
    shards = table(folder.parent, "shards").to_pylist()
    (session,) = (json.loads(path.read_text()) for path in (folder / "sessions").iterdir())
    began = datetime.fromisoformat(session["started_at"])
    assert len(shards) > 2
    for shard in shards:
        assert timedelta(0) <= shard["done_at"] - began <= timedelta(seconds=session["wall_s"] + 1)
        assert 0 <= shard["engine_s"] <= shard["call_s"] + 0.01
        assert shard["queued_s"] >= 0


def test_a_page_by_settings_without_audio_is_small(made: tuple[list[str], Path, Path], tmp_path: Path) -> None:
    settings, _, _ = made
    done = quarry("report", *settings, "--no-audio", "-o", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page.html").read_text()
    assert "<audio" not in text
    assert len(text) < 100_000


def test_audio_that_is_gone_leaves_a_reason(made: tuple[list[str], Path, Path], tmp_path: Path) -> None:
    _, folder, archive = made
    archive.rename(archive.with_name("away"))
    try:
        done = quarry("report", str(folder), "-o", str(tmp_path / "page.html"))
    finally:
        archive.with_name("away").rename(archive)
    assert done.returncode == 0, done.stderr
    assert "of them without audio, as the page says why" in done.stdout
    text = (tmp_path / "page.html").read_text()
    assert "<audio" not in text
    assert "The audio cannot be read now (not_found): There is no file at this uri" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "-o", "x.html"], r"quarry: There is no run at .*nowhere; name the run's own folder"),
        (
            ["{run}", "--no-audio", "-o", "{run}/no/such/folder/x.html"],
            r"quarry: The file .* cannot be written \(.*\); check ",
        ),
    ],
)
def test_errors_are_one_sentence(made: tuple[list[str], Path, Path], words: list[str], said: str) -> None:
    done = quarry("report", *(word.format(run=made[1]) for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match(said, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
