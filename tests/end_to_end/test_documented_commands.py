"""Every command in README and docs: read by the real parser and the real settings (always), and run (slow).

They run in a reader's folder, which has what the pages take for granted: archive/ with a manifest and a folder for a day,
datasets/, configs/, mine.yaml, models/, a finished run, and a real S3 server with the buckets that pages name, found through
AWS_ENDPOINT_URL as any S3 program finds one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from causal_models import write_causal
from documented import REPO, Command, commands, inline
from granite_checkpoints import write_granite
from running import Done, quarry
from servers import S3Endpoint, connect

from pipeline import cli
from pipeline.config.file import load_config

COMMANDS = commands()
OWN_SETTINGS = (
    "manifest: archive/manifest.jsonl\noutput: out\nruntime: {kind: local}\nengine: {name: whisper, model: tiny.en}\n"
)

# What is not ours to run, and who runs it, or why nobody does.
FOREIGN = {
    ".": "a shell's own",
    "export": "a shell's own",
    "tail": "of the system",
    "docker": "no container engine here",
    "kubectl": "tests/deploy/test_kubernetes.py holds the files against schemas",
    "sbatch": "tests/deploy/test_slurm.py",
    "python": "scripts: they are there, see below",
    "pip": "extras: they are there, see below",
    "uv": "extras: they are there, see below",
    "jupyter": "tests/notebooks runs the notebooks",
    "make": "targets: they are there, see below",
}


def job_words(command: Command) -> list[str]:
    """What a Ray job runs: the words behind `--`, as words of `quarry`."""
    words = command.words[command.words.index("--") + 1 :]
    assert words[0] == "python"
    job = REPO / words[1]
    assert job.is_file(), f"{command} names a job that is not there"
    (name,) = re.findall(r'main\(\["([a-z-]+)"', job.read_text())
    return [name, *words[2:]]


def ours() -> list[tuple[Command, list[str]]]:
    """Commands of `quarry`, plain or as a Ray job; an ellipsis by itself stands for the reader's settings."""
    found = []
    for command in COMMANDS:
        if command.words[0] == "quarry":
            found.append((command, command.words[1:]))
        elif command.words[:3] == ["ray", "job", "submit"]:
            found.append((command, job_words(command)))
    settings = ["--config", "mine.yaml"]
    return [
        (command, [part for word in words for part in (settings if word == "…" else [word])])
        for command, words in found
    ]


def each(cases: list[tuple[Command, list[str]]]) -> list[object]:
    return [pytest.param(words, id=str(command)) for command, words in cases]


def test_every_command_is_known() -> None:
    unknown = [str(one) for one in COMMANDS if one.words[0] not in {"quarry", "ray", *FOREIGN}]
    assert unknown == []


def test_make_targets_scripts_and_extras_are_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPO / "Makefile").read_text("utf-8"), re.MULTILINE))
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in COMMANDS:
        words = command.words
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, command
        if words[0] == "python" and words[1] != "-c":
            assert (REPO / words[1]).is_file(), command
        if words[0] in ("pip", "uv"):
            named = re.findall(r"\[([\w,-]+)\]", command.line)
            assert {extra for group in named for extra in group.split(",")} <= set(extras), command


@pytest.fixture
def readers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "configs").symlink_to(REPO / "configs")
    (tmp_path / "mine.yaml").write_text(OWN_SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", each(ours()))
def test_words_and_settings_are_read(words: list[str], readers_folder: Path) -> None:
    arguments = cli._parse(words)  # a usage error would end the test with SystemExit
    placeholders = [] if arguments.config else ["manifest=m.jsonl", "output=out"]
    config = load_config(arguments.config, [*placeholders, *arguments.overrides, *cli._option_settings(arguments)])
    assert config.output


@pytest.mark.parametrize("command", inline(), ids=str)
def test_running_text_names_commands_and_options_that_exist(command: Command) -> None:
    line = re.sub(r"…|\.\.\.|\[|\]", "", command.line)
    name, *rest = line.split()[1:]
    assert name in cli._COMMANDS or name == "--help"
    options = {word.split("=")[0] for word in rest if word.startswith("-")}
    known = set(re.findall(r"-{1,2}[a-z][a-z-]*", _help_of(name))) if name in cli._COMMANDS else options
    assert options <= known, command


def _help_of(name: str) -> str:
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        cli.main([name, "--help"])
    return said.getvalue()


@pytest.fixture(scope="module")
def finished(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder after `quarry run`: two short recordings, one of them with a reference."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "archive").mkdir()
    rows = [json.loads(line) for line in (archive / "manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["id"].startswith(("agent", "upload", "silence"))]
    for row in rows:
        shutil.copy(archive / row["audio_filepath"], folder / "archive")
        row["audio_filepath"] = Path(row["audio_filepath"]).name
    (folder / "archive" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = quarry("run", "--config", str(REPO / "configs" / "local.yaml"))
    finally:
        os.chdir(before)
    assert done.returncode in (0, 1), done.stderr
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that pages name, as tiny random ones, and Whisper tiny.en in the place of larger Whispers."""
    from pipeline.engines.whisper.weights import fetch_model

    folder = tmp_path_factory.mktemp("models")
    write_granite(folder / "granite-speech-4.1-2b")
    write_causal(folder / "granite-3.3-2b-instruct")
    (folder / "base").symlink_to(fetch_model("tiny.en"))
    return folder


@pytest.fixture
def world(
    readers_folder: Path, finished: Path, models: Path, s3_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    shutil.copytree(finished, readers_folder, dirs_exist_ok=True)
    (readers_folder / "models").symlink_to(models)
    _name_the_run(readers_folder)
    _add_what_pages_name(readers_folder)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_endpoint.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_endpoint.secret)
    filesystem = connect(s3_endpoint)
    buckets = {"bucket": ("archive", "out"), "my-bucket": ("archive",), "archive": ("calls",)}
    for bucket, folders in buckets.items():
        filesystem.mkdirs(bucket, exist_ok=True)
        for folder in folders:
            filesystem.put(f"{readers_folder / folder}/", f"{bucket}/{folder}/", recursive=True)
        filesystem.put(f"{readers_folder / 'archive'}/", f"{bucket}/", recursive=True)
    yield readers_folder
    for bucket in buckets:
        filesystem.rm(bucket, recursive=True)


def _name_the_run(folder: Path) -> None:
    """The finished run under the names that pages use for one."""
    (run,) = (path for path in (folder / "out").iterdir() if path.is_dir())
    (folder / "RUN").symlink_to(run)
    shutil.copytree(run, folder / "out" / "demo-1f3ac9d2b0c4")


def _add_what_pages_name(folder: Path) -> None:
    audio = sorted(path for path in (folder / "archive").iterdir() if path.suffix != ".jsonl")
    day = folder / "archive" / f"{datetime.now(UTC):%Y/%m/%d}"
    for place in (day, folder / "calls"):
        place.mkdir(parents=True)
        shutil.copy(audio[0], place)
        an_hour_ago = time.time() - 3600  # a backfill leaves alone what may still be written
        os.utime(place / audio[0].name, (an_hour_ago, an_hour_ago))
    rows = [json.loads(line) for line in (folder / "archive" / "manifest.jsonl").read_text().splitlines()]
    for name, prefix in (
        ("calls.jsonl", "archive/"),
        ("datasets/librispeech-test-clean.jsonl", "../archive/"),
        ("datasets/librispeech-test-other.jsonl", "../archive/"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        moved = [
            {**row, "audio_filepath": prefix + row["audio_filepath"], "lang": "en"} for row in rows if row.get("text")
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in moved))


def said(done: Done) -> str:
    return f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("words", each(ours()))
def test_the_command_runs(words: list[str], world: Path, s3_endpoint: S3Endpoint) -> None:
    if any("granite_nar" in word for word in words):
        pytest.skip(
            "wants the trained model and accelerators; tests/engines/granite_nar and its end-to-end test run it"
        )
    if any("…" in word for word in words):
        pytest.skip("says that something is left out")
    kind = [] if words[0] in ("status", "verify", "report") and not words[1].startswith("-") else ["runtime.kind=local"]
    if words[:2] == ["status", "out"]:  # of a night that was, as the page has it
        assert (
            quarry(
                "backfill", "--config", "configs/backfill.yaml", "--last-days", "30", "runtime.kind=local"
            ).returncode
            == 0
        )
    if words[0] == "evaluate":
        kind.append(f"source.roots=[{world / 'archive'}]")
    here = [word.replace("http://localhost:9000", s3_endpoint.endpoint_url) for word in words]
    done = quarry(*here, *kind)
    assert done.returncode in (0, 1), said(done)
    assert "Traceback" not in done.stderr
