"""How many hours of pairs there are to train on, before they are written: one pass, sums only. Reads; writes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.export.manifests import judged_pairs
from pipeline.export.options import ExportOptions
from pipeline.reading import RunTable
from pipeline.records import Transcript
from pipeline.schema import transcript_of

_BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class Supply:
    """Pairs under one limit. `left_out_h`: hours by the first reason that speaks against them, as `quarry export` counts them."""

    max_wer: float | None
    pairs: int
    hours: float
    left_out_h: dict[str, float]


def supply(rows: RunTable, options: ExportOptions, max_wers: Sequence[float | None]) -> list[Supply]:
    """What `quarry export --format pairs` would write with each of the limits in place of `options.max_wer`, and what not.

    Raises ConfigError for a condition, StoreError.
    """
    choices = [replace(options, max_wer=limit) for limit in max_wers]
    sums = [_Sums() for _ in choices]
    for batch in rows.batches(where=options.where, rows=_BATCH_ROWS):
        transcripts = [transcript_of(row) for row in batch.to_pylist()]
        for one, choice in zip(sums, choices, strict=True):
            one.add(transcripts, choice)
    return [
        Supply(limit, one.pairs, one.seconds_by[""] / 3600, {why: s / 3600 for why, s in one.seconds_by.items() if why})
        for limit, one in zip(max_wers, sums, strict=True)
    ]


class _Sums:
    def __init__(self) -> None:
        self.pairs = 0
        self.seconds_by: dict[str, float] = defaultdict(float)

    def add(self, transcripts: Iterable[Transcript], options: ExportOptions) -> None:
        for transcript in transcripts:
            for pair, reason in judged_pairs(transcript, options):
                self.pairs += not reason
                self.seconds_by[reason] += pair["duration"]
