"""lhotse's manifests: recordings, supervisions and cuts, as its own JSON Lines. https://lhotse.readthedocs.io

Only what points to audio in files is taken; what would have to be computed first (mixes, speed) is refused with its line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.formats import Complain, json_rows, within
from pipeline.source.lookup import Lookup
from pipeline.source.opening import kind_of, open_bytes
from pipeline.source.rows import KEYS

_CUTS = {"MonoCut", "MultiCut", "MixedCut", "PaddingCut", "Cut"}
_TAKEN = frozenset(name for field, names in KEYS.items() if field not in ("task", "target_language") for name in names)
_HARMLESS = {"Resample"}  # audio is resampled anyway


def is_lhotse(head: bytes) -> bool:
    """Whether a JSON Lines file that begins so is one of lhotse's."""
    try:
        row = json.loads(head.split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    if not isinstance(row, dict) or "id" not in row:
        return False
    recording = isinstance(row.get("sources"), list) and "num_samples" in row
    return recording or row.get("type") in _CUTS or {"recording_id", "start", "duration"} <= row.keys()


def recordings_beside(uri: str, config: SourceConfig) -> str | None:
    """The recordings that a manifest of supervisions needs: of the same name, in the same folder."""
    folder, slash, name = uri.rpartition("/")
    beside = f"{folder}{slash}{name.replace('supervisions', 'recordings')}"
    return beside if beside != uri and kind_of(beside, config) == "file" else None


def lhotse_rows(
    uri: str, handle: IO[bytes], config: SourceConfig, complain: Complain
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and raw row of every recording, supervision or cut. Raises ManifestError: supervisions without recordings."""
    recordings: Lookup | None = None
    for number, item in json_rows(handle, complain):
        if "recording_id" in item and recordings is None:
            recordings = _recordings(uri, config, complain)
        try:
            yield number, _row(item, recordings)
        except ValueError as error:
            complain(number, str(error))
        except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            complain(number, _unlike(error))


def shar_row(item: dict[str, Any], uri: str) -> dict[str, Any]:
    """Raw row of a cut out of Shar, whose audio is at `uri`. Raises ValueError: what is wrong with it, in words."""
    try:
        recording = item.get("recording") or {}
        sources = [{**one, "type": "file", "source": uri} for one in recording["sources"] if one["type"] == "shar"]
        if not sources:
            raise ValueError("a cut whose audio is not in Shar")
        return _row({**item, "recording": {**recording, "sources": sources}}, None)
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(_unlike(error)) from None


def _unlike(error: Exception) -> str:
    return f"not as lhotse writes it ({type(error).__name__}: {str(error)[:80]})"


def _recordings(uri: str, config: SourceConfig, complain: Complain) -> Lookup:
    beside = recordings_beside(uri, config)
    if beside is None:
        raise ManifestError(
            f"The supervisions {uri} need their recordings beside them, under the same name with 'recordings' "
            "for 'supervisions'; put them there."
        )
    found, place = Lookup(), within(beside.rpartition("/")[2], complain)
    with open_bytes(beside, config) as handle:
        for number, item in json_rows(handle, place):
            try:
                found.add(_text(item["id"]), json.dumps(_places(item)))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                place(number, f"not a recording as lhotse writes it ({type(error).__name__}: {str(error)[:80]})")
    for index, id_ in found.repeats():
        place(index + 1, f"the recording {id_!r} comes twice")
    return found


def _row(item: dict[str, Any], recordings: Lookup | None) -> dict[str, Any]:
    """Raises ValueError: what is wrong with it, in words. KeyError, TypeError, …: not of this form."""
    kind = item.get("type")
    if "sources" in item:
        return {"id": item["id"], "duration": item["duration"], **_source(_places(item), None), **_custom(item)}
    if "recording_id" in item:
        text = recordings.get(item["recording_id"]) if recordings else None
        if text is None:
            raise ValueError(f"the recording {item['recording_id']!r} is not among the recordings")
        return {**_stretch(item), **_source(json.loads(text), item.get("channel")), **_said([item]), **_custom(item)}
    if kind in ("MixedCut", "PaddingCut"):
        raise ValueError(f"a {kind} is no stretch of a file; save its audio (save_audios) and name that")
    if not item.get("recording"):
        raise ValueError("a cut without a recording; make it of recordings, not of features")
    said = sorted(item.get("supervisions") or [], key=lambda one: one["start"])
    return {
        **_stretch(item),
        **_source(_places(item["recording"]), item.get("channel")),
        **_said(said),
        **_custom(item),
    }


def _stretch(item: dict[str, Any]) -> dict[str, Any]:
    return {"id": item["id"], "offset": item["start"], "duration": item["duration"]}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()  # half a surrogate pair is no text either
    return value


def _places(recording: dict[str, Any]) -> list[Any]:
    """What is needed of a recording, short: [transform that stands in the way or null, [type, channels, source], …]."""
    changes = [one["name"] for one in recording.get("transforms") or [] if one["name"] not in _HARMLESS]
    sources = [[one["type"], one["channels"], one["source"]] for one in recording["sources"]]
    return [changes[0] if changes else None, *sources]


def _source(places: list[Any], channel: int | list[int] | None) -> dict[str, Any]:
    """Uri, and the channel inside that file where it has several and not all are wanted."""
    changed, *sources = places
    if changed:
        raise ValueError(f"the audio is to be changed first ({changed}); save it and name what was saved")
    wanted = sorted([channel] if isinstance(channel, int) else channel or [])
    sources = [one for one in sources if not wanted or set(wanted) & set(one[1])]
    if len(sources) != 1:
        raise ValueError(f"the channels lie in {len(sources)} files; one row can name one")
    kind, channels, uri = sources[0]
    if kind == "command":
        raise ValueError("the audio comes from a command, which is never run; write it to a file and name that")
    if kind == "shar":
        raise ValueError("the audio lies in Shar; name the folder, or set source.format to shar")
    if kind not in ("file", "url"):
        raise ValueError(f"the audio is of the type {kind!r}; only files can be read")
    there = sorted(channels)
    if not wanted or wanted == there:
        return {"uri": uri}
    if len(wanted) > 1:
        raise ValueError(f"{len(wanted)} of {len(there)} channels are wanted; one row can name one of them, or all")
    return {"uri": uri, "channel": there.index(wanted[0])}


def _said(supervisions: list[dict[str, Any]]) -> dict[str, Any]:
    """Reference, language and speaker of what lies in a stretch."""
    row: dict[str, Any] = {}
    texts = [one["text"] for one in supervisions if one.get("text")]
    if texts:
        row["text"] = " ".join(texts)
    for key in ("language", "speaker"):
        values = {one[key] for one in supervisions if one.get(key)}
        if len(values) == 1:
            row[key] = values.pop()
    return row


def _custom(item: dict[str, Any]) -> dict[str, Any]:
    """What people added, as it is; without names that mean something here, and without other audio and features."""
    custom = item.get("custom") or {}
    return {key: value for key, value in custom.items() if key not in _TAKEN and not isinstance(value, dict | list)}
