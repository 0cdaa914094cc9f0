"""The peers that the conformance suites run against."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

EMULATOR = "PUBSUB_EMULATOR_BIN"
"""Names the emulator's start script where gcloud does not know of it."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def google_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Pub/Sub emulator of our own."""
    script = _emulator_script()
    if script is None:
        pytest.skip(
            f"Google's Pub/Sub emulator is not installed (gcloud does not know it, nor does {EMULATOR})"
        )
    if shutil.which("java") is None:
        pytest.skip("Google's Pub/Sub emulator needs Java")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("emulator") / "log"
    with log.open("wb") as output:
        # The script becomes the Java process, so that its id is the emulator's.
        emulator = subprocess.Popen(
            [str(script), "--host=127.0.0.1", f"--port={port}"],
            env={**os.environ, "JAVA_OPTS": "-Xmx256m -XX:+UseSerialGC"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_ready(f"127.0.0.1:{port}", emulator, log)
            yield f"127.0.0.1:{port}"
        finally:
            emulator.terminate()
            try:
                emulator.wait(timeout=10)
            except subprocess.TimeoutExpired:
                emulator.kill()
                emulator.wait(timeout=10)


def _emulator_script() -> Path | None:
    named = os.environ.get(EMULATOR)
    if named:
        return Path(named)
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return None
    command = [gcloud, "info", "--format=value(installation.sdk_root)"]
    root = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
    script = Path(root) / "platform/pubsub-emulator/bin/cloud-pubsub-emulator"
    return script if root and script.is_file() else None


def _wait_until_ready(address: str, emulator: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    with grpc.insecure_channel(address) as channel:
        ready = grpc.channel_ready_future(channel)
        while time.monotonic() < deadline:
            assert emulator.poll() is None, f"the emulator ended: {log.read_text()[-2000:]}"
            try:
                ready.result(timeout=0.2)
            except grpc.FutureTimeoutError:
                continue
            return
    pytest.fail("the emulator did not listen within 60 s")
