"""The header of a safetensors file, read without its library: as the library reads it, and never anything but a refusal else."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from pipeline.engines.granite_nar.header import MAX_HEADER_BYTES, StoredTensor, read_header
from pipeline.errors import ConfigError


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file by the format's description: length, JSON, data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), span: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


DATA = bytes(8)
LYING = {
    "no bytes": (b"", "0 bytes"),
    "a short length": (b"\x02\0\0", "3"),
    "a length behind the end": (raw({}, length=3), "3 bytes in a file of 10"),
    "a huge length": (raw({}, length=2**63), "in a file of 10"),
    "no json": (raw(b"{,}"), "no JSON"),
    "no utf-8": (raw(b'{"\xff": 1}'), "no JSON"),
    "a bomb": (raw(b"[" * 100_000), "no JSON"),
    "a number too long": (raw(b'{"a": ' + b"9" * 5000 + b"}"), "no JSON"),
    "a list": (raw([1]), "no JSON object"),
    "a doubled name": (raw(b'{"a": 1, "a": 2}'), "'a' stands in it twice"),
    "metadata": (raw({"__metadata__": {"a": 1}}), "metadata"),
    "no entry": (raw({"a.weight": 3}, DATA), "tensor a.weight"),
    "no type": (raw({"a.weight": {"shape": [2], "data_offsets": [0, 8]}}, DATA), "tensor a.weight of an unknown type"),
    "a strange type": (raw({"a.weight": entry("F4")}, DATA), "tensor a.weight of an unknown type, 'F4'"),
    "a type of a type": (raw({"a.weight": entry(["F32"])}, DATA), "tensor a.weight of an unknown type"),
    "a negative size": (raw({"a.weight": entry(shape=[-2])}, DATA), "tensor a.weight of an impossible shape"),
    "a true size": (raw({"a.weight": entry(shape=[True, 2])}, DATA), "tensor a.weight of an impossible shape"),
    "a half size": (raw({"a.weight": entry(shape=[2.0])}, DATA), "tensor a.weight of an impossible shape"),
    "a huge size": (raw({"a.weight": entry(shape=[2**63])}, DATA), "tensor a.weight of an impossible shape"),
    "many axes": (raw({"a.weight": entry(shape=[1] * 99 + [2])}, DATA), "tensor a.weight of an impossible shape"),
    "another size": (raw({"a.weight": entry(shape=[3])}, DATA), "tensor a.weight of F32 [3]"),
    "a span backwards": (raw({"a.weight": entry(span=[8, 0])}, DATA), "tensor a.weight"),
    "half a span": (raw({"a.weight": entry(span=[8])}, DATA), "tensor a.weight"),
    "a span behind the end": (raw({"a.weight": entry()}, DATA[:7]), "tensor a.weight at bytes 0 to 8"),
    "overlap": (raw({"a": entry(), "b.weight": entry(span=[4, 12])}, bytes(12)), "tensor b.weight at bytes 4 to 12"),
    "a gap": (raw({"a": entry(), "b.weight": entry(span=[9, 17])}, bytes(17)), "tensor b.weight at bytes 9 to 17"),
    "bytes left over": (raw({"a": entry()}, bytes(11)), "3 bytes that belong to no tensor"),
    "a name with a line break": (raw({"a\nb": entry()}, DATA), r"'a\nb'"),
    "a name without end": (raw({"a" * 1000: entry()}, DATA), "aaa"),
}


@pytest.mark.parametrize(("content", "said"), LYING.values(), ids=LYING)
def test_a_lying_header_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        read_header(file)
    message = str(refusal.value)
    assert said in message
    assert re.match(
        rf"{re.escape(str(file))} is not a complete safetensors file: it has .+; fetch it again, or .+\.$", message
    )


def test_a_header_too_long_to_be_one_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as sparse:
        sparse.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        sparse.truncate(MAX_HEADER_BYTES * 2)
    with pytest.raises(ConfigError, match=f"header of {MAX_HEADER_BYTES + 1} bytes"):
        read_header(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for where in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(ConfigError, match=rf"{re.escape(str(where))} cannot be read"):
            read_header(where)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(save({"a.weight": np.ones((3, 4), np.float32), "b.weight": np.ones(2, np.float16)})[:kept])
    with pytest.raises(ConfigError, match="not a complete safetensors file"):
        read_header(file)


ARRAYS = st.dictionaries(
    st.text("abc._0", min_size=1, max_size=6),
    st.builds(
        np.zeros, st.lists(st.integers(0, 4), max_size=3), st.sampled_from(["f4", "f2", "i8", "u1", "bool", "f8"])
    ),
    max_size=5,
)
NAMES = {"f4": "F32", "f2": "F16", "i8": "I64", "u1": "U8", "b1": "BOOL", "f8": "F64"}


@given(arrays=ARRAYS, metadata=st.none() | st.just({"format": "pt"}))
def test_reads_what_the_library_writes(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], metadata: Any
) -> None:
    file = tmp_path_factory.getbasetemp() / "written.safetensors"
    file.write_bytes(save(arrays, metadata))
    assert read_header(file) == {
        name: StoredTensor(name, NAMES[array.dtype.str[1:]], array.shape) for name, array in arrays.items()
    }


def accept_only_what_the_library_reads(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        header = read_header(file)
    except ConfigError:
        return
    assert header.keys() == {name for name, _ in safetensors.deserialize(content)}


@given(content=st.binary(max_size=200) | st.builds(raw, st.binary(max_size=100), st.binary(max_size=20)))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    accept_only_what_the_library_reads(tmp_path_factory.getbasetemp() / "fuzzed.safetensors", content)


@given(arrays=ARRAYS, data=st.data())
def test_what_a_damaged_file_still_passes_for_the_library_reads(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], data: st.DataObject
) -> None:
    content = bytearray(save(arrays))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(b'"{}[],:0123')
        )
    accept_only_what_the_library_reads(tmp_path_factory.getbasetemp() / "damaged.safetensors", bytes(content))
