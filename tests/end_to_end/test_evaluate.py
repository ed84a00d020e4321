"""`quarry evaluate`: the real command on datasets whose error rates are known beforehand; recorded speech in the long tests."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from events_read import events_in
from running import Done, quarry

from pipeline import run as runs
from pipeline.records import Receipt, Undone
from pipeline.text.normalize import normalize, normalizer_for

RECEIPTS = runs.receipts
SETTINGS: dict[str, Any] = {
    "engine": {"name": "fake", "model": "fake", "language": "en"},
    "chunk": {"vad": "none"},
    "runtime": {"kind": "local"},
}


def tones(folder: Path, lengths_s: list[float]) -> list[dict[str, Any]]:
    """Short recordings, and rows that name them."""
    folder.mkdir()
    rows = []
    for number, length_s in enumerate(lengths_s):
        samples = np.sin(np.arange(int(length_s * 16_000)) * (0.05 + number / 100)) * 9_000
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples.astype(np.int16).tobytes())
        row = {"id": f"{folder.name}-{number}", "audio_filepath": f"{number}.wav", "duration": length_s}
        rows.append({**row, "site": "xy"[number % 2]})
    return rows


def write(manifest: Path, rows: list[dict[str, Any]]) -> Path:
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def heard(manifest: Path, folder: Path) -> list[str]:
    """What the fake engine hears in a manifest's recordings, in their order."""
    made = [f"manifest={manifest}", f"output={folder}", "engine.name=fake", "engine.model=fake", "engine.language=en"]
    assert quarry("run", *made, "chunk.vad=none", "runtime.kind=local").returncode == 0
    (found,) = folder.glob("*/tables/*/transcripts/*.parquet")
    rows = pq.read_table(found).sort_by("id").to_pylist()
    return [row["text"] for row in rows]


def evaluated(settings: dict[str, Any], tmp_path: Path, *extra: str) -> Done:
    file = tmp_path / "evaluate.yaml"
    file.write_text(yaml.safe_dump(settings))
    return quarry("evaluate", "--config", str(file), *extra)


def result_of(output: Path) -> dict[str, Any]:
    (found,) = output.glob("evaluations/*/result.json")
    result: dict[str, Any] = json.loads(found.read_text())
    return result


def test_datasets_are_run_scored_and_put_together(tmp_path: Path) -> None:
    one, other = tones(tmp_path / "one", [2.0, 4.0, 12.0]), tones(tmp_path / "other", [3.0, 3.0])
    texts = heard(write(tmp_path / "one" / "m.jsonl", one), tmp_path / "before")
    for row, text in zip(one, texts, strict=True):
        row["text"] = text
    one[0]["text"] += " wolf"  # one deletion
    one[1]["text"] = "(laughs)"  # nothing after normalisation: left out
    other[0]["text"] = other[1]["text"] = "wolf"  # nothing of it is ever heard
    prices = tmp_path / "prices.yaml"
    prices.write_text("machines: {box: {usd_per_hour: 3.6}}")
    settings = {
        **SETTINGS,
        "output": str(tmp_path / "out"),
        "cost": {"prices": str(prices), "machines": {"box": 1}},
        "evaluate": {
            "slices": ["site"],
            "datasets": [
                {"name": "one", "split": "test", "manifest": str(write(tmp_path / "one" / "m.jsonl", one))},
                {"name": "other", "manifest": str(write(tmp_path / "other" / "m.jsonl", other)), "language": "en"},
            ],
        },
    }
    done = evaluated(settings, tmp_path)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "out")
    first, second = result["datasets"]
    kept = [normalize(one[n]["text"], normalizer_for("leaderboard", "en")) for n in (0, 2)]
    assert (first["dataset"], first["scored"], first["left_out"]) == ("one_test", 2, {"empty_reference": 1})
    assert first["wer"] == first["leaderboard_wer"] == 1 / sum(len(text.split()) for text in kept)
    assert second["word_insertions"] + second["word_substitutions"] == round(second["wer"] * 2)
    mean = (round(100 * first["wer"], 2) + round(100 * second["wer"], 2)) / 200
    assert result["mean_wer"] == pytest.approx(mean)
    assert result["audio_s"] == pytest.approx(2.0 + 12.0 + 6.0), "rows that are left out are in no sum"
    assert result["rtfx"] == pytest.approx(result["audio_s"] / result["engine_s"])
    assert result["pipeline_rtfx"] == pytest.approx(24.0 / result["wall_s"])
    assert result["spent"]["usd"] == pytest.approx(result["wall_s"] / 3600 * 3.6)
    (folder,) = (tmp_path / "out" / "evaluations").iterdir()
    lines = [json.loads(line) for line in (folder / "MODEL_fake-fake_DATASET_one_test.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["one-0", "one-2"] or [line["id"] for line in lines] == ["one-2", "one-0"]
    scores = pq.read_table(folder / "scores").to_pylist()
    assert {row["value"] for row in scores if row["dataset"] == "one_test" and row["column"] == "site"} == {"x"}
    for words in ("one_test", "leaderboard %", "10 to 30 s", "left out are 1 rows", "Cost:", str(folder)):
        assert words in done.stdout
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*") if file.is_file()}
    again = evaluated(settings, tmp_path)
    assert (again.returncode, again.stdout) == (0, done.stdout), "nothing to do: the same tables"
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*") if file.is_file()}


def test_half_an_evaluation_has_no_result_and_the_same_command_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {
        name: write(tmp_path / f"{name}.jsonl", tones(tmp_path / name, [2.0, 3.0, 4.0])) for name in ("one", "other")
    }
    for name, manifest in made.items():
        write(
            manifest,
            [
                {**json.loads(line), "audio_filepath": f"{name}/{n}.wav", "text": "wolf"}
                for n, line in enumerate(manifest.read_text().splitlines())
            ],
        )
    events = tmp_path / "events.jsonl"
    settings = {
        **SETTINGS,
        "output": str(tmp_path / "out"),
        "plan": {"shard_s": 4},
        "runtime": {"kind": "local", "events": str(events)},
        "evaluate": {"datasets": [{"name": name, "manifest": str(manifest)} for name, manifest in made.items()]},
    }

    def broken_off(run: Any, todo: pa.Table, careful: bool = False) -> Iterator[Receipt | Undone]:
        """Of the first dataset all, of the second the first shard."""
        done = todo.num_rows if run.config.name == "one" else 1
        yield from RECEIPTS(run, todo.slice(0, done), careful)
        yield from (Undone(id_, "decode", "The store broke off.") for id_ in todo["shard_id"].to_pylist()[done:])

    with monkeypatch.context() as patch:
        patch.setattr(runs, "receipts", broken_off)
        half = evaluated(settings, tmp_path)
    assert half.returncode == 3
    assert "The store broke off." in half.stderr
    assert not (tmp_path / "out" / "evaluations").exists()
    before = {part: part.stat().st_mtime_ns for part in (tmp_path / "out").rglob("parts/*/*")}
    whole = evaluated(settings, tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert len(result_of(tmp_path / "out")["datasets"]) == 2
    assert before == {part: part.stat().st_mtime_ns for part in before}, "what was done is not done again"
    told = [event for event in events_in(events) if event["event"] in ("run_started", "plan", "shard_done", "finished")]
    story = [(event["run_id"].split("-")[0], event["event"], event.get("exit_code")) for event in told]
    shard, whole_run = ("shard_done", None), [("run_started", None), ("plan", None)]
    first = [*whole_run, shard, shard, shard, ("finished", 0)]
    second = [*whole_run, shard, ("finished", 3)]
    resumed = [*whole_run, ("finished", 0)], [*whole_run, shard, shard, ("finished", 0)]
    assert story == [
        (name, *said)
        for name, session in zip(("one", "other") * 2, (first, second, *resumed), strict=True)
        for said in session
    ]


def test_the_reference_of_a_failed_row_is_normalised_like_the_others(tmp_path: Path) -> None:
    """The recording is not there, so nothing tells its language but the settings; hesitations are no words in English."""
    row = {"id": "gone", "audio_filepath": "gone.wav", "duration": 3.0, "text": "Um, two words"}
    datasets = [{"name": "gone", "manifest": str(write(tmp_path / "m.jsonl", [row]))}]
    settings = {**SETTINGS, "output": str(tmp_path / "out"), "evaluate": {"datasets": datasets}}
    assert evaluated(settings, tmp_path).returncode == 1
    (found,) = result_of(tmp_path / "out")["datasets"]
    assert found["normalizers"] == [normalizer_for("leaderboard", "en")]
    assert found["word_deletions"] == found["words"] == 2


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        ({}, "evaluate.datasets is empty"),
        ({"datasets": [{"name": "a", "manifest": "m"}, {"name": "A", "manifest": "n"}]}, "differ in name or split"),
        ({"datasets": [{"name": "../a", "manifest": "m"}]}, "evaluate.datasets.0.name"),
        ({"datasets": [{"name": "a", "manifest": "/nowhere/m.jsonl"}]}, "/nowhere/m.jsonl"),
        ({"datasets": [{"name": "a", "manifest": "m"}], "slices": ["segments"]}, "'segments'"),
    ],
)
def test_what_cannot_be_evaluated_is_told_before_anything_runs(
    tmp_path: Path, evaluate: dict[str, Any], said: str
) -> None:
    done = evaluated({**SETTINGS, "output": str(tmp_path / "out"), "evaluate": evaluate}, tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_whisper_tiny_on_librispeech(shared_data: Path, tmp_path: Path) -> None:
    """A slice of test-other and all there is of test-clean, as LibriSpeech has them."""
    with (shared_data / "INDEX.tsv").open(encoding="utf-8") as index:
        rows = list(csv.DictReader(index, delimiter="\t", quoting=csv.QUOTE_NONE))
    datasets = []
    for split, most in (("test.other", 40), ("test.clean", 8)):
        folder = f"a/librispeech-{split.replace('.', '-')}/"
        chosen = [row for row in rows if row["path"].startswith(folder) and row["ref_kind"].startswith("gold")][:most]
        lines = [
            {
                "audio_filepath": row["path"],
                "duration": float(row["duration_s"]),
                "text": row["reference"],
                "lang": "en",
            }
            | {"speaker_id": row["speaker"]}
            for row in chosen
        ]
        manifest = write(
            tmp_path / f"{split}.jsonl",
            [{**x, "audio_filepath": str(shared_data / x["audio_filepath"])} for x in lines],
        )
        datasets.append({"name": "librispeech", "split": split, "manifest": str(manifest), "language": "en"})
    settings = {
        **SETTINGS,
        "output": str(tmp_path / "out"),
        "engine": {"name": "whisper", "model": "tiny.en", "language": "en"},
        "source": {"roots": [str(shared_data)]},
        "evaluate": {"slices": ["speaker_id"], "datasets": datasets},
    }
    done = evaluated(settings, tmp_path)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "out")
    (folder,) = (tmp_path / "out" / "evaluations").iterdir()
    english = normalizer_for("leaderboard", "en")
    for row in result["datasets"]:
        lines = [json.loads(line) for line in (folder / row["manifest_file"]).read_text().splitlines()]
        sides = [[normalize(line[name], english) for line in lines] for name in ("text", "pred_text")]
        assert row["wer"] == jiwer.wer(*sides)
        assert row["leaderboard_wer"] <= row["wer"] < 0.25
        assert row["wer_low"] <= row["wer"] <= row["wer_high"]
        assert row["rtfx"] == pytest.approx(
            sum(line["duration"] for line in lines) / sum(line["time"] for line in lines)
        )
        assert row["failed"] == 0
    assert result["mean_wer"] < 0.2
