"""The text report: what a person wants to know when a run is over, or before it starts. Formats; computes nothing new."""

from __future__ import annotations

from io import StringIO
from typing import Any

from pipeline.metrics.rtfx import heard_s, padding_waste, rtfx
from pipeline.report.markup import shown
from pipeline.store.snapshot import Snapshot

_WIDTH = 110
_LANGUAGES_SHOWN = 12


def report_text(snapshot: Snapshot, settings: str, is_folder: bool = False) -> str:
    """Rows by status, WER and CER by language, flags, both RTFx, who waited, what failed, where it lies, what to do next."""
    run = snapshot.run
    sections = [
        f"Run {run['run_id']} · {run['engine']} {run['model']} · snapshot {snapshot.number}",
        _status_table(run["totals"]),
        _score_table(run["totals"]["by_language"]),
        _flag_table(run["totals"]),
        "\n".join(_speed_lines(run)),
        "\n".join(_retry_lines(run.get("retries", []))),
        "\n".join(_failure_lines(run["totals"])),
        "\n".join(_next_lines(snapshot, settings, is_folder)),
    ]
    return _printable("\n\n".join(section for section in sections if section))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char == "\n" else "�" for char in text)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Columns and rows as lines of text; the first column to the left, the others to the right. Names come from manifests."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_printable(cell.replace("\n", "�")) for cell in row))
    buffer = StringIO()
    Console(file=buffer, width=_WIDTH, color_system=None, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines() if line.strip())


def _status_table(totals: dict[str, Any]) -> str:
    rows = [[status, f"{totals[status]:,}"] for status in ("ok", "partial", "failed", "skipped") if totals[status]]
    rows.append(["all", f"{totals['recordings']:,} ({totals['audio_s'] / 3600:.2f} h)"])
    return table(["status", "recordings"], rows)


def _score_table(by_language: dict[str, dict[str, Any]]) -> str:
    scored = {name: score for name, score in by_language.items() if score["scored"]}
    largest = sorted(scored, key=lambda name: -scored[name]["audio_s"])[:_LANGUAGES_SHOWN]
    rows = [
        [
            language,
            f"{score['scored']:,}",
            f"{score['words']:,}",
            _percent(score["wer"]),
            f"{_percent(score['wer_low'])} to {_percent(score['wer_high'])}",
            _percent(score["cer"]),
        ]
        for language, score in ((name, scored[name]) for name in largest)
    ]
    return table(["language", "scored", "words", "WER", "95 % interval", "CER"], rows) if rows else ""


def _flag_table(totals: dict[str, Any]) -> str:
    rows = [
        [
            flag,
            f"{found['pieces']:,}",
            f"{found['recordings']:,}",
            f"{found['audio_s']:,.1f} s",
            _percent(found["audio_s"] / totals["audio_s"] if totals["audio_s"] else None),
        ]
        for flag, found in totals.get("flags", {}).items()  # snapshots from before there were flags have none
    ]
    return table(["flag", "segments", "recordings", "audio", "of all"], rows) if rows else ""


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}".replace("%", " %")


def _speed_lines(run: dict[str, Any]) -> list[str]:
    totals, sessions = run["totals"], run["sessions"]
    lines = []
    engine = rtfx(heard_s(totals), totals["engine_s"])
    if engine is not None:
        lines.append(
            f"engine RTFx    {engine:8.1f}   {heard_s(totals):.0f} s of audio in {totals['engine_s']:.1f} engine seconds"
        )
    wall_s, audio_s = (sum(session[key] for session in sessions) for key in ("wall_s", "audio_s"))
    pipeline = rtfx(audio_s, wall_s)
    if pipeline is not None:
        known = "" if audio_s >= totals["audio_s"] * 0.999 else f", of {audio_s / totals['audio_s']:.0%} of the audio"
        lines.append(
            f"pipeline RTFx  {pipeline:8.1f}   {wall_s:.1f} s from start to last commit, start-up included{known}"
        )
    lines += _engine_lines(run)
    return lines


def _engine_lines(run: dict[str, Any]) -> list[str]:
    totals = run["totals"]
    lines = []
    present_s = totals["engine_s"] + totals["wait_s"]
    if present_s:
        share = totals["wait_s"] / present_s
        who = "the engine waited for decoding" if share > 0.5 else "decoding waited for the engine"
        lines.append(f"engine busy    {1 - share:8.0%}   {who}".replace("%", " %"))
    waste = padding_waste(totals["engine_audio_s"], totals["padded_s"])
    if waste is not None:
        lines.append(f"padding        {waste:8.1%}   of what the engine computed".replace("%", " %"))
    drafts = totals.get("draft_s", 0.0)  # snapshots from before there were drafts say nothing of them
    if drafts > 0:
        share = drafts / totals["engine_audio_s"]
        lines.append(
            f"drafts         {share:8.1%}   of the audio kept the engine's first hypothesis".replace("%", " %")
        )
    if tokens := totals.get("drafted_tokens", 0.0):
        share = totals["foretold_tokens"] / tokens
        lines.append(f"foretold       {share:8.1%}   of the tokens that had a draft to check".replace("%", " %"))
    lines += _cost_lines(run)
    return lines


def _cost_lines(run: dict[str, Any]) -> list[str]:
    cost = run.get("cost")  # snapshots from before there were price files have none
    if not cost or cost["spent"]["usd"] is None:
        return []
    spent, expected = cost["spent"], cost["expected"]
    line = f"cost           {spent['usd_per_audio_h'] or 0:8.4f}   USD per audio hour"
    line += f": {spent['usd']:,.2f} for {spent['audio_h']:,.2f} h"
    if expected and expected["usd"] is not None:
        line += f"; {expected['usd']:,.2f} for {expected['audio_h']:,.2f} h were expected"
    return [line]


def _retry_lines(retries: list[dict[str, Any]]) -> list[str]:
    """How many stretches were heard again, how many were replaced, and why (docs/retry.md has the words)."""
    lines = ["Heard again:"] if retries else []
    for retry in retries:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in retry["reasons"].items())
        stretches = f"{retry['stretches']:,} {'stretch' if retry['stretches'] == 1 else 'stretches'}"
        lines.append(
            f"  {retry['id']}  {retry['name']} {retry['model']}: {stretches}, {retry['replaced']:,} replaced ({reasons})"
        )
    return lines


def _failure_lines(totals: dict[str, Any]) -> list[str]:
    if not totals["failure_codes"]:
        return []
    lines = ["What went wrong:"]
    for example in totals["failure_examples"]:
        lines.append(f"  {shown(example['id'])}  {shown(example['code'])}: {shown(example['message'])}")
    more = sum(totals["failure_codes"].values()) - len(totals["failure_examples"])
    if more > 0:
        codes = ", ".join(f"{code} {count:,}" for code, count in totals["failure_codes"].items())
        lines.append(f"  … and {more:,} more ({codes})")
    return lines


def _next_lines(snapshot: Snapshot, settings: str, is_folder: bool) -> list[str]:
    run = snapshot.run
    transcripts = f"{run['uri'].rstrip('/')}/{snapshot.tables}/transcripts"
    options = ", storage_options={...}" if "://" in transcripts else ""
    columns = "[['id', 'status', 'text']]"
    vad = "none" if run["config"]["chunk"]["vad"] == "energy" else "energy"
    other = f"  quarry run {settings} chunk.vad={vad}    # other text settings: another run beside this one"
    return [
        f"Transcripts lie in {transcripts}/",
        "Next, try:",
        f"  python -c \"import pandas; print(pandas.read_parquet('{transcripts}'{options}){columns})\"",
        f"  quarry report {settings} -o report.html    # a page, with what to check to listen to",
        f"  quarry verify {settings}",
        *([] if is_folder else [other]),
    ]
