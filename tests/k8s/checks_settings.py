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
_READ_BY_OPENTELEMETRY = {
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
}
"""docs/telemetry.md speaks of them."""


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
def callbacks_say_who_they_are_from(it: Manifests) -> Iterator[str]:
    if it.settings.backend_url != "none" and it.settings.callback_auth == "none":
        yield "CALLBACK_AUTH=none: anybody could call the backend in the worker's name"


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
