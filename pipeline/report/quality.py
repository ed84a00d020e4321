"""Sections on what was heard: word error rates by slice, distributions, and the stretches that should be looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.report.charts import Column, Mark, Tick, columns, interval, nice_scale
from pipeline.report.doubts import Doubt
from pipeline.report.facts import Facts
from pipeline.report.figures import NOTHING, count, length, percent, place, plural, tick
from pipeline.report.histogram import Histogram
from pipeline.report.markup import Child, Markup, element, foreign, join, language_tag, shown
from pipeline.report.parts import Field, note, numbers, plot, section, table
from pipeline.report.slices import DURATION, MOST_VALUES, Slice
from pipeline.report.snippets import LONGEST_S, Listen, Snippet
from pipeline.runtime.progress import clock
from pipeline.text.choice import RETRIED
from pipeline.text.flags import FLAGS

_LANGUAGES_SHOWN = 24
_DURATION_TICKS_S = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36_000.0, 360_000.0)
_LONGEST_TEXT = 600
FLAG_MEANINGS = {**FLAGS, RETRIED: "a second engine heard it: a mark, and no doubt"}


def accuracy(facts: Facts) -> Markup:
    """Word error rates, with their intervals, by language, by length and by columns of the manifest."""
    totals = facts.run["totals"]
    if totals["wer"] is None:
        missing = "No recording has a reference text, so there is no error rate. Rows of the manifest may carry one as `text`."
        return section("accuracy", "Accuracy", element("p", missing))
    told = (
        f"{percent(totals['wer'])} of words are wrong in {plural(totals['scored'], 'recording')} with a reference "
        f"({plural(totals['words'], 'word')}): {count(totals['word_substitutions'])} replaced, "
        f"{count(totals['word_deletions'])} missing, {count(totals['word_insertions'])} too many. "
        f"Character error rate {percent(totals['cer'])}."
    )
    tables = error_rates(facts)
    highest = max((one.high or 0.0 for slices in tables.values() for one in slices), default=0.0)
    scale = min(1.0, nice_scale(highest))
    names = {DURATION: "length of the recording"}
    left_out = [join(", " if at else "", foreign(name, 60)) for at, name in enumerate(facts.slices_left_out[:12])]
    return section(
        "accuracy",
        "Accuracy",
        element("p", told),
        [_slices(names.get(name, name), slices, scale) for name, slices in tables.items()],
        note(
            "Ranges are 95 % intervals of a bootstrap over recordings; one recording alone has none. A dash stands where nothing "
            "was scored. Where more was heard than was said, a rate is above 100 %."
        ),
        note(f"Columns with more than {MOST_VALUES} values are not shown: ", left_out, ".") if left_out else None,
    )


def error_rates(facts: Facts) -> dict[str, list[Slice]]:
    """Slices by slicing: `language`, DURATION, then columns of the manifest."""
    lengths = {name: slices for name, slices in facts.slices.items() if name == DURATION}
    return {"language": _languages(facts), **lengths, **facts.slices}


def distributions(facts: Facts) -> Markup:
    """How long recordings are, and how sure the engine was of segments."""
    limit = (facts.run["config"].get("flags") or {}).get("confidence")
    return section(
        "spread", "Lengths and confidence", _durations(facts.durations), _confidences(facts.confidences, limit)
    )


def doubts(facts: Facts, listen: Listen) -> Markup:
    """The flags, and the worst stretches with their audio."""
    totals = facts.run["totals"]
    flags = totals.get("flags", {})
    if not flags:
        return section("doubts", "What to check", element("p", "No segment is flagged."))
    items = [_doubt(doubt, listen(doubt)) for doubt in facts.doubts]
    shown_now = f"The {plural(len(items), 'stretch', 'stretches')} that should be trusted least, a few of every flag."
    listened = element("h3", "Worst first"), element("p", shown_now), element("ol", items, class_="doubts")
    return section("doubts", "What to check", _flags(flags, totals["audio_s"]), listened if items else None)


def _languages(facts: Facts) -> list[Slice]:
    rows = list(facts.run["totals"]["by_language"].items())[:_LANGUAGES_SHOWN]
    return [
        Slice(
            name,
            row["recordings"],
            row["audio_s"],
            row["scored"],
            row["words"],
            row["wer"],
            row["wer_low"],
            row["wer_high"],
        )
        for name, row in rows
    ]


def _slices(name: str, slices: Sequence[Slice], scale: float) -> Markup:
    fields = [
        Field(shown(name, 40)),
        Field("WER", "number"),
        Field("95 % interval", "number span"),
        Field([element("span", "0"), element("span", percent(scale, 0))], "whisker"),
        Field("words", "wide number"),
        Field("recordings", "wide number"),
        Field("audio", "wide number"),
    ]
    rows: list[Sequence[Child]] = []
    for one in slices:
        known = one.low is not None and one.high is not None and one.scored > 1
        span = f"{_bare(one.low or 0)} to {_bare(one.high or 0)}\u00a0%" if known else NOTHING
        title = f"{shown(one.value, 80)}: {percent(one.wer)}, {span}"
        small = element("span", plural(one.recordings, "recording"), class_="narrow")
        rows.append(
            [
                [foreign(one.value, 80), small],
                [percent(one.wer), element("span", span, class_="narrow") if known else None],
                span,
                interval(one.wer, one.low, one.high, scale, title) if known else None,
                count(one.words),
                count(one.recordings),
                length(one.audio_s),
            ]
        )
    return table(fields, rows, f"Word error rate by {shown(name, 60)}", "slices")


def _bare(rate: float) -> str:
    """In per cent, without the sign; tenths say nothing above a hundred."""
    return f"{100 * rate:.1f}" if rate < 1 else f"{100 * rate:,.0f}"


def _durations(histogram: Histogram) -> Markup:
    bars = histogram.bars()
    if not bars:
        return note("No recording has a length.")
    low, high = math.log(bars[0].low), math.log(bars[-1].high)
    ticks = [
        Tick((math.log(second) - low) / (high - low), tick(second))
        for second in _DURATION_TICKS_S
        if low - 1e-9 <= math.log(second) <= high + 1e-9
    ]
    drawn = [
        Column((("bar", bar.count),), f"{_span_s(bar.low)} to {_span_s(bar.high)}: {plural(bar.count, 'recording')}")
        for bar in bars
    ]
    middle, most = histogram.quantile(0.5), histogram.quantile(0.95)
    told = f"Half are shorter than {_span_s(middle or 0)}, 95 % than {_span_s(most or 0)}."
    if histogram.missing:
        told += f" {plural(histogram.missing, 'recording has', 'recordings have')} no audio that could be read."
    rows = [[f"{_span_s(bar.low)} to {_span_s(bar.high)}", count(bar.count)] for bar in bars if bar.count]
    fields = [Field("length"), Field("recordings", "number")]
    top = count(max(bar.count for bar in bars))
    return plot(
        "Recordings by length",
        columns(drawn, ticks, f"recordings by length, on a logarithmic scale; {told}", top),
        note(told),
        numbers(table(fields, rows, "Recordings by length")),
    )


def _confidences(histogram: Histogram, limit: float | None) -> Markup:
    if not histogram.total:
        return note("The engine gives no confidence.")
    bars = histogram.bars(trimmed=False)
    drawn = [
        Column((("bar", bar.count),), f"{bar.low:.3f} to {bar.high:.3f}: {plural(bar.count, 'segment')}")
        for bar in bars
    ]
    ticks = [Tick(at, f"{at:g}") for at in (0.0, 0.25, 0.5, 0.75, 1.0)]
    marks = [Mark(limit, "flagged below")] if limit else []
    told = f"Half of the segments are above {histogram.quantile(0.5) or 0:.2f}."
    if histogram.missing:
        told += f" {plural(histogram.missing, 'segment has', 'segments have')} none."
    rows = [[f"{bar.low:.3f} to {bar.high:.3f}", count(bar.count)] for bar in bars if bar.count]
    fields = [Field("confidence"), Field("segments", "number")]
    top = count(max(bar.count for bar in bars))
    return plot(
        "Segments by confidence",
        columns(drawn, ticks, f"segments by confidence; {told}", top, marks=marks),
        note(told),
        numbers(table(fields, rows, "Segments by confidence")),
    )


def _span_s(seconds: float) -> str:
    return clock(seconds) if seconds >= 10 else f"{seconds:.1f} s"


def _flags(flags: dict[str, dict[str, float]], audio_s: float) -> Markup:
    fields = [
        Field("flag"),
        Field("stretches", "number"),
        Field("recordings", "wide number"),
        Field("audio", "number"),
        Field("of all", "wide number"),
    ]
    rows: list[Sequence[Child]] = [
        [
            [
                element("code", shown(flag, 60)),
                element("span", FLAG_MEANINGS.get(flag, "the engine's own"), class_="aside"),
            ],
            count(found["pieces"]),
            count(found["recordings"]),
            length(found["audio_s"]),
            percent(found["audio_s"] / audio_s if audio_s else None),
        ]
        for flag, found in list(flags.items())[:40]
    ]
    return table(fields, rows, "Quality flags")


def _doubt(doubt: Doubt, snippet: Snippet) -> Markup:
    said = [place(doubt.start_s), " to ", place(doubt.end_s)]
    if doubt.speaker:
        said += [", speaker ", foreign(doubt.speaker, 40)]
    if doubt.channel is not None:
        said += [f", channel {doubt.channel + 1}"]
    if doubt.confidence is not None:
        said += [f", confidence {doubt.confidence:.2f}"]
    text = foreign(doubt.text, _LONGEST_TEXT) if doubt.text.strip() else element("i", "no text")
    chips = [element("code", shown(flag, 60), class_="flag") for flag in doubt.flags[:8]]
    where = element("p", said, class_="where"), element("p", chips, class_="chips")
    return element(
        "li",
        element("div", element("h4", foreign(doubt.recording_id, 160)), where, class_="head"),
        element("blockquote", text, lang=language_tag(doubt.language), dir="auto"),
        element("div", _player(doubt, snippet), class_="sound"),
    )


def _player(doubt: Doubt, snippet: Snippet) -> Markup | None:
    if snippet.address is None:
        return note(shown(snippet.reason, 300)) if snippet.reason else None
    label = f"{shown(doubt.recording_id, 80)}, {place(doubt.start_s)} to {place(doubt.end_s)}"
    audio = element("audio", controls=True, preload="metadata", src=snippet.address, aria_label=label)
    return join(audio, note(f"The first {LONGEST_S:g} seconds.") if snippet.is_cut else None)
