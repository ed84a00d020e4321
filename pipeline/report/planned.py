"""What a plan amounts to, before anything is done: hours, engine time, when it could be over, cost. Formats."""

from __future__ import annotations

from pipeline.metrics.cost import expected
from pipeline.metrics.shares import BUCKETS, Shares
from pipeline.prepare import Run
from pipeline.report.text import table
from pipeline.runtime.progress import clock

_LANGUAGES_SHOWN = 12


def plan_text(run: Run) -> str:
    """Hours, shards, what they should take and cost, and the same by language and by length."""
    totals, whole, terms = run.totals, run.expected, run.terms
    workers, per_engine = run.config.runtime.workers, run.config.runtime.engine_gpus
    source = "from the price file" if terms.measured else "the engine's own rough figure"
    lines = [
        f"run        {run.identity.run_id}, in {run.uri}",
        f"plan       {totals.recordings} recordings, {whole.audio_h:.2f} h, {totals.windows} windows in {totals.shards} shards",
        f"engine     {run.spec.name}, model {run.spec.model}, revision {run.spec.revision}",
        f"expected   {clock(whole.engine_h * 3600)} of engine time at about {terms.rtfx_per_worker:g}× real time ({source}),"
        f" {clock(whole.wall_h * 3600)} with {workers} engine {'worker' if workers == 1 else 'workers'}",
    ]
    if per_engine:
        lines.append(f"           {whole.engine_h * per_engine:,.2f} accelerator hours, {per_engine:g} for each worker")
    if whole.usd is not None:
        lines.append(f"cost       about ${whole.usd:,.2f}, ${whole.usd_per_audio_h or 0:.4f} per audio hour")
    if totals.unknown:
        lines.append(f"unknown    {totals.unknown} recordings whose length nobody knows; they are in no sum")
    if run.existing and run.new_windows is not None:
        lines.append(f"grown      {run.new_windows.totals.windows} windows are new in the manifest")
    tables = [_by_language(run), _by_duration(run)] if totals.by_language else []
    return "\n\n".join(["\n".join(lines), *tables])


def _by_language(run: Run) -> str:
    shares = run.totals.by_language
    largest = sorted(shares, key=lambda name: (-shares[name]["audio_s"], name))
    return _share_table("language", shares, largest[:_LANGUAGES_SHOWN], run)


def _by_duration(run: Run) -> str:
    shares = run.totals.by_duration
    return _share_table("length", shares, [name for name in BUCKETS if name in shares], run)


def _share_table(what: str, shares: Shares, names: list[str], run: Run) -> str:
    per_engine = run.config.runtime.engine_gpus
    rows = []
    for name in names:
        share, workers = shares[name], run.config.runtime.workers
        part = expected(share["audio_s"], run.terms, workers, share.get("more_channels_s", 0.0))
        cost = [] if part.usd is None else [f"${part.usd:,.2f}"]
        numbers = [
            f"{part.audio_h:,.2f} h",
            f"{part.engine_h * (per_engine or 1):,.2f}",
            clock(part.wall_h * 3600),
            *cost,
        ]
        rows.append([name, f"{shares[name]['recordings']:,}", *numbers])
    columns = [what, "recordings", "audio", "accelerator hours" if per_engine else "engine hours", "time"]
    return table([*columns, "cost"] if run.terms.usd_per_hour is not None else columns, rows)
