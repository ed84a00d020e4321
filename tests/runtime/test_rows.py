"""Shards cross Ray and come back as they were, the audio without a copy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import (
    Chunk,
    DecodedShard,
    DecodedWindow,
    Failure,
    Receipt,
    Recording,
    Shard,
    Span,
    Undone,
    Window,
)
from pipeline.runtime.rows import (
    decoded_of,
    decoded_to_table,
    receipt_of,
    receipt_to_table,
)

texts = st.text(max_size=6)
seconds = st.floats(0, 1e5, allow_nan=False)
recordings = st.builds(
    Recording,
    id=texts,
    uri=texts,
    offset_s=seconds,
    duration_s=st.none() | seconds,
    keywords=st.lists(texts, max_size=2).map(tuple),
    extra=st.dictionaries(texts, texts, max_size=2),
)
windows = st.builds(Window, recordings, st.integers(0, 3), st.integers(1, 4), seconds, seconds)
shards = st.builds(Shard, texts, st.integers(0, 9), st.lists(windows, max_size=2).map(tuple), seconds)
failures = st.builds(Failure, texts, texts, texts, st.integers(1, 3))
decoded_windows = st.builds(
    DecodedWindow,
    seconds,
    seconds,
    st.lists(st.builds(Span, seconds, seconds, st.just("failed")), max_size=2).map(tuple),
    failure=st.none() | failures,
)
chunks = st.builds(
    Chunk, st.integers(0, 3), st.integers(0, 3), seconds, seconds, st.just(0), st.just(2), st.none() | seconds
)


@given(shards, st.lists(decoded_windows, max_size=2), st.lists(chunks, max_size=2), st.binary(max_size=64))
def test_a_decoded_shard(shard: Shard, wins: list[DecodedWindow], cuts: list[Chunk], audio: bytes) -> None:
    pcm = np.frombuffer(audio[: len(audio) // 2 * 2], np.int16)
    table = decoded_to_table(DecodedShard(shard, tuple(wins), tuple(cuts), pcm, 1.5))
    back = decoded_of(table)
    assert isinstance(back, DecodedShard)
    assert (back.shard, back.windows, back.chunks, back.decoded_at_s) == (shard, tuple(wins), tuple(cuts), 1.5)
    assert np.array_equal(back.pcm, pcm)
    assert not back.pcm.flags.owndata


def test_a_receipt_and_a_shard_that_was_not_done() -> None:
    receipt = Receipt("00000-aa", "won", 3, 1, 1, 1, 9.0, 0.1, 0.2, 0.3, 10.0, 4.0)
    assert receipt_of(receipt_to_table(receipt).to_pylist()[0]) == receipt
    undone = Undone("00000-aa", "decode", "no plan")
    assert decoded_of(decoded_to_table(undone)) == undone
    assert receipt_of(receipt_to_table(undone).to_pylist()[0]) == undone
