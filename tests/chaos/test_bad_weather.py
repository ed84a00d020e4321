"""Runs over a store that refuses half of all requests, cuts bodies off, goes away, fills up, or is closed to us (F11, F12, F30).

The short forms of `tests/chaos/storm.py --weather`: one process, the fake engine, audio and output on a real S3 server behind a
proxy; and a small file system that is really full. Every run must end as an undisturbed one, at the latest when it is resumed.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from threading import Thread, Timer
from typing import Any
from uuid import uuid4

import pytest
from flaky_proxy import FlakyProxy, flaky_proxy
from running import Done, fake_settings, quarry, table
from servers import S3Endpoint, Seaweed, connect, free_ports
from storm import Storm, judge, put_archive, settings

from pipeline.runtime import local_flow
from pipeline.store import patience

CLIPS = 12
AUDIO = (".flac", ".wav")


@pytest.fixture(scope="module")
def texts(s3_endpoint: S3Endpoint) -> dict[str, str]:
    return put_archive(connect(s3_endpoint), "chaos", CLIPS)


@pytest.fixture
def proxy(s3_endpoint: S3Endpoint) -> Iterator[FlakyProxy]:
    with flaky_proxy(s3_endpoint.endpoint_url) as running:
        yield running


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts as ever, with shorter pauses."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.02)


@pytest.fixture
def command(proxy: FlakyProxy, s3_endpoint: S3Endpoint, texts: dict[str, str], tmp_path: Path) -> list[str]:
    """`quarry run` with audio and output behind the proxy."""
    return run_command(proxy, s3_endpoint, tmp_path, f"s3://chaos/{uuid4().hex}")


def run_command(proxy: FlakyProxy, endpoint: S3Endpoint, folder: Path, output: str) -> list[str]:
    """The manifest is a local file, so that it is audio and output alone that are disturbed."""
    filesystem = connect(endpoint)
    rows = map(json.loads, filesystem.cat_file("chaos/archive/manifest.jsonl").decode().splitlines())
    moved = [row | {"audio_filepath": f"s3://chaos/archive/{row['audio_filepath']}"} for row in rows]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in moved))
    extra = {"runtime.kind": "local", "engine.options": "{}", "manifest": manifest, "source.roots": "['s3://chaos']"}
    return ["run", *settings(proxy.url, *endpoint[1:], output, **extra)]


def undisturbed(command: list[str], endpoint: S3Endpoint, texts: dict[str, str]) -> bool:
    """Whether the run's tables hold what an undisturbed run would have put there."""
    output = next(word for word in command if word.startswith("output=")).removeprefix("output=s3://")
    storm = Storm(1, CLIPS, 0)
    judge(storm, connect(endpoint), output, texts, FlakyProxy(endpoint.endpoint_url))
    return storm.clean


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("rates", [{"refuse": 0.5}, {"truncate": 0.2}])
def test_faults_all_through_a_run_leave_no_trace(
    rates: dict[str, float], command: list[str], proxy: FlakyProxy, s3_endpoint: S3Endpoint, texts: dict[str, str]
) -> None:
    proxy.rates, proxy.random = rates, Random(7)
    done = quarry(*command)
    assert done.returncode == 0, done.stderr
    assert sum(proxy.faults.values()) > 3, "a store that behaves proves nothing"
    assert undisturbed(command, s3_endpoint, texts)


def after(proxy: FlakyProxy, audio: int, then: Callable[[], Any]) -> None:
    """Do something once, when so many recordings have been read."""
    before = proxy.denied
    seen: set[str] = set()

    def watch(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith(AUDIO):
            seen.add(path)
        if len(seen) > audio:
            proxy.denied = before
            then()
        return proxy.denied(method, path) if proxy.denied is not watch else None

    proxy.denied = watch


def test_an_outage_in_the_middle_is_waited_out(
    command: list[str], proxy: FlakyProxy, s3_endpoint: S3Endpoint, texts: dict[str, str]
) -> None:
    """Nobody is behind the proxy for a while."""
    there = proxy.target
    back = Timer(2.0, lambda: setattr(proxy, "target", there))
    after(proxy, 5, lambda: (setattr(proxy, "target", f"127.0.0.1:{free_ports(1)[0]}"), back.start()))
    done = quarry(*command)
    assert done.returncode == 0, done.stderr
    assert proxy.faults["away"], "nobody noticed the outage"
    assert undisturbed(command, s3_endpoint, texts)


@pytest.mark.slow  # half a minute of outage, and two starts of a server
def test_a_server_that_is_killed_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    """With its data, after half a minute."""
    server = Seaweed(tmp_path, free_ports(8))
    server.start()
    try:
        texts = put_archive(connect(server.endpoint), "chaos", CLIPS)
        with flaky_proxy(server.endpoint.endpoint_url) as proxy:
            command = run_command(proxy, server.endpoint, tmp_path, "s3://chaos/out")
            outage = Thread(target=lambda: (time.sleep(30), server.start()))
            after(proxy, 5, lambda: (server.kill(), outage.start()))
            done = quarry(*command)
            outage.join()
        assert done.returncode == 0, done.stderr
        assert proxy.faults["away"], "nobody noticed the outage"
        assert undisturbed(command, server.endpoint, texts)
    finally:
        server.kill()


@pytest.mark.usefixtures("hurried")
def test_a_longer_outage_ends_the_run_and_the_same_command_resumes(
    command: list[str],
    proxy: FlakyProxy,
    s3_endpoint: S3Endpoint,
    texts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "DEADLINE_S", 0.2)  # given up after that, with attempts left
    there = proxy.target
    after(proxy, 5, lambda: setattr(proxy, "target", f"127.0.0.1:{free_ports(1)[0]}"))
    done = quarry(*command)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "the same command resumes" in done.stderr
    proxy.target = there
    assert quarry(*command).returncode == 0
    assert undisturbed(command, s3_endpoint, texts)


def stopped(done: Done, reason: str) -> None:
    """Exit 2 and, last, a sentence that names what to mend and says that the same command resumes."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert reason in said
    assert "the same command resumes" in said


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("ExpiredToken", "everything"),
        pytest.param("AccessDenied", "archive", marks=pytest.mark.slow),
        pytest.param("ExpiredToken", "archive", marks=pytest.mark.slow),
        pytest.param("InvalidAccessKeyId", "archive", marks=pytest.mark.slow),
        pytest.param("InvalidAccessKeyId", "everything", marks=pytest.mark.slow),
        pytest.param("AccessDenied", "everything", marks=pytest.mark.slow),
    ],
)
def test_lost_credentials_stop_a_run_and_fail_no_recording(
    what: str, where: str, command: list[str], proxy: FlakyProxy, s3_endpoint: S3Endpoint, texts: dict[str, str]
) -> None:
    def lost(method: str, path: str) -> str | None:
        return what if where == "everything" or path.endswith(AUDIO) else None

    after(proxy, 5, lambda: setattr(proxy, "denied", lost))
    stopped(quarry(*command), "credentials")
    proxy.denied = lambda method, path: None
    assert quarry(*command).returncode == 0
    assert undisturbed(command, s3_endpoint, texts)


@pytest.mark.usefixtures("hurried")
def test_a_worker_that_starts_without_rights_fails_no_recording(command: list[str], proxy: FlakyProxy) -> None:
    """It has read nothing before that it could ask for again; the objects of its neighbours are refused as well."""
    proxy.denied = lambda method, path: "AccessDenied" if path.endswith(AUDIO) else None
    stopped(quarry(*command), "credentials")


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("refused", [pytest.param("00000.flac", marks=pytest.mark.slow), "00009.wav"])
def test_one_object_that_is_refused_is_a_row(
    refused: str, command: list[str], proxy: FlakyProxy, s3_endpoint: S3Endpoint, texts: dict[str, str]
) -> None:
    proxy.denied = lambda method, path: "AccessDenied" if path.endswith(refused) else None
    done = quarry(*command)
    assert done.returncode == 1, done.stderr
    assert "access_denied" in done.stdout


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("begun", [False, True], ids=["from the start", "in the middle"])
def test_a_bucket_that_is_read_only(
    begun: bool, command: list[str], proxy: FlakyProxy, s3_endpoint: S3Endpoint, texts: dict[str, str]
) -> None:
    def read_only(method: str, path: str) -> str | None:
        return "AccessDenied" if method in ("PUT", "POST", "DELETE") else None

    if begun:
        after(proxy, 5, lambda: setattr(proxy, "denied", read_only))
        stopped(quarry(*command), "credentials and rights")
    else:
        proxy.denied = read_only
        done = quarry(*command)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "check the credentials and rights" in done.stderr
    proxy.denied = lambda method, path: None
    assert quarry(*command).returncode == 0
    assert undisturbed(command, s3_endpoint, texts)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with two megabytes, or a skip where this machine lets us mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system takes rights that this process has not")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("begun", [False, True], ids=["from the start", "in the middle"])
def test_a_full_disk(
    begun: bool,
    small_disk: Path,
    s3_endpoint: S3Endpoint,
    texts: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect(s3_endpoint).get("chaos/archive/", f"{tmp_path}/archive/", recursive=True)
    filled, output = small_disk / "filled", small_disk / "out"
    extra = {"chunk.vad": "none", "plan.shard_s": 2}
    command = ["run", *fake_settings(tmp_path / "archive/manifest.jsonl", output, **extra)]
    publish = local_flow.Publisher.publish
    published: list[str] = []

    def fill_after_three(self: Any, shard: Any) -> Any:
        published.append(shard.shard.shard_id)
        if begun and len(published) == 4:
            fill(filled)
        return publish(self, shard)

    monkeypatch.setattr(local_flow.Publisher, "publish", fill_after_three)
    if not begun:
        fill(filled)
    done = quarry(*command)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert "make room there" in said
    assert not begun or "the same command resumes" in said
    assert not list(output.rglob(".*.tmp"))
    filled.unlink()
    assert quarry(*command).returncode == 0
    assert {row["id"]: row["text"] for row in table(output).to_pylist()} == texts


def fill(path: Path) -> None:
    """Write until nothing fits."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return
