"""Every document against the schema of its kind, in which nothing is allowed that is not named."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.catalogue import check
from tests.k8s.manifests import Manifests

KUBERNETES = "1.33.0"
"""The oldest Kubernetes that the manifests are for, of those that GKE still has."""
KINDS = Path(__file__).parent / "kinds"
_CORE = f"kubernetes-json-schema/v{KUBERNETES}-local-strict"

jsonschema = pytest.importorskip(
    "jsonschema", reason="jsonschema comes with kubernetes-validate, of `.[dev]`"
)
utils = pytest.importorskip(
    "kubernetes_validate.utils", reason="`pip install kubernetes-validate` brings schemas"
)
referencing = pytest.importorskip("referencing")


@check
def every_document_fits_its_schema(it: Manifests) -> Iterator[str]:
    for document in it.documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        for error in validator(document["apiVersion"], document["kind"]).iter_errors(document):
            yield f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"


@cache
def validator(api_version: str, kind: str) -> Any:
    """What validates documents of a kind: Kubernetes' own, or one of ours.

    Raises:
        LookupError: there is no schema for it.
    """
    ours = KINDS / f"{kind}.yaml"
    if ours.exists():
        shared = {"$defs": yaml.safe_load((KINDS / "common.yaml").read_text())}
        return jsonschema.Draft202012Validator({**shared, **yaml.safe_load(ours.read_text())})
    group = api_version.replace(".k8s.io", "").replace("/", "-")
    try:
        schema = utils.schema_contents(f"{_CORE}/{kind.lower()}-{group}.json", KUBERNETES)
    except FileNotFoundError as error:
        raise LookupError(f"no schema for {api_version} {kind}") from error
    return jsonschema.Draft202012Validator(schema, registry=_definitions())


@cache
def _definitions() -> Any:
    content = utils.schema_contents(f"{_CORE}/_definitions.json", KUBERNETES)
    return referencing.Resource.from_contents(content) @ referencing.Registry()
