"""How many decoding actors fit beside the engines. Pure: nodes in, numbers out; knows no Ray.

The engines' room is reserved before anything else is placed (`ray_flow`): Ray places a pipeline's first pool first, and decoding
actors that filled every node would leave the engines waiting for ever without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import RuntimeConfig

DECODE_CPUS = 0.9  # an actor uses one core; the rest is for Ray itself
SPARE_CPUS = 0.1  # per node: Ray's own tasks (pools that hold every CPU hang it: ray#44687)
_LEAST_CPUS = 0.01


@dataclass(frozen=True, slots=True)
class Placement:
    """What to ask Ray for."""

    decode_workers: int
    decode_cpus: float  # booked by each


def place(nodes: Sequence[Mapping[str, float]], runtime: RuntimeConfig) -> Placement:
    """Decoding actors for these nodes ("CPU" of each) beside `engine_workers` engines, wherever those were put.

    A number that is asked for is kept, and shares what there is.
    """
    cpus = [node.get("CPU", 0.0) for node in nodes]
    displaced = runtime.engine_workers * math.ceil(runtime.engine_cpus / DECODE_CPUS)
    workers = sum(max(0, int((count - SPARE_CPUS) / DECODE_CPUS)) for count in cpus) - displaced
    if runtime.decode_workers is None and workers >= 1:
        return Placement(workers, DECODE_CPUS)
    wanted = runtime.decode_workers or 1
    free_cpus = sum(cpus) - SPARE_CPUS * len(cpus) - runtime.engine_workers * runtime.engine_cpus
    return Placement(wanted, max(_LEAST_CPUS, min(DECODE_CPUS, math.floor(free_cpus / wanted * 100) / 100)))
