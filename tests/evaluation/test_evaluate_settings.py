"""The settings of an evaluation, of its datasets' runs, and what of them may be seen."""

from __future__ import annotations

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.evaluation.run import dataset_settings
from pipeline.evaluation.scoring import SCORES
from pipeline.report.evaluated import evaluation_text

CONFIG = RunConfig.model_validate(
    {
        "manifest": "",
        "output": "out",
        "engine": {"name": "fake", "language": "en", "options": {}},
        "evaluate": {
            "datasets": [
                {"name": "a", "split": "test", "manifest": "s3://user:word@b/m.jsonl", "language": "de"},
                {
                    "name": "b",
                    "manifest": "b.csv",
                    "source": {"format": "csv", "storage_options": {"key": "k", "anon": True}},
                },
            ]
        },
    }
)


def test_a_dataset_brings_manifest_name_language_and_source() -> None:
    one, other = (dataset_settings(CONFIG, dataset) for dataset in CONFIG.evaluate.datasets)
    assert (one.manifest, one.name, one.engine.language, one.engine.name) == (
        *("s3://user:word@b/m.jsonl", "a_test", "de", "fake"),
    )
    assert one.source == CONFIG.source
    assert (other.name, other.engine.language, other.source.format) == ("b", "en", "csv")


def test_what_is_told_of_datasets_holds_no_secret() -> None:
    one, other = CONFIG.public()["evaluate"]["datasets"]
    assert one["manifest"] == "s3://…@b/m.jsonl"
    assert other["source"]["storage_options"] == {"key": "…", "anon": True}


def test_evaluating_a_run_changes_nothing_of_its_text() -> None:
    plain = CONFIG.model_copy(update={"evaluate": RunConfig(manifest="m", output="o").evaluate})
    assert plain.fingerprint() == CONFIG.fingerprint()


def test_slices_with_hostile_names_are_printed_harmlessly() -> None:
    row = {name: None for name in SCORES.names} | {"dataset": "d", "scored": 1, "words": 2, "audio_s": 1.0, "wer": 0.5}
    rows = [{**row, "column": "site", "value": value} for value in ("\x1b[31mred\n", "[/bold]")]
    result = {
        **{
            "engine": "e",
            "model": "m",
            "audio_s": 1.0,
            "engine_s": 1.0,
            "wall_s": 1.0,
            "rtfx": 1.0,
            "pipeline_rtfx": 1.0,
        },
        **{"datasets": [], "spent": {"usd": None}},
        **{f"mean_{name}{end}": None for name in ("wer", "leaderboard_wer") for end in ("", "_low", "_high")},
    }
    said = evaluation_text(result, pa.Table.from_pylist(rows, schema=SCORES), "out")
    assert "\x1b" not in said
    assert "�[31mred�" in said
    assert "[/bold]" in said
