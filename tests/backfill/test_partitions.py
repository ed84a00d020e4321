"""Partitions: dates counted out, names listed, keys that are safe and keep apart what is different."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backfill.book import run_id_of
from pipeline.backfill.partitions import archive_name, config_of, day_of, key_of, partitions, period
from pipeline.config import BackfillConfig, RunConfig
from pipeline.config.file import load_config
from pipeline.errors import ConfigError
from pipeline.prepare import run_id
from pipeline.store.base import is_key

TODAY = date(2026, 11, 20)


def config(manifest: str, *more: str) -> RunConfig:
    return load_config(None, [f"manifest={manifest}", "output=out", *more])


def found(manifest: str, *more: str) -> list[tuple[str, str]]:
    given = config(manifest, *more)
    return [(one.key, one.manifest) for one in partitions(given, period(given.backfill, TODAY))]


def test_days_are_counted_out_oldest_first() -> None:
    days = found("s3://b/audio/{date:%Y/%m/%d}/", "backfill.last_days=2")
    assert days == [("2026-11-19", "s3://b/audio/2026/11/19/"), ("2026-11-20", "s3://b/audio/2026/11/20/")]
    newest = found("s3://b/{date:%Y}/{date:%j}.jsonl", "backfill.last_days=2", "backfill.order=newest")
    assert newest == [("2026-11-20", "s3://b/2026/324.jsonl"), ("2026-11-19", "s3://b/2026/323.jsonl")]


def test_months_years_and_hours() -> None:
    month = found("a/{date:%Y-%m}.jsonl", "backfill.since=2026-10-31")
    assert month == [("2026-10", "a/2026-10.jsonl"), ("2026-11", "a/2026-11.jsonl")]
    assert found("a/{date:%Y}/", "backfill.since=2025-12-31") == [("2025", "a/2025/"), ("2026", "a/2026/")]
    hours = found("a/{date:%Y%m%d/%H}/", "backfill.last_days=1")
    assert len(hours) == 24
    assert hours[5] == ("2026-11-20T05", "a/20261120/05/")


@pytest.mark.parametrize(
    ("settings", "days"),
    [
        ({"since": "2026-11-18", "last_days": 2}, (date(2026, 11, 19), TODAY)),
        ({"since": "2026-11-18", "until": "2026-11-19"}, (date(2026, 11, 18), date(2026, 11, 19))),
        ({"last_days": 10**9}, (date.min, TODAY)),
        ({"until": "2026-11-19", "last_days": 1}, (date(2026, 11, 19), date(2026, 11, 19))),
        ({"since": date(2026, 11, 18)}, (date(2026, 11, 18), TODAY)),  # as YAML reads it
        ({}, (None, TODAY)),
    ],
)
def test_the_period(settings: dict[str, object], days: tuple[date | None, date]) -> None:
    meant = period(BackfillConfig(**settings), TODAY)
    assert (meant.since, meant.until) == days


@pytest.mark.parametrize(
    ("manifest", "more", "says"),
    [
        ("a/{date:%Y-%m-%d}/", [], "give --since"),
        ("a/{date:%d}/", ["backfill.last_days=3"], "must be made of"),
        ("a/{date:%Y-%d}/", ["backfill.last_days=3"], "must be made of"),
        ("a/{date:%Y-%m-%d-%Z}/", ["backfill.last_days=3"], "must be made of"),
        ("a/{date:%Y %H}/", ["backfill.last_days=3"], "an hour and no day"),
        ("a/{date:%Y/%m/%d/%H}/", ["backfill.since=1970-01-01"], "begin later"),
        ("a/{date:%Y}/", ["backfill.since=2026-12-01"], "lies after"),
        ("a/**/*.jsonl", [], "name each level"),
    ],
)
def test_what_cannot_be_is_said(manifest: str, more: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.jsonl").touch()
    with pytest.raises(ConfigError, match=says):
        found(f"{tmp_path}/{manifest}", *more)


def test_names_are_listed_and_days_among_them_chosen(tmp_path: Path) -> None:
    for name in ("2026-11-19.jsonl", "2026-11-21.jsonl", "old stuff.jsonl", ".hidden.jsonl", "x.txt", "day/a.wav"):
        (tmp_path / "[lists]" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "[lists]" / name).touch()
    folder = f"{tmp_path}/[lists]"
    names = found(f"{folder}/*.jsonl")
    assert names == [(key_of("old stuff"), f"{folder}/old stuff.jsonl"), ("2026-11-19", f"{folder}/2026-11-19.jsonl")]
    assert found(f"{folder}/*/") == [("day", f"{folder}/day/")]
    assert found(f"{tmp_path}/nothing/*.jsonl") == []


def test_two_levels_of_names(tmp_path: Path) -> None:
    for name in ("berlin/a", "bern/a"):
        (tmp_path / name).mkdir(parents=True)
    assert [key for key, _ in found(f"{tmp_path}/*/*/")] == ["berlin-a", "bern-a"]


@given(st.text(max_size=80), st.text(max_size=80))
def test_keys_are_safe_and_tell_texts_apart(one: str, other: str) -> None:
    key = key_of(one)
    assert is_key(f"partitions/{key}/x")
    assert not key.startswith("_")
    assert (key == key_of(other)) == (one == other)
    assert len(key) <= 49


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        ("s3://bucket/audio/{date:%Y}/", "audio"),
        ("lists/calls-{date:%Y}.jsonl", "calls"),
        ("s3://bucket/*.jsonl", "bucket"),
        ("all.jsonl", "all"),
        ("'*.jsonl'", "archive"),
    ],
)
def test_the_name_of_an_archive(manifest: str, name: str) -> None:
    assert archive_name(config(manifest)) == name


def test_a_partitions_run_is_found_again_by_the_names_alone() -> None:
    archive = config("s3://b/my-audio/{date:%Y-%m-%d}/", "backfill.last_days=1")
    (partition,) = partitions(archive, period(archive.backfill, TODAY))
    folder = f"my-audio-{archive.fingerprint()}"
    made = config_of(archive, partition)
    assert run_id(made) == run_id_of(folder, partition.label) == f"my-audio-2026-11-20-{archive.fingerprint()}"
    assert made.fingerprint() == archive.fingerprint()
    whole = config("all.jsonl")
    (one,) = partitions(whole, period(whole.backfill, TODAY))
    assert run_id(config_of(whole, one)) == run_id(whole) == run_id_of(f"all-{whole.fingerprint()}", one.label)


def test_a_name_that_is_too_long_is_refused() -> None:
    archive = config("a/{date:%Y-%m-%d}/", "backfill.last_days=1", f"name={'x' * 60}")
    (partition,) = partitions(archive, period(archive.backfill, TODAY))
    with pytest.raises(ConfigError, match="shorter `name`"):
        config_of(archive, partition)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-11-20", TODAY),
        ("20261120", TODAY),
        ("2026-11-20T05", TODAY),
        ("2026-13-01", None),
        ("", None),
        ("a", None),
    ],
)
def test_texts_that_are_days(text: str, day: date | None) -> None:
    assert day_of(text) == day


@pytest.mark.parametrize("template", ["audio/{date}/", "audio/{x:%Y}/", "audio/{Date:%Y}/{date:%m}/"])
def test_a_date_that_is_none_is_said(template: str) -> None:
    wrong = config(template, "backfill.last_days=2")
    with pytest.raises(ConfigError, match="is no date; write it as"):
        partitions(wrong, period(wrong.backfill, TODAY))
    shards = config("lists/m_{00..63}.jsonl", "backfill.last_days=2")
    assert len(partitions(shards, period(shards.backfill, TODAY))) == 1
