"""Probing: the right rows are asked, the answers land on the right rows, readers are one per thread and all closed."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import AudioError
from pipeline.records import Probe, Recording
from pipeline.source import probing
from pipeline.source.manifest import MANIFEST_SCHEMA
from pipeline.source.probing import probe_missing


class Headers:
    """A reader whose answer is a function of the recording; it refuses to serve two threads or a closed door."""

    opened: list[Headers]

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.closed = False

    def probe(self, recording: Recording) -> Probe:
        assert threading.get_ident() == self.thread
        assert not self.closed
        assert recording.duration_s is None
        number = int(recording.id)
        if number % 5 == 0:
            raise AudioError("not_found", "There is no such object.")
        return Probe(duration_s=number / 10, size_bytes=number, etag=f"e{number}" if number % 2 else None)

    def close(self) -> None:
        self.closed = True


def manifest(given_durations: list[bool]) -> pa.Table:
    rows = [
        {"id": str(i), "uri": f"{i}.wav", "offset_s": 0.0, "duration_s": 9.0 if known else None}
        for i, known in enumerate(given_durations)
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_answers_land_on_their_rows(known: list[bool], workers: int, block: int) -> None:
    opened: list[Headers] = []
    seen: list[tuple[int, int]] = []

    def open_reader() -> Headers:
        opened.append(Headers())
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "_BLOCK", block)
        rows = manifest(known)
        table = probe_missing(rows, open_reader, workers, lambda done, total: seen.append((done, total)))
    asked = known.count(False)
    assert seen == [(done, asked) for done in range(1, asked + 1)]
    assert len(opened) <= workers
    assert all(reader.closed for reader in opened)
    assert table.select(MANIFEST_SCHEMA.names).equals(rows)
    for number, row in enumerate(table.to_pylist()):
        answered = not known[number] and number % 5
        assert row["probe_duration_s"] == (number / 10 if answered else None)
        assert row["size_bytes"] == (number if answered else None)
        assert row["etag"] == (f"e{number}" if answered and number % 2 else None)


def test_what_is_no_fault_of_the_audio_is_raised_and_readers_are_closed() -> None:
    class Broken(Headers):
        def probe(self, recording: Recording) -> Probe:
            raise RuntimeError("no decoder installed")

    opened: list[Broken] = []

    def open_reader() -> Broken:
        opened.append(Broken())
        return opened[-1]

    with pytest.raises(RuntimeError, match="no decoder"):
        probe_missing(manifest([False] * 9), open_reader, 2)
    assert opened
    assert all(reader.closed for reader in opened)


def test_one_thread_reads_a_row_group_in_its_order() -> None:
    asked: list[list[str]] = []

    class Listening(Headers):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[str] = []
            asked.append(self.heard)

        def probe(self, recording: Recording) -> Probe:
            self.heard.append(recording.uri)
            return super().probe(recording)

    uris = [f"x.parquet#group={n // 20}&row={n % 20}&column=audio" for n in range(120)]
    rows = [{"id": str(n + 1), "uri": uri, "offset_s": 0.0} for n, uri in enumerate(uris)]
    probe_missing(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), Listening, workers=3)
    assert sorted(uri for heard in asked for uri in heard) == sorted(uris)
    for heard in asked:
        for start in range(0, len(heard), 20):
            assert heard[start : start + 20] == uris[uris.index(heard[start]) :][:20]
