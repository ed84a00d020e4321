"""Two kinds of field in a config. Those made with `text_field` change the transcripts: together they form the fingerprint, and
another fingerprint is another run. Those made with `speed_field` change only how fast or where: a run may be resumed with others.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

TEXT, ANSWERS, LATER = "text", "answers", "later"


def text_field(default: Any, description: str, **limits: Any) -> Any:
    """A field whose value can change a transcript: part of the fingerprint."""
    return _field(default, description, {TEXT: True}, limits)


def later_text_field(default: Any, description: str, **limits: Any) -> Any:
    """A text field that came when there were runs: at its default it changes nothing, and their fingerprint neither."""
    return _field(default, description, {TEXT: True, LATER: True}, limits)


def speed_field(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes only speed, place or limits: not part of the fingerprint."""
    return _field(default, description, {TEXT: False}, limits)


def answer_field(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes no transcript, but the answers of a second pass: part of that pass's own fingerprint."""
    return _field(default, description, {TEXT: False, ANSWERS: True}, limits)


def _field(default: Any, description: str, extra: dict[str, Any], limits: dict[str, Any]) -> Any:
    if isinstance(default, list | dict):
        return Field(default_factory=default.copy, description=description, json_schema_extra=extra, **limits)
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """A part of the config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_number(cls, value: Any, info: ValidationInfo) -> Any:
        """ "true" is no number, though Python counts it as one."""
        field = cls.model_fields.get(info.field_name or "")
        values = list(value.values()) if isinstance(value, dict) else [value]
        wants_numbers = field is not None and re.search(r"\b(int|float)\b", str(field.annotation)) is not None
        if wants_numbers and any(isinstance(one, bool) for one in values):
            raise PydanticCustomError("no_bool", "Input should not be true or false")
        return value


def marked(info: FieldInfo, mark: str) -> bool:
    """Whether a field was made with the mark (TEXT, ANSWERS) set."""
    extra = info.json_schema_extra
    return bool(isinstance(extra, dict) and extra.get(mark))
