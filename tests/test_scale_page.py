"""The manifest of docs/scale.md has the fields and kinds of Kubernetes' API, and fits the command in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer.main
import yaml

from weakclip.cli.app import app

PAGE = Path(__file__).parents[1] / "docs/scale.md"
POD = {
    "subdomain": str,
    "restartPolicy": {"Never", "OnFailure"},
    "containers": [
        {
            "name": str,
            "image": str,
            "command": [str],
            "resources": {"limits": dict},
            "volumeMounts": [{"name": str, "mountPath": str}],
        }
    ],
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


def fits(value: Any, schema: Any) -> bool:
    """Whether a value has the kind, is among the words, or has exactly the fields of a schema."""
    if isinstance(schema, dict):
        return value.keys() == schema.keys() and all(fits(value[name], schema[name]) for name in schema)
    if isinstance(schema, list):
        return isinstance(value, list) and all(fits(each, schema[0]) for each in value)
    return value in schema if isinstance(schema, set) else isinstance(value, schema)


def test_the_manifest_is_one() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    service, job = yaml.safe_load_all(block)
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
    command: Any = typer.main.get_command(app)
    rest = words[words.index("weakclip") + 1 :]
    options = {option for parameter in command.commands[rest[0]].params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= options
