"""What `quarry validate` says: of every row that cannot be used or served, its place, the reason, and an engine that can.

Nothing but the manifest and the engine's small files is read; no engine is started.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from pipeline.config import RunConfig
from pipeline.engines.base import EngineSpec
from pipeline.engines.languages import is_allowed
from pipeline.engines.requests import Wish, lacking, shortfall
from pipeline.errors import ManifestError
from pipeline.source.checking import Asked, Judge, ManifestReport, Problem
from pipeline.source.opening import is_local, local_path
from pipeline.source.writing import folder_for_parts, put_part

_FATES = {
    "task": "would fail as task_unsupported",
    "language": "would fail as language_unsupported",
    None: "would be transcribed without their keywords",
}


def judge_of(config: RunConfig, spec: EngineSpec) -> Judge:
    """Whether the engine can serve what a row asks and its language is allowed; if not, what becomes of it."""
    asked_of_all = Wish.of_config(config.engine)

    def judge(asked: Asked) -> str | None:
        wish = asked_of_all.of_row(asked.task, asked.language, asked.target_language, asked.keywords)
        if lack := shortfall(wish, spec):
            return f"the engine {lack} (such rows {_FATES[lacking(wish, spec)]})."
        if not is_allowed(wish.language, config.engine.allowed_languages):
            return f"{wish.language!r} is not in engine.allowed_languages (such rows would be flagged language_not_allowed)."
        return None

    return judge


def report_lines(report: ManifestReport, spec: EngineSpec, told_all: bool) -> Iterator[str]:
    """The report for people. `told_all`: every row has been told of already."""
    yield (
        f"{report.uri}: {report.rows} rows, {report.audio_s / 3600:.2f} h of known length, "
        f"{report.rows_without_duration} without a duration, {report.rows_with_reference} with a reference; "
        "the objects are not opened."
    )
    yield f"engine {spec.name}, model {spec.model}, revision {spec.revision}."
    for group in report.unserved:
        yield f"{group.rows} {'row' if group.rows == 1 else 'rows'}, the first in {group.first}: {group.message}"
    if told_all:
        return
    shown = (*report.refused, *report.repeated, *report.problems)
    yield from map(told, shown)
    more = report.problem_count + report.refused_count + report.repeated_count - len(shown)
    more += report.unserved_count - sum(group.rows for group in report.unserved)
    if more:
        yield f"… and {more} more; --all prints them, -o FILE writes them down."


def told(problem: Problem) -> str:
    """One problem, and what would become of its row where the run would go on."""
    fate = {
        "refused_uri": " (it would fail as uri_refused)",
        "repeated_audio": " (a warning: it would be transcribed twice)",
    }
    return problem.told + fate.get(problem.kind, "")


@contextmanager
def problem_file(target: str | None, config: RunConfig) -> Iterator[Callable[[Problem], None]]:
    """Takes problems and writes them to `target` as JSON Lines; the file is there whole, or not. None: nothing is written.

    Raises ManifestError when it cannot be written.
    """
    if target is None:
        yield lambda problem: None
        return
    if is_local(target) and os.path.isdir(local_path(target)):
        raise ManifestError(f"The problems cannot be written to {target}, which is a folder; name a file.")
    handle, part = tempfile.mkstemp(
        dir=folder_for_parts(target, "file of problems"), prefix=".problems-", suffix=".part"
    )
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            yield lambda problem: _write(out, problem, config)
        put_part(part, target, config, "file of problems")
    finally:
        if os.path.exists(part):
            os.remove(part)


def _write(out: IO[str], problem: Problem, config: RunConfig) -> None:
    out.write(json.dumps(problem.as_json(config.public()["manifest"]), ensure_ascii=False) + "\n")
