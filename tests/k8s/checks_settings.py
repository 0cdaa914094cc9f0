"""The environment: every variable is one the worker reads, and none that it needs is missing."""

from __future__ import annotations

from collections.abc import Iterator

import yaml
from pydantic import ValidationError

from consumer.models.manifest import InvalidManifest, parse_manifest
from consumer.settings import Settings
from tests.k8s.catalogue import check
from tests.k8s.manifests import PLACEHOLDER, Document, Manifests

_PROJECT_RESOURCES = "projects/"
_BY_NAME = "kubernetes.io/metadata.name"
"""A label that every namespace has."""
_READ_BY_OPENTELEMETRY = {"OTEL_RESOURCE_ATTRIBUTES"}
_NAME_SERVERS = {"kube-dns", "node-local-dns"}
"""Pods that a cluster's name service may be; with Dataplane V2 a policy counts which of them answers."""
_ALWAYS_NEEDED = {
    "name servers": {(53, "UDP"), (53, "TCP")},
    "the metadata server": {(80, "TCP"), (8080, "TCP"), (987, "TCP"), (988, "TCP")},
}


@check
def the_settings_can_be_used(it: Manifests) -> Iterator[str]:
    """With every variable that is required, and each of them right."""
    try:
        assert it.settings
    except ValidationError as wrong:
        for error in wrong.errors(include_url=False):
            yield f"{'.'.join(map(str, error['loc'])).upper()}: {error['msg']}"


@check
def every_variable_is_one_that_the_worker_reads(it: Manifests) -> Iterator[str]:
    """A name typed wrong would leave the default in force, and nobody would know."""
    known = {name.upper() for name in Settings.model_fields} | _READ_BY_OPENTELEMETRY
    yield from sorted(f"{name}: no such setting" for name in it.environment.keys() - known)


@check
def nothing_that_a_site_has_to_say_is_left_open(it: Manifests) -> Iterator[str]:
    for document in it.documents:
        if PLACEHOLDER in yaml.safe_dump(document):
            yield f"{document['kind']} {document['metadata']['name']} has a value {PLACEHOLDER}"


@check
def the_project_is_the_same_everywhere(it: Manifests) -> Iterator[str]:
    project = it.project
    if it.settings.google_cloud_project != project:
        yield f"GOOGLE_CLOUD_PROJECT={it.settings.google_cloud_project}; Config Connector is in {project}"
    attributes = dict(
        one.split("=", 1) for one in it.environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",") if one
    )
    if it.settings.otel_exporter_otlp_endpoint and attributes.get("gcp.project_id") != project:
        yield f"traces are of {attributes.get('gcp.project_id')}"
    for identity in it.all("ServiceIdentity"):
        if identity["spec"]["projectRef"]["external"] != project:
            yield f"ServiceIdentity {identity['metadata']['name']} is of another project"
    for scaler in it.all("ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            if f"/v1/projects/{project}/" not in trigger["metadata"]["serverAddress"]:
                yield f"trigger {trigger['name']} asks {trigger['metadata']['serverAddress']}"
    for grant in it.all("IAMPolicyMember"):
        external = grant["spec"]["resourceRef"].get("external", _PROJECT_RESOURCES + project)
        if external != _PROJECT_RESOURCES + project:
            yield f"IAMPolicyMember {grant['metadata']['name']} is on {external}"


@check
def the_manifest_of_models_can_be_used(it: Manifests) -> Iterator[str]:
    try:
        parse_manifest(it.one("ConfigMap", "models")["data"]["models.yaml"].encode(), base="/models")
    except InvalidManifest as wrong:
        yield str(wrong)


@check
def the_network_lets_the_worker_reach_what_it_needs(it: Manifests) -> Iterator[str]:
    """Google's APIs, the backend, the metadata server, name servers, and the collector of traces if any."""
    egress = it.one("NetworkPolicy", "mlworker")["spec"]["egress"]
    to_internet = {
        port["port"]
        for rule in egress
        for peer in rule["to"]
        if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
        for port in rule["ports"]
    }
    ports = {(port["port"], port["protocol"]) for rule in egress for port in rule["ports"]}
    if 443 not in to_internet:
        yield "Google's APIs are out of reach: no egress to the internet at 443"
    backend = it.settings.backend_url
    if backend != "none" and (backend.port, "TCP") not in ports:
        yield f"BACKEND_URL: no egress to port {backend.port}"
    collector = it.settings.otel_exporter_otlp_endpoint
    if collector and (collector.port, "TCP") not in ports:
        yield f"OTEL_EXPORTER_OTLP_ENDPOINT: no egress to port {collector.port}"
    within = {None, *_namespaces(egress)}
    for url in (backend, collector):
        if url and url != "none" and _namespace_of(url.host or "") not in within:
            yield f"{url}: no egress to its namespace"
    for what, needed in _ALWAYS_NEEDED.items():
        yield from (f"{what}: no egress to port {port}" for port, protocol in needed - ports)
    for name in sorted(_NAME_SERVERS - _pods(egress, "kube-system", 53)):
        yield f"name servers: no egress to the pods {name}"


@check
def the_network_keeps_the_worker_from_private_addresses(it: Manifests) -> Iterator[str]:
    for rule in it.one("NetworkPolicy", "mlworker")["spec"]["egress"]:
        for peer in rule["to"]:
            block = peer.get("ipBlock", {})
            if block.get("cidr") == "0.0.0.0/0":
                private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
                yield from (
                    f"{cidr} can be reached" for cidr in sorted(private - set(block.get("except", ())))
                )


def _namespace_of(host: str) -> str | None:
    """Return the namespace that a Service's name speaks of; None where it is no Service's."""
    _, dot, namespace = host.removesuffix(".svc.cluster.local").partition(".")
    return namespace if dot and host.endswith(".svc.cluster.local") else None


def _namespaces(egress: list[Document]) -> set[str]:
    """Every namespace that is named by its own name."""
    selectors = [peer.get("namespaceSelector", {}) for rule in egress for peer in rule["to"]]
    return {it["matchLabels"][_BY_NAME] for it in selectors if _BY_NAME in it.get("matchLabels", {})}


def _pods(egress: list[Document], namespace: str, port: int) -> set[str]:
    """The `k8s-app` of pods in a namespace that are reached at a port."""
    found: set[str] = set()
    for rule in egress:
        if {(port, "UDP"), (port, "TCP")} <= {(one["port"], one["protocol"]) for one in rule["ports"]}:
            for peer in rule["to"]:
                if _namespaces([{"to": [peer]}]) == {namespace}:
                    selector = peer["podSelector"]
                    found |= {selector.get("matchLabels", {}).get("k8s-app", "")}
                    for wanted in selector.get("matchExpressions", ()):
                        if (wanted["key"], wanted["operator"]) == ("k8s-app", "In"):
                            found |= set(wanted["values"])
    return found
