"""What a run is told: one YAML file plus `a.b=c` overrides, checked before anything happens."""

from pipeline.config.afterwards import RetryConfig, SecondPassConfig
from pipeline.config.backfill import BackfillConfig
from pipeline.config.evaluate import DatasetConfig, EvaluateConfig
from pipeline.config.fields import Section, answer_field, speed_field, text_field
from pipeline.config.run_config import RunConfig
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

__all__ = [
    "BackfillConfig",
    "BatchConfig",
    "ChunkConfig",
    "CostConfig",
    "DatasetConfig",
    "DecodeConfig",
    "EngineConfig",
    "EvaluateConfig",
    "FlagsConfig",
    "PlanConfig",
    "RetryConfig",
    "RunConfig",
    "RuntimeConfig",
    "ScoreConfig",
    "SecondPassConfig",
    "Section",
    "SourceConfig",
    "StoreConfig",
    "answer_field",
    "speed_field",
    "text_field",
]
