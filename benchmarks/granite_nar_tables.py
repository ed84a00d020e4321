"""The tables of the Granite NAR benchmark, from its raw results. Pure; whatever is missing is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

TARGET_UTILISATION, TARGET_RATIO = 0.52, {"cuda": 2.3, "cpu": 2.0}
_TOLD = (
    *("speed", "speed_low", "speed_high", "utilisation_of_square_product", "same_labels", "busy"),
    *("flops_per_s", "sustained_flops_per_s", "bytes_per_s", "backend", "compiled", "warm_up_s", "notes"),
)
Results = Mapping[str, Any]


def headline(found: Any) -> str:
    """A part's main figures in a line."""
    if not isinstance(found, Mapping):
        return str(found)
    if "forms" in found:
        return ", ".join(f"{row['form']} {row['speed']:.1f} (÷ {median(row['ratios']):.2f})" for row in found["forms"])
    if "stages" in found:
        return ", ".join(f"{name} {100 * row['share']:.0f} %" for name, row in found["stages"].items())
    return ", ".join(f"{name} {_short(found[name])}" for name in _TOLD if name in found)


def tables(results: Results) -> str:
    """All tables as Markdown."""
    machine = results.get("machine", {})
    on_cuda = "capability" in machine
    size = results.get("settings", {}).get("size", "small")
    model = "the published size with random weights" if size == "full" else f"a {size} model with random weights"
    second = "second" if on_cuda else "CPU-second"
    where = machine.get("device", "an unknown device") if on_cuda else f"{size} model on a CPU"
    parts = [
        f"# Granite NAR: {where}",
        "; ".join(f"{name} {value}" for name, value in machine.items()),
        f"Settings: {'; '.join(f'{name} {value}' for name, value in results.get('settings', {}).items())}",
        f"In every table: {model}, noise for audio, so WER is untested; the hypothesis is forced to 3.4 tokens per second where "
        f"nothing else is said; speed is seconds of audio per {second}; useful FLOP are those of true lengths.",
        _roofs(results, second),
        _clock(results, second, "Model clock, full editor", "clock:", "tokens per s"),
        _forms(results, second, "cuda" if on_cuda else "cpu"),
        _stages(results, second),
        _busy(results),
        _clock(results, second, "Seconds of audio per batch", "budget:", "budget s"),
        _clock(results, second, "Callers", "callers:", "callers"),
        _clock(results, second, "Kernels", "kernels:", "kernels"),
        _clock(
            results,
            second,
            "Routing: only a share of the clips goes to the editor. NOT comparable with the full editor above",
            "edited:",
            "share edited",
        ),
        *(f"{name} FAILED: {why}" for name, why in results.get("failed", {}).items()),
        *(f"{name} skipped: {why}" for name, why in results.get("skipped", {}).items()),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _roofs(results: Results, second: str) -> str:
    rows = []
    if square := results.get("roofs:square"):
        rows.append([f"{square['size']}³ product, median", _tera(square["flops_per_s"])])
        rows.append(["the same, sustained", _tera(square["sustained_flops_per_s"])])
    if model := results.get("roofs:model"):
        rows.append(["the model's own products, by their share", _tera(model["flops_per_s"])])
    if copied := results.get("roofs:copy"):
        rows.append(["copy on the device, TB/s read and written", f"{copied['bytes_per_s'] / 1e12:.3f}"])
    text = _table("Roofs", ["what", f"TFLOP per {second}"], rows)
    slowest = sorted(model["products"], key=lambda row: -row["seconds"])[:12] if model else []
    return f"{text}\n\n" + _table(
        "The model's products that take longest, of one batch",
        ["stage", "rows × inputs × outputs", "times", "ms", f"TFLOP per {second}"],
        [
            [
                row["stage"],
                f"{row['rows']} × {row['inputs']} × {row['outputs']}",
                str(row["times"]),
                f"{1e3 * row['seconds']:.2f}",
                _tera(row["flops"] / row["seconds"]),
            ]
            for row in slowest
        ],
    )


def _clock(results: Results, second: str, title: str, prefix: str, column: str) -> str:
    rows = []
    main = results.get("clock:3.4") if prefix != "clock:" else None
    entries = [(name, row) for name, row in results.items() if name.startswith(prefix)]
    if main is not None and entries:
        entries.insert(0, (f"{prefix}(main case: {_main_case(results)})", main))
    for name, row in entries:
        rows.append(
            [
                name.removeprefix(prefix),
                f"{row['speed']:,.1f} ({row['speed_low']:,.1f}–{row['speed_high']:,.1f})",
                f"{row['gflop_per_audio_s']:.2f}",
                _tera(row["flops_per_s"]),
                _share(row.get("utilisation_of_square_product")),
                _share(row.get("utilisation_of_model_products")),
                f"{row['clips_per_batch']:.0f}",
                f"{row['peak_bytes_per_audio_s'] / 1e6:.1f}" if row.get("peak_bytes") else "–",
                f"{row['same_labels']:.3f}" if "same_labels" in row else "–",
            ]
        )
    header = [column, f"audio-s per {second}, median (lowest–highest)", "GFLOP per audio-s", f"TFLOP per {second}"]
    header += [
        "U, square product",
        "U, model's products",
        "clips per batch",
        "peak MB per audio-s of a batch",
        "same labels",
    ]
    text = _table(title, header, rows)
    if prefix == "clock:" and rows:
        text += (
            f"\n\nTarget on an H200-class GPU: U of the square product ≥ {TARGET_UTILISATION} at 3.4 tokens per second."
        )
    return text


def _main_case(results: Results) -> str:
    settings, chosen = results.get("settings", {}), results.get("prepare", {})
    kernels = f"{chosen.get('backend')}, {'compiled' if chosen.get('compiled') else 'eager'}"
    return f"{settings.get('audio_s'):.0f} s, {settings.get('callers')} callers, {kernels}, all edited"


def _forms(results: Results, second: str, kind: str) -> str:
    found = results.get("forms")
    if not found:
        return ""
    rows = [
        [
            row["form"],
            str(row["batches"]),
            f"{row['computed_per_true']:.2f}",
            f"{row['speed']:,.1f} ({row['speed_low']:,.1f}–{row['speed_high']:,.1f})",
            _spread(row["ratios"]),
            _spread(row["ratios_of_128"]),
        ]
        for row in found["forms"]
    ]
    title = (
        f"Packed against padded to the longest: {found['clips']} clips, {found['rounds']} rounds in turns, same kernels"
    )
    header = ["batches", "number", "audio computed ÷ true", f"audio-s per {second}, median (range)"]
    header += ["packed by Quarry ÷ this", "128 as they come, packed ÷ this"]
    notes = [f"Target here: packed ≥ {TARGET_RATIO[kind]} × padded as they come."]
    notes += [f"{name} FAILED: {why}" for name, why in found.get("failed", {}).items()]
    return "\n\n".join([_table(title, header, rows), *notes])


def _stages(results: Results, second: str) -> str:
    found = results.get("stages")
    if not found:
        return ""
    rows = [
        [
            name,
            f"{1e6 * row['seconds_per_audio_s']:,.1f}",
            f"{100 * row['share']:.1f}",
            _tera(row["flops_per_s"]) if row["flops_per_s"] else "–",
        ]
        for name, row in found["stages"].items()
    ]
    title = f"Stages one by one, {found['batches']} batches; all together {found['speed']:,.1f} audio-s per {second}"
    return _table(title, ["stage", f"µ{second}s per audio-s", "share %", f"TFLOP per {second}"], rows)


def _busy(results: Results) -> str:
    found = results.get("busy")
    if not found:
        return ""
    total = sum(row["seconds"] for row in found["kernels"])
    rows = [
        [row["name"][:90], f"{1e3 * row['seconds']:.1f}", f"{100 * row['seconds'] / total:.1f}", str(row["calls"])]
        for row in found["kernels"][:18]
    ]
    title = f"The GPU under the production loop: busy {found['busy']:.3f} of {found['seconds']:.2f} s, "
    title += f"{found['kernel_calls_per_batch']:,.0f} calls per batch (with the profiler on)"
    return _table(title, ["kernel", "ms", "share % of the listed", "calls"], rows)


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"## {title}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines])


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else "–"


def _tera(flops_per_s: float) -> str:
    return f"{flops_per_s / 1e12:,.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
