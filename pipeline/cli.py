"""The `quarry` command. Parses, calls one function, prints, and turns errors into one sentence and an exit code.

Exit codes: 0 all ok · 1 finished with failed rows · 2 could not run · 3 incomplete, the same command resumes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import QuarryError

if TYPE_CHECKING:
    from pipeline.config import RunConfig

_COMMANDS = {
    "validate": "check config, engine and every row of the manifest; writes nothing",
    "plan": "write the plan and print hours, shards and expected cost",
    "run": "do what the plan lacks, then finalize; the same command resumes",
    "status": "how far the run is",
    "verify": "check that every planned row is there, once",
    "report": "rows by status, WER, RTFx, what failed",
}
_EPILOG = "Settings: a YAML file, then overrides such as engine.model=tiny.en; `quarry run --explain` lists them all."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        from pipeline import commands
        from pipeline.config import load_config

        config = load_config(arguments.config, arguments.overrides)
        name = "explain" if arguments.command == "run" and arguments.explain else arguments.command
        command: Callable[[RunConfig, str], int] = getattr(commands, name)
        return command(config, _settings(arguments))
    except QuarryError as error:
        print(f"quarry: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quarry: interrupted; what is published stays, the same command resumes.", file=sys.stderr)
        return 3


def _settings(arguments: argparse.Namespace) -> str:
    """The settings as they were typed, for commands that a message proposes."""
    config = ["--config", arguments.config] if arguments.config else []
    return shlex.join([*config, *arguments.overrides])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quarry", description="Transcribe very large audio archives.", epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, epilog=_EPILOG)
        sub.add_argument("--config", "-c", metavar="FILE", help="YAML file with settings (configs/ has examples)")
        sub.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that override the file's")
        if name == "run":
            sub.add_argument(
                "--explain", action="store_true", help="print settings, hours, shards and cost; do nothing"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
