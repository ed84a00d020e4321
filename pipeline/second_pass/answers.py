"""What the second pass says of each recording: the record, and the one schema of its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.records import Failure
from pipeline.schema import FAILURE_FIELDS, column
from pipeline.second_pass.texts import SourceText
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import Part, table_of

ANSWERS_VERSION = 1
STATUSES = ("ok", "rejected", "failed", "skipped")

ANSWERS = pa.schema(
    [
        column("recording_id", pa.string(), "id in the run's transcripts"),
        column(
            "status", pa.string(), "ok | rejected: no correction, the transcript stands | failed | skipped: no text"
        ),
        column("failure", pa.struct(FAILURE_FIELDS), "why it failed; null otherwise"),
        column("task", pa.string(), "summary | question | correction"),
        column("template_digest", pa.string(), "of all the words that the model is told beside the transcript"),
        column("text", pa.string(), "the answer; of a rejected correction the transcript; empty where there is none"),
        column("parts", pa.int32(), "parts that the transcript was cut into; 1: asked as a whole"),
        column("parts_rejected", pa.int32(), "parts of a correction where the transcript stands"),
        column("chars", pa.int64(), "length of the transcript"),
        column("chars_read", pa.int64(), "of these, how many the model has read"),
        column("n_prompt_tokens", pa.int64(), "tokens of all prompts about the recording"),
        column("n_tokens", pa.int64(), "tokens that the model wrote for it"),
        column("stop_reason", pa.string(), "eos | length: token budget used up | loop: cut where it repeats itself"),
        column("warnings", pa.list_(pa.string()), "what was cut, rejected or missing"),
        column("language", pa.string(), "language of the transcript"),
        column("transcript_status", pa.string(), "status of the transcript"),
        column("text_digest", pa.string(), "of the transcript and its language"),
        column("model", pa.string(), "model name or path"),
        column("model_revision", pa.string(), "revision or hash of the weights"),
        column("fingerprint", pa.string(), "of the settings that change answers"),
        column("source_snapshot", pa.int32(), "snapshot of the run that the transcript was read from"),
        column("run_id", pa.string(), "the run that made the transcript"),
        column("shard_id", pa.string(), "the shard that held it"),
        column("schema_version", pa.int32(), "version of this schema"),
    ],
    metadata={"schema_version": str(ANSWERS_VERSION)},
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one transcript."""

    status: Literal["ok", "rejected", "failed", "skipped"]
    text: str = ""
    failure: Failure | None = None
    parts: int = 0
    parts_rejected: int = 0
    chars_read: int = 0
    n_prompt_tokens: int = 0
    n_tokens: int = 0
    stop_reason: str = ""
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class PassIdentity:
    """What every row says about the pass that made it."""

    run_id: str
    task: str
    template_digest: str
    model: str
    model_revision: str
    fingerprint: str


def answers_table(
    rows: Sequence[tuple[SourceText, str, Answer]], identity: PassIdentity, shard_id: str, source_snapshot: int
) -> pa.Table:
    """Texts with their digests and answers as a table of ANSWERS."""
    found = [
        {
            **asdict(answer),
            **asdict(identity),
            "recording_id": text.recording_id,
            "chars": len(text.text),
            "language": text.language,
            "transcript_status": text.status,
            "text_digest": digest,
            "source_snapshot": source_snapshot,
            "shard_id": shard_id,
            "schema_version": ANSWERS_VERSION,
        }
        for text, digest, answer in rows
    ]
    return pa.Table.from_pylist(found, schema=ANSWERS)


def encode_answers(rows: pa.Table) -> bytes:
    """Parquet bytes of a shard's rows. Raises ValueError when they do not read back as so many distinct recordings."""
    buffer = BytesIO()
    pq.write_table(rows, buffer, compression="zstd", write_page_checksum=True)
    data = buffer.getvalue()
    back = table_of(data, columns=["recording_id"])["recording_id"].to_pylist()
    if not len(back) == rows.num_rows == len(set(back)):
        raise ValueError(f"a part of {rows.num_rows} answers reads back as {len(back)}, {len(set(back))} distinct")
    return data


def read_answers(store: ObjectStore, part: Part) -> pa.Table:
    """A part's rows. Raises StoreError when it is unreadable or of another schema version."""
    try:
        table = table_of(store.get(part.key))
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"The part {part.key} cannot be read ({str(error)[:120]}); delete it and run again to make it anew."
        ) from None
    version: Any = (table.schema.metadata or {}).get(b"schema_version", b"?").decode()
    if version != str(ANSWERS_VERSION):
        raise StoreError(
            f"The part {part.key} has schema version {version}, this Quarry writes {ANSWERS_VERSION}; "
            "finish the pass with the version that began it, or give it another name."
        )
    return table.select(ANSWERS.names)
