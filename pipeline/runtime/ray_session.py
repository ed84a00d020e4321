"""One Ray session, every setting with its reason."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.config import RuntimeConfig
from pipeline.errors import RunBrokenOffError, RunError


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
        with _muted_stderr(), _own_sigterm(), _groups_of_their_own():  # the core announces that it took the level
            _start_or_join(runtime)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(
            f"Ray cannot be reached at {runtime.address!r} ({_reason(error)}); set runtime.address=local or runtime.kind=local."
        ) from None
    except Exception as error:
        if type(error) is not Exception:
            raise
        # Ray's way to say that its own processes took longer than 30 s.
        raise RunBrokenOffError(
            f"Ray did not start ({_reason(error)}); the same command tries again, when less else goes on."
        ) from None
    try:
        _tune(runtime)
        yield
    finally:
        ray.shutdown()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


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
        # Bookings, not cores: two pools and Ray's own tasks do not find room on one.
        num_cpus=max(2, runtime.num_cpus or os.cpu_count() or 2),
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


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """SIGTERM stays with whoever has it: Ray's core takes it, and its handler aborts the process with nothing recorded."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _groups_of_their_own() -> Iterator[None]:
    """What Ray starts leads a process group: `timeout`, `kill %1` and Airflow send SIGTERM to the whole group of a command.

    Without a head to say goodbye to, Ray's core waits a minute and then ends this process with code 1 and nothing recorded. Ray
    has no setting for it, and a process that runs cannot be moved.
    """
    start = subprocess.Popen.__init__

    def start_apart(self: subprocess.Popen[bytes], *arguments: Any, **settings: Any) -> None:
        start(self, *arguments, **{**settings, "process_group": 0})

    subprocess.Popen.__init__ = start_apart  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = start  # type: ignore[method-assign]


def _tune(runtime: RuntimeConfig) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours is one line; Ray's repaint a batch log
    context.print_on_execution_start = False
    # One poison block must not end the run. Safe only because plan − parts is checked when the pass is over:
    # a dropped block is a shard without a part.
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = 5  # machines vanish while a pool starts, too
    context.execution_options.preserve_order = False  # one slow shard must not hold back the others' commits
    # A shard of an hour is 115 MB of int16: one block, never split, never merged with a neighbour.
    context.target_max_block_size = 512 * 2**20
    context.execution_options.verbose_progress = False
    context.issue_detectors_config.detectors = []  # they warn of pools that hold memory, in the middle of our line
    # What stops a run comes back as an error or as an undone shard; Ray's own pages about it are for `ray logs`.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def cluster_nodes() -> list[dict[str, float]]:
    """Resources of each living node: "CPU", "GPU" and the rest."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [dict(node["Resources"]) for node in nodes if node["Alive"]]


@contextmanager
def ray_errors() -> Iterator[None]:
    """Turn what Ray raises into one sentence: our own RunError from inside a worker, or that Ray broke off."""
    import ray.exceptions
    from ray.data.exceptions import ExecutionTimeoutError

    try:
        yield
    except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
        ours = _our_error(error)
        if ours is not None:
            raise ours from None
        reason = " ".join(str(error).split())[-300:]
        raise RunBrokenOffError(
            f"Ray broke off ({type(error).__name__}: … {reason}); the same command resumes."
        ) from error


def _our_error(error: BaseException | None) -> RunError | None:
    """The RunError that a worker raised, however deep Ray has wrapped it."""
    while error is not None:
        if isinstance(error, RunError):
            return type(error)(str(error.args[-1]) if error.args else str(error))
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None
