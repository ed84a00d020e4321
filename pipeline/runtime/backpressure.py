"""How far decoding may be ahead of the engines: a backpressure policy of Ray Data's, counted in shards.

Ray holds a stage back by bytes, and begins when half of its object store is full: hours of audio, fetched and decoded for nothing
when the driver dies. Told to begin at once, it holds back every stage, engines too, whose receipts are larger than twice the
driver's one in hand (measured on 2.60: both engines stood still until all was decoded).

Imports Ray at the top, for it extends a class of Ray's: import it late.
"""

from __future__ import annotations

from typing import Any

from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

_LIMIT = "quarry.decoded_shards_waiting"  # in a DataContext's config


class DecodeAhead(BackpressurePolicy):
    """Ray asks each policy whether an operator may take another input; this one answers for the pool that decodes.

    What it counts are shards that wait for an engine, not those that are being decoded: their number is the pool's own.
    While nothing else goes on, as when engines load, Ray decodes one shard after the other, whatever a policy says.
    """

    def can_add_input(self, op: Any) -> bool:
        """Whether the operator may begin another shard."""
        if op.name != "MapBatches(DecodePool)" or len(op.output_dependencies) != 1:
            return True
        (engines,) = op.output_dependencies
        waiting = self._topology[engines].total_enqueued_input_blocks()  # a shard is a block
        return bool(waiting < self._data_context.get_config(_LIMIT))


def bound_decoding(context: Any, shards: int) -> None:
    """Have decoding pause, in executions of this DataContext, while so many shards wait for an engine."""
    policies = context.get_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, ENABLED_BACKPRESSURE_POLICIES)
    context.set_config(_LIMIT, shards)
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        [*(policy for policy in policies if policy is not DecodeAhead), DecodeAhead],
    )
