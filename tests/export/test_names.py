"""Names of files for ids that strangers chose."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.export.names import safe_name
from pipeline.store.base import is_key

IDS = st.one_of(
    st.text(max_size=300),
    st.from_regex(r"[a-zA-Z0-9./_-]{1,30}", fullmatch=True),
    st.from_regex(r"[a-z]{1,3}-[0-9a-f]{20}", fullmatch=True),
)


@given(IDS, IDS)
@example("A", "a")
@example("a/b", "a-b")
@example("a", "a\0")
@example("\u202egpj.a", "a.jpg")
def test_two_ids_never_share_a_name_even_without_capitals(one: str, other: str) -> None:
    if one != other:
        assert safe_name(one).lower() != safe_name(other).lower()


@given(IDS)
@example("../../x")
@example("x" * 10_000)
@example("..")
@example("")
@example("con.wav")
@example("\ud800")
def test_every_name_is_safe_and_a_key(recording_id: str) -> None:
    name = safe_name(recording_id)
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,99}", name)
    assert ".." not in name
    assert is_key(f"{name}.srt")
    assert name.partition(".")[0] not in ("con", "nul", "aux", "prn")


@given(IDS)
def test_no_id_is_named_like_the_made_name_of_another(recording_id: str) -> None:
    name = safe_name(recording_id)
    if name != recording_id:
        assert safe_name(name) != name


@pytest.mark.parametrize("plain", ["austen-0870", "7021-79730-0003", "call_2024.06.01", "a"])
def test_plain_ids_keep_their_name(plain: str) -> None:
    assert safe_name(plain) == plain


def test_what_is_plain_of_an_id_stays_readable() -> None:
    assert safe_name("2024/Interview 07.mp3").startswith("2024-interview-07-mp3-")
    assert safe_name("日本").startswith("recording-")
