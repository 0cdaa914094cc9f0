"""`mlworker run`, `demo` and `local` with what they cannot use: what they say, and their exit codes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from consumer.settings import Settings
from tests.command import mlworker

GOOD = {
    "GOOGLE_CLOUD_PROJECT": "nursery",
    "SUBSCRIPTION": "work",
    "RESULTS_TOPIC": "results",
    "DEAD_LETTER_TOPIC": "dead-letters",
    "BUCKET": "photos",
    "BACKEND_URL": "https://backend.example",
    "PUBSUB_EMULATOR_HOST": "127.0.0.1:1",
    "STORAGE_EMULATOR_HOST": "http://127.0.0.1:1",
    "DEVICES": "cpu",
    "PORT": "0",
}


def test_run_names_every_variable_that_is_missing() -> None:
    done = mlworker("run")

    required = [name.upper() for name, info in Settings.model_fields.items() if info.is_required()]
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"{name}: required" for name in required]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"SLOTS": "0", "LEDGER": "maybe"}, ["SLOTS: ", "LEDGER: "]),
        ({"BACKEND_URL": "backend"}, ["BACKEND_URL: "]),
        ({"BACKEND_URL": "http://169.254.169.254/"}, ["BACKEND_URL: ", "never allowed"]),
        (
            {"BACKEND_URL": "http://localhost:8080", "PUBSUB_EMULATOR_HOST": ""},
            ["BACKEND_URL: ", "never allowed"],
        ),
        ({"CALLBACK_ALLOWED_HOSTS": "ftp://backend"}, ["CALLBACK_ALLOWED_HOSTS: ", "'ftp://backend'"]),
        ({"CALLBACK_AUTH": "hmac"}, ["CALLBACK_HMAC_KEY_FILE: required"]),
        (
            {"CALLBACK_AUTH": "hmac", "CALLBACK_HMAC_KEY_FILE": "/missing"},
            ["CALLBACK_HMAC_KEY_FILE: ", "/missing"],
        ),
        ({"ROUTES_FILE": "/missing"}, ["/missing"]),
        ({"PRESETS_FILE": "/missing"}, ["/missing"]),
        ({"MODEL_PATH": "/missing"}, ["/missing/models.yaml"]),
    ],
)
def test_run_says_what_is_wrong_with_its_environment(changed: dict[str, str], words: list[str]) -> None:
    done = mlworker("run", **{**GOOD, **changed})

    assert done.returncode == 2
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["demo", "local"])
@pytest.mark.parametrize(
    ("manifest", "said"),
    [(None, "models.yaml cannot be used"), ("models: []\n", "no model is named 'plants'")],
)
def test_ones_own_models_are_looked_at_before_anything_starts(
    tmp_path: Path, command: str, manifest: str | None, said: str
) -> None:
    if manifest is not None:
        (tmp_path / "models.yaml").write_text(manifest)
    free = ("--port", "0", "--backend-port", "0", "--inbox", str(tmp_path / "inbox"))
    options = free if command == "local" else ("--out", str(tmp_path / "out"))

    done = mlworker(command, "--model-path", str(tmp_path), *options)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_run_without_credentials_fails_and_says_so(tmp_path: Path) -> None:
    missing = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "missing.json")}
    done = mlworker("run", **{**GOOD, "PUBSUB_EMULATOR_HOST": "", "STORAGE_EMULATOR_HOST": "", **missing})

    assert done.returncode == 1
    assert '"severity":"CRITICAL","message":"start_failed"' in done.stderr
    assert "no credentials for Cloud Storage" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_on_a_port_that_is_taken_fails_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: []\n")
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        done = mlworker("run", **{**GOOD, "PORT": str(port), "MODEL_PATH": str(tmp_path)})

    assert done.returncode == 1
    assert f"cannot listen on 0.0.0.0:{port}" in done.stderr
    assert "Traceback" not in done.stderr
