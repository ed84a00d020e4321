"""Whatever stands in the files of other tools' dialects: rows, or sentences with a line; never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SourceConfig
from pipeline.source.checking import check_manifest
from pipeline.source.kaldi import FILES

TEXT = st.sampled_from(["a", "b", "\ud800", "../x.wav", "file", "command", "MonoCut", "a\nb", ""]) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-2, 3) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly as it should be: each field, or anything, or nothing."""
    return st.fixed_dictionaries({}, optional={name: field | JSON for name, field in fields.items()})


SOURCE = record(type=st.sampled_from(["file", "url", "command"]), channels=st.just([0, 1]), source=TEXT)
TRANSFORM = record(name=TEXT)
RECORDING = record(
    id=TEXT, sources=st.lists(SOURCE, max_size=2), duration=st.just(4.0), transforms=st.lists(TRANSFORM, max_size=1)
)
SUPERVISION = record(id=TEXT, recording_id=TEXT, start=st.just(0), duration=st.just(1), text=TEXT, language=TEXT)
CUT = record(
    id=TEXT,
    type=TEXT,
    start=st.just(0),
    duration=st.just(1),
    channel=st.integers(0, 1),
    recording=RECORDING,
    supervisions=st.lists(SUPERVISION, max_size=2),
    custom=st.dictionaries(TEXT, JSON, max_size=2),
)


@given(st.lists(RECORDING | JSON, max_size=4), st.lists(SUPERVISION | CUT | RECORDING | JSON, max_size=4))
@settings(max_examples=100)
def test_lhotse(tmp_path_factory: Any, recordings: list[Any], items: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for name, lines in (("recordings", recordings), ("supervisions", items)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = check_manifest(str(folder / "supervisions.jsonl"), SourceConfig(format="lhotse"))
    assert report.rows or report.problem_count
    assert all("\n" not in problem.message for problem in report.problems)


LINE = st.lists(
    st.sampled_from(["a", "b", "c", "x.wav", "0", "1.5", "-1", "nan", "A", "B", "|", "é", "\t", "\x00"]), max_size=5
)


@given(st.dictionaries(st.sampled_from(FILES), st.lists(LINE.map(" ".join), max_size=4)))
@settings(max_examples=100)
def test_kaldi(tmp_path_factory: Any, files: dict[str, list[str]]) -> None:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    (folder / "wav.scp").touch()
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines))
    report = check_manifest(str(folder), SourceConfig())
    assert report.rows or report.problem_count
    assert all("\n" not in problem.message for problem in report.problems)
