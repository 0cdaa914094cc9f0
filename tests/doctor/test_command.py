"""`mlworker doctor` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT, bare_environment, mlworker
from tests.doctor.sites import BUCKET, PubSubWithPermissions
from tests.peers import make_gcs_bucket

KEYS = ["check", "severity", "subject", "found", "expected", "fix"]


@pytest.fixture
def environment(server: PubSubWithPermissions, fake_gcs: str) -> dict[str, str]:
    make_gcs_bucket_once(fake_gcs)
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


def make_gcs_bucket_once(server: str) -> None:
    try:
        make_gcs_bucket(server, BUCKET)
    except OSError as error:
        assert "409" in str(error)  # noqa: PT017 (another test made it)


def findings(output: str) -> list[dict[str, Any]]:
    found = json.loads(output)
    assert isinstance(found, list)
    assert all(list(finding) == KEYS for finding in found)
    return found


def test_a_good_set_up_ends_with_0(environment: dict[str, str]) -> None:
    done = mlworker("doctor", "--json", **environment)

    bad = [f for f in findings(done.stdout) if f["severity"] in ("error", "warning")]
    assert (done.returncode, bad, done.stderr) == (0, [], "")


def test_a_bad_one_ends_with_1_and_says_what_to_change(
    environment: dict[str, str], server: PubSubWithPermissions
) -> None:
    changed = {**environment, "DRAIN_TIMEOUT": "3600", "RESULTS_TOPIC": "nowhere"}
    as_json = mlworker("doctor", "--json", **changed)
    as_text = mlworker("doctor", **changed)

    assert {f["check"] for f in findings(as_json.stdout) if f["severity"] == "error"} == {
        "time.drain",
        "results.topic",
    }
    assert (as_json.returncode, as_text.returncode) == (1, 1)
    lines = as_text.stdout.splitlines()
    assert "error    results.topic  projects/nursery/topics/nowhere: does not exist" in lines
    assert "         fix       gcloud pubsub topics create projects/nursery/topics/nowhere" in lines
    assert lines[-1].startswith("2 errors, ")
    assert "Traceback" not in as_text.stderr


def test_settings_that_cannot_be_read_end_with_2() -> None:
    for options in ([], ["--json"], ["--offline"]):
        done = mlworker("doctor", *options, SUBSCRIPTION="work", SLOTS="0")

        assert done.returncode == 2
        assert done.stdout == ""
        assert "GOOGLE_CLOUD_PROJECT: required" in done.stderr.splitlines()
        assert "SLOTS: " in done.stderr


def test_offline_nothing_is_asked(environment: dict[str, str], server: PubSubWithPermissions) -> None:
    done = mlworker("doctor", "--offline", **environment)

    assert done.returncode == 0
    assert "checks that need the network were left out" in done.stdout
    assert server.rpcs == []


def test_what_a_server_says_cannot_command_the_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    routes = tmp_path / "routes.yaml"
    routes.write_text(
        json.dumps(
            {"routes": [{"bucket": "b\u001b[2J[red]", "prefix": "{tenant_id}/", "pipeline": {"steps": []}}]}
        )
    )

    done = mlworker("doctor", "--offline", **{**environment, "ROUTES_FILE": str(routes)})

    assert done.returncode == 1
    assert "\x1b[2J" not in done.stdout
    assert "[red]" in done.stdout


def test_it_does_not_load_torch(environment: dict[str, str]) -> None:
    code = (
        "import sys\nfrom consumer.cli import app\n"
        "try:\n    app(['doctor'])\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=bare_environment(**environment),
        timeout=60,
    )
    loaded = set(done.stdout.rpartition("MODULES")[2].split())

    assert "consumer.doctor.models" in loaded
    assert loaded & {"torch", "torchvision", "segment_anything"} == set()


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
