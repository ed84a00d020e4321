"""A run's settings as one record, and the fingerprint of those that can change a transcript."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel, field_validator

from pipeline.config.afterwards import RetryConfig, SecondPassConfig
from pipeline.config.backfill import BackfillConfig
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.fields import LATER, TEXT, Section, marked, speed_field
from pipeline.config.sections import (
    BatchConfig,
    ChunkConfig,
    CostConfig,
    DecodeConfig,
    EngineConfig,
    FlagsConfig,
    PlanConfig,
    RuntimeConfig,
    ScoreConfig,
    SourceConfig,
    StoreConfig,
)

_PUBLIC_OPTIONS = ("endpoint_url", "anon", "profile", "region_name")
_USER_INFO = re.compile(r"://[^/@\s]*@")
# One slash too few, or no bucket: it would be taken for a folder on the local disk.
_NO_PLACE = re.compile(r"(s3a?|gs|gcs|abfss?|az):/(/*$|[^/])")


class RunConfig(Section):
    """Everything a run is told. docs/architecture.md says how the parts hang together."""

    manifest: str = speed_field(..., "path or uri of the manifest")
    output: str = speed_field(..., "folder or uri that receives runs")
    name: str | None = speed_field(
        None, "front part of the run id; null: the manifest's file name", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"
    )
    source: SourceConfig = SourceConfig()
    store: StoreConfig = StoreConfig()
    plan: PlanConfig = PlanConfig()
    decode: DecodeConfig = DecodeConfig()
    chunk: ChunkConfig = ChunkConfig()
    batch: BatchConfig = BatchConfig()
    engine: EngineConfig = EngineConfig()
    flags: FlagsConfig = FlagsConfig()
    score: ScoreConfig = ScoreConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    cost: CostConfig = CostConfig()
    second_pass: SecondPassConfig = SecondPassConfig()
    retry: RetryConfig = RetryConfig()
    backfill: BackfillConfig = BackfillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @field_validator("manifest", "output")
    @classmethod
    def _names_a_bucket(cls, value: str) -> str:
        if _NO_PLACE.match(value):
            raise ValueError("an address without a bucket; write it as in s3://BUCKET/FOLDER")
        return value

    def public(self) -> dict[str, Any]:
        """All settings, with what may be secret left out: what is printed and stored."""
        found = self.model_dump()
        sections = [found[name] for name in ("source", "store", "engine", "second_pass")]
        others = [found["retry"]["engine"], *(dataset["source"] for dataset in found["evaluate"]["datasets"])]
        for section in [*sections, *filter(None, others)]:
            options = section["storage_options"]
            section["storage_options"] = {key: options[key] if key in _PUBLIC_OPTIONS else "…" for key in options}
        told: dict[str, Any] = _without_users(found)
        return told

    def text_settings(self) -> dict[str, Any]:
        """The settings that can change a transcript, as a nested dict."""
        return _text_settings(self)

    def fingerprint(self) -> str:
        """12 hex digits of the text-changing settings."""
        canonical = json.dumps(self.text_settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def without_user(text: str) -> str:
    """The text, and of every address in it neither user name nor password."""
    return _USER_INFO.sub("://…@", text)


def _without_users(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _without_users(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_without_users(value) for value in found]
    return without_user(found) if isinstance(found, str) else found


def _text_settings(section: BaseModel) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel) and info.json_schema_extra is None:  # not one that is marked as a whole
            inner = _text_settings(value)
            if inner:
                found[name] = inner
        elif marked(info, TEXT) and not (marked(info, LATER) and value == info.get_default(call_default_factory=True)):
            found[name] = value
    return found
