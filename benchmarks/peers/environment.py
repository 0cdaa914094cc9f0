"""The peers' own environment: about five gigabytes, most of them torch's."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PYTHON = FOLDER / "bin" / "python"
_DONE = FOLDER / ".requirements.txt"
"""What was installed: an environment of other requirements is not ready."""
_KEY_PACKAGES = ("celery", "kombu", "litserve", "sahi", "google-cloud-pubsub", "torch", "torchvision")


class NoPeers(RuntimeError):
    """The peers are not installed."""

    def __init__(self) -> None:
        super().__init__("the peers are not installed: run `make peers` (python -m benchmarks.peers)")


def is_ready() -> bool:
    """Tell whether everything is installed."""
    return PYTHON.exists() and _DONE.exists() and _DONE.read_text() == REQUIREMENTS.read_text()


def python() -> Path:
    """Return the environment's Python.

    Raises:
        NoPeers: it is not there, or was made for other versions.
    """
    if not is_ready():
        raise NoPeers
    return PYTHON


def make(base: str) -> None:
    """Install everything; what is there already is kept.

    Args:
        base: the Python the environment is made with.

    Raises:
        CalledProcessError: pip could not.
    """
    if not PYTHON.exists():
        subprocess.run([base, "-m", "venv", FOLDER], check=True)
    # It takes minutes of both cores: whatever else is done meanwhile goes first.
    pip = [
        "nice",
        "-n",
        "19",
        PYTHON,
        "-m",
        "pip",
        "install",
        "--requirement",
        REQUIREMENTS,
        "--editable",
        ROOT,
    ]
    subprocess.run(pip, check=True, cwd=ROOT)
    _DONE.write_text(REQUIREMENTS.read_text())


@cache
def versions() -> dict[str, str]:
    """Return the versions of what is installed there."""
    ask = (
        "import json, importlib.metadata as m;"
        f"print(json.dumps({{name: m.version(name) for name in {_KEY_PACKAGES!r}}}))"
    )
    told = subprocess.run([python(), "-c", ask], check=True, capture_output=True, timeout=60, env=os.environ)
    return dict(json.loads(told.stdout))
