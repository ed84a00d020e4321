"""The `quarry` command. Parses, calls one function, prints, and turns errors into one sentence and an exit code.

Exit codes: 0 all ok · 1 finished with failed rows · 2 cannot run until someone has mended what the message names ·
3 incomplete, the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import QuarryError, RunError, exit_code_of
from pipeline.export.options import add_export_options, export_options

if TYPE_CHECKING:
    from pipeline.config import RunConfig

_COMMANDS = {
    "manifest": "write a manifest from a listing: every audio file below a folder or prefix, with its length",
    "validate": "check config, engine and every row of the manifest; writes nothing",
    "plan": "write the plan and print hours, shards and expected cost",
    "run": "do what the plan lacks, then finalize; the same command resumes",
    "backfill": "run what is new, grown or failed in the partitions of an archive; the same command every night",
    "retry": "hear flagged or failed stretches of a finished run again, and keep what is better",
    "status": "how far the run is",
    "verify": "check that every planned row is there, once",
    "report": "rows by status, WER, RTFx, what failed; -o: a page with plots and audio to listen to",
    "export": "write the transcripts as SRT, VTT, TSV, JSON, CTM, RTTM, NeMo manifest, or pairs to train on",
    "evaluate": "score an engine on datasets by the Open ASR leaderboard's protocol",
    "second-pass": "ask a language model about finished transcripts: summary, question or correction",
}
_SAME_WISH_S = 5.0
_READER_GONE = 128 + signal.SIGPIPE  # what a shell says of programs that `| head` has ended
_LOOKING = ("status", "verify", "report", "export")  # at a run that exists
_OVERRIDE = re.compile(r"[^/=]+=")  # what is none of these names a run: out/date=2026/x, ./a=b
_EPILOG = "Settings: a YAML file, then overrides such as engine.model=tiny.en; `quarry run --explain` lists them all."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit code."""
    try:
        return _command(argv)
    finally:
        _flush()


def _command(argv: Sequence[str] | None) -> int:
    arguments = _parse(argv)
    logging.getLogger("pipeline").addHandler(
        logging.NullHandler()
    )  # the story of a shard is for those who ask for logs
    try:
        from pipeline import commands
        from pipeline.config.file import load_config

        if arguments.command in _LOOKING:
            with _stoppable():
                return _look(arguments)
        config = load_config(arguments.config, [*arguments.overrides, *_option_settings(arguments)])
        name = "explain" if arguments.command == "run" and arguments.explain else arguments.command
        if name == "validate":
            with _stoppable():
                return commands.validate(config, arguments.all, arguments.out)
        command: Callable[[RunConfig, str], int] = getattr(commands, name.replace("-", "_"))
        with _stoppable():
            return command(config, _settings(arguments))
    except QuarryError as error:
        _complain(str(error))
        return exit_code_of(error)
    except KeyboardInterrupt:
        _complain("interrupted; what is published stays, the same command resumes.")
        return 3
    except Exception as error:  # the last boundary: never end with a code that means "finished"
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return _READER_GONE
        if os.environ.get("QUARRY_TRACEBACK"):
            raise
        reason = " ".join(str(error).split())[:300]
        _complain(f"{type(error).__name__}: {reason}; QUARRY_TRACEBACK=1 tells where.")
        return 3 if arguments.command in ("run", "backfill", "retry", "evaluate", "second-pass") else 2


def _flush() -> None:
    """Here, for Python would do it at the very end: with a traceback, and another exit code, where nobody reads any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        from pipeline.runtime.progress import let_go

        let_go(sys.stdout)
    except (OSError, ValueError):
        return  # Python says it, at the very end


def _nobody_reads() -> bool:
    """Whether standard output is what broke: a store's connection may break off too."""
    from pipeline.runtime.progress import is_gone

    return is_gone(sys.stdout)


def _complain(sentence: str) -> None:
    from pipeline.runtime.progress import say

    say(f"quarry: {sentence}")


def _look(arguments: argparse.Namespace) -> int:
    """The commands that look at a run: RUN names its folder, and of the settings only `store` counts; else they find it."""
    from pipeline import commands
    from pipeline.config.file import load_config
    from pipeline.existing import find_by_folder

    wanted = export_options(arguments) if arguments.command == "export" else None
    if arguments.run:
        placeholders = [f"{name}={json.dumps(arguments.run)}" for name in ("manifest", "output")]
        config = load_config(arguments.config, [*arguments.overrides, *placeholders])
        output = arguments.run
    else:
        config = load_config(arguments.config, arguments.overrides)
        output = config.output
    try:
        run = find_by_folder(output, config.store) if arguments.run else commands.existing(config, _settings(arguments))
    except RunError as error:
        # Not a run; there may be many in it, made night by night.
        looks = arguments.command == "status" and type(error) is RunError
        code = commands.backfill_status(output, config, arguments.json) if looks else None
        if code is None:
            raise
        return code
    if arguments.command == "status":
        return commands.status(run, arguments.json)
    if arguments.command == "verify":
        return commands.verify(run)
    if wanted is not None:
        return commands.export(run, config.store, wanted)
    if arguments.out is not None:
        return commands.report_page(run, config, arguments.out, arguments.audio)
    return commands.report(run)


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM, as schedulers send it, ends a command as Ctrl-C does: with what is done recorded.

    `timeout` and others send it twice, to the process and to its group: a second one so soon must not cut the recording short.
    """
    stopped_s = -math.inf

    def stop(number: int, frame: object) -> None:
        nonlocal stopped_s
        again = time.monotonic() - stopped_s < _SAME_WISH_S
        stopped_s = time.monotonic()
        if not again:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options may stand between overrides: argparse leaves the overrides behind an option over."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    arguments, rest = parser.parse_known_args(["--flagged=" if word == "--flagged" else word for word in words])
    if any(word.startswith("-") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.overrides += rest
    if arguments.command in _LOOKING:
        words = [*filter(None, [arguments.run]), *arguments.overrides]
        runs = [word for word in words if not _OVERRIDE.match(word)]
        if len(runs) > 1:
            parser.error(f"one RUN at a time: {' '.join(runs)}")
        arguments.run = runs[0] if runs else None
        arguments.overrides = [word for word in words if _OVERRIDE.match(word)]
    return arguments


def _settings(arguments: argparse.Namespace) -> str:
    """The settings as they were typed, for commands that a message proposes."""
    config = ["--config", arguments.config] if arguments.config else []
    return shlex.join([*config, *map(_without_secrets, arguments.overrides)])


def _without_secrets(override: str) -> str:
    from pipeline.config.run_config import without_user

    key, _, _ = override.partition("=")
    return f"{key}=…" if "storage_options" in override else without_user(override)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quarry", description="Transcribe very large audio archives.", epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, epilog=_EPILOG)
        sub.add_argument("--config", "-c", metavar="FILE", help="YAML file with settings (configs/ has examples)")
        if name == "manifest":
            sub.add_argument("prefix", metavar="PREFIX", help="folder, or scheme://bucket/prefix")
            sub.add_argument(
                "-o", "--out", metavar="FILE", default="-", help=".jsonl or .jsonl.gz; without it, printed"
            )
        if name in _LOOKING:
            sub.add_argument(
                "run", metavar="RUN", nargs="?", help="a run's own folder or uri; without it, the settings'"
            )
        if name == "report":
            page = "write a page instead, that holds everything it shows (docs/report.md)"
            sub.add_argument("-o", "--out", metavar="FILE", help=page)
            sub.add_argument("--no-audio", dest="audio", action="store_false", help="leave the sound out of the page")
        if name == "status":
            sub.add_argument("--json", action="store_true", help="print it as JSON")
        if name == "validate":
            sub.add_argument("--all", action="store_true", help="print every problem, not the first of each kind")
            sub.add_argument("-o", "--out", metavar="FILE", help="write every problem there, as JSON Lines")
        sub.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that override the file's")
        if name == "run":
            sub.add_argument(
                "--explain", action="store_true", help="print settings, hours, shards and cost; do nothing"
            )
        if name == "backfill":
            _add_backfill_options(sub)
        if name == "retry":
            _add_retry_options(sub)
        if name in ("run", "retry"):
            sub.add_argument("--events", metavar="FILE", help="write events as JSON lines (-: to standard output)")
        if name == "export":
            add_export_options(sub)
    return parser


def _add_backfill_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", metavar="DAY", help="first day, as 2026-11-01 (backfill.since)")
    parser.add_argument("--until", metavar="DAY", help="last day; without it, today (backfill.until)")
    parser.add_argument("--last-days", metavar="N", help="only so many days (backfill.last_days)")
    parser.add_argument("--max-partitions", metavar="N", help="then leave the rest (backfill.max_partitions)")
    parser.add_argument("--retry-failed", metavar="N", help="try failed recordings N times again, a time per night")


def _add_retry_options(parser: argparse.ArgumentParser) -> None:
    flagged = "flagged segments, and speech without text (the default); =FLAG,… only those with one of these"
    # `_parse` has put a "=" behind the bare option, or it would take the next override for its value.
    parser.add_argument("--flagged", metavar="=FLAG,…", nargs="?", const="", help=flagged)
    parser.add_argument("--failed", action="store_true", help="failed recordings, and failed stretches of others")
    parser.add_argument("--engine", metavar="NAME", help="the second engine, as retry.engine.name")
    parser.add_argument("--model", metavar="MODEL", help="its model, as retry.engine.model")


def _option_settings(arguments: argparse.Namespace) -> list[str]:
    """The options of `quarry manifest`, `quarry run`, `quarry backfill` and `quarry retry` as overrides."""
    if arguments.command == "manifest":
        return [f"manifest={json.dumps(arguments.prefix)}", f"output={json.dumps(arguments.out)}"]
    if arguments.command == "evaluate":
        return ['manifest=""']  # each dataset brings its own
    found = []
    if getattr(arguments, "events", None):
        found.append(f"runtime.events={json.dumps(arguments.events)}")
    if arguments.command == "backfill":
        names = ("since", "until", "last_days", "max_partitions", "retry_failed")
        given = {name: getattr(arguments, name) for name in names}
        return found + [f"backfill.{name}={value}" for name, value in given.items() if value is not None]
    if arguments.command != "retry":
        return found
    if arguments.failed or arguments.flagged is not None:
        found += [f"retry.failed={arguments.failed}", f"retry.flagged={arguments.flagged is not None}"]
    if arguments.flagged:
        found.append(f"retry.flags=[{arguments.flagged}]")
    engine = {"engine.name": arguments.engine, "engine.model": arguments.model}
    return found + [f"retry.{field}={json.dumps(value)}" for field, value in engine.items() if value is not None]


if __name__ == "__main__":
    sys.exit(main())
