"""The `mlworker` command as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).parent / "mlworker"
ROOT = Path(__file__).parent.parent

_OURS = ("GOOGLE_", "PUBSUB_", "STORAGE_", "CALLBACK_", "BACKEND_", "REQUESTS_", "RESULTS_", "DEAD_LETTER_")
_ALSO_OURS = ("SUBSCRIPTION", "BUCKET", "ROUTES_FILE", "PRESETS_FILE", "MODEL_PATH", "PORT", "COLUMNS")


def bare_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what configures a worker or a terminal, and with `variables`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and name not in (*_ALSO_OURS, "FORCE_COLOR", "NO_COLOR")
    }
    return kept | variables


def mlworker(
    *arguments: str | Path, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command, and return what became of it."""
    done = subprocess.run(
        [COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        env=bare_environment(**variables),
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
