"""What each `quarry` command does and prints. `settings` is how the config was given, for commands that a message proposes.

Raises RunError; `cli` turns that into one sentence and exit code 2.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import yaml

from pipeline.config import RunConfig, StoreConfig
from pipeline.engines.base import describe_engine
from pipeline.errors import RunError
from pipeline.existing import ExistingRun, find_by_settings
from pipeline.prepare import prepare, run_id, run_uri, write_plan
from pipeline.report.planned import plan_text
from pipeline.report.text import report_text
from pipeline.runtime.events import STDOUT, EventLog, telling
from pipeline.runtime.progress import say, show
from pipeline.store.objects import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pipeline.export.options import ExportOptions
    from pipeline.retry import PlannedRetry
    from pipeline.run import Outcome
    from pipeline.store.snapshot import Snapshot
    from pipeline.store.verify import Verdict


def validate(config: RunConfig, all_rows: bool, out: str | None) -> int:
    """Check everything that can be checked without decoding or recognising.

    `all_rows`: print every problem as it is found, not the first ones; `out`: write every one there, as JSON Lines.
    """
    from pipeline.source.checking import Problem, check_manifest
    from pipeline.validation import judge_of, problem_file, report_lines, told

    spec = describe_engine(config.engine)
    with problem_file(out, config) as write:

        def tell(problem: Problem) -> None:
            write(problem)
            if all_rows:
                print(told(problem))

        report = check_manifest(config.manifest, config.source, judge_of(config, spec), tell)
    for line in report_lines(report, spec, all_rows):
        print(line)
    return 2 if report.problem_count or report.unserved_count else 0


def manifest(config: RunConfig, settings: str) -> int:
    """Write a manifest of what lies below a prefix. 1: some of it cannot be read, as its rows say."""
    from pipeline.source.writing import write_manifest

    def tell(done: int) -> None:
        say(f"probed {done:,} files")

    written = write_manifest(config, tell)
    say(f"{config.manifest}: {written.rows:,} recordings, {written.audio_s / 3600:.2f} h.")
    if written.failed:
        codes = ", ".join(f"{code} {count:,}" for code, count in sorted(written.failed.items()))
        say(f"not readable (rows with the key error): {codes}.")
    if written.unnameable:
        say(f"left out: {written.unnameable:,} files whose names no manifest can hold; rename them.")
    return 1 if written.failed or written.unnameable else 0


def plan(config: RunConfig, settings: str) -> int:
    """Write the plan."""
    run = prepare(config, _print_probe)
    write_plan(run)
    show(plan_text(run))
    return 0


def explain(config: RunConfig, settings: str) -> int:
    """Print the resolved settings and what the run would be; write nothing."""
    run = prepare(config, _print_probe)
    show(yaml.safe_dump(config.public(), sort_keys=False, allow_unicode=True).rstrip())
    show(f"\n{plan_text(run)}")
    return 0


def run(config: RunConfig, settings: str) -> int:
    """Do what the plan lacks, then finalize and print the report."""
    from pipeline.run import execute

    with _telling(config, "run") as events:
        outcome = execute(prepare(config, _print_probe), say, events)
        if outcome.snapshot is None:
            _print_left(outcome)
        elif not outcome.done_now:
            shards = outcome.done_before
            say(f"Nothing to do: all {shards} shards of {run_id(config)} were done before.")
        if outcome.snapshot:
            _print_result(config, report_text(outcome.snapshot, settings))
        events.finish(outcome.exit_code, outcome.left)
    return outcome.exit_code


def backfill(config: RunConfig, settings: str) -> int:
    """Work on what the partitions of an archive lack. Another backfill that is at it is no trouble: 0."""
    from pipeline.backfill.run import backfill as work_through
    from pipeline.backfill.run import night_text
    from pipeline.store.lease import Holder

    night = work_through(config, say, _print_probe)
    if isinstance(night, Holder):
        _print_result(config, f"Another backfill of this archive is at work ({night.owner}); nothing to do here.")
        return 0
    _print_result(config, night_text(night))
    return night.exit_code


def evaluate(config: RunConfig, settings: str) -> int:
    """Transcribe what is left of every dataset, then score them all and print the tables."""
    from pipeline.evaluation.run import evaluate as work_and_score
    from pipeline.report.evaluated import evaluation_text

    done = work_and_score(config, say, _print_probe)
    if done.result is None or done.scores is None or done.uri is None:
        for outcome in done.outcomes.values():
            if outcome.left:
                _print_left(outcome)
    else:
        _print_result(config, evaluation_text(done.result, done.scores, done.uri))
    return done.exit_code


def second_pass(config: RunConfig, settings: str) -> int:
    """Ask a language model about every finished transcript that it was not asked about, and write the table of answers."""
    from pipeline.second_pass.prepare import prepare_pass
    from pipeline.second_pass.run import execute_pass, pass_text

    wanted = prepare_pass(config)
    outcome = execute_pass(wanted, say)
    if outcome.snapshot is None:
        for shard in outcome.reasons:
            say(f"shard {shard.shard_id} could not be finished ({shard.stage}): {shard.message}")
        say(f"{outcome.left} shards are not done; run the same command again to resume.")
        return outcome.exit_code
    if not outcome.done_now:
        say(f"Nothing to do: all {outcome.done_before} shards were done before.")
    _print_result(config, pass_text(outcome.snapshot))
    return outcome.exit_code


def retry(config: RunConfig, settings: str) -> int:
    """Hear flagged or failed stretches of a finished run again, and put what is better into its tables."""
    from pipeline.retry import execute_retry, prepare_retry, unchanged_exit_code

    with _telling(config, "retry") as events:
        wanted = prepare_retry(config, _print_probe)
        if wanted is None:
            nothing = (
                f"Nothing to hear again in {run_id(config)}: no stretch is flagged, or these settings have decided it."
            )
            _print_result(config, nothing)
            code = unchanged_exit_code(config)
            events.finish(code, 0)
            return code
        outcome = execute_retry(wanted, _announced(wanted), events)
        if outcome.snapshot:
            _print_result(config, report_text(outcome.snapshot, settings))
        elif outcome.left:
            _print_left(outcome)
        else:
            grown = f"The run has grown meanwhile; `quarry run {settings}` finishes it and takes the retry in."
            say(grown)
        events.finish(outcome.exit_code, outcome.left)
    return outcome.exit_code


def _announced(wanted: PlannedRetry) -> Callable[[str], None]:
    """Says what a retry is about; what says the rest."""
    planned, spec = wanted.run.totals, wanted.run.spec
    what = f"{planned.recordings} stretches, {planned.audio_s / 3600:.2f} h, by {spec.name} with the model {spec.model}"
    say(f"retry {wanted.id}: {what}.")
    return say


def _telling(config: RunConfig, command: str) -> AbstractContextManager[EventLog]:
    return telling(config, command, run_id(config), str(ObjectStore(run_uri(config), config.store)))


def _print_result(config: RunConfig, text: str) -> None:
    """To stdout, unless events go there."""
    say(text, sys.stderr if config.runtime.events == STDOUT else sys.stdout)


def status(run: ExistingRun, as_json: bool) -> int:
    """How far the run is."""
    from pipeline.status import look, status_text

    found = look(run)
    show(json.dumps(found.as_dict(), indent=1) if as_json else status_text(found))
    return found.exit_code


def backfill_status(output: str, config: RunConfig, as_json: bool) -> int | None:
    """How the backfills into an output stand; None: there are none."""
    from pipeline.backfill import status as backfills

    found = backfills.find_backfills(output, config.store)
    if not found:
        return None
    show(backfills.as_json(found) if as_json else backfills.backfills_text(found))
    return max(one.exit_code for one in found)


def verify(run: ExistingRun) -> int:
    """Compare plan ids, part ids and row ids, of the run and of its retries. A retry that is not finished harms nobody."""
    from pipeline.store.retries import list_retries
    from pipeline.store.verify import verify as check

    verdict = check(run.ledger)
    _print_verdict(run.id, verdict, "run")
    wrong = 0
    for one in list_retries(run.ledger.store):
        found = check(one.ledger)
        _print_verdict(f"retry {one.id}", found, "retry")
        wrong += found.wrong
    return 0 if verdict.complete and not wrong else 3


def _print_verdict(name: str, verdict: Verdict, command: str) -> None:
    show(f"{name}: {verdict.shards} shards planned, {verdict.rows} rows found as planned.")
    for count, what, names in (
        (verdict.missing, f"not done ({command} again to resume)", verdict.missing_shards),
        (verdict.wrong, f"not as planned (delete the part and {command} again)", verdict.wrong_shards),
        (verdict.orphans, "parts that no plan asks for (readers never see them)", verdict.orphan_keys),
    ):
        if count:
            show(f"{count} {what}: {', '.join(names)}{' …' if count > len(names) else ''}")


def report(run: ExistingRun) -> int:
    """Print the report of the latest snapshot."""
    show(report_text(_finished(run), run.named, is_folder=run.config is None))
    return 0


def report_page(run: ExistingRun, config: RunConfig, target: str, with_audio: bool) -> int:
    """Write the report of the latest snapshot as a page."""
    from pipeline.report.page import write_page

    page = write_page(run.ledger.store, _finished(run), config, target, with_audio)
    mute = f", {page.mute} of them without audio, as the page says why" if page.mute else ""
    show(f"{target}: {page.size_bytes / 1e6:.1f} MB, {page.stretches} stretches to check{mute}.")
    return 0


def _finished(run: ExistingRun) -> Snapshot:
    from pipeline.store.snapshot import latest_snapshot

    snapshot = latest_snapshot(run.ledger.store)
    if snapshot is None:
        raise RunError(f"The run {run.id} is not finalized; `quarry status` shows how far it is.")
    return snapshot


def export(run: ExistingRun, store: StoreConfig, wanted: ExportOptions) -> int:
    """Write the transcripts of a finished run as files for other programs. 1: not one recording could be written."""
    from pipeline.export.run import export as write

    done = write(run.ledger.store, store, wanted)
    new, same = done.outcomes.get("new", 0), done.outcomes.get("same", 0)
    show(
        f"{done.written:,} of {done.recordings:,} recordings of snapshot {done.snapshot} as {wanted.format} in {done.uri}"
    )
    show(f"{new:,} files are new, {same:,} stood there." if new else f"Nothing to do: all {same:,} files stood there.")
    if done.left_out:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(done.left_out.items()))
        show(f"Left out: {reasons}; _index-{wanted.format}-*.jsonl says which.")
    return 0 if done.written else 1


def _print_left(outcome: Outcome) -> None:
    """Why shards are left, as far as they said."""
    for shard in outcome.reasons:
        say(f"shard {shard.shard_id} could not be finished ({shard.stage}): {shard.message}")
    lost = outcome.left - len(outcome.reasons)
    if lost > 0:
        tries = outcome.run.config.runtime.task_retries + 1
        say(f"{lost} shards came back without a word: their worker ended {tries} times over.")
    say(f"{outcome.left} shards are not done; run the same command again to resume.")


def existing(config: RunConfig, settings: str) -> ExistingRun:
    """The run that these settings made, for the commands that look at one."""
    found = find_by_settings(config, settings)
    if found.note:
        say(found.note)
    return found


def _print_probe(done: int, total: int) -> None:
    if done == total or done % 1000 == 0:
        say(f"probed {done} of {total} durations")
