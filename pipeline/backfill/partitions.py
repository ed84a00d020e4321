"""Which partitions an archive has, from the words of its manifest setting.

    s3://bucket/audio/{date:%Y/%m/%d}/       a folder of audio per day (or month, year, hour)
    s3://bucket/lists/{date:%Y-%m-%d}.jsonl  a manifest per day
    lists/*.jsonl, audio/*/                  a manifest, or a folder, per name that is there
    all.jsonl, with backfill.column=day      one manifest, a partition for each value of a column
    all.jsonl                                one manifest that grows: the archive is one partition

A partition's key goes into the name of its run, so it is made of safe characters, and never changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import PurePosixPath

from pipeline.config import BackfillConfig, RunConfig, SourceConfig
from pipeline.errors import ConfigError
from pipeline.source.opening import is_local, local_path, reaching

_DATE = re.compile(r"\{date:([^{}]*)\}")
_NEARLY_A_DATE = re.compile(r"\{(date|[a-z]*:[^{}]*%[^{}]*)\}", re.IGNORECASE)
_DIRECTIVE = re.compile(r"%(.?)")
_KEYS = {"H": "%Y-%m-%dT%H", "d": "%Y-%m-%d", "j": "%Y-%m-%d", "m": "%Y-%m", "Y": "%Y"}  # the finest one given
_MAX_KEY = 40
_MAX_NAME = 64
_MAX_PARTITIONS = 100_000
WHOLE, NO_VALUE = "_all", "_none"


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of an archive with a run of its own. `key` is "" where the archive is one partition."""

    key: str
    manifest: str
    day: date | None = None  # by which `since` and `until` choose
    value: str | None = None  # of backfill.column

    @property
    def label(self) -> str:
        """What people and tables call it. No key begins with "_"."""
        return self.key or WHOLE


@dataclass(frozen=True, slots=True)
class Period:
    """Days from `since` to `until`, both included; None: without a beginning."""

    since: date | None
    until: date

    def holds(self, day: date | None) -> bool:
        """Whether a partition of that day is meant; one that tells no day always is."""
        return day is None or ((self.since is None or self.since <= day) and day <= self.until)


def period(settings: BackfillConfig, today: date | None = None) -> Period:
    """The days that the settings mean. Raises ConfigError for an empty period."""
    until = date.fromisoformat(settings.until) if settings.until else today or datetime.now(UTC).date()
    since = date.fromisoformat(settings.since) if settings.since else None
    if settings.last_days:
        first = date.fromordinal(max(until.toordinal() - settings.last_days + 1, 1))
        since = max(since, first) if since else first
    if since and since > until:
        raise ConfigError(f"backfill.since ({since}) lies after backfill.until ({until}); turn them round.")
    return Period(since, until)


def partitions(config: RunConfig, days: Period) -> list[Partition]:
    """The partitions in the order in which they are wanted; of a column, see `pipeline.backfill.survey.by_column`.

    Dates are counted out, whether there is something or not; names are listed. Raises ConfigError, ManifestError.
    """
    template = config.manifest
    if wrong := _NEARLY_A_DATE.search(_DATE.sub("", template)):
        raise ConfigError(
            f"{wrong[0]} in manifest is no date; write it as {{date:%Y/%m/%d}}, in the way of your folders."
        )
    if dated := _DATE.findall(template):
        found: Iterable[Partition] = _by_date(template, dated, days)
    elif "*" in template or "?" in template.rpartition("://")[2]:
        found = _by_name(template, config.source)
    else:
        found = [Partition("", template)]
    return in_order(found, config.backfill, days)


def in_order(found: Iterable[Partition], settings: BackfillConfig, days: Period) -> list[Partition]:
    """Those of the period, oldest or newest first; what tells no day by its key. Raises ConfigError for two of one key."""
    chosen = sorted(
        (one for one in found if days.holds(one.day)),
        key=lambda one: (one.day or date.min, one.key),
        reverse=settings.order == "newest",
    )
    if len({one.key for one in chosen}) != len(chosen):
        raise ConfigError(f"Two partitions of {chosen[0].manifest} would have one name; rename one of them.")
    return chosen


def archive_name(config: RunConfig) -> str:
    """The front part of the names of all runs: `name`, else the last part of `manifest` that is the same for all."""
    if config.name:
        return config.name
    fixed = re.split(r"[{*?]", config.manifest)[0]
    stem = PurePosixPath(fixed.partition("://")[2] or fixed).name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "archive"


def config_of(config: RunConfig, partition: Partition, listed: bool = False) -> RunConfig:
    """The settings of a partition's run. `listed`: it is known to be a listing, so nobody need look for manifests in it.

    Raises ConfigError where its name would be too long.
    """
    name = "-".join(filter(None, (archive_name(config), partition.key)))
    if len(name) > _MAX_NAME:
        raise ConfigError(f"The run {name!r} would have a name of over {_MAX_NAME} characters; give a shorter `name`.")
    only = dict(config.source.only)
    if partition.value is not None and config.backfill.column:
        only[config.backfill.column] = partition.value
    changes = {"min_age_s": config.backfill.min_age_s, "only": only, **({"format": "listing"} if listed else {})}
    source = config.source.model_copy(update=changes)
    return config.model_copy(update={"manifest": partition.manifest, "name": name, "source": source})


def key_of(text: str) -> str:
    """A key made of any text: itself where it is short and plain, else what is plain of it and a hash."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+|\.\.+", "-", text).strip("-._")[:_MAX_KEY]
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    return plain if plain and plain == text else f"{plain}-{digest[:8]}".lstrip("-")


def day_of(text: str) -> date | None:
    """The day that a text is, as 2026-11-20, 20261120 or the beginning of a time; None: it is none."""
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        return None


def _by_date(template: str, formats: list[str], days: Period) -> Iterator[Partition]:
    given = {directive for one in formats for directive in _DIRECTIVE.findall(one)}
    if not given <= _KEYS.keys() or "Y" not in given or ("d" in given and "m" not in given):
        raise ConfigError(
            f"The dates of {template!r} must be made of %Y, %m, %d (or %j) and %H; example: {{date:%Y/%m/%d}}."
        )
    if "H" in given and not given & {"d", "j"}:
        raise ConfigError(f"The dates of {template!r} have an hour and no day; example: {{date:%Y/%m/%d/%H}}.")
    if days.since is None:
        raise ConfigError("Partitions by date need a beginning; give --since 2026-01-31 or --last-days 30.")
    key = next(_KEYS[directive] for directive in _KEYS if directive in given)
    if (days.until - days.since).days * (24 if "H" in given else 1) > _MAX_PARTITIONS:
        raise ConfigError(f"From {days.since} on there are over {_MAX_PARTITIONS} partitions; begin later.")
    seen = ""
    for at in _times(days, by_hour="H" in given):
        name = at.strftime(key)
        if name != seen:  # a month or a year has many days; it counts as its first
            seen = name
            yield Partition(name, _written(template, at), at.date())


def _written(template: str, at: datetime) -> str:
    return _DATE.sub(lambda found: at.strftime(found[1]), template)


def _times(days: Period, by_hour: bool) -> Iterator[datetime]:
    assert days.since is not None
    at, step = datetime.combine(days.since, datetime.min.time()), timedelta(hours=1) if by_hour else timedelta(days=1)
    while at.date() <= days.until:
        yield at
        at += step


def _by_name(template: str, config: SourceConfig) -> Iterator[Partition]:
    base = local_path(template) if is_local(template) else template
    scheme = "" if is_local(template) else template.partition("://")[0] + "://"
    folder = template.endswith("/")
    with reaching(re.split(r"[*?]", base)[0].rpartition("/")[0] or base, config) as (file_system, _):
        file_system.invalidate_cache()
        names = file_system.glob(base.rstrip("/").replace("[", "[[]"), detail=True)
        file_system.invalidate_cache()  # a manifest that grows from now on must not be read by the size of this listing
    for path, info in names.items():
        name = path.rstrip("/").removeprefix(scheme)
        wild = _wildcards(base.rstrip("/").removeprefix(scheme), name)
        if (info["type"] == "directory") == folder and wild is not None and not _is_hidden(wild):
            text = "-".join(wild)
            yield Partition(key_of(text), f"{scheme}{name}{'/' if folder else ''}", day_of(text))


def _wildcards(template: str, name: str) -> list[str] | None:
    """What the wildcards of a template stand for in a name."""
    pattern = "".join(
        {"*": "([^/]*)", "?": "([^/])"}.get(part, re.escape(part)) for part in re.split(r"(\*+|\?)", template)
    )
    if "**" in template:
        raise ConfigError(f"The manifest {template!r} has **, which could mean anything; name each level with *.")
    found = re.fullmatch(pattern, name)
    return list(found.groups()) if found else None


def _is_hidden(wild: list[str]) -> bool:
    return any(part.startswith(".") for part in wild)
