"""What this machine can do at best: matrix products, copies; and what it is. Every other figure is read against these.

Random data: matrix products on zeros are up to an eighth faster than on anything real.
"""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from granite_nar_clock import Laps, wait_for_device
from granite_nar_flops import Product

REPO = Path(__file__).resolve().parent.parent
HEAD_SLICE_ELEMENTS = 2**28  # the model reads its heads in slices of so many logits


def describe(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The machine, the libraries and the commit."""
    found: dict[str, Any] = {
        "device": "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "commit": _answer("git", "-C", str(REPO), "rev-parse", "--short", "HEAD"),
        "uncommitted_changes": _answer("git", "-C", str(REPO), "diff", "HEAD", "--shortstat", empty="none"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        found["memory_gib"] = round(properties.total_memory / 2**30, 1)
        found["multiprocessors"] = properties.multi_processor_count
        found["cuda"] = torch.version.cuda
        found["driver"] = _answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return found


def keep_freed_memory() -> bool:
    """Let glibc keep what it frees, as CUDA's allocator does; False where it is not glibc.

    Else the kernel hands out, and zeroes, every large tensor anew: a quarter of the time of big batches on a CPU, which would
    flatter whatever has small ones.
    """
    options = {"M_ARENA_MAX": (-8, 1), "M_MMAP_THRESHOLD": (-3, 2**31 - 1), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return all(mallopt(option, value) == 1 for option, value in options.values())
    except (OSError, AttributeError):
        return False


def square_product(device: torch.device, dtype: torch.dtype, size: int, sustained_s: float) -> dict[str, Any]:
    """FLOP/s of [size, size] by [size, size]: the median of short goes, and the mean over `sustained_s`.

    The first is the roof of the utilisation; the second shows what heat and power leave of it.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    flops = 2 * size**3
    took_s = time_calls(partial(torch.mm, a, b), device, repeats=20 if device.type == "cuda" else 5)
    long_s = time_for(partial(torch.mm, a, b), device, sustained_s)
    return {
        "size": size,
        "flops_per_s": flops / statistics.median(took_s),
        "best_flops_per_s": flops / min(took_s),
        "sustained_flops_per_s": flops / long_s,
        "seconds": took_s,
    }


def model_products(device: torch.device, dtype: torch.dtype, products: Sequence[Product]) -> dict[str, Any]:
    """FLOP/s of the model's own products at a batch's row counts, each weighted by its share of the operations."""
    rows, flops, took_s, repeats = [], 0, 0.0, 10 if device.type == "cuda" else 1
    for product in products:
        sliced = min(product.rows, max(1, HEAD_SLICE_ELEMENTS // product.outputs))
        x = torch.randn(sliced, product.inputs, device=device, dtype=dtype)
        weight = torch.randn(product.outputs, product.inputs, device=device, dtype=dtype)
        each_s = statistics.median(time_calls(partial(F.linear, x, weight), device, repeats))
        each_s *= product.rows / sliced
        flops += product.flops
        took_s += each_s * product.times
        rows.append({**product._asdict(), "flops": product.flops, "seconds": each_s * product.times})
    return {"flops_per_s": flops / took_s, "seconds": took_s, "products": rows}


def copy_bandwidth(device: torch.device, size_bytes: int) -> dict[str, Any]:
    """Bytes per second of a copy on the device, read and written ones added."""
    source = torch.randint(-100, 100, (size_bytes,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    took_s = time_calls(partial(target.copy_, source), device, repeats=5)
    return {"bytes_per_s": 2 * size_bytes / statistics.median(took_s), "size_bytes": size_bytes, "seconds": took_s}


def time_calls(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of a call, so many times. On a CPU each is a mean over a tenth of a second: its clock may be coarse."""
    least_s = 0.0 if device.type == "cuda" else 0.1
    time_for(call, device, least_s)  # does not count
    return [time_for(call, device, least_s) for _ in range(repeats)]


def time_for(call: Callable[[], object], device: torch.device, least_s: float) -> float:
    """Mean seconds of calls queued behind one another for `least_s` or a little longer: two at least."""
    calls, until_s = 0, time.perf_counter() + least_s
    burst = 10 if least_s and device.type == "cuda" else 2
    with torch.inference_mode():
        wait_for_device(device)
        laps = Laps(device)
        laps.mark("begin")
        while not calls or time.perf_counter() < until_s:
            for _ in range(burst):
                call()
            calls += burst
            if least_s:
                wait_for_device(device)
        laps.mark("all")
        return max(laps.seconds()["all"], 1e-9) / calls


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _answer(*command: str, empty: str = "unknown") -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or empty if done.returncode == 0 else "unknown"
