"""Conditions on rows of a table, as a user types them, to Arrow's expressions. Pure; nothing is evaluated as code.

language=en      status in ok,partial      duration_s<30      wer<=0.2      reference_text is not null      extra.topic=news
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError

_CONDITION = re.compile(
    r"\s*([\w.-]+?)\s*(?:(<=|>=|!=|=|<|>)\s*(.*)|\s(in)\s(.*)|\s(is not null|is null)\s*)", re.DOTALL
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EDITS = ("word_substitutions", "word_deletions", "word_insertions")


def expression_of(conditions: Iterable[str], schema: pa.Schema) -> pc.Expression | None:
    """All conditions together; None: there are none. A null makes every comparison false. Raises ConfigError."""
    found = [_expression(condition, schema) for condition in conditions]
    return reduce(operator.and_, found) if found else None


def _expression(condition: str, schema: pa.Schema) -> pc.Expression:
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise ConfigError(
            f"The condition {condition!r} is not of a known form; write language=en, 'duration_s<30', "
            "'status in ok,partial' or 'reference_text is not null'."
        )
    name, sign, value, _, values, null = match.groups()
    field, kind = _field(name, schema)
    if null:
        return field.is_valid() if "not" in null else ~field.is_valid()
    if values is not None:
        return field.isin(pa.array([_value(one.strip(), kind, condition) for one in values.split(",")], kind))
    return _COMPARE[sign](field, pa.scalar(_value(value.strip(), kind, condition), kind))


def _field(name: str, schema: pa.Schema) -> tuple[pc.Expression, pa.DataType]:
    """What a name stands for: a column, `wer` out of the counts, or a column that the manifest passed through."""
    if name == "wer" and "wer" not in schema.names and set(_EDITS) <= set(schema.names):
        edits = reduce(operator.add, [pc.field(edit) for edit in _EDITS])
        # No words in the reference: no rate, as in the report.
        words = pc.if_else(
            pc.field("word_reference_length") > 0, pc.field("word_reference_length"), pa.scalar(None, pa.int64())
        )
        return edits.cast(pa.float64()) / words.cast(pa.float64()), pa.float64()
    if name.startswith("extra.") and "extra" in schema.names:
        return pc.map_lookup(pc.field("extra"), pa.scalar(name.removeprefix("extra.")), "first"), pa.string()
    if name not in schema.names or pa.types.is_nested(schema.field(name).type):
        usable = [field.name for field in schema if not pa.types.is_nested(field.type)]
        usable += ["wer", "extra.NAME"] if "word_reference_length" in usable else []
        raise ConfigError(f"A condition can not be on {name!r}; it can be on {', '.join(usable)}.")
    return pc.field(name), schema.field(name).type


def _value(text: str, kind: pa.DataType, condition: str) -> Any:
    if pa.types.is_string(kind):
        return text
    try:
        return int(text) if pa.types.is_integer(kind) else float(text)
    except ValueError:
        raise ConfigError(f"{text!r} in the condition {condition!r} is not a number; correct it.") from None
