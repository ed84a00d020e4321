"""Folders as manifests: Kaldi data directories, audiofolders with and without metadata, bare prefixes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from aiobotocore.client import AioBaseClient
from servers import S3Endpoint

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source import listing
from pipeline.source.checking import check_manifest
from pipeline.source.dialects import open_manifest
from pipeline.source.manifest import manifest_digest, manifest_roots, read_manifest

CONFIG = SourceConfig()


def rows_of(uri: Path | str, config: SourceConfig = CONFIG) -> list[dict[str, Any]]:
    return pa.concat_tables(read_manifest(str(uri), config)).to_pylist()


def write(folder: Path, **files: str) -> Path:
    """Files of a Kaldi directory; a line each, `/` between lines."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text("".join(f"{line}\n" for line in text.split(" / ")))
    return folder


KALDI = {
    "wav_scp": "rec-a audio/a.wav / rec-b\taudio/b c.flac",
    "segments": "s1-a-1 rec-a 0.5 2.8 / s1-a-2 rec-a 10.2 12.5 / s2-b-1 rec-b 3 -1",
    "text": "s1-a-1 good morning / s1-a-2 / s2-b-1 grüß gott",
    "utt2spk": "s1-a-1 s1 / s1-a-2 s1 / s2-b-1 s2",
    "utt2lang": "s1-a-1 en / s1-a-2 en / s2-b-1 de",
    "reco2file_and_channel": "rec-a a A / rec-b b 2",
}


def test_a_kaldi_directory_with_segments(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "train", **KALDI))
    assert [row["id"] for row in rows] == ["s1-a-1", "s1-a-2", "s2-b-1"]
    assert [row["uri"] for row in rows] == [f"{tmp_path}/train/audio/{name}" for name in ("a.wav", "a.wav", "b c.flac")]
    assert [(row["offset_s"], row["duration_s"]) for row in rows] == [(0.5, 2.3), (10.2, 2.3), (3.0, None)]
    assert [row["reference_text"] for row in rows] == ["good morning", None, "grüß gott"]
    assert [(row["channel"], row["language"]) for row in rows] == [(0, "en"), (0, "en"), (1, "de")]
    assert dict(rows[2]["extra"]) == {"speaker": "s2"}
    assert manifest_roots(str(tmp_path / "train"), CONFIG) == (str(tmp_path / "train"),)


def test_a_kaldi_directory_without_segments(tmp_path: Path) -> None:
    folder = write(tmp_path / "train", wav_scp="u1 a.wav / u2 b.wav", text="u2 hello")
    assert [(row["id"], row["reference_text"]) for row in rows_of(folder)] == [("u1", None), ("u2", "hello")]
    before = manifest_digest(str(folder), CONFIG)
    write(folder, text="u1 new / u2 hello")
    assert manifest_digest(str(folder), CONFIG) != before


def test_bad_lines_of_kaldi_directories(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    folder = write(
        tmp_path / "train",
        wav_scp=f"a sph2pipe -f wav a.sph | / b |touch {touched} / c x.ark:123 / d - / e / f ../../f.wav / g g.wav / f f.wav",
        text="a x / b x / bb x / c x / d x / e x / f x / g x / h x",
    )
    report = check_manifest(str(folder), CONFIG)
    said = sorted(one.message for one in report.problems if "wav.scp" in one.message)
    assert [one.split(": ")[0] for one in said] == ["in wav.scp"] * 6
    assert {one.line for one in report.problems if "a command" in one.message} == {1, 2}
    assert {one.line for one in report.problems if "archive" in one.message} == {3, 4}
    assert {one.line for one in report.problems if "no audio is named" in one.message} == {5}
    assert {one.line for one in report.problems if "stands behind 'g'" in one.message} == {8}
    assert {one.line for one in report.problems if "in text: there is no audio" in one.message} >= {3, 9}
    assert [(one.line, one.message[:12]) for one in report.refused] == [(6, "in wav.scp: ")]
    assert not touched.exists()


def test_bad_segments(tmp_path: Path) -> None:
    bad = "u1 rec 0 1 / u2 rec 2 1 / u3 none 0 1 / u4 rec 0 / u5 rec x 1 / u6 rec nan 1"
    report = check_manifest(str(write(tmp_path / "train", wav_scp="rec a.wav", segments=bad)), CONFIG)
    assert sorted({one.line for one in report.problems}) == [2, 3, 4, 5, 6]
    assert {one.message for one in report.problems if one.line == 3} == {
        "in segments: the recording 'none' does not stand in wav.scp"
    }


METADATA = [
    {"file_name": "a/1.wav", "transcription": "one", "speaker": "s1"},
    {"file_name": "2.flac", "transcription": "two", "speaker": "s2"},
]


def write_metadata(path: Path, rows: list[dict[str, str]] = METADATA) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.suffix == ".csv":
        pa.csv.write_csv(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_audiofolder(tmp_path: Path, suffix: str) -> None:
    write_metadata(tmp_path / f"metadata.{suffix}")
    first, second = rows_of(tmp_path)
    assert (first["id"], first["uri"], first["reference_text"]) == ("a/1.wav", f"{tmp_path}/a/1.wav", "one")
    assert dict(second["extra"]) == {"speaker": "s2"}
    config = SourceConfig(columns={"text": "speaker"}, format="audiofolder")
    assert [row["reference_text"] for row in rows_of(tmp_path, config)] == ["s1", "s2"]


def test_an_audiofolder_of_splits(tmp_path: Path) -> None:
    write_metadata(tmp_path / "train" / "metadata.csv")
    write_metadata(tmp_path / "test" / "metadata.jsonl", [{"file_name": "../../etc/x.wav", "transcription": "x"}])
    assert [row["id"] for row in rows_of(tmp_path)] == ["train/a/1.wav", "train/2.flac", "test/../../etc/x.wav"]
    report = check_manifest(str(tmp_path), CONFIG)
    assert [(one.line, one.message[:25]) for one in report.refused] == [(1, "in test/metadata.jsonl: T")]


NAMES = [
    "a-b.wav",
    "a/1.WAV",
    "a/2.txt",
    "a/b/3.mp3",
    "a.flac",
    ".hidden/4.wav",
    "z/._5.wav",
    "z/6.opus",
    "metadata.md",
]
LISTED = ["a-b.wav", "a.flac", "a/1.WAV", "a/b/3.mp3", "z/6.opus"]


@pytest.mark.parametrize("format", ["auto", "listing"])
def test_a_folder_is_its_audio(tmp_path: Path, format: str) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    config = SourceConfig(format=format)
    assert [row["id"] for row in rows_of(tmp_path, config)] == LISTED
    before = manifest_digest(str(tmp_path), config)
    (tmp_path / "new.wav").touch()
    assert manifest_digest(str(tmp_path), config) != before
    for odd in ("bad\nname.wav", "escape\x1b.wav", os.fsdecode(b"latin-\xe9.wav"), "wide\u3000space.wav"):
        (tmp_path / odd).touch()
    found = {row["id"] for row in rows_of(tmp_path, config)} - set(LISTED)
    # A row that is not found stops nobody else's; a wide space is a letter as others.
    assert found == {"new.wav", r"bad\nname.wav", r"escape\x1b.wav", r"latin-\udce9.wav", "wide\u3000space.wav"}


def test_a_prefix_is_its_audio(moto_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_PAGE_KEYS", 3)
    options = moto_endpoint.storage_options()
    store = fsspec.filesystem("s3", **options)
    store.makedirs("listed", exist_ok=True)
    store.pipe({f"listed/in/{name}": b"x" for name in NAMES})
    store.pipe_file("listed/inside.wav", b"x")
    config = SourceConfig(storage_options=options)
    rows = rows_of("s3://listed/in/", config)
    assert [row["id"] for row in rows] == LISTED
    assert rows[0]["uri"] == "s3://listed/in/a-b.wav"
    assert len(manifest_digest("s3://listed/in/", config)) == 64
    assert manifest_roots("s3://listed/in/", config) == ("s3://listed/in",)
    with pytest.raises(ManifestError, match="no folder s3://listed/none"):
        rows_of("s3://listed/none/", config)


@pytest.mark.parametrize(("clips", "most"), [(4, 6), (9, 16)])
def test_what_a_prefix_is_takes_a_few_requests(
    clips: int, most: int, moto_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first page tells; behind a longer one metadata is looked for place by place, not file by file."""
    monkeypatch.setattr(listing, "_PAGE_KEYS", 6)
    options = moto_endpoint.storage_options()
    store, prefix = fsspec.filesystem("s3", **options), f"looked-at-{clips}"
    store.makedirs(prefix, exist_ok=True)
    audio = {f"{prefix}/{kind}/{n}.wav": b"x" for kind in ("bare", "split", "kaldi") for n in range(clips)}
    store.pipe({**audio, f"{prefix}/split/validation/metadata.csv": b"file_name\na.wav\n"})
    store.pipe({f"{prefix}/kaldi/wav.scp": b"a a.wav\n", f"{prefix}/bare/metadata.wav": b"x"})
    asked: list[str] = []
    real = AioBaseClient._make_api_call

    async def counted(self: Any, operation: str, arguments: Any) -> Any:
        asked.append(operation)
        return await real(self, operation, arguments)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", counted)
    for kind, noun, first in (
        ("bare", "file", "0.wav"),
        ("split", "line", "validation/a.wav"),
        ("kaldi", "line", "a.wav"),
    ):
        asked.clear()
        manifest = open_manifest(f"s3://{prefix}/{kind}", SourceConfig(storage_options=options))
        assert len(asked) <= most, asked
        assert manifest.noun == noun
        assert rows_of(f"s3://{prefix}/{kind}", SourceConfig(storage_options=options))[0]["uri"].endswith(first)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="There is no folder"):
        rows_of(tmp_path / "none")
    with pytest.raises(ManifestError, match="has no rows"):
        rows_of(tmp_path)
    with pytest.raises(ManifestError, match="which has no columns"):
        rows_of(tmp_path, SourceConfig(format="listing", columns={"uri": "x"}))


def test_files_that_may_still_be_written_are_left(tmp_path: Path) -> None:
    for name in ("old.wav", "new.wav"):
        (tmp_path / name).touch()
    config = SourceConfig(min_age_s=3600)
    with pytest.raises(ManifestError, match="no rows"):
        rows_of(tmp_path, config)
    assert {file.name: file.is_settled(3600) for file in listing.list_files(str(tmp_path), config)} == {
        "old.wav": False,
        "new.wav": False,
    }
    time.sleep(0.05)
    (tmp_path / "new.wav").write_bytes(b"more")
    os.utime(tmp_path / "new.wav", (0, 0))  # a copy that brought an old time along
    assert [row["id"] for row in rows_of(tmp_path, SourceConfig(min_age_s=0.04))] == ["old.wav"]


def test_a_bucket_tells_ages_by_its_own_clock(moto_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    options = moto_endpoint.storage_options()
    store = fsspec.filesystem("s3", **options)
    store.makedirs("aged", exist_ok=True)
    store.pipe_file("aged/in/a.wav", b"x")
    monkeypatch.setattr(listing, "time", SimpleNamespace(time=lambda: 9e9))
    (file,) = listing.list_files("s3://aged/in", SourceConfig(storage_options=options))
    assert file.age_s is not None
    assert -2 < file.age_s < 60
    assert list(listing.list_files("s3://aged/nothing", SourceConfig(storage_options=options))) == []
