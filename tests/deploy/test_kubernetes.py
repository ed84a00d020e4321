"""deploy/kubernetes against Kubernetes' own schemas, and against the fields that KubeRay 1.6 knows.

KubeRay's schema is on no package index; its field names are written out here from its Go types (ray-operator/apis/ray/v1).
"""

from __future__ import annotations

import copy
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "deploy" / "kubernetes"
VERSION = "1.34"

RAY_JOB_FIELDS = {
    *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector"),
    *("submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode"),
    *("entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"),
    *("shutdownAfterJobFinishes", "suspend"),
}
RAY_CLUSTER_FIELDS = {
    *("headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions"),
    *("headServiceAnnotations", "suspend", "gcsFaultToleranceOptions", "managedBy"),
}
HEAD_FIELDS = {"serviceType", "headService", "enableIngress", "rayStartParams", "template", "resources", "labels"}
WORKER_FIELDS = {
    *("groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "numOfHosts", "rayStartParams"),
    *("template", "scaleStrategy", "suspend", "resources", "labels"),
}
RAY_CRON_JOB_FIELDS = {"schedule", "timeZone", "suspend", "jobTemplate"}
MODES = {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}


def documents() -> list[tuple[str, dict[str, Any]]]:
    return [(path.name, one) for path in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]


def ray_job_specs() -> list[tuple[str, dict[str, Any]]]:
    specs = {"RayJob": lambda one: one["spec"], "RayCronJob": lambda one: one["spec"]["jobTemplate"]}
    return [(name, specs[one["kind"]](one)) for name, one in documents() if one["kind"] in specs]


def named(cases: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    return [pytest.param(case, id=f"{name}-{case.get('kind', 'spec')}") for name, case in cases]


def check_pod(template: dict[str, Any]) -> None:
    """A pod template by the strict schema of a Pod, which refuses unknown fields."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **copy.deepcopy(template)}
    kubernetes_validate.validate(pod, VERSION, strict=True)


@pytest.mark.parametrize("document", named([case for case in documents() if "ray.io/" not in case[1]["apiVersion"]]))
def test_kubernetes_own_kinds(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_schema_refuses_a_slip() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        check_pod({"spec": {"containers": [{"name": "x", "imagePullPolice": "Always"}]}})


@pytest.mark.parametrize("spec", named(ray_job_specs()))
def test_ray_jobs(spec: dict[str, Any]) -> None:
    assert set(spec) <= RAY_JOB_FIELDS
    assert spec["submissionMode"] in MODES
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    assert set(cluster) <= RAY_CLUSTER_FIELDS
    assert set(cluster["headGroupSpec"]) <= HEAD_FIELDS
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "Ray wants strings"
        check_pod(group["template"])
    for group in groups[1:]:
        assert set(group) <= WORKER_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_one_image_and_one_ray_version_everywhere() -> None:
    images, versions = (
        set(),
        {line.split(":")[1].split("-")[0] for line in _dockerfile() if line.startswith("ARG BASE=")},
    )
    for _, spec in ray_job_specs():
        cluster = spec["rayClusterSpec"]
        versions.add(cluster["rayVersion"])
        for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
            images.update(container["image"] for container in group["template"]["spec"]["containers"])
    assert len(images) == 1
    assert len(versions) == 1


def test_the_nightly_jobs_are_the_same_job() -> None:
    (cron,) = [one for name, one in documents() if name == "raycronjob.yaml"]
    (job,) = [one for name, one in documents() if name == "backfill-rayjob.yaml"]
    assert cron["spec"]["jobTemplate"] == job["spec"]
    assert set(cron["spec"]) <= RAY_CRON_JOB_FIELDS


@pytest.mark.parametrize("spec", named(ray_job_specs()))
def test_entrypoints_run_jobs_that_exist_with_settings_that_are_read(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words, with validate in the job's place: they end with the missing bucket, not with the settings."""
    words = shlex.split(spec["entrypoint"])
    assert words[0] == "python"
    assert words[-5:] == ["||", "test", "$?", "-eq", "1"]
    assert (REPO / words[1]).is_file()
    monkeypatch.chdir(REPO)
    workers = spec["rayClusterSpec"]["workerGroupSpecs"][0]
    gpus = workers["replicas"] * int(
        workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    )
    assert f"runtime.engine_workers={gpus}" in words, "an engine worker for every accelerator"
    from pipeline.config.file import load_config

    config = load_config(words[words.index("--config") + 1], [word for word in words[4:-5] if "=" in word])
    assert config.runtime.engine_gpus == 1


def test_the_cron_jobs_account_may_do_what_it_does_and_no_more() -> None:
    found = {one["kind"]: one for name, one in documents() if name == "cronjob.yaml"}
    assert found["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    pod = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert (
        pod["serviceAccountName"]
        == found["ServiceAccount"]["metadata"]["name"]
        == found["RoleBinding"]["subjects"][0]["name"]
    )
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert f"--from-file={Path(pod['containers'][0]['command'][-1]).name}=" in (FOLDER / "cronjob.yaml").read_text()


def _dockerfile() -> list[str]:
    return (REPO / "deploy" / "Dockerfile").read_text().splitlines()


def test_the_image_holds_extras_that_exist() -> None:
    import tomllib

    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (wanted,) = [line.removeprefix("ARG EXTRAS=") for line in _dockerfile() if line.startswith("ARG EXTRAS=")]
    assert set(wanted.split(",")) <= set(extras)
