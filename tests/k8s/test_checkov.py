"""What a scanner of other people's rules finds: nothing that is not explained in the manifests."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.command import ROOT
from tests.k8s.manifests import OVERLAYS, of_overlay

CHECKOV = shutil.which("checkov") or shutil.which("checkov", path=ROOT / ".venv-checkov" / "bin")


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    CHECKOV is None, reason="checkov is not installed: `.ci/run` puts it into a venv of its own"
)
def test_checkov_finds_nothing_that_is_not_explained(tmp_path: Path) -> None:
    files = [tmp_path / f"{overlay}.yaml" for overlay in OVERLAYS]
    for file in files:
        file.write_text(yaml.safe_dump_all(of_overlay(file.stem).documents))
    done = subprocess.run(
        [str(CHECKOV), "--framework", "kubernetes", "--skip-download", "--output", "json", "--file", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert found["summary"]["resource_count"] > 50
    assert [f"{it['check_id']} {it['resource']}" for it in found["results"]["failed_checks"]] == []
    skipped = {
        it["check_id"]: it["check_result"]["suppress_comment"] for it in found["results"]["skipped_checks"]
    }
    assert all(skipped.values()), skipped
