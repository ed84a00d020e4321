"""Random transcripts whose segments and spans tile their time: for tests of what is heard again, and of what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from pipeline.records import Failure, Segment, Span, Transcript
from pipeline.text.flags import FLAGS, row_flags

TICK_S = 0.125  # exact in binary
FAILURE = Failure("transcribe", "engine_error", "It broke.")


def transcript(segments: Sequence[Segment], spans: Sequence[Span], **more: object) -> Transcript:
    """A row as the run would have it."""
    segments = tuple(replace(segment, id=number) for number, segment in enumerate(segments))
    failed = any(span.kind == "failed" for span in spans)
    row = Transcript(
        id="r",
        uri="/a",
        status=("partial" if segments else "failed") if failed else "ok",
        offset_s=0.0,
        duration_s=max([0.0, *(one.end_s for one in [*segments, *spans])]),
        text=" ".join(segment.text for segment in segments),
        segments=segments,
        spans=tuple(spans),
        failure=FAILURE if failed else None,
        language="en",
        reference_text=None,
        warnings=(),
        flags=row_flags(segments, spans),
        word_errors=None,
        char_errors=None,
        normalizer=None,
        decode_s=0.0,
        engine_s=0.0,
        window_index=0,
        window_count=1,
        window_start_s=0.0,
        extra={},
    )
    return replace(row, **more)  # type: ignore[arg-type]


@st.composite
def transcripts(draw: st.DrawFn, length: int | None = None) -> Transcript:
    """A row of up to ten pieces; of exactly `length` ticks where it is given."""
    kinds = st.sampled_from(["text", "text", "text", "non_speech", "unheard", "failed"])
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=10))
    if length is not None:
        lengths = [length] if length < len(lengths) else [*([1] * (len(lengths) - 1)), length - len(lengths) + 1]
    segments, spans, reached = list[Segment](), list[Span](), 0
    for ticks in lengths:
        start_s, end_s = reached * TICK_S, (reached + ticks) * TICK_S
        reached += ticks
        kind = draw(kinds)
        if kind != "text":
            spans.append(Span(start_s, end_s, kind))  # type: ignore[arg-type]
            continue
        flags = tuple(draw(st.lists(st.sampled_from(list(FLAGS)), max_size=2, unique=True)))
        confidence = draw(st.none() | st.floats(0, 1))
        text = draw(st.sampled_from(["one", "two words", "three words here"]))
        segments.append(Segment(0, start_s, end_s, text, "en", confidence=confidence, flags=flags))
    return transcript(segments, spans)
