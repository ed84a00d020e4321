"""WebDataset's tar files, Shar and audio in Parquet as manifests: their rows, and what is said about bad ones."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import deque
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_containers import as_parquet, as_shar, as_webdataset, made_clips

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.checking import check_manifest
from pipeline.source.manifest import manifest_digest, manifest_roots, read_manifest
from pipeline.source.side_by_side import side_by_side

CLIPS = made_clips()
CONFIG = SourceConfig()


def rows_of(uri: Path | str, config: SourceConfig = CONFIG) -> list[dict[str, Any]]:
    return pa.concat_tables(read_manifest(str(uri), config)).to_pylist()


def problems_of(uri: Path | str, config: SourceConfig = CONFIG) -> list[str]:
    report = check_manifest(str(uri), config)
    assert report.problem_count == len(report.problems)
    return [f"{problem.line}: {problem.message}" for problem in report.problems]


def write_tar(path: Path, **files: bytes) -> Path:
    """A tar file; a double underscore in a name stands for the dot."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


# --------------------------------------------------------------------------------------------------------------------
# WebDataset


def test_webdataset_by_folder_and_by_range(tmp_path: Path) -> None:
    folder = as_webdataset(CLIPS, tmp_path / "tars")
    rows = rows_of(folder)
    assert [row["id"] for row in rows[2:4]] == ["shard-000000.tar/clip2", "shard-000001.tar/clip3"]
    assert (rows[0]["reference_text"], rows[0]["language"], rows[0]["duration_s"]) == ("text 0", "en", None)
    assert dict(rows[0]["extra"]) == {"__key__": "clip0", "path": "/old/clip0.wav", "speaker": "s1"}
    assert rows_of(f"{folder}/shard-{{000000..000002}}.tar") == rows
    assert rows_of(folder / "shard-000001.tar") == rows[3:6]
    assert manifest_roots(str(folder), CONFIG) == (str(folder),)
    assert not problems_of(folder)
    digest = manifest_digest(str(folder), CONFIG)
    assert digest == manifest_digest(str(folder), CONFIG)
    write_tar(folder / "shard-000003.tar", new__wav=b"x")
    assert manifest_digest(str(folder), CONFIG) != digest
    assert len(rows_of(folder)) == len(rows) + 1


def test_texts_and_endings_are_chosen(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "x.tar",
        a__left__wav=b"l",
        a__right__wav=b"r",
        a__txt=b" spoken \n",
        a__json=b'{"id": 7, "duration": 2.5, "said": "other"}',
        b__left__wav=b"l",
        b__lab=b"label",
        readme=b"no sample",
    )
    config = SourceConfig(columns={"uri": "left.wav"})
    rows = rows_of(path, config)
    assert [(row["id"], row["reference_text"], row["duration_s"]) for row in rows] == [
        ("7", "spoken", 2.5),
        ("x.tar/b", None, None),
    ]
    assert "#member=a.left.wav&" in rows[0]["uri"]
    assert dict(rows[1]["extra"]) == {"__key__": "b", "lab": "label"}
    mapped = rows_of(path, SourceConfig(columns={"uri": "left.wav", "text": "lab"}))
    assert [row["reference_text"] for row in mapped] == [None, "label"]
    assert problems_of(path) == [
        "1: the sample 'a' has 2 members with audio (left.wav, right.wav); name one of the endings in source.columns.uri"
    ]


def test_audio_that_is_there_twice_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", a__wav=b"first", b__wav=b"x")
    with tarfile.open(path, "a") as tar:
        for name in ("b.wav", "c.wav"):
            tar.addfile(tarfile.TarInfo(name))
    assert problems_of(path) == [
        "2: the sample 'b' has two members named .wav; write the file again, with names of their own"
    ]


def test_bad_samples_are_told_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write_tar(
        path,
        a__json=b"{",
        a__wav=b"x",
        b__txt=b"\xff",
        b__wav=b"x",
        c__txt=b"x",
        d__json=b"[1]",
        d__wav=b"x",
        e__wav=b"x",
    )
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("f.wav")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert problems_of(path) == [
        "1: the sample 'a' has a json that cannot be used (JSONDecodeError)",
        "2: the sample 'b' has text in 'b.txt' that is not UTF-8",
        "3: the sample 'c' has no member with audio",
        "4: the sample 'd' has a json that is no object",
        "6: the sample 'f' has a link for audio; pack the file itself",
    ]
    with pytest.raises(ManifestError, match=r"x.tar, sample 1: the sample 'a' has a json .*mend it"):
        rows_of(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:700], "is cut short"),
        (lambda data: b"x" * 2_000, "has no tar header at byte 0"),
        (lambda data: data[:1024] + b"junk" * 128 + data[1536:], "has no tar header at byte 1024"),
    ],
)
def test_a_broken_tar_is_told_with_its_place(tmp_path: Path, change: Any, said: str) -> None:
    path = write_tar(tmp_path / "x.tar", a__wav=b"x" * 500, b__wav=b"y" * 500)
    path.write_bytes(change(path.read_bytes()))
    assert said in problems_of(path)[-1]


def test_packed_and_missing_tars_are_refused(tmp_path: Path) -> None:
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress(write_tar(tmp_path / "x.tar", a__wav=b"x").read_bytes()))
    with pytest.raises(ManifestError, match=r"packed, and no member can be read by itself; unpack it"):
        rows_of(packed)
    with pytest.raises(ManifestError, match=r"There is no manifest .*y-0.tar"):
        rows_of(tmp_path / "y-{0..1}.tar")
    (tmp_path / "none").mkdir()
    with pytest.raises(ManifestError, match="has no webdataset files in it"):
        rows_of(tmp_path / "none", SourceConfig(format="webdataset"))


def test_ids_that_two_tars_share_are_found(tmp_path: Path) -> None:
    for n in range(2):
        write_tar(tmp_path / f"{n}.tar", a__json=b'{"id": "same"}', a__wav=b"x")
    assert problems_of(tmp_path) == ["1: in 1.tar: the id 'same' is that of sample 1 in 0.tar too"]


def test_audio_beside_a_tar_is_what_counts(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", a__wav=b"x")
    (tmp_path / "b.wav").write_bytes(b"x")
    assert [row["id"] for row in rows_of(tmp_path)] == ["b.wav"]


# --------------------------------------------------------------------------------------------------------------------
# Shar


@pytest.fixture(scope="module")
def shar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lhotse")
    return as_shar(CLIPS[:5], tmp_path_factory.mktemp("shar"), "opus")


def copy_of(shar: Path, to: Path) -> Path:
    for path in shar.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_shar_by_folder_and_by_range(shar: Path) -> None:
    rows = rows_of(shar)
    assert [row["id"] for row in rows] == [clip.key for clip in CLIPS[:5]]
    assert [row["duration_s"] for row in rows] == pytest.approx([clip.length_s for clip in CLIPS[:5]], abs=0.1)
    assert (rows[3]["reference_text"], rows[3]["language"]) == ("text 3", "en")
    assert f"{shar}/recording.000001.tar#member=clip3.opus&bytes=" in rows[3]["uri"]
    assert rows_of(f"{shar}/cuts.{{000000..000002}}.jsonl.gz", SourceConfig(format="shar")) == rows
    assert not problems_of(shar)
    with pytest.raises(ManifestError, match="the audio lies in Shar; name the folder"):
        rows_of(shar / "cuts.000000.jsonl.gz")


def test_shar_whose_parts_do_not_agree(shar: Path, tmp_path: Path) -> None:
    folder = copy_of(shar, tmp_path)
    lines = gzip.decompress((folder / "cuts.000000.jsonl.gz").read_bytes()).splitlines()
    cuts = folder / "cuts.000000.jsonl.gz"
    cuts.write_bytes(gzip.compress(b"\n".join([b"{bad", lines[1]])))
    told = problems_of(folder)
    assert len(told) == 1
    assert told[0].startswith("1: in cuts.000000.jsonl.gz: not valid JSON")
    cuts.write_bytes(gzip.compress(b"\n".join(reversed(lines))))
    assert [one.partition(".gz: ")[2] for one in problems_of(folder)] == [
        "recording.000000.tar has 'clip0' where the audio of this cut should be",
        "recording.000000.tar has 'clip1' where the audio of this cut should be",
    ]
    cuts.write_bytes(gzip.compress(lines[0]))
    assert "recording.000000.tar goes on with 'clip1' behind the last cut" in problems_of(folder)[0]
    cuts.write_bytes(gzip.compress(b"\n".join([*lines, lines[0]])))
    assert "recording.000000.tar ends before the audio of this cut" in problems_of(folder)[0]
    cuts.write_bytes(gzip.compress(b'{"id": "clip0", "recording": {"sources": 1}}'))
    assert "not as lhotse writes it" in problems_of(folder)[0]
    (folder / "recording.000000.tar").unlink()
    with pytest.raises(ManifestError, match=r"There is no manifest .*recording\.000000\.tar"):
        rows_of(folder, SourceConfig(format="shar"))


# --------------------------------------------------------------------------------------------------------------------
# Parquet


def test_parquet_by_folder_and_by_file(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    config = SourceConfig(columns={"text": "sentence"})
    folder = as_parquet(CLIPS, tmp_path)
    rows = rows_of(folder, config)
    assert [row["id"] for row in rows] == [clip.key for clip in CLIPS]
    assert rows[3]["uri"] == f"{folder}/data/train-00000-of-00002.parquet#group=1&row=1&column=audio"
    assert rows[4]["uri"] == f"{folder}/data/train-00001-of-00002.parquet#group=0&row=0&column=audio"
    assert (rows[3]["reference_text"], dict(rows[3]["extra"])) == ("text 3", {"audio_path": "clip3.flac"})
    named = rows_of(f"{folder}/data/train-{{00000..00001}}-of-00002.parquet", config)
    assert [row["uri"] for row in named] == [row["uri"] for row in rows]
    assert not problems_of(folder, config)


def test_a_column_of_bytes_is_audio_where_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"wav": [b"a", b"b", b"c"], "text": ["1", "2", "3"]}), path, row_group_size=2)
    rows = rows_of(path, SourceConfig(columns={"uri": "wav"}))
    assert [(row["id"], row["reference_text"]) for row in rows] == [(f"x.parquet/{n}", str(n + 1)) for n in range(3)]
    assert rows[2]["uri"] == f"{path}#group=1&row=0&column=wav"
    assert "no audio is named" in problems_of(path)[0]
    pq.write_table(pa.table({"audio": [b"a", b"b"]}), path)
    assert [row["id"] for row in rows_of(path)] == ["x.parquet/0", "x.parquet/1"]


def test_the_digest_of_audio_in_parquet_reads_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"audio": [b"a"]}), path)
    first = manifest_digest(str(path), CONFIG)
    pq.write_table(pa.table({"audio": [b"a" * 1000]}), path)
    assert manifest_digest(str(path), CONFIG) != first


# --------------------------------------------------------------------------------------------------------------------
# Reading side by side


def test_side_by_side_keeps_the_order_and_raises_in_its_place() -> None:
    def read(source: int) -> Any:
        for n in range(700):
            yield n
            if source == 3 and n == 300:
                raise ManifestError("here")

    found: list[tuple[int, int]] = []

    def take(item: tuple[int, int]) -> None:
        found.append(item)

    with pytest.raises(ManifestError, match="here"):
        deque(map(take, side_by_side(range(10), read, 4)), maxlen=0)
    whole = [(source, n) for source in range(3) for n in range(700)]
    assert found[: len(whole)] == whole
    assert len(found) <= len(whole) + 301
    some = side_by_side(range(10), lambda source: iter(range(10**9)), 4)  # nobody waits for its end
    assert [next(some) for _ in range(600)] == [(0, n) for n in range(600)]
    some.close()


def test_rows_written_down_are_rows_again(tmp_path: Path) -> None:
    """A uri of a member may stand in any manifest."""
    rows = rows_of(as_webdataset(CLIPS[:2], tmp_path / "tars"))
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps({"id": row["id"], "uri": row["uri"]}) + "\n" for row in rows))
    assert [row["uri"] for row in rows_of(manifest)] == [row["uri"] for row in rows]
    assert check_manifest(str(manifest), CONFIG).refused_count == 0
    outside = json.dumps({"id": "x", "uri": "/etc/passwd#member=a.wav&bytes=512-600"})
    manifest.write_text(outside + "\n")
    assert check_manifest(str(manifest), CONFIG).refused_count == 1
