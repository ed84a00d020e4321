"""One thread that owns the device, and keeps it busy.

Callers pack their batch, hand it in, and wait; the labels they get are collapsed and decoded in their own thread. The owner
queues the first half of a batch before the second half of the one before it, so that the accelerator works while the draft,
on whose length the second half depends, travels to the host. At most two batches are begun and not yet queued to the end.

    owner        begin 1 │ begin 2 │ edit 1 │ edit 2 │ begin 3 │ edit 3 …
    accelerator          │ ═begin 1═ ═begin 2═ ═══edit 1═══ ═══edit 2═══ ═begin 3═ …
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
import torch

from pipeline.engines.granite_nar.collapse import Tokens
from pipeline.engines.granite_nar.model import Batch, Begun, Edited, Model, Uploaded
from pipeline.engines.granite_nar.packing import Ints
from pipeline.errors import EngineDead, EngineError, EngineOutOfMemory

logger = logging.getLogger(__name__)

# What torch and its libraries say in plain RuntimeErrors. Memory first: "CUDA error: out of memory" is no reason to die.
_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "std::bad_alloc",
    "_ALLOC_FAILED",
    "could not create a primitive",
)
# A kernel that this device cannot run at all, or not with these sizes: the device itself is well.
_NOT_HERE = (
    "invalid configuration argument",
    "invalid argument",
    "invalid device function",
    "no kernel image",
    "kernel image is invalid",
    "NOT_SUPPORTED",
)
_DEVICE_GONE = ("CUDA error", "CUDA driver error", "cuBLAS", "CUBLAS_STATUS", "CUDNN_STATUS", "Triton Error [CUDA]")
_POLL_S = 5e-4  # how soon the owner sees a new batch while it waits for a draft


class Plan(NamedTuple):
    """What becomes of a drafted batch: the clips that go to the editor, and with which draft."""

    clips: Ints
    drafts: list[Ints]


Policy = Callable[[Batch, Tokens], Plan]


class Heard(NamedTuple):
    """A batch's outcome: its drafts, and what the editor made of those that went there."""

    drafts: Tokens
    plan: Plan
    edited: Edited | None  # None: no clip went to the editor


class _Job(NamedTuple):
    batch: Batch
    heard: Future[Heard]


class DeviceLoop:
    """The owner thread of a model's device. `hear` may be called from several threads."""

    def __init__(self, model: Model, policy: Policy, *, threads: int | None = None) -> None:
        """`threads`: CPU threads of a product, where the device is the CPU."""
        self._model = model
        self._policy = policy
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._asked: set[Future[Heard]] = set()
        self._ended: str | None = None  # why no batch is taken any more
        self._on_cuda = model.device.type == "cuda"
        self._depth = 2 if self._on_cuda else 1
        self._copies = torch.cuda.Stream(model.device) if self._on_cuda else None
        self._thread = threading.Thread(target=self._own, args=(threads,), name="granite-nar", daemon=True)
        self._thread.start()
        # Else Python ends the thread where it stands when the process ends: inside torch, that aborts the process.
        atexit.register(self.close)

    def hear(self, batch: Batch) -> Heard:
        """Queue a batch and wait until its second half is queued on the device. Raises EngineError and its kinds."""
        heard: Future[Heard] = Future()
        with self._lock:
            if self._ended is not None:
                raise EngineDead(self._ended)
            self._asked.add(heard)
            self._jobs.put(_Job(batch, heard))
        try:
            return heard.result()
        finally:
            with self._lock:
                self._asked.discard(heard)
            del heard  # it holds the error, which holds this frame

    def close(self) -> None:
        """Finish what is queued and end the thread; `hear` raises EngineDead from now on."""
        with self._lock:
            self._ended = self._ended or "The engine is closed; load it again."
            self._jobs.put(None)
        self._thread.join()
        atexit.unregister(self.close)

    def _own(self, threads: int | None) -> None:
        try:
            with device_errors():
                self._serve(threads)
        except BaseException as error:  # noqa: BLE001 - whatever ends this thread, nobody may wait for it for ever
            ended = str(error) if isinstance(error, EngineDead) else f"The device's thread ended: {error!r}"
            with self._lock:
                self._ended = ended
                for heard in self._asked:
                    if not heard.done():
                        heard.set_exception(EngineDead(ended))

    def _serve(self, threads: int | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        if self._on_cuda:
            torch.cuda.set_device(self._model.device)
        begun: deque[tuple[_Job, Begun]] = deque()
        with torch.inference_mode():
            open_ = True
            while open_ or begun:
                if open_ and len(begun) < self._depth and (not begun or not begun[0][1].labels.ready()):
                    open_ = self._take(begun)
                else:
                    self._finish(*begun.popleft())

    def _take(self, begun: deque[tuple[_Job, Begun]]) -> bool:
        """Begin the next batch if one comes in time; False: there will be none any more."""
        try:
            job = self._jobs.get(timeout=_POLL_S if begun else None)
        except Empty:
            return True
        if job is None:
            return False
        try:
            with device_errors():
                begun.append((job, self._model.begin(job.batch, self._upload(job.batch))))
        except Exception as error:  # noqa: BLE001 - it belongs to the caller whose batch it is
            self._fail(job, error)
        return True

    def _finish(self, job: _Job, begun: Begun) -> None:
        try:
            with device_errors():
                drafts = self._model.drafts(begun)
                plan = self._policy(job.batch, drafts)
                edited = self._model.edit(begun, plan.clips, plan.drafts) if len(plan.clips) else None
            job.heard.set_result(Heard(drafts, plan, edited))
        except Exception as error:  # noqa: BLE001 - it belongs to the caller whose batch it is
            self._fail(job, error)

    def _upload(self, batch: Batch) -> Uploaded:
        if self._copies is None:
            return self._model.upload(batch)
        compute = torch.cuda.current_stream()
        with torch.cuda.stream(self._copies):
            uploaded = self._model.upload(batch)
        compute.wait_stream(self._copies)
        for tensor in uploaded.tensors():
            tensor.record_stream(compute)  # else its memory could be given to the next upload too early
        return uploaded

    def _fail(self, job: _Job, error: Exception) -> None:
        """Hand an error to its caller, without the frames that it came through: they hold the tensors of the batch."""
        logger.debug("a batch failed", exc_info=error)
        link: BaseException | None = error
        while link is not None:
            link.__traceback__ = None
            link = link.__cause__ or link.__context__
        if isinstance(error, EngineOutOfMemory) and self._on_cuda:
            torch.cuda.empty_cache()
        job.heard.set_exception(error)


def edit_all(batch: Batch, drafts: Tokens) -> Plan:
    """The policy of the published model: every clip goes to the editor, with its own draft."""
    return Plan(np.arange(batch.clips), drafts.split())


@contextmanager
def device_errors() -> Iterator[None]:
    """Sort torch's errors: memory, which a smaller batch mends; a device that will not come back; the batch's own."""
    try:
        yield
    except MemoryError:
        raise EngineOutOfMemory() from None
    except RuntimeError as error:
        message = " ".join(str(error).split())[:300]
        if isinstance(error, torch.OutOfMemoryError) or any(words in message for words in _NO_MEMORY):
            raise EngineOutOfMemory(f"the batch did not fit in memory: {message}") from None
        if any(words in message for words in _NOT_HERE):
            raise EngineError("engine_error", f"The model failed: {message}") from error
        if isinstance(error, torch.AcceleratorError) or any(words in message for words in _DEVICE_GONE):
            raise EngineDead(f"The accelerator is gone: {message}") from None
        raise EngineError("engine_error", f"The model failed: {message}") from error
