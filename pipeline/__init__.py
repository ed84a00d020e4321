"""Quarry: transcribe very large audio archives on Ray Data.

The public names load on first use, so that `import pipeline` costs milliseconds and pulls in neither Ray nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Recording": "pipeline.records",
    "Transcript": "pipeline.records",
    "RunConfig": "pipeline.config",
    "load_config": "pipeline.config.file",
    "QuarryError": "pipeline.errors",
    "ExportOptions": "pipeline.export.options",
    "find_run": "pipeline.finished",
    "read_run": "pipeline.reading",
    "read_runs": "pipeline.catalogue",
}

__all__ = [
    "ExportOptions",
    "QuarryError",
    "Recording",
    "RunConfig",
    "Transcript",
    "find_run",
    "load_config",
    "read_run",
    "read_runs",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
