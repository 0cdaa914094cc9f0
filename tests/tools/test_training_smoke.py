"""The training command runs from end to end; whether it learns is for its report to say."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]


def test_a_smoke_run_writes_weights_that_match_the_manifest_and_a_report(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "tools/train_demo_models.py",
        "--smoke",
        "--only",
        "plants",
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    (entry,) = yaml.safe_load((tmp_path / "models.yaml").read_text())["models"]
    weights = tmp_path / entry["weights"]
    assert entry["name"] == "plants"
    assert entry["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "ap50" in json.loads((tmp_path / "report.json").read_text())["plants"]["wild_tiles_320"]
