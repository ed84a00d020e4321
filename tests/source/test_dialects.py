"""Manifests in several files, with columns of other names, packed as bombs: all give rows, or one sentence."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import SourceConfig
from pipeline.config.file import load_config
from pipeline.errors import ConfigError, ManifestError
from pipeline.source import opening
from pipeline.source.checking import check_manifest
from pipeline.source.manifest import manifest_digest, manifest_roots, read_manifest
from pipeline.source.sharded import expand

CONFIG = SourceConfig()


def rows_of(uri: Path | str, config: SourceConfig = CONFIG) -> list[dict[str, Any]]:
    return pa.concat_tables(read_manifest(str(uri), config)).to_pylist()


@pytest.mark.parametrize(
    ("uri", "names"),
    [
        ("s3://b/m_{0..2}.jsonl", ["s3://b/m_0.jsonl", "s3://b/m_1.jsonl", "s3://b/m_2.jsonl"]),
        ("m__OP_8..10_CL_.json", ["m_8.json", "m_9.json", "m_10.json"]),
        ("m_{08..10}.json", ["m_08.json", "m_09.json", "m_10.json"]),
        ("a/m_{0..1}_{5..6}.json", ["a/m_0_5.json", "a/m_0_6.json", "a/m_1_5.json", "a/m_1_6.json"]),
        ("m_{a}.json", ["m_{a}.json"]),
    ],
)
def test_ranges_in_names(uri: str, names: list[str]) -> None:
    assert expand(uri) == names


@pytest.mark.parametrize(
    ("uri", "meaning"),
    [("m_{2..0}.json", "runs backwards"), ("m_{0..99999}.json", "100000 files"), ("a{0..1}/m.json", "of its folder")],
)
def test_ranges_that_are_refused(uri: str, meaning: str) -> None:
    with pytest.raises(ManifestError, match=meaning):
        expand(uri)


@pytest.mark.parametrize("name", ["m_{0..2}.jsonl.gz", "m__OP_0..2_CL_.jsonl.gz"])
def test_a_manifest_in_several_packed_files(tmp_path: Path, name: str) -> None:
    for shard in range(3):
        rows = [{"audio_filepath": f"{shard}/{i}.flac", "duration": 1.5, "shard_id": shard} for i in range(4)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"m_{shard}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    found = rows_of(tmp_path / name)
    assert [row["id"] for row in found] == [f"{shard}/{i}.flac" for shard in range(3) for i in range(4)]
    assert found[5]["uri"] == f"{tmp_path}/1/1.flac"
    assert manifest_roots(str(tmp_path / name), CONFIG) == (str(tmp_path),)
    before = manifest_digest(str(tmp_path / name), CONFIG)
    (tmp_path / "m_2.jsonl.gz").write_bytes(gzip.compress(b'{"uri": "new.flac"}\n'))
    assert manifest_digest(str(tmp_path / name), CONFIG) != before


def test_a_bad_row_of_several_files_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "m_0.jsonl").write_text('{"uri": "a.wav"}\n{"uri": "b.wav"}\n')
    (tmp_path / "m_1.jsonl").write_text('{"uri": "c.wav", "duration": -1}\n{"uri": "b.wav"}\n{"uri": "../d.wav"}\n')
    report = check_manifest(str(tmp_path / "m_{0..1}.jsonl"), CONFIG)
    assert [(one.line, one.message) for one in report.problems] == [
        (1, "in m_1.jsonl: duration is -1, not a number of seconds from 0 to 100000000"),
        (2, "in m_1.jsonl: the id 'b.wav' is that of line 2 in m_0.jsonl too"),
    ]
    assert [(one.line, one.message[:14]) for one in report.refused] == [(3, "in m_1.jsonl: ")]
    with pytest.raises(ManifestError, match=r"line 1: in m_1.jsonl: duration is -1"):
        rows_of(tmp_path / "m_{0..1}.jsonl")
    with pytest.raises(ManifestError, match=r"no manifest .*m_2.jsonl"):
        rows_of(tmp_path / "m_{2..3}.jsonl")


COLUMNS = {"uri": "wav_path", "id": "key", "text": "sentence"}
TABLE = [
    {"key": "k1", "wav_path": "a.wav", "sentence": "one", "path": "old/a.wav", "up_votes": "2"},
    {"key": "k2", "wav_path": "b.wav", "sentence": "two", "path": "old/b.wav", "up_votes": "0"},
]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl"])
def test_columns_by_the_config(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(TABLE), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in TABLE))
    else:
        cut = {"csv": ",", "tsv": "\t"}[suffix]
        path.write_text("".join(cut.join(line) + "\n" for line in [list(TABLE[0]), *(row.values() for row in TABLE)]))
    config = SourceConfig(columns=COLUMNS)
    first, second = rows_of(path, config)
    assert (first["id"], first["uri"], first["reference_text"]) == ("k1", f"{tmp_path}/a.wav", "one")
    assert dict(second["extra"]) == {"path": "old/b.wav", "up_votes": "0"}
    assert manifest_digest(str(path), config) != manifest_digest(str(path), CONFIG)
    wrong = SourceConfig(columns={"uri": "wav"})
    with pytest.raises(ManifestError) as caught:
        rows_of(path, wrong)
    assert ("none of wav has a value" if suffix == "jsonl" else "it has key, wav_path, sentence") in str(caught.value)


def test_a_field_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"source.columns.wav.*Input should be 'id', 'uri'"):
        load_config(None, ["manifest=m.csv", "output=out", "source.columns={wav: path}"])


def test_audio_columns_are_read_by_their_paths(tmp_path: Path) -> None:
    """As the library `datasets` writes audio that lies in files: a struct whose bytes are null."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"audio": {"bytes": None, "path": f"{i}.wav"}, "text": "x"} for i in range(3)]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([("audio", kind), ("text", pa.string())])), path)
    assert [row["id"] for row in rows_of(path)] == ["0.wav", "1.wav", "2.wav"]
    rows[2]["audio"]["bytes"] = b"RIFF"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    assert [row["uri"].rpartition("/")[2] for row in rows_of(path)] == [
        "0.wav",
        "1.wav",
        "m.parquet#group=1&row=0&column=audio",
    ]


def test_a_bomb_is_refused_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_FREE_BYTES", 2**20)
    path = tmp_path / "m.jsonl.gz"
    with gzip.open(path, "wb") as handle:
        for _ in range(64):
            handle.write((b" " * 9_999 + b"\n") * 100)
    with pytest.raises(ManifestError, match="unpacks to more than 300 times its size"):
        rows_of(path)
    squeezed = tmp_path / "m.jsonl.zst"
    squeezed.write_bytes(pa.compress((b" " * 9_999 + b"\n") * 3_000, "zstd", asbytes=True))
    with pytest.raises(ManifestError, match="unpacks to more than 300 times its size"):
        rows_of(squeezed)


def test_an_honest_file_shrinks_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_FREE_BYTES", 2**16)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as handle:
        for i in range(20_000):
            handle.write(b'{"audio_filepath": "speaker/chapter/%d.flac", "duration": 1.0, "text": ""}\n' % i)
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(packed.getvalue())
    assert len(rows_of(path)) == 20_000
