"""Texts to shards, and the bookkeeping of a pass: immutable plans, parts that are what was planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import RunConfig, SecondPassConfig, StoreConfig
from pipeline.errors import DriftError, StoreError
from pipeline.records import Failure
from pipeline.second_pass.answers import ANSWERS, Answer, PassIdentity, answers_table, encode_answers, read_answers
from pipeline.second_pass.book import Book, PlanReader
from pipeline.second_pass.plan import TEXTS, plan_texts
from pipeline.second_pass.prepare import pass_fingerprint
from pipeline.second_pass.texts import SourceText, TextPlace, text_digest
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import list_parts, publish_part, table_of

IDENTITY = PassIdentity("run-1", "summary", "abc", "m", "1", "f")
HEADER: dict[str, Any] = {
    "source_snapshot": 1,
    "source_tables": "tables/a",
    "fingerprint": "f",
    "schema_version": 1,
    "template_digest": "abc",
    "model_revision": "1",
    "settings": {},
}


def places(chars: list[int]) -> list[TextPlace]:
    return [
        TextPlace(f"r{row}", text_digest("x" * size, "en"), "tables/a/0.parquet", 0, row, size)
        for row, size in enumerate(chars)
    ]


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 5), st.integers(1, 60))
def test_every_text_is_in_one_shard_and_shards_keep_their_limits(
    chars: list[int], most_recordings: int, most_chars: int
) -> None:
    found = plan_texts(places(chars), 7, most_recordings, most_chars)
    assert found.schema.equals(TEXTS)
    assert found["recording_id"].to_pylist() == [place.recording_id for place in places(chars)]
    shards: dict[str, list[int]] = {}
    for shard_id, size in zip(found["shard_id"].to_pylist(), found["chars"].to_pylist(), strict=True):
        shards.setdefault(shard_id, []).append(size)
    assert [int(shard_id[:5]) for shard_id in shards] == list(range(7, 7 + len(shards)))
    assert all(len(sizes) <= most_recordings for sizes in shards.values())
    assert all(sum(sizes) <= most_chars or len(sizes) == 1 for sizes in shards.values())
    assert found.equals(plan_texts(places(chars), 7, most_recordings, most_chars))


def test_a_plan_reads_back_by_shard_however_its_row_groups_fall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.second_pass.book._TEXTS_PER_ROW_GROUP", 4)
    book = Book(ObjectStore(str(tmp_path), StoreConfig()))
    texts = plan_texts(places([1] * 20), 0, 3, 100)
    plan = book.add_plan(0, texts, HEADER)
    with (tmp_path / plan.key).open("rb") as file:
        assert pq.ParquetFile(file).num_row_groups > 1
    entries = book.entries().to_pylist()
    assert sum(entry["recordings"] for entry in entries) == 20
    reader = PlanReader(book.store)
    read = [row for entry in entries for row in reader.rows(entry["shard_id"], entry["plan_key"], entry["row_group"])]
    assert read == texts.to_pylist()


def test_a_plan_is_written_once(tmp_path: Path) -> None:
    book = Book(ObjectStore(str(tmp_path), StoreConfig()))
    texts = plan_texts(places([1, 2, 3]), 0, 2, 100)
    first = book.add_plan(0, texts, HEADER)
    assert book.add_plan(0, texts, HEADER) == first
    with pytest.raises(DriftError, match="run the same command again"):
        book.add_plan(0, plan_texts(places([1, 2, 3]), 0, 1, 100), HEADER)
    assert book.plans() == [first]
    assert book.add_plan(1, TEXTS.empty_table(), HEADER).recordings == 0
    assert book.entries().num_rows == 2


def answers() -> pa.Table:
    texts = [SourceText("r0", "one", (), "en"), SourceText("r1", "", status="failed")]
    failed = Answer("failed", failure=Failure("answer", "text_too_long", "It is too long."))
    rows = [(texts[0], "d0", Answer("ok", "One.", parts=1, warnings=("text_cut",))), (texts[1], "d1", failed)]
    return answers_table(rows, IDENTITY, "00000-abcdef12", 3)


def test_answers_read_back_as_they_were_written(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path), StoreConfig())
    assert publish_part(store, "00000-abcdef12", encode_answers(answers()))
    (part,) = list_parts(store)
    back = read_answers(store, part)
    assert back.equals(answers())
    assert back.schema.equals(ANSWERS)
    assert back["failure"].to_pylist() == [None, {**failure_row(), "attempts": 1}]


def failure_row() -> dict[str, str]:
    return {"stage": "answer", "code": "text_too_long", "message": "It is too long."}


def test_a_part_with_a_recording_twice_is_never_published() -> None:
    with pytest.raises(ValueError, match="1 distinct"):
        encode_answers(pa.concat_tables([answers().slice(0, 1)] * 2))


@pytest.mark.parametrize("damage", ["cut", "version"])
def test_damaged_parts_are_named(tmp_path: Path, damage: str) -> None:
    data = encode_answers(answers())
    if damage == "version":
        table = table_of(data).replace_schema_metadata({"schema_version": "99"})
        data = encode_answers(table)
    else:
        data = data[: len(data) // 2]
    store = ObjectStore(str(tmp_path), StoreConfig())
    publish_part(store, "00000-abcdef12", data)
    (part,) = list_parts(store)
    with pytest.raises(StoreError, match="cannot be read" if damage == "cut" else "schema version 99"):
        read_answers(store, part)


def test_the_run_knows_nothing_of_the_pass() -> None:
    def config(**settings: object) -> RunConfig:
        second_pass = SecondPassConfig.model_validate(settings)
        return RunConfig(manifest="m", output="o", second_pass=second_pass)

    asked = config(task="correction", model="m", batch_tokens=100)
    assert config().fingerprint() == asked.fingerprint()
    assert "second_pass" not in config().text_settings()
    assert pass_fingerprint(config()) != pass_fingerprint(asked)
    assert pass_fingerprint(asked) == pass_fingerprint(config(task="correction", model="m", shard_chars=9))
    secret = config(storage_options={"key": "hidden", "anon": True})
    assert secret.public()["second_pass"]["storage_options"] == {"key": "…", "anon": True}


def test_the_page_tells_every_column() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "second_pass.md").read_text("utf-8")
    for column in ANSWERS:
        meaning = column.metadata[b"meaning"].decode().replace("|", "\\|")
        assert f"| `{column.name}` | {meaning} |" in page
