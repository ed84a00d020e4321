"""The second pass on Ray Data: one shard is one row, through one pool of actors that hold the model.

Reading texts and publishing answers cost little beside the model, so they have no pools of their own.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from pipeline.errors import EngineDead
from pipeline.records import Undone
from pipeline.runtime.answering import Answerer, AnswerReceipt, PassAssignment
from pipeline.runtime.ray_flow import SHARDS_PER_PASS, engine_room
from pipeline.runtime.ray_session import ray_errors, ray_session

_LONGEST_SHARD_S = (
    6 * 3600
)  # correcting 200 000 characters on a CPU can take hours; Ray gives up when nothing is done for so long

_Receipt, _Undone = TypeAdapter(AnswerReceipt), TypeAdapter(Undone)
_ROW = pa.schema([("receipt", pa.large_binary()), ("undone", pa.large_binary())])


class AnswerPool:
    """Answers one shard per call."""

    def __init__(self, assignment: PassAssignment) -> None:
        self._answerer = Answerer(assignment)

    def __call__(self, entry: pa.Table) -> pa.Table:
        """One entry of the plan in, one receipt out."""
        (row,) = entry.select(["shard_id", "plan_key", "row_group", "source_snapshot"]).to_pylist()
        try:
            found = self._answerer.answer(**row)
        except EngineDead:
            # Raising would send the shard back to the same dead model, for ever (ray#60145): a new process gets a new one.
            os._exit(1)
        if isinstance(found, Undone):
            return pa.table([[None], [_Undone.dump_json(found)]], schema=_ROW)
        return pa.table([[_Receipt.dump_json(found)], [None]], schema=_ROW)


def answer_shards(todo: pa.Table, assignment: PassAssignment) -> Iterator[AnswerReceipt | Undone]:
    """Answer every entry of `todo` on Ray; a receipt for each as it is done.

    Raises RunError when the models do not fit or do not load, RunBrokenOffError when Ray fails on the way.
    """
    runtime = assignment.config.runtime
    with ray_session(runtime), ray_errors(), engine_room(runtime) as room:
        for start in range(0, todo.num_rows, SHARDS_PER_PASS):
            yield from _receipts(todo.slice(start, SHARDS_PER_PASS), assignment, room)


def _receipts(todo: pa.Table, assignment: PassAssignment, room: Any) -> Iterator[AnswerReceipt | Undone]:
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext

    runtime = assignment.config.runtime
    DataContext.get_current().execution_no_progress_timeout_s = _LONGEST_SHARD_S
    with warnings.catch_warnings():
        # As in ray_flow: there is no other way yet to bound task retries, and a pool's inputs are counted too early.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
        dataset = ray.data.from_arrow([todo.slice(row, 1) for row in range(todo.num_rows)]).map_batches(
            AnswerPool,
            fn_constructor_args=(assignment,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=runtime.engine_workers),
            num_cpus=runtime.engine_cpus,
            num_gpus=runtime.engine_gpus or None,
            scheduling_strategy=room,
            max_task_retries=runtime.task_retries,
            max_restarts=-1,
        )
        for row in dataset.iter_rows():
            undone = row["undone"]
            yield _Undone.validate_json(undone) if undone else _Receipt.validate_json(row["receipt"])
