"""Index tables from the host to the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_device(table: npt.NDArray[np.generic[Any]], device: torch.device) -> Tensor:
    """A table on the device; on CUDA queued on the current stream from pinned memory, so that the host does not wait."""
    host = torch.from_numpy(table)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
