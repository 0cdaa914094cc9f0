"""The environment: every variable is one the worker reads, and none that it needs is missing."""

from __future__ import annotations

from collections.abc import Iterator

import yaml
from pydantic import ValidationError

from consumer.models.manifest import InvalidManifest, parse_manifest
from consumer.settings import Settings
from tests.k8s.catalogue import check
from tests.k8s.manifests import PLACEHOLDER, Manifests

_PROJECT_RESOURCES = "projects/"
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
    known = {name.upper() for name in Settings.model_fields}
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
    for what, needed in _ALWAYS_NEEDED.items():
        yield from (f"{what}: no egress to port {port}" for port, protocol in needed - ports)


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
