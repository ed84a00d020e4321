"""A model's files from a folder and from an object store. The hub has tests of its own (test_hub_files.py)."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pytest
from flaky_proxy import FlakyProxy, flaky_proxy
from servers import S3Endpoint, connect

from pipeline.engines import model_files
from pipeline.engines.model_files import ModelFiles, find_model
from pipeline.errors import ConfigError
from pipeline.store import objects, patience
from pipeline.store.download import RANGE_BYTES

WEIGHTS = np.random.default_rng(3).bytes(2 * RANGE_BYTES + 17)
FILES = {"model.safetensors": WEIGHTS, "config.json": b"{}", "README.md": b"# Model", "remote_code.py": b"boom"}
WANTED = ["config.json", "model.safetensors"]
ELSEWHERE = ("../config.json", "/etc/passwd", "below/other.bin", "..", "", ".hidden", "a\\b", "a\n", "remote_code.py")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUARRY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "below").mkdir(parents=True)
    for name, data in FILES.items():
        (made / name).write_bytes(data)
    (made / "below" / "other.bin").write_bytes(b"not seen")
    (made / ".hidden").write_bytes(b"not seen")
    return made


def put_model(s3_endpoint: S3Endpoint) -> str:
    fs, path = connect(s3_endpoint), f"models/{uuid4().hex}"
    fs.mkdirs("models", exist_ok=True)
    for name, data in {**FILES, "below/other.bin": b"not seen"}.items():
        fs.pipe_file(f"{path}/{name}", data)
    return f"s3://{path}"


@pytest.fixture(scope="module")
def bucket(s3_endpoint: S3Endpoint) -> str:
    """A model on the S3 server that no test changes."""
    return put_model(s3_endpoint)


@pytest.fixture
def own_bucket(s3_endpoint: S3Endpoint) -> str:
    """A model of its own on the S3 server."""
    return put_model(s3_endpoint)


@pytest.fixture
def proxy(s3_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.001)
    with flaky_proxy(s3_endpoint.endpoint_url) as running:
        yield running


@pytest.fixture(params=["folder", "file uri", "memory", "s3"])
def model(request: pytest.FixtureRequest, cache: Path) -> ModelFiles:
    if request.param in ("folder", "file uri"):
        folder = request.getfixturevalue("folder")
        return find_model(f"file://{folder}" if request.param == "file uri" else str(folder))
    if request.param == "s3":
        options = request.getfixturevalue("s3_endpoint").storage_options()
        return find_model(request.getfixturevalue("bucket"), options)
    fs, uri = fsspec.filesystem("memory"), f"memory://{uuid4().hex}/model"
    for name, data in {**FILES, "below/other.bin": b"not seen"}.items():
        fs.pipe_file(f"{uri}/{name}", data)
    return find_model(uri)


def everything_under(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_what_is_there_can_be_told_and_fetched(model: ModelFiles, cache: Path) -> None:
    assert model.names() == set(FILES)
    assert model.size_bytes("model.safetensors") == len(WEIGHTS)
    assert model.fetch_head("model.safetensors", 1000) == WEIGHTS[:1000]
    assert model.fetch_head("config.json", 1000) == b"{}"
    assert model.fetch_head("config.json", 0) == b""
    assert re.fullmatch("[0-9a-f]{12}", model.revision("model.safetensors"))
    assert everything_under(cache) == set(), "telling fetches nothing"
    found = model.fetch(WANTED)
    assert {name: (found / name).read_bytes() for name in WANTED} == {name: FILES[name] for name in WANTED}
    assert everything_under(cache) <= set(WANTED), "what nobody asked for is not fetched"
    before = (found / "model.safetensors").stat().st_mtime_ns
    assert model.fetch(WANTED[::-1]) == found
    assert (found / "model.safetensors").stat().st_mtime_ns == before


def test_names_that_lead_elsewhere_or_hold_code_are_refused(model: ModelFiles) -> None:
    for name in ELSEWHERE:
        calls: list[tuple[str, Any]] = [
            ("fetch", [name]),
            ("fetch_head", name),
            ("size_bytes", name),
            ("revision", name),
        ]
        for method, argument in calls:
            with pytest.raises(ConfigError, match="only plain files of data are fetched"):
                getattr(model, method)(argument, *[10] * (method == "fetch_head"))


@pytest.mark.parametrize("name", ["weights.pkl", "weights.PT", "pytorch_model.ckpt", "modeling.py"])
def test_pickles_and_code_are_refused_wherever_they_lie(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"boom")
    with pytest.raises(ConfigError, match="only plain files of data"):
        find_model(str(folder)).fetch([name])


def test_what_is_missing_is_named(model: ModelFiles) -> None:
    with pytest.raises(ConfigError, match=r"lacks tokenizer\.json, vocab\.json; check"):
        model.fetch(["config.json", "tokenizer.json", "vocab.json"])
    with pytest.raises(ValueError, match="the name of a file"):
        model.fetch([])


def test_a_folder_is_used_where_it_lies_and_its_weights_are_read_once(folder: Path) -> None:
    model = find_model(str(folder))
    assert model.fetch(WANTED) == folder
    revision = model.revision("model.safetensors")
    assert revision == hashlib.sha256(WEIGHTS).hexdigest()[:12]
    hits = model_files._sha256.cache_info().hits
    assert find_model(str(folder)).revision("model.safetensors") == revision
    assert model_files._sha256.cache_info().hits == hits + 1
    (folder / "model.safetensors").write_bytes(b"others")
    assert model.revision("model.safetensors") == hashlib.sha256(b"others").hexdigest()[:12]


def test_links_are_files(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"  # as in the cache of the hub
    linked.mkdir()
    (linked / "config.json").symlink_to(folder / "config.json")
    (linked / "gone.json").symlink_to(folder / "gone.json")
    model = find_model(str(linked))
    assert (model.names(), model.size_bytes("config.json")) == ({"config.json"}, 2)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("no/such/folder", "There is no folder 'no/such/folder'"),
        ("file:///no/such", "There is no folder"),
        ("sftp://user:CANARY@host/model", r"sftp://host/model has a password or a query; put it into engine"),
        ("https://host/model?token=CANARY", r"https://host/model has a password or a query"),
        ("hf://owner/name", "write hf://owner/name@ and the 40 hex digits"),
        ("hf://owner/name@main", "names no commit"),
        ("hf://owner/name@refs/pr/6", "names no commit"),
        ("hf://owner/name@99a4df9", "names no commit"),
        (f"hf://owner/name@{'A' * 40}", "names no commit"),
        (f"hf://owner/name@{'a' * 41}", "names no commit"),
        (f"hf://owner/name@{'a' * 40}/below", "names no commit"),
        (f"hf://name@{'a' * 40}", "names no commit"),
        (f"hf://../..@{'a' * 40}", "names no commit"),
        (f"hf://owner/na--me@{'a' * 40}", "names no commit"),
    ],
)
def test_what_is_no_model_is_refused_at_once_in_one_sentence(model: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as error:
        find_model(model)
    assert "CANARY" not in str(error.value)
    assert "\n" not in str(error.value)


def test_another_object_under_a_name_is_another_folder(own_bucket: str, s3_endpoint: S3Endpoint, cache: Path) -> None:
    model, fs = find_model(own_bucket, s3_endpoint.storage_options()), connect(s3_endpoint)
    found, revision = model.fetch(WANTED), model.revision("model.safetensors")
    fs.pipe_file(f"{own_bucket}/README.md", b"# Model, now with a page")
    assert (model.fetch(WANTED), model.revision("model.safetensors")) == (found, revision)
    fs.pipe_file(f"{own_bucket}/model.safetensors", WEIGHTS[::-1])  # as long as before
    assert model.revision("model.safetensors") != revision
    assert (model.fetch(WANTED) / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert (found / "model.safetensors").read_bytes() == WEIGHTS


def test_a_store_without_etags_tells_by_time() -> None:
    fs, uri = fsspec.filesystem("memory"), f"memory://{uuid4().hex}/model"
    fs.pipe_file(f"{uri}/w", b"one")
    before = find_model(uri).revision("w")
    time.sleep(0.002)
    fs.pipe_file(f"{uri}/w", b"two")
    assert find_model(uri).revision("w") != before


def test_a_head_is_read_without_the_rest(bucket: str, s3_endpoint: S3Endpoint, proxy: FlakyProxy) -> None:
    model = find_model(bucket, {**s3_endpoint.storage_options(), "endpoint_url": proxy.url})
    assert model.fetch_head("model.safetensors", 5000) == WEIGHTS[:5000]
    assert proxy.sent_bytes < 20_000


@pytest.mark.parametrize("fault", ["refuse", "reset", "truncate"])
def test_a_connection_that_breaks_is_mended(
    bucket: str, s3_endpoint: S3Endpoint, proxy: FlakyProxy, cache: Path, fault: str
) -> None:
    model = find_model(bucket, {**s3_endpoint.storage_options(), "endpoint_url": proxy.url})
    proxy.pending[fault, "GET"] = 4
    assert (model.fetch(WANTED) / "model.safetensors").read_bytes() == WEIGHTS
    proxy.pending[fault, "GET"] = 2
    assert model.fetch_head("config.json", 2) == b"{}"
    assert proxy.pending[fault, "GET"] == 0


def test_a_store_that_stays_broken_is_given_up_without_a_trace(
    bucket: str, s3_endpoint: S3Endpoint, proxy: FlakyProxy, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = find_model(bucket, {**s3_endpoint.storage_options(), "endpoint_url": proxy.url})
    whole_range = objects.ObjectStore.get_range

    def break_off(store: objects.ObjectStore, key: str, start: int, end: int) -> bytes:
        proxy.pending["truncate", "GET"] = 1000  # from the second range on
        return whole_range(store, key, start, end)

    monkeypatch.setattr(objects.ObjectStore, "get_range", break_off)
    with pytest.raises(
        ConfigError, match=r"could not be read \(.*check the uri, engine\.storage_options and the network"
    ):
        model.fetch(WANTED)
    assert everything_under(cache) == set()


def test_a_model_that_is_replaced_while_it_is_fetched_is_no_mixture(
    own_bucket: str, s3_endpoint: S3Endpoint, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fs = find_model(own_bucket, s3_endpoint.storage_options()), connect(s3_endpoint)
    whole_range = objects.ObjectStore.get_range

    def replace_meanwhile(store: objects.ObjectStore, key: str, start: int, end: int) -> bytes:
        if start:
            fs.pipe_file(f"{own_bucket}/{key}", WEIGHTS[::-1])
        return whole_range(store, key, start, end)

    monkeypatch.setattr(objects.ObjectStore, "get_range", replace_meanwhile)
    with pytest.raises(ConfigError, match=r"model\.safetensors changed while it was read; run again"):
        model.fetch(["model.safetensors"])
    assert everything_under(cache) == set()


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_credentials_are_named_and_not_shown(bucket: str, s3_endpoint: S3Endpoint, wrong: str) -> None:
    model = find_model(bucket, {**s3_endpoint.storage_options(), wrong: "CANARY-17"})
    with pytest.raises(ConfigError, match=r"check the credentials and rights \(engine\.storage_options") as error:
        model.names()
    assert "CANARY-17" not in str(error.value) + repr(model)
    assert error.value.__suppress_context__


def test_wrong_places_are_named(s3_endpoint: S3Endpoint) -> None:
    options = s3_endpoint.storage_options()
    connect(s3_endpoint).mkdirs("models", exist_ok=True)
    for uri, expected in [
        ("s3://models/none", "There are no files of a model in s3://models/none"),
        ("s3://no-such-bucket/model", "s3://no-such-bucket/model could not be listed"),
        ("nosuch://host/model", "nosuch://host/model could not be opened"),
    ]:
        with pytest.raises(ConfigError, match=expected):
            find_model(uri, options if uri.startswith("s3") else {}).names()


_FETCH = """
import os, signal, sys
from pipeline.engines.model_files import find_model
uri, endpoint, key, secret, moment = sys.argv[1:]
if moment == "fsync":
    os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if moment == "wait":
    input()
options = {"endpoint_url": endpoint, "key": key, "secret": secret}
print(find_model(uri, options).fetch(["config.json", "model.safetensors"]))
"""


def start_fetch(uri: str, endpoint: S3Endpoint, moment: str = "", url: str = "") -> subprocess.Popen[str]:
    arguments = [uri, url or endpoint.endpoint_url, endpoint.key, endpoint.secret, moment]
    command = [sys.executable, "-c", _FETCH, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_start_at_once_fetch_once(
    bucket: str, s3_endpoint: S3Endpoint, proxy: FlakyProxy, cache: Path
) -> None:
    fetching = [start_fetch(bucket, s3_endpoint, "wait", proxy.url) for _ in range(3)]
    for process in fetching:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=120) for process in fetching]
    assert [process.returncode for process in fetching] == [0, 0, 0], told
    (folder,) = {out.strip() for out, _ in told}
    assert {path.name for path in Path(folder).iterdir()} == set(WANTED)
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS
    assert proxy.sent_bytes < 1.5 * len(WEIGHTS)


def test_what_a_killed_fetch_left_is_ignored_and_removed(bucket: str, s3_endpoint: S3Endpoint, cache: Path) -> None:
    killed = start_fetch(bucket, s3_endpoint, "fsync")
    assert killed.wait(60) == -signal.SIGKILL
    killed.communicate()
    (left,) = cache.rglob("*.part")
    elsewhere = left.with_name(f".config.json.another-machine.{os.getpid()}.0a1b2c3d.part")
    forgotten = left.with_name(f".config.json.third-machine.{os.getpid()}.0a1b2c3d.part")
    ours = left.with_name(f".config.json.{model_files._machine()}.{os.getpid()}.0a1b2c3d.part")
    for path in (elsewhere, forgotten, ours):
        path.write_bytes(b"half")
    os.utime(forgotten, (0, 0))
    found = find_model(bucket, s3_endpoint.storage_options()).fetch(WANTED)
    assert (found / "config.json").read_bytes() == b"{}"
    assert set(cache.rglob("*.part")) == {elsewhere, ours}


def test_a_cached_file_that_lost_its_end_is_fetched_again(bucket: str, s3_endpoint: S3Endpoint, cache: Path) -> None:
    model = find_model(bucket, s3_endpoint.storage_options())
    found = model.fetch(WANTED)
    os.truncate(found / "model.safetensors", 1000)
    assert (model.fetch(WANTED) / "model.safetensors").read_bytes() == WEIGHTS


_FULL = """
import resource, sys
from pipeline.engines.model_files import find_model
from pipeline.errors import ConfigError
uri, endpoint, key, secret, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
options = {"endpoint_url": endpoint, "key": key, "secret": secret}
try:
    find_model(uri, options).fetch(["config.json", "model.safetensors"])
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["a full disk", "no more bytes"])
def test_a_full_disk_is_told_and_leaves_nothing_half(
    bucket: str, s3_endpoint: S3Endpoint, cache: Path, kind: str
) -> None:
    python = [sys.executable, "-c", _FULL, bucket, *s3_endpoint]
    cache.mkdir()
    if kind == "a full disk":
        mount = 'mount -t tmpfs -o size=4m quarry "$0" && "$@" && find "$0" -size +1k -type f'
        command = ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c", mount, str(cache), *python, "0"]
        possible = (
            shutil.which("unshare") and subprocess.run([*command[:6], "mount -t tmpfs quarry /mnt"]).returncode == 0
        )
        if not possible:
            pytest.skip("this machine lets tests mount nothing")
    else:
        command = [*python, str(1_000_000)]  # the disk says that it has room, and then it has not
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = (
        "needs 17 MB in .* where 4 MB are free"
        if kind == "a full disk"
        else r"cannot be written to .* \(File too large\)"
    )
    assert re.fullmatch(f"The model {bucket} {told}.*; free some space, or set QUARRY_CACHE\\.\n", done.stdout), done
    assert everything_under(cache) <= {"config.json"}


def test_a_cache_that_cannot_be_written_is_told(
    bucket: str, s3_endpoint: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("QUARRY_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be written to .*Not a directory\); free some space, or set"):
        find_model(bucket, s3_endpoint.storage_options()).fetch(WANTED)
