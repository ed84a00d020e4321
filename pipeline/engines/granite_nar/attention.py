"""Attention within each clip of a packed row, by whichever kernel the machine has. All give the same result.

    flash   flash-attn's varlen kernel (extra `flash`; CUDA, compute capability 8.0 or newer, half precision)
    varlen  torch.nn.attention.varlen: the same in torch itself
    flex    torch's flex attention with a document mask; compiled on CUDA
    sdpa    clips of similar length together, padded, with their keys masked: any device and type, and the reference

`lay_out` prepares a batch once; `packed_attention` is then called by every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from pipeline.engines.granite_nar.packing import Ints
from pipeline.engines.granite_nar.transfer import to_device
from pipeline.errors import ConfigError

Backend = Literal["flash", "varlen", "flex", "sdpa"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
_OLDEST_CAPABILITY = (8, 0)  # of the flash kernels
_HALF = (torch.bfloat16, torch.float16)
_SIMILAR = 0.8  # clips of a padded group are at least this part of its longest


class Group(NamedTuple):
    """Some clips of similar length."""

    rows: Tensor  # [clips, longest] packed row in every place, 0 where there is none
    taken: Tensor | None  # [clips, 1, 1, longest] bool; None: all are


class Spans(NamedTuple):
    """Where the clips of a packed row of P lie, as one backend wants it."""

    backend: Backend
    starts: Tensor  # int32 [B + 1]: first row of every clip, and P
    longest: int
    groups: tuple[Group, ...]  # sdpa
    place: Tensor  # sdpa: [P] every row's place in the groups, flattened and behind one another
    mask: Any  # flex: its block mask


def choose_backend(wanted: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend by name, or the best there is for "auto". Raises ConfigError, which names the missing piece."""
    if wanted == "auto":
        return next(name for name in BACKENDS if name != "flex" and missing(name, device, dtype) is None)
    if wanted not in BACKENDS:
        raise ConfigError(f"There is no attention backend {wanted!r}; it can be auto, {', '.join(BACKENDS)}.")
    lack = missing(wanted, device, dtype)
    if lack is not None:
        raise ConfigError(f"The attention backend {wanted!r} cannot run here: {lack}; take sdpa, which runs anywhere.")
    return wanted


def missing(backend: Backend, device: torch.device, dtype: torch.dtype) -> str | None:
    """What `backend` lacks on this device with this type; None: nothing."""
    if backend in ("flex", "sdpa"):
        return None
    if backend == "flash" and find_spec("flash_attn") is None:
        return 'the package flash-attn is not installed (pip install "quarry-asr[flash]")'
    if backend == "varlen" and find_spec("torch.nn.attention.varlen") is None:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen (2.11 has)"
    if backend == "varlen" and device.type == "cuda" and not torch.backends.cuda.is_flash_attention_available():
        return f"this build of torch {torch.__version__} has no flash kernels"
    if device.type != "cuda":
        return f"its kernel needs a CUDA device, and the model is on {device.type}"
    if torch.cuda.get_device_capability(device) < _OLDEST_CAPABILITY:
        return f"its kernel needs compute capability 8.0, and {torch.cuda.get_device_name(device)} is older"
    if dtype not in _HALF:
        return f"its kernel computes in bfloat16 or float16, not in {str(dtype).removeprefix('torch.')}"
    return _import_error() if backend == "flash" else None


@cache
def _import_error() -> str | None:
    """Why an installed flash-attn cannot be used: it is compiled against one build of torch."""
    try:
        import flash_attn
    except (ImportError, OSError) as error:
        return f"flash-attn is installed, but does not load ({' '.join(str(error).split())[:200]})"
    return None if hasattr(flash_attn, "flash_attn_varlen_func") else "flash-attn is too old: it has no varlen function"


def lay_out(lengths: Ints, backend: Backend, device: torch.device) -> Spans:
    """Prepare for clips of `lengths` [B] rows each, behind one another."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    groups: tuple[Group, ...] = ()
    place, mask = torch.empty(0, dtype=torch.int64), None
    if backend == "sdpa":
        groups, place = _group(lengths, starts, device)
    elif backend == "flex":
        mask = _document_mask(lengths, device)
    return Spans(backend, to_device(starts.astype(np.int32), device), int(lengths.max(initial=0)), groups, place, mask)


def packed_attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
    """q [P, heads, head_dim], k and v [P, kv_heads, head_dim] → [P, heads, head_dim]; each clip sees itself, both ways."""
    return _KERNELS[spans.backend](q, k, v, spans, scale) if len(q) else q  # flex fails over nothing


def _flash(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    starts, longest = spans.starts, spans.longest
    found: Tensor = flash_attn_varlen_func(q, k, v, starts, starts, longest, longest, softmax_scale=scale)
    return found


def _varlen(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Keys and values once per head: torch 2.11 has no argument for grouped heads.
    k, v = _per_head(k, q.shape[1]), _per_head(v, q.shape[1])
    found = varlen_attn(q, k, v, spans.starts, spans.starts, spans.longest, spans.longest, scale=scale)
    assert isinstance(found, Tensor)
    return found


def _flex(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    found: Tensor = _flex_kernel(q.device.type)(q, k, v, block_mask=spans.mask, scale=scale, enable_gqa=True)
    return found[0].transpose(0, 1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
    k, v = _per_head(k, q.shape[1]), _per_head(v, q.shape[1])
    parts = []
    for rows, taken in spans.groups:
        fold_q, fold_k, fold_v = (x[rows].transpose(1, 2) for x in (q, k, v))  # [clips, heads, longest, head_dim]
        found = F.scaled_dot_product_attention(fold_q, fold_k, fold_v, attn_mask=taken, scale=scale)
        parts.append(found.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[spans.place]


_KERNELS: dict[Backend, Callable[[Tensor, Tensor, Tensor, Spans, float], Tensor]] = {
    "flash": _flash,
    "varlen": _varlen,
    "flex": _flex,
    "sdpa": _sdpa,
}


def _per_head(x: Tensor, heads: int) -> Tensor:
    """[P, kv_heads, head_dim] → [P, heads, head_dim]."""
    return x.repeat_interleave(heads // x.shape[1], 1)


def _group(lengths: Ints, starts: Ints, device: torch.device) -> tuple[tuple[Group, ...], Tensor]:
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    groups: list[Group] = []
    place = np.empty(int(starts[-1]), np.int64)
    filled = begin = 0
    while begin < len(order):
        longest = int(lengths[order[begin]])
        members = order[begin:][lengths[order[begin:]] >= _SIMILAR * longest]
        within = np.arange(longest)
        taken = within < lengths[members, None]
        rows = np.where(taken, starts[members, None] + within, 0)
        place[rows[taken]] = filled + np.flatnonzero(taken)
        filled, begin = filled + rows.size, begin + len(members)
        mask = None if taken.all() else to_device(taken[:, None, None, :], device)
        groups.append(Group(to_device(rows, device), mask))
    return tuple(groups), to_device(place, device)


def _document_mask(lengths: Ints, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    document = to_device(np.repeat(np.arange(len(lengths)), lengths), device)
    rows = len(document)

    def same_clip(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return document[i] == document[j]

    return create_block_mask(same_clip, None, None, rows, rows, device=str(device))


@cache
def _flex_kernel(device: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    # Uncompiled it materialises all scores: right on a CPU, for tests; out of the question on an accelerator.
    kernel: Callable[..., Any] = flex_attention
    return torch.compile(kernel, dynamic=True) if device == "cuda" else kernel
