"""Reads an event file as a program would: every line whole, every field declared, every type as said."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.runtime.events import COMMON, EVENTS, SCHEMA

_TYPES = {"string": str, "integer": int, "number": (int, float), "object": dict, "array": list}


def events_in(file: Path) -> list[dict[str, Any]]:
    """All events of a file. Asserts that they are what docs/events.md says."""
    return checked(file.read_text("utf-8").splitlines())


def checked(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Lines as events. Asserts that they are what docs/events.md says."""
    found = [json.loads(line) for line in lines]
    numbers: dict[str, int] = {}
    for event in found:
        declared = {**COMMON, **EVENTS[event["event"]].fields}
        assert list(event) == list(declared), event
        for name, field in declared.items():
            value = event[name]
            assert (value is None and field.nullable) or isinstance(value, _TYPES[field.kind]), (name, event)
            assert not isinstance(value, bool), (name, event)
        assert event["schema"] == SCHEMA
        assert datetime.fromisoformat(event["time"]).utcoffset() is not None
        assert event["number"] == numbers.get(event["session"], -1) + 1
        numbers[event["session"]] = event["number"]
    return found


def named(events: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The events of one name."""
    return [event for event in events if event["event"] == name]
