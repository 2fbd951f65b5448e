"""The manifests of docs/scale.md have the fields and kinds of their APIs, and fit the commands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer.main
import yaml

from weakclip.cli import app

PAGE = Path(__file__).parents[1] / "docs/scale.md"
CONTAINER = {
    "name": str,
    "image": str,
    "resources": {"limits": dict},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
    "subdomain": str,
    "restartPolicy": {"Never", "OnFailure"},
    "containers": [CONTAINER | {"command": [str]}],
    "volumes": list,
}
JOB = {
    "apiVersion": {"batch/v1"},
    "kind": {"Job"},
    "metadata": {"name": str},
    "spec": {
        "completionMode": {"Indexed", "NonIndexed"},
        "completions": int,
        "parallelism": int,
        "backoffLimit": int,
        "template": {"spec": POD},
    },
}
SERVICE = {
    "apiVersion": {"v1"},
    "kind": {"Service"},
    "metadata": {"name": str},
    "spec": {"clusterIP": {"None"}, "selector": dict},
}
"""From the reference of Kubernetes' API: batch/v1 Job, core/v1 Service and PodSpec, as far as the page uses them."""

RAY_POD = {"spec": {"containers": [CONTAINER], "volumes": list}}
RAY_JOB = {
    "apiVersion": {"ray.io/v1"},
    "kind": {"RayJob"},
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "shutdownAfterJobFinishes": bool,
        "rayClusterSpec": {
            "headGroupSpec": {"rayStartParams": dict, "template": RAY_POD},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": dict,
                    "template": RAY_POD,
                }
            ],
        },
    },
}
"""From the reference of KubeRay's API, ray.io/v1 RayJob: `rayStartParams` are options of `ray start` without dashes."""


def manifests() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def has_options(words: list[str]) -> bool:
    """Whether a command of this package, from its name on, has the options that it is given."""
    command: Any = typer.main.get_command(app)
    options = {option for parameter in command.commands[words[0]].params for option in parameter.opts}
    return {word for word in words if word.startswith("--")} <= options


def fits(value: Any, schema: Any) -> bool:
    """Whether a value has the kind, is among the words, or has exactly the fields of a schema."""
    if isinstance(schema, dict):
        return value.keys() == schema.keys() and all(fits(value[name], schema[name]) for name in schema)
    if isinstance(schema, list):
        return isinstance(value, list) and all(fits(each, schema[0]) for each in value)
    return value in schema if isinstance(schema, set) else isinstance(value, schema)


def test_the_manifest_of_a_job_is_one() -> None:
    service, job = yaml.safe_load_all(manifests()[0])
    assert fits(service, SERVICE) and fits(job, JOB)
    assert not fits(job | {"kind": "Pod"}, JOB) and not fits({**job, "metadata": {}}, JOB)
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["completions"] == spec["parallelism"], "torchrun waits for all nodes"
    assert service["spec"]["selector"] == {"job-name": name} and service["metadata"]["name"] == pod["subdomain"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    words = container["command"]
    assert f"--nnodes={spec['completions']}" in words and f"--master-addr={name}-0.{pod['subdomain']}" in words
    assert f"--nproc-per-node={container['resources']['limits']['nvidia.com/gpu']}" in words
    assert has_options(words[words.index("weakclip") + 1 :])


def test_the_manifest_of_a_ray_job_is_one() -> None:
    job = yaml.safe_load(manifests()[1])
    assert fits(job, RAY_JOB) and not fits({**job, "spec": {**job["spec"], "rayVersion": "2"}}, RAY_JOB)
    program, *words = job["spec"]["entrypoint"].split()
    assert program == "weakclip" and has_options(words) and words[-2:] == ["--engine", "ray"]
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
