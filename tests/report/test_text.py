"""The report that is printed: ids and messages come from strangers, and what it proposes makes sense for the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_pages import hostile_run
from made_pages import facts_of, usual_rows, write_whole_run

from pipeline.config import RunConfig
from pipeline.config.sections import ChunkConfig
from pipeline.report.text import report_text


def test_nothing_foreign_reaches_the_terminal(tmp_path: Path) -> None:
    text = report_text(facts_of(hostile_run(tmp_path)).snapshot, "")
    assert "<script>" in text.partition("What went wrong:")[2]  # the hostile ids are there
    assert not set(text) & {*map(chr, range(9)), "\x0b", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066"}


@pytest.mark.parametrize(("vad", "other"), [("silero", "energy"), ("energy", "none"), ("none", "energy")])
def test_other_text_settings_are_other_ones(tmp_path: Path, vad: str, other: str) -> None:
    config = RunConfig(manifest="a.jsonl", output="/out", chunk=ChunkConfig(vad=vad)).public()  # type: ignore[arg-type]
    store = write_whole_run(tmp_path, usual_rows(), config=config)
    assert f"quarry run --config a.yaml chunk.vad={other} " in report_text(facts_of(store).snapshot, "--config a.yaml")
