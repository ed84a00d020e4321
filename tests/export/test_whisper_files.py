"""TSV and JSON as programs that read Whisper's files see them."""

from __future__ import annotations

import json
from io import StringIO

import pandas as pd
import pytest
from finished_run import said, timed, transcript
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.cues import one_line
from pipeline.export.options import ExportOptions
from pipeline.export.whisper_files import safe_cell, tsv, whisper_json

TSV, JSON = ExportOptions("tsv"), ExportOptions("json")


@given(st.lists(st.text(max_size=40), max_size=5))
def test_tsv_has_one_row_per_segment(texts: list[str]) -> None:
    segments = [said(text, i, i + 0.5) for i, text in enumerate(texts)]
    text = StringIO(tsv(transcript("a", segments), TSV).text)
    table = pd.read_csv(text, sep="\t", quoting=3, keep_default_na=False, dtype={"text": str})
    assert list(table.columns) == ["start", "end", "text"]
    assert table["start"].tolist() == [i * 1000 for i in range(len(texts))]
    assert table["end"].tolist() == [i * 1000 + 500 for i in range(len(texts))]
    assert table["text"].tolist() == [safe_cell(one_line(text)) for text in texts]


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", " \n=1", "\0=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    rows = (tsv(transcript("a", [said(text)]), TSV).text or "").splitlines()
    assert rows[1].split("\t")[2].startswith("'")


def test_json_has_whispers_keys_and_no_value_that_nobody_knows() -> None:
    found = transcript("Ab", [timed("so it", 1.0, language="en", confidence=0.25, flags=("draft",)), said("\0", 5, 6)])
    read = json.loads(whisper_json(found, JSON).text or "")
    assert read["text"] == found.text
    first, second = read["segments"]
    assert (first["id"], first["start"], first["end"], first["text"]) == (0, 1.0, 2.0, "so it")
    assert (first["confidence"], first["flags"]) == (0.25, ["draft"])
    assert first["words"][1] == {"word": "it", "start": 1.5, "end": 2.0, "probability": 0.5}
    assert second == {"id": 1, "start": 5, "end": 6, "text": "\0"}
    assert read["id"] == "Ab"
