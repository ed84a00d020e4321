"""A nightly backfill from Airflow (2.9 or newer, and 3): creates the RayJob of backfill-rayjob.yaml and waits for its end.

There is no maintained Ray provider for Airflow 3, so this goes through apache-airflow-providers-cncf-kubernetes.
Change: RAY_JOB (where the YAML lies beside this file), NAMESPACE, CONNECTION, the schedule. The connection's account needs
"create" and "get" on rayjobs.ray.io. A task that Airflow tries again creates a new RayJob, which goes on where the last one
stopped; two at once do no harm, for `quarry backfill` holds a run lock.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import yaml
from airflow.exceptions import AirflowFailException
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

try:
    from airflow.sdk import PokeReturnValue, dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task
    from airflow.sensors.base import PokeReturnValue

RAY_JOB = Path(__file__).with_name("backfill-rayjob.yaml")
NAMESPACE = "default"
CONNECTION = "kubernetes_default"
KIND = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}


@dag(
    schedule="17 1 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,  # a backfill looks for itself what is missing
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
    tags=["quarry"],
)
def quarry_backfill() -> None:
    """Create the job, wait for it."""

    @task
    def create() -> str:
        body = yaml.safe_load(RAY_JOB.read_text())
        created = KubernetesHook(conn_id=CONNECTION).create_custom_object(**KIND, body=body, namespace=NAMESPACE)
        return str(created["metadata"]["name"])

    @task.sensor(poke_interval=60, timeout=24 * 3600, mode="reschedule")
    def finished(name: str) -> PokeReturnValue:
        found = KubernetesHook(conn_id=CONNECTION).get_custom_object(**KIND, name=name, namespace=NAMESPACE)
        status = found.get("status", {})
        if status.get("jobDeploymentStatus") == "Failed":
            raise AirflowFailException(f"RayJob {name} failed: {status.get('message') or status.get('reason')}")
        return PokeReturnValue(is_done=status.get("jobDeploymentStatus") == "Complete")

    finished(create())


quarry_backfill()
