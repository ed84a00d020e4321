"""The leaderboard's protocol on transcript rows: worked by hand, and held against jiwer and kaldialign themselves."""

from __future__ import annotations

import json
from typing import Any

import jiwer
import kaldialign
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.evaluation import scoring
from pipeline.evaluation.run import manifest_key, mean_of_rounded
from pipeline.evaluation.scoring import DatasetScore, check_columns, manifest_lines, score_rows, scorer_versions
from pipeline.records import RunIdentity, Transcript
from pipeline.schema import transcripts_table
from pipeline.text.normalize import normalize, normalizer_for

IDENTITY = RunIdentity("run", "f" * 12, "fake", "m", "r")
ENGLISH = normalizer_for("leaderboard", "en")


def transcript(number: int, reference: str | None, text: str, **given: Any) -> Transcript:
    values: dict[str, Any] = {
        **{"id": f"r{number}", "uri": f"{number}.wav", "status": "ok", "offset_s": 0.0, "duration_s": 5.0},
        **{"text": text, "segments": (), "spans": (), "failure": None, "language": "en", "reference_text": reference},
        **{"warnings": (), "flags": (), "word_errors": None, "char_errors": None, "normalizer": None, "decode_s": 0.1},
        **{"engine_s": 0.5, "window_index": 0, "window_count": 1, "window_start_s": 0.0, "extra": {}},
    }
    return Transcript(**{**values, **given})


def table(rows: list[Transcript]) -> pa.Table:
    return transcripts_table(rows, IDENTITY, "00000-00000000")


# Normalised reference and hypothesis, and their edits, by hand.
GOLDEN = [
    # the white paper is alright | the whitepaper is alright: one word replaced, one missing; joined: none.
    transcript(0, "The white paper is all right.", "Uh, the whitepaper is alright!", extra={"site": "a"}),
    # it is 9 30 | it is 10 30: one word of four replaced.
    transcript(1, "It's half past nine.", "It is 10:30", extra={"site": "b"}, duration_s=15.0),
    # mister quilter s manner | (failed): four deletions.
    transcript(2, "MISTER QUILTER'S MANNER", "", status="failed", duration_s=0.0, engine_s=0.0, extra={"site": "b"}),
    transcript(3, "ignore_time_segment_in_scoring", "some words"),
    transcript(4, "(laughs) Hmm.", "hello there"),
    transcript(5, None, "nobody wrote down what this is"),
]


def test_a_golden_example_worked_by_hand() -> None:
    score = DatasetScore(["site"], seed=1)
    score.add(score_rows(table(GOLDEN), None))
    assert score.left_out == {"ignore_time_segment_in_scoring": 1, "empty_reference": 1, "no_reference": 1}
    rows = {(row["column"], row["value"]): row for row in score.table("d").to_pylist()}
    whole = rows["all", "all"]
    assert (whole["recordings"], whole["scored"], whole["failed"]) == (3, 3, 1)
    assert whole["words"] == 5 + 4 + 4
    assert (whole["word_substitutions"], whole["word_deletions"], whole["word_insertions"]) == (2, 5, 0)
    assert whole["wer"] == pytest.approx(7 / 13)
    assert whole["leaderboard_wer"] == pytest.approx(5 / 13)
    assert (whole["audio_s"], whole["engine_s"], whole["rtfx"]) == (20.0, 1.0, 20.0)
    assert whole["wer_low"] < whole["wer"] < whole["wer_high"]
    assert rows["site", "a"]["wer"] == pytest.approx(2 / 5)
    assert rows["site", "a"]["leaderboard_wer"] == 0
    assert rows["site", "b"]["wer"] == rows["site", "b"]["leaderboard_wer"] == pytest.approx(5 / 8)
    assert rows["length", "10 to 30 s"]["wer"] == pytest.approx(1 / 4)
    assert score.normalizers == {ENGLISH}


SPOKEN = ["white", "paper", "whitepaper", "colour", "uh", "twenty", "one", "it's", "B.B.C.", "dog"]
words = st.lists(st.sampled_from(SPOKEN), max_size=8)
texts = words.map(" ".join)


@settings(max_examples=60)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=8))
def test_counts_are_those_of_jiwer_and_of_kaldialign(pairs: list[tuple[str, str]]) -> None:
    scored = score_rows(table([transcript(n, *pair) for n, pair in enumerate(pairs)]), None)
    normal = [(normalize(reference, ENGLISH), normalize(text, ENGLISH)) for reference, text in pairs]
    kept = [pair for pair in normal if pair[0]]
    assert scored.rows.num_rows == len(kept)
    if not kept:
        return
    references, hypotheses = ([pair[side] for pair in kept] for side in (0, 1))
    score = DatasetScore([], seed=1)
    score.add(scored)
    whole = score.table("d").to_pylist()[0]
    theirs = jiwer.process_words(references, hypotheses)
    ours = [whole[f"word_{edit}"] for edit in ("substitutions", "deletions", "insertions")]
    assert ours == [theirs.substitutions, theirs.deletions, theirs.insertions]
    assert whole["wer"] == jiwer.wer(references, hypotheses)
    assert whole["cer"] == pytest.approx(jiwer.cer(references, hypotheses), rel=1e-12)
    split = [[text.split() for text in side] for side in (references, hypotheses)]
    published = kaldialign.batch_error_rate(*split, merge_compounds=True)
    assert whole["leaderboard_wer"] == published["err_rate"]
    ours = [whole[f"leaderboard_{edit}"] for edit in ("substitutions", "deletions", "insertions")]
    assert ours == [published[edit] for edit in ("sub", "del", "ins")]


def test_the_manifest_scores_again_to_the_same(tmp_path: Any) -> None:
    """As the leaderboard's script does it: read, normalise, count, sum durations over sums of times."""
    scored = score_rows(table(GOLDEN), None)
    lines = [json.loads(line) for line in manifest_lines(scored.rows)]
    assert [list(line)[:5] for line in lines] == [["audio_filepath", "duration", "time", "text", "pred_text"]] * 3
    sides = [[normalize(line[name], ENGLISH).split() for line in lines] for name in ("text", "pred_text")]
    again = kaldialign.batch_error_rate(*sides, merge_compounds=True)
    assert again["err_rate"] == pytest.approx(5 / 13)
    assert sum(line["duration"] for line in lines) / sum(line["time"] for line in lines) == 20.0
    assert lines[0]["text"] == "The white paper is all right.", "raw text: it is normalised when it is scored"


def test_rows_without_a_language_have_the_datasets() -> None:
    rows = table([transcript(0, "Grüße, B. B. C.", "gruesse bbc", language=None)])
    assert score_rows(rows, "de").normalizers == {normalizer_for("basic", None)}
    assert score_rows(rows, "en").normalizers == {ENGLISH}


def test_the_mean_is_of_rounded_percentages() -> None:
    assert mean_of_rounded([0.054321, 0.1]) == pytest.approx((5.43 + 10.0) / 200)
    assert mean_of_rounded([0.05, None]) is None
    assert mean_of_rounded([]) is None


def test_file_names_are_those_that_the_leaderboards_scripts_take_apart() -> None:
    assert manifest_key("whisper", "tiny.en", "ami_test") == "MODEL_whisper-tiny.en_DATASET_ami_test.jsonl"
    assert manifest_key("granite-nar", "s3://b/x y/", "d") == "MODEL_granite-nar-x-y_DATASET_d.jsonl"


def test_a_column_of_lists_makes_no_slices() -> None:
    check_columns(["speaker", "model"])
    with pytest.raises(ConfigError, match="'flags'"):
        check_columns(["flags"])


def test_without_kaldialign_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "kaldialign":
            raise scoring.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(scoring, "version", version)
    with pytest.raises(ConfigError, match=r"quarry-asr\[evaluate\]"):
        scorer_versions()
