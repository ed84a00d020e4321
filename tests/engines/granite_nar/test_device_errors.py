"""What torch and its libraries say, sorted: memory, a device that is gone, the batch's own fault."""

from __future__ import annotations

import pytest
import torch

from pipeline.engines.granite_nar.device import device_errors
from pipeline.errors import EngineDead, EngineError, EngineOutOfMemory


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            EngineOutOfMemory,
            "Tried to allocate",
        ),
        (RuntimeError("CUDA error: out of memory"), EngineOutOfMemory, "CUDA error: out of memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), EngineOutOfMemory, "CUDA error: out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), EngineOutOfMemory, "CUBLAS"),
        (RuntimeError("std::bad_alloc"), EngineOutOfMemory, "bad_alloc"),
        (RuntimeError("could not create a primitive"), EngineOutOfMemory, "primitive"),  # oneDNN, on a CPU
        (MemoryError(), EngineOutOfMemory, "did not fit in memory"),
        (torch.AcceleratorError("device-side assert triggered"), EngineDead, "accelerator is gone: device-side assert"),
        (RuntimeError("CUDA error: device-side assert triggered\nnext line"), EngineDead, "triggered next line"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), EngineDead, "accelerator is gone"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), EngineDead, "accelerator is gone"),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), EngineDead, "illegal memory"),
        (
            RuntimeError("mat1 and mat2 shapes\n cannot be multiplied"),
            EngineError,
            "^The model failed: mat1 .* shapes c",
        ),
        (
            RuntimeError("CUDA error: no kernel image is available"),
            EngineError,
            "^The model failed: CUDA error: no kernel",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED"), EngineError, "NOT_SUPPORTED"),
        (RuntimeError("x" * 5000), EngineError, "^The model failed: x{300}$"),
        (EngineError("language_unsupported", "as it is"), EngineError, "^as it is$"),
        (ValueError("as it is"), ValueError, "^as it is$"),
    ],
)
def test_errors_are_sorted(error: Exception, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as caught, device_errors():
        raise error
    assert type(caught.value) is kind
