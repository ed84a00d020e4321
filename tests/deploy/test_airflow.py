"""deploy/airflow read by a real Airflow, where one is installed; it is far too heavy for our own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "airflow"

_READ = """
import sys
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:
    from airflow.models import DagBag
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
(dag,) = bag.dags.values()
assert {task.task_id: task.upstream_task_ids for task in dag.tasks} == {"create": set(), "finished": {"create"}}
assert dag.max_active_runs == 1 and not dag.catchup
"""


def test_the_dag_is_python_and_finds_its_job() -> None:
    text = (FOLDER / "quarry_backfill.py").read_text()
    compile(text, "quarry_backfill.py", "exec")
    assert 'Path(__file__).with_name("backfill-rayjob.yaml")' in text
    assert (FOLDER.parent / "kubernetes" / "backfill-rayjob.yaml").is_file()


@pytest.mark.slow
def test_airflow_reads_the_dag(tmp_path: Path) -> None:
    """QUARRY_AIRFLOW_PYTHON names a Python that has apache-airflow and its cncf.kubernetes provider."""
    python = os.environ.get("QUARRY_AIRFLOW_PYTHON") or (sys.executable if find_spec("airflow") else None)
    if python is None:
        pytest.skip("no Airflow here; set QUARRY_AIRFLOW_PYTHON to a Python that has one")
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}
    done = subprocess.run(
        [python, "-c", _READ, str(FOLDER)], env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr[-2000:]
