"""What the keys of a manifest row mean: raw rows in, tables of MANIFEST_SCHEMA out. Knows nothing of files and formats.

Each value goes through one small function that returns it or says what is wrong with it; a row that cannot be used is
reported with its line. Keys without a meaning here pass through as strings.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time
from typing import Any

import pyarrow as pa

from pipeline.audio.uri_policy import without_secrets
from pipeline.engines.requests import primary_language
from pipeline.records import SPLIT
from pipeline.source.formats import Block, Complain
from pipeline.source.names import ManifestField

MANIFEST_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("offset_s", pa.float64()),
        ("duration_s", pa.float64()),  # null: unknown
        ("language", pa.string()),  # of the speech
        ("task", pa.string()),  # transcribe | translate; null: the config's
        ("target_language", pa.string()),  # null: the engine's own, or nothing to translate
        ("keywords", pa.list_(pa.string())),
        ("reference_text", pa.string()),
        ("channel", pa.int32()),  # from 0; SPLIT: each by itself; null: all mixed down
        ("speakers", pa.string()),  # speaker label → name, as JSON with sorted keys; null: none
        ("extra", pa.map_(pa.string(), pa.string())),
    ]
)

Columns = Mapping[ManifestField, str]  # as `source.columns` has them
Keys = Mapping[str, tuple[str, ...]]  # column of MANIFEST_SCHEMA → the names that it may have in a row

# Every name a field may have in a manifest without `source.columns`; a row may use one of them.
KEYS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "uri": ("uri", "path", "audio_filepath", "audio"),
    "offset_s": ("offset", "offset_s"),
    "duration_s": ("duration", "duration_s"),
    "language": ("language", "lang", "source_lang"),
    "task": ("task", "taskname"),
    "target_language": ("target_language", "target_lang"),
    "keywords": ("keywords",),
    "reference_text": ("text", "reference", "reference_text"),
    "channel": ("channel",),
    "speakers": ("speakers",),
}
MAX_ID_CHARS = 1_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NUMBERED = re.compile(r"[0-9]+(?= @|$)")
_MAX_CHANNELS = 1024
_MAX_S = 1e8  # three years: more is a slip, and would make every sum of hours useless
_EMPTY = (None, "")
_MIX = -2  # a row's own word for it, where `source.channels` says split
_TASKS = {  # as Whisper and we say it, and as NeMo's manifests for Canary do
    **dict.fromkeys(("transcribe", "asr"), "transcribe"),
    **dict.fromkeys(("translate", "ast", "s2t_translation"), "translate"),
}


def named_by(columns: Columns, keys: Keys = KEYS) -> dict[str, tuple[str, ...]]:
    """The keys with `source.columns` applied: a field that is given its column there has no other name."""
    fields = {name: field for field, names in KEYS.items() for name in names}
    return {**keys, **{fields[target]: (column,) for target, column in columns.items()}}


def rows_table(block: Block, folder: str, complain: Complain, keys: Keys = KEYS, split: bool = False) -> pa.Table:
    """A block as MANIFEST_SCHEMA: values checked, uris absolute, missing ids derived.

    `split`: rows that say nothing of channels have them split. A row that was complained about keeps its place, with nulls
    for what could not be used.
    """
    present: set[str] = set().union(*block.rows)
    columns = {field: _column(block, keys[field], present, field, complain) for field in KEYS}
    uris, ids = columns["uri"], columns["id"]
    places = zip(uris, columns["offset_s"], columns["duration_s"], columns["channel"], strict=True)
    for i, (uri, offset_s, duration_s, channel) in enumerate(places):
        if uri is None:
            continue
        uri = without_secrets(uri)
        if ids[i] is None:
            ids[i] = _derived_id(uri, folder, offset_s, duration_s, channel)
            if len(ids[i]) > MAX_ID_CHARS:
                complain(
                    block.numbers[i], f"no id is given and the uri is too long to be one ({len(ids[i])} characters)"
                )
        uris[i] = absolute_uri(uri, folder)
    columns["offset_s"] = [offset_s or 0.0 for offset_s in columns["offset_s"]]
    columns["channel"] = [_as_planned(channel, split) for channel in columns["channel"]]
    for i, asked in enumerate(zip(columns["task"], columns["language"], columns["target_language"], strict=True)):
        try:
            columns["task"][i], columns["target_language"][i] = _translation(*asked)
        except ValueError as error:
            complain(block.numbers[i], str(error))
    columns["extra"] = _extras(block, present.difference(*keys.values()), complain)
    return pa.table([pa.array(columns[field.name], field.type) for field in MANIFEST_SCHEMA], schema=MANIFEST_SCHEMA)


def absolute_uri(uri: str, folder: str) -> str:
    """A row's uri as the audio reader takes it: relative paths start at the manifest's folder."""
    return uri if "://" in uri or uri.startswith("/") else f"{folder.rstrip('/')}/{uri}"


def _derived_id(uri: str, folder: str, offset_s: float | None, duration_s: float | None, channel: int | None) -> str:
    """From the row alone, so that no other row of a growing manifest can ever change it."""
    name = uri.removeprefix(f"{folder.rstrip('/')}/")
    if offset_s:
        name += f"#{_plain(offset_s)}-{_plain(duration_s) if duration_s else ''}"
    return name if channel is None or channel < 0 else f"{name}#ch{channel}"


def _as_planned(channel: int | None, split: bool) -> int | None:
    if channel is None:
        return SPLIT if split else None
    return None if channel == _MIX else channel


def _translation(task: str | None, source: str | None, target: str | None) -> tuple[str | None, str | None]:
    """The task and what is translated into. A target beside a source says what the task is, as in NeMo's manifests."""
    if target is None:
        return task, None
    same = source is not None and primary_language(source) == primary_language(target)
    if task == "translate" and same:
        raise ValueError(f"to translate from {source!r} to {target!r} is nothing to do; the task would be transcribe")
    if task == "transcribe" and source is not None and not same:
        raise ValueError(f"a target language {target!r} beside {source!r} is for the task translate, not transcribe")
    if task == "transcribe" or same:
        return "transcribe", None
    return "translate", primary_language(target)


def _plain(seconds: float) -> str:
    return repr(seconds).removesuffix(".0")


# --------------------------------------------------------------------------------------------------------------------
# Values: each returns what goes into the table or raises ValueError with the end of "<key> …"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {_shown(value)}, not text")
    if not _is_unicode(value):
        raise ValueError(f"is {_shown(value)}, which has half a surrogate pair in it")
    return value


def _name(value: Any) -> str:
    text = _text(value)
    if found := _CONTROL.search(text):
        raise ValueError(f"has the control character {found.group()!r} in it")
    return text


def _language(value: Any) -> str:
    text = _name(value)
    if len(text) > 35:  # the longest tag that BCP 47 asks software to hold
        raise ValueError("is longer than any language tag")
    return text


def _id(value: Any) -> str:
    text = _name(str(value) if isinstance(value, int) and not isinstance(value, bool) else value)
    if len(text) > MAX_ID_CHARS:
        raise ValueError(f"has {len(text)} characters, more than {MAX_ID_CHARS}")
    return text


def _seconds(value: Any) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= _MAX_S:
        raise ValueError(f"is {_shown(value)}, not a number of seconds from 0 to {_MAX_S:.0f}")
    return seconds


def _duration(value: Any) -> float | None:
    return _seconds(value) or None


def _task(value: Any) -> str:
    task = _TASKS.get(value.strip().lower()) if isinstance(value, str) else None
    if task is None:
        raise ValueError(f"is {_shown(value)}, not transcribe or translate")
    return task


def _channel(value: Any) -> int:
    if isinstance(value, str) and value.strip().lower() in ("split", "mix"):
        return SPLIT if value.strip().lower() == "split" else _MIX
    try:
        channel = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        channel = math.nan
    if not (0 <= channel < _MAX_CHANNELS and channel.is_integer()):
        raise ValueError(f"is {_shown(value)}, not a channel number (0, 1, …), split or mix")
    return int(channel)


def _keywords(value: Any) -> list[str]:
    words = value.split(";") if isinstance(value, str) else value
    if not isinstance(words, list):
        raise ValueError(f"is {_shown(value)}, not a list of words")
    return [word for word in (_text(word).strip() for word in words) if word]


def _speakers(value: Any) -> str | None:
    """As JSON with sorted keys: text can be compared and hashed. A label that is a mere number stands for `Speaker N`."""
    names: dict[str, str] = {}
    for given, name in _pairs(value):
        if name in _EMPTY:
            continue
        label = _name(str(given) if isinstance(given, int) else given).strip()
        if not label:
            raise ValueError(f"has a name without a label, {_shown(name)}")
        label = f"Speaker {label}" if _NUMBERED.match(label) else label
        if label in names:
            raise ValueError(f"names {label!r} twice")
        names[label] = _name(name)
    return json.dumps(names, ensure_ascii=False, sort_keys=True) if names else None


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    """Label and name of a JSON object, of JSON text that holds one, or of a Parquet map."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if isinstance(value, str):
        try:
            pairs = json.loads(value, object_pairs_hook=lambda pairs: pairs)
        except (ValueError, RecursionError):
            pairs = None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError(f"is {_shown(value)}, not a map from speaker label to name")
    return pairs


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "id": _id,
    "uri": _name,
    "offset_s": _seconds,
    "duration_s": _duration,
    "language": _language,
    "task": _task,
    "target_language": _language,
    "keywords": _keywords,
    "reference_text": _text,
    "channel": _channel,
    "speakers": _speakers,
}


# --------------------------------------------------------------------------------------------------------------------
# Columns


def _column(
    block: Block, names: tuple[str, ...], present: AbstractSet[str], field: str, complain: Complain
) -> list[Any]:
    keys = [key for key in names if key in present]
    check = _CHECKS[field]
    values: list[Any] = [None] * len(block.rows)
    for i, row in enumerate(block.rows):
        given = [key for key in keys if row.get(key) not in _EMPTY] if len(keys) > 1 else keys
        if len(given) > 1 and any(row[key] != row[given[0]] for key in given):
            complain(block.numbers[i], f"both {given[0]!r} and {given[1]!r} have a value, of which one may")
        elif given and (value := row.get(given[0])) not in _EMPTY:
            try:
                values[i] = check(value)
            except ValueError as error:
                complain(block.numbers[i], f"{given[0]} {error}")
        elif field == "uri":
            complain(block.numbers[i], f"no audio is named: none of {', '.join(names)} has a value")
    return values


def _extras(block: Block, names: AbstractSet[str], complain: Complain) -> list[list[tuple[str, str]]]:
    keys = sorted(names)
    extras: list[list[tuple[str, str]]] = [[] for _ in block.rows]
    if not keys:
        return extras
    for i, row in enumerate(block.rows):
        try:
            extras[i] = [(_text(key), _as_text(row[key])) for key in keys if row.get(key) not in _EMPTY]
        except ValueError as error:
            complain(block.numbers[i], f"something that passes through {error}")
    return extras


def _as_text(value: Any) -> str:
    """Text as it is, dates and decimals as they print, anything else as JSON."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool | int | float | list | tuple | dict):
        return _text(_JSON.encode(value))
    return _plain_value(value)


def _plain_value(value: Any) -> str:
    """What JSON has no form for, such as dates and decimals of Parquet."""
    if isinstance(value, bytes):
        raise ValueError(f"is {len(value)} bytes, not text: leave such columns out")
    return value.isoformat() if isinstance(value, date | time) else str(value)


_JSON = json.JSONEncoder(ensure_ascii=False, default=_plain_value)
