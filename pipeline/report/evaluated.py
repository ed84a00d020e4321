"""The text of an evaluation: datasets, slices, means, speeds. Formats; computes nothing new."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.metrics.rtfx import heard_s
from pipeline.metrics.shares import BUCKETS
from pipeline.report.text import table

_SLICES_SHOWN = 12
_LEFT_OUT = {
    "no_reference": "without a reference",
    "empty_reference": "whose reference is empty after normalisation",
    "ignore_time_segment_in_scoring": "marked to be ignored",
}


def evaluation_text(result: dict[str, Any], scores: pa.Table, uri: str) -> str:
    """What the leaderboard would show of these datasets, with intervals, slices and the pipeline's own speed."""
    sections = [
        f"Evaluation of {result['engine']} {result['model']} on {len(result['datasets'])} datasets",
        _dataset_table(result),
        "\n".join(_overall_lines(result)),
        *_slice_tables(scores),
        "\n".join([*_left_out_lines(result), *_failed_lines(result)]),
        f"Result, scores and the leaderboard's manifests lie in {uri}/",
    ]
    return "\n\n".join(section for section in sections if section)


def _dataset_table(result: dict[str, Any]) -> str:
    rows = [
        [
            row["dataset"],
            f"{row['scored']:,}",
            _rate(row["wer"]),
            _interval(row["wer_low"], row["wer_high"]),
            _rate(row["leaderboard_wer"]),
            _interval(row["leaderboard_wer_low"], row["leaderboard_wer_high"]),
            _speed(row["rtfx"]),
            _speed(row["pipeline_rtfx"]),
        ]
        for row in result["datasets"]
    ]
    mean = ["mean, or all", f"{sum(row['scored'] for row in result['datasets']):,}"]
    for name in ("mean_wer", "mean_leaderboard_wer"):
        mean += [_rate(result[name]), _interval(result[f"{name}_low"], result[f"{name}_high"])]
    rows.append([*mean, _speed(result["rtfx"]), _speed(result["pipeline_rtfx"])])
    columns = ["dataset", "scored", "WER %", "95 %", "leaderboard %", "95 %", "RTFx", "pipeline"]
    return table(columns, rows)


def _overall_lines(result: dict[str, Any]) -> list[str]:
    lines = [
        "WER: words as jiwer counts them. Leaderboard: compounds may be written apart, as the leaderboard publishes it.",
        f"RTFx: {heard_s(result):,.0f} s of audio in {result['engine_s']:,.1f} engine seconds, decoding left out;"
        f" pipeline RTFx: {result['wall_s']:,.1f} s from start to last commit.",
    ]
    spent = result["spent"]
    if spent["usd"] is not None:
        lines.append(f"Cost: {spent['usd']:,.2f} USD, {spent['usd_per_audio_h'] or 0:.4f} per audio hour.")
    return lines


def _slice_tables(scores: pa.Table) -> list[str]:
    """One table per column that has more than one value anywhere: every dataset's slices beside each other."""
    tables = []
    columns = [name for name in pc.unique(scores["column"]).to_pylist() if name != "all"]
    for column in columns:
        rows = scores.filter(pc.equal(scores["column"], column))
        if pc.count_distinct(rows["value"]).as_py() > 1:
            shown = [_slice_row(row) for row in _in_order(column, rows)]
            tables.append(table([column, "dataset", "scored", "words", "WER %", "95 %", "leaderboard %"], shown))
    return tables


def _in_order(column: str, rows: pa.Table) -> list[dict[str, Any]]:
    """Lengths from short to long; of other columns, the values with most audio, datasets as they were named."""
    found: list[dict[str, Any]] = rows.to_pylist()
    if column == "length":
        return sorted(found, key=lambda row: BUCKETS.index(row["value"]))
    sums: dict[str, float] = {}
    for row in found:
        sums[row["value"]] = sums.get(row["value"], 0.0) + row["audio_s"]
    largest = sorted(sums, key=lambda value: (-sums[value], value))[:_SLICES_SHOWN]
    return sorted((row for row in found if row["value"] in largest), key=lambda row: largest.index(row["value"]))


def _slice_row(row: dict[str, Any]) -> list[str]:
    return [
        row["value"],
        row["dataset"],
        f"{row['scored']:,}",
        f"{row['words']:,}",
        _rate(row["wer"]),
        _interval(row["wer_low"], row["wer_high"]),
        _rate(row["leaderboard_wer"]),
    ]


def _left_out_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"{row['dataset']}: left out are {count:,} rows {_LEFT_OUT[reason]}."
        for row in result["datasets"]
        for reason, count in row["left_out"].items()
    ]


def _failed_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"{row['dataset']}: {row['failed']:,} recordings failed; all of their words count as deleted."
        for row in result["datasets"]
        if row["failed"]
    ]


def _rate(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f}"


def _speed(rtfx: float | None) -> str:
    return "–" if rtfx is None else f"{rtfx:,.1f}"
