"""What the manifests say of the worker's pod: read from an overlay as `kubectl kustomize` renders it."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.command import ROOT
from tests.k8s.manifests import Document, of_overlay
from tests.operations.dockerfile import command

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed: it renders the overlays"
)


@dataclass(frozen=True)
class Pod:
    """How a pod is started, asked, replaced and ended."""

    command: list[str]
    """The manifest's, or what the image runs where that says nothing."""
    environment: dict[str, str]
    files: dict[str, str]
    """What ConfigMaps put into the pod: contents by path."""
    grace: float
    """Seconds from SIGTERM to SIGKILL."""
    readiness: str
    """Path of the probe."""
    start: float
    """Seconds that a start may take, by the startup probe."""
    replicas: int
    surge: int
    """How many more than `replicas` there may be during a rollout."""
    unavailable: int
    """How many fewer of them may be ready."""


def rendered(overlay: str) -> tuple[Document, ...]:
    """The documents of an overlay."""
    return tuple(of_overlay(overlay).documents)


def pod_of(documents: tuple[Document, ...]) -> Pod:
    """The worker's pod."""
    [deployment] = [one for one in documents if one["kind"] == "Deployment"]
    maps = {one["metadata"]["name"]: one["data"] for one in documents if one["kind"] == "ConfigMap"}
    spec = deployment["spec"]["template"]["spec"]
    [container] = spec["containers"]
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        environment |= maps[source["configMapRef"]["name"]]
    for variable in container.get("env", []):
        # What only a cluster knows (the pod's own name) has its own name here.
        environment[variable["name"]] = variable.get("value", variable["name"].lower())
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files = {
        f"{mounted[volume['name']]}/{name}": content
        for volume in spec["volumes"]
        if "configMap" in volume and volume["name"] in mounted
        for name, content in maps[volume["configMap"]["name"]].items()
    }
    assert "preStop" not in container.get("lifecycle", {}), "what is done before SIGTERM is not rehearsed"
    startup = container["startupProbe"]
    replicas = deployment["spec"].get("replicas", 1)
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    said = [*container.get("command", []), *container.get("args", [])]
    return Pod(
        command=said or command(),
        environment=environment,
        files=files,
        grace=float(spec["terminationGracePeriodSeconds"]),
        readiness=container["readinessProbe"]["httpGet"]["path"],
        start=float(startup["periodSeconds"] * startup["failureThreshold"]),
        replicas=replicas,
        surge=_counted(rolling["maxSurge"], replicas, math.ceil),
        unavailable=_counted(rolling["maxUnavailable"], replicas, math.floor),
    )


def cloud(kind: str) -> list[Document]:
    """What Config Connector makes, of one kind."""
    files = sorted((ROOT / "k8s/cloud").glob("*.yaml"))
    found = [one for file in files for one in yaml.safe_load_all(file.read_text()) if one]
    return [one for one in found if one.get("kind") == kind]


def _counted(said: int | str, replicas: int, rounded: Any) -> int:
    """A number of pods that is given as such, or as a share."""
    return int(rounded(float(said.rstrip("%")) / 100 * replicas)) if isinstance(said, str) else said
