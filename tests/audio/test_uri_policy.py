"""Which URIs a manifest row may name (F26)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.uri_policy import Location, resolve, shown, without_secrets
from pipeline.errors import AudioError

SCHEMES = ("file", "s3")
S3_ROOTS = ("s3://bucket/audio",)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.wav", "deep/b.wav", "with space.wav", "ü.wav", "50%.wav", "12:30.wav", "what?.wav"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "archive-2").mkdir()
    (tmp_path / "archive-2" / "c.wav").write_bytes(b"x")
    (folder / "inside.wav").symlink_to(folder / "a.wav")
    (folder / "outside.wav").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("uri", "leads_to"),
    [
        ("{root}/a.wav", "a.wav"),
        ("file://{root}/a.wav", "a.wav"),
        ("file://localhost{root}/a.wav", "a.wav"),
        ("FILE://{root}/a.wav", "a.wav"),
        ("a.wav", "a.wav"),
        ("deep/b.wav", "deep/b.wav"),
        ("./12:30.wav", "12:30.wav"),
        ("deep/../a.wav", "a.wav"),
        ("inside.wav", "a.wav"),
        ("with space.wav", "with space.wav"),
        ("file://{root}/with%20space.wav", "with space.wav"),
        ("ü.wav", "ü.wav"),
        ("50%.wav", "50%.wav"),
        ("what?.wav", "what?.wav"),
        ("{root}//a.wav", "a.wav"),
    ],
)
def test_paths_under_the_root_pass(root: Path, uri: str, leads_to: str) -> None:
    assert resolve(uri.format(root=root), [str(root)], SCHEMES) == Location("file", str(root / leads_to))


@pytest.mark.parametrize(
    "uri",
    [
        "",
        " \n",
        "\0",
        "a.wav\0.txt",
        "a\nb.wav",
        "../secret",
        "deep/../../secret",
        "{root}/../secret",
        "{root}-2/c.wav",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "/proc/self/cwd/../etc/passwd",
        "/dev/zero",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "file://{root}/../secret",
        "file://{root}/%2e%2e/secret",
        "file://{root}/..%2fsecret",
        "file://{root}/a%00.wav",
        "file://otherhost{root}/a.wav",
        "file:{root}/a.wav",
        "file:/etc/passwd",
        "outside.wav",
        "up/secret",
        "up/archive-2/c.wav",
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost:8265/api/jobs/",
        "http://127.0.0.1/a.wav",
        "http://[::1]/a.wav",
        "HTTP://example.com/a.wav",
        "https://example.com/a.wav",
        "ftp://example.com/a.wav",
        "gs://bucket/a.wav",
        "s3://other/a.wav",
        "s3:///a.wav",
        "command:cat /etc/passwd",
        "pipe:0",
        "data:audio/wav;base64,AAAA",
        "concat:a.wav|b.wav",
        "tcp://127.0.0.1:1",
        "rtsp://127.0.0.1/x",
        "udp://@239.0.0.1:1234",
        "crypto:a.wav",
        "cache:http://127.0.0.1/",
        "zip://a.wav::{root}/x.zip",
        "simplecache::s3://bucket/audio/a.wav",
        "filecache::http://127.0.0.1/a.wav",
        "github://org:repo@main/a.wav",
        "memory://a.wav",
        "ssh://host/a.wav",
        "smb://host/share/a.wav",
        "hf://datasets/x/y",
        "javascript:alert(1)",
    ],
)
def test_everything_else_is_refused(root: Path, uri: str) -> None:
    with pytest.raises(AudioError) as caught:
        resolve(uri.format(root=root), [str(root)], SCHEMES)
    assert caught.value.code == "uri_refused"
    assert caught.value.stage == "fetch"
    assert "source." in caught.value.message or "row" in caught.value.message or "file" in caught.value.message
    assert len(caught.value.message) <= 500


@pytest.mark.parametrize(
    "name",
    [
        "~/a.wav",
        "$HOME/a.wav",
        "`id`.wav",
        "\\\\host\\a.wav",
        "subfile,,start,0,end,9,,:a.wav",
        "-i",
        "wide\u3000a.wav",
    ],
)
def test_odd_names_are_names_of_files_under_the_root(root: Path, name: str) -> None:
    assert resolve(name, [str(root)], SCHEMES).path == f"{root}/{name}"


@pytest.mark.parametrize(
    "uri", ["s3://bucket/audio/a.wav", "S3://bucket/audio/x/y z?.wav", "x.wav", "s3://bucket/audio//a.wav"]
)
def test_objects_under_the_prefix_pass(uri: str) -> None:
    location = resolve(uri, S3_ROOTS, SCHEMES)
    assert location.scheme == "s3"
    assert location.path.startswith("bucket/audio/")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/audio2/a.wav",
        "s3://bucket/a.wav",
        "s3://bucket2/audio/a.wav",
        "s3://bucket/audio/../secret/a.wav",
        "s3://bucket/audio/./a.wav",
        "s3://user:password@bucket/audio/a.wav",
        "s3://bucket/",
        "s3://bucket",
        "/etc/passwd",
        "../x.wav",
    ],
)
def test_objects_elsewhere_are_refused(uri: str) -> None:
    with pytest.raises(AudioError) as caught:
        resolve(uri, S3_ROOTS, SCHEMES)
    assert caught.value.code == "uri_refused"


def test_a_scheme_must_be_listed_even_under_its_root() -> None:
    with pytest.raises(AudioError, match=r"source\.schemes"):
        resolve("gs://bucket/a.wav", ["gs://bucket"], SCHEMES)
    assert resolve("gs://bucket/a.wav", ["gs://bucket"], ["gs"]).path == "bucket/a.wav"


def test_http_is_never_read_even_when_listed() -> None:
    with pytest.raises(AudioError, match=r"source\.roots"):
        resolve("http://host/a.wav", ["http://host"], ["http"])


def test_without_roots_nothing_passes() -> None:
    with pytest.raises(AudioError, match=r"source\.roots"):
        resolve("/tmp/a.wav", [], SCHEMES)


def test_messages_keep_secrets() -> None:
    with pytest.raises(AudioError) as caught:
        resolve("https://me:hunter2@host/a.wav?X-Amz-Signature=abc", ["/data"], SCHEMES)
    assert "hunter2" not in caught.value.message
    assert "X-Amz" not in caught.value.message


@given(st.text(max_size=60))
def test_no_text_leaves_the_root(text: str) -> None:
    root = os.path.realpath("/var/empty-root-of-this-test")
    with suppress(AudioError):
        location = resolve(text, [root], SCHEMES)
        assert location.path == root or location.path.startswith(root + "/")
    assert len(shown(text)) <= 200


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("s3://user:CANARY@bucket/a.wav", "s3://bucket/a.wav"),
        ("https://user:CANARY@host/a.wav", "https://host/a.wav"),
        ("https://host/a.wav?X-Amz-Credential=CANARY&X-Amz-Signature=CANARY", "https://host/a.wav?…"),
        ("s3://bucket/a.wav?v=1&X-Goog-Signature=CANARY", "s3://bucket/a.wav?…"),
        ("https://host/a.wav?sv=2024&sig=CANARY%3D", "https://host/a.wav?…"),
        ("https://host/a.wav?access_token=CANARY", "https://host/a.wav?…"),
        ("s3://bucket/what?.wav", "s3://bucket/what?.wav"),
        ("s3://bucket/a?versionId=3", "s3://bucket/a?versionId=3"),
        ("s3://bucket/me@home.wav", "s3://bucket/me@home.wav"),
        ("/local/what?token=x.wav", "/local/what?token=x.wav"),
        ("file:///local/a@b.wav", "file:///local/a@b.wav"),
    ],
)
def test_secrets_are_not_stored_and_nothing_else_is_lost(uri: str, stored: str) -> None:
    assert without_secrets(uri) == stored
    assert without_secrets(stored) == stored
