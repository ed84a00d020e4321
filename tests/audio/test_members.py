"""Recordings inside containers: read by their own bytes alone, however the container lies about them."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_containers import made_clips
from servers import S3Endpoint, connect

from pipeline.audio.member import Piece, Row, piece_uri, row_uri, split_member
from pipeline.audio.reader import AudioReader
from pipeline.audio.row_group import Opened
from pipeline.audio.tar import BadTar, check_piece, members
from pipeline.audio.uri_policy import resolve
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError, TransientError
from pipeline.records import Recording

CLIPS = made_clips()
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AudioReader]:
    root = tmp_path_factory.getbasetemp()
    with AudioReader(DecodeConfig(whole_object_bytes=30_000), SourceConfig(), [str(root)]) as opened:
        yield opened


def code(ask: Callable[[], Any]) -> str:
    with pytest.raises(AudioError) as caught:
        ask()
    assert caught.value.message.endswith(".")
    return caught.value.code


def tar_of(path: Path, names: list[str] | None = None, form: int = tarfile.PAX_FORMAT) -> list[str]:
    """The clips as a tar file, and the uri of each as the index has it."""
    with tarfile.open(path, "w", format=form) as tar:
        for clip, name in zip(CLIPS, names or [f"{one.key}.{one.suffix}" for one in CLIPS], strict=False):
            info = tarfile.TarInfo(name)
            info.size = len(clip.data)
            tar.addfile(info, io.BytesIO(clip.data))
    return [piece_uri(str(path), Piece(one.name, one.start, one.end)) for one in indexed(path.read_bytes())]


def indexed(data: bytes) -> list[Any]:
    return list(members(lambda offset, length: data[offset : offset + length], len(data)))


# --------------------------------------------------------------------------------------------------------------------
# Names


def test_a_uri_names_container_and_member() -> None:
    piece = Piece("a/b c#1?x=y%.flac", 512, 1024)
    uri = piece_uri("s3://b/x#y.tar", piece)
    assert uri == "s3://b/x#y.tar#member=a/b%20c%231%3Fx%3Dy%25.flac&bytes=512-1024"
    assert split_member(uri) == ("s3://b/x#y.tar", piece)
    row = Row(3, 17, "my &#audio")
    assert split_member(row_uri("/a/t.parquet", row)) == ("/a/t.parquet", row)


@pytest.mark.parametrize(
    "uri", ["a#1.wav", "x.tar#member=a", "x.tar#bytes=1-2", "x.tar#member=a&bytes=1-2 ", "#", "a#member"]
)
def test_any_other_hash_belongs_to_a_name(uri: str) -> None:
    assert split_member(uri) == (uri, None)


@pytest.mark.parametrize(
    "uri",
    [
        "../secret.tar#member=a&bytes=512-600",
        "/etc/passwd#member=a&bytes=512-600",
        "file:///etc/passwd#member=a&bytes=512-600",
        "s3://other/x.tar#member=a&bytes=512-600",
        "http://h/x.tar#member=a&bytes=512-600",
        "x.tar#member=a&bytes=0-600",
        "x.tar#member=a&bytes=513-600",
        "x.tar#member=a&bytes=1024-600",
        "#member=a&bytes=512-600",
        "x.parquet#group=0&row=0&column=",
        "/etc/passwd#group=0&row=0&column=audio",
        "zip::x.tar#member=a&bytes=512-600",
    ],
)
def test_what_a_container_must_not_be(tmp_path: Path, uri: str) -> None:
    assert code(lambda: resolve(uri, [str(tmp_path)], ["file", "s3"])) == "uri_refused"


def test_a_member_is_never_a_path(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"")
    found = resolve("x.tar#member=../../../etc/passwd&bytes=512-600", [str(tmp_path)], ["file"])
    assert found.path == str(tmp_path / "x.tar")
    assert found.member == Piece("../../../etc/passwd", 512, 600)
    (tmp_path / "out.tar").symlink_to("/etc/passwd")
    assert code(lambda: resolve("out.tar#member=a&bytes=512-600", [str(tmp_path)], ["file"])) == "uri_refused"


# --------------------------------------------------------------------------------------------------------------------
# Tar files


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_every_form(tmp_path: Path, reader: AudioReader, form: int) -> None:
    names = ["./a.flac", "d/" + "x" * 90 + "/b.mp3", "ü.wav", "with space.flac", "e" * 99]
    names += [] if form == tarfile.USTAR_FORMAT else ["deep/" * 60 + "f.mp3", "ü" * 90]
    uris = tar_of(tmp_path / "x.tar", names, form)
    assert [split_member(uri)[1].name for uri in uris] == names  # type: ignore[union-attr]
    for uri, clip in zip(uris, CLIPS, strict=False):
        assert reader.probe(Recording("x", uri)).duration_s == pytest.approx(clip.length_s, abs=0.1)
        assert reader.probe(Recording("x", uri)).size_bytes == len(clip.data)


def test_a_member_is_what_the_file_would_be(tmp_path: Path, reader: AudioReader) -> None:
    for uri, clip in zip(tar_of(tmp_path / "x.tar"), CLIPS, strict=True):
        (tmp_path / "plain").write_bytes(clip.data)
        inside, plain = (reader.read(Recording("x", one), 0, None) for one in (uri, str(tmp_path / "plain")))
        assert np.array_equal(inside.samples, plain.samples)


def test_a_tar_that_has_changed_is_told(tmp_path: Path, reader: AudioReader) -> None:
    path = tmp_path / "x.tar"
    uris = tar_of(path)
    planned = reader.probe(Recording("x", uris[1]))
    tar_of(path, [f"other{n}.flac" for n in range(len(CLIPS))])
    assert code(lambda: reader.probe(Recording("x", uris[1]))) == "input_changed"
    again = reader.probe(Recording("x", tar_of(path)[1]))
    assert again.etag != planned.etag
    expect = (planned.size_bytes, planned.etag)
    assert code(lambda: reader.read(Recording("x", uris[1]), 0, None, expect=expect)) == "input_changed"
    os.truncate(path, 3_000)
    assert code(lambda: reader.probe(Recording("x", uris[-1]))) == "input_changed"
    path.unlink()
    assert code(lambda: reader.probe(Recording("x", uris[0]))) == "not_found"


def test_only_the_members_own_bytes_are_fetched(tmp_path: Path, moto_endpoint: S3Endpoint) -> None:
    uris = tar_of(tmp_path / "x.tar")
    store = connect(moto_endpoint)
    store.mkdirs("members", exist_ok=True)
    store.put_file(str(tmp_path / "x.tar"), "members/x.tar")
    source = SourceConfig(storage_options=moto_endpoint.storage_options())
    with AudioReader(DecodeConfig(), source, ["s3://members"]) as remote:
        for uri, clip in zip(uris, CLIPS, strict=True):
            uri = uri.replace(str(tmp_path), "s3://members")
            assert remote.read(Recording("x", uri), 0, None).report.fetched_bytes == len(clip.data) + 512


@pytest.mark.parametrize(
    ("kind", "said"),
    [(tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"), (tarfile.FIFOTYPE, None), (tarfile.DIRTYPE, None)],
)
def test_what_is_no_file_is_told_or_passed_over(kind: bytes, said: str | None) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("a.flac")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    assert [one.objection for one in indexed(data.getvalue())] == ([said] if said else [])


def header(name: bytes = b"a.flac", size: int = 0, kind: bytes = b"0") -> bytes:
    """A header block with a right checksum, whatever stands in it."""
    info = tarfile.TarInfo(name.decode())
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b" + b"x" * 600,
        b"x" * 100,
        header(size=5000) + b"x" * 512,
        header(size=2**62) + b"x" * 512,
        header(size=-5),
        header(size=10, kind=b"S") + b"x" * 512,
        header(size=2**30, kind=b"L"),
        header(size=2**30, kind=b"x"),
        header(size=512, kind=b"x") + b"8 path=b\n".ljust(512, b"\0") + header(),
        header(size=512, kind=b"x") + b"99999999999 path=b\n".ljust(512, b"\0") + header(),
        header(size=512, kind=b"x") + b"16 size=-999999\n".ljust(512, b"\0") + header(),
        header(size=512, kind=b"x") + (b"30 size=" + b"9" * 21 + b"\n").ljust(512, b"\0") + header(),
        (header(size=512, kind=b"L") + b"name".ljust(512, b"\0")) * 20 + header(),
        header(size=512, kind=b"g"),
    ],
)
def test_headers_that_cannot_be_believed(data: bytes) -> None:
    with pytest.raises(BadTar):
        indexed(data)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_damaged_tar_is_read_or_refused(at: int, junk: bytes) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("a.flac", "ü" * 80 + ".json", "b.wav"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(700)))
    whole = bytearray(data.getvalue())
    whole[at : at + len(junk)] = junk
    reads, said = 0, None

    def read(offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        assert 0 <= offset <= len(whole)
        assert length <= 2**20
        return bytes(whole[offset : offset + length])

    try:
        for member in members(read, len(whole)):
            assert 512 <= member.start <= member.end <= len(whole)
            head = bytes(whole[member.start - 512 : member.start])
            assert check_piece(head, Piece(member.name, member.start, member.end)) in (True, False)
    except BadTar as error:
        said = str(error)
    assert said is None or " at byte " in said or "cut short" in said or "before byte" in said
    assert reads < 100


# --------------------------------------------------------------------------------------------------------------------
# Parquet files


def parquet_of(path: Path, values: list[bytes | None], **options: Any) -> None:
    rows = [{"bytes": value, "path": "x.wav"} for value in values]
    pq.write_table(pa.table({"audio": pa.array(rows, AUDIO), "raw": pa.array(values, pa.binary())}), path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none", "use_dictionary": False},
        {"compression": "zstd", "data_page_version": "2.0", "write_page_index": True},
        {
            "use_dictionary": False,
            "column_encoding": {"audio.bytes": "DELTA_LENGTH_BYTE_ARRAY", "raw": "DELTA_BYTE_ARRAY"},
        },
        {"data_page_size": 1, "write_batch_size": 1},
    ],
)
def test_rows_of_every_encoding(tmp_path: Path, reader: AudioReader, options: dict[str, Any]) -> None:
    path = tmp_path / "x.parquet"
    parquet_of(path, [clip.data for clip in CLIPS], row_group_size=3, **options)
    for column in ("audio", "raw"):
        for n in (0, 1, 2, 5, 4, 6, 0):  # forward, back, and again
            found = reader.probe(Recording("x", row_uri(str(path), Row(n // 3, n % 3, column))))
            assert found.size_bytes == len(CLIPS[n].data)
            assert found.duration_s == pytest.approx(CLIPS[n].length_s, abs=0.1)


def test_neighbours_are_read_in_one_go(tmp_path: Path) -> None:
    """Forward through a row group: its bytes come once, and never as a whole."""
    path = tmp_path / "x.parquet"
    values = [os.urandom(400_000) for _ in range(40)]
    parquet_of(path, [None, *values[1:]], row_group_size=20, use_dictionary=False)
    data, reads = path.read_bytes(), []

    def read_range(start: int, end: int) -> bytes:
        reads.append(end - start)
        return data[start:end]

    file = Opened(read_range, len(data), 2**30)
    assert [file.value(Row(1, n, "audio")).to_pybytes() for n in range(20)] == values[20:]
    assert sum(reads) < 20 * 400_000 + 500_000
    assert max(reads) <= 4 * 2**20
    assert code(lambda: file.value(Row(0, 0, "audio"))) == "empty_file"
    assert file.value(Row(0, 1, "audio")).to_pybytes() == values[1]


def test_what_is_not_there_has_a_code(tmp_path: Path, reader: AudioReader) -> None:
    path = tmp_path / "x.parquet"
    parquet_of(path, [CLIPS[0].data, b"no audio"], row_group_size=2)

    def ask(group: int, row: int, column: str) -> str:
        return code(lambda: reader.probe(Recording("x", row_uri(str(path), Row(group, row, column)))))

    assert ask(1, 0, "audio") == "not_found"
    assert ask(0, 2, "audio") == "not_found"
    assert ask(0, 0, "video") == "not_found"
    assert ask(0, 0, "audio.path") == "not_found"
    assert ask(0, 1, "audio") == "not_audio"
    path.write_bytes(b"PAR1" + b"x" * 100)
    assert ask(0, 0, "audio") == "bad_header"
    path.write_bytes(b"PAR1" + b"x" * 100 + (2**31 - 1).to_bytes(4, "little") + b"PAR1")
    assert ask(0, 0, "audio") == "bad_header"


def test_a_huge_row_group_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet_of(path, [CLIPS[0].data] * 3, use_dictionary=False)
    with AudioReader(DecodeConfig(row_group_bytes=20_000), SourceConfig(), [str(tmp_path)]) as reader:
        uri = row_uri(str(path), Row(0, 0, "audio"))
        assert code(lambda: reader.probe(Recording("x", uri))) == "object_too_large"


def thrift_number(value: int, as_long_as: int = 0) -> bytes:
    """A positive number as thrift writes it; or longer than it needs to be."""
    rest, data = 2 * value, b""
    while rest > 0x7F or len(data) + 1 < (len(thrift_number(as_long_as)) if as_long_as else 0):
        data, rest = data + bytes([rest & 0x7F | 0x80]), rest >> 7
    return data + bytes([rest])


def test_a_page_that_claims_more_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """Three megabytes of zeros are a few hundred bytes, and the footer says that they are less."""
    path = tmp_path / "x.parquet"
    parquet_of(path, [bytes(3 * 2**20)], compression="zstd", use_dictionary=False)
    data = path.read_bytes()
    assert len(data) < 10_000
    file = Opened(lambda start, end: data[start:end], len(data), 4 * 2**20)
    assert file.value(Row(0, 0, "audio")).size == 3 * 2**20
    size = pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size
    lie = data.replace(thrift_number(size), thrift_number(5_000, as_long_as=size))
    assert lie != data
    file = Opened(lambda start, end: lie[start:end], len(lie), 2**20)
    assert code(lambda: file.value(Row(0, 0, "audio"))) == "object_too_large"


def test_a_store_that_breaks_off_is_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet_of(path, [os.urandom(3 * 2**20) for _ in range(4)], use_dictionary=False, write_batch_size=1)
    data, away = path.read_bytes(), False

    def read_range(start: int, end: int) -> bytes:
        if away:
            raise TransientError("fetch_failed", "The store broke off.")
        return data[start:end]

    file = Opened(read_range, len(data), 2**30)
    file.value(Row(0, 0, "audio"))
    away = True
    with pytest.raises(TransientError):
        file.value(Row(0, 3, "audio"))
    away = False
    assert file.value(Row(0, 3, "audio")).size == 3 * 2**20


_SEED = io.BytesIO()
pq.write_table(
    pa.table({"audio": pa.array([{"bytes": bytes([n]) * 90, "path": "x"} for n in range(30)], AUDIO)}),
    _SEED,
    compression="zstd",
    row_group_size=15,
)


@given(st.lists(st.tuples(st.integers(0, len(_SEED.getvalue()) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_damaged_parquet_gives_values_or_codes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(_SEED.getvalue())
    for at, value in changes:
        data[at] = value
    for row in (0, 14):
        failure = None
        try:
            file = Opened(lambda start, end: bytes(data[start:end]), len(data), 2**20)
            assert file.value(Row(1, row, "audio")).size <= 2**20
        except AudioError as error:
            failure = error
        codes = ("bad_header", "not_found", "object_too_large", "empty_file")
        assert failure is None or (failure.code in codes and failure.message.isprintable())
