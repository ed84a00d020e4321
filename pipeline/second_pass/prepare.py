"""From a config to a second pass that can start: everything is checked before anything is written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.errors import DriftError, RunError
from pipeline.prepare import open_ledger, run_id, run_uri
from pipeline.second_pass.answers import ANSWERS_VERSION, PassIdentity
from pipeline.second_pass.book import Book, TextPlan
from pipeline.second_pass.checkpoint import LanguageModel, read_language_model
from pipeline.second_pass.plan import plan_texts
from pipeline.second_pass.prompts import Wording
from pipeline.second_pass.texts import stream_places
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import Snapshot, latest_snapshot

_DIGITS = 12


@dataclass(frozen=True, slots=True)
class SecondPass:
    """A second pass with its plan. `new_texts` is the plan part that this call would add; None when nothing is to be added."""

    config: RunConfig
    model: LanguageModel
    identity: PassIdentity
    source_store: ObjectStore  # rooted at the run
    source: Snapshot
    book: Book
    plans: tuple[TextPlan, ...]
    new_texts: pa.Table | None

    @property
    def uri(self) -> str:
        """The pass's folder."""
        return pass_uri(self.config)


def pass_fingerprint(config: RunConfig) -> str:
    """12 hex digits of the settings that change answers."""
    canonical = json.dumps(config.second_pass.answer_settings(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGITS]


def pass_uri(config: RunConfig) -> str:
    """The folder of the pass inside the run's."""
    name = config.second_pass.name or config.second_pass.task
    return f"{run_uri(config)}/second_pass/{name}-{pass_fingerprint(config)}"


def prepare_pass(config: RunConfig) -> SecondPass:
    """Check everything and work out what the plan lacks. Writes nothing. Raises RunError."""
    wording = Wording.of(config.second_pass)
    _, model = read_language_model(config.second_pass)
    run_store = open_ledger(config).store
    source = latest_snapshot(run_store)
    if source is None:
        raise RunError(
            f"There are no finished transcripts at {run_uri(config)}; `quarry run` with the same settings makes them."
        )
    book = Book(ObjectStore.open(pass_uri(config), config.store))
    plans = tuple(book.plans())
    identity = PassIdentity(
        run_id(config),
        config.second_pass.task,
        _template_digest(wording, model),
        model.model,
        model.revision,
        pass_fingerprint(config),
    )
    if plans:
        _check_same_pass(plans[0], identity, pass_uri(config))
    new_texts = None
    if source.tables not in {plan.source_tables for plan in plans}:
        known = {key for _, _, texts in book.planned() for key in _keys(texts)}
        shards = len({shard for _, _, texts in book.planned() for shard in texts["shard_id"].unique().to_pylist()})
        places = (
            place
            for place in stream_places(run_store, source)
            if not known or _key(place.recording_id, place.digest) not in known
        )
        section = config.second_pass
        new_texts = plan_texts(places, shards, section.shard_recordings, section.shard_chars)
    return SecondPass(config, model, identity, run_store, source, book, plans, new_texts)


def write_text_plan(found: SecondPass) -> SecondPass:
    """Write the plan part that is new, if one is. Raises DriftError, StoreError."""
    if found.new_texts is None:
        return found
    found.book.store.check_writable()
    plan = found.book.add_plan(
        len(found.plans),
        found.new_texts,
        {
            "source_snapshot": found.source.number,
            "source_tables": found.source.tables,
            "fingerprint": found.identity.fingerprint,
            "schema_version": ANSWERS_VERSION,
            "template_digest": found.identity.template_digest,
            "model_revision": found.identity.model_revision,
            "settings": found.config.second_pass.answer_settings(),
        },
    )
    return replace(found, plans=(*found.plans, plan), new_texts=None)


def _template_digest(wording: Wording, model: LanguageModel) -> str:
    words = json.dumps([asdict(wording), model.markup], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:_DIGITS]


def _check_same_pass(first: TextPlan, identity: PassIdentity, uri: str) -> None:
    for what, theirs, ours in (
        ("schema version", first.schema_version, ANSWERS_VERSION),
        ("revision of the model", first.model_revision, identity.model_revision),
        ("wording of the prompt", first.template_digest, identity.template_digest),
    ):
        if theirs != ours:
            raise DriftError(
                f"The second pass at {uri} was begun with {what} {theirs}, which is now {ours}; "
                "give it another second_pass.name, or restore what has changed."
            )


def _keys(texts: pa.Table) -> list[bytes]:
    pairs = zip(texts["recording_id"].to_pylist(), texts["digest"].to_pylist(), strict=True)
    return [_key(recording_id, digest) for recording_id, digest in pairs]


def _key(recording_id: str, digest: str) -> bytes:
    """16 bytes for a recording with its text: a set of them is what a newer state of the run is compared with."""
    return hashlib.blake2b(f"{digest}:{recording_id}".encode(), digest_size=16).digest()
