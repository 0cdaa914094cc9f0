"""The documents of an overlay, as `kubectl` renders them, and ways to find something in them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.local.given_settings import GivenSettings
from consumer.settings import Settings
from tests.command import ROOT

Document = dict[str, Any]

OVERLAYS: Mapping[str, Path] = {
    **{name: ROOT / "k8s" / "overlays" / name for name in ("dev", "prod", "spot", "autoscale-keda")},
    "everything": Path(__file__).parent / "everything",
}
WORKER = "mlworker"
PLACEHOLDER = "set-by-site"
"""What the base has where an overlay's site.yaml must say something."""


@cache
def of_overlay(overlay: str) -> Manifests:
    """Render an overlay, once for all tests of a process; what is returned is theirs together."""
    return Manifests(rendered(OVERLAYS[overlay]))


def rendered(folder: Path) -> list[Document]:
    """What kubectl makes of a folder; skips the test where it is not installed."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: it renders the manifests, from 1.27 on")
    command = [kubectl, "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


class Absent(LookupError):
    """Something that ought to be in the manifests; the message says what."""


@dataclass(frozen=True)
class Manifests:
    """What one overlay sends to a cluster."""

    documents: list[Document]

    @classmethod
    def to_be_changed(cls, overlay: str) -> Manifests:
        """Return documents of one's own."""
        return cls(deepcopy(of_overlay(overlay).documents))

    def all(self, kind: str) -> list[Document]:
        """Every document of a kind."""
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, name: str) -> Document:
        """The document of a kind and name; of a ConfigMap also by its name without the hash."""
        for document in self.all(kind):
            found = document["metadata"]["name"]
            if found == name or (kind == "ConfigMap" and found.rpartition("-")[0] == name):
                return document
        raise Absent(f"there is no {kind} {name}")

    @property
    def deployment(self) -> Document:
        """The worker's."""
        return self.one("Deployment", WORKER)

    @property
    def template(self) -> Document:
        """Its pods'."""
        return self.deployment["spec"]["template"]

    @property
    def pod(self) -> Document:
        """What its pods are made of."""
        return self.template["spec"]

    @property
    def container(self) -> Document:
        """The one in which the worker runs."""
        return self.container_called(WORKER)

    @property
    def containers(self) -> list[Document]:
        """All of a pod, those that run first too."""
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    def container_called(self, name: str) -> Document:
        """One of a pod."""
        for container in self.containers:
            if container["name"] == name:
                return container
        raise Absent(f"there is no container {name}")

    @property
    def port(self) -> int:
        """What the name that probes and scrapes use for the worker's port stands for."""
        for port in self.container["ports"]:
            if port["name"] == "http":
                return int(port["containerPort"])
        raise Absent("the container has no port called http")

    @property
    def environment(self) -> dict[str, str]:
        """What the worker's process finds in its environment."""
        variables: dict[str, str] = {}
        for source in self.container.get("envFrom", []):
            variables |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        return variables | {it["name"]: it["value"] for it in self.container.get("env", [])}

    @cached_property
    def settings(self) -> Settings:
        """The same as settings, whatever the environment of the tests says.

        Raises:
            ValidationError: they cannot be used.
        """
        return GivenSettings.model_validate({name.lower(): value for name, value in self.environment.items()})

    @property
    def project(self) -> str:
        """Where Config Connector makes everything."""
        [namespace] = self.all("Namespace")
        return str(namespace["metadata"]["annotations"]["cnrm.cloud.google.com/project-id"])

    def file(self, path: str) -> str:
        """What the worker reads at a path, from a ConfigMap that is mounted there."""
        folder, _, name = path.rpartition("/")
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        for mount in self.container["volumeMounts"]:
            if mount["mountPath"] == folder and "configMap" in volumes[mount["name"]]:
                content = self.one("ConfigMap", volumes[mount["name"]]["configMap"]["name"])["data"]
                if name in content:
                    return str(content[name])
        raise Absent(f"no ConfigMap is mounted so that there is a file {path}")

    def grants(self, member: str) -> Iterator[tuple[str, str, str]]:
        """Yield each grant to a member: kind and name of the resource, and role.

        `member` is `account:NAME` for an IAMServiceAccount of ours, `identity:SERVICE` for one of Google's,
        else as IAM writes it.
        """
        for grant in (document["spec"] for document in self.all("IAMPolicyMember")):
            if self._member(grant) == member:
                resource = grant["resourceRef"]
                yield resource["kind"], resource.get("name") or resource["external"], grant["role"]

    def _member(self, grant: Document) -> str:
        if "member" in grant:
            return str(grant["member"])
        if "serviceAccountRef" in grant["memberFrom"]:
            return f"account:{grant['memberFrom']['serviceAccountRef']['name']}"
        identity = self.one("ServiceIdentity", grant["memberFrom"]["serviceIdentityRef"]["name"])
        return f"identity:{identity['spec'].get('resourceID') or identity['metadata']['name']}"


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a selector, of `matchLabels` only, takes these labels; an empty one says too little."""
    wanted = selector.get("matchLabels", {})
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())


def bytes_of(quantity: str) -> int:
    """Return how many bytes Kubernetes means."""
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    return int(quantity[:-2]) * units[quantity[-2:]] if quantity[-2:] in units else int(quantity)
