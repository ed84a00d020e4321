"""`quarry export` and `read_run` over runs that Quarry made: the real command, the real files, real speech."""

from __future__ import annotations

import json
from pathlib import Path

import pysrt
import pytest
import webvtt
from running import fake_settings, quarry, run_folder, table

from pipeline import read_run


def exports(output: Path, form: str) -> Path:
    (folder,) = run_folder(output).glob(f"exports/{form}-*")
    return folder


@pytest.fixture(scope="module")
def settings(short_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    output = tmp_path_factory.mktemp("exports")
    found = fake_settings(short_manifest, output, **{"engine.options": "{speakers: 2}"})
    assert quarry("run", *found).returncode == 1
    return found


def output_of(settings: list[str]) -> Path:
    return Path(next(word.partition("=")[2] for word in settings if word.startswith("output=")))


def test_subtitles_of_a_run(settings: list[str]) -> None:
    done = quarry("export", *settings, "--format", "vtt", "--line-width", "30")
    assert done.returncode == 0, done.stderr
    assert "Left out: failed 1" in done.stdout
    again = quarry("export", *settings, "--format", "vtt", "--line-width", "30")
    assert "Nothing to do" in again.stdout
    folder = exports(output_of(settings), "vtt")
    for row in table(output_of(settings)).to_pylist():
        path = folder / f"{row['id']}.vtt"
        assert path.exists() == (row["status"] != "failed")
        if path.exists():
            captions = list(webvtt.read(str(path)))
            assert " ".join(caption.text for caption in captions) == row["text"]
            assert {caption.voice for caption in captions} <= {"Speaker 1", "Speaker 2"} | {
                segment["speaker"] for segment in row["segments"]
            }


def test_a_run_named_by_its_folder_wants_no_settings(settings: list[str], tmp_path: Path) -> None:
    """Also a run of other days, whose settings nobody can give any more."""
    run = str(run_folder(output_of(settings)))
    for name, words in (("by-settings", settings), ("by-folder", [run])):
        done = quarry("export", *words, "--format", "tsv", "--to", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    told = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.tsv")}
        for name in ("by-settings", "by-folder")
    ]
    assert told[0] == told[1] != {}
    nowhere = quarry("export", str(tmp_path), "--format", "tsv")
    assert nowhere.returncode == 2
    assert "There is no run at" in nowhere.stderr


def test_the_nemo_manifest_can_be_transcribed_again(settings: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = quarry("export", *settings, "--format", "nemo", "--to", str(out), "--where", "duration_s<30")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (out / "nemo-00000.jsonl").read_text().splitlines()]
    assert {row["id"]: row["pred_text"] for row in told} == {
        row["id"]: row["text"]
        for row in table(output_of(settings)).to_pylist()
        if row["status"] != "failed" and row["duration_s"] < 30
    }
    valid = quarry("validate", *fake_settings(out / "nemo-00000.jsonl", tmp_path, **{"source.roots": "[/]"}))
    assert valid.returncode == 0, valid.stdout + valid.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--format", "ctm", "--line-width", "9"], "--line-width is for srt and vtt"),
        (["--format", "srt", "--max-duration", "9"], "--max-duration is for pairs"),
        (["--format", "srt", "--line-width", "1"], "--line-width"),
        (["--format", "pairs", "--min-duration", "40"], "--min-duration"),
        (["--format", "pairs", "--max-wer", "nan"], "--max-wer"),
        (["--format", "pairs", "--text", "reference"], "--pairs-of recordings"),
        (["--format", "srt", "--where", "segments=1"], "'segments'"),
        (["--format", "srt", "--snapshot", "9"], "no snapshot 9"),
        (["--format", "srt", "--to", ""], "--to"),
        (["--format", "srt", "--to", "/dev/null/x"], "/dev/null/x"),
        (["--format", "srt", "engine.language=fr"], "`quarry run`"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(settings: list[str], options: list[str], says: str) -> None:
    refused = quarry("export", *settings, *options)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_nothing_to_write_is_no_success(settings: list[str]) -> None:
    done = quarry("export", *settings, "--format", "pairs", "--max-wer", "0")
    assert done.returncode == 1
    assert "Left out: " in done.stdout


def test_the_same_run_from_python(settings: list[str]) -> None:
    """As plain readers have it, but for `extra`: a map there, and in files a list, which `datasets` can read."""
    found, plain = read_run(run_folder(output_of(settings))).arrow().sort_by("id"), table(output_of(settings))
    assert found.drop_columns("extra").equals(plain.drop_columns("extra"))
    pairs = [[tuple(pair.values()) for pair in row] for row in plain["extra"].to_pylist()]
    assert found["extra"].to_pylist() == pairs


@pytest.mark.slow
def test_real_speech_with_word_times(short_manifest: Path, tmp_path: Path) -> None:
    """Whisper's own word times: cues begin and end with words, and CTM has every word of the text."""
    extra = {"engine.name": "whisper", "engine.model": "tiny.en", "engine.options": "{word_times: true}"}
    real = fake_settings(short_manifest, tmp_path, **extra)
    assert quarry("run", *real).returncode in (0, 1)
    for form in ("srt", "ctm"):
        assert quarry("export", *real, "--format", form).returncode == 0
    words: dict[str, list[str]] = {}
    for line in (exports(tmp_path, "ctm") / "ctm-00000.ctm").read_text().splitlines():
        file, _, _, _, word, _ = line.split()
        words.setdefault(file, []).append(word)
    for row in table(tmp_path).to_pylist():
        if row["status"] == "failed":
            continue
        assert "".join(words.get(row["id"], [])) == "".join(row["text"].split())
        times = {round(t * 1000) for s in row["segments"] for w in s["words"] for t in (w["start_s"], w["end_s"])}
        cues = pysrt.open(str(exports(tmp_path, "srt") / f"{row['id']}.srt"))
        assert " ".join(cue.text.replace("\n", " ") for cue in cues) == " ".join(row["text"].split())
        assert all(cue.start.ordinal in times and cue.end.ordinal in times for cue in cues)
