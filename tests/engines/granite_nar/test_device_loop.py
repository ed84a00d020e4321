"""The thread that owns the device: many callers get what one gets, an error reaches its caller alone, nobody waits for ever."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import Transcribed, babble, one_thread, random_model, random_weights
from models import finish as finish_alone

from pipeline.engines.granite_nar.collapse import Tokens
from pipeline.engines.granite_nar.device import DeviceLoop, Heard, Plan, Policy, edit_all
from pipeline.engines.granite_nar.model import Batch, Begun, DraftLabels, Edited, Model, Uploaded
from pipeline.engines.granite_nar.packing import Ints
from pipeline.engines.granite_nar.random_checkpoint import TINY
from pipeline.errors import EngineDead, EngineError, EngineOutOfMemory

PATIENCE_S = 60.0  # nothing here takes long: who waits so long waits for ever
CULPRIT_CLIPS = 3  # a batch of so many clips is the one that fails


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model(random_weights(seed=1))


def batches(model: Model, count: int, seed: int = 0) -> list[Batch]:
    """Of random sizes: one clip to eight, without a single frame to 1.5 s."""
    source = np.random.default_rng(seed)
    return [
        model.pack([babble(int(n)) for n in source.integers(0, 24_000, source.integers(1, 9))]) for _ in range(count)
    ]


def batch_of(model: Model, clips: int) -> Batch:
    return model.pack([babble(4_000 + 700 * clip) for clip in range(clips)])


def alone(model: Model, batch: Batch) -> list[Transcribed]:
    """In one pass, without a loop."""
    with torch.inference_mode():
        return finish_alone(model, model.begin(batch, model.upload(batch)))


def through(model: Model, loop: DeviceLoop, batch: Batch) -> list[Transcribed]:
    heard = loop.hear(batch)
    assert heard.edited is not None
    final = model.tokens(heard.edited)
    columns = (heard.drafts.split(), heard.drafts.split_probabilities(), final.split(), final.split_probabilities())
    return [Transcribed(*row) for row in zip(*columns, strict=True)]


def assert_same(found: list[Transcribed], wanted: list[Transcribed]) -> None:
    """To the last bit: the loop changes nothing about a pass."""
    assert len(found) == len(wanted)
    for here, there in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(here.draft, there.draft)
        np.testing.assert_array_equal(here.final, there.final)
        np.testing.assert_array_equal(here.draft_probabilities, there.draft_probabilities)
        np.testing.assert_array_equal(here.final_probabilities, there.final_probabilities)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1e-3)


def ask(loop: DeviceLoop, batch: Batch, callers: int) -> list[Future[Heard]]:
    """So many threads with a batch each, all of them waiting in the loop."""
    threads = ThreadPoolExecutor(callers)
    asked = [threads.submit(loop.hear, batch) for _ in range(callers)]
    threads.shutdown(wait=False)
    wait_for(lambda: len(loop._asked) == callers or any(one.done() for one in asked))
    return asked


def test_many_callers_get_what_one_gets(model: Model) -> None:
    asked = batches(model, 40)
    wanted = [alone(model, batch) for batch in asked]
    assert len({tuple(clip.final) for found in wanted for clip in found}) > 50
    for callers in (1, 2, 4):
        with closing(DeviceLoop(model, edit_all, threads=1)) as loop, ThreadPoolExecutor(callers) as threads:
            found = list(threads.map(lambda batch, to=loop: through(model, to, batch), asked, timeout=PATIENCE_S))
        for here, there in zip(found, wanted, strict=True):
            assert_same(here, there)


class LateEvent:
    """As the event of an accelerator that is still at work: the labels of a batch take a few milliseconds to come."""

    def __init__(self, error: Exception | None) -> None:
        self._due = time.monotonic() + 0.01
        self._error = error

    def query(self) -> bool:
        if self._error is not None:
            raise self._error
        return time.monotonic() >= self._due

    def synchronize(self) -> None:
        time.sleep(max(0.0, self._due - time.monotonic()))


class LateModel(Model):
    """A model whose labels come late, with a note of what was queued when."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(random_weights(seed=1), TINY, DraftLabels(TINY.blank_id, 0), backend="sdpa")
        self.queued: list[tuple[str, int]] = []
        self._error = error

    def begin(self, batch: Batch, uploaded: Uploaded) -> Begun:
        self.queued.append(("begin", id(batch)))
        begun = super().begin(batch, uploaded)
        return begun._replace(labels=begun.labels._replace(event=LateEvent(self._error)))

    def edit(self, begun: Begun, clips: Ints, drafts: list[Ints]) -> Edited:  # type: ignore[override]
        self.queued.append(("edit", id(begun.batch)))
        return super().edit(begun, clips, drafts)


def as_on_an_accelerator(model: Model) -> DeviceLoop:
    loop = DeviceLoop(model, edit_all, threads=1)
    loop._depth = 2
    return loop


def test_the_next_batch_begins_while_a_draft_travels(model: Model) -> None:
    late = LateModel()
    asked = batches(late, 16, seed=5)
    with closing(as_on_an_accelerator(late)) as loop, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda batch: through(late, loop, batch), asked, timeout=PATIENCE_S))
    on_the_device = np.cumsum([1 if step == "begin" else -1 for step, _ in late.queued])
    begun, edited = ([batch for name, batch in late.queued if name == step] for step in ("begin", "edit"))
    assert begun == edited, "first come, first served"
    assert len(begun) == len(asked)
    assert on_the_device.max() == 2
    assert on_the_device[-1] == on_the_device.min() == 0
    for here, batch in zip(found, asked, strict=True):
        assert_same(here, alone(model, batch))


def test_close_finishes_what_is_on_the_device() -> None:
    late = LateModel()
    loop = as_on_an_accelerator(late)
    asked = ask(loop, batch_of(late, 2), callers=3)
    wait_for(lambda: len(late.queued) >= 2)
    loop.close()
    assert [one.result(PATIENCE_S).drafts.counts.tolist() for one in asked] == [
        asked[0].result().drafts.counts.tolist()
    ] * 3


def refuse(_: Batch) -> None:
    raise EngineError("engine_error", "not this one")


def ask_torch_for_too_much(_: Batch) -> None:
    torch.empty(2**60, dtype=torch.uint8)


def ask_numpy_for_too_much(_: Batch) -> None:
    np.empty(2**60, np.uint8)


def add_what_does_not_fit(batch: Batch) -> None:
    torch.zeros(batch.clips) + torch.zeros(batch.clips + 2)


def look_up_nothing(_: Batch) -> None:
    {}["nothing"]


def policy_of(fault: Callable[[Batch], None]) -> Policy:
    def choose(batch: Batch, drafts: Tokens) -> Plan:
        if batch.clips == CULPRIT_CLIPS:
            fault(batch)
        return edit_all(batch, drafts)

    return choose


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (refuse, EngineError, "^not this one$"),
        (
            ask_torch_for_too_much,
            EngineOutOfMemory,
            "did not fit in memory: .* you tried to allocate 1152921504606846976",
        ),
        (ask_numpy_for_too_much, EngineOutOfMemory, "did not fit in memory"),
        (add_what_does_not_fit, EngineError, r"^The model failed: The size of tensor a \(3\) must match"),
        (look_up_nothing, KeyError, "nothing"),
    ],
)
def test_an_error_reaches_its_caller_alone(
    model: Model, fault: Callable[[Batch], None], kind: type[Exception], says: str
) -> None:
    asked = [batch_of(model, clips) for clips in (1, 3, 2, 3, 4, 5, 3, 2)]
    with closing(DeviceLoop(model, policy_of(fault), threads=1)) as loop, ThreadPoolExecutor(4) as threads:
        found = [threads.submit(through, model, loop, batch) for batch in asked]
        for batch, one in zip(asked, found, strict=True):
            if batch.clips == CULPRIT_CLIPS:
                with pytest.raises(kind, match=says) as caught:
                    one.result(PATIENCE_S)
                assert type(caught.value) is kind
            else:
                assert_same(one.result(PATIENCE_S), alone(model, batch))


def test_an_error_in_the_first_half_reaches_its_caller_alone(model: Model) -> None:
    whole = batch_of(model, 2)
    cut = replace(whole, samples=whole.samples[:100])
    with closing(DeviceLoop(model, edit_all, threads=1)) as loop:
        for _ in range(2):
            with pytest.raises(EngineError, match=r"^The model failed: "):
                loop.hear(cut)
            assert_same(through(model, loop, whole), alone(model, whole))


@pytest.mark.parametrize("fault", [ask_torch_for_too_much, add_what_does_not_fit, look_up_nothing])
def test_a_failed_batch_leaves_no_tensor_behind(model: Model, fault: Callable[[Batch], None]) -> None:
    """Not even until the garbage is collected: the batch that is tried next, at half the size, needs the room."""
    held: list[weakref.ref[torch.Tensor]] = []

    def choose(batch: Batch, drafts: Tokens) -> Plan:
        logits = torch.zeros(1000)
        held.append(weakref.ref(logits))
        fault(batch)
        return edit_all(batch, drafts)

    def attempt(loop: DeviceLoop) -> None:
        batch = batch_of(model, 3)
        held.append(weakref.ref(batch.samples))
        with suppress(EngineError, KeyError):
            loop.hear(batch)

    gc.disable()
    try:
        with closing(DeviceLoop(model, choose, threads=1)) as loop:
            attempt(loop)
            wait_for(lambda: [one() for one in held] == [None, None])
    finally:
        gc.enable()


class Gate:
    """A policy that lets nobody through until it is open."""

    def __init__(self, then: Callable[[Batch], None] = lambda batch: None) -> None:
        self.opened = threading.Event()
        self.reached = threading.Event()
        self._then = then

    def __call__(self, batch: Batch, drafts: Tokens) -> Plan:
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)
        self._then(batch)
        return edit_all(batch, drafts)


def test_close_finishes_what_is_queued_and_takes_no_more(model: Model) -> None:
    gate, batch = Gate(), batch_of(model, 2)
    loop = DeviceLoop(model, gate, threads=1)
    asked = ask(loop, batch, callers=3)
    assert gate.reached.wait(PATIENCE_S)
    closer = threading.Thread(target=loop.close)
    closer.start()
    wait_for(lambda: loop._ended is not None)
    with pytest.raises(EngineDead, match="The engine is closed; load it again"):
        loop.hear(batch)
    assert not any(one.done() for one in asked)
    gate.opened.set()
    wanted = alone(model, batch)
    for one in asked:
        np.testing.assert_array_equal(
            one.result(PATIENCE_S).drafts.ids, np.concatenate([clip.draft for clip in wanted])
        )
    closer.join(PATIENCE_S)
    assert not closer.is_alive()
    assert not loop._thread.is_alive()


def test_after_close_there_is_an_error_and_no_wait(model: Model) -> None:
    loop = DeviceLoop(model, edit_all, threads=1)
    loop.hear(batch_of(model, 1))
    loop.close()
    loop.close()
    with pytest.raises(EngineDead, match="closed"):
        loop.hear(batch_of(model, 1))


def test_a_close_amid_many_callers_leaves_nobody_waiting(model: Model) -> None:
    batch = batch_of(model, 1)
    wanted = alone(model, batch)
    for served in range(8):
        loop = DeviceLoop(model, edit_all, threads=1)
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(through, model, loop, batch) for _ in range(12)]
            wait_for(lambda: sum(one.done() for one in asked) >= served)  # noqa: B023 - the loop waits for it
            loop.close()
            for one in asked:
                try:
                    assert_same(one.result(PATIENCE_S), wanted)
                except EngineDead as error:
                    assert "closed" in str(error)  # noqa: PT017 - either is right


def end_the_thread(_: Batch) -> None:
    raise SystemExit("the thread ends")


def test_nobody_waits_for_a_thread_that_has_died(model: Model) -> None:
    gate, batch = Gate(end_the_thread), batch_of(model, 1)
    loop = DeviceLoop(model, gate, threads=1)
    asked = ask(loop, batch, callers=3)
    gate.opened.set()
    for one in asked:
        with pytest.raises(EngineDead, match="device's thread ended: SystemExit"):
            one.result(PATIENCE_S)
    with pytest.raises(EngineDead, match="device's thread ended: SystemExit"):
        loop.hear(batch)
    loop.close()
    with pytest.raises(EngineDead, match="device's thread ended: SystemExit"):
        loop.hear(batch)


def test_a_device_that_is_gone_is_told_to_all_callers(model: Model) -> None:
    """The events of a CUDA device raise what an earlier kernel did to it, outside any batch."""
    broken = LateModel(RuntimeError("CUDA error: an illegal memory access was encountered"))
    loop = as_on_an_accelerator(broken)
    for one in ask(loop, batch_of(model, 2), callers=3):
        with pytest.raises(EngineDead, match="The accelerator is gone: CUDA error: an illegal memory access"):
            one.result(PATIENCE_S)
    loop.close()


AT_WORK = """
import atexit, threading, time
from models import *
from pipeline.engines.granite_nar.device import DeviceLoop, edit_all

model = random_model(random_weights())
batch = model.pack([babble(16_000)] * 8)
heard, errors = [], []

def ask():
    try:
        while True:
            heard.append(loop.hear(batch))
    except Exception as error:
        errors.append(type(error).__name__)

def tell():
    caller.join(60)
    print(errors, flush=True)

caller = threading.Thread(target=ask, daemon=True)
atexit.register(tell)
loop = DeviceLoop(model, edit_all, threads=1)
caller.start()
while len(heard) < 3:
    time.sleep(0.001)
"""


def test_a_process_may_end_while_its_device_works() -> None:
    """Python ends a daemon thread where it stands; inside torch's C++ that would abort the process."""
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-c", AT_WORK],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parents[3]), str(here.parent)])},
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "['EngineDead']"), done.stderr
