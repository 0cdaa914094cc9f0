"""Every overlay becomes documents that a cluster would take: each fits the schema of its kind, strictly."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from tests.command import ROOT
from tests.k8s.manifests import OVERLAYS, of_overlay, rendered
from tests.k8s.schemas import KINDS, every_document_fits_its_schema, validator
from tests.operations.document import manifests


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_document_of_an_overlay_fits_the_schema_of_its_kind(overlay: str) -> None:
    assert list(every_document_fits_its_schema(of_overlay(overlay))) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_document_of_an_overlay_is_there_twice(overlay: str) -> None:
    found = Counter((it["kind"], it["metadata"]["name"]) for it in of_overlay(overlay).documents)
    assert [name for name, count in found.items() if count > 1] == []


def test_an_overlay_is_in_the_list_of_those_that_are_tested() -> None:
    assert {path.name for path in (ROOT / "k8s/overlays").iterdir()} <= OVERLAYS.keys()


def test_every_component_is_part_of_an_overlay_that_is_tested() -> None:
    used = {
        component.rpartition("/")[2]
        for path in OVERLAYS.values()
        for component in yaml.safe_load((path / "kustomization.yaml").read_text()).get("components", ())
    }
    assert {path.name for path in (ROOT / "k8s/components").iterdir()} == used


@pytest.mark.parametrize("overlay", ["dev", "autoscale-keda"])
def test_without_config_connector_nothing_of_its_is_left_in_an_overlay(overlay: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    for file in (tmp_path / "k8s/overlays").glob("*/kustomization.yaml"):
        file.write_text(re.sub(r"^ *- \.\./\.\./cloud.*\n", "", file.read_text(), flags=re.MULTILINE))
    folder = tmp_path / "k8s/overlays" / overlay

    found = {it["kind"]: it["apiVersion"] for it in rendered(folder)}

    assert {"Deployment", "ScaledObject"} <= found.keys()
    assert [kind for kind, version in found.items() if "cnrm.cloud.google.com" in version] == []


@pytest.mark.parametrize(
    "kind", sorted(path.stem for path in KINDS.glob("[A-Z]*.yaml") if path.stem != "README")
)
def test_a_schema_of_ours_lets_no_unknown_name_pass(kind: str) -> None:
    """Wherever it stands: a misspelt field is ignored by a cluster, and nobody is told."""
    [document, *_] = [
        *of_overlay("everything").all(kind),
        *(one for one in manifests() if one["kind"] == kind),
    ]
    schema = validator(document["apiVersion"], kind)
    assert not list(schema.iter_errors(document))
    free = [
        path
        for path in _mappings(document, [])
        # Labels, annotations and the like are words of anybody's.
        if not {"labels", "annotations", "matchLabels"} & set(path)
        and schema.is_valid(_with_a_typo(document, path))
    ]
    assert free == []


def _mappings(value: object, path: list[str | int]) -> list[list[str | int]]:
    if isinstance(value, dict):
        return [path, *(found for key, item in value.items() for found in _mappings(item, [*path, key]))]
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in _mappings(item, [*path, i])]
    return []


def _with_a_typo(document: dict[str, object], path: list[str | int]) -> dict[str, object]:
    changed = deepcopy(document)
    inner = changed
    for key in path:
        inner = inner[key]  # type: ignore[index, assignment]
    inner["mispelt"] = 1
    return changed
