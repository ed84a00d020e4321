"""The first screen of the page, and its speed and cost: totals, both RTFx, who waited when, what was paid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipeline.metrics.rtfx import heard_s, padding_waste, rtfx
from pipeline.report.charts import Column, Mark, Tick, columns, nice_scale, shares, swatch
from pipeline.report.doubts import NO_DOUBT
from pipeline.report.facts import Facts
from pipeline.report.figures import NOTHING, count, length, percent, plural, tick, times, usd
from pipeline.report.markup import Child, Markup, element, foreign, join, shown
from pipeline.report.parts import Field, figures, note, numbers, plot, section, table
from pipeline.report.waiting import Interval
from pipeline.runtime.progress import clock

_STATUSES = {
    "ok": "whole",
    "partial": "in part",
    "failed": "failed",
    "skipped": "skipped",
}
_MOST_TICKS = 5
_STEPS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 43_200, 86_400, 172_800)


def header(facts: Facts) -> Markup:
    """Which run this is, and what became of it."""
    run, totals = facts.run, facts.run["totals"]
    said = [plural(totals["recordings"], "recording"), ", ", length(totals["audio_s"]), " of audio, heard by "]
    engine = [foreign(run["engine"], 60), " ", foreign(run["model"], 120), "."]
    last = run["sessions"][-1]["started_at"] if run["sessions"] else None
    when = [" The last session began ", element("time", _minute(last), datetime=shown(last)), "."] if last else []
    parts = [(status, float(totals[status]), f"{word}: {count(totals[status])}") for status, word in _STATUSES.items()]
    legend = [
        element("li", swatch(status), f" {word} ", element("b", count(totals[status])))
        for status, word in _STATUSES.items()
        if totals[status]
    ]
    return element(
        "header",
        element("p", "Transcription report", class_="kicker"),
        element("h1", foreign(run["run_id"], 120)),
        element("p", said, engine, when, f" Snapshot {facts.snapshot.number}.", class_="lede"),
        shares([part for part in parts if part[1]], "recordings by status"),
        element("ul", legend, class_="legend"),
        _key_figures(facts),
    )


def speed(facts: Facts) -> Markup:
    """Both RTFx side by side, the shares behind them, waiting over time, sessions."""
    run = facts.run
    return section(
        "speed",
        "Speed",
        _both_rtfx(run),
        element("p", _who_waited(run["totals"])),
        _shares_table(run["totals"]),
        _waiting(facts),
        _sessions(run["sessions"]),
    )


def cost(facts: Facts) -> Markup | None:
    """What was expected beside what was spent; None for snapshots from before there was a cost."""
    found = facts.run.get("cost")
    if not found:
        return None
    sides = [(name, found[key]) for key, name in (("expected", "expected"), ("spent", "spent")) if found.get(key)]
    lines: list[Sequence[Child]] = [
        ["audio", *(length(side["audio_h"] * 3600) for _, side in sides)],
        ["engine time", *(clock(side["engine_h"] * 3600) for _, side in sides)],
        ["wall time", *(clock(side["wall_h"] * 3600) for _, side in sides)],
        ["cost", *(usd(side["usd"]) for _, side in sides)],
        ["per audio hour", *(usd(side["usd_per_audio_h"], 4) for _, side in sides)],
    ]
    fields = [Field("of the run"), *(Field(name, "number") for name, _ in sides)]
    unpriced = all(side["usd"] is None for _, side in sides)
    return section(
        "cost",
        "Cost",
        table(fields, lines, "What the plan expected, and what was spent"),
        note("No price was given: cost.prices and cost.machines put one on the hours.") if unpriced else None,
        note("Spent is all machines for as long as the sessions went on, idle time and start-up included."),
    )


def _minute(moment: str) -> str:
    return shown(moment, 40).replace("T", " ")[:16] + " UTC" if moment.endswith("+00:00") else shown(moment, 40)


def _key_figures(facts: Facts) -> Markup:
    totals, sessions = facts.run["totals"], facts.run["sessions"]
    scored = f"{percent(totals['wer_low'])} to {percent(totals['wer_high'])}" if totals["wer"] is not None else ""
    wall_s, audio_s = _walls(sessions)
    spent = (facts.run.get("cost") or {}).get("spent") or {}
    flagged = sum(found["pieces"] for flag, found in totals.get("flags", {}).items() if flag not in NO_DOUBT)
    pairs: list[tuple[str, Child, Child]] = [
        ("Audio", length(totals["audio_s"]), plural(totals["recordings"], "recording")),
        ("Word error rate", percent(totals["wer"]), scored or "no references"),
        ("Pipeline RTFx", times(rtfx(audio_s, wall_s)), f"{clock(wall_s)} of wall time"),
        (
            "Engine RTFx",
            times(rtfx(heard_s(totals), totals["engine_s"])),
            f"{clock(totals['engine_s'])} of engine time",
        ),
        ("Flags", count(flagged), "stretches to look at"),
        ("Failed", count(totals["failed"]), f"{count(totals['partial'])} more are there in part"),
    ]
    if spent.get("usd") is not None:
        pairs.insert(4, ("Cost", usd(spent["usd"]), f"{usd(spent['usd_per_audio_h'], 4)} per audio hour"))
    return figures(pairs)


def _walls(sessions: Sequence[dict[str, Any]]) -> tuple[float, float]:
    return sum(one["wall_s"] for one in sessions), sum(one["audio_s"] for one in sessions)


def _both_rtfx(run: dict[str, Any]) -> Markup:
    totals = run["totals"]
    wall_s, audio_s = _walls(run["sessions"])
    known = "" if audio_s >= totals["audio_s"] * 0.999 else f" ({percent(audio_s / totals['audio_s'], 0)} of the audio)"
    engine = f"{length(heard_s(totals))} of audio in {clock(totals['engine_s'])} inside the engine: how fast the model is here."
    pipeline = f"{length(audio_s)}{known} in {clock(wall_s)} from start to last commit, start-up included: what you waited for."
    return figures(
        [
            ("Engine RTFx", times(rtfx(heard_s(totals), totals["engine_s"])), engine),
            ("Pipeline RTFx", times(rtfx(audio_s, wall_s)), pipeline),
        ]
    )


def _who_waited(totals: dict[str, Any]) -> str:
    present_s = totals["engine_s"] + totals["wait_s"]
    if not present_s:
        return "No shard says how long the engine worked."
    busy = totals["engine_s"] / present_s
    told = f"The engine worked {percent(busy, 0)} of the time it was there. "
    if busy < 0.5:
        return told + "It waited for audio: more decode workers, or a nearer store, would make the run faster."
    if busy < 0.9:
        return told + "It waited for audio now and then: a few more decode workers may help."
    return told + "Decoding kept up: more engine workers, or faster ones, would make the run faster."


def _shares_table(totals: dict[str, Any]) -> Markup:
    speech = totals["engine_audio_s"] / heard_s(totals) if totals["audio_s"] else None
    rows: list[Sequence[Child]] = [
        ["speech given to the engine", percent(speech), "of the audio; the rest is silence"],
        [
            "padding",
            percent(padding_waste(totals["engine_audio_s"], totals["padded_s"])),
            "of what the engine computed",
        ],
        ["decoding", clock(totals["decode_s"]), "of CPU time"],
    ]
    drafts, tokens = totals.get("draft_s", 0.0), totals.get("drafted_tokens", 0.0)
    if drafts and totals["engine_audio_s"]:
        rows.append(["drafts kept", percent(drafts / totals["engine_audio_s"]), "of the speech"])
    if tokens:
        rows.append(["tokens foretold", percent(totals["foretold_tokens"] / tokens), "of those with a draft to check"])
    fields = [Field("what"), Field("how much", "number"), Field("of what")]
    return table(fields, rows, "What the time went into")


def _waiting(facts: Facts) -> Markup:
    intervals = facts.waiting.intervals()
    if not intervals:
        return note("When the engine waited is not known: the run is from before shards noted the time.")
    wall_s = intervals[-1].end_s
    ticks = _time_ticks(wall_s)
    marks = [Mark(border / wall_s, "") for border in facts.waiting.borders_s]
    highest = max(one.busy + one.waiting for one in intervals)
    workers = max(session["engine_workers"] for session in facts.run["sessions"])
    scale = workers if highest <= 1.1 * workers else nice_scale(highest)  # clocks are not exact to the last second
    longest = max(1, math.ceil(max(one.in_line for one in intervals)))
    engines = [
        Column(
            (("busy", min(one.busy, scale)), ("idle", min(one.waiting, scale - min(one.busy, scale)))), _at_work(one)
        )
        for one in intervals
    ]
    line = [Column((("queue", one.in_line),), f"{_when(one)}: {one.in_line:.2f} in line") for one in intervals]
    legend = element(
        "ul", element("li", swatch("busy"), " at work"), element("li", swatch("idle"), " waiting"), class_="legend"
    )
    lost = facts.waiting.unplaced
    return join(
        plot(
            "Engine workers over wall time",
            columns(
                engines,
                ticks,
                "engine workers at work and waiting, over wall time",
                f"{scale:g}",
                scale,
                marks,
            ),
            legend,
        ),
        plot(
            "Decoded shards in line for an engine",
            columns(
                line,
                ticks,
                "decoded shards that wait for an engine, over wall time",
                count(longest),
                longest,
                marks,
            ),
        ),
        numbers(_intervals_table(intervals)),
        note(f"{plural(lost, 'shard')} noted no time, or one in no session, and cannot be placed.") if lost else None,
    )


def _at_work(one: Interval) -> str:
    return f"{_when(one)}: {one.busy:.2f} at work, {one.waiting:.2f} idle"


def _when(one: Interval) -> str:
    return f"{clock(one.start_s)} to {clock(one.end_s)}"


def _time_ticks(wall_s: float) -> list[Tick]:
    step_s = next((step for step in _STEPS_S if wall_s / step < _MOST_TICKS), wall_s)
    return [Tick(at * step_s / wall_s, tick(at * step_s)) for at in range(int(wall_s // step_s) + 1)]


def _intervals_table(intervals: Sequence[Interval]) -> Markup:
    fields = [Field("from"), Field("at work", "number"), Field("waiting", "number"), Field("in line", "number")]
    rows = [[clock(one.start_s), f"{one.busy:.2f}", f"{one.waiting:.2f}", f"{one.in_line:.2f}"] for one in intervals]
    return table(fields, rows, "Mean number of engine workers and of decoded shards in line")


def _sessions(sessions: Sequence[dict[str, Any]]) -> Markup:
    fields = [
        Field("began"),
        Field("wall time", "number"),
        Field("audio", "number"),
        Field("RTFx", "number"),
        Field("first shard after", "wide number"),
        Field("engine workers", "wide number"),
        Field("on", "wide"),
    ]
    rows: list[Sequence[Child]] = [
        [
            _minute(one["started_at"]),
            clock(one["wall_s"]),
            length(one["audio_s"]),
            times(rtfx(one["audio_s"], one["wall_s"])),
            clock(one["first_commit_s"]),
            count(one["engine_workers"]),
            foreign(one["hardware"], 120),
        ]
        for one in sessions[-20:]
    ]
    return table(fields, rows, "Sessions: each time the run was begun or resumed") if rows else note(NOTHING)
