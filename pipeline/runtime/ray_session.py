"""One Ray session, every setting with its reason."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config import RuntimeConfig
from pipeline.errors import RunError


@contextmanager
def ray_session(runtime: RuntimeConfig) -> Iterator[None]:
    """Join or start Ray for the duration of a run; what was started here ends here.

    Raises RunError when there is no cluster to join.
    """
    # Without it Ray hides every GPU from an actor that books none, also where the user shares one by hand.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        _tune(runtime)
        yield
        return
    # Ray prints an error line per pool about constructor arguments that outlive their owner (ray#53727); here the owner is
    # this process, which outlives the pools.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _muted_stderr():  # the core announces that it took the level
            _start_or_join(runtime)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"Ray cannot be reached at {runtime.address!r} ({reason}); set runtime.address=local or runtime.kind=local."
        ) from None
    try:
        _tune(runtime)
        yield
    finally:
        ray.shutdown()


def _start_or_join(runtime: RuntimeConfig) -> None:
    import ray

    if runtime.address != "local":
        ray.init(address=runtime.address, log_to_driver=False, logging_level=logging.ERROR)
        return
    # RAY_ADDRESS is ignored on purpose: "local" in the config means here.
    # Token auth (on by default since 2.59) guards ports that a one-machine Ray binds to loopback anyway.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(
        address="local",
        num_cpus=runtime.num_cpus,
        object_store_memory=runtime.object_store_bytes,
        include_dashboard=False,  # half the start-up time and 300 MB
        log_to_driver=False,  # workers log to files; what matters comes back as rows
        logging_level=logging.ERROR,
    )


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Nothing on file descriptor 2, where C++ prints; exceptions are raised as ever."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _tune(runtime: RuntimeConfig) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours is one line; Ray's repaint a batch log
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that there are none
    context.print_on_execution_start = False
    # One poison block must not end the run. Safe only because plan − parts is checked when the pass is over:
    # a dropped block is a shard without a part.
    context.max_errored_blocks = -1
    context.execution_options.preserve_order = False  # one slow shard must not hold back the others' commits
    # A shard of an hour is 115 MB of int16: one block, never split, never merged with a neighbour.
    context.target_max_block_size = 512 * 2**20
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def cluster_cpus() -> float:
    """CPUs of the cluster."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("CPU", 1.0)
