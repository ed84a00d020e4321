"""The pipeline in one file.

    plan        manifest rows → windows → shards of about 30 minutes of audio       (driver, pure; pipeline.plan)
    decode      shard → chunks of 16 kHz mono speech                                (CPU)
    transcribe  chunks → hypotheses, in batches packed across recordings            (accelerator)
    publish     hypotheses → transcript rows → one object per shard                 (object store)
    finalize    parts → tables and a snapshot                                       (driver; pipeline.store.snapshot)

A shard is the unit of scheduling, of retry and of commit: its object exists, complete, or does not exist.
Nothing here knows Ray: `runtime.ray_flow` places these steps on a cluster, `runtime.local_flow` runs them in a loop.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from pipeline.audio.reader import AudioReader
from pipeline.audio.window import clip, decode_window
from pipeline.config import RunConfig
from pipeline.engines.base import Engine
from pipeline.engines.requests import Wish
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.errors import TransientError
from pipeline.metrics.measures import code_label, language_label
from pipeline.records import (
    SAMPLE_RATE_HZ,
    Chunk,
    DecodedShard,
    DecodedWindow,
    Failure,
    Receipt,
    RunIdentity,
    Samples,
    Shard,
    TranscribedShard,
)
from pipeline.schema import transcripts_table
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import encode_part, publish_part
from pipeline.text.transcript import transcripts_of


def decode(shard: Shard, reader: AudioReader, config: RunConfig, max_chunk_s: float) -> DecodedShard:
    """Decode and cut every window of a shard; one that cannot be had becomes a Failure, never an exception."""
    windows: list[DecodedWindow] = []
    chunks: list[Chunk] = []
    pieces: list[Samples] = []
    offset = 0
    reader.announce(stretch for window in shard.windows if (stretch := clip(window)))
    for position, window in enumerate(shard.windows):
        try:
            decoded, samples, cuts = decode_window(reader, window, config.plan, config.chunk, max_chunk_s)
        except TransientError:
            raise  # the recording may be fine: the shard is left undone, and the same command tries it again
        except Exception as error:  # noqa: BLE001 - one recording, whatever is in it, must not hold up its shard
            windows.append(DecodedWindow(window.start_s, window.start_s, failure=Failure.of(error)))
            continue
        windows.append(decoded)
        for index, (start, stop, speech_s, channel) in enumerate(cuts):
            start_s, end_s = decoded.start_s + start / SAMPLE_RATE_HZ, decoded.start_s + stop / SAMPLE_RATE_HZ
            chunks.append(Chunk(position, index, start_s, end_s, offset, stop - start, speech_s, channel))
            pieces.append((samples if samples.ndim == 1 else samples[channel or 0])[start:stop])
            offset += stop - start
    pcm = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
    return DecodedShard(shard, tuple(windows), tuple(chunks), pcm)


def transcribe(
    shards: Sequence[DecodedShard], engine: Engine, config: RunConfig, memory: MemoryBudget
) -> list[TranscribedShard]:
    """Pack the chunks of several shards into batches and hand each result back to its shard, in order."""
    audio = [shard.chunk_audio(chunk) for shard in shards for chunk in shard.chunks]
    audio_s = sum(chunk.audio_s for chunk in audio)
    outcomes, stats = run_batches(engine, audio, config.batch, memory, Wish.of_config(config.engine))
    done: list[TranscribedShard] = []
    start = 0
    for shard in shards:
        stop = start + len(shard.chunks)
        part = sum(chunk.audio_s for chunk in shard.chunks) / audio_s if audio_s else 1.0
        done.append(
            TranscribedShard(shard.shard, shard.windows, shard.chunks, tuple(outcomes[start:stop]), stats.share(part))
        )
        start = stop
    return done


def publish(shard: TranscribedShard, store: ObjectStore, identity: RunIdentity, config: RunConfig) -> Receipt:
    """Stitch, judge, score, encode; put the shard's object if no one has."""
    asked = Wish.of_config(config.engine)
    rows = transcripts_of(shard, config.score, config.flags, config.engine.allowed_languages, asked)
    data = encode_part(transcripts_table(rows, identity, shard.shard.shard_id), shard.stats)
    won = publish_part(store, shard.shard.shard_id, data)
    count = {status: sum(row.status == status for row in rows) for status in ("ok", "partial", "failed")}
    languages: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        languages[language_label(row.language)] += row.duration_s
    return Receipt(
        shard_id=shard.shard.shard_id,
        outcome="won" if won else "exists",
        rows=len(rows),
        ok=count["ok"],
        partial=count["partial"],
        failed=count["failed"],
        audio_s=sum(row.duration_s for row in rows),
        decode_s=sum(row.decode_s for row in rows),
        engine_s=shard.stats.engine_s,
        wait_s=shard.stats.wait_s,
        padded_s=shard.stats.padded_s,
        draft_s=shard.stats.draft_s,
        engine_audio_s=shard.stats.audio_s,
        batches=shard.stats.batches,
        backoffs=shard.stats.backoffs,
        queued_s=shard.stats.queued_s,
        decoding=shard.decoding,
        languages=languages,
        failure_codes=Counter(code_label(row.failure.code) for row in rows if row.failure),
        replaced=shard.replaced,
    )
