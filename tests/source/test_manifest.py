"""Manifests: every format gives the same rows; every kind of bad row is one sentence with its line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source import formats
from pipeline.source.checking import check_manifest
from pipeline.source.manifest import MANIFEST_SCHEMA, manifest_digest, manifest_roots, read_manifest

CONFIG = SourceConfig()

ROWS: list[dict[str, Any]] = [
    {"id": "one", "audio_filepath": "a/1.flac", "offset": 0.5, "duration": 2.25, "text": 'a "b", c', "lang": "en"},
    {"id": "two", "audio_filepath": "/data/2.wav", "duration": 7.0, "channel": 1, "speaker": "s1", "source_lang": "de"},
    {"id": "drei ü", "audio_filepath": "s3://bucket/3.mp3", "text": "grüße", "speaker": "s2"},
]


def rows_of(path: Path, config: SourceConfig = CONFIG) -> list[dict[str, Any]]:
    return pa.concat_tables(read_manifest(str(path), config)).to_pylist()


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_delimited(path: Path, rows: list[dict[str, Any]], **form: Any) -> Path:
    names = list({name: None for row in rows for name in row})
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, names, **form)
        writer.writeheader()
        writer.writerows(rows)
    return path


def expected(folder: Path) -> list[dict[str, Any]]:
    blank: dict[str, Any] = dict.fromkeys(MANIFEST_SCHEMA.names) | {"offset_s": 0.0, "extra": []}
    return [
        blank
        | {"id": "one", "uri": f"{folder}/a/1.flac", "offset_s": 0.5, "duration_s": 2.25, "language": "en"}
        | {"reference_text": 'a "b", c'},
        blank
        | {"id": "two", "uri": "/data/2.wav", "duration_s": 7.0, "channel": 1, "language": "de"}
        | {"extra": [("speaker", "s1")]},
        blank
        | {"id": "drei ü", "uri": "s3://bucket/3.mp3", "reference_text": "grüße"}
        | {"extra": [("speaker", "s2")]},
    ]


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    jsonl = write_jsonl(tmp_path / "m.jsonl", ROWS)
    packed = tmp_path / "m.jsonl.gz"
    packed.write_bytes(gzip.compress(jsonl.read_bytes()))
    squeezed = tmp_path / "m.json.zst"
    squeezed.write_bytes(pa.compress(jsonl.read_bytes(), "zstd", asbytes=True))
    parquet = tmp_path / "m.parquet"
    pq.write_table(
        pa.Table.from_pylist(ROWS, pa.schema(sorted({k: kind(v) for r in ROWS for k, v in r.items()}.items()))), parquet
    )
    unquoted = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    tsv = write_delimited(tmp_path / "m.tsv", ROWS, **unquoted)
    for path in (jsonl, packed, squeezed, parquet, write_delimited(tmp_path / "m.csv", ROWS), tsv):
        assert rows_of(path) == expected(tmp_path), path.name


def kind(value: Any) -> pa.DataType:
    return pa.scalar(value).type


def test_a_csv_from_a_spreadsheet(tmp_path: Path) -> None:
    """Byte order mark, CRLF, a line break in a cell, floats for whole numbers, blank lines."""
    path = tmp_path / "m.csv"
    path.write_bytes('\ufeffpath,text,keywords,channel\r\na.wav,"two\r\nlines",a; b;,1.0\r\n\r\nb.wav,,,\r\n'.encode())
    first, second = rows_of(path)
    assert (first["reference_text"], first["keywords"], first["channel"]) == ("two\r\nlines", ["a", "b"], 1)
    assert (second["reference_text"], second["keywords"], second["channel"]) == (None, None, None)


def test_values_that_are_not_text_pass_through_as_json(tmp_path: Path) -> None:
    row = {"uri": "a.wav", "snr": 12.5, "tags": ["x", "ÿ"], "good": True, "none": None, "at": {"b": 1}}
    extra = dict(rows_of(write_jsonl(tmp_path / "m.jsonl", [row]))[0]["extra"])
    assert extra == {"snr": "12.5", "tags": '["x", "ÿ"]', "good": "true", "at": '{"b": 1}'}


def test_names_of_speakers_are_a_map_in_every_format(tmp_path: Path) -> None:
    labels = {"2": "Ben", "Speaker 1": "Änne", "3 @0:30:00.250": "Änne", "4": None, "host": ""}
    wanted = json.dumps(
        {"Speaker 1": "Änne", "Speaker 2": "Ben", "Speaker 3 @0:30:00.250": "Änne"}, ensure_ascii=False, sort_keys=True
    )
    rows = [{"uri": "a.wav", "speakers": labels}, {"uri": "b.wav"}, {"uri": "c.wav", "speakers": {}}]
    flat = [{**row, "speakers": json.dumps(row["speakers"]) if "speakers" in row else ""} for row in rows]
    structs, maps, numbers = tmp_path / "structs.parquet", tmp_path / "maps.parquet", tmp_path / "numbers.parquet"
    pq.write_table(pa.Table.from_pylist(rows), structs)
    kinds = {
        kind: pa.schema([("uri", pa.string()), ("speakers", pa.map_(kind, pa.string()))])
        for kind in (pa.string(), pa.int8())
    }
    pairs = [{**row, "speakers": list(row["speakers"].items()) if "speakers" in row else None} for row in rows]
    pq.write_table(pa.Table.from_pylist(pairs, kinds[pa.string()]), maps)
    for path in (write_jsonl(tmp_path / "m.jsonl", rows), write_delimited(tmp_path / "m.csv", flat), structs, maps):
        assert [row["speakers"] for row in rows_of(path)] == [wanted, None, None], path.name
    pq.write_table(pa.Table.from_pylist([{"uri": "a.wav", "speakers": [(1, "Anna")]}], kinds[pa.int8()]), numbers)
    assert rows_of(numbers)[0]["speakers"] == '{"Speaker 1": "Anna"}'


def test_missing_ids_come_from_the_row_alone(tmp_path: Path) -> None:
    rows = [
        {"uri": "a.wav"},
        {"uri": "a.wav", "offset": 12.5, "duration": 3},
        {"uri": "a.wav", "offset": 20},
        {"uri": "a.wav", "channel": 0},
        {"uri": f"{tmp_path}/deep/b.wav"},
        {"uri": "s3://bucket/c.wav"},
        {"uri": "d.wav", "id": 17},
    ]
    ids = [row["id"] for row in rows_of(write_jsonl(tmp_path / "m.jsonl", rows))]
    assert ids == ["a.wav", "a.wav#12.5-3", "a.wav#20-", "a.wav#ch0", "deep/b.wav", "s3://bucket/c.wav", "17"]


def test_a_duration_of_zero_is_unknown(tmp_path: Path) -> None:
    assert rows_of(write_jsonl(tmp_path / "m.jsonl", [{"uri": "a.wav", "duration": 0.0}]))[0]["duration_s"] is None


GOOD = '{"uri": "%d.wav"}\n'

BAD_LINES = {
    "not JSON": ('{"uri": "x",}', "not valid JSON"),
    "not an object": ("[1]", "a JSON list"),
    "too deep": ("[" * 50_000, "not usable JSON"),
    "too many digits": ('{"duration": ' + "1" * 5_000 + "}", "not usable JSON"),
    "duration text": ('{"uri": "x", "duration": "abc"}', "duration is 'abc', not a number of seconds"),
    "duration negative": ('{"uri": "x", "duration": -1}', "duration is -1,"),
    "duration NaN": ('{"uri": "x", "duration": NaN}', "duration is nan,"),
    "duration infinite": ('{"uri": "x", "duration": 1e999}', "duration is inf,"),
    "duration bool": ('{"uri": "x", "duration": true}', "duration is True,"),
    "offset negative": ('{"uri": "x", "offset": -0.1}', "offset is -0.1,"),
    "channel": ('{"uri": "x", "channel": 1.5}', "channel is 1.5,"),
    "language": ('{"uri": "x", "lang": 3}', "lang is 3, not text"),
    "keywords": ('{"uri": "x", "keywords": {"a": 1}}', "keywords is {'a': 1}, not a list"),
    "keyword": ('{"uri": "x", "keywords": [1]}', "keywords is 1, not text"),
    "no audio": ('{"file": "x"}', "no audio is named"),
    "two audios": ('{"uri": "x", "path": "y"}', "both 'uri' and 'path' have a value"),
    "control character": ('{"uri": "x", "id": "a\\nb"}', "the control character '\\n'"),
    "zero byte": ('{"uri": "a\\u0000b"}', "the control character '\\x00'"),
    "long id": (json.dumps({"uri": "x", "id": "i" * 1001}), "id has 1001 characters"),
    "long uri": (json.dumps({"uri": "u" * 1001}), "no id is given and the uri is too long"),
    "surrogate": ('{"uri": "x", "text": "\\ud800"}', "half a surrogate pair"),
    "surrogate in extra": ('{"uri": "x", "k": ["\\ud800"]}', "half a surrogate pair"),
    "speakers": ('{"uri": "x", "speakers": ["Anna"]}', "speakers is ['Anna'], not a map from speaker label to name"),
    "speakers text": ('{"uri": "x", "speakers": "Anna"}', "speakers is 'Anna', not a map from speaker label to name"),
    "speakers list": ('{"uri": "x", "speakers": "[{}]"}', "speakers is '[{}]', not a map"),
    "speaker's name": ('{"uri": "x", "speakers": {"1": 5}}', "speakers is 5, not text"),
    "speaker's label": ('{"uri": "x", "speakers": {" ": "Anna"}}', "a name without a label, 'Anna'"),
    "speaker twice": ('{"uri": "x", "speakers": {"1": "A", "Speaker 1": "B"}}', "names 'Speaker 1' twice"),
    "speaker twice in text": ('{"uri": "x", "speakers": "{\\"1\\": \\"A\\", \\"1\\": \\"B\\"}"}', "'Speaker 1' twice"),
    "duplicate": ('{"uri": "3.wav"}', "the id '3.wav' is that of line 4 too"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_one_sentence_with_its_number(tmp_path: Path, name: str) -> None:
    line, meaning = BAD_LINES[name]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(GOOD % i for i in range(6)) + line + "\n" + GOOD % 7)
    with pytest.raises(ManifestError) as caught:
        list(read_manifest(str(path), CONFIG))
    message = str(caught.value)
    assert message.startswith(f"The manifest {path}, line 7: ")
    assert meaning in message
    assert message.endswith("(`quarry validate` lists every such line).")
    assert "\n" not in message
    report = check_manifest(str(path), CONFIG)
    assert [problem.line for problem in report.problems] == [7]
    assert meaning in report.problems[0].message


def test_line_numbers_hold_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "BLOCK_ROWS", 3)
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join([GOOD % i for i in range(10)] + ['{"uri": "x", "duration": "?"}', GOOD % 4]))
    report = check_manifest(str(path), CONFIG)  # GOOD ends a line, the join adds an empty one after it
    assert [problem.line for problem in report.problems] == [21, 22]
    assert "is that of line 9 too" in report.problems[1].message


@pytest.mark.parametrize(
    ("name", "data", "meaning"),
    [
        ("m.csv", b"uri,duration\na.wav,1\nb.wav\n", "line 3: 1 fields where the header has 2"),
        ("m.csv", b'uri,text\na.wav,"x\ny"\nb.wav,"never closed\nc.wav,x\n', "line 4: not valid CSV"),
        ("m.csv", b"uri,uri\na,b\n", "line 1: a header that names 'uri' twice"),
        ("m.csv", b",uri\n0,a\n", "line 1: a header without a name for column 1"),
        ("m.csv", b"file,text\na,b\n", "line 2: no audio is named: none of uri, path, audio_filepath, audio"),
        ("m.csv", b"uri,duration\n", "has no rows"),
        ("m.jsonl", b"", "has no rows"),
        ("m.jsonl", b'{"uri": "a"}\n{"uri": "\xe9"}', "line 2: not UTF-8"),
        ("m.jsonl", b"x" * (formats.MAX_LINE_BYTES + 1), "line 1: longer than 16 MB"),
        ("m.jsonl.gz", gzip.compress(b'{"uri": "a"}\n' * 999, mtime=0)[:-20], "cannot be read (OSError: Truncated"),
        ("m.jsonl.gz", b'{"uri": "a"}', "cannot be read"),
        ("m.parquet", b"PAR1 nonsense", "cannot be read (ArrowInvalid"),
        ("m.txt", b"a.wav", "set source.format"),
    ],
)
def test_a_manifest_that_cannot_be_used(tmp_path: Path, name: str, data: bytes, meaning: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ManifestError) as caught:
        list(read_manifest(str(path), CONFIG))
    assert meaning in str(caught.value)


def test_parquet_counts_rows_and_refuses_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"path": ["a", "b"], "waveform": [None, b"RIFF"]}), path)
    with pytest.raises(ManifestError, match="row 2: something that passes through is 4 bytes, not text"):
        rows_of(path)


def test_problems_are_counted_and_the_first_are_kept(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "m.jsonl", [{"uri": f"{i}.wav", "duration": -i} for i in range(100)])
    report = check_manifest(str(path), CONFIG)
    assert report.rows == 100
    assert report.problem_count == 99
    assert [problem.line for problem in report.problems] == list(range(2, 22))


def test_the_report_counts(tmp_path: Path) -> None:
    rows = [
        {"uri": "a.wav", "duration": 1.5, "lang": "en", "text": "x"},
        {"uri": "b.wav", "lang": "en"},
        {"uri": "c.wav", "duration": 2.0, "lang": "de", "text": ""},
        {"uri": "http://169.254.169.254/d.wav"},
        {"uri": "../e.wav"},
    ]
    report = check_manifest(str(write_jsonl(tmp_path / "m.jsonl", rows)), CONFIG)
    assert (report.rows, report.audio_s, report.rows_without_duration, report.rows_with_reference) == (5, 3.5, 3, 1)
    assert report.problem_count == 0
    assert [problem.line for problem in report.refused] == [4, 5]


def test_equal_hashes_are_not_yet_equal_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "m.jsonl", [{"uri": f"{i}.wav"} for i in range(9)])
    monkeypatch.setattr("pipeline.source.repeats.hash", lambda values: len(values[0]), raising=False)
    assert len(rows_of(path)) == 9


def test_digest_and_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "m.jsonl", ROWS)
    assert manifest_digest(str(path), CONFIG) == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.chdir(tmp_path)
    assert manifest_roots("m.jsonl", CONFIG) == (str(tmp_path),)
    assert manifest_roots(f"file://{path}", CONFIG) == (str(tmp_path),)
    assert manifest_roots("s3://bucket/some/m.jsonl", CONFIG) == ("s3://bucket/some",)
    assert manifest_roots("m.jsonl", SourceConfig(roots=["s3://b", "x"])) == ("s3://b", str(tmp_path / "x"))


@pytest.mark.parametrize(("fence", "ids"), [("json", ["#30-8", "board"]), ("csv", ["0001.flac", "0002.flac"])])
def test_the_examples_in_the_documentation(tmp_path: Path, fence: str, ids: list[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text()
    path = tmp_path / f"m.{fence}"
    path.write_text(page.split(f"```{fence}\n")[1].split("```")[0])
    found = " ".join(row["id"] for row in rows_of(path))
    assert all(part in found for part in ids)


TEXT = st.text(max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["id", "uri", "path", "offset", "duration", "lang", "keywords", "text", "channel", "speakers"])


@given(st.lists(st.dictionaries(NAMES | TEXT, JSON, max_size=6) | JSON, max_size=5))
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_a_manifest_it_is_rows_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    report = check_manifest(str(path), CONFIG)
    if report.problem_count:
        with pytest.raises(ManifestError, match=r"^[^\n]+$"):
            rows_of(path)
    else:
        rows = rows_of(path)
        assert len({row["id"] for row in rows}) == len(rows) == report.rows
