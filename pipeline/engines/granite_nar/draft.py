"""The encoder's own CTC hypothesis in tokens of the editor: pooled windows of four frames, one label each.

Also the one place that reads a head of 100,352 rows: in slices, so that its logits never fill the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.engines.granite_nar.encoder import linear
from pipeline.engines.granite_nar.weights import Linear

_SLICE_ELEMENTS = 2**28  # logits at once: half a GiB in bfloat16
_EPS = 1e-8


class Labels(NamedTuple):
    """The best label of every row of a head."""

    ids: Tensor  # int64 [rows]
    probabilities: Tensor  # float32 [rows]


def pool(h: Tensor, blank: Tensor, label: Tensor) -> Tensor:
    """Mean of each window's frames, weighted by how little each is a blank; in float32, then back to the type of `h`.

    h [M, hidden], blank float32 [M], label [L, frames of a window] with -1 for none → [L, hidden].
    """
    frame = label.clamp_min(0)
    importance = torch.where(label >= 0, 1 - blank[frame], 0)
    weight = importance / (importance.sum(1, keepdim=True) + _EPS)
    return torch.einsum("lf,lfh->lh", weight, h[frame].float()).to(h.dtype)


def best_label(x: Tensor, head: Linear, scale: float) -> Labels:
    """Best label and its posterior for every row of x [rows, hidden]; `scale` divides the logits."""
    logits = linear(x, head)
    best, ids = logits.max(-1)
    total = torch.logsumexp(logits.float() / scale, -1)
    return Labels(ids, torch.exp(best.float() / scale - total))


def read_head(x: Tensor, head: Linear, scale: float = 1.0, best: Callable[..., Labels] = best_label) -> Labels:
    """`best_label` slice by slice; `best`: that function, or compiled."""
    rows = max(1, _SLICE_ELEMENTS // len(head.weight))
    slices = max(1, -(-len(x) // rows))  # of equal size: a slice of one row would be compiled for anew
    parts = [best(part, head, scale) for part in x.tensor_split(slices)]
    return Labels(torch.cat([part.ids for part in parts]), torch.cat([part.probabilities for part in parts]))
