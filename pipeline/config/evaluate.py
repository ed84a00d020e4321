"""The section for evaluations: datasets with references, each transcribed by a run of its own and scored."""

from __future__ import annotations

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from pipeline.config.fields import Section, speed_field
from pipeline.config.sections import SourceConfig


class DatasetConfig(Section):
    """One dataset of an evaluation."""

    name: str = speed_field(
        ..., "its name in the tables and in file names", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,40}$"
    )
    manifest: str = speed_field(..., "path or uri of its manifest; rows have references")
    split: str | None = speed_field(None, "such as test; part of the name", pattern=r"^[A-Za-z0-9_.-]{1,20}$")
    language: str | None = speed_field(None, "for rows that name none, as engine.language")
    source: SourceConfig | None = speed_field(None, "how this manifest is read, as in `source`; null: as that")

    @property
    def title(self) -> str:
        """Name and split, as the run and the files are called."""
        return f"{self.name}_{self.split}" if self.split else self.name


class EvaluateConfig(Section):
    """What `quarry evaluate` scores (docs/evaluate.md)."""

    datasets: list[DatasetConfig] = speed_field([], "name, manifest, and where needed split, language, source")
    slices: list[str] = speed_field([], "columns to score by, beside language and length; pass-through columns too")

    @field_validator("datasets")
    @classmethod
    def _names_differ(cls, datasets: list[DatasetConfig]) -> list[DatasetConfig]:
        titles = [dataset.title for dataset in datasets]
        if len({title.lower() for title in titles}) < len(titles):
            raise PydanticCustomError("titles", "Datasets should differ in name or split")
        return datasets
