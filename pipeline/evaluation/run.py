"""`quarry evaluate`: a run per dataset by the ordinary flow, then one result over all of them.

Every dataset is an ordinary run in the output, resumed like any other. The result lies beside them, named by what it was made
from, its `result.json` written last:

<output>/evaluations/<name>-<digest>/
  MODEL_<engine>-<model>_DATASET_<dataset>.jsonl   one per dataset, as the leaderboard's own scripts write and score
  scores/00000.parquet                             SCORES: every dataset and its slices
  result.json
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipeline.config import DatasetConfig, RunConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.scoring import SCORES, DatasetScore, check_columns, manifest_lines, score_rows, scorer_versions
from pipeline.metrics.bootstrap import SEED, Bootstrap, mean_interval
from pipeline.metrics.cost import Expense, together
from pipeline.metrics.rtfx import rtfx
from pipeline.prepare import Progress, Run, prepare, run_uri
from pipeline.reading import table_of
from pipeline.run import Outcome, execute
from pipeline.runtime.events import telling
from pipeline.schema import TRANSCRIPTS
from pipeline.store.ledger import read_json
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import Snapshot
from pipeline.store.tables import TableWriter

RESULT_VERSION = 1
_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of an evaluation. `result` and `scores` are None while a dataset is not done."""

    outcomes: dict[str, Outcome]
    uri: str | None = None
    result: dict[str, Any] | None = None
    scores: pa.Table | None = None

    @property
    def exit_code(self) -> int:
        """The worst of the datasets' runs: 0 all ok, 1 failed or partial rows, 3 incomplete."""
        return max(outcome.exit_code for outcome in self.outcomes.values())


def evaluate(
    config: RunConfig,
    say: Callable[[str], None] = lambda line: None,
    on_probe: Progress = lambda done, total: None,
) -> Evaluation:
    """Transcribe what is not done of every dataset, score them all, and write the result. Raises RunError."""
    versions = scorer_versions()
    datasets = config.evaluate.datasets
    if not datasets:
        raise ConfigError("evaluate.datasets is empty; configs/evaluate.yaml shows how datasets are named.")
    check_columns(config.evaluate.slices)
    # All of them are checked before the first is begun: a wrong path should not wait for an accelerator.
    runs = {dataset.title: prepare(dataset_settings(config, dataset), on_probe) for dataset in datasets}
    outcomes = {}
    for title, run in runs.items():
        say(f"{title}: {run.totals.recordings} recordings, {run.totals.audio_s / 3600:.2f} h.")
        with telling(run.config, "run", run.identity.run_id, str(run.ledger.store)) as events:
            outcomes[title] = execute(run, say, events)
            events.finish(outcomes[title].exit_code, outcomes[title].left)
    done = {title: outcome.snapshot for title, outcome in outcomes.items() if outcome.snapshot}
    if len(done) < len(outcomes):
        return Evaluation(outcomes)
    identity = _identity(config, done, versions)
    output = run_uri(config).rpartition("/")[0]
    store = ObjectStore.open(f"{output}/evaluations", config.store).below(_folder(config, identity))
    if not store.exists("result.json"):
        _write(store, config, runs, done, identity)
    result = read_json(store, "result.json")
    scores = pa.concat_tables([_read_scores(store, file["key"]) for file in result["scores"]])
    return Evaluation(outcomes, store.uri, result, scores)


def dataset_settings(config: RunConfig, dataset: DatasetConfig) -> RunConfig:
    """The settings of a dataset's own run."""
    changed: dict[str, Any] = {"manifest": dataset.manifest, "name": dataset.title}
    if dataset.source is not None:
        changed["source"] = dataset.source
    if dataset.language is not None:
        changed["engine"] = config.engine.model_copy(update={"language": dataset.language})
    return config.model_copy(update=changed)


def manifest_key(engine: str, model: str, title: str) -> str:
    """A file name as the leaderboard's scripts take it apart; they part owner and model at the first dash."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", PurePosixPath(model).name or "model")
    return f"MODEL_{engine}-{plain}_DATASET_{title}.jsonl"


def _identity(config: RunConfig, done: dict[str, Snapshot], versions: dict[str, str]) -> dict[str, Any]:
    """What the result depends on."""
    return {
        "result_version": RESULT_VERSION,
        "protocol": "open-asr-leaderboard",
        "packages": versions,
        "slices": config.evaluate.slices,
        "datasets": [
            {**_names_of(dataset), "run_id": done[dataset.title].run["run_id"], "tables": done[dataset.title].tables}
            for dataset in config.evaluate.datasets
        ],
    }


def _names_of(dataset: DatasetConfig) -> dict[str, Any]:
    """What names a dataset; where it lay is its run's affair."""
    return {"dataset": dataset.title, "name": dataset.name, "split": dataset.split, "language": dataset.language}


def _folder(config: RunConfig, identity: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return f"{config.name or 'evaluation'}-{digest}"


def _write(
    store: ObjectStore, config: RunConfig, runs: dict[str, Run], done: dict[str, Snapshot], identity: dict[str, Any]
) -> None:
    writer = TableWriter(store, "scores", SCORES)
    rows, plain, joined = [], [], []
    for number, dataset in enumerate(config.evaluate.datasets):
        run, snapshot = runs[dataset.title], done[dataset.title]
        score = DatasetScore(config.evaluate.slices, SEED + number)
        key = manifest_key(run.spec.name, run.spec.model, dataset.title)
        store.put_if_absent(key, _score(run, snapshot, score))
        table = score.table(dataset.title)
        writer.add(table)
        plain.append(score.plain_bootstrap)
        joined.append(score.joined_bootstrap)
        rows.append({**_dataset_result(dataset, snapshot, score, table), "manifest_file": key})
    writer.close()
    result = {**identity, **_overall(rows, plain, joined), **_engine(done), "datasets": rows, "scores": writer.files}
    store.put_if_absent("result.json", json.dumps(result, indent=1).encode())


def _score(run: Run, snapshot: Snapshot, score: DatasetScore) -> bytes:
    """Score a dataset's transcripts into `score`; the leaderboard's manifest of them, one object as its scripts expect."""
    lines = bytearray()
    language = _language_of(run)
    for batch in table_of(run.ledger.store, snapshot).batches(TRANSCRIPTS.names, rows=_ROWS_AT_ONCE):
        scored = score_rows(pa.Table.from_batches([batch]), language)
        score.add(scored)
        for line in manifest_lines(scored.rows):
            lines += line.encode("utf-8", "replace")
    return bytes(lines)


def _language_of(run: Run) -> str | None:
    """Of rows that know none, as failed ones do: their references are to be normalised like the others'."""
    known = run.spec.languages or frozenset[str]()
    return run.config.engine.language or (next(iter(known)) if len(known) == 1 else None)


def _dataset_result(dataset: DatasetConfig, snapshot: Snapshot, score: DatasetScore, table: pa.Table) -> dict[str, Any]:
    whole = table.slice(0, 1).drop_columns(["dataset", "column", "value"]).to_pylist()[0]
    sessions = snapshot.run["sessions"]
    wall_s, heard_s = (sum(session[name] for session in sessions) for name in ("wall_s", "audio_s"))
    return {
        **_names_of(dataset),
        "run_id": snapshot.run["run_id"],
        "run_uri": snapshot.run["uri"],
        "snapshot": snapshot.number,
        "tables": snapshot.tables,
        "normalizers": sorted(score.normalizers),
        "left_out": dict(sorted(score.left_out.items())),
        **whole,
        "wall_s": wall_s,
        "heard_s": heard_s,
        "pipeline_rtfx": rtfx(heard_s, wall_s),
        "spent": snapshot.run["cost"]["spent"],
    }


def _overall(rows: list[dict[str, Any]], plain: list[Bootstrap], joined: list[Bootstrap]) -> dict[str, Any]:
    """Over all datasets: error rates as unweighted means, speeds as sums of seconds, as the leaderboard has them."""
    found: dict[str, Any] = {}
    for name, bootstraps in (("wer", plain), ("leaderboard_wer", joined)):
        low, high = mean_interval(bootstraps) or (None, None)
        found |= {f"mean_{name}": mean_of_rounded([row[name] for row in rows])}
        found |= {f"mean_{name}_low": low, f"mean_{name}_high": high}
    sums = {name: sum(row[name] for row in rows) for name in ("audio_s", "channels_s", "engine_s", "heard_s", "wall_s")}
    speeds = {
        "rtfx": rtfx(sums["channels_s"], sums["engine_s"]),
        "pipeline_rtfx": rtfx(sums["heard_s"], sums["wall_s"]),
    }
    return {**found, **sums, **speeds, "spent": asdict(together(Expense(**row["spent"]) for row in rows))}


def mean_of_rounded(rates: list[float | None]) -> float | None:
    """The mean of percentages rounded to two decimals, as the leaderboard takes it; None where a rate is missing."""
    known = [round(100 * rate, 2) for rate in rates if rate is not None]
    return sum(known) / len(known) / 100 if known and len(known) == len(rates) else None


def _engine(done: dict[str, Snapshot]) -> dict[str, Any]:
    """The engine is the same in all runs but for the language; its hardware and versions stand with each session."""
    first = next(iter(done.values())).run
    machines = {session["hardware"] for snapshot in done.values() for session in snapshot.run["sessions"]}
    names = ("engine", "model", "model_revision")
    return {**{name: first[name] for name in names}, "hardware": sorted(machines)}


def _read_scores(store: ObjectStore, key: str) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(store.get(key)), schema=SCORES)
