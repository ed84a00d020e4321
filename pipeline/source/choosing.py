"""Rows of a manifest by the value of a column: `source.only`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Columns of MANIFEST_SCHEMA that hold one string; any other name is that of a column that passes through.
_OWN = ("id", "uri", "language")


def values_of(table: pa.Table, column: str) -> pa.Array:
    """The values of a column of rows in MANIFEST_SCHEMA, as strings; "" where a row has none."""
    found = table[column] if column in _OWN else pc.map_lookup(table["extra"], column, "first")
    found = pc.fill_null(found, "")
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def chosen(table: pa.Table, only: Mapping[str, str]) -> pa.Array:
    """A mask of the rows that have the wanted value in every column named; "" is wanted of rows that have none."""
    everything = pa.array(np.ones(table.num_rows, np.bool_))
    return reduce(pc.and_, (pc.equal(values_of(table, column), value) for column, value in only.items()), everything)
