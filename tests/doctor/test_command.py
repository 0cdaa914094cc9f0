"""`mlworker doctor` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.command import ROOT, bare_environment, mlworker
from tests.doctor.sites import BUCKET, PubSubWithPermissions
from tests.peers import make_gcs_bucket

KEYS = ["check", "severity", "subject", "found", "expected", "fix"]


@pytest.fixture
def environment(server: PubSubWithPermissions, fake_gcs: str) -> dict[str, str]:
    with suppress(HTTPError):  # another test made it
        make_gcs_bucket(fake_gcs, BUCKET)
    return {
        "GOOGLE_CLOUD_PROJECT": "nursery",
        "SUBSCRIPTION": "work",
        "REQUESTS_TOPIC": "requests",
        "RESULTS_TOPIC": "results",
        "DEAD_LETTER_TOPIC": "dead",
        "DEAD_LETTER_SUBSCRIPTION": "dead-letters",
        "BUCKET": BUCKET,
        "BACKEND_URL": "none",
        "PUBSUB_EMULATOR_HOST": server.address,
        "STORAGE_EMULATOR_HOST": fake_gcs,
    }


def findings(output: str) -> list[dict[str, Any]]:
    found = json.loads(output)
    assert isinstance(found, list)
    assert all(list(finding) == KEYS for finding in found)
    return found


def test_a_good_set_up_ends_with_0_without_loading_torch(environment: dict[str, str]) -> None:
    code = (
        "import sys\nfrom consumer.cli import app\n"
        "try:\n    app(['doctor', '--json'])\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=bare_environment(**environment),
        timeout=60,
    )

    bad = [f for f in findings(done.stdout) if f["severity"] in ("error", "warning")]
    assert (done.returncode, bad) == (0, [])
    loaded = set(done.stderr.split())
    assert "consumer.doctor.models" in loaded
    assert loaded & {"torch", "torchvision", "segment_anything"} == set()


def test_a_bad_one_ends_with_1_and_says_what_to_change_without_commanding_the_terminal(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (file := tmp_path / "routes.yaml").write_text(
        json.dumps(
            {"routes": [{"bucket": "b\u001b[2J[red]", "prefix": "{tenant_id}/", "pipeline": {"steps": []}}]}
        )
    )
    changed = {"DRAIN_TIMEOUT": "3600", "RESULTS_TOPIC": "nowhere", "ROUTES_FILE": str(file)}
    done = mlworker("doctor", **{**environment, **changed})

    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert {line.split()[1] for line in lines if line.startswith("error ")} == {
        "time.drain",
        "results.topic",
        "routes.access",
    }
    assert "error    results.topic  projects/nursery/topics/nowhere: does not exist" in lines
    assert "         fix       gcloud pubsub topics create projects/nursery/topics/nowhere" in lines
    assert lines[-1].startswith("3 errors, ")
    assert "\x1b[2J" not in done.stdout
    assert "[red]" in done.stdout
    assert "Traceback" not in done.stderr


def test_settings_that_cannot_be_read_end_with_2() -> None:
    done = mlworker("doctor", "--json", SUBSCRIPTION="work", SLOTS="0")

    assert done.returncode == 2
    assert done.stdout == ""
    assert "GOOGLE_CLOUD_PROJECT: required" in done.stderr.splitlines()
    assert "SLOTS: " in done.stderr


def test_offline_nothing_is_asked(environment: dict[str, str], server: PubSubWithPermissions) -> None:
    done = mlworker("doctor", "--offline", **environment)

    assert done.returncode == 0
    assert "checks that need the network were left out" in done.stdout
    assert server.rpcs == []


def test_a_peer_that_hangs_does_not_keep_the_command(
    environment: dict[str, str], server: PubSubWithPermissions
) -> None:
    server.fail("*", delay=float("inf"))

    done = mlworker("doctor", "--json", **environment)
    server.heal()

    assert done.returncode == 1
    assert {f["check"] for f in findings(done.stdout) if f["severity"] == "error"} == {"pubsub.reachable"}


def test_without_credentials_it_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    real = {**environment, "PUBSUB_EMULATOR_HOST": "", "STORAGE_EMULATOR_HOST": ""}
    missing = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "missing.json")}

    done = mlworker("doctor", "--json", **real, **missing)

    errors = {f["check"]: f["found"] for f in findings(done.stdout) if f["severity"] == "error"}
    assert done.returncode == 1
    assert set(errors) == {"pubsub.reachable", "bucket.readable"}
    assert all("no credentials" in found for found in errors.values())
