"""`pipeline.metrics.measures` as metrics of Ray: every node's agent has them for a Prometheus, as `ray_quarry_…`.

Ray adds the node and the worker to the labels, and counts start again in a worker that is new. Where Ray is installed without
what its agent needs (the extra `cluster`), the numbers are taken and nobody can ask for them.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from pipeline.metrics.measures import Measure

logger = logging.getLogger(__name__)


class RayRecorder:
    """Tells Ray. One for each worker process; safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: dict[str, Any] = {}

    def record(self, measure: Measure, value: float = 1.0, **labels: str) -> None:
        """As `Recorder` has it. What Ray does not take is noted in the worker's log and forgotten: numbers never end a run."""
        try:
            with self._lock:
                if measure.name not in self._metrics:
                    self._metrics[measure.name] = metric_of(measure)
                metric = self._metrics[measure.name]
            if measure.kind == "gauge":
                metric.set(value, labels)
            elif measure.kind == "histogram":
                metric.observe(value, labels)
            elif value > 0:
                metric.inc(value, labels)
        except Exception:
            logger.warning("the metric %s was not recorded", measure.name, exc_info=True)


def metric_of(measure: Measure) -> Any:
    """Ray's own object for a measure. Raises ValueError for a name or labels that Ray does not take."""
    from ray.util.metrics import Counter, Gauge, Histogram

    if measure.kind == "histogram":
        return Histogram(
            measure.name, description=measure.meaning, boundaries=list(measure.bounds), tag_keys=measure.labels
        )
    kind = Counter if measure.kind == "counter" else Gauge
    return kind(measure.name, description=measure.meaning, tag_keys=measure.labels)
