"""How far decoding may be ahead of the engines: a backpressure policy of Ray Data's, counted in shards.

Ray holds a stage back by bytes, and begins when half of its object store is full: hours of audio, fetched and decoded for nothing
when the driver dies. Told to begin at once, it holds back every stage, engines too, whose receipts are smaller than the driver's
one in hand (measured on 2.60: both engines stood still until all was decoded).
"""

from __future__ import annotations

from typing import Any

_LIMIT = "quarry.decoded_shards_waiting"  # in a DataContext's config
_POLICIES = "backpressure_policies.enabled"  # Ray Data's own name


class DecodeAhead:
    """Ray asks each policy whether an operator may take another input; this one answers for the pool that decodes.

    What it counts are shards that wait for an engine, not those that are being decoded: their number is the pool's own.
    Made by Ray for each execution; `topology` maps each operator to its state.
    """

    name = "DecodeAhead"

    def __init__(self, data_context: Any, topology: Any, resource_manager: Any) -> None:
        self._limit = data_context.get_config(_LIMIT)
        self._topology = topology

    def can_add_input(self, op: Any) -> bool:
        """Whether the operator may begin another shard. Ray lets one begin all the same where nothing else goes on."""
        if "DecodePool" not in op.name:
            return True
        (engines,) = op.output_dependencies
        waiting = self._topology[engines].total_enqueued_input_blocks()  # a shard is a block
        return bool(waiting < self._limit)

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """What is decoded is always taken."""
        return None


def bound_decoding(context: Any, shards: int) -> None:
    """Have decoding pause, in executions of this DataContext, while so many shards wait for an engine."""
    from ray.data._internal.execution.backpressure_policy import ENABLED_BACKPRESSURE_POLICIES

    context.set_config(_LIMIT, shards)
    context.set_config(_POLICIES, [*ENABLED_BACKPRESSURE_POLICIES, DecodeAhead])
