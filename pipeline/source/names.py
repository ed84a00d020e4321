"""Names that settings use for manifests: their formats and the fields of their rows. Imports nothing of Quarry."""

from __future__ import annotations

from typing import Literal

ManifestFormat = Literal[
    "auto",
    "jsonl",
    "csv",
    "tsv",
    "parquet",
    "lhotse",
    "shar",
    "webdataset",
    "kaldi",
    "audiofolder",
    "listing",
]
ManifestField = Literal[
    "id", "uri", "offset", "duration", "language", "task", "target_language", "keywords", "text", "channel", "speakers"
]
