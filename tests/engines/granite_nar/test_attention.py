"""Attention over a packed row is attention over each clip alone, by every backend that can run; the rest say what they lack."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import one_thread
from torch import Tensor

from pipeline.engines.granite_nar import attention
from pipeline.engines.granite_nar.attention import BACKENDS, Backend, choose_backend, lay_out, missing, packed_attention
from pipeline.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

CPU = torch.device("cpu")
HEADS = ((4, 4), (6, 2), (4, 1))  # of queries, of keys and values

clip_lengths = st.lists(
    st.one_of(st.integers(0, 40), st.sampled_from((0, 1, 127, 128, 129, 256))), min_size=1, max_size=8
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def random_row(
    lengths: Sequence[int],
    heads: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device = CPU,
    width: int = 16,
) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(sum(lengths))
    q, k, v = (torch.randn(sum(lengths), count, width, generator=source) for count in (heads[0], heads[1], heads[1]))
    return q.to(device, dtype), k.to(device, dtype), v.to(device, dtype)


def attend_to_each_clip(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """From the definition, head by head, in float64."""
    out = torch.zeros_like(q, dtype=torch.float64)
    begin = 0
    for length in lengths:
        clip = slice(begin, begin + length)
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            scores = q[clip, head].double() @ k[clip, group].double().T * scale
            out[clip, head] = torch.softmax(scores, -1) @ v[clip, group].double()
        begin += length
    return out


@settings(max_examples=30)
@given(clip_lengths, st.sampled_from(HEADS), st.floats(0.01, 1.0), st.sampled_from(("sdpa", "flex")))
@example([0], (6, 2), 0.1, "flex")
@example([0], (6, 2), 0.1, "sdpa")
@example([5, 0, 0, 3], (6, 2), 0.1, "sdpa")
@example([128, 0, 1], (6, 2), 0.1, "flex")
def test_each_clip_sees_itself_both_ways_and_nothing_else(
    lengths: list[int], heads: tuple[int, int], scale: float, backend: Backend
) -> None:
    q, k, v = random_row(lengths, heads)
    spans = lay_out(np.array(lengths), backend, CPU)
    found = packed_attention(q, k, v, spans, scale)
    assert found.shape == q.shape
    torch.testing.assert_close(found, attend_to_each_clip(q, k, v, lengths, scale), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_no_clips_have_no_attention(backend: Backend) -> None:
    q, k, v = random_row([], (6, 2))
    assert packed_attention(q, k, v, lay_out(np.array([], np.int64), backend, CPU), 1.0).shape == (0, 6, 16)


@given(clip_lengths)
def test_padded_groups_hold_every_row_once_and_waste_little(lengths: list[int]) -> None:
    spans = lay_out(np.array(lengths), "sdpa", CPU)
    rows = [group.rows[slots(group)] for group in spans.groups]
    assert sorted(torch.cat(rows).tolist() if rows else []) == list(range(sum(lengths)))
    everywhere = torch.cat([group.rows.flatten() for group in spans.groups]) if rows else torch.zeros(0)
    assert everywhere[spans.place].tolist() == list(range(sum(lengths)))
    assert sum(group.rows.numel() for group in spans.groups) * 0.8 <= sum(lengths)
    assert all(group.taken is None or not group.taken.all() for group in spans.groups)


def slots(group: attention.Group) -> Tensor:
    return torch.ones_like(group.rows, dtype=torch.bool) if group.taken is None else group.taken[:, 0, 0]


def test_starts_are_those_the_varlen_kernels_want() -> None:
    spans = lay_out(np.array([3, 0, 5]), "varlen", CPU)
    assert spans.starts.tolist() == [0, 3, 3, 8]
    assert spans.starts.dtype == torch.int32
    assert spans.longest == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_takes_a_backend_that_runs_on_it(dtype: torch.dtype) -> None:
    assert choose_backend("auto", CPU, dtype) == "sdpa"
    assert [name for name in BACKENDS if missing(name, CPU, dtype) is None] == ["flex", "sdpa"]
    assert choose_backend("flex", CPU, dtype) == "flex"


def test_an_unknown_backend_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_backend("xformers", CPU, torch.float32)
    assert str(caught.value) == ("There is no attention backend 'xformers'; it can be auto, flash, varlen, flex, sdpa.")


def choosing(backend: str, device: str, dtype: torch.dtype) -> str:
    with pytest.raises(ConfigError) as caught:
        choose_backend(backend, torch.device(device), dtype)
    said = str(caught.value)
    begin, end = f"The attention backend '{backend}' cannot run here: ", "; take sdpa, which runs anywhere."
    assert said.startswith(begin)
    assert said.endswith(end)
    return said.removeprefix(begin).removesuffix(end)


def pretend_installed(patch: pytest.MonkeyPatch, *, installed: bool) -> None:
    """Whether a kernel's package can be found: the one fact about the machine that a sentence depends on."""
    patch.setattr(attention, "find_spec", lambda name: object() if installed else None)


def pretend_gpu(patch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    patch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    patch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    patch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, installed=False)
    said = choosing("flash", "cuda", torch.bfloat16)
    assert said == 'the package flash-attn is not installed (pip install "quarry-asr[flash]")'
    said = choosing("varlen", "cuda", torch.bfloat16)
    assert said == f"torch {torch.__version__} has no torch.nn.attention.varlen (2.11 has)"


@pytest.mark.parametrize("backend", ["flash", "varlen"])
def test_a_missing_device_is_named(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, installed=True)
    said = choosing(backend, "cpu", torch.bfloat16)
    assert said == "its kernel needs a CUDA device, and the model is on cpu"


@pytest.mark.parametrize("backend", ["flash", "varlen"])
def test_an_old_device_is_named(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, installed=True)
    pretend_gpu(monkeypatch, (7, 5))
    said = choosing(backend, "cuda", torch.float16)
    assert said == "its kernel needs compute capability 8.0, and Tesla T4 is older"
    assert choose_backend("auto", torch.device("cuda"), torch.float16) == "sdpa"


@pytest.mark.parametrize("backend", ["flash", "varlen"])
def test_a_type_the_kernel_cannot_compute_in_is_named(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, installed=True)
    pretend_gpu(monkeypatch, (9, 0))
    said = choosing(backend, "cuda", torch.float32)
    assert said == "its kernel computes in bfloat16 or float16, not in float32"
    assert choose_backend("auto", torch.device("cuda"), torch.float32) == "sdpa"


def test_the_best_backend_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (9, 0))
    pretend_installed(monkeypatch, installed=True)
    monkeypatch.setattr(attention, "_import_error", lambda: None)
    assert choose_backend("auto", torch.device("cuda"), torch.bfloat16) == "flash"
    monkeypatch.setattr(attention, "_import_error", lambda: "flash-attn is installed, but does not load (no symbol)")
    assert choose_backend("auto", torch.device("cuda"), torch.bfloat16) == "varlen"
    monkeypatch.setattr(attention, "find_spec", lambda name: None if name == "flash_attn" else object())
    assert choose_backend("auto", torch.device("cuda"), torch.bfloat16) == "varlen"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('undefined symbol:\\n _ZN3c105Error')", "does not load (undefined symbol: _ZN3c105Error)"),
        ("raise OSError('libcudart.so.12: not found')", "does not load (libcudart.so.12: not found)"),
        ("", "flash-attn is too old: it has no varlen function"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flash_attn.py").write_text(source, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    pretend_gpu(monkeypatch, (9, 0))
    attention._import_error.cache_clear()
    try:
        assert choosing("flash", "cuda", torch.bfloat16).endswith(said)
        assert choose_backend("auto", torch.device("cuda"), torch.bfloat16) == "varlen"
    finally:
        attention._import_error.cache_clear()
        sys.modules.pop("flash_attn", None)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_clip_sees_itself_on_the_gpu(backend: Backend, dtype: torch.dtype, heads: tuple[int, int]) -> None:
    device = cuda_with(backend, dtype)
    lengths = [300, 1, 0, 128, 129, 700, 64]
    q, k, v = random_row(lengths, heads, dtype=dtype, device=device, width=128)
    found = packed_attention(q, k, v, lay_out(np.array(lengths), backend, device), 1 / 128)
    expected = attend_to_each_clip(q, k, v, lengths, 1 / 128)
    tolerance = 2e-3 if dtype == torch.float32 else 1e-2  # TensorFloat-32 may be on
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def cuda_with(backend: Backend, dtype: torch.dtype) -> torch.device:
    """The GPU, or a skip that says what is missing."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    if lack := missing(backend, device, dtype):
        pytest.skip(lack)
    return device
