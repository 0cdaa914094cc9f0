"""What k8s/README.md says is there, and its example does what it says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml

from tests.command import ROOT
from tests.k8s.catalogue import problems
from tests.k8s.checks_network import the_network_lets_the_worker_reach_what_it_needs
from tests.k8s.manifests import Manifests, rendered

PAGE = ROOT / "k8s" / "README.md"


def test_every_file_and_folder_it_names_exists() -> None:
    named = re.findall(
        r"`((?:base|cloud|monitoring|components|overlays|tests/k8s)/[^` ]*)`", PAGE.read_text()
    )
    assert len(named) > 10
    places = (ROOT / "k8s", ROOT)
    assert [path for path in named if not any((place / path).exists() for place in places)] == []


def test_a_backend_in_the_cluster_is_reached_with_the_patch_that_is_shown(tmp_path: Path) -> None:
    [example] = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    [url] = re.findall(r"`(http://backend[^`]*)`", PAGE.read_text())
    overlay = {
        "resources": [os.path.relpath(ROOT / "k8s/overlays/prod", tmp_path)],
        **yaml.safe_load(example),
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))

    manifests = Manifests(rendered(tmp_path))
    manifests.one("ConfigMap", "settings")["data"]["BACKEND_URL"] = url

    assert problems(the_network_lets_the_worker_reach_what_it_needs, manifests) == []
