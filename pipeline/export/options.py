"""The options of `quarry export`."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import ConfigError

FORMATS = ("srt", "vtt", "tsv", "json", "ctm", "rttm", "nemo", "pairs")
_SUBTITLES = ("srt", "vtt")
_OF_SUBTITLES = ("line_width", "line_count")
_OF_PAIRS = ("pairs_of", "text", "max_wer", "min_duration_s", "max_duration_s", "flags")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export, where to, and how. Fields of other formats than `format` have no effect."""

    format: str
    to: str | None = None  # folder or URI; None: exports/ inside the run
    where: tuple[str, ...] = ()  # pipeline.export.conditions
    snapshot: int | None = None  # None: the latest
    line_width: int = 42  # columns of a subtitle's line
    line_count: int = 2  # lines of a subtitle
    pairs_of: str = "segments"  # or recordings
    text: str = "hypothesis"  # or reference: what a pair teaches
    max_wer: float | None = None  # of the recording, as a share
    min_duration_s: float = 0.0
    max_duration_s: float = 30.0
    flags: bool = False  # whether what is flagged may be in pairs

    def relevant(self) -> dict[str, Any]:
        """What the files depend on, beside the run and its snapshot."""
        foreign = {"to", "snapshot", *(_OF_SUBTITLES if self.format not in _SUBTITLES else ())}
        foreign |= set(_OF_PAIRS) if self.format != "pairs" else set()
        return {key: value for key, value in asdict(self).items() if key not in foreign}


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """The options as arguments of the command."""
    add = parser.add_argument
    add("--format", required=True, choices=FORMATS, help="what to write")
    add("--to", metavar="FOLDER_OR_URI", help="where to; without it exports/ inside the run")
    add(
        "--where",
        metavar="CONDITION",
        action="append",
        default=[],
        help="such as language=en, 'duration_s<30', 'wer<=0.2', 'status in ok,partial'; several must all hold",
    )
    add("--snapshot", type=int, metavar="N", help="an earlier state of the run; without it the latest")
    add("--line-width", type=int, metavar="COLUMNS", help="srt, vtt: longest line (42)")
    add("--line-count", type=int, metavar="LINES", help="srt, vtt: most lines at once (2)")
    add("--pairs-of", choices=("segments", "recordings"), help="pairs: what makes a pair (segments)")
    add("--text", choices=("hypothesis", "reference"), help="pairs: which text (hypothesis)")
    add(
        "--max-wer",
        type=float,
        metavar="SHARE",
        help="pairs: only of scored recordings at most this wrong, such as 0.1",
    )
    add("--min-duration", dest="min_duration_s", type=float, metavar="SECONDS", help="pairs: shortest (0)")
    add("--max-duration", dest="max_duration_s", type=float, metavar="SECONDS", help="pairs: longest (30)")
    add("--flags", action=argparse.BooleanOptionalAction, help="pairs: with what has quality flags (--no-flags)")


def export_options(arguments: argparse.Namespace) -> ExportOptions:
    """What was asked for. Raises ConfigError for options that do not go together."""
    given = {
        name: getattr(arguments, name)
        for name in (*_OF_SUBTITLES, *_OF_PAIRS)
        if getattr(arguments, name, None) is not None
    }
    found = ExportOptions(arguments.format, arguments.to, tuple(arguments.where), arguments.snapshot, **given)
    useless = sorted(set(given) - set(found.relevant()))
    if useless:
        formats = "srt and vtt" if useless[0] in _OF_SUBTITLES else "pairs"
        option = useless[0].replace("_s", "", 1) if useless[0].endswith("_s") else useless[0]
        raise ConfigError(f"--{option.replace('_', '-')} is for {formats}, not for {found.format}; leave it out.")
    _check(found)
    return found


def _check(options: ExportOptions) -> None:
    if options.line_width < 8 or options.line_count < 1:
        raise ConfigError(
            "A subtitle needs lines of 8 columns or more and one line or more; raise --line-width or --line-count."
        )
    if not 0 <= options.min_duration_s <= options.max_duration_s:
        raise ConfigError(
            f"No pair lasts at least {options.min_duration_s:g} s and at most {options.max_duration_s:g} s; "
            "correct --min-duration or --max-duration."
        )
    if options.max_wer is not None and not options.max_wer >= 0:
        raise ConfigError(f"--max-wer={options.max_wer:g} is no word error rate; give a share such as 0.1.")
    if options.text == "reference" and options.pairs_of == "segments":
        raise ConfigError("A reference belongs to a whole recording; add --pairs-of recordings to --text reference.")
    if options.to == "":
        raise ConfigError("--to names no folder; give one, or leave the option out.")
