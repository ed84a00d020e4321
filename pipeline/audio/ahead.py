"""Clips read ahead of their turn, several to a message: while one is worked on, the next are fetched and decoded.

A message to the decoder, its answer and the changes of process cost half of what decoding a short FLAC costs; a group of clips
shares them. What a clip gets does not depend on its group: if the process ends over one of them, those of its group and behind
it are read alone, each with its own deadline, which tells whose doing it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple

from pipeline.audio import wav, wire
from pipeline.audio.fetch import Blob
from pipeline.audio.sandbox import Decoder, LostError
from pipeline.errors import AudioError
from pipeline.records import SAMPLE_RATE_HZ, SPLIT, Recording, Samples

_GROUP_SAMPLES = wire.HALF_BYTES // 2
_GROUP_BYTES = 16 * 2**20  # of objects held open for a group: remote ones lie in memory
_PATIENCE_S = (
    10.0  # a group takes less than a second; where one stands still, each is soon read alone, with all its time
)


class Stretch(NamedTuple):
    """What `AudioReader.read` is asked for. `likely_s`: how much audio may be expected of it."""

    recording: Recording
    start_s: float
    end_s: float | None
    expect: tuple[int | None, str | None]
    likely_s: float = 0.0

    def is_same(self, other: Stretch) -> bool:
        """Whether the other asks for the same."""
        return self[:4] == other[:4]


@dataclass(slots=True)
class Job:
    """A stretch with its object open, and what came of it where it was read ahead."""

    request: wire.Request
    blob: Blob
    planned: int | None  # samples
    deadline_s: float
    fetched_bytes: int
    layout: wav.Layout | None = None  # plain samples, which no decoder is needed for
    half: int | None = None  # of the area, where its samples are to come; None: the decoder does not have it
    found: tuple[Samples, dict[str, Any]] | AudioError | None = None
    is_owner: bool = False  # of the blob

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_owner:
            self.blob.close()

    def answer(self) -> tuple[Samples, dict[str, Any]] | None:
        """What came of it; None: it has to be read. Raises AudioError."""
        if isinstance(self.found, AudioError):
            raise self.found
        return self.found


class ReadAhead:
    """What was announced, in order: clips with the decoder, and those that still wait. Two groups are under way at most.

    `prepare`: opens the object of a stretch; raises AudioError.
    """

    def __init__(self, decoder: Decoder, prepare: Callable[[Stretch], Job]) -> None:
        self._decoder, self._prepare = decoder, prepare
        self._waiting: deque[Stretch] = deque()
        self._opened: deque[tuple[Stretch, Job | Exception]] = deque()
        self._with_decoder = [0, 0]  # clips by half of the area

    def announce(self, stretches: Iterable[Stretch]) -> None:
        """These come next; whatever was announced before is forgotten."""
        self._settle()
        for _, job in self._opened:
            if isinstance(job, Job):
                job.blob.close()
        self._opened.clear()
        self._with_decoder = [0, 0]
        self._waiting = deque(stretches)

    def claim(self, stretch: Stretch) -> Job | None:
        """The job of an announced stretch, answered where that was possible; None: it was not announced.

        Those announced before it are forgotten. Raises what opening the object raised.
        """
        if not any(stretch.is_same(other) for other in self._in_order()):
            self._settle()  # the decoder is wanted for something else
            return None
        while True:
            self._feed()
            other, job = self._opened.popleft()
            if isinstance(job, Job):
                self._collect(job)
            if stretch.is_same(other):
                break
            if isinstance(job, Job):
                job.blob.close()
        self._feed()
        if isinstance(job, Exception):
            raise job
        if job.found is None and job.layout is None:
            self._settle()  # the decoder is wanted for this one alone
        return job

    def _in_order(self) -> Iterator[Stretch]:
        yield from (stretch for stretch, _ in self._opened)
        yield from self._waiting

    def _feed(self) -> None:
        """Open what comes next, and keep the decoder busy."""
        while self._waiting and 0 in self._with_decoder and self._has_room():
            if self._decoder.has_served_enough:
                self._settle()
                self._decoder.close()
            self._submit(self._next_group(), half=self._with_decoder.index(0))

    def _has_room(self) -> bool:
        """Whether another group may be opened beside what is open."""
        held = [job.blob.size for _, job in self._opened if isinstance(job, Job) and job.blob.fd is not None]
        return len(self._opened) <= wire.MOST_IN_GROUP and sum(held) <= _GROUP_BYTES

    def _next_group(self) -> list[Job]:
        """Open as many as fit; those that cannot be opened, or not be handed over, stay out."""
        group: list[Job] = []
        most = len(self._opened) + wire.MOST_IN_GROUP
        samples = size = 0
        while self._waiting and len(self._opened) < most and size < _GROUP_BYTES:
            likely = round(self._waiting[0].likely_s * SAMPLE_RATE_HZ)
            if group and samples + likely > _GROUP_SAMPLES:
                break
            stretch = self._waiting.popleft()
            try:
                job = self._prepare(stretch)
                job.blob, job.is_owner = job.blob.shared(), True
            except Exception as error:  # noqa: BLE001  raised when its turn comes, to be judged where it belongs
                self._opened.append((stretch, error))
                continue
            self._opened.append((stretch, job))
            if job.blob.fd is None:
                continue
            size += job.blob.size
            if job.layout is None and job.request.channel != SPLIT:
                group.append(job)
                samples += likely
        return group

    def _submit(self, group: list[Job], half: int) -> None:
        if not group:
            return
        requests = [replace(job.request, size=job.blob.size, cpu_s=job.deadline_s) for job in group]
        try:
            self._decoder.submit(requests, [job.blob.fd for job in group if job.blob.fd is not None], half)
        except (LostError, AudioError):
            self._give_up()
            return
        self._with_decoder[half] = len(group)
        for job in group:
            job.half = half

    def _collect(self, job: Job) -> None:
        """Wait for the answer of the first clip that the decoder has."""
        if job.half is None:
            return
        limit = _GROUP_SAMPLES if job.planned is None else job.planned
        try:
            found = self._decoder.collect(limit, min(_PATIENCE_S, job.deadline_s))
        except LostError:
            job.half = None
            self._give_up()
            return
        self._with_decoder[job.half] -= 1
        job.half, job.found = None, found

    def _settle(self) -> None:
        """Collect whatever the decoder has."""
        for _, job in self._opened:
            if isinstance(job, Job):
                self._collect(job)

    def _give_up(self) -> None:
        """The decoder is gone: whatever it had is to be read alone."""
        self._with_decoder = [0, 0]
        for _, job in self._opened:
            if isinstance(job, Job):
                job.half = None
