"""`python -m tools.check_site` refuses the overlays as they are shipped, for each value that was left."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command import ROOT
from tests.k8s.manifests import OVERLAYS, of_overlay, rendered
from tools.check_site import NO_DIGEST, left_open

SHIPPED = ("dev", "prod", "spot", "autoscale-keda")
OURS = {
    "nursery-prod": "acme-plants",
    "nursery-dev": "acme-trials",
    "nursery.example": "acme.test",
    "100000000001": "314159265358",
    "100000000002": "271828182845",
    "REGION-docker.pkg.dev/PROJECT": "europe-west4-docker.pkg.dev/acme-plants",
    NO_DIGEST: "0123456789abcdef" * 4,
}
SITE: dict[str, str] = yaml.safe_load((ROOT / "k8s/overlays/prod/site.yaml").read_text())["data"]
KEYS = sorted(SITE.keys() - {"location"})
"""All but the one whose value may be anybody's."""


def filled(text: str) -> str:
    for example, ours in OURS.items():
        text = text.replace(example, ours)
    return text


def filled_in(tmp_path: Path, overlay: str, *, left: str) -> list[dict[str, Any]]:
    """An overlay that is filled in but for one file, or one key of site.yaml."""
    folder = shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    for file in [folder / "base/models.yaml", *folder.glob("overlays/*/*.yaml")]:
        if file.name == "site.yaml":
            site = yaml.safe_load(file.read_text())
            site["data"] = {
                key: value if key == left else filled(value) for key, value in site["data"].items()
            }
            file.write_text(yaml.safe_dump(site))
        elif file.name != left:
            file.write_text(filled(file.read_text()))
    return rendered(folder / "overlays" / overlay)


@pytest.mark.parametrize("overlay", SHIPPED)
def test_an_overlay_as_it_is_shipped_is_refused(overlay: str) -> None:
    assert {*SHIPPED, "everything"} == OVERLAYS.keys()
    assert list(left_open(of_overlay(overlay).documents))


@pytest.mark.parametrize("overlay", SHIPPED)
def test_an_overlay_that_is_filled_in_is_not(overlay: str, tmp_path: Path) -> None:
    assert list(left_open(filled_in(tmp_path, overlay, left=""))) == []


@pytest.mark.parametrize("key", KEYS)
def test_each_value_that_was_left_is_named(key: str, tmp_path: Path) -> None:
    found = list(left_open(filled_in(tmp_path, "autoscale-keda", left=key)))

    assert found
    assert [said for said in found if SITE[key] not in said] == []


@pytest.mark.parametrize(
    ("file", "where"),
    [("kustomization.yaml", "Deployment mlworker"), ("routes.yaml", "ConfigMap routes-")],
)
def test_each_file_that_was_left_is_named(file: str, where: str, tmp_path: Path) -> None:
    found = list(left_open(filled_in(tmp_path, "prod", left=file)))

    assert found
    assert [said for said in found if not said.startswith(where)] == []


def test_a_manifest_of_models_without_digests_is_named_unless_nobody_reads_it(tmp_path: Path) -> None:
    models = yaml.safe_load((ROOT / "k8s/base/models.yaml").read_text())["models"]
    found = list(left_open(filled_in(tmp_path / "prod", "prod", left="models.yaml")))

    assert len(found) == len(models)
    assert [said for said in found if "no sha256" not in said] == []
    assert list(left_open(filled_in(tmp_path / "dev", "dev", left="models.yaml"))) == []


@pytest.mark.parametrize(
    ("manifests", "code", "said"),
    [
        ("kind: ConfigMap\nmetadata: {name: a}\ndata: {BUCKET: nursery-prod-ledger}\n", 1, "data.BUCKET"),
        ("kind: ConfigMap\nmetadata: {name: a}\ndata: {BUCKET: acme-ledger}\n", 0, "nothing"),
        # What a pipe brings whose other end has failed.
        ("", 1, "no manifests"),
    ],
)
def test_its_exit_code_says_whether_to_go_on(manifests: str, code: int, said: str) -> None:
    command = [sys.executable, "-m", "tools.check_site"]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == code
    assert said in done.stdout + done.stderr
