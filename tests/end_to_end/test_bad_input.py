"""Bad input: one sentence with the next step, exit code 2, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import fake_settings, quarry
from servers import S3Endpoint

GOOD = [{"audio_filepath": "a.wav", "duration": 1.0}]


def manifest(folder: Path, *lines: str, name: str = "manifest.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(line + "\n" for line in lines))
    return path


def good_manifest(folder: Path) -> Path:
    return manifest(folder, *(json.dumps(row) for row in GOOD))


def refused(settings: list[str], output: Path, *expected: str, command: str = "run") -> None:
    done = quarry(command, *settings)
    assert done.returncode == 2, (done.stdout, done.stderr)
    message = done.stderr.strip()
    assert message.startswith("quarry: ")
    assert "\n" not in message, message
    assert message.endswith((".", "?", ")"))
    for words in expected:
        assert words in message
    assert not output.exists() or not list(output.rglob("*")), "something was written"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([*(json.dumps({"audio_filepath": f"{n}.wav"}) for n in range(6)), "{oops"], ("line 7", "not valid JSON")),
        (['{"audio_filepath": "a.wav", "duration": "long"}'], ("line 1", "duration")),
        (['{"audio_filepath": "a.wav", "offset": -1}'], ("line 1", "offset")),
        (['{"audio_filepath": ["a.wav"]}'], ("line 1",)),
        (['{"id": "x", "audio_filepath": "a.wav"}', '{"id": "x", "audio_filepath": "b.wav"}'], ("line 2", "'x'")),
        ([], ("no rows",)),
    ],
)
def test_a_manifest_that_cannot_be_used(tmp_path: Path, lines: list[str], expected: tuple[str, ...]) -> None:
    output = tmp_path / "out"
    refused(fake_settings(manifest(tmp_path, *lines), output), output, *expected)


def test_a_missing_manifest(tmp_path: Path) -> None:
    refused(fake_settings(tmp_path / "none.jsonl", tmp_path / "out"), tmp_path / "out", "no manifest")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"engine.name": "wisper"}, "There is no engine 'wisper'"),
        ({"engin.name": "fake"}, "did you mean 'engine'"),
        ({"plan.shard_s": "-1"}, "plan.shard_s"),
        ({"plan": "fast"}, "plan"),
        ({"engine.options": "{nonsense: 1}"}, "nonsense"),
    ],
)
def test_a_setting_that_cannot_be_used(tmp_path: Path, extra: dict[str, str], expected: str) -> None:
    output = tmp_path / "out"
    refused(fake_settings(good_manifest(tmp_path), output, **extra), output, expected)


def test_an_override_without_a_value(tmp_path: Path) -> None:
    output = tmp_path / "out"
    refused([*fake_settings(good_manifest(tmp_path), output), "engine.name"], output, "not of the form")


def test_a_config_file_that_is_not_there(tmp_path: Path) -> None:
    refused(["--config", str(tmp_path / "none.yaml")], tmp_path / "out", "no config file")


def test_an_unreadable_bucket(tmp_path: Path, s3_endpoint: S3Endpoint) -> None:
    output = tmp_path / "out"
    wrong = {"endpoint_url": s3_endpoint.endpoint_url, "key": "nobody", "secret": "wrong"}
    options = {"source.storage_options": json.dumps(wrong)}
    refused(fake_settings("s3://archive/manifest.jsonl", output, **options), output, "s3://archive")


def test_an_output_store_that_is_not_there(tmp_path: Path) -> None:
    options = {"store.storage_options": json.dumps({"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b"})}
    settings = fake_settings(good_manifest(tmp_path), "s3://nowhere/out", **options)
    refused(settings, tmp_path / "out", "s3://nowhere/out")


@pytest.mark.parametrize("command", ["status", "verify", "report"])
def test_a_run_that_was_never_begun(tmp_path: Path, command: str) -> None:
    output = tmp_path / "out"
    refused(fake_settings(good_manifest(tmp_path), output), output, "no run at", command=command)
